"""How good are the answers? Figures for one set of images, per class and overall, with intervals.

Works on finished scores and thresholds; chooses nothing. What is undefined is None, never NaN.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from workbench.decide import outcomes
from workbench.decide.answers import Answers, Task, check_names
from workbench.decide.bootstrap import Interval, interval_ends
from workbench.decide.levels import check_scores
from workbench.decide.ranking import average_precision, roc_auc
from workbench.decide.replicates import Figures, column_of, measure, resample

__all__ = [
    "Evaluation",
    "average_precision",
    "evaluate",
    "f1_macro",
    "mean_average_precision",
    "roc_auc",
]
PAIRS_WRITTEN = 50


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

    @property
    def summary(self) -> pd.DataFrame:
        """The columns of `table` that fit on a page, worst F1 first."""
        rows = self.table.sort_values("f1", kind="stable", na_position="last")
        summary = rows[["class", "positives", "threshold"]].rename(columns={"positives": "images"})
        summary = summary.assign(found=rows.tp, missed=rows.fn, wrong_yes=rows.fp)
        for name in ("precision", "recall", "f1", "average_precision"):
            summary[name] = rows[name]
        if "f1_low" in rows:
            summary["f1_from"], summary["f1_to"] = rows.f1_low, rows.f1_high
        return summary.reset_index(drop=True)

    def to_json(self) -> dict[str, Any]:
        """Return strict JSON: null where a figure is undefined."""
        return {
            "task": self.task,
            "images": self.images,
            "unknown_labels": self.unknown_labels,
            "overall": {name: figure.to_json() for name, figure in self.overall.items()},
            "classes": [_row_json(row) for row in self.table.to_dict("records")],
            "confusion": self.confusion.tolist(),
            "confused_pairs": _most_confused(self.confused_pairs, self.classes),
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
    return _or_none(outcomes.overall_figures(outcomes.count_outcomes(cells))["f1_macro"])


def mean_average_precision(
    y_true: np.ndarray, y_score: np.ndarray, mask: np.ndarray | None = None
) -> float | None:
    """Mean average precision over the classes that occur, from scores [N, C]."""
    y_true, y_score = np.asarray(y_true), np.asarray(y_score)
    check_scores(y_true, y_score, mask)
    found = [
        average_precision(y_true[:, i], y_score[:, i], column_of(mask, i))
        for i in range(y_score.shape[1])
    ]
    defined = [value for value in found if value is not None]
    return float(np.mean(defined)) if defined else None


def _with_intervals(
    values: dict[str, np.ndarray], drawn: dict[str, np.ndarray]
) -> dict[str, Figure]:
    figures = {}
    for name, value in values.items():
        low, high = interval_ends(drawn[name]) if name in drawn else (np.nan, np.nan)
        figures[name] = Figure(_or_none(value), Interval(_or_none(low), _or_none(high)))
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


def _or_none(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def _row_json(row: dict[str, Any]) -> dict[str, Any]:
    return {key: None if isinstance(v, float) and np.isnan(v) else v for key, v in row.items()}
