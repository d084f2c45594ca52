"""What a good threshold is: a value for every level of every class, higher is better."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from workbench.decide.levels import LOWEST, NEVER, LevelCounts, Quantization, mean_defined, ratio
from workbench.errors import InputError

if TYPE_CHECKING:
    from workbench.settings import ThresholdSearchSettings

Name = Literal["f1_macro", "fbeta", "precision_floor", "recall_floor", "cost", "prevalence"]
NEVER_ANSWERS = -1.0  # below every other value of a floor objective: never a yes meets no floor
TIE = 1e-12  # values this close are one value; means of floats differ in the last places


@dataclass(frozen=True)
class Objective:
    """A rule for good thresholds, with the figures that belong to it."""

    name: Name
    beta: float
    floor: float
    cost_false_positive: float
    cost_false_negative: float

    @classmethod
    def of(cls, knobs: ThresholdSearchSettings) -> Objective:
        names = ("objective", "beta", "floor", "cost_false_positive", "cost_false_negative")
        return cls(*(getattr(knobs, name) for name in names))

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
    def described(self) -> dict[str, str | float]:
        """Name the rule, the figures that belong to it, and what it means in plain words."""
        chosen = {name: getattr(self, name) for name in _FIGURES.get(self.name, ())}
        return {"name": self.name, **chosen, "meaning": _SENTENCES[self.name].format(self)}


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
_FIGURES = {
    "fbeta": ("beta",),
    "precision_floor": ("floor",),
    "recall_floor": ("floor",),
    "cost": ("cost_false_positive", "cost_false_negative"),
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


def _pool(counts: LevelCounts) -> LevelCounts:
    return LevelCounts(
        counts.positives.sum(-2, keepdims=True), counts.negatives.sum(-2, keepdims=True)
    )


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
