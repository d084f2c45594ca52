"""How good are the answers? Figures for one set of images, per class and overall, with intervals.

Works on finished scores and thresholds; chooses nothing. What is undefined is None, never NaN.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd

from workbench.decide import outcomes
from workbench.decide.bootstrap import Interval, count_cells, image_weights, interval_ends
from workbench.decide.levels import CELLS, LEVELS, check_scores, chunks, counts_from_cells
from workbench.decide.objectives import mean_defined, ratio
from workbench.decide.ranking import average_precision, average_precisions, roc_auc, roc_aucs
from workbench.errors import InputError

__all__ = [
    "Evaluation",
    "average_precision",
    "evaluate",
    "f1_macro",
    "mean_average_precision",
    "roc_auc",
]
TOP = 5
Task = Literal["multilabel", "single_label"]


@dataclass(frozen=True)
class Figure:
    """A figure and its 95 % interval; None where it is undefined."""

    value: float | None
    interval: Interval

    def to_json(self) -> dict[str, Any]:
        return {"value": self.value, "interval": self.interval.to_json()}


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
            "overall": {name: figure.to_json() for name, figure in self.overall.items()},
            "classes": [_row_json(row) for row in self.table.to_dict("records")],
            "confusion": self.confusion.tolist(),
            "confused_pairs": self.confused_pairs.tolist(),
            "seed": self.seed,
            "bootstrap_replicates": self.replicates,
        }


def evaluate(
    y_true: np.ndarray,
    y_score: np.ndarray,
    thresholds: np.ndarray | float,
    classes: Sequence[str],
    *,
    mask: np.ndarray | None = None,
    task: Task,
    replicates: int = 0,
    seed: int = 0,
) -> Evaluation:
    """Evaluate probabilities [N, C] at given thresholds; 0 replicates leave the intervals out.

    `thresholds` is one a class, or for single_label the confidence under which the answer is
    unknown.
    """
    y_true, y_score = np.asarray(y_true), np.asarray(y_score)
    check_scores(y_true, y_score, mask)
    _check_probabilities(y_score)
    if len(classes) != y_score.shape[1]:
        raise InputError(f"{len(classes)} class names for {y_score.shape[1]} columns of scores")
    decisions = decide(y_score, thresholds, task)
    cells = outcomes.outcome_cells(y_true, decisions, mask)
    counts = outcomes.count_outcomes(cells)
    per_image = _image_figures(y_true, y_score, cells, task)
    overall, per_class = _figures(y_true, y_score, mask, counts, per_image)
    drawn = _Drawn.draw(y_true, y_score, mask, cells, per_image, replicates, seed)
    return Evaluation(
        task=task,
        images=len(y_true),
        unknown_labels=int((cells == outcomes.UNKNOWN).sum()),
        classes=tuple(classes),
        overall=_with_intervals(overall, drawn.overall),
        table=_table(classes, counts, thresholds, per_class, drawn.per_class),
        confusion=_confusion(y_true, decisions, counts, task),
        confused_pairs=outcomes.confused_pairs(cells),
        seed=seed,
        replicates=replicates,
    )


def decide(y_score: np.ndarray, thresholds: np.ndarray | float, task: Task) -> np.ndarray:
    """Return the answers, bool [N, C]: every class at its threshold, or the one best class."""
    if task == "multilabel":
        return y_score >= np.asarray(thresholds)
    best = y_score.argmax(1)
    answers = np.zeros(y_score.shape, bool)
    answers[np.arange(len(best)), best] = y_score.max(1) >= float(np.asarray(thresholds))
    return answers


def f1_macro(
    y_true: np.ndarray, y_pred: np.ndarray, mask: np.ndarray | None = None
) -> float | None:
    """Mean F1 over the classes that occur, from yes/no answers [N, C]."""
    y_pred = np.asarray(y_pred)
    check_scores(np.asarray(y_true), y_pred, mask)
    cells = outcomes.outcome_cells(y_true, y_pred > 0.5, mask)
    return _or_none(outcomes.overall_figures(outcomes.count_outcomes(cells))["f1_macro"])


def mean_average_precision(
    y_true: np.ndarray, y_score: np.ndarray, mask: np.ndarray | None = None
) -> float | None:
    """Mean average precision over the classes that occur, from scores [N, C]."""
    y_true, y_score = np.asarray(y_true), np.asarray(y_score)
    check_scores(y_true, y_score, mask)
    return _or_none(mean_defined(_by_class(average_precision, y_true, y_score, mask), axis=0))


def _by_class(figure, y_true, y_score, mask) -> np.ndarray:
    columns = [
        figure(y_true[:, index], y_score[:, index], None if mask is None else mask[:, index])
        for index in range(y_score.shape[1])
    ]
    return np.array([np.nan if value is None else value for value in columns])


def _figures(y_true, y_score, mask, counts, per_image) -> tuple[dict, dict]:
    """Point values of all figures: overall name -> float, per class name -> [C]."""
    per_class = outcomes.class_figures(counts)
    per_class["average_precision"] = _by_class(average_precision, y_true, y_score, mask)
    per_class["roc_auc"] = _by_class(roc_auc, y_true, y_score, mask)
    overall = outcomes.overall_figures(counts)
    overall["mean_average_precision"] = mean_defined(per_class["average_precision"], 0)
    overall["roc_auc_macro"] = mean_defined(per_class["roc_auc"], 0)
    overall |= {name: mean_defined(values, 0) for name, values in per_image.items()}
    return overall, per_class


def _image_figures(y_true, y_score, cells, task) -> dict[str, np.ndarray]:
    parts = [outcomes.image_figures(cells[rows]) for rows in chunks(len(cells))]
    figures = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    known = cells != outcomes.UNKNOWN
    figures["top5"] = np.concatenate(
        [_top_hits(y_true[rows], y_score[rows], known[rows]) for rows in chunks(len(cells))]
    )
    if task == "single_label":
        figures |= _single_label_figures(y_true, y_score, cells)
    return figures


def _single_label_figures(y_true, y_score, cells) -> dict[str, np.ndarray]:
    answered = figures_answered(cells)
    right = y_score.argmax(1) == y_true.argmax(1)
    labelled = (y_true > 0.5).any(1)
    return {
        "accuracy": np.where(labelled, right, np.nan).astype(np.float64),
        "coverage": answered.astype(np.float64),
        "accepted_accuracy": np.where(answered, right & labelled, np.nan).astype(np.float64),
    }


def figures_answered(cells: np.ndarray) -> np.ndarray:
    return np.isin(cells, (outcomes.FP, outcomes.TP)).any(1)


def _top_hits(y_true: np.ndarray, y_score: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Is a true label among the five best scores? NaN without labels, or with five classes."""
    if y_score.shape[1] <= TOP:
        return np.full(len(y_score), np.nan)  # the answer would always be yes
    best = np.argsort(np.where(known, y_score, -1), axis=1, kind="stable")[:, : -TOP - 1 : -1]
    positive = (y_true > 0.5) & known
    hit = np.take_along_axis(positive, best, axis=1).any(1)
    return np.where(positive.any(1), hit, np.nan)


