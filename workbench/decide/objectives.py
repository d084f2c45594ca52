"""What a good threshold is: rules that value saying yes to so many images of a class.

All of it works on counts per level and class; nothing is chosen here.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np
from scipy.special import ndtri

from workbench.decide.intervals import LEVEL, wilson
from workbench.decide.levels import LevelCounts, mean_defined, ratio

if TYPE_CHECKING:
    from workbench.settings import ThresholdSearchSettings

FLOORS = ("precision_floor", "recall_floor")
Name = Literal["f1_macro", "fbeta", "precision_floor", "recall_floor", "cost", "prevalence"]
NOT_ASKED = -1.0  # below every other value of a floor objective: no floor is claimed there


@dataclass(frozen=True)
class Objective:
    """A rule for good thresholds, with the figures that belong to it."""

    name: Name
    beta: float
    floor: float
    cost_false_positive: float
    cost_false_negative: float
    worth: np.ndarray | float = 1.0  # [C, 1]: share of the images that a floor may count

    @classmethod
    def of(cls, knobs: ThresholdSearchSettings) -> Objective:
        names = ("objective", "beta", "floor", "cost_false_positive", "cost_false_negative")
        return cls(*(getattr(knobs, name) for name in names))

    def values(
        self, tp: np.ndarray, fp: np.ndarray, positives: np.ndarray, negatives: np.ndarray
    ) -> np.ndarray:
        """Value of saying yes to `tp` of `positives` and to `fp` of `negatives` images."""
        tp, fp, positives, negatives = np.broadcast_arrays(tp, fp, positives, negatives)
        match self.name:
            case "f1_macro" | "fbeta":
                weight = 1.0 if self.name == "f1_macro" else self.beta**2
                values = ratio((1 + weight) * tp, weight * positives + tp + fp)
            case "precision_floor":
                values = self._above_floor(tp, fp, tp + fp, ratio(tp, positives))
            case "recall_floor":
                values = self._above_floor(tp, fp, positives, ratio(tp, tp + fp))
            case "cost":
                cost = self.cost_false_positive * fp + self.cost_false_negative * (positives - tp)
                values = -ratio(cost, positives + negatives)
            case "prevalence":
                values = -ratio(np.abs(tp + fp - positives), positives + negatives)
        return np.where(positives > 0, values, np.nan)

    @property
    def has_floor(self) -> bool:
        return self.name in FLOORS

    def _above_floor(self, tp, fp, trials: np.ndarray, wanted: np.ndarray) -> np.ndarray:
        """Value what is `wanted` where a class claims the floor and its lower end holds it.

        Elsewhere the value is below 0: by how much the floor is missed.
        """
        looks = self._looks(tp + fp)
        tp, trials = self.worth * tp, self.worth * trials
        least = wilson(tp, trials, 1 - 2 * self._doubt(tp, trials, looks))[0]
        kept = least >= self.floor
        claims = (kept & looks).any(-1, keepdims=True)
        return np.where(kept & claims, wanted, np.where(looks, least - self.floor, NOT_ASKED))

    def _looks(self, yes: np.ndarray) -> np.ndarray:
        """Thresholds at which a class may claim the floor: bool like `yes` [..., 257].

        Of all of them one keeps any precision by luck, so only those are asked where the number of
        yes doubles. What is found grows with every yes, in whatever order one asks.
        """
        if self.name == "recall_floor":
            return yes > 0
        return np.diff(np.frexp(yes)[1], append=0, axis=-1) < 0

    def _doubt(self, hits: np.ndarray, trials: np.ndarray, looks: np.ndarray) -> np.ndarray:
        """How unsure each class may be that claims the floor: the less, the fewer do. [..., 1, 1]

        Of many classes some keep any floor by luck, and where hardly a class can keep it, all that
        claim it are these. So ends that are picked lie farther out, by how few of all are
        (Benjamini and Yekutieli 2005).
        """
        deviation = np.sqrt(self.floor * (1 - self.floor) * trials)
        above = np.where(looks, ratio(hits - self.floor * trials, deviation), -np.inf)
        surest = np.sort(above.max(-1), axis=-1)[..., ::-1]
        needed = self.needed(surest.shape[-1])
        claims = np.where(surest >= needed, np.arange(1, len(needed) + 1), 1).max(-1)
        return (1 - LEVEL) * claims[..., None, None] / len(needed)

    @staticmethod
    def needed(classes: int) -> np.ndarray:
        """Deviations above the floor that 1, 2, … of so many classes need to claim it together."""
        return ndtri(1 - (1 - LEVEL) * np.arange(1, classes + 1) / classes)

    def shared_values(self, counts: LevelCounts, values: np.ndarray) -> np.ndarray:
        """Value of one threshold for all classes, [..., 257], given the values of each class.

        The floors are kept on the answers of all classes together; the others are class means.
        """
        if self.has_floor:
            sides = counts.positives, counts.negatives
            pooled = LevelCounts(*(side.sum(-2, keepdims=True) for side in sides))
            together = replace(self, worth=float(np.min(self.worth)))
            return together.class_values(pooled)[..., 0, :]
        return mean_defined(values, axis=-2)

    def class_values(self, counts: LevelCounts) -> np.ndarray:
        """Value of every integer threshold for every class: [..., C, 257]."""
        tp, fp = counts.at_least()
        positives, negatives = counts.totals
        return self.values(tp, fp, positives[..., None], negatives[..., None])

    @property
    def described(self) -> dict[str, str | float]:
        """Name the rule, the figures that belong to it, and what it means in plain words."""
        chosen = {name: getattr(self, name) for name in FIGURES.get(self.name, ())}
        return {"name": self.name, **chosen, "meaning": SENTENCES[self.name].format(self)}


FIGURES = {
    "fbeta": ("beta",), "precision_floor": ("floor",), "recall_floor": ("floor",),
    "cost": ("cost_false_positive", "cost_false_negative"),
}  # fmt: skip
SENTENCES = {
    "f1_macro": "the best balance of finding the class and being right about it (F1)",
    "fbeta": "the best balance where finding counts {0.beta:g} times as much as being right",
    "precision_floor": (
        "find as many as possible while surely at least {0.floor:.0%} of the yes are right"
    ),
    "recall_floor": "be right as often as possible while surely finding at least {0.floor:.0%}",
    "cost": (
        "the lowest cost: a wrong yes costs {0.cost_false_positive:g},"
        " a missed one {0.cost_false_negative:g}"
    ),
    "prevalence": "say yes as often as the class really occurs",
}
