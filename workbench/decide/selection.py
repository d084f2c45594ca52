"""Choose one threshold for all classes, one for each, and decide who may keep its own.

Works on counts per fold alone, so it takes milliseconds whatever the number of images, and can
be repeated inside a cross-validation to see how much of its promise is luck.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from workbench.decide.intervals import interval_ends
from workbench.decide.levels import LOWEST, LevelCounts, Objective, best, mean_defined


@dataclass(frozen=True)
class Rules:
    """Everything a choice depends on beside the counts."""

    objective: Objective
    integers: np.ndarray  # the candidates, ascending
    fallback: int  # the candidate nearest to probability one half, where nothing can be tuned
    smoothing_positives: float
    per_class: bool
    least_gain: float
    replicates: int


@dataclass(frozen=True)
class Choice:
    """One shared threshold, one of its own for every class, and which of the two is used."""

    shared: int
    own: np.ndarray  # int [C], smoothed
    adopted: np.ndarray  # bool [C]
    gain: np.ndarray  # float [C], on images that did not choose; NaN where undefined
    gain_low: np.ndarray
    gain_high: np.ndarray

    @property
    def integers(self) -> np.ndarray:
        return np.where(self.adopted, self.own, self.shared)


def tune(counts: LevelCounts, rules: Rules) -> tuple[np.ndarray, np.ndarray]:
    """Return the best shared integer [...] and the best one of each class, smoothed [..., C]."""
    values = rules.objective.class_values(counts)
    pooled = rules.objective.shared_values(counts, values)
    shared = np.where(np.isnan(pooled[..., 0]), rules.fallback, best(pooled, rules.integers))
    own = best(values, rules.integers)
    defined = ~np.isnan(values[..., 0])
    own = np.where(defined, own, shared[..., None])
    return shared, smooth(own, shared[..., None], counts.totals[0], rules)


def smooth(own: np.ndarray, shared: np.ndarray, positives: np.ndarray, rules: Rules) -> np.ndarray:
    """Pull thresholds of rare classes to the shared one, as if it had been seen that many times."""
    if rules.smoothing_positives == 0:
        return own
    trust = positives / (positives + rules.smoothing_positives)
    return nearest(trust * own + (1 - trust) * shared, rules.integers)


def nearest(wanted: np.ndarray, integers: np.ndarray) -> np.ndarray:
    """Return the nearest candidate; the lower of two equally near."""
    middles = (integers[1:] + integers[:-1]) / 2
    return integers[np.searchsorted(middles, wanted, side="left")]


def choose(folds: LevelCounts, rules: Rules, rng: np.random.Generator) -> Choice:
    """Tune on all folds; a class keeps its own threshold only where held-out images gain by it."""
    shared, own = tune(_total(folds), rules)
    outcomes = held_out_outcomes(folds, rules)
    gain = gains(outcomes, rules.objective)
    low, high = interval_ends(gains(_resample(outcomes, rules.replicates, rng), rules.objective))
    both_labels = np.all([total > 0 for total in _total(folds).totals], axis=0)
    adopted = both_labels & (own != shared) & (low > 0) & (gain >= rules.least_gain)
    return Choice(int(shared), own, adopted & rules.per_class, gain, low, high)


def held_out_outcomes(folds: LevelCounts, rules: Rules) -> np.ndarray:
    """Judge every fold by thresholds tuned on the others: counts [C, 2, 4].

    Axis 1 is without or with the class; axis 2 is who said yes: both thresholds, only the shared
    one, only the class's own, neither.
    """
    shared, own = tune(_without_each(folds), rules)
    shared = np.broadcast_to(shared[:, None], own.shape)
    sides = [_who_says_yes(counts, shared, own) for counts in (folds.negatives, folds.positives)]
    return np.stack(sides, axis=1)


def _who_says_yes(counts: np.ndarray, shared: np.ndarray, own: np.ndarray) -> np.ndarray:
    levels = np.arange(LOWEST, LOWEST + counts.shape[-1])
    by_shared, by_own = levels >= shared[..., None], levels >= own[..., None]
    groups = (by_shared & by_own, by_shared & ~by_own, ~by_shared & by_own, ~by_shared & ~by_own)
    return np.stack([(counts * group).sum((0, -1)) for group in groups], axis=-1)


def gains(outcomes: np.ndarray, objective: Objective) -> np.ndarray:
    """Value of the own threshold less value of the shared one, from [..., 2, 4] outcomes."""
    both, shared, own, _ = np.moveaxis(outcomes, -1, 0)
    negatives, positives = np.moveaxis(outcomes.sum(-1), -1, 0)
    value_own = objective.values((both + own)[..., 1], (both + own)[..., 0], positives, negatives)
    value_shared = objective.values(
        (both + shared)[..., 1], (both + shared)[..., 0], positives, negatives
    )
    return value_own - value_shared


def _resample(outcomes: np.ndarray, replicates: int, rng: np.random.Generator) -> np.ndarray:
    """Draw the images of each class again: a multinomial over its eight outcomes. [R, C, 2, 4]"""
    classes = len(outcomes)
    cells = outcomes.reshape(classes, 8)
    images = cells.sum(-1)
    shares = np.where(images[:, None] > 0, cells / np.maximum(images, 1)[:, None], 1 / 8)
    drawn = rng.multinomial(images, shares, size=(replicates, classes))
    return drawn.reshape(replicates, classes, 2, 4)


def held_out_value(folds: LevelCounts, rules: Rules, rng: np.random.Generator) -> float:
    """Value of the whole procedure, adoption included, on images that took no part in it."""
    held_out = []
    for fold in range(len(folds.positives)):
        others = np.delete(np.arange(len(folds.positives)), fold)
        held_out.append(_at(folds[fold], choose(folds[others], rules, rng).integers))
    tp, fp = np.sum(held_out, axis=0)
    return _mean_value(tp, fp, _total(folds), rules.objective)


def value_at(counts: LevelCounts, integers: np.ndarray, objective: Objective) -> float:
    """Mean value over the classes of the given thresholds [C] on the given counts."""
    return _mean_value(*_at(counts, integers), counts, objective)


def _at(counts: LevelCounts, integers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    place = (integers - LOWEST)[..., None]
    tp, fp = (np.take_along_axis(above, place, -1)[..., 0] for above in counts.at_least())
    return tp, fp


def _mean_value(tp: np.ndarray, fp: np.ndarray, counts: LevelCounts, objective: Objective) -> float:
    return float(mean_defined(objective.values(tp, fp, *counts.totals), axis=-1))


def _total(folds: LevelCounts) -> LevelCounts:
    return LevelCounts(folds.positives.sum(0), folds.negatives.sum(0))


def _without_each(folds: LevelCounts) -> LevelCounts:
    total = _total(folds)
    return LevelCounts(
        total.positives[None] - folds.positives, total.negatives[None] - folds.negatives
    )


def assign_folds(y_true: np.ndarray, folds: int, rng: np.random.Generator) -> np.ndarray:
    """Deal images out to folds, rarest label first, so that few positives spread evenly. [N]"""
    rarity = np.argsort(np.argsort((y_true > 0.5).sum(0), kind="stable"))  # 0 is the rarest class
    ranked = np.where(y_true > 0.5, rarity, y_true.shape[1])
    order = np.lexsort((rng.permutation(len(y_true)), ranked.min(1)))
    assigned = np.empty(len(y_true), np.int64)
    assigned[order] = np.arange(len(y_true)) % folds
    return assigned
