"""Prove rung by rung that the phone computes what the notebook computed. NumPy only.

The rungs are arrays of logits for the same images; who computed them is `rehearse`'s business.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from workbench.decide import metrics
from workbench.deploy.scores import Truth
from workbench.errors import StepError
from workbench.settings import ParitySettings

log = logging.getLogger(__name__)

# Rungs that compute the same integers as the one before them: their flips are counted, not shared.
RUNTIMES = ("TFLite reference kernels", "LiteRT with XNNPACK", "phone harness")


@dataclass(frozen=True)
class Step:
    """One rung beside the one before it."""

    name: str
    f1_macro: float | None
    map: float | None
    f1_drop: float | None  # against the rung before
    largest_difference: float | None  # of a logit, against the rung before
    flips: int  # decisions that changed
    flip_fraction: float
    flips_by_class: dict[str, int]
    verdict: str  # "" within the budget, else which rule it breaks


@dataclass(frozen=True)
class Parity:
    """The ladder of rungs, in the order the arithmetic changes."""

    steps: tuple[Step, ...]

    @property
    def broken(self) -> tuple[Step, ...]:
        return tuple(step for step in self.steps if step.verdict)

    def table(self) -> pd.DataFrame:
        """One row a rung, for the report."""
        return pd.DataFrame([vars(step) for step in self.steps]).drop(columns="flips_by_class")

    def flips_table(self) -> pd.DataFrame:
        """Decisions that changed, a row a class and a column a rung."""
        return pd.DataFrame({step.name: step.flips_by_class for step in self.steps[1:]})

    def summary(self) -> dict[str, Any]:
        return {"steps": [vars(step) for step in self.steps], "passed": not self.broken}


def measure(
    rungs: Mapping[str, np.ndarray],
    truth: Truth,
    thresholds: np.ndarray,
    classes: Sequence[str],
    budget: ParitySettings,
) -> Parity:
    """Compare each rung's logits [N, C] with the rung before, at the tuned logit thresholds [C]."""
    steps: list[Step] = []
    before: tuple[str, np.ndarray] | None = None
    for name, logits in rungs.items():
        steps.append(_step(name, logits, before, truth, thresholds, classes, budget))
        before = (name, logits)
    return Parity(tuple(steps))


def require_parity(parity: Parity) -> None:
    """Fail the run when a rung exceeds its budget, naming the rung."""
    for step in parity.broken:
        raise StepError(
            f'parity is lost at "{step.name}": {step.verdict}. Look at the chart of layers in '
            "05_quantize_student, or widen the budget under parity knowingly."
        )


def decide_at(logits: np.ndarray, thresholds: np.ndarray, task: str) -> np.ndarray:
    """Say yes per class; for a single label, to the highest class if it is sure enough. [N, C]"""
    if task == "single_label":
        best = logits.argmax(axis=1)[:, None] == np.arange(logits.shape[1])
        return best & (_softmax(logits).max(axis=1, keepdims=True) >= thresholds[0])
    return logits >= thresholds


def _softmax(logits: np.ndarray) -> np.ndarray:
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    return shifted / shifted.sum(axis=1, keepdims=True)


def _step(name, logits, before, truth, thresholds, classes, budget) -> Step:
    decisions = decide_at(logits, thresholds, truth.task)
    f1 = metrics.f1_macro(truth.y_true, decisions, truth.mask)
    mean_precision = metrics.mean_average_precision(truth.y_true, logits, truth.mask)
    if before is None:
        return Step(name, f1, mean_precision, None, None, 0, 0.0, dict.fromkeys(classes, 0), "")
    _, previous = before
    changed = decisions != decide_at(previous, thresholds, truth.task)
    previous_f1 = metrics.f1_macro(
        truth.y_true, decide_at(previous, thresholds, truth.task), truth.mask
    )
    drop = None if f1 is None or previous_f1 is None else previous_f1 - f1
    flips = int(changed.sum())
    return Step(
        name=name,
        f1_macro=f1,
        map=mean_precision,
        f1_drop=drop,
        largest_difference=float(np.abs(logits - previous).max()),
        flips=flips,
        flip_fraction=flips / changed.size,
        flips_by_class={label: int(n) for label, n in zip(classes, changed.sum(0), strict=True)},
        verdict=_verdict(name, drop, flips, flips / changed.size, budget),
    )


def _verdict(
    name: str, drop: float | None, flips: int, fraction: float, budget: ParitySettings
) -> str:
    if drop is not None and drop > budget.max_f1_drop:
        return f"F1 macro drops by {drop:.4f}; parity.max_f1_drop allows {budget.max_f1_drop:g}"
    if name in RUNTIMES[1:] and flips > budget.max_runtime_flips:
        return f"{flips} decisions flip; parity.max_runtime_flips allows {budget.max_runtime_flips}"
    if fraction > budget.max_flip_fraction:
        allowed = budget.max_flip_fraction
        return f"{fraction:.2%} of decisions flip; parity.max_flip_fraction allows {allowed:.2%}"
    return ""
