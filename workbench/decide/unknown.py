"""Exactly one class, or "unknown": how confident must the network be before it answers?

The confidence of an image is its largest softmax probability. Below the threshold the answer is
"unknown", which costs nothing; a wrong answer costs `threshold_penalty_incorrect`.

Labels place no cut: each lets a share of the images answer, the surest first. From the surest on,
cuts are kept as long as the lower bound of their accuracy reaches the target, and only kept ones
are chosen from. Tests in a fixed order need no correction, so "at least 95 % are right" is wrong in
few runs, and the interval still covers at the cut that was chosen.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy.special import softmax

from workbench.decide.intervals import Groups, even_ends, independent_share, numbered
from workbench.decide.levels import Mask, check_names, check_scores, known_labels, ratio
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
STEP = 0.05  # of the images, between two cuts: few tests, so that luck has few chances
FOLDS, REPEATS = 5, 4  # of the images that did not choose


def search_unknown(
    y_true: np.ndarray, logits: np.ndarray, settings: SingleLabelSettings,
    classes: tuple[str, ...], seed: int, *, mask: Mask = None,
    split: str = "val", source_sha256: str | None = None, groups: Groups = None,
) -> UnknownThreshold:  # fmt: skip
    """Choose the confidence threshold from one-hot labels and logits, both [N, C].

    Images whose class is masked as unknown are left out.
    """
    check_scores(y_true, logits, mask)
    check_names(classes, logits)
    confidence, correct = answers(y_true, logits, mask)
    groups = None if groups is None else groups[judged_images(y_true, mask)]
    worth = _worth(correct, groups)
    threshold = choose(confidence, correct, settings, worth)
    rng = np.random.default_rng(seed)
    held_out = held_out_accuracy(confidence, correct, settings, rng, groups)
    shown = np.union1d(np.linspace(0, 1, CURVE_POINTS), threshold)
    curve = unknown_curve(confidence, correct, shown, settings, worth)
    curve = curve.assign(chosen=curve.threshold == threshold)
    found = _described(curve[curve.chosen].iloc[0], held_out, len(confidence), settings)
    log.info("Unknown below confidence %.4f: %s.", found.probability, found.reason)
    return UnknownThreshold(
        schema_version=SCHEMA, task="single_label", created_by="search",
        objective=Targets(
            target_accept_accuracy=settings.threshold_target_accept_accuracy,
            min_coverage=settings.threshold_min_coverage,
            penalty_incorrect=settings.threshold_penalty_incorrect,
        ),
        scores=ConfidenceScores(split=split, images=len(confidence), source_sha256=source_sha256),
        seed=seed, unknown=found, classes=tuple(classes), edits=(),
    ).with_curve(curve)  # fmt: skip


def answers(
    y_true: np.ndarray, logits: np.ndarray, mask: Mask = None
) -> tuple[np.ndarray, np.ndarray]:
    """Return the confidence of each judged image's answer and whether the answer is right."""
    judged = judged_images(y_true, mask)
    y_true, logits = np.asarray(y_true)[judged], np.asarray(logits)[judged]
    if not len(logits):
        raise InputError("no image has a known class, so no confidence threshold can be chosen")
    probability = softmax(np.asarray(logits, np.float64), axis=1)
    labelled = np.asarray(y_true).max(1) > 0.5  # to an image without a class no answer is right
    correct = (probability.argmax(1) == np.asarray(y_true).argmax(1)) & labelled
    return probability.max(1), correct


def judged_images(y_true: np.ndarray, mask: Mask) -> np.ndarray:
    """Images whose answer is known to be right or wrong. [N]"""
    known = known_labels(mask, np.shape(y_true))
    return known.all(1) | ((np.asarray(y_true) > 0.5) & known).any(1)


def _worth(correct: np.ndarray, groups: Groups) -> float:
    """Share of the images that counts in an interval: those of a group are right together."""
    return independent_share((correct - correct.mean())[:, None], groups)


def choose(
    confidence: np.ndarray, correct: np.ndarray, settings: SingleLabelSettings, worth: float = 1.0
) -> float:
    """Return the most useful of the thresholds that keep the target, else the surest to be near.

    A cut with so few answers that not even a perfect record could keep the target is passed over.
    """
    cuts = _cuts(confidence, settings.threshold_min_coverage)
    curve = unknown_curve(confidence, correct, cuts, settings, worth)
    curve = curve[::-1]  # the surest answers first
    target = settings.threshold_target_accept_accuracy
    most = worth * curve.answered
    testable = curve[even_ends(most, most)[0] >= target]
    kept = testable[np.logical_and.accumulate(testable.accuracy_low >= target)]
    best = kept.utility[::-1].idxmax() if len(kept) else curve.accuracy_low.idxmax()
    return float(curve.threshold[best])


