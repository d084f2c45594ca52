"""Is one run better than the other? Differences on the same images, resampled together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from workbench.decide.intervals import interval_ends
from workbench.decide.levels import check_names
from workbench.decide.metrics import Figures, measure, resample
from workbench.decide.outcomes import Answers, Task
from workbench.errors import InputError

LOWER_IS_BETTER = frozenset({"hamming_loss", "calibration_error"})
NEITHER_IS_BETTER = frozenset({"no_label_rate", "true_no_label_rate", "coverage"})


@dataclass(frozen=True)
class Predictions:
    """What one run, or one rung of a run, says about a set of labelled images."""

    name: str
    filepaths: tuple[str, ...]
    classes: tuple[str, ...]
    y_true: np.ndarray  # [N, C]
    y_score: np.ndarray  # probabilities [N, C]
    thresholds: np.ndarray | float
    task: Task
    mask: np.ndarray | None = None

    def chosen(self, rows: np.ndarray, columns: np.ndarray) -> Predictions:
        """Return the predictions for some images and classes, in that order."""
        part = np.ix_(rows, columns)
        return Predictions(
            self.name,
            tuple(self.filepaths[row] for row in rows),
            tuple(self.classes[column] for column in columns),
            self.y_true[part],
            self.y_score[part],
            np.broadcast_to(self.thresholds, len(self.classes))[columns]
            if self.task == "multilabel"
            else self.thresholds,
            self.task,
            None if self.mask is None else self.mask[part],
        )

    def answers(self) -> Answers:
        check_names(self.classes, self.y_score)
        return Answers.of(self.y_true, self.y_score, self.thresholds, self.mask, self.task)


@dataclass(frozen=True)
class Comparison:
    """Second less first, with 95 % intervals; `verdict` is better, worse, differs or open."""

    first: str
    second: str
    images: int
    left_out: tuple[int, int]  # images of each that the other does not have
    overall: pd.DataFrame  # figure, first, second, difference, low, high, verdict
    per_class: pd.DataFrame  # class, figure and the same
    seed: int
    replicates: int

    def to_json(self) -> dict[str, Any]:
        return {
            "first": self.first,
            "second": self.second,
            "images": self.images,
            "left_out": list(self.left_out),
            "overall": _records(self.overall),
            "classes": _records(self.per_class),
            "seed": self.seed,
            "bootstrap_replicates": self.replicates,
        }


def compare(first: Predictions, second: Predictions, *, replicates: int, seed: int) -> Comparison:
    """Compare two runs on the images and classes that both have."""
    rows, columns = _shared(first, second)
    left_out = len(first.filepaths) - len(rows[0]), len(second.filepaths) - len(rows[0])
    first, second = first.chosen(rows[0], columns[0]), second.chosen(rows[1], columns[1])
    _check_same_labels(first, second)
    sides = [_side(run.answers(), replicates, seed) for run in (first, second)]
    per_class = [
        _differences(
            [figures.per_class[name] for figures, _ in sides],
            [drawn.per_class[name] for _, drawn in sides],
            name,
        ).assign(**{"class": first.classes, "figure": name})
        for name in ("f1", "precision", "recall", "average_precision")
    ]
    names = list(sides[0][0].overall)
    overall = [
        _differences(
            [np.atleast_1d(figures.overall[name]) for figures, _ in sides],
            [drawn.overall[name][:, None] for _, drawn in sides],
            name,
        ).assign(figure=name)
        for name in names
    ]
    return Comparison(
        first=first.name,
        second=second.name,
        images=len(rows[0]),
        left_out=left_out,
        overall=_joined(overall, ["figure"]),
        per_class=_joined(per_class, ["class", "figure"]),
        seed=seed,
        replicates=replicates,
    )


def _shared(first: Predictions, second: Predictions) -> tuple[list, list]:
    """Return the places of common images and classes in both."""
    if first.task != second.task:
        raise InputError(f"{first.name} is {first.task}, {second.name} is {second.task}")
    rows = _places(first.filepaths, second.filepaths)
    columns = _places(first.classes, second.classes)
    if not len(rows[0]) or not len(columns[0]):
        what = "images" if not len(rows[0]) else "classes"
        raise InputError(
            f"{first.name} and {second.name} have no {what} in common; "
            "compare runs that were evaluated on the same split"
        )
    if first.task == "single_label" and set(first.classes) != set(second.classes):
        raise InputError(f"{first.name} and {second.name} choose between different classes")
    return rows, columns


def _places(first: tuple[str, ...], second: tuple[str, ...]) -> list[np.ndarray]:
    where = {name: place for place, name in enumerate(second)}
    common = [place for place, name in enumerate(first) if name in where]
    return [np.array(common, int), np.array([where[first[place]] for place in common], int)]


def _check_same_labels(first: Predictions, second: Predictions) -> None:
    differing = (first.y_true > 0.5) != (second.y_true > 0.5)
    for run in (first, second):
        if run.mask is not None:
            differing &= run.mask > 0.5
    if differing.any():
        row = int(differing.any(1).argmax())
        raise InputError(
            f"{first.filepaths[row]} has other labels in {second.name} than in {first.name} "
            f"({int(differing.any(1).sum())} images in all); evaluate both on the same labels"
        )


def _side(answers: Answers, replicates: int, seed: int) -> tuple[Figures, Figures]:
    measured = measure(answers)
    return measured, resample(answers, measured, replicates, seed)


def _differences(values: list[np.ndarray], drawn: list[np.ndarray], name: str) -> pd.DataFrame:
    low, high = interval_ends(drawn[1] - drawn[0])
    verdict = np.select([low > 0, high < 0], ["better", "worse"], "open")
    if name in LOWER_IS_BETTER:
        verdict = np.select([low > 0, high < 0], ["worse", "better"], "open")
    if name in NEITHER_IS_BETTER:
        verdict = np.where(verdict == "open", "open", "differs")
    return pd.DataFrame(
        {
            "first": values[0],
            "second": values[1],
            "difference": values[1] - values[0],
            "low": low,
            "high": high,
            "verdict": verdict,
        }
    )


def _joined(parts: list[pd.DataFrame], front: list[str]) -> pd.DataFrame:
    table = pd.concat(parts, ignore_index=True)
    return table[front + [name for name in table if name not in front]]


def _records(table: pd.DataFrame) -> list[dict[str, Any]]:
    return table.astype(object).where(table.notna(), None).to_dict("records")
