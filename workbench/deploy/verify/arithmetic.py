"""Shares, means, intervals of shares, Student's t, and how images are drawn again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

NEVER = 128  # as a threshold: one above the highest int8
BLOCK = 64  # resamplings at a time
FOLDS, DEALS, REPEATS = 5, 10, 4  # deals of the folds of a floor, and of all others
Tree = dict[str, Any]  # a part of a file, or what was derived in its place
Arrays = dict[str, np.ndarray]


def labels_of(arrays: Arrays) -> Arrays:
    """Return what is known of the images of a scores file."""
    grouped = {"groups": arrays["groups"]} if "groups" in arrays else {}
    return {"y_true": arrays["y_true"] > 0.5, "known": arrays["mask"] > 0.5, **grouped}


def draw_weights(
    units: np.ndarray, replicates: int, rng: np.random.Generator
) -> Iterator[np.ndarray]:
    """Yield how often each image is drawn, [B, N]; images of one unit are drawn together."""
    count = int(units.max()) + 1
    for start in range(0, replicates, BLOCK):
        rows = [np.bincount(rng.integers(0, count, count), minlength=count)[units]
                for _ in range(min(BLOCK, replicates - start))]  # fmt: skip
        yield np.array(rows, np.float64)


def count_levels(arrays: Arrays, rows: Any = slice(None)) -> list[np.ndarray]:
    """Count images by class and level, those with the class and those without: [C, 256] each."""
    true, known = arrays["y_true"][rows] > 0.5, arrays["mask"][rows] > 0.5
    levels = arrays["raw"][rows].astype(int) + 128
    return [
        np.stack([np.bincount(level[chosen], minlength=256)
                  for level, chosen in zip(levels.T, (side & known).T, strict=True)])
        for side in (true, ~true)
    ]  # fmt: skip


def deal(y_true: np.ndarray, rng: np.random.Generator, groups: np.ndarray | None) -> np.ndarray:
    """Deal images, or their groups, out to folds, rarest label first. [N]"""
    place = units_of(len(y_true), groups)
    labels = np.zeros((place.max() + 1, y_true.shape[1]), bool)
    np.logical_or.at(labels, place, y_true)
    rarity = np.argsort(np.argsort(labels.sum(0), kind="stable"))
    rarest = np.where(labels, rarity, labels.shape[1]).min(1)
    folds = np.empty(len(labels), int)
    order = np.lexsort((rng.permutation(len(labels)), rarest))
    folds[order] = np.arange(len(labels)) % min(FOLDS, len(y_true))
    return folds[place]


def units_of(images: int, groups: np.ndarray | None) -> np.ndarray:
    """Number what is drawn together: images, or their groups. [N]"""
    return np.arange(images) if groups is None else np.unique(groups, return_inverse=True)[1]


def _student(freedom: int) -> tuple[np.ndarray, np.ndarray]:
    """Tabulate Student's t: values, and the share below each; by t = sqrt(freedom) tan(angle)."""
    angle = np.linspace(-np.pi / 2, np.pi / 2, 200_003)[1:-1]
    density = np.cos(angle) ** (freedom - 1)
    below = np.cumsum(density) - density / 2
    return np.sqrt(freedom) * np.tan(angle), below / density.sum()


def student_share(values: np.ndarray, freedom: int) -> np.ndarray:
    return np.interp(values, *_student(freedom))


def student_quantile(shares: np.ndarray, freedom: int) -> np.ndarray:
    values, below = _student(freedom)
    return np.interp(shares, below, values)


def worth_of(residuals: np.ndarray, groups: np.ndarray | None = None) -> float:
    """Derive the share of labels [N, K] that counts where those of an image or group err alike."""
    place = units_of(len(residuals), groups)
    together, alone = np.bincount(place, weights=residuals.sum(1)), np.square(residuals).sum()
    if groups is not None:  # one more that errs as a whole
        size = float(np.square(np.bincount(place)).sum()) / len(place)
        together, alone = np.append(together, size), alone + size
    together = np.square(together).sum()
    return min(1.0, float(alone / together)) if together else 1.0


def logits_of(arrays: Arrays) -> np.ndarray:
    return (arrays["raw"].astype(np.float64) - arrays["zero_point"]) * arrays["scale"]


def sigmoid(logits: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-logits))


def softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def from_above(counts: np.ndarray) -> np.ndarray:
    sums = np.cumsum(counts[..., ::-1], axis=-1)[..., ::-1]
    return np.concatenate([sums, np.zeros((*counts.shape[:-1], 1), sums.dtype)], axis=-1)


def share_or_0(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """Divide; 0 where there is nothing to divide by."""
    return np.where(below > 0, above / np.maximum(below, 1e-300), 0.0)


def share_or_nan(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """Divide; NaN where there is nothing to divide by."""
    return np.where(below > 0, share_or_0(above, below), np.nan)


def wilson(
    hits: np.ndarray, trials: np.ndarray, z: np.ndarray | float = 1.959963984540054
) -> tuple[np.ndarray, np.ndarray]:
    """Return the interval of a share, 95 % by default, by the formula of Wilson (1927)."""
    trials = np.maximum(trials, 1e-9)
    share, rest = hits / trials, 1 + z**2 / trials
    half = z * np.sqrt(share * (1 - share) / trials + z**2 / (4 * trials**2)) / rest
    centre = (share + z**2 / (2 * trials)) / rest
    low, high = np.clip(centre - half, 0, 1), np.clip(centre + half, 0, 1)
    return np.where(share <= 0, 0.0, low), np.where(share >= 1, 1.0, high)


def even_ends(hits: np.ndarray, trials: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the 95 % interval of a share that misses to both sides alike (Cai 2005)."""
    z, trials = 1.959963984540054, np.maximum(trials, 1e-9)
    share, more = hits / trials, (2 * z**2 + 1) / 6
    middle = (hits + more) / (trials + 2 * more)
    variance = share * (1 - share)
    second = (z**2 + 3.5 - variance * (13 * z**2 + 17)) / 18
    half = z * np.sqrt(np.maximum(variance + second / trials, 0) / trials)
    low, high = np.clip(middle - half, 0, 1), np.clip(middle + half, 0, 1)
    return np.where(share <= 0, 0.0, low), np.where(share >= 1, 1.0, high)


def ends(drawn: np.ndarray) -> tuple[float, float] | None:
    """Return the ends of the 95 % that lie in the middle of what is defined."""
    defined = drawn[~np.isnan(drawn)]
    if not len(defined):
        return None
    low, high = np.quantile(defined, [0.025, 0.975])
    return float(low), float(high)


def mean_of_defined(values: np.ndarray) -> np.ndarray:
    """Mean over the first axis of what is not NaN."""
    defined = ~np.isnan(values)
    total = np.where(defined, values, 0).sum(0)
    return np.where(defined.any(0), total / np.maximum(defined.sum(0), 1), np.nan)


def nan_as_none(values: np.ndarray) -> list:
    return [None if value != value else value for value in values.tolist()]


def share_or_none(above: float, below: float) -> float | None:
    return float(above / below) if below else None


def mean_or_none(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if len(values) else None
