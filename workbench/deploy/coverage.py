"""Which images stand for a whole split: every class and every frequent pair among them.

Calibration, parity and the golden images of a bundle are chosen by it. Decodes nothing.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np


class Labelled(Protocol):
    """What this module needs of a split: `data.tables.Split` has it."""

    targets: np.ndarray  # float32 [N, C]
    mask: np.ndarray  # float32 [N, C], 0 where the label is unknown
    groups: np.ndarray | None  # int64 [N], None where no photo has a group


def covering_rows(split: Labelled, size: int, seed: int) -> np.ndarray:
    """Return up to `size` row indices, ascending, in which every class and frequent pair occurs.

    Greedy: each step takes the image that adds most to what is least covered so far, the nth
    example of a feature being worth half the one before. Ties are broken by a seeded shuffle.
    """
    order = np.random.default_rng(seed).permutation(len(split.targets))
    features = _features(np.asarray(split.targets) * np.asarray(split.mask))[order]
    worth = np.ones(features.shape[1], dtype=np.float64)
    available = np.ones(len(order), dtype=bool)
    chosen = np.empty(min(size, len(order)), dtype=np.int64)
    for step in range(len(chosen)):
        best = int(np.argmax(np.where(available, features @ worth, -1.0)))
        chosen[step] = best
        available[best] = False
        worth[features[best] > 0] *= 0.5
    return np.sort(order[chosen])


def _features(targets: np.ndarray) -> np.ndarray:
    """Columns to cover: one a class, one a frequent pair of classes, one for "none of them"."""
    positive = targets > 0.5
    first, second = np.triu_indices(positive.shape[1], k=1)
    pairs = positive.T.astype(np.float32) @ positive.astype(np.float32)
    frequent = pairs[first, second] >= max(2, len(positive) // 100)  # one image in a hundred
    together = positive[:, first[frequent]] & positive[:, second[frequent]]
    nothing = ~positive.any(axis=1, keepdims=True)
    return np.hstack([positive, together, nothing]).astype(np.float32)
