"""How good are the answers, and is one run better? Figures per class and overall, with intervals.

Works on finished scores and thresholds; chooses nothing. What is undefined is None, never NaN. Two
runs are compared on the same images, resampled together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from workbench.decide import outcomes
from workbench.decide.calibration import calibration_error, error_interval
from workbench.decide.intervals import (
    LEAST_IMAGES,
    Ends,
    Groups,
    apart,
    area_ends,
    count_cells,
    image_weights,
    interval_ends,
    or_none,
    records,
    share_interval,
)
from workbench.decide.levels import (
    CELLS,
    LEVELS,
    LevelCounts,
    Mask,
    check_names,
    check_scores,
    mean_defined,
    part,
    ratio,
)
from workbench.decide.outcomes import Answers, Bars, Task
from workbench.errors import InputError

PAIRS_WRITTEN = 50
AREAS = ("average_precision", "roc_auc")
MEAN_AREAS = {"map": "average_precision", "roc_auc_macro": "roc_auc"}
LOWER_IS_BETTER = frozenset({"hamming_loss", "calibration_error"})
NEITHER_IS_BETTER = frozenset({"no_label_rate", "true_no_label_rate", "coverage"})


@dataclass(frozen=True)
class Figures:
    """Name → value: scalars and [C] as measured, [R] and [R, C] as resampled. NaN: undefined."""

    overall: dict[str, np.ndarray]
    per_class: dict[str, np.ndarray]


def measure(answers: Answers) -> Figures:
    """Compute every figure on the images as they are."""
    counts = outcomes.count_outcomes(answers.cells)
    known = answers.y_true, answers.y_score, answers.mask
    per_class = outcomes.class_figures(counts) | {
        "average_precision": _by_class(outcomes.average_precision, *known),
        "roc_auc": _by_class(outcomes.roc_auc, *known),
    }
    means = {name: mean_defined(values, 0) for name, values in answers.per_image.items()}
    error = calibration_error(*answers.to_calibrate)
    means["calibration_error"] = np.nan if error is None else error
    return _figures(counts, per_class, means)


def resample(
    answers: Answers, measured: Figures, replicates: int, seed: int, *, left_out: str = ""
) -> Figures:
    """Compute every figure on resampled images, or one each time on those that were left out.

    Average precision and ROC area of scores finer than 256 steps are moved so that they lie around
    the measured values. The calibration error is not among them: noise can only raise it.
    """
    ranks, areas = rank_cells(answers), not left_out or left_out in MEAN_AREAS
    values = np.stack(list(answers.per_image.values()), axis=1)
    defined = ~np.isnan(values)
    columns = np.concatenate([np.where(defined, values, 0), defined], axis=1).astype(np.float32)
    blocks = []
    rng = np.random.default_rng(seed)
    for weights in image_weights(len(ranks), replicates, rng, ranks.shape[1], answers.groups):
        weights = (weights == 0).astype(np.float32) if left_out else weights
        total, images = np.split(weights.T @ columns, 2, axis=1)
        found = np.where(images > 0, ratio(total, images), np.nan)
        means = dict(zip(answers.per_image, found.T, strict=True))
        counts = count_cells(answers.cells, outcomes.OUTCOMES, weights).astype(np.float64)
        per_class = outcomes.class_figures(counts) | (_areas(ranks, weights) if areas else {})
        blocks.append(_figures(counts, per_class, means))
    drawn = Figures(*(
        {name: np.concatenate([block[name] for block in side]) for name in side[0]}
        for side in zip(*((block.overall, block.per_class) for block in blocks), strict=True)
    ))  # fmt: skip
    if areas:
        _centre(drawn, measured, ranks)
    return drawn


def _figures(counts: np.ndarray, per_class: dict, means: dict) -> Figures:
    areas = {
        name: mean_defined(per_class[area], -1)
        for name, area in MEAN_AREAS.items() if area in per_class
    }  # fmt: skip
    return Figures(outcomes.overall_figures(counts) | areas | means, per_class)


def _by_class(figure, *arrays: Mask) -> np.ndarray:
    """Compute a figure of one class, None where undefined, for every class: [C]"""
    found = [figure(*part(np.s_[:, i], *arrays)) for i in range(arrays[0].shape[1])]
    return np.array([np.nan if value is None else value for value in found])


def _areas(ranks: np.ndarray, weights: np.ndarray) -> dict[str, np.ndarray]:
    levels = LevelCounts.of_cells(count_cells(ranks, CELLS, weights).astype(np.float64))
    return {
        "average_precision": outcomes.average_precisions(levels),
        "roc_auc": outcomes.roc_aucs(levels),
    }


def _centre(drawn: Figures, measured: Figures, ranks: np.ndarray) -> None:
    once = _areas(ranks, np.ones((len(ranks), 1), np.float32))
    for name, area in MEAN_AREAS.items():
        drawn.per_class[area] += measured.per_class[area] - once[area][0]
        drawn.overall[name] += measured.overall[name] - mean_defined(once[area][0], 0)


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


Spans = dict[str, list[Ends]]  # intervals of a figure: one, or one a class


def share_spans(answers: Answers) -> tuple[Spans, Spans]:
    """Intervals of the figures that are hits among trials: overall ones, and those of classes.

    By a formula, also where every answer is right and resampling the images sees no doubt.
    """
    occurs = outcomes.count_outcomes(answers.cells)[:, [outcomes.FN, outcomes.TP]].any(1)
    by_image = outcomes.count_outcomes(answers.cells, axis=1)
    overall, per_class, groups = {}, {}, answers.groups
    for name in outcomes.SHARES:
        columns = [partial(outcomes.hits_and_trials, name, column) for column in answers.cells.T]
        per_class[name] = [share_interval([column()], groups) for column in columns]
        macro = (column() for column, there in zip(columns, occurs, strict=True) if there)
        overall[f"{name}_macro"] = [share_interval(macro, groups)]
        overall[f"{name}_micro"] = [share_interval([outcomes.summed(name, by_image)], groups)]
    overall["hamming_loss"] = overall.pop("hamming_loss_micro")
    for name, values in answers.per_image.items():
        defined = ~np.isnan(values)
        overall[name] = [share_interval([(np.where(defined, values, 0), defined)], groups)]
    return overall, per_class


def resampled_spans(drawn: dict[str, np.ndarray], measured: dict[str, np.ndarray]) -> Spans:
    """Intervals of resampled figures, [R] or [R, C] each; none where nothing ever changes."""
    spans: Spans = {}
    for name, values in drawn.items():
        areas = name in AREAS or name in MEAN_AREAS
        ends = area_ends(measured[name], values) if areas else interval_ends(values)
        spans[name] = [_span(*pair) for pair in np.column_stack(ends)]
    return spans


def _span(low: float, high: float) -> Ends:
    return (float(low), float(high)) if low < high else None


@dataclass(frozen=True)
class Figure:
    """A figure and its 95 % interval; None where it is undefined or nothing can be said."""

    value: float | None
    interval: Ends
    withheld: str = ""  # why there is no interval, where one was asked for

    @classmethod
    def of(cls, value: float, span: Ends, images: int) -> Figure:
        """Pair a figure with its interval, or with the reason why there is none."""
        reason = ""
        if np.isnan(value):
            reason = "undefined"
        elif images < LEAST_IMAGES:
            reason = f"{images} images; an interval needs {LEAST_IMAGES}"
        elif span is None:
            reason = "too few images tell"
        return cls(or_none(value), None if reason else span, reason)


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
    def undefined(self) -> tuple[str, ...]:
        """Name the classes that no image is known to have: means over classes leave them out."""
        return tuple(self.table["class"][self.table["positives"] == 0])

    @property
    def macro_means(self) -> str:
        """Say which classes the macro means are over."""
        classes, undefined = len(self.classes), self.undefined
        if not undefined:
            return f"macro over all {classes} classes"
        over = classes - len(undefined)
        return f"macro over {over} of {classes} classes; undefined: {', '.join(undefined)}"

    def to_json(self) -> dict[str, Any]:
        """Return strict JSON: null where a figure is undefined."""
        return {
            "task": self.task, "images": self.images, "unknown_labels": self.unknown_labels,
            "macro_means": self.macro_means, "undefined_classes": list(self.undefined),
            "overall": {name: asdict(figure) for name, figure in self.overall.items()},
            "classes": records(self.table), "confusion": self.confusion.tolist(),
            "confused_pairs": _most_confused(self.confused_pairs, self.classes),
            "seed": self.seed, "bootstrap_replicates": self.replicates,
        }  # fmt: skip


def evaluate(
    y_true: np.ndarray, y_score: np.ndarray, thresholds: Bars, classes: Sequence[str], *,
    mask: Mask = None, task: Task, replicates: int = 0, seed: int = 0, groups: Groups = None,
) -> Evaluation:  # fmt: skip
    """Evaluate probabilities [N, C] at given thresholds; 0 replicates leave the intervals out.

    `thresholds` is one a class, or for single_label the confidence under which the answer is
    unknown.
    """
    answers = Answers.of(y_true, y_score, thresholds, mask, task, groups)
    check_names(classes, answers.y_score)
    measured, images = measure(answers), len(answers.y_true)
    overall = {name: Figure(or_none(value), None) for name, value in measured.overall.items()}
    spans: Spans = {}
    if replicates:
        drawn, shares = resample(answers, measured, replicates, seed), share_spans(answers)
        found = resampled_spans(drawn.overall, measured.overall) | shares[0]
        known = {"replicates": replicates, "rng": np.random.default_rng(seed), "groups": groups}
        found["calibration_error"] = [error_interval(*answers.to_calibrate, **known)]
        overall = {
            name: Figure.of(value, found[name][0], images)
            for name, value in measured.overall.items()
        }
        spans = resampled_spans(drawn.per_class, measured.per_class) | shares[1]
    return Evaluation(
        task=task, images=len(answers.y_true), classes=tuple(classes), overall=overall,
        unknown_labels=int((answers.cells == outcomes.UNKNOWN).sum()),
        table=_table(classes, answers, thresholds, measured.per_class, spans),
        confusion=_confusion(answers), confused_pairs=outcomes.confused_pairs(answers.cells),
        seed=seed, replicates=replicates,
    )  # fmt: skip


def f1_macro(y_true: np.ndarray, y_pred: np.ndarray, mask: Mask = None) -> float | None:
    """Mean F1 over the classes that occur, from yes/no answers [N, C]."""
    y_pred = np.asarray(y_pred)
    check_scores(np.asarray(y_true), y_pred, mask)
    cells = outcomes.outcome_cells(y_true, y_pred > 0.5, mask)
    return or_none(outcomes.overall_figures(outcomes.count_outcomes(cells))["f1_macro"])


def mean_average_precision(
    y_true: np.ndarray, y_score: np.ndarray, mask: Mask = None
) -> float | None:
    """Mean average precision over the classes that occur, from scores [N, C]."""
    y_true, y_score = np.asarray(y_true), np.asarray(y_score)
    check_scores(y_true, y_score, mask)
    found = _by_class(outcomes.average_precision, y_true, y_score, mask)
    defined = found[~np.isnan(found)]
    return float(np.mean(defined)) if len(defined) else None


def _table(classes, answers: Answers, thresholds, per_class, spans: Spans) -> pd.DataFrame:
    tn, fp, fn, tp = outcomes.count_outcomes(answers.cells).T
    bars = np.broadcast_to(np.asarray(thresholds, np.float64), len(classes))
    counts = {"positives": tp + fn, "negatives": tn + fp, "threshold": bars}
    columns = {"class": list(classes), **counts, "tp": tp, "fp": fp, "fn": fn, "tn": tn}
    ends = {}
    for name, values in per_class.items() if spans else ():
        told = ~np.isnan(values) & ((tp + fn >= LEAST_IMAGES) | (name not in AREAS))
        found = (span if is_told else None for span, is_told in zip(spans[name], told, strict=True))
        pairs = [span or (np.nan, np.nan) for span in found]
        ends[f"{name}_low"], ends[f"{name}_high"] = np.array(pairs).T
    return pd.DataFrame(columns | per_class | ends)


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
    found = ((classes[i], classes[j], int(pairs[i, j])) for i, j in places if pairs[i, j])
    return [dict(zip(("missed", "said", "images"), pair, strict=True)) for pair in found]


@dataclass(frozen=True)
class Predictions:
    """What one run, or one rung of a run, says about a set of labelled images."""

    name: str
    filepaths: tuple[str, ...]
    classes: tuple[str, ...]
    y_true: np.ndarray  # [N, C]
    y_score: np.ndarray  # probabilities [N, C]
    thresholds: Bars
    task: Task
    mask: Mask = None
    groups: Groups = None

    def chosen(self, rows: np.ndarray, columns: np.ndarray) -> Predictions:
        """Return the predictions for some images and classes, in that order."""
        arrays = part(np.ix_(rows, columns), self.y_true, self.y_score, self.mask)
        y_true, y_score, mask = arrays
        thresholds = np.asarray(self.thresholds)
        if self.task == "multilabel":
            thresholds = np.broadcast_to(thresholds, self.y_score.shape)[np.ix_(rows, columns)]
        elif thresholds.size > 1:
            thresholds = thresholds[rows]
        return replace(
            self, filepaths=tuple(self.filepaths[row] for row in rows),
            classes=tuple(self.classes[column] for column in columns),
            y_true=y_true, y_score=y_score, thresholds=thresholds, mask=mask,
            groups=None if self.groups is None else self.groups[rows],
        )  # fmt: skip

    def answers(self) -> Answers:
        check_names(self.classes, self.y_score)
        arrays = self.y_true, self.y_score, self.thresholds, self.mask
        return Answers.of(*arrays, self.task, self.groups)


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
            "first": self.first, "second": self.second, "images": self.images,
            "left_out": list(self.left_out), "overall": records(self.overall),
            "classes": records(self.per_class), "seed": self.seed,
            "bootstrap_replicates": self.replicates,
        }  # fmt: skip


def compare(first: Predictions, second: Predictions, *, replicates: int, seed: int) -> Comparison:
    """Compare two runs on the images and classes that both have."""
    rows, columns = in_common(first, second)
    images = len(rows[0])
    left_out = len(first.filepaths) - images, len(second.filepaths) - images
    first, second = first.chosen(rows[0], columns[0]), second.chosen(rows[1], columns[1])
    check_same_labels(first, second)
    answers = [run.answers() for run in (first, second)]
    measured = [measure(side) for side in answers]
    drawn = [resample(*both, replicates, seed) for both in zip(answers, measured, strict=True)]
    sides = measured + drawn
    rng = [np.random.default_rng(seed) for _ in answers]
    errors = [side.overall.pop("calibration_error") for side in measured]
    spans = [
        error_interval(*side.to_calibrate, replicates=replicates, rng=one, groups=side.groups)
        for side, one in zip(answers, rng, strict=True)
    ]
    overall = [
        _differences(name, *(side.overall[name] for side in sides)) for name in sides[0].overall
    ]
    ends = apart(*zip(errors, spans, strict=True)) or (np.nan, np.nan)
    overall.append(_judged("calibration_error", *errors, *ends))
    per_class = [
        _differences(name, *(side.per_class[name] for side in sides), {"class": first.classes})
        for name in ("f1", "precision", "recall", "average_precision")
    ]
    tables = (pd.concat(parts, ignore_index=True) for parts in (overall, per_class))
    return Comparison(first.name, second.name, images, left_out, *tables, seed, replicates)


def in_common(first: Predictions, second: Predictions) -> tuple[list, list]:
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


def check_same_labels(first: Predictions, second: Predictions) -> None:
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


def _differences(name: str, first, second, drawn_first, drawn_second, front=()) -> pd.DataFrame:
    return _judged(name, first, second, *interval_ends(drawn_second - drawn_first), front)


def _judged(name: str, first, second, low, high, front=()) -> pd.DataFrame:
    low, high = np.atleast_1d(low), np.atleast_1d(high)
    verdict = np.select([low > 0, high < 0], ["better", "worse"], "open")
    if name in LOWER_IS_BETTER:
        verdict = np.select([low > 0, high < 0], ["worse", "better"], "open")
    if name in NEITHER_IS_BETTER:
        verdict = np.where(verdict == "open", "open", "differs")
    first, second = np.atleast_1d(first), np.atleast_1d(second)
    values = {"first": first, "second": second, "difference": second - first}
    ends = {"low": low, "high": high, "verdict": verdict}
    return pd.DataFrame({**dict(front), "figure": name, **values, **ends})
