"""What a good threshold is: one value per candidate, higher is better, from four counts.

Undefined values are NaN here and nowhere else: a class without positives has no best threshold.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np

from workbench.decide.levels import LOWEST, NEVER, LevelCounts, Quantization
from workbench.errors import InputError

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
