"""What a candidate is worth on validation, paired with the float student. NumPy only.

Thresholds are tuned later, on the candidate that is chosen here, so both sides are compared at the
neutral decision: probability one half, or the highest class of a single label.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from workbench.decide import bootstrap, metrics


@dataclass(frozen=True)
class Truth:
    """The labels of a split."""

    y_true: np.ndarray  # [N, C]
    mask: np.ndarray  # [N, C], 0 where unknown
    task: str


@dataclass(frozen=True)
class Score:
    """F1 and mAP, and how far F1 lies below the float student's; a negative drop is a gain."""

    f1_macro: float
    map: float | None
    drop: float
    drop_interval: tuple[float | None, float | None]


def decide_neutrally(logits: np.ndarray, task: str) -> np.ndarray:
    """Say yes at probability one half; for a single label, to the highest class. bool [N, C]"""
    if task == "single_label":
        return logits.argmax(axis=1)[:, None] == np.arange(logits.shape[1])
    return logits >= 0


def score_logits(
    logits: np.ndarray, reference: np.ndarray, truth: Truth, *, replicates: int, seed: int
) -> Score:
    """Compare logits [N, C] with the float student's on the same images."""
    ours, theirs = (decide_neutrally(scores, truth.task) for scores in (logits, reference))
    f1 = _f1_macro(ours, truth)
    interval = _drop_interval(ours, theirs, truth, replicates, np.random.default_rng(seed))
    return Score(f1, mean_average_precision(logits, truth), _f1_macro(theirs, truth) - f1, interval)


def f1_macro(logits: np.ndarray, truth: Truth) -> float:
    return _f1_macro(decide_neutrally(logits, truth.task), truth)


def _f1_macro(decisions: np.ndarray, truth: Truth) -> float:
    value = metrics.f1_macro(truth.y_true, decisions, truth.mask)
    return 0.0 if value is None else float(value)


def mean_average_precision(logits: np.ndarray, truth: Truth) -> float | None:
    return metrics.mean_average_precision(truth.y_true, logits, truth.mask)


def _drop_interval(
    ours: np.ndarray,
    theirs: np.ndarray,
    truth: Truth,
    replicates: int,
    rng: np.random.Generator,
) -> tuple[float | None, float | None]:
    """95 % interval of the paired difference: both sides see the same resampled images."""
    differences = [
        _weighted_f1(theirs, truth, weights) - _weighted_f1(ours, truth, weights)
        for weights in bootstrap.image_weights(len(ours), replicates, rng)
    ]
    found = bootstrap.interval(np.concatenate(differences))
    return found.low, found.high


def _weighted_f1(decisions: np.ndarray, truth: Truth, weights: np.ndarray) -> np.ndarray:
    """F1 macro of each replicate; weights are [N, B]. Classes without positives are left out."""
    known, positive = truth.mask > 0.5, truth.y_true > 0.5
    hits, said, exist = (
        (flags & known).astype(np.float32).T @ weights
        for flags in (decisions & positive, decisions, positive)
    )
    f1 = np.where(exist > 0, 2 * hits / np.maximum(said + exist, 1), np.nan)
    return np.nanmean(f1, axis=0) if (exist > 0).any() else np.full(weights.shape[1], np.nan)
