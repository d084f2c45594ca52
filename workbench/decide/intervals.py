"""How sure are we: resample the images with replacement and look at the figure again.

Every class of an image is drawn together, and two runs on the same images are drawn alike, so
differences are paired; images of one group (a clip, a patient) come and go together. All randomness
comes from the generator that is passed in.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
from scipy.sparse import csc_matrix

from workbench.decide.levels import CELLS, LevelCounts, Mask, chunks, level_cells, part

LEVEL = 0.95  # of every interval of the workbench
BLOCK_REPLICATES = 64  # at a time: fewer waste the sparse products, more leave the cache
BLOCK_WEIGHTS = 1 << 24  # and no more than this many weights, 64 MB
BLOCK_CELLS = 1 << 22  # nor counts, for thousands of classes
Groups = np.ndarray | None  # numbers [N] of what belongs together; None: every image for itself
Ends = tuple[float, float] | None  # of a 95 % interval; None where nothing could be resampled


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
    place = np.arange(images) if groups is None else np.unique(groups, return_inverse=True)[1]
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


def assign_folds(
    y_true: np.ndarray, folds: int, rng: np.random.Generator, groups: Groups = None
) -> np.ndarray:
    """Deal images out to folds, rarest label first, so that few positives spread evenly. [N]

    Groups are dealt out whole, each to a fold.
    """
    if groups is not None:
        units, place = np.unique(groups, return_inverse=True)
        labels = np.zeros((len(units), y_true.shape[1]))
        np.maximum.at(labels, place, y_true)
        return assign_folds(labels, folds, rng)[place]
    rarity = np.argsort(np.argsort((y_true > 0.5).sum(0), kind="stable"))  # 0 is the rarest class
    ranked = np.where(y_true > 0.5, rarity, y_true.shape[1])
    order = np.lexsort((rng.permutation(len(y_true)), ranked.min(1)))
    assigned = np.empty(len(y_true), np.int64)
    assigned[order] = np.arange(len(y_true)) % folds
    return assigned