class _Drawn:
    """All figures on resampled images: [R] overall, [R, C] per class."""

    def __init__(self, overall: dict[str, np.ndarray], per_class: dict[str, np.ndarray]) -> None:
        self.overall, self.per_class = overall, per_class

    @classmethod
    def draw(cls, y_true, y_score, mask, cells, per_image, replicates, seed) -> _Drawn:
        if not replicates:
            return cls({}, {})
        ranks = rank_cells(y_true, y_score, mask)
        values = np.stack(list(per_image.values()), axis=1)
        defined = ~np.isnan(values)
        columns = np.concatenate([np.where(defined, values, 0), defined], axis=1)
        blocks = []
        for weights in image_weights(len(cells), replicates, np.random.default_rng(seed)):
            sums = weights.T @ columns.astype(np.float32)
            means = _means(sums, list(per_image))
            blocks.append(_replicated(cells, ranks, weights, means))
        overall, per_class = zip(*blocks, strict=True)
        return cls(_joined(overall), _joined(per_class))


def _means(sums: np.ndarray, names: list[str]) -> dict[str, np.ndarray]:
    total, defined = np.split(sums, 2, axis=1)
    means = np.where(defined > 0, ratio(total, defined), np.nan)
    return dict(zip(names, means.T, strict=True))