def _cuts(confidence: np.ndarray, least: float) -> np.ndarray:
    """Return thresholds, rising, at which the surest `least`, …, 95, 100 % of the images answer."""
    values = np.unique(np.round(confidence, DECIMALS))
    between = np.concatenate([[0.0], (values[1:] + values[:-1]) / 2])
    below = np.searchsorted(np.sort(confidence), between)
    shares = np.append(np.arange(least, 1, STEP), 1.0)
    unknown = np.floor(len(confidence) * (1 - shares) + 1e-9)  # at most so many
    return np.unique(between[np.searchsorted(below, unknown, side="right") - 1])


def held_out_accuracy(
    confidence: np.ndarray, correct: np.ndarray, settings: SingleLabelSettings,
    rng: np.random.Generator, groups: Groups = None,
) -> float | None:  # fmt: skip
    """Accuracy of the answers to images that did not choose; None where none was answered."""
    answered = right = 0
    place = np.arange(len(confidence))
    if groups is not None:
        place = numbered(groups)
    units = place.max() + 1
    for _ in range(REPEATS if units > 1 else 0):
        fold = (rng.permutation(units) % min(FOLDS, units))[place]
        for number in range(fold.max() + 1):
            others = fold != number
            worth = _worth(correct[others], None if groups is None else groups[others])
            threshold = choose(confidence[others], correct[others], settings, worth)
            accepted = ~others & (confidence >= threshold)
            answered, right = answered + accepted.sum(), right + correct[accepted].sum()
    return float(right / answered) if answered else None


def unknown_curve(
    confidence: np.ndarray, correct: np.ndarray, thresholds: np.ndarray, settings: Any,
    worth: float = 1.0,
) -> pd.DataFrame:  # fmt: skip
    """One row per threshold: how many images get an answer and how good the answers are."""
    order = np.argsort(confidence)
    right = np.concatenate([[0], np.cumsum(correct[order])])
    below = np.searchsorted(confidence[order], thresholds, side="left")
    images = len(confidence)
    answered, hits = images - below, right[-1] - right[below]
    coverage = answered / images
    coverage_low, coverage_high = even_ends(worth * answered, worth * images)
    ends = (
        np.where(answered > 0, end, np.nan) for end in even_ends(worth * hits, worth * answered)
    )
    accuracy_low, accuracy_high = ends
    accuracy = np.where(answered > 0, ratio(hits, answered), np.nan)
    utility = (hits - settings.threshold_penalty_incorrect * (answered - hits)) / images
    meets = accuracy_low >= settings.threshold_target_accept_accuracy
    columns = {
        "threshold": thresholds, "coverage": coverage, "coverage_low": coverage_low,
        "coverage_high": coverage_high, "accepted_accuracy": accuracy,
        "accuracy_low": accuracy_low, "accuracy_high": accuracy_high,
        "answered": answered, "correct": hits, "incorrect": answered - hits, "unknown": below,
        "utility": utility, "meets_target": meets & (coverage >= settings.threshold_min_coverage),
    }  # fmt: skip
    return pd.DataFrame(columns)


def _described(
    row: Any, held_out: float | None, images: int, settings: SingleLabelSettings
) -> Unknown:
    """Say what was aimed at, what was held out, and what is promised."""
    target, least = settings.threshold_target_accept_accuracy, settings.threshold_min_coverage
    low, high = row.accuracy_low, row.accuracy_high
    other = "" if held_out is None else f"held out {held_out:.1%}, "
    aimed = (
        f"aimed at {target:.0%}, {other}here {row.accepted_accuracy:.1%} [{low:.1%}, {high:.1%}]"
    )
    if row.meets_target:
        promise = f"at least {target:.0%} of the answers are right"
    else:
        promise = (
            f"{target:.0%} cannot be promised from {images} images while {least:.0%} of them get "
            f"an answer; promised instead: at least {np.floor(100 * low):.0f}% are right"
        )
    reason = f"{aimed}: {promise}; {row.coverage:.0%} of the images get one"
    return Unknown.of(row, reason, held_out)
