"""Does 80 % mean 80 %? Predicted probabilities against what happened, and how to correct them.

The correction is a rising line per class on the logits, one slope for all of them under softmax. It
ships only where it surely lowers the log loss of images that did not fit it; elsewhere slope 1 and
intercept 0 do.
With several labels the order of a class's scores, and so every decision, stays as it is, and the
line folds into the last layer or into the app's sigmoid.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from zipfile import BadZipFile

import numpy as np
import pandas as pd
from scipy.optimize import minimize_scalar
from scipy.special import expit, log_softmax, ndtri

from workbench.decide.clips import Clips
from workbench.decide.intervals import (
    LEVEL,
    Ends,
    Groups,
    assign_folds,
    independent_share,
    numbered,
    records,
    wilson,
)
from workbench.decide.levels import (
    LEVELS,
    LOWEST,
    NEVER,
    LevelCounts,
    Mask,
    Quantization,
    check_raw,
    check_scores,
    count_levels,
    known_labels,
    on_levels,
    part,
    ratio,
)
from workbench.decide.outcomes import Task, probabilities
from workbench.errors import InputError
from workbench.files import sha256

if TYPE_CHECKING:
    from workbench.settings import CalibrationSettings

log = logging.getLogger(__name__)
BINS = 15
FOLDS, REPEATS = 5, 4  # dealing the folds once more changes the figures: their mean counts
DOUBT = 0.005  # that any of the corrections that ship does not help
UNSEEN = 2.0  # labels a class that say the contrary, added to those that were seen
LEAST_LABELS = 10  # of each kind, for the interval of a calibration error
GAPS = np.append(0, np.geomspace(0.03, 100, 40))  # as a part of the measured gaps
SLOPES = (0.01, 100.0)  # above 0: a falling line would turn the decisions round
NEWTON_STEPS, CLOSE = 50, 1e-9
NOTEBOOKS = {"candidate_scores.npz": "05_quantize_student",
             "teacher_scores.npz": "03_train_teacher"}  # fmt: skip
Method = Literal["none", "temperature", "platt"]


def reliability(
    y_true: np.ndarray, probability: np.ndarray, mask: Mask = None, *, bins: int = BINS
) -> pd.DataFrame:
    """Compare predicted and real frequency in bins of equal width.

    One row a bin that holds labels, with a 95 % Wilson interval of the real frequency.
    """
    known = known_labels(mask, probability.shape)
    label, predicted = (np.asarray(y_true) > 0.5)[known], np.asarray(probability, np.float64)[known]
    place = _place_in(predicted, bins)
    count, hits, total = (
        np.bincount(place, weights=weight, minlength=bins) for weight in (None, label, predicted)
    )
    low, high = wilson(hits, count)
    frequency = {"observed": ratio(hits, count), "observed_low": low, "observed_high": high}
    edges = np.linspace(0, 1, bins + 1)
    bounds = {"from": edges[:-1], "to": edges[1:], "count": count}
    table = pd.DataFrame(bounds | {"predicted": ratio(total, count)} | frequency)
    return table[table["count"] > 0].reset_index(drop=True)


def _place_in(probability: np.ndarray, bins: int = BINS) -> np.ndarray:
    """Number the bin of each probability; 1.0 belongs to the last."""
    edges = np.linspace(0, 1, bins + 1)
    return np.clip(np.searchsorted(edges, probability, side="right") - 1, 0, bins - 1)


def calibration_error(
    y_true: np.ndarray, probability: np.ndarray, mask: Mask = None
) -> float | None:
    """Mean distance of prediction and reality over all labels (ECE); None without labels."""
    table = reliability(y_true, probability, mask)
    if not len(table):
        return None
    distance = (table.predicted - table.observed).abs()
    return float((distance * table["count"]).sum() / table["count"].sum())


def class_errors(
    y_true: np.ndarray, probability: np.ndarray, classes: Sequence[str], mask: Mask = None, *,
    replicates: int = 0, seed: int = 0, groups: Groups = None,
) -> pd.DataFrame:  # fmt: skip
    """Calibration error of every class and, in the last row, of all labels together."""
    check_scores(y_true, probability, mask)
    columns = [np.s_[:, [column]] for column in range(len(classes))] + [np.s_[:, :]]
    parts = [tuple(part(column, y_true, probability, mask)) for column in columns]
    errors = np.array([calibration_error(*arrays) for arrays in parts], np.float64)  # None: NaN
    table = pd.DataFrame({"class": [*classes, "all classes"], "error": errors})
    if replicates:
        knobs = {"replicates": replicates, "rng": np.random.default_rng(seed), "groups": groups}
        ends = [error_interval(*arrays, **knobs) for arrays in parts]
        low, high = np.array([pair or (np.nan, np.nan) for pair in ends]).T
        why = [None if pair else f"fewer than {LEAST_LABELS} labels of a kind" for pair in ends]
        table = table.assign(error_low=low, error_high=high, withheld=why)
    return table


def error_interval(
    y_true: np.ndarray, probability: np.ndarray, mask: Mask = None, *,
    replicates: int, rng: np.random.Generator, groups: Groups = None,
) -> Ends:  # fmt: skip
    """95 % interval of the calibration error that all images have; None where too few labels tell.

    Noise alone makes an error, so resampling answers around the measured one would never hold a
    small one. Instead labels are drawn anew as if the gaps between prediction and reality were 0,
    a little, as measured or much more of it, on both sides; the interval holds the errors under
    which the measured one is no surprise. It is widened to the measured error, which is above it
    where nearly all of it is noise.
    """
    known = known_labels(mask, probability.shape)
    label = (np.asarray(y_true) > 0.5) & known
    if min(label.sum(), known.sum() - label.sum()) < LEAST_LABELS:
        return None
    images, predicted, hits = _bin_sums(label[known], np.asarray(probability, np.float64)[known])
    predicted = predicted / images
    measured = np.abs(images * predicted - hits).sum() / images.sum()
    gap = (hits + 2 * predicted) / (images + 2) - predicted  # a bin of one label is not sure
    share = images / images.sum()
    alike = independent_share(label - np.where(known, probability, 0), groups)
    drawn = rng.multinomial(max(int(images.sum() * alike), 1), share, size=replicates)
    low, high = [], []
    for side in (1, -1):
        rate = np.clip(predicted + side * GAPS[:, None] * gap, 0, 1)
        noisy = np.abs(drawn * predicted - rng.binomial(drawn, rate[:, None]))  # [G, R, bins]
        errors, true = noisy.sum(-1) / drawn.sum(-1), np.abs(rate - predicted) @ share
        above = np.maximum.accumulate((errors >= measured - 1e-12).mean(1))
        below = np.minimum.accumulate((errors <= measured + 1e-12).mean(1))
        low.append(np.interp((1 - LEVEL) / 2, above, true))
        high.append(np.interp((LEVEL - 1) / 2, -below, true))
    return float(min(low)), float(max(*high, measured))


def _bin_sums(label: np.ndarray, probability: np.ndarray) -> np.ndarray:
    """Count labels, and sum predictions and positives, in each bin that holds any: [3, bins]."""
    place = _place_in(probability)
    weights = (None, probability, label)
    sums = np.array([np.bincount(place, weights=one, minlength=BINS) for one in weights])
    return sums[:, sums[0] > 0]


@dataclass(frozen=True)
class Calibration:
    """A line per class on the logits: `calibrated = slope * logit + intercept`."""

    method: Method
    classes: tuple[str, ...]
    slope: np.ndarray  # [C]; 1 / temperature; 1 where no correction ships
    intercept: np.ndarray  # [C]; 0 for temperature and where no correction ships
    evidence: pd.DataFrame  # a row a class: log loss held out, does the correction ship, why
    before: pd.DataFrame  # class_errors of the probabilities as they are
    after: pd.DataFrame  # and of those that ship, by lines fitted on other images
    held_out: np.ndarray  # the latter probabilities, [N, C]

    @property
    def table(self) -> pd.DataFrame:
        """One row a class and one for all of them, to be read by people."""
        table = self.before.rename(columns=lambda name: name.replace("error", "error_before"))
        after = self.after.drop(columns=["class", "withheld"], errors="ignore")
        table = table.join(after.rename(columns=lambda name: name.replace("error", "error_after")))
        slope, intercept = (np.append(line, np.nan) for line in (self.slope, self.intercept))
        return table.assign(slope=slope, intercept=intercept).join(self.evidence)

    @property
    def ships(self) -> bool:
        return bool(self.evidence.ships.any())

    def to_json(self) -> dict[str, Any]:
        return {"method": self.method, "classes": records(self.table)}


def calibrate(
    scores: Scores, classes: Sequence[str], settings: CalibrationSettings, seed: int
) -> Calibration:
    """Fit the lines on int8 scores [N, C]; those ship that surely help on held-out images.

    The method "none" keeps the probabilities and only measures them.
    """
    check_raw(scores.y_true, scores.raw, scores.mask)
    rng = np.random.default_rng(seed)
    tried = [scores.held_out(settings.method, rng) for _ in range(REPEATS)]
    evidence = _evidence(scores, tried, settings.method)
    ships = evidence.ships.to_numpy()
    slope, intercept = scores.fit(settings.method)
    slope, intercept = np.where(ships, slope, 1.0), np.where(ships, intercept, 0.0)
    held_out = probabilities(np.where(ships, tried[0], scores.logits), scores.task)
    resampling = {"replicates": settings.bootstrap_replicates, "seed": seed}
    resampling["groups"] = scores.groups
    asked = [(scores.y_true, answers, classes, scores.mask)
             for answers in (scores.probability, held_out)]  # fmt: skip
    before, after = (class_errors(*one, **resampling) for one in asked)
    found = (settings.method, tuple(classes), slope, intercept, evidence)
    return Calibration(*found, before, after, held_out)


def _evidence(scores: Scores, tried: Sequence[np.ndarray], method: Method) -> pd.DataFrame:
    """Judge each class by the log loss of its labels before and after, held out: one row a class.

    A mistake that no image made yet costs a surer answer most, so `UNSEEN` labels that say the
    contrary, spread over all images, are added to those that are there. One slope of a softmax is
    judged by the one answer of each image, for all classes at once.
    """
    known, before, contrary = scores.losses(scores.logits)
    after, contrary_after = np.mean([scores.losses(logits)[1:] for logits in tried], axis=0)
    gain, unseen = before - after, contrary - contrary_after
    sure = ndtri(1 - DOUBT / gain.shape[1])  # all classes together leave so little doubt
    groups = np.arange(len(gain)) if scores.groups is None else scores.groups
    sides = before, after, gain, unseen
    rows = [
        _verdict(*(side[rows, i] for side in sides), groups[rows], sure, method)
        for i, rows in enumerate(known.T)
    ]
    rows = rows * (scores.raw.shape[1] // len(rows))
    return pd.DataFrame(rows, columns=["loss_before", "loss_after", "ships", "reason"])


def _verdict(before, after, gain, unseen, groups, sure: float, method: Method) -> tuple:
    if not len(gain):
        return np.nan, np.nan, False, "left as it is: no label is known"
    total = len(gain) + UNSEEN
    mean = (gain.sum() + UNSEEN * unseen.mean()) / total
    together = np.bincount(numbered(groups), weights=gain - mean)
    squares = np.square(together).sum() + UNSEEN * np.square(unseen - mean).mean()
    deviation = np.sqrt(squares) / total
    if method == "none" or not gain.any():
        reason = "left as it is: nothing to correct"
    elif mean > sure * deviation:
        reason = "corrected: surely better on images that did not fit it"
    elif gain.mean() > 0:
        reason = "left as it is: better on images that did not fit it, but that may be luck"
    else:
        reason = "left as it is: worse on images that did not fit it"
    return before.mean(), after.mean(), reason.startswith("corrected"), reason


@dataclass(frozen=True)
class Scores:
    """What the product answered: integers, labels and which labels are known, all [N, C]."""

    raw: np.ndarray  # int8
    scale: float
    zero_point: int
    y_true: np.ndarray
    mask: Mask
    task: Task
    source_sha256: str | None = None  # of the file they were read from
    groups: Groups = None
    clips: Clips = field(default_factory=Clips)  # that the rows were pooled from

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

    def held_out(self, method: Method, rng: np.random.Generator) -> np.ndarray:
        """Return the logits [N, C] by lines that never saw the image they correct."""
        logits = self.logits.copy()
        folds = assign_folds(self.y_true, min(FOLDS, len(self.raw)), rng, self.groups)
        for fold in range(folds.max() + 1):
            inside = folds == fold
            if not inside.all():
                y_true, raw, mask = part(~inside, self.y_true, self.raw, self.mask)
                slope, intercept = replace(self, y_true=y_true, raw=raw, mask=mask).fit(method)
                logits[inside] = logits[inside] * slope + intercept
        return logits

    def losses(self, logits: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return which labels are known, their log loss, and that of the contrary labels: [N, C].

        A single label is one answer an image, [N, 1]; contrary to it is the mean of the others.
        """
        if self.task == "multilabel":
            signed = np.where(self.y_true > 0.5, logits, -logits)
            known = known_labels(self.mask, signed.shape)
            return known, np.logaddexp(0, -signed), np.logaddexp(0, signed)
        surprise, labels = -log_softmax(logits, axis=1), self.y_true > 0.5
        own = np.where(labels, surprise, 0).sum(1)
        others = (surprise.sum(1) - own) / max(logits.shape[1] - 1, 1)
        known = one_label(self.y_true, self.mask)
        return known[:, None], own[:, None], others[:, None]


