"""Thresholds under a person's hands: what the sliders change, without any slider.

The widget of notebook 06 and its tests drive this; it holds counts and integers, never images.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

import numpy as np

from workbench.decide.levels import LOWEST, LevelCounts, Objective, best, mean_defined, ratio
from workbench.decide.recommendation import Thresholds


class Tuning:
    """The integers of all classes while they are moved, locked, undone and reset."""

    def __init__(self, counts: LevelCounts, thresholds: Thresholds) -> None:
        self.thresholds = thresholds
        self.tp, self.fp = counts.at_least()
        self.counts = counts
        self.positives, self.negatives = counts.totals
        self.allowed = thresholds.quantization.separable()
        self.integers = thresholds.integer
        self.locked: set[int] = set()
        self._past: list[tuple[int | None, np.ndarray]] = []

    def set(self, changes: Mapping[int, int], sliding: int | None = None) -> bool:
        """Move unlocked classes; moves of one slider in a row are one step of undo."""
        open_changes = {
            index: integer
            for index, integer in changes.items()
            if index not in self.locked and self.integers[index] != integer
        }
        if not open_changes:
            return False
        if sliding is None or not self._past or self._past[-1][0] != sliding:
            self._past.append((sliding, self.integers))
        self.integers = self.integers.copy()
        self.integers[list(open_changes)] = list(open_changes.values())
        return True

    def undo(self) -> bool:
        if not self._past:
            return False
        _, self.integers = self._past.pop()
        return True

    @property
    def can_undo(self) -> bool:
        return bool(self._past)

    def reset(self, indices: Iterable[int]) -> bool:
        searched = self.thresholds.integer
        return self.set({index: int(searched[index]) for index in indices})

    def follow(self, objective: Objective, indices: Iterable[int]) -> bool:
        """Set classes to the optimum of a rule; classes without images stay as they are."""
        chosen = [index for index in indices if self.positives[index] > 0]
        values = objective.class_values(self.counts[chosen])
        found = best(values, self.allowed) if chosen else []
        return self.set({index: int(one) for index, one in zip(chosen, found, strict=True)})

    def figures(self, integers: np.ndarray | None = None) -> dict[str, np.ndarray]:
        """Counts, precision, recall and F1 of every class: [C] each; 0 where undefined."""
        place = ((self.integers if integers is None else integers) - LOWEST)[:, None]
        tp, fp = (np.take_along_axis(above, place, 1)[:, 0] for above in (self.tp, self.fp))
        return {
            "tp": tp,
            "fp": fp,
            "fn": self.positives - tp,
            "tn": self.negatives - fp,
            "recall": ratio(tp, self.positives),
            "precision": ratio(tp, tp + fp),
            "f1": ratio(2 * tp, self.positives + tp + fp),
        }

    def f1_macro(self, integers: np.ndarray | None = None) -> float:
        """Mean F1 over the classes that occur; NaN if none does."""
        f1 = self.figures(integers)["f1"]
        return float(mean_defined(np.where(self.positives > 0, f1, np.nan), 0))

    @property
    def changed(self) -> dict[int, int]:
        moved = np.flatnonzero(self.integers != self.thresholds.integer)
        return {int(index): int(self.integers[index]) for index in moved}

    def recommendation(self, who: str, when: str, why: str) -> Thresholds:
        """Return the thresholds with the changes and their author."""
        names = self.thresholds.names
        changes = {names[index]: integer for index, integer in self.changed.items()}
        return self.thresholds.edited(changes, who, when, why)

    def objective(self, name: str, **figures: float) -> Objective:
        """Build a rule, starting from the figures of the search."""
        known = {"beta": 1.0, "floor": 0.9, "cost_false_positive": 1.0, "cost_false_negative": 1.0}
        searched = {key: self.thresholds.objective.get(key) for key in known}
        known |= {key: value for key, value in searched.items() if value is not None}
        return replace(Objective(name, **known), **figures)
