"""How sure are we: what other images of the same kind would have said.

Shares, like precision and F1, take a formula; everything else resamples the images with
replacement and looks at the figure again. Every class of an image is drawn together, and two runs
on the same images are drawn alike, so differences are paired; images of one group (a clip, a
patient) come and go together. All randomness comes from the generator that is passed in.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import pandas as pd
from scipy.sparse import csc_matrix
from scipy.special import expit, logit, ndtri

from workbench.decide.levels import (
    CELLS,
    LevelCounts,
    Mask,
    chunks,
    level_cells,
    mean_defined,
    part,
)

LEVEL = 0.95  # of every interval of the workbench
LEAST_IMAGES = 5  # that a figure needs for an interval: below, one image moves it by a quarter
NOTHING = 1e-9  # less than this is the rounding of what does not vary
BLOCK_REPLICATES = 64  # at a time: fewer waste the sparse products, more leave the cache
BLOCK_WEIGHTS = 1 << 24  # and no more than this many weights, 64 MB
BLOCK_CELLS = 1 << 22  # nor counts, for thousands of classes
Groups = np.ndarray | None  # numbers [N] of what belongs together; None: every image for itself
Ends = tuple[float, float] | None  # of a 95 % interval; None where nothing could be resampled


def wilson(
    hits: np.ndarray, count: np.ndarray, confidence: np.ndarray | float = LEVEL
) -> tuple[np.ndarray, np.ndarray]:
    """Interval of a share; honest near 0 and 1, where the usual one leaves [0, 1]."""
    z = ndtri((1 + confidence) / 2)
    count = np.maximum(np.asarray(count, np.float64), 1e-9)
    share = np.asarray(hits) / count
    centre = (share + z**2 / (2 * count)) / (1 + z**2 / count)
    half = z * np.sqrt(share * (1 - share) / count + (z / (2 * count)) ** 2) / (1 + z**2 / count)
    low, high = np.clip(centre - half, 0, 1), np.clip(centre + half, 0, 1)
    return np.where(share <= 0, 0.0, low), np.where(share >= 1, 1.0, high)


def even_ends(hits: np.ndarray, count: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Interval of a share whose ends miss it equally often (Cai 2005).

    Where nearly all of few answers are right, Wilson's lower end lies too low to say much.
    """
    square = ndtri((1 + LEVEL) / 2) ** 2
    count = np.maximum(np.asarray(count, np.float64), 1e-9)
    share = np.asarray(hits) / count
    pull, spread = square / 3 + 1 / 6, share * (1 - share)
    centre = (share * count + pull) / (count + 2 * pull)
    curved = square / 18 + 7 / 36 - spread * (13 * square + 17) / 18
    half = np.sqrt(square * np.maximum(spread + curved / count, 0) / count)
    low, high = np.clip(centre - half, 0, 1), np.clip(centre + half, 0, 1)
    return np.where(share <= 0, 0.0, low), np.where(share >= 1, 1.0, high)


def numbered(groups: np.ndarray) -> np.ndarray:
    """Number the groups that occur from 0, without gaps. [N]"""
    return np.unique(groups, return_inverse=True)[1]


def share_interval(classes: Iterable[tuple[np.ndarray, np.ndarray]], groups: Groups = None) -> Ends:
    """Interval of the mean over classes of hits among trials, given image by image: [N] each.

    It is Wilson's, with as many trials as the variance between the images, or groups, is worth:
    answers to one image are not independent, and an F1 counts a hit twice. One image more that
    varies as independent answers do steadies what few mistakes say of it. A class without trials
    is 0.
    """
    place = None if groups is None else numbered(groups)
    shares, inverse_trials, mistakes, deviation, told = [], 0.0, 0.0, 0.0, False
    for hits, trials in classes:
        if place is not None:
            hits, trials = (np.bincount(place, weights=side) for side in (hits, trials))
        total = max(trials.sum(), 1.0)
        shares.append(hits.sum() / total)
        inverse_trials += np.square(trials).sum() / total**2
        mistakes += min(hits.sum(), trials.sum() - hits.sum())
        deviation = deviation + (hits - shares[-1] * trials) / total
        told = told | (trials > 0)
    if np.sum(told) < LEAST_IMAGES:
        return None
    share, trials = np.mean(shares), len(shares) ** 2 / inverse_trials
    independent = share * (1 - share) / trials
    found = np.square(deviation).sum() / len(shares) ** 2
    design = (mistakes * found / independent + 1) / (mistakes + 1) if independent > 0 else 1.0
    low, high = wilson(share * trials / design, trials / design)
    return float(low), float(high)


