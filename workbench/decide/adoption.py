"""Which classes keep a threshold of their own: the search again on resampled images.

On the images that chose it every threshold seems better than it is. How much better, is seen by
doing the whole search again on resamplings and judging what it finds on the images as they are.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.special import stdtr, stdtrit

from workbench.decide.intervals import LEVEL, discoveries, interval, or_none
from workbench.decide.levels import LevelCounts, mean_defined
from workbench.decide.recommendation import Expected
from workbench.decide.tuning import Pair, Rules, tune

# Of the adoptions so many may be luck by a test that errs to the safe side: fewer than 1 in 20 are,
# and of runs whose classes are all alike fewer than 1 in 20 adopt any (`tests.prove coverage`).
LUCKY = 0.15


@dataclass(frozen=True)
class Trials:
    """The whole search on resampled images: what it found, and what that was worth. [R, C] each

    `own_value` and `shared_value` are on the images that chose, `own_true` and `shared_true` the
    same thresholds on the images as they are: the differences are the luck of choosing.
    """

    shared: np.ndarray  # [R]
    own: np.ndarray
    own_value: np.ndarray
    shared_value: np.ndarray
    own_true: np.ndarray
    shared_true: np.ndarray

    @classmethod
    def of(cls, counts: LevelCounts, blocks: Iterable[LevelCounts], rules: Rules) -> Trials:
        truth, found = rules.objective.class_values(counts), []
        for block in blocks:
            values = rules.objective.class_values(block)
            pair = tune(block, rules, values)
            found.append((pair.shared, pair.own, *pair.values(values), *pair.values(truth)))
        return cls(*map(np.concatenate, zip(*found, strict=True)))

    @cached_property
    def gain(self) -> np.ndarray:
        return self.own_value - self.shared_value

    @cached_property
    def true_gain(self) -> np.ndarray:
        return self.own_true - self.shared_true

    @cached_property
    def luck(self) -> np.ndarray:
        """By how much a gain seems larger on the images that chose than it is."""
        return self.gain - self.true_gain


@dataclass(frozen=True)
class Choice:
    """One shared threshold, one of its own for every class, and which of the two is used."""

    shared: int
    own: np.ndarray  # int [C], smoothed
    adopted: np.ndarray  # bool [C]
    adopted_in: np.ndarray  # bool [R, C]: by the same choice on resampled images
    gain: np.ndarray  # [3, C], the luck of choosing taken off, and its ends; NaN where undefined
    value: np.ndarray  # [C], of the own threshold on the images that chose

    @property
    def integers(self) -> np.ndarray:
        return np.where(self.adopted, self.own, self.shared)


def choose(counts: LevelCounts, tried: Trials, rules: Rules) -> Choice:
    """Tune on all images; a class keeps its own threshold only where that is no luck."""
    pair = tune(counts, rules)
    own, shared = pair.values(rules.objective.class_values(counts))
    adopted = _adopt(own, own - shared, pair, tried, rules)
    adopted &= np.all([total > 0 for total in counts.totals], axis=0)
    again = Pair(tried.shared, tried.own)
    gain = _gains(own - shared, tried, adopted)
    gain[0, (pair.own == pair.shared) & ~np.isnan(gain[0])] = 0.0
    gain[1:, pair.own == pair.shared] = np.nan  # equal thresholds: known, nothing to be unsure of
    if rules.objective.has_floor:
        gain[:] = np.nan  # a promise, not a balance: finding more is no gain where it is broken
    return Choice(
        shared=int(pair.shared), own=pair.own, adopted=adopted, gain=gain, value=own,
        adopted_in=_adopt(tried.own_value, tried.gain, again, tried, rules),
    )  # fmt: skip


def _adopt(
    value: np.ndarray, gain: np.ndarray, pair: Pair, tried: Trials, rules: Rules
) -> np.ndarray:
    """Decide which classes keep their own threshold: [..., C] of values and apparent gains.

    With a floor those whose own threshold surely keeps it. Else those whose gain is too large for
    luck, and that of what resampled images chose too: a peak that only these images have is not
    found again.
    """
    if not rules.knobs.per_class_enabled:
        return np.zeros(gain.shape, bool)
    differs = pair.own != pair.shared[..., None]
    if rules.objective.has_floor:
        return differs & (value >= 0)
    mean, spread = _luck(tried)
    least, doubt = np.minimum(gain - mean, mean_defined(tried.true_gain, axis=0)), spread > 0
    surprise = np.divide(least, spread, out=np.full(gain.shape, -np.inf), where=doubt)
    luck = stdtr(len(tried.shared) - 1, -surprise) if len(tried.shared) > 1 else np.ones(gain.shape)
    luck = np.where(differs & ~np.isnan(luck), luck, 1.0)
    enough = gain - mean >= rules.knobs.per_class_improvement_threshold
    return discoveries(luck, LUCKY) & enough


def _luck(tried: Trials) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of the luck of each class: [C] each, NaN where undefined."""
    mean = mean_defined(tried.luck, axis=0)
    replicates = len(tried.shared)
    spread = np.sqrt(mean_defined(np.square(tried.luck - mean), axis=0) * (1 + 1 / replicates))
    return mean, spread


def _gains(gain: np.ndarray, tried: Trials, adopted: np.ndarray) -> np.ndarray:
    """Take the luck off the apparent gains [C], and say how sure the rest is: [3, C].

    Whom one picks out for a large gain was lucky more often than not. The intervals of the adopted
    are widened for it, by how few of all they are (Benjamini and Yekutieli 2005).
    """
    mean, spread = _luck(tried)
    tail = np.where(adopted, adopted.mean(), 1.0) * (1 - LEVEL) / 2
    half = stdtrit(max(len(tried.shared) - 1, 1), 1 - tail) * spread
    half = np.where(half > 0, half, np.nan)  # what no resampling changes is not thereby sure
    left = gain - mean
    return np.stack([left, left - half, left + half])


def expected(counts: LevelCounts, choice: Choice, tried: Trials, rules: Rules) -> Expected:
    """Value of the whole choice: on the images that chose, and less the luck of choosing."""
    values = rules.objective.class_values(counts)
    pair = Pair(np.array(choice.shared), choice.integers)
    apparent = mean_defined(pair.values(values)[0], axis=-1)
    seeming, true = (
        mean_defined(np.where(choice.adopted_in, own, shared), axis=-1)
        for own, shared in (
            (tried.own_value, tried.shared_value), (tried.own_true, tried.shared_true),
        )
    )  # fmt: skip
    optimism = mean_defined(seeming - true, axis=0)
    low, high = interval(seeming - true) or (np.nan, np.nan)
    ends = or_none(apparent - high), or_none(apparent - low)
    return Expected(
        apparent=or_none(apparent), optimism=or_none(optimism),
        corrected=or_none(apparent - optimism),
        corrected_interval=None if None in ends else ends,
    )  # fmt: skip
