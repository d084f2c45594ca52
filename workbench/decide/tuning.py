"""The best threshold for all classes, and the best one of each: integers, from counts.

How much of them is luck is not known here, see `adoption`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from workbench.decide.levels import LOWEST, NEVER, LevelCounts, Mask, Quantization, count_levels
from workbench.decide.objectives import Objective
from workbench.errors import InputError

if TYPE_CHECKING:
    from workbench.settings import ThresholdSearchSettings

TIE = 1e-12  # values this close are one value; means of floats differ in the last places


def candidates(knobs: ThresholdSearchSettings, quantization: Quantization) -> np.ndarray:
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


@dataclass(frozen=True)
class Rules:
    """Everything a choice depends on beside the counts."""

    knobs: ThresholdSearchSettings
    objective: Objective
    integers: np.ndarray  # the candidates, ascending
    fallback: int  # the candidate nearest to probability one half, where nothing can be tuned


def rules_of(settings: ThresholdSearchSettings, quantization: Quantization) -> Rules:
    integers = candidates(settings, quantization)
    fallback = int(_nearest(np.array(quantization.zero_point), integers))
    return Rules(settings, Objective.of(settings), integers, fallback)


@dataclass(frozen=True)
class Pair:
    """The best shared integer and the best one of each class; leading axes are resamplings."""

    shared: np.ndarray  # [...]
    own: np.ndarray  # [..., C], smoothed

    def values(self, of: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Look up what the own and the shared integers give in values [..., C, 257]: [..., C]."""
        shared = np.broadcast_to(self.shared[..., None], self.own.shape)
        of = np.broadcast_to(of, (*self.own.shape, of.shape[-1]))
        own_value, shared_value = (
            np.take_along_axis(of, (integers - LOWEST)[..., None], -1)[..., 0]
            for integers in (self.own, shared)
        )
        return own_value, shared_value


def tune(counts: LevelCounts, rules: Rules, values: np.ndarray | None = None) -> Pair:
    """Choose the best integers; `values` of the counts may be given where they are known."""
    values = rules.objective.class_values(counts) if values is None else values
    pooled = rules.objective.shared_values(counts, values)
    shared = np.where(np.isnan(pooled[..., 0]), rules.fallback, best(pooled, rules.integers))
    own = best(values, rules.integers)
    defined = ~np.isnan(values[..., 0])
    own = np.where(defined, own, shared[..., None])
    return Pair(shared, smooth(own, shared[..., None], counts.totals[0], rules))


def smooth(own: np.ndarray, shared: np.ndarray, positives: np.ndarray, rules: Rules) -> np.ndarray:
    """Pull thresholds of rare classes to the shared one, as if it had been seen that many times."""
    if rules.knobs.smoothing_positives == 0 or rules.objective.has_floor:
        return own  # a floor is promised of the very threshold that was judged
    trust = positives / (positives + rules.knobs.smoothing_positives)
    return _nearest(trust * own + (1 - trust) * shared, rules.integers)


def _nearest(wanted: np.ndarray, integers: np.ndarray) -> np.ndarray:
    """Return the nearest candidate; the lower of two equally near."""
    middles = (integers[1:] + integers[:-1]) / 2
    return integers[np.searchsorted(middles, wanted, side="left")]


def best_thresholds(
    y_true: np.ndarray, raw: np.ndarray, settings: ThresholdSearchSettings,
    quantization: Quantization, mask: Mask = None,
) -> np.ndarray:  # fmt: skip
    """Only the optimum of every class, without smoothing or doubt: int [C]."""
    rules = rules_of(settings.model_copy(update={"smoothing_positives": 0.0}), quantization)
    return tune(count_levels(y_true, raw, mask), rules).own
