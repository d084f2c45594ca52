"""What `threshold_recommendation.json` says: when the app says yes, how sure we are, and who chose.

The integer decides; logit and probability are derived from it and checked when a file is read.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd

from workbench.decide.intervals import Interval
from workbench.decide.levels import LOWEST, NEVER, Quantization
from workbench.errors import InputError

SCHEMA = 1


@dataclass(frozen=True)
class ClassThreshold:
    """When the app says yes to one class."""

    name: str
    integer: int
    adopted: bool  # its own threshold; False follows the shared one
    reason: str
    note: str
    created_by: str  # search | person
    positives: int
    negatives: int
    interval: tuple[int, int]  # of the integer
    gain: float | None
    gain_interval: Interval

    @property
    def prevalence(self) -> float | None:
        images = self.positives + self.negatives
        return self.positives / images if images else None


@dataclass(frozen=True)
class Edit:
    """One change by a person: `changes` maps a class to its value before and after."""

    who: str
    when: str  # ISO 8601
    why: str
    changes: dict[str, tuple[float, float]]

    def to_json(self) -> dict[str, Any]:
        changes = {name: list(ends) for name, ends in self.changes.items()}
        return {"who": self.who, "when": self.when, "why": self.why, "changes": changes}


@dataclass(frozen=True)
class Thresholds:
    """The thresholds of a multi-label run."""

    classes: tuple[ClassThreshold, ...]
    shared: int
    shared_interval: tuple[int, int]
    quantization: Quantization
    objective: dict[str, Any]  # name and the figures that belong to it
    method: str
    split: str
    images: int
    unknown_labels: int
    source_sha256: str | None  # of the file whose scores were searched
    seed: int
    replicates: int
    apparent: float | None  # the objective on the images that chose
    apparent_interval: Interval
    cross_fitted: float | None  # the same procedure on images it had not seen
    edits: tuple[Edit, ...] = ()
    curve: pd.DataFrame | None = field(default=None, compare=False, repr=False)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(entry.name for entry in self.classes)

    @property
    def integer(self) -> np.ndarray:
        return np.array([entry.integer for entry in self.classes], np.int64)

    @property
    def logit(self) -> np.ndarray:
        return self.quantization.threshold_logits(self.integer)

    @property
    def probability(self) -> np.ndarray:
        return self.quantization.threshold_probabilities(self.integer)

    @property
    def adopted(self) -> np.ndarray:
        return np.array([entry.adopted for entry in self.classes])

    @property
    def created_by(self) -> str:
        return "person" if self.edits else "search"

    @property
    def optimism(self) -> float | None:
        """How much of the apparent value is the luck of tuning and scoring on the same images."""
        if self.apparent is None or self.cross_fitted is None:
            return None
        return self.apparent - self.cross_fitted

    @property
    def table(self) -> pd.DataFrame:
        """One row a class, to be read by people."""
        return pd.DataFrame(
            {
                "class": self.names,
                "probability": self.probability,
                "logit": self.logit,
                "integer": self.integer,
                "adopted": self.adopted,
                "positives": [entry.positives for entry in self.classes],
                "gain": [math.nan if e.gain is None else e.gain for e in self.classes],
                "reason": [entry.reason for entry in self.classes],
                "note": [entry.note for entry in self.classes],
            }
        )

    def decide(self, raw: np.ndarray) -> np.ndarray:
        """Say yes or no to int8 scores [N, C] as the app does: by comparing integers."""
        return raw.astype(np.int16) >= self.integer

    def edited(self, changes: dict[str, int], who: str, when: str, why: str) -> Thresholds:
        """Return the thresholds after a person's changes, with who, when and why beside them."""
        before = dict(zip(self.names, self.integer.tolist(), strict=True))
        changes = {name: new for name, new in changes.items() if before.get(name) != new}
        for name, integer in changes.items():
            _check_change(name, integer, before, self.quantization)
        if not changes:
            return self
        edit = Edit(who, when, why, {name: (before[name], new) for name, new in changes.items()})
        reason = f"set by {who}: {why}" if why else f"set by {who}"
        classes = tuple(
            replace(
                entry, integer=changes[entry.name], adopted=True, reason=reason, created_by="person"
            )
            if entry.name in changes
            else entry
            for entry in self.classes
        )
        return replace(self, classes=classes, edits=(*self.edits, edit))

    def to_json(self) -> dict[str, Any]:
        """Return the content of threshold_recommendation.json, null where undefined."""
        return {
            "schema": SCHEMA,
            "task": "multilabel",
            "created_by": self.created_by,
            "objective": self.objective,
            "method": self.method,
            "scores": {
                "split": self.split,
                "images": self.images,
                "unknown_labels": self.unknown_labels,
                "source_sha256": self.source_sha256,
                "scale": self.quantization.scale,
                "zero_point": self.quantization.zero_point,
            },
            "seed": self.seed,
            "bootstrap_replicates": self.replicates,
            "expected": {
                "apparent": self.apparent,
                "apparent_interval": self.apparent_interval.to_json(),
                "cross_fitted": self.cross_fitted,
                "optimism": self.optimism,
            },
            "global": self._written(self.shared, self.shared_interval),
            "classes": [self._class_json(entry) for entry in self.classes],
            "edits": [edit.to_json() for edit in self.edits],
        }

    def _class_json(self, entry: ClassThreshold) -> dict[str, Any]:
        return {
            "name": entry.name,
            **self._written(entry.integer, entry.interval),
            "adopted": entry.adopted,
            "created_by": entry.created_by,
            "reason": entry.reason,
            "note": entry.note,
            "positives": entry.positives,
            "negatives": entry.negatives,
            "prevalence": entry.prevalence,
            "gain": entry.gain,
            "gain_interval": entry.gain_interval.to_json(),
        }

    def _written(self, integer: int, interval: tuple[int, int]) -> dict[str, Any]:
        probabilities = self.quantization.threshold_probabilities(np.array([integer, *interval]))
        return {
            "probability": float(probabilities[0]),
            "logit": float(self.quantization.threshold_logits(integer)),
            "integer": int(integer),
            "integer_interval": [int(end) for end in interval],
            "probability_interval": [float(end) for end in probabilities[1:]],
        }


def _check_change(
    name: str, integer: int, known: dict[str, int], quantization: Quantization
) -> None:
    if name not in known:
        raise InputError(f"{name!r} is not a class of this run; its classes are {list(known)}")
    if integer not in quantization.separable():
        raise InputError(
            f"{name}: {integer} cannot be a threshold; choose a whole number between {LOWEST} "
            f"(always yes) and {NEVER} (never) whose probability is not yet 1"
        )