def _replicated(cells, ranks, weights, means) -> tuple[dict, dict]:
    counts = count_cells(cells, outcomes.OUTCOMES, weights).astype(np.float64)
    levels = counts_from_cells(count_cells(ranks, CELLS, weights).astype(np.float64))
    per_class = outcomes.class_figures(counts)
    per_class["average_precision"] = average_precisions(levels)
    per_class["roc_auc"] = roc_aucs(levels)
    overall = outcomes.overall_figures(counts) | means
    overall["mean_average_precision"] = mean_defined(per_class["average_precision"], -1)
    overall["roc_auc_macro"] = mean_defined(per_class["roc_auc"], -1)
    return overall, per_class


def _joined(blocks: Sequence[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    return {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}


def rank_cells(y_true: np.ndarray, y_score: np.ndarray, mask: np.ndarray | None) -> np.ndarray:
    """Number labels and scores on at most 256 steps: [N, C] int32. Exact for INT8 scores.

    Of finer scores the steps start at those of positives, where average precision is decided.
    """
    cells = np.empty(y_score.shape, np.int32)
    for index, (column, label) in enumerate(zip(y_score.T, np.asarray(y_true).T, strict=True)):
        starts = np.unique(column)[1:]
        if len(starts) >= LEVELS:
            found = np.unique(column[label > 0.5])
            starts = found[np.linspace(0, len(found) - 1, min(len(found), LEVELS - 1)).astype(int)]
        cells[:, index] = np.searchsorted(starts, column, side="right")
    cells += (np.asarray(y_true) > 0.5) * np.int32(LEVELS)
    if mask is not None:
        cells[np.asarray(mask) <= 0.5] = CELLS
    return cells


def _with_intervals(
    values: dict[str, np.ndarray], drawn: dict[str, np.ndarray]
) -> dict[str, Figure]:
    figures = {}
    for name, value in values.items():
        low, high = interval_ends(drawn[name]) if name in drawn else (np.nan, np.nan)
        figures[name] = Figure(_or_none(value), Interval(_or_none(low), _or_none(high)))
    return figures


def _table(classes, counts, thresholds, per_class, drawn) -> pd.DataFrame:
    tn, fp, fn, tp = counts.T
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


def _confusion(y_true, decisions, counts, task) -> np.ndarray:
    if task == "multilabel":
        return counts.reshape(-1, 2, 2)
    classes = y_true.shape[1]
    said = np.where(decisions.any(1), decisions.argmax(1), classes)
    labelled = (y_true > 0.5).any(1)
    matrix = np.zeros((classes, classes + 1), np.int64)
    np.add.at(matrix, (y_true.argmax(1)[labelled], said[labelled]), 1)
    return matrix


def _check_probabilities(y_score: np.ndarray) -> None:
    if not np.isfinite(y_score).all() or y_score.min() < 0 or y_score.max() > 1:
        raise InputError(
            "scores must be probabilities, 0 to 1; apply sigmoid or softmax to the logits first"
        )


def _or_none(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def _row_json(row: dict[str, Any]) -> dict[str, Any]:
    return {key: None if isinstance(v, float) and np.isnan(v) else v for key, v in row.items()}
