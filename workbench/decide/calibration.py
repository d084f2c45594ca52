"""Does 80 % mean 80 %? Predicted probabilities against what happened, and how to correct them.

The correction is a rising line per class on the logits, one slope for all of them under softmax.
With several labels the order of a class's scores, and so every decision, stays as it is, and the
line folds into the last layer or into the app's sigmoid.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from zipfile import BadZipFile

import numpy as np
import pandas as pd
from scipy.optimize import minimize, minimize_scalar
from scipy.special import expit, log_softmax, logit

from workbench.decide.intervals import (
    Groups,
    assign_folds,
    count_cells,
    image_weights,
    interval_ends,
    records,
    wilson,
)
from workbench.decide.levels import (
    LOWEST,
    NEVER,
    LevelCounts,
    Mask,
    Quantization,
    check_raw,
    check_scores,
    count_levels,
    known_labels,
    mean_defined,
    part,
    ratio,
)
from workbench.decide.outcomes import Task, probabilities
from workbench.errors import InputError
from workbench.files import sha256

if TYPE_CHECKING:
    from workbench.settings import CalibrationSettings

BINS = 15
FOLDS = 5
SURE = 1e-9  # a probability of 0 or 1 has no logit
SLOPES = (0.01, 100.0)  # above 0: a falling line would turn the decisions round
Binning = Literal["width", "mass"]
Method = Literal["none", "temperature", "platt"]


def reliability(
    y_true: np.ndarray, probability: np.ndarray, mask: Mask = None, *,
    bins: int = BINS, binning: Binning = "width",
) -> pd.DataFrame:  # fmt: skip
    """Compare predicted and real frequency in bins of equal width, or of equal numbers of labels.

    One row a bin that holds labels, with a 95 % Wilson interval of the real frequency.
    """
    known = known_labels(mask, probability.shape)
    label, predicted = (np.asarray(y_true) > 0.5)[known], np.asarray(probability, np.float64)[known]
    edges = _bin_edges(predicted, bins, binning)
    place = _place_in(predicted, edges)
    count, hits, total = (
        np.bincount(place, weights=weight, minlength=len(edges) - 1)
        for weight in (None, label, predicted)
    )
    low, high = wilson(hits, count)
    frequency = {"observed": ratio(hits, count), "observed_low": low, "observed_high": high}
    bounds = {"from": edges[:-1], "to": edges[1:], "count": count}
    table = pd.DataFrame(bounds | {"predicted": ratio(total, count)} | frequency)
    return table[table["count"] > 0].reset_index(drop=True)


def _bin_edges(probability: np.ndarray, bins: int, binning: Binning) -> np.ndarray:
    if binning == "width" or not len(probability):
        return np.linspace(0, 1, bins + 1)
    inner = np.quantile(probability, np.arange(1, bins) / bins)
    return np.unique(np.concatenate([[0.0], inner, [1.0]]))


def _place_in(probability: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Number the bin of each probability; 1.0 belongs to the last."""
    return np.clip(np.searchsorted(edges, probability, side="right") - 1, 0, len(edges) - 2)


def calibration_error(
    y_true: np.ndarray, probability: np.ndarray, mask: Mask = None, *,
    bins: int = BINS, binning: Binning = "width",
) -> float | None:  # fmt: skip
    """Mean distance of prediction and reality over all labels (ECE); None without labels."""
    table = reliability(y_true, probability, mask, bins=bins, binning=binning)
    if not len(table):
        return None
    distance = (table.predicted - table.observed).abs()
    return float((distance * table["count"]).sum() / table["count"].sum())


def class_errors(
    y_true: np.ndarray, probability: np.ndarray, classes: Sequence[str], mask: Mask = None, *,
    binning: Binning = "width", replicates: int = 0, seed: int = 0,
) -> pd.DataFrame:  # fmt: skip
    """Calibration error of every class and, in the last row, of all labels together.

    The intervals are centred on the error: resampling adds noise of its own, and a distance can
    only grow by noise.
    """
    check_scores(y_true, probability, mask)
    columns = (np.s_[:, column] for column in (*range(len(classes)), slice(None)))
    parts = (part(column, y_true, probability, mask) for column in columns)
    found = [calibration_error(*arrays, binning=binning) for arrays in parts]
    errors = np.array([np.nan if error is None else error for error in found])
    table = pd.DataFrame({"class": [*classes, "all classes"], "error": errors})
    if replicates:
        both = [Bins.of(y_true, probability, mask, binning, pooled=one) for one in (False, True)]
        blocks = image_weights(len(y_true), replicates, np.random.default_rng(seed))
        sides = ([bins.errors(block) for bins in both] for block in blocks)
        drawn = np.concatenate([np.concatenate(side, axis=1) for side in sides])
        low, high = interval_ends(drawn - mean_defined(drawn, 0) + errors)
        table = table.assign(error_low=np.maximum(low, 0), error_high=high)
    return table


