"""Which training images calibrate the INT8 ranges. Chooses indices only; decodes nothing.

Post-training quantisation measures activation ranges on a few hundred images. A class that is
absent from them may saturate on the phone, so the choice covers classes and pairs first.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np


class Labelled(Protocol):
    """What this module needs of a split: `data.tables.Split` has it."""

    targets: np.ndarray  # float32 [N, C]
    mask: np.ndarray  # float32 [N, C], 0 where the label is unknown


def choose_calibration(split: Labelled, size: int, seed: int) -> np.ndarray:
    """Return up to `size` row indices, ascending, in which every class and frequent pair occurs.

    Greedy: each step takes the image that adds most to what is least covered so far. Ties are
    broken by a seeded shuffle, so another seed gives another, equally covering set.
    """
    order = np.random.default_rng(seed).permutation(len(split.targets))
    features = _features(np.asarray(split.targets) * np.asarray(split.mask))[order]
    chosen = _cover(features, min(size, len(order)))
    return np.sort(order[chosen])


def _features(targets: np.ndarray) -> np.ndarray:
    """Columns to cover: one a class, one a pair of classes that occurs, one for "none of them"."""
    positive = targets > 0.5
    first, second = np.triu_indices(positive.shape[1], k=1)
    pairs = positive.T.astype(np.float32) @ positive.astype(np.float32)
    frequent = pairs[first, second] >= _pair_floor(len(positive))
    together = positive[:, first[frequent]] & positive[:, second[frequent]]
    nothing = ~positive.any(axis=1, keepdims=True)
    return np.hstack([positive, together, nothing]).astype(np.float32)


def _pair_floor(images: int) -> int:
    """A pair counts as frequent from one image in a hundred on, and from two in any case."""
    return max(2, images // 100)


def _cover(features: np.ndarray, size: int) -> np.ndarray:
    """Pick rows by diminishing gain: the nth example of a feature is worth half the one before."""
    worth = np.ones(features.shape[1], dtype=np.float64)
    available = np.ones(len(features), dtype=bool)
    chosen = np.empty(size, dtype=np.int64)
    for step in range(size):
        gain = np.where(available, features @ worth, -1.0)
        best = int(np.argmax(gain))
        chosen[step] = best
        available[best] = False
        worth[features[best] > 0] *= 0.5
    return chosen
