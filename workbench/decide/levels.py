"""INT8 scores as counts: per class and level, how many images have the class and how many do not.

A class has 256 possible scores, so two rows of 256 counts hold all that thresholds, curves and
sliders need, whatever the number of images. A threshold is an integer: yes when `raw >= integer`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from scipy.special import expit

from workbench.errors import InputError

LEVELS = 256
LOWEST = -128  # of int8; as a threshold it says yes to everything
NEVER = 128  # one above the highest int8: as a threshold it never says yes
CELLS = 2 * LEVELS  # a label and a level
UNKNOWN_CELL = CELLS  # where images with an unknown label go
CHUNK_IMAGES = 16_384  # counting in pieces keeps 1 000 000 x 80 within tens of megabytes


@dataclass(frozen=True)
class Quantization:
    """How the phone file writes a logit as an integer: `logit = (raw - zero_point) * scale`."""

    scale: float
    zero_point: int

    def __post_init__(self) -> None:
        if not (np.isfinite(self.scale) and self.scale > 0):
            raise InputError(f"output scale is {self.scale}; it must be above 0 and finite")

    def logits(self, raw: np.ndarray) -> np.ndarray:
        return (np.asarray(raw, np.float64) - self.zero_point) * self.scale

    def probabilities(self, raw: np.ndarray) -> np.ndarray:
        return expit(self.logits(raw))

    def threshold_logits(self, integer: np.ndarray) -> np.ndarray:
        """Halfway between two levels, where no rounding of either side can flip a decision."""
        return (np.asarray(integer, np.float64) - 0.5 - self.zero_point) * self.scale

    def threshold_probabilities(self, integer: np.ndarray) -> np.ndarray:
        return expit(self.threshold_logits(integer))

    def separable(self) -> np.ndarray:
        """Integers whose probability decides as they do; far out the sigmoid is flat. [K]"""
        integers = np.arange(LOWEST, NEVER + 1)
        margin = 8 * np.finfo(np.float64).eps  # two sigmoids may differ by a unit in the last place
        gap = self.threshold_probabilities(integers) - self.probabilities(integers - 1)
        rest = self.probabilities(integers) - self.threshold_probabilities(integers)
        relative = np.maximum(self.probabilities(integers), np.finfo(np.float64).tiny)
        apart = (gap > margin * relative) & ((rest > margin * relative) | (integers == NEVER))
        return integers[apart | (integers == LOWEST)]


@dataclass(frozen=True)
class LevelCounts:
    """Images per class and level; leading axes, if any, are folds or bootstrap replicates."""

    positives: np.ndarray  # [..., C, 256]
    negatives: np.ndarray  # [..., C, 256]

    def __add__(self, other: LevelCounts) -> LevelCounts:
        return LevelCounts(self.positives + other.positives, self.negatives + other.negatives)

    def __sub__(self, other: LevelCounts) -> LevelCounts:
        return LevelCounts(self.positives - other.positives, self.negatives - other.negatives)

    def __getitem__(self, index: object) -> LevelCounts:
        return LevelCounts(self.positives[index], self.negatives[index])

    @property
    def totals(self) -> tuple[np.ndarray, np.ndarray]:
        """Images with and without the class. [..., C] each"""
        return self.positives.sum(-1), self.negatives.sum(-1)

    def at_least(self) -> tuple[np.ndarray, np.ndarray]:
        """True and false positives of every threshold from LOWEST to NEVER. [..., C, 257] each"""
        return _sum_from_above(self.positives), _sum_from_above(self.negatives)


def _sum_from_above(counts: np.ndarray) -> np.ndarray:
    above = np.zeros((*counts.shape[:-1], LEVELS + 1), counts.dtype)
    np.cumsum(counts[..., ::-1], axis=-1, out=above[..., -2::-1])
    return above


def count_levels(
    y_true: np.ndarray, raw: np.ndarray, mask: np.ndarray | None = None
) -> LevelCounts:
    """Count in one pass over [N, C] int8 scores; masked labels are left out."""
    check_scores(y_true, raw, mask)
    classes = raw.shape[1]
    counts = np.zeros(classes * (CELLS + 1), np.int64)
    offsets = np.arange(classes) * (CELLS + 1)
    for rows in chunks(len(raw)):
        cells = level_cells(y_true[rows], raw[rows], None if mask is None else mask[rows])
        counts += np.bincount((cells + offsets).ravel(), minlength=len(counts))
    return counts_from_cells(counts.reshape(classes, CELLS + 1)[:, :CELLS])


def counts_from_cells(cells: np.ndarray) -> LevelCounts:
    """Split [..., C, 512] counts of cells into positives and negatives."""
    return LevelCounts(positives=cells[..., LEVELS:], negatives=cells[..., :LEVELS])


def level_cells(y_true: np.ndarray, raw: np.ndarray, mask: np.ndarray | None) -> np.ndarray:
    """Number each entry by its label and level, 0…511; unknown labels get 512. [N, C] int64"""
    cells = raw.astype(np.int64)
    cells -= LOWEST
    cells += (np.asarray(y_true) > 0.5) * np.int64(LEVELS)
    if mask is not None:
        cells[np.asarray(mask) <= 0.5] = UNKNOWN_CELL
    return cells


def chunks(images: int) -> Iterator[slice]:
    return (slice(start, start + CHUNK_IMAGES) for start in range(0, images, CHUNK_IMAGES))


def check_scores(y_true: np.ndarray, scores: np.ndarray, mask: np.ndarray | None) -> None:
    """Refuse arrays that do not describe the same images and classes."""
    if scores.ndim != 2 or y_true.shape != scores.shape:
        raise InputError(
            f"labels are {y_true.shape} and scores {scores.shape}; both must be [images, classes]"
        )
    if mask is not None and mask.shape != scores.shape:
        raise InputError(f"the mask is {mask.shape}; it must be {scores.shape} like the scores")
    if 0 in scores.shape:
        raise InputError(f"scores are {scores.shape}: there is nothing to decide on")


def check_raw(raw: np.ndarray) -> None:
    if raw.dtype != np.int8:
        raise InputError(f"scores are {raw.dtype}; the phone file's are int8 (see on_levels)")


def on_levels(logits: np.ndarray, limit: float = 10.0) -> tuple[np.ndarray, Quantization]:
    """Round float logits to 256 levels so that they can be searched like INT8 scores.

    `raw >= t` and `logit >= threshold_logits(t)` are the same decision on the floats themselves.
    Probabilities beyond `limit` (1 in 22 000 at 10) share the outermost levels.
    """
    if not np.isfinite(logits).all():
        raise InputError("some logits are NaN or infinite; the network that made them is broken")
    low, high = np.clip([logits.min(), logits.max()], -limit, limit)
    scale = max(float(high - low), 1e-3) / (LEVELS - 1)
    quantization = Quantization(scale, LOWEST - round(float(low) / scale))
    starts = quantization.threshold_logits(np.arange(LOWEST + 1, NEVER))
    raw = np.searchsorted(starts, logits, side="right") + LOWEST
    return raw.astype(np.int8), quantization


# What a good threshold is: one value per candidate, higher is better, from four counts.

Name = Literal["f1_macro", "fbeta", "precision_floor", "recall_floor", "cost", "prevalence"]
NEVER_ANSWERS = -1.0  # below every other value of a floor objective: silence keeps no promise
TIE = 1e-12  # values this close are one value; means of floats differ in the last places


class SearchKnobs(Protocol):
    """The part of `settings.threshold_search` that says what is searched and how."""

    grid_min: float
    grid_max: float
    grid_step: float
    method: str
    objective: str
    beta: float
    floor: float
    cost_false_positive: float
    cost_false_negative: float
    smoothing_positives: float


@dataclass(frozen=True)
class Objective:
    """A rule for good thresholds, with the figures that belong to it."""

    name: Name
    beta: float
    floor: float
    cost_false_positive: float
    cost_false_negative: float

    @classmethod
    def of(cls, knobs: SearchKnobs) -> Objective:
        return cls(
            knobs.objective,
            knobs.beta,
            knobs.floor,
            knobs.cost_false_positive,
            knobs.cost_false_negative,
        )

    def values(
        self, tp: np.ndarray, fp: np.ndarray, positives: np.ndarray, negatives: np.ndarray
    ) -> np.ndarray:
        """Value of saying yes to `tp` of `positives` and to `fp` of `negatives` images."""
        tp, fp, positives, negatives = np.broadcast_arrays(tp, fp, positives, negatives)
        values = _VALUES[self.name](self, tp, fp, positives, negatives)
        return np.where(positives > 0, values, np.nan)

    def shared_values(self, counts: LevelCounts, values: np.ndarray) -> np.ndarray:
        """Value of one threshold for all classes, [..., 257], given the values of each class.

        The floors are kept on the answers of all classes together; the others are class means.
        """
        if self.name in ("precision_floor", "recall_floor"):
            return self.class_values(_pool(counts))[..., 0, :]
        return mean_defined(values, axis=-2)

    def class_values(self, counts: LevelCounts) -> np.ndarray:
        """Value of every integer threshold for every class: [..., C, 257]."""
        tp, fp = counts.at_least()
        positives, negatives = counts.totals
        return self.values(tp, fp, positives[..., None], negatives[..., None])

    @property
    def sentence(self) -> str:
        """Say the rule to somebody who knows no machine learning."""
        return _SENTENCES[self.name].format(self)


def _f_beta(rule: Objective, tp, fp, positives, negatives) -> np.ndarray:
    weight = 1.0 if rule.name == "f1_macro" else rule.beta**2
    return ratio((1 + weight) * tp, weight * positives + tp + fp)


def _precision_floor(rule: Objective, tp, fp, positives, negatives) -> np.ndarray:
    precision = ratio(tp, tp + fp)
    kept = np.where(precision >= rule.floor, ratio(tp, positives), precision - rule.floor)
    return np.where(tp + fp > 0, kept, NEVER_ANSWERS)


def _recall_floor(rule: Objective, tp, fp, positives, negatives) -> np.ndarray:
    recall = ratio(tp, positives)
    kept = np.where(recall >= rule.floor, ratio(tp, tp + fp), recall - rule.floor)
    return np.where(tp + fp > 0, kept, NEVER_ANSWERS)


def _cost(rule: Objective, tp, fp, positives, negatives) -> np.ndarray:
    cost = rule.cost_false_positive * fp + rule.cost_false_negative * (positives - tp)
    return -ratio(cost, positives + negatives)


def _prevalence(rule: Objective, tp, fp, positives, negatives) -> np.ndarray:
    return -ratio(np.abs(tp + fp - positives), positives + negatives)


_VALUES = {
    "f1_macro": _f_beta,
    "fbeta": _f_beta,
    "precision_floor": _precision_floor,
    "recall_floor": _recall_floor,
    "cost": _cost,
    "prevalence": _prevalence,
}
_SENTENCES = {
    "f1_macro": "the best balance of finding the class and being right about it (F1)",
    "fbeta": "the best balance where finding counts {0.beta:g} times as much as being right",
    "precision_floor": "find as many as possible while at least {0.floor:.0%} of the yes are right",
    "recall_floor": "be right as often as possible while finding at least {0.floor:.0%}",
    "cost": (
        "the lowest cost: a wrong yes costs {0.cost_false_positive:g},"
        " a missed one {0.cost_false_negative:g}"
    ),
    "prevalence": "say yes as often as the class really occurs",
}


def ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """Divide, with 0 where there is nothing to divide by."""
    below = np.asarray(below, np.float64)
    return np.divide(above, below, out=np.zeros(np.broadcast(above, below).shape), where=below > 0)


def mean_defined(values: np.ndarray, axis: int) -> np.ndarray:
    """Mean of what is not NaN; NaN where nothing is. (np.nanmean warns there.)"""
    defined = ~np.isnan(values)
    total = np.where(defined, values, 0).sum(axis)
    count = defined.sum(axis)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def _pool(counts: LevelCounts) -> LevelCounts:
    return LevelCounts(
        counts.positives.sum(-2, keepdims=True), counts.negatives.sum(-2, keepdims=True)
    )


def candidates(knobs: SearchKnobs, quantization: Quantization) -> np.ndarray:
    """The integers a search may choose from, ascending."""
    separable = quantization.separable()
    if knobs.method == "exact":
        return separable
    steps = np.floor((knobs.grid_max - knobs.grid_min) / knobs.grid_step + 1e-9) + 1
    grid = knobs.grid_min + knobs.grid_step * np.arange(int(steps))
    levels = quantization.probabilities(np.arange(LOWEST, NEVER))
    chosen = np.unique(np.searchsorted(levels, grid - 1e-12)) + LOWEST
    allowed = chosen[np.isin(chosen, separable)]
    if not len(allowed):
        raise InputError(
            f"threshold_search: no INT8 level lies between grid_min {knobs.grid_min:g} and "
            f"grid_max {knobs.grid_max:g}; widen the grid or use method: exact"
        )
    return allowed


def best(values: np.ndarray, integers: np.ndarray) -> np.ndarray:
    """Pick the best candidate: of equals the middle of the longest run, farthest from a change.

    `values` is [..., 257] over all integers, `integers` the candidates. Where every value is NaN
    the answer is the lowest candidate, for the caller to replace.
    """
    values = values[..., integers - LOWEST]
    values = np.where(np.isnan(values), -np.inf, values)
    equal = values >= values.max(-1, keepdims=True) - TIE
    position = np.arange(len(integers))
    last_worse = np.maximum.accumulate(np.where(equal, -1, position), axis=-1)
    run = np.where(equal, position - last_worse, 0)
    end = run.argmax(-1)
    length = np.take_along_axis(run, end[..., None], -1)[..., 0]
    return integers[end - length // 2]
