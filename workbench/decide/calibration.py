"""Correct probabilities that promise too much or too little.

The correction is a rising line per class on the logits: the order of the scores, and so every
decision, stays as it is, and the line folds into the last layer or into the app's sigmoid.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
from scipy.optimize import minimize
from scipy.special import expit

from workbench.decide.levels import (
    LOWEST,
    NEVER,
    LevelCounts,
    Quantization,
    check_raw,
    check_scores,
    count_levels,
)
from workbench.decide.reliability import calibration_error, class_errors, reliability
from workbench.decide.selection import assign_folds

__all__ = ["Calibration", "calibrate", "calibration_error", "class_errors", "reliability"]
FOLDS = 5
SLOPES = (0.01, 100.0)  # above 0: a falling line would turn the decisions round
Method = Literal["temperature", "platt"]


@dataclass(frozen=True)
class Calibration:
    """A line per class on the logits: `calibrated = slope * logit + intercept`."""

    method: Method
    classes: tuple[str, ...]
    slope: np.ndarray  # [C]; 1 / temperature
    intercept: np.ndarray  # [C]; 0 for temperature
    before: pd.DataFrame  # class_errors of the probabilities as they are
    after: pd.DataFrame  # and corrected by lines fitted on other images
    held_out: np.ndarray  # the latter probabilities, [N, C]

    def apply(self, logits: np.ndarray) -> np.ndarray:
        return np.asarray(logits, np.float64) * self.slope + self.intercept

    @property
    def table(self) -> pd.DataFrame:
        """One row a class and one for all of them, to be read by people."""
        table = self.before.rename(columns=lambda name: name.replace("error", "error_before"))
        after = self.after.drop(columns="class")
        table = table.join(after.rename(columns=lambda name: name.replace("error", "error_after")))
        return table.assign(
            slope=np.append(self.slope, np.nan), intercept=np.append(self.intercept, np.nan)
        )

    def to_json(self) -> dict[str, Any]:
        rows = self.table.astype(object).where(self.table.notna(), None)
        return {"method": self.method, "classes": rows.to_dict("records")}


def calibrate(
    y_true: np.ndarray,
    raw: np.ndarray,
    scale: float,
    zero_point: int,
    classes: Sequence[str],
    seed: int,
    *,
    mask: np.ndarray | None = None,
    method: Method = "temperature",
    replicates: int = 0,
) -> Calibration:
    """Fit the lines on int8 scores [N, C]; what they help is measured on held-out folds."""
    check_scores(y_true, raw, mask)
    check_raw(raw)
    quantization = Quantization(float(scale), int(zero_point))
    slope, intercept = fit_lines(count_levels(y_true, raw, mask), quantization, method)
    held_out = _held_out(y_true, raw, mask, quantization, method, seed)
    before, after = (
        class_errors(y_true, probability, classes, mask, replicates=replicates, seed=seed)
        for probability in (quantization.probabilities(raw), held_out)
    )
    return Calibration(method, tuple(classes), slope, intercept, before, after, held_out)


def _held_out(y_true, raw, mask, quantization, method, seed) -> np.ndarray:
    logits = quantization.logits(raw)
    folds = assign_folds(y_true, min(FOLDS, len(raw)), np.random.default_rng(seed))
    for fold in range(folds.max() + 1):
        inside, others = folds == fold, folds != fold
        known = None if mask is None else mask[others]
        if others.any():
            counts = count_levels(y_true[others], raw[others], known)
            slope, intercept = fit_lines(counts, quantization, method)
            logits[inside] = logits[inside] * slope + intercept
    return expit(logits)


def fit_lines(
    counts: LevelCounts, quantization: Quantization, method: Method
) -> tuple[np.ndarray, np.ndarray]:
    """Return the slope and intercept of each class with the least log loss; 1 and 0 if undefined.

    Platt's softened targets keep separable and rare classes from running off to infinity.
    """
    logits = quantization.logits(np.arange(LOWEST, NEVER))
    lines = [
        _fit_line(logits, positives, negatives, method)
        for positives, negatives in zip(counts.positives, counts.negatives, strict=True)
    ]
    slope, intercept = np.array(lines).T
    return slope, intercept


def _fit_line(logits, positives, negatives, method: Method) -> tuple[float, float]:
    if not (positives.sum() and negatives.sum()):
        return 1.0, 0.0
    sure, unsure = (positives.sum() + 1) / (positives.sum() + 2), 1 / (negatives.sum() + 2)
    yes = positives * sure + negatives * unsure
    no = positives + negatives - yes

    def loss(line: np.ndarray) -> tuple[float, np.ndarray]:
        z = line[0] * logits + line[1]
        pull = (yes + no) * expit(z) - yes
        value = (yes * np.logaddexp(0, -z) + no * np.logaddexp(0, z)).sum()
        return value / yes.sum(), np.array([pull @ logits, pull.sum()]) / yes.sum()

    bounds = [SLOPES, (None, None) if method == "platt" else (0.0, 0.0)]
    slope, intercept = minimize(loss, (1.0, 0.0), jac=True, method="L-BFGS-B", bounds=bounds).x
    return float(slope), float(intercept)
