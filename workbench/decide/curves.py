"""How well scores sort the images, whatever the threshold: PR and ROC curves and their areas."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from workbench.decide.levels import LevelCounts, ratio


@dataclass(frozen=True)
class Curve:
    """Counts at every distinct score of one class, from the highest down."""

    thresholds: np.ndarray
    tp: np.ndarray
    fp: np.ndarray
    positives: int
    negatives: int

    @property
    def precision(self) -> np.ndarray:
        return ratio(self.tp, self.tp + self.fp)

    @property
    def recall(self) -> np.ndarray:
        return ratio(self.tp, np.full(len(self.tp), self.positives))

    @property
    def false_positive_rate(self) -> np.ndarray:
        return ratio(self.fp, np.full(len(self.fp), self.negatives))


def curve(y_true: np.ndarray, y_score: np.ndarray, mask: np.ndarray | None = None) -> Curve:
    """Sort one class, [N] labels and scores; masked images are left out."""
    if mask is not None:
        known = np.asarray(mask) > 0.5
        y_true, y_score = y_true[known], y_score[known]
    order = np.argsort(-np.asarray(y_score, np.float64), kind="stable")
    positive = np.asarray(y_true)[order] > 0.5
    score = np.asarray(y_score)[order]
    last = np.flatnonzero(np.append(score[1:] != score[:-1], True)) if len(score) else []
    last = np.asarray(last, np.int64)
    tp = np.cumsum(positive)[last] if len(last) else np.zeros(0, np.int64)
    total = int(positive.sum())
    return Curve(score[last], tp, last + 1 - tp, total, len(score) - total)


def average_precision(
    y_true: np.ndarray, y_score: np.ndarray, mask: np.ndarray | None = None
) -> float | None:
    """Area under the precision-recall steps of one class; None without positives."""
    found = curve(y_true, y_score, mask)
    if not found.positives:
        return None
    return float(np.sum(np.diff(found.tp, prepend=0) * found.precision) / found.positives)


def roc_auc(
    y_true: np.ndarray, y_score: np.ndarray, mask: np.ndarray | None = None
) -> float | None:
    """Chance that a positive scores above a negative, ties half; None unless both exist."""
    found = curve(y_true, y_score, mask)
    if not (found.positives and found.negatives):
        return None
    tp, fp = np.append(0, found.tp), np.append(0, found.fp)
    area = np.sum(np.diff(fp) * (tp[1:] + tp[:-1])) / 2
    return float(area / (found.positives * found.negatives))


def average_precisions(counts: LevelCounts) -> np.ndarray:
    """Average precision of every class from counts per level: [..., C]; NaN without positives."""
    positives, _ = counts.totals
    tp, fp = counts.at_least()
    steps = counts.positives * ratio(tp, tp + fp)[..., :-1]
    return np.where(positives > 0, ratio(steps.sum(-1), positives), np.nan)


def roc_aucs(counts: LevelCounts) -> np.ndarray:
    """Area under every ROC curve from counts per level: [..., C]; NaN unless both labels exist."""
    positives, negatives = counts.totals
    tp, _ = counts.at_least()
    above = (counts.negatives * (tp[..., 1:] + tp[..., :-1])).sum(-1) / 2
    pairs = positives * negatives
    return np.where(pairs > 0, ratio(above, pairs), np.nan)
