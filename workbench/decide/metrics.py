"""How good are the answers? Figures for one set of images, per class and overall, with intervals.

Works on finished scores and thresholds; chooses nothing. What is undefined is None, never NaN.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd

from workbench.decide import outcomes
from workbench.decide.calibration import Bins, calibration_error
from workbench.decide.curves import average_precision, average_precisions, roc_auc, roc_aucs
from workbench.decide.intervals import (
    Ends,
    count_cells,
    image_weights,
    interval,
    interval_ends,
    or_none,
)
from workbench.decide.levels import (
    CELLS,
    LEVELS,
    check_names,
    check_scores,
    counts_from_cells,
    mean_defined,
    ratio,
)
from workbench.decide.outcomes import Answers, Task

PAIRS_WRITTEN = 50


@dataclass(frozen=True)
class Figures:
    """Name → value: scalars and [C] as measured, [R] and [R, C] as resampled. NaN: undefined."""

    overall: dict[str, np.ndarray]
    per_class: dict[str, np.ndarray]


def measure(answers: Answers) -> Figures:
    """Compute every figure on the images as they are."""
    counts = outcomes.count_outcomes(answers.cells)
    per_class = outcomes.class_figures(counts)
    known = answers.y_true, answers.y_score, answers.mask
    per_class["average_precision"] = _by_class(average_precision, *known)
    per_class["roc_auc"] = _by_class(roc_auc, *known)
    means = {name: mean_defined(values, 0) for name, values in answers.per_image.items()}
    error = calibration_error(*answers.to_calibrate)
    means["calibration_error"] = np.nan if error is None else error
    return Figures(_overall(counts, per_class, means), per_class)


def resample(answers: Answers, measured: Figures, replicates: int, seed: int) -> Figures:
    """Compute every figure on resampled images.

    Average precision and ROC area of scores finer than 256 steps, and calibration error, which
    noise can only raise, are moved so that they lie around the measured values.
    """
    ranks, bins = rank_cells(answers), Bins.of(*answers.to_calibrate, pooled=True)
    columns, names = _columns(answers.per_image)
    blocks = []
    rng = np.random.default_rng(seed)
    for weights in image_weights(len(ranks), replicates, rng, ranks.shape[1]):
        means = _means(weights.T @ columns, names)
        means["calibration_error"] = bins.errors(weights)[:, 0]
        counts = count_cells(answers.cells, outcomes.OUTCOMES, weights).astype(np.float64)
        per_class = outcomes.class_figures(counts) | _areas(ranks, weights)
        blocks.append(Figures(_overall(counts, per_class, means), per_class))
    drawn = Figures(
        _joined([block.overall for block in blocks]), _joined([block.per_class for block in blocks])
    )
    _centre(drawn, measured, ranks)
    return drawn


def _overall(counts: np.ndarray, per_class: dict, means: dict) -> dict[str, np.ndarray]:
    return {
        **outcomes.overall_figures(counts),
        "map": mean_defined(per_class["average_precision"], -1),
        "roc_auc_macro": mean_defined(per_class["roc_auc"], -1),
        **means,
    }


def _by_class(figure, y_true, y_score, mask) -> np.ndarray:
    """Compute a figure of one class, None where undefined, for every class: [C]"""
    columns = range(y_score.shape[1])
    found = [
        figure(y_true[:, i], y_score[:, i], None if mask is None else mask[:, i]) for i in columns
    ]
    return np.array([np.nan if value is None else value for value in found])


def _columns(per_image: dict[str, np.ndarray]) -> tuple[np.ndarray, list[str]]:
    values = np.stack(list(per_image.values()), axis=1)
    defined = ~np.isnan(values)
    columns = np.concatenate([np.where(defined, values, 0), defined], axis=1)
    return columns.astype(np.float32), list(per_image)


def _means(sums: np.ndarray, names: list[str]) -> dict[str, np.ndarray]:
    total, defined = np.split(sums, 2, axis=1)
    means = np.where(defined > 0, ratio(total, defined), np.nan)
    return dict(zip(names, means.T, strict=True))


def _areas(ranks: np.ndarray, weights: np.ndarray) -> dict[str, np.ndarray]:
    levels = counts_from_cells(count_cells(ranks, CELLS, weights).astype(np.float64))
    return {"average_precision": average_precisions(levels), "roc_auc": roc_aucs(levels)}


def _joined(blocks: Sequence[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    return {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}


def _centre(drawn: Figures, measured: Figures, ranks: np.ndarray) -> None:
    once = _areas(ranks, np.ones((len(ranks), 1), np.float32))
    for name, values in once.items():
        drawn.per_class[name] += measured.per_class[name] - values[0]
    for name, area in (("map", "average_precision"), ("roc_auc_macro", "roc_auc")):
        drawn.overall[name] += measured.overall[name] - mean_defined(once[area][0], 0)
    errors = drawn.overall["calibration_error"]
    errors += measured.overall["calibration_error"] - mean_defined(errors, 0)
    np.maximum(errors, 0, out=errors)


def rank_cells(answers: Answers) -> np.ndarray:
    """Number labels and scores on at most 256 steps: [N, C] int32. Exact for INT8 scores.

    Of finer scores the steps start at those of positives, where average precision is decided.
    """
    positive, known = answers.y_true > 0.5, answers.cells != outcomes.UNKNOWN
    cells = np.empty(answers.y_score.shape, np.int32)
    for index, column in enumerate(answers.y_score.T):
        starts = np.unique(column[known[:, index]])[1:]
        if len(starts) >= LEVELS:
            found = np.unique(column[positive[:, index] & known[:, index]])
            starts = found[np.linspace(0, len(found) - 1, min(len(found), LEVELS - 1)).astype(int)]
        cells[:, index] = np.searchsorted(starts, column, side="right")
    return np.where(known, cells + positive * np.int32(LEVELS), np.int32(CELLS))


@dataclass(frozen=True)
class Figure:
    """A figure and its 95 % interval; None where it is undefined."""

    value: float | None
    interval: Ends


@dataclass(frozen=True)
class Evaluation:
    """Everything that is said about the answers on one set of images."""

    task: Task
    images: int
    unknown_labels: int
    classes: tuple[str, ...]
    overall: dict[str, Figure]
    table: pd.DataFrame  # one row a class; figures, then <figure>_low and <figure>_high
    confusion: np.ndarray  # [C, 2, 2], or [C, C + 1] with the unknown last
    confused_pairs: np.ndarray  # [C, C]: class i missed while class j was wrongly said
    seed: int
    replicates: int

    def value(self, name: str) -> float | None:
        return self.overall[name].value

    def to_json(self) -> dict[str, Any]:
        """Return strict JSON: null where a figure is undefined."""
        return {
            "task": self.task,
            "images": self.images,
            "unknown_labels": self.unknown_labels,
            "overall": {name: asdict(figure) for name, figure in self.overall.items()},
            "classes": [_row_json(row) for row in self.table.to_dict("records")],
            "confusion": self.confusion.tolist(),
            "confused_pairs": _most_confused(self.confused_pairs, self.classes),
            "seed": self.seed,
            "bootstrap_replicates": self.replicates,
        }


def evaluate(
    y_true: np.ndarray, y_score: np.ndarray, thresholds: np.ndarray | float,
    classes: Sequence[str], *, mask: np.ndarray | None = None, task: Task, replicates: int = 0,
    seed: int = 0,
) -> Evaluation:  # fmt: skip
    """Evaluate probabilities [N, C] at given thresholds; 0 replicates leave the intervals out.

    `thresholds` is one a class, or for single_label the confidence under which the answer is
    unknown.
    """
    answers = Answers.of(y_true, y_score, thresholds, mask, task)
    check_names(classes, answers.y_score)
    measured = measure(answers)
    drawn = resample(answers, measured, replicates, seed) if replicates else Figures({}, {})
    return Evaluation(
        task=task,
        images=len(answers.y_true),
        unknown_labels=int((answers.cells == outcomes.UNKNOWN).sum()),
        classes=tuple(classes),
        overall=_with_intervals(measured.overall, drawn.overall),
        table=_table(classes, answers, thresholds, measured.per_class, drawn.per_class),
        confusion=_confusion(answers),
        confused_pairs=outcomes.confused_pairs(answers.cells),
        seed=seed,
        replicates=replicates,
    )


def f1_macro(
    y_true: np.ndarray, y_pred: np.ndarray, mask: np.ndarray | None = None
) -> float | None:
    """Mean F1 over the classes that occur, from yes/no answers [N, C]."""
    y_pred = np.asarray(y_pred)
    check_scores(np.asarray(y_true), y_pred, mask)
    cells = outcomes.outcome_cells(y_true, y_pred > 0.5, mask)
    return or_none(outcomes.overall_figures(outcomes.count_outcomes(cells))["f1_macro"])


def mean_average_precision(
    y_true: np.ndarray, y_score: np.ndarray, mask: np.ndarray | None = None
) -> float | None:
    """Mean average precision over the classes that occur, from scores [N, C]."""
    y_true, y_score = np.asarray(y_true), np.asarray(y_score)
    check_scores(y_true, y_score, mask)
    found = _by_class(average_precision, y_true, y_score, mask)
    defined = found[~np.isnan(found)]
    return float(np.mean(defined)) if len(defined) else None


def _with_intervals(
    values: dict[str, np.ndarray], drawn: dict[str, np.ndarray]
) -> dict[str, Figure]:
    figures = {}
    for name, value in values.items():
        figures[name] = Figure(or_none(value), interval(drawn[name]) if name in drawn else None)
    return figures


def _table(classes, answers: Answers, thresholds, per_class, drawn) -> pd.DataFrame:
    tn, fp, fn, tp = outcomes.count_outcomes(answers.cells).T
    columns = {
        "class": list(classes),
        "positives": tp + fn,
        "negatives": tn + fp,
        "threshold": np.broadcast_to(np.asarray(thresholds, np.float64), len(classes)),
        "tp": tp,
        "fp": fp,
        "fn": fn,
        "tn": tn,
        **per_class,
    }
    for name, values in drawn.items():
        columns[f"{name}_low"], columns[f"{name}_high"] = interval_ends(values)
    return pd.DataFrame(columns)


def _confusion(answers: Answers) -> np.ndarray:
    if answers.task == "multilabel":
        return outcomes.count_outcomes(answers.cells).reshape(-1, 2, 2)
    classes = answers.y_true.shape[1]
    answered = answers.decisions.any(1)
    said = np.where(answered, answers.decisions.argmax(1), classes)[answers.labelled]
    matrix = np.zeros((classes, classes + 1), np.int64)
    np.add.at(matrix, (answers.y_true.argmax(1)[answers.labelled], said), 1)
    return matrix


def _most_confused(pairs: np.ndarray, classes: Sequence[str]) -> list[dict[str, Any]]:
    """List the pairs that happened, most frequent first: a full matrix would drown the file."""
    order = np.argsort(-pairs, axis=None, kind="stable")[:PAIRS_WRITTEN]
    places = np.stack(np.unravel_index(order, pairs.shape), axis=1)
    return [
        {"missed": classes[i], "said": classes[j], "images": int(pairs[i, j])}
        for i, j in places
        if pairs[i, j]
    ]


def _row_json(row: dict[str, Any]) -> dict[str, Any]:
    return {key: None if isinstance(v, float) and np.isnan(v) else v for key, v in row.items()}
