"""Exactly one class, or "unknown": how confident must the network be before it answers?

The confidence of an image is its largest softmax probability. Below the threshold the answer is
"unknown", which costs nothing; a wrong answer costs `threshold_penalty_incorrect`.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy.special import softmax

from workbench.decide.intervals import Ends, image_weights, interval
from workbench.decide.levels import Mask, check_names, check_scores, ratio
from workbench.decide.recommendation import (
    SCHEMA,
    ConfidenceScores,
    Targets,
    Unknown,
    UnknownThreshold,
)
from workbench.errors import InputError

if TYPE_CHECKING:
    from workbench.settings import SingleLabelSettings

log = logging.getLogger(__name__)
DECIMALS = 6  # of a confidence: float32 on the phone still tells these apart
CURVE_POINTS = 201  # rows of threshold_curve.csv, one each half percent


def search_unknown(
    y_true: np.ndarray, logits: np.ndarray, settings: SingleLabelSettings,
    classes: tuple[str, ...], seed: int, *, replicates: int, mask: Mask = None,
    split: str = "val", source_sha256: str | None = None,
) -> UnknownThreshold:  # fmt: skip
    """Choose the confidence threshold from one-hot labels and logits, both [N, C].

    Images whose class is masked as unknown are left out.
    """
    check_scores(y_true, logits, mask)
    check_names(classes, logits)
    confidence, correct = answers(y_true, logits, mask)
    curve = unknown_curve(confidence, correct, _cuts(confidence), settings)
    chosen, reason = _choose(curve, settings)
    shown = np.union1d(np.linspace(0, 1, CURVE_POINTS), curve.threshold[chosen])
    shown_curve = unknown_curve(confidence, correct, shown, settings)
    row = curve.loc[chosen]
    log.info("Unknown below confidence %.4f: %s.", row.threshold, reason)
    intervals = _intervals(confidence, correct, row.threshold, replicates, seed)
    return UnknownThreshold(
        schema_version=SCHEMA, task="single_label", created_by="search",
        objective=Targets(
            target_accept_accuracy=settings.threshold_target_accept_accuracy,
            min_coverage=settings.threshold_min_coverage,
            penalty_incorrect=settings.threshold_penalty_incorrect,
        ),
        scores=ConfidenceScores(split=split, images=len(confidence), source_sha256=source_sha256),
        seed=seed, bootstrap_replicates=replicates, unknown=Unknown.of(row, reason, *intervals),
        classes=tuple(classes), edits=(),
    ).with_curve(shown_curve.assign(chosen=shown_curve.threshold == row.threshold))  # fmt: skip


def answers(
    y_true: np.ndarray, logits: np.ndarray, mask: Mask = None
) -> tuple[np.ndarray, np.ndarray]:
    """Return the confidence of each judged image's answer and whether the answer is right."""
    if mask is not None:
        known = np.asarray(mask) > 0.5
        judged = known.all(1) | ((np.asarray(y_true) > 0.5) & known).any(1)
        y_true, logits = np.asarray(y_true)[judged], np.asarray(logits)[judged]
    if not len(logits):
        raise InputError("no image has a known class, so no confidence threshold can be chosen")
    probability = softmax(np.asarray(logits, np.float64), axis=1)
    labelled = np.asarray(y_true).max(1) > 0.5  # to an image without a class no answer is right
    correct = (probability.argmax(1) == np.asarray(y_true).argmax(1)) & labelled
    return probability.max(1), correct


def unknown_curve(
    confidence: np.ndarray, correct: np.ndarray, thresholds: np.ndarray, settings: Any
) -> pd.DataFrame:
    """One row per threshold: how many images get an answer and how good the answers are."""
    order = np.argsort(confidence)
    right = np.concatenate([[0], np.cumsum(correct[order])])
    below = np.searchsorted(confidence[order], thresholds, side="left")
    images = len(confidence)
    answered, hits = images - below, right[-1] - right[below]
    accuracy = np.where(answered > 0, ratio(hits, answered), np.nan)
    coverage = answered / images
    utility = (hits - settings.threshold_penalty_incorrect * (answered - hits)) / images
    meets = accuracy >= settings.threshold_target_accept_accuracy
    columns = {
        "threshold": thresholds, "coverage": coverage, "accepted_accuracy": accuracy,
        "answered": answered, "correct": hits, "incorrect": answered - hits, "unknown": below,
        "utility": utility, "meets_target": meets & (coverage >= settings.threshold_min_coverage),
    }  # fmt: skip
    return pd.DataFrame(columns)


def _cuts(confidence: np.ndarray) -> np.ndarray:
    """Return every threshold that matters: 0, and halfway between neighbouring confidences."""
    values = np.unique(np.round(confidence, DECIMALS))
    return np.concatenate([[0.0], (values[1:] + values[:-1]) / 2])


def _choose(curve: pd.DataFrame, settings: SingleLabelSettings) -> tuple[int, str]:
    """Most useful of those that meet both targets; else the most accurate with the coverage."""
    target, least = settings.threshold_target_accept_accuracy, settings.threshold_min_coverage
    if curve.meets_target.any():
        allowed = curve[curve.meets_target]
        row = allowed.utility.idxmax()  # the first of equals answers the most images
        return row, f"at least {target:.0%} of the answers are right and {least:.0%} get one"
    allowed = curve[curve.coverage >= least]
    row = allowed.accepted_accuracy.idxmax()
    reached = allowed.accepted_accuracy[row]
    return row, (
        f"{target:.0%} right answers cannot be had while {least:.0%} of the images get one; "
        f"this is the closest, {reached:.1%}"
    )


def _intervals(
    confidence: np.ndarray, correct: np.ndarray, threshold: float, replicates: int, seed: int
) -> tuple[Ends, Ends]:
    """Resample the images: the ends of the coverage and of the accuracy of the answers."""
    accepted = confidence >= threshold
    columns = np.stack([accepted, accepted & correct], axis=1).astype(np.float32)
    blocks = image_weights(len(accepted), replicates, np.random.default_rng(seed))
    sums = np.concatenate([weights.T @ columns for weights in blocks])
    accuracy = np.where(sums[:, 0] > 0, ratio(sums[:, 1], sums[:, 0]), np.nan)
    return interval(sums[:, 0] / len(accepted)), interval(accuracy)