@dataclass(frozen=True)
class Bins:
    """Labels sorted into bins once; resampling keeps the bins and their mean predictions."""

    cells: np.ndarray  # 2 * bin + label, [N, C]
    predicted: np.ndarray  # mean probability of each bin, [C, bins]; [1, bins] when pooled
    pooled: bool

    @classmethod
    def of(
        cls, y_true: np.ndarray, probability: np.ndarray, mask: Mask, binning: Binning = "width",
        *, pooled: bool = False,
    ) -> Bins:  # fmt: skip
        """Sort each class into bins of its own, or all labels into the same."""
        known = known_labels(mask, probability.shape)
        columns = [slice(None)] if pooled else range(probability.shape[1])
        place, predicted = np.empty(probability.shape, np.int32), []
        for column in columns:
            chosen = probability[:, column][known[:, column]]
            edges = _bin_edges(chosen, BINS, binning)
            place[:, column] = _place_in(probability[:, column], edges)
            inside = place[:, column][known[:, column]]
            total = np.bincount(inside, weights=chosen, minlength=BINS)
            predicted.append(ratio(total, np.bincount(inside, minlength=BINS)))
        cells = np.where(known, 2 * place + (np.asarray(y_true) > 0.5), 2 * BINS)
        return cls(cells.astype(np.int32), np.array(predicted), pooled)

    def errors(self, weights: np.ndarray) -> np.ndarray:
        """Calibration errors of a block of replicates: [B, C], or [B, 1] when pooled."""
        counts = count_cells(self.cells, 2 * BINS, weights).astype(np.float64)
        counts = counts.sum(1, keepdims=True) if self.pooled else counts
        without, with_class = counts[..., 0::2], counts[..., 1::2]
        images = without + with_class
        distance = np.abs(images * self.predicted - with_class).sum(-1)
        return np.where(images.sum(-1) > 0, ratio(distance, images.sum(-1)), np.nan)


@dataclass(frozen=True)
class Calibration:
    """A line per class on the logits: `calibrated = slope * logit + intercept`."""

    method: Method
    classes: tuple[str, ...]
    slope: np.ndarray  # [C]; 1 / temperature
    intercept: np.ndarray  # [C]; 0 for temperature
    before: pd.DataFrame  # class_errors of the probabilities as they are
    after: pd.DataFrame  # and corrected by lines fitted on other images
    held_out: np.ndarray  # the latter probabilities, [N, C]

    @property
    def table(self) -> pd.DataFrame:
        """One row a class and one for all of them, to be read by people."""
        table = self.before.rename(columns=lambda name: name.replace("error", "error_before"))
        after = self.after.drop(columns="class")
        table = table.join(after.rename(columns=lambda name: name.replace("error", "error_after")))
        slope, intercept = (np.append(line, np.nan) for line in (self.slope, self.intercept))
        return table.assign(slope=slope, intercept=intercept)

    def to_json(self) -> dict[str, Any]:
        return {"method": self.method, "classes": records(self.table)}


def calibrate(
    scores: Scores, classes: Sequence[str], settings: CalibrationSettings, seed: int
) -> Calibration:
    """Fit the lines on int8 scores [N, C]; what they help is measured on held-out folds.

    The method "none" keeps the probabilities and only measures them.
    """
    check_raw(scores.y_true, scores.raw, scores.mask)
    slope, intercept = scores.fit(settings.method)
    held_out = scores.held_out(settings.method, seed)
    resampling = {"replicates": settings.bootstrap_replicates, "seed": seed}
    tables = []
    for probability in (scores.probability, held_out):
        asked = scores.y_true, probability, classes, scores.mask
        adaptive = class_errors(*asked, binning="mass")  # bins that hold equally many labels
        tables.append(class_errors(*asked, **resampling).assign(adaptive_error=adaptive.error))
    return Calibration(settings.method, tuple(classes), slope, intercept, *tables, held_out)


def correct(
    probability: np.ndarray, slope: np.ndarray, intercept: np.ndarray, task: Task
) -> np.ndarray:
    """Apply the lines to probabilities [N, C], as an app does before it shows one."""
    sure = np.clip(probability, SURE, 1 - SURE)
    logits = np.log(sure) if task == "single_label" else logit(sure)
    return probabilities(logits * slope + intercept, task)


