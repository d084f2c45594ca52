"""INT8 scores as counts: per class and level, how many images have the class and how many do not.

A class has 256 possible scores, so two rows of 256 counts hold all that thresholds, curves and
sliders need, whatever the number of images. A threshold is an integer: yes when `raw >= integer`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import expit

from workbench.errors import InputError

LEVELS = 256
LOWEST = -128  # of int8; as a threshold it says yes to everything
NEVER = 128  # one above the highest int8: as a threshold it never says yes
SMALLEST_SPAN = 1e-3  # of logits that are all alike
CELLS = 2 * LEVELS  # a label and a level
UNKNOWN_CELL = CELLS  # where images with an unknown label go
CHUNK_IMAGES = 16_384  # counting in pieces keeps 1 000 000 x 80 within tens of megabytes
Mask = np.ndarray | None  # above 0.5 where a label is known; None where all are


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


def on_levels(logits: np.ndarray) -> tuple[np.ndarray, Quantization]:
    """Write float logits [N, C] on 256 levels that cover them and 0, as a phone file would.

    All that counts levels then serves a float network as well. Its thresholds lie halfway between
    two levels, so that a logit and its level decide alike.
    """
    if not (logits.size and np.isfinite(logits).all()):
        raise InputError(f"{logits.size} logits, not all of them finite: train the network again")
    logits = np.asarray(logits, np.float64)
    low, high = min(logits.min(), 0.0), max(logits.max(), 0.0)
    scale = max(high - low, SMALLEST_SPAN) / (LEVELS - 1)
    zero_point = int(np.rint(LOWEST - low / scale))
    levels = np.clip(np.rint(logits / scale) + zero_point, LOWEST, NEVER - 1)
    return levels.astype(np.int8), Quantization(float(scale), zero_point)


@dataclass(frozen=True)
class LevelCounts:
    """Images per class and level; leading axes, if any, are folds or bootstrap replicates."""

    positives: np.ndarray  # [..., C, 256]
    negatives: np.ndarray  # [..., C, 256]

    @classmethod
    def of_cells(cls, counts: np.ndarray) -> LevelCounts:
        """Split counts [..., C, 512] of cells, as `level_cells` numbers them."""
        return cls(positives=counts[..., LEVELS:], negatives=counts[..., :LEVELS])

    def __getitem__(self, index: object) -> LevelCounts:
        return LevelCounts(self.positives[index], self.negatives[index])

    @property
    def total(self) -> LevelCounts:
        """All folds or replicates of the first axis together."""
        return LevelCounts(self.positives.sum(0), self.negatives.sum(0))

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


def count_levels(y_true: np.ndarray, raw: np.ndarray, mask: Mask = None) -> LevelCounts:
    """Count in one pass over [N, C] int8 scores; masked labels are left out."""
    check_scores(y_true, raw, mask)
    classes = raw.shape[1]
    counts = np.zeros(classes * (CELLS + 1), np.int64)
    offsets = np.arange(classes) * (CELLS + 1)
    for rows in chunks(len(raw)):
        cells = level_cells(*part(rows, y_true, raw, mask))
        counts += np.bincount((cells + offsets).ravel(), minlength=len(counts))
    return LevelCounts.of_cells(counts.reshape(classes, CELLS + 1)[:, :CELLS])


def level_cells(y_true: np.ndarray, raw: np.ndarray, mask: Mask) -> np.ndarray:
    """Number each entry by its label and level, 0…511; unknown labels get 512. [N, C] int64"""
    cells = raw.astype(np.int64)
    cells -= LOWEST
    cells += (np.asarray(y_true) > 0.5) * np.int64(LEVELS)
    if mask is not None:
        cells[np.asarray(mask) <= 0.5] = UNKNOWN_CELL
    return cells


def part(rows: object, *arrays: Mask) -> Iterator[Mask]:
    """Take the same part of several arrays; what is None stays None."""
    return (None if array is None else array[rows] for array in arrays)


def known_labels(mask: Mask, shape: tuple[int, ...]) -> np.ndarray:
    """Which labels are known, as bool of that shape."""
    return np.ones(shape, bool) if mask is None else np.asarray(mask) > 0.5


def chunks(images: int) -> Iterator[slice]:
    return (slice(start, start + CHUNK_IMAGES) for start in range(0, images, CHUNK_IMAGES))


def check_scores(y_true: np.ndarray, scores: np.ndarray, mask: Mask) -> None:
    """Refuse arrays that do not describe the same images and classes."""
    if scores.ndim != 2 or y_true.shape != scores.shape:
        raise InputError(
            f"labels are {y_true.shape} and scores {scores.shape}; both must be [images, classes]"
        )
    if mask is not None and mask.shape != scores.shape:
        raise InputError(f"the mask is {mask.shape}; it must be {scores.shape} like the scores")
    if 0 in scores.shape:
        raise InputError(f"scores are {scores.shape}: there is nothing to decide on")


def check_names(classes: Sequence[str], scores: np.ndarray) -> None:
    if len(classes) != scores.shape[1]:
        raise InputError(f"{len(classes)} class names for {scores.shape[1]} columns of scores")


def check_raw(y_true: np.ndarray, raw: np.ndarray, mask: Mask) -> None:
    """Refuse scores that are not those of the phone file."""
    check_scores(y_true, raw, mask)
    if raw.dtype != np.int8:
        raise InputError(f"scores are {raw.dtype}; those of the phone file are int8")


def ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """Divide, with 0 where there is nothing to divide by."""
    below = np.asarray(below, np.float64)
    return np.divide(above, below, out=np.zeros(np.broadcast(above, below).shape), where=below > 0)


def mean_defined(values: np.ndarray, axis: int) -> np.ndarray:
    """Mean of what is not NaN; NaN where nothing is. (np.nanmean warns there.)"""
    defined = ~np.isnan(values)
    total, count = np.where(defined, values, 0).sum(axis), defined.sum(axis)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)