def read_scores(path: Path, task: Task, pooled: bool = False) -> Scores:
    """Read what the product answered on validation: integers, or float logits as integers.

    `pooled` makes a row a group of photos.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            held = dict(archive)
        groups = held.get("groups")
        clips = Clips.of(groups, pooled)
        if pooled and groups is None:
            log.warning("evaluation.pool has no effect: no label table has a column group")
        y_true, mask = clips.labels(held["y_true"], held["mask"])
        if "raw" not in held:
            held["raw"], levels = on_levels(held["logits"])
            held |= {"scale": levels.scale, "zero_point": levels.zero_point}
        return Scores(
            clips.raw(held["raw"]), float(held["scale"]), int(held["zero_point"]), y_true,
            mask, task, sha256(path), None if clips.pools else groups, clips,
        )  # fmt: skip
    except (ValueError, EOFError, KeyError, BadZipFile):
        notebook = NOTEBOOKS.get(path.name, "the notebook that wrote it")
        raise InputError(f"{path} is damaged. Run {notebook} again") from None


def one_label(y_true: np.ndarray, mask: Mask) -> np.ndarray:
    """Images that are known to have exactly one class: [N]"""
    return ((y_true > 0.5).sum(1) == 1) & known_labels(mask, y_true.shape).all(1)


def fit_temperature(
    y_true: np.ndarray, logits: np.ndarray, mask: Mask = None
) -> tuple[np.ndarray, np.ndarray]:
    """Return the one softmax slope with the least log loss, for every class, and no intercept.

    Half an image with every answer equally likely keeps a perfect record from running off to
    infinity.
    """
    classes = logits.shape[1]
    known = one_label(y_true, mask)
    labels, chosen = y_true[known] > 0, logits[known]
    if not len(chosen):
        return np.ones(classes), np.zeros(classes)

    def loss(log_slope: float) -> float:
        log_probability = log_softmax(chosen * np.exp(log_slope), axis=1)
        pull = 0.5 * log_probability.mean(axis=1).mean()
        return -(log_probability[labels].sum() + pull)

    slope = np.exp(minimize_scalar(loss, bounds=np.log(SLOPES), options={"xatol": CLOSE}).x)
    return np.full(classes, slope), np.zeros(classes)


def fit_lines(
    counts: LevelCounts, quantization: Quantization, method: Method
) -> tuple[np.ndarray, np.ndarray]:
    """Return the slope and intercept of each class with the least log loss; 1 and 0 if undefined.

    Platt's softened targets keep separable and rare classes from running off to infinity.
    """
    positives, negatives = (side[:, None] for side in counts.totals)
    sure, unsure = (positives + 1) / (positives + 2), 1 / (negatives + 2)
    total = counts.positives + counts.negatives
    yes = counts.positives * sure + counts.negatives * unsure
    inputs = np.stack([quantization.logits(np.arange(LOWEST, NEVER)), np.ones(LEVELS)])
    defined = (positives > 0) & (negatives > 0)
    free = defined & np.array([True, method == "platt"])
    line = _descend(np.tile([1.0, 0.0], (len(total), 1)), free, inputs, yes, total)
    bound = np.clip(line, [SLOPES[0], -np.inf], [SLOPES[1], np.inf])
    inside = free & [False, True] & (bound != line).any(1, keepdims=True)
    return tuple(_descend(bound, inside, inputs, yes, total).T)


def _descend(line, free, inputs, yes, total) -> np.ndarray:
    """Newton's method on the log loss of every class at once, where `free`: lines [C, 2]."""
    line, shares = line.copy(), np.append(0.25 ** np.arange(12), 0)[:, None, None]
    for _ in range(NEWTON_STEPS):
        chance = expit(line @ inputs)
        pull = (total * chance - yes) @ inputs.T * free
        curvature = np.einsum("cl,il,jl->cij", total * chance * (1 - chance), inputs, inputs)
        curvature *= free[:, :, None] & free[:, None, :]
        curvature += np.eye(2) * np.where(free, 1e-12, 1.0)[:, :, None]
        tries = line - shares * np.linalg.solve(curvature, pull[..., None])[..., 0]
        logits = tries @ inputs
        loss = (yes * np.logaddexp(0, -logits) + (total - yes) * np.logaddexp(0, logits)).sum(-1)
        moved = tries[loss.argmin(0), np.arange(len(line))]
        if np.abs(moved - line).max() < CLOSE:
            return moved
        line = moved
    return line