@dataclass(frozen=True)
class Scores:
    """What the phone file answered: integers, labels and which labels are known, all [N, C]."""

    raw: np.ndarray  # int8
    scale: float
    zero_point: int
    y_true: np.ndarray
    mask: Mask
    task: Task
    source_sha256: str | None = None  # of the file they were read from
    groups: Groups = None

    @property
    def quantization(self) -> Quantization:
        return Quantization(self.scale, self.zero_point)

    @cached_property
    def logits(self) -> np.ndarray:
        return self.quantization.logits(self.raw)

    @cached_property
    def probability(self) -> np.ndarray:
        return probabilities(self.logits, self.task)

    @property
    def counts(self) -> LevelCounts | None:
        """Images per class and level; a single label is not decided class by class."""
        multilabel = self.task == "multilabel"
        return count_levels(self.y_true, self.raw, self.mask) if multilabel else None

    def fit(self, method: Method) -> tuple[np.ndarray, np.ndarray]:
        """Return the slope and intercept of each class."""
        if method == "none":
            return np.ones(self.raw.shape[1]), np.zeros(self.raw.shape[1])
        if self.task == "single_label":
            return fit_temperature(self.y_true, self.logits, self.mask)
        return fit_lines(self.counts, self.quantization, method)

    def held_out(self, method: Method, seed: int) -> np.ndarray:
        """Return the probabilities [N, C] by lines that never saw the image they correct."""
        logits = self.logits.copy()
        folds = assign_folds(self.y_true, min(FOLDS, len(self.raw)), np.random.default_rng(seed))
        for fold in range(folds.max() + 1):
            inside = folds == fold
            if not inside.all():
                y_true, raw, mask = part(~inside, self.y_true, self.raw, self.mask)
                slope, intercept = replace(self, y_true=y_true, raw=raw, mask=mask).fit(method)
                logits[inside] = logits[inside] * slope + intercept
        return probabilities(logits, self.task)


def read_scores(path: Path, task: Task) -> Scores:
    """Read `candidate_scores.npz`."""
    try:
        with np.load(path, allow_pickle=False) as held:
            return Scores(
                held["raw"], float(held["scale"]), int(held["zero_point"]), held["y_true"],
                held["mask"], task, sha256(path), held.get("groups"),
            )  # fmt: skip
    except (ValueError, EOFError, KeyError, BadZipFile):
        raise InputError(f"{path} is damaged. Run 05_quantize_student again") from None


def fit_temperature(
    y_true: np.ndarray, logits: np.ndarray, mask: Mask = None
) -> tuple[np.ndarray, np.ndarray]:
    """Return the one softmax slope with the least log loss, for every class, and no intercept.

    Half an image with every answer equally likely keeps a perfect record from running off to
    infinity.
    """
    classes = logits.shape[1]
    known = (y_true.sum(axis=1) == 1) & (True if mask is None else (mask > 0).all(axis=1))
    labels, chosen = y_true[known] > 0, logits[known]
    if not len(chosen):
        return np.ones(classes), np.zeros(classes)

    def loss(log_slope: float) -> float:
        log_probability = log_softmax(chosen * np.exp(log_slope), axis=1)
        pull = 0.5 * log_probability.mean(axis=1).mean()
        return -(log_probability[labels].sum() + pull)

    slope = np.exp(minimize_scalar(loss, bounds=np.log(SLOPES), method="bounded").x)
    return np.full(classes, slope), np.zeros(classes)


def fit_lines(
    counts: LevelCounts, quantization: Quantization, method: Method
) -> tuple[np.ndarray, np.ndarray]:
    """Return the slope and intercept of each class with the least log loss; 1 and 0 if undefined.

    Platt's softened targets keep separable and rare classes from running off to infinity.
    """
    logits = quantization.logits(np.arange(LOWEST, NEVER))
    both = zip(counts.positives, counts.negatives, strict=True)
    slope, intercept = np.array([_fit_line(logits, *counted, method) for counted in both]).T
    return slope, intercept


def _fit_line(logits, positives, negatives, method: Method) -> tuple[float, float]:
    if not (positives.sum() and negatives.sum()):
        return 1.0, 0.0
    sure, unsure = (positives.sum() + 1) / (positives.sum() + 2), 1 / (negatives.sum() + 2)
    yes = positives * sure + negatives * unsure
    no = positives + negatives - yes

    def loss(line: np.ndarray) -> tuple[float, np.ndarray]:
        z = line[0] * logits + line[1]
        pull = (yes + no) * expit(z) - yes
        value = (yes * np.logaddexp(0, -z) + no * np.logaddexp(0, z)).sum()
        return value / yes.sum(), np.array([pull @ logits, pull.sum()]) / yes.sum()

    bounds = [SLOPES, (None, None) if method == "platt" else (0.0, 0.0)]
    slope, intercept = minimize(loss, (1.0, 0.0), jac=True, method="L-BFGS-B", bounds=bounds).x
    return float(slope), float(intercept)