def interval(replicates: np.ndarray) -> Ends:
    """Percentile interval of one figure; undefined (NaN) replicates are left out."""
    low, high = interval_ends(np.asarray(replicates, np.float64)[:, None])
    return None if np.isnan(low[0]) else (float(low[0]), float(high[0]))


def interval_ends(replicates: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Percentile ends along the first axis; NaN where every replicate is undefined."""
    columns = np.sort(replicates.reshape(len(replicates), -1), axis=0)  # NaN sorts last
    last = (~np.isnan(columns)).sum(0) - 1
    ends = []
    for share in ((1 - LEVEL) / 2, 1 - (1 - LEVEL) / 2):  # linear between the defined rows
        place = np.maximum(last, 0) * share
        below = np.floor(place).astype(int)
        both = np.stack([below, np.minimum(below + 1, np.maximum(last, 0))])
        low, high = np.take_along_axis(columns, both, axis=0)
        end = np.where(last >= 0, low + (high - low) * (place - below), np.nan)
        ends.append(end.reshape(replicates.shape[1:]))
    return ends[0], ends[1]


def apart(first: tuple[float, Ends], second: tuple[float, Ends]) -> Ends:
    """Interval of second less first, from each figure and its own; None where one has none.

    Both lie in one direction from what was measured as far as independent ones would (Zou and
    Donner 2008). Figures of the same images are not, so that it is rather too wide.
    """
    if first[1] is None or second[1] is None:
        return None
    (one, (low_one, high_one)), (two, (low_two, high_two)) = first, second
    down, up = np.hypot(two - low_two, high_one - one), np.hypot(high_two - two, one - low_one)
    return float(two - one - down), float(two - one + up)


def area_ends(value: np.ndarray, replicates: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Ends for areas under a curve [...], by the deviation of resampled ones [R, ...] in logits.

    Below 1 there is no room above a good area, and percentiles hold the true one too seldom.
    """
    mean = mean_defined(replicates, axis=0)
    deviation = np.sqrt(mean_defined(np.square(replicates - mean), axis=0))
    slope = value * (1 - value)  # of the sigmoid
    told = (deviation > NOTHING) & (slope > NOTHING)
    half = ndtri((1 + LEVEL) / 2) * deviation / np.where(told, slope, 1)
    centre = logit(np.where(told, value, 0.5))
    return tuple(np.where(told, expit(end), np.nan) for end in (centre - half, centre + half))


def discoveries(luck: np.ndarray, share: float = 1 - LEVEL) -> np.ndarray:
    """Tell which of [..., C] one-sided p-values are more than luck, over all classes together.

    At most `share` of those found are expected to be luck, and where all is luck that is the
    chance to find any (two-stage step-up of Benjamini, Krieger and Yekutieli 2006).
    """
    allowed = share / (1 + share)
    first = _step_up(luck, allowed)
    left = np.maximum(luck.shape[-1] - first.sum(-1, keepdims=True), 1)
    return _step_up(luck, allowed * luck.shape[-1] / left) & (luck <= share)


def _step_up(luck: np.ndarray, allowed: float | np.ndarray) -> np.ndarray:
    """Accept all up to the last that lies below its place's share of what is allowed."""
    place = np.arange(1, luck.shape[-1] + 1)
    ordered = np.sort(luck, axis=-1)
    below = ordered <= allowed * place / luck.shape[-1]
    return luck <= np.where(below, ordered, -1).max(-1, keepdims=True)


def or_none(value: float) -> float | None:
    """Return a plain number for JSON; None for NaN."""
    return None if np.isnan(value) else float(value)


def records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the rows for JSON; None for NaN."""
    return table.astype(object).where(table.notna(), None).to_dict("records")


def image_weights(
    images: int, replicates: int, rng: np.random.Generator, classes: int = 1, groups: Groups = None
) -> Iterator[np.ndarray]:
    """Yield blocks [images, B] float32: how often each image is drawn in each replicate.

    `classes` only makes the blocks of many classes small; the draws are the same.
    """
    place = np.arange(images) if groups is None else numbered(groups)
    units = int(place.max(initial=-1)) + 1
    room = min(BLOCK_WEIGHTS // images, BLOCK_CELLS // (classes * CELLS))
    block = int(np.clip(room, 1, BLOCK_REPLICATES))
    for start in range(0, replicates, block):
        width = min(block, replicates - start)
        weights = np.empty((width, images), np.float32)
        for row in weights:
            row[:] = np.bincount(rng.integers(0, units, units), minlength=units)[place]
        yield np.ascontiguousarray(weights.T)


def count_cells(cells: np.ndarray, size: int, weights: np.ndarray) -> np.ndarray:
    """Count weighted images per class and cell: [B, C, size]. Cells of `size` or more are dropped.

    One sparse product per class (a 1 in every image's cell) does for all replicates of a block
    what a bincount would do for one.
    """
    images, classes = cells.shape
    counts = np.empty((weights.shape[1], classes, size), np.float32)
    ones, starts = np.ones(images, np.float32), np.arange(images + 1)
    for index in range(classes):
        column = (ones, np.ascontiguousarray(cells[:, index], np.int32), starts)
        chosen = csc_matrix(column, shape=(size + 1, images), copy=False)
        counts[:, index] = (chosen @ weights)[:size].T
    return counts


def resampled_levels(
    y_true: np.ndarray, raw: np.ndarray, mask: Mask, replicates: int, rng: np.random.Generator,
    groups: Groups = None,
) -> Iterator[LevelCounts]:  # fmt: skip
    """Yield blocks of level counts with a leading axis of replicates."""
    cells = np.empty(raw.shape, np.int16, order="F")  # read class by class, many times over
    for rows in chunks(len(raw)):
        cells[rows] = level_cells(*part(rows, y_true, raw, mask))
    for weights in image_weights(len(raw), replicates, rng, raw.shape[1], groups):
        yield LevelCounts.of_cells(count_cells(cells, CELLS, weights).astype(np.float64))


def independent_share(residuals: np.ndarray, groups: Groups = None) -> float:
    """Share of the residuals [N, K] that counts: those of one image, or group, may err together.

    Of groups one more that errs as a whole is assumed, though none was seen to.
    """
    together, alone = residuals.sum(1), np.square(residuals).sum()
    if groups is not None:
        place = numbered(groups)
        size = np.square(np.bincount(place)).sum() / len(place)
        together, alone = np.append(np.bincount(place, weights=together), size), alone + size
    together = np.square(together).sum()
    return min(1.0, alone / together) if together else 1.0


def assign_folds(
    y_true: np.ndarray, folds: int, rng: np.random.Generator, groups: Groups = None
) -> np.ndarray:
    """Deal images out to folds, rarest label first, so that few positives spread evenly. [N]

    Groups are dealt out whole, each to a fold.
    """
    if groups is not None:
        place = numbered(groups)
        labels = np.zeros((place.max() + 1, y_true.shape[1]))
        np.maximum.at(labels, place, y_true)
        return assign_folds(labels, folds, rng)[place]
    rarity = np.argsort(np.argsort((y_true > 0.5).sum(0), kind="stable"))  # 0 is the rarest class
    ranked = np.where(y_true > 0.5, rarity, y_true.shape[1])
    order = np.lexsort((rng.permutation(len(y_true)), ranked.min(1)))
    assigned = np.empty(len(y_true), np.int64)
    assigned[order] = np.arange(len(y_true)) % folds
    return assigned
