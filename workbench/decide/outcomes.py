"""Scores turned into answers, these into right and wrong, and how well scores sort the images.

Means over classes take the classes that occur; among them one that is never answered counts as
precision 0, as in scikit-learn. Undefined figures are NaN here and null when written.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import pandas as pd
from scipy.special import expit, softmax

from workbench.decide.levels import LevelCounts, Mask, check_scores, chunks, mean_defined, ratio
from workbench.errors import InputError

Task = Literal["multilabel", "single_label"]
Bars = np.ndarray | float  # thresholds: one a class, or one for all; or each image has its own
TOP = 5
TN, FP, FN, TP = range(4)  # cell = 2 * label + answer
OUTCOMES = 4
UNKNOWN = 4  # cell of a masked label
MISTAKES = {"false positive": FP, "false negative": FN}
# Figures that are hits among trials: what an outcome adds to either, in the order of the cells.
SHARES = {
    "precision": ((0, 0, 0, 1, 0), (0, 1, 0, 1, 0)),
    "recall": ((0, 0, 0, 1, 0), (0, 0, 1, 1, 0)),
    "f1": ((0, 0, 0, 2, 0), (0, 1, 1, 2, 0)),
    "hamming_loss": ((0, 1, 1, 0, 0), (1, 1, 1, 1, 0)),
}


def probabilities(logits: np.ndarray, task: Task) -> np.ndarray:
    """Turn logits [N, C] into float64 probabilities: softmax for a single label, else sigmoid."""
    logits = np.asarray(logits, np.float64)
    return softmax(logits, axis=1) if task == "single_label" else expit(logits)


@dataclass(frozen=True)
class Answers:
    """Labels, probabilities and the yes or no that follows, all [N, C]."""

    y_true: np.ndarray
    y_score: np.ndarray
    mask: Mask
    decisions: np.ndarray
    task: Task
    groups: np.ndarray | None = None  # [N], of images that belong together

    @classmethod
    def of(
        cls, y_true: np.ndarray, y_score: np.ndarray, thresholds: Bars, mask: Mask, task: Task,
        groups: np.ndarray | None = None,
    ) -> Answers:  # fmt: skip
        """Check the arrays and decide at the given thresholds."""
        y_true, y_score = np.asarray(y_true), np.asarray(y_score)
        check_scores(y_true, y_score, mask)
        if not np.isfinite(y_score).all() or y_score.min() < 0 or y_score.max() > 1:
            raise InputError(
                "scores must be probabilities, 0 to 1; apply sigmoid or softmax to the logits first"
            )
        return cls(y_true, y_score, mask, decide(y_score, thresholds, task), task, groups)

    @cached_property
    def cells(self) -> np.ndarray:
        """Outcome of each label: TN, FP, FN, TP or UNKNOWN. [N, C]"""
        return outcome_cells(self.y_true, self.decisions, self.mask)

    @cached_property
    def labelled(self) -> np.ndarray:
        """Images that are known to have a class. [N]"""
        return np.isin(self.cells, (FN, TP)).any(1)

    @cached_property
    def judged(self) -> np.ndarray:
        """Images whose one answer is right or wrong; not those whose class is unknown. [N]"""
        return self.labelled | ~(self.cells == UNKNOWN).any(1)

    @cached_property
    def right(self) -> np.ndarray:
        """Images whose best class is the true one. [N]"""
        return (self.y_score.argmax(1) == self.y_true.argmax(1)) & self.labelled

    @cached_property
    def per_image(self) -> dict[str, np.ndarray]:
        """Figures whose mean over the images is reported: [N] each, NaN where undefined."""
        parts = [image_figures(self.cells[rows]) for rows in chunks(len(self.cells))]
        figures = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        figures["top5"] = np.concatenate([self._top_hits(rows) for rows in chunks(len(self.cells))])
        return figures | (self._single_label() if self.task == "single_label" else {})

    def _top_hits(self, rows: slice) -> np.ndarray:
        """Is a true label among the five best scores? NaN without labels, or with five classes."""
        y_score = self.y_score[rows]
        if y_score.shape[1] <= TOP:
            return np.full(len(y_score), np.nan)  # the answer would always be yes
        known = self.cells[rows] != UNKNOWN
        ranked = np.argsort(np.where(known, y_score, -1), axis=1, kind="stable")
        positive = (self.y_true[rows] > 0.5) & known
        hit = np.take_along_axis(positive, ranked[:, -TOP:], axis=1).any(1)
        return np.where(positive.any(1), hit, np.nan)

    def _single_label(self) -> dict[str, np.ndarray]:
        answered = self.decisions.any(1)
        return {
            "accuracy": np.where(self.labelled, self.right, np.nan),
            "coverage": answered.astype(np.float64),
            "accepted_accuracy": np.where(answered & self.judged, self.right, np.nan),
        }

    @cached_property
    def to_calibrate(self) -> tuple[np.ndarray, np.ndarray, Mask]:
        """Labels, probabilities and mask whose calibration counts: of the one answer, or of all."""
        if self.task == "multilabel":
            return self.y_true, self.y_score, self.mask
        return self.right[:, None], self.y_score.max(1)[:, None], self.judged[:, None]


def decide(y_score: np.ndarray, thresholds: Bars, task: Task) -> np.ndarray:
    """Return the answers, bool [N, C]: every class at its threshold, or the one best class."""
    if task == "multilabel":
        return y_score >= np.asarray(thresholds)
    answers = np.zeros(y_score.shape, bool)
    sure = y_score.max(1) >= np.asarray(thresholds)
    answers[np.arange(len(y_score)), y_score.argmax(1)] = sure
    return answers


def outcome_cells(y_true: np.ndarray, decisions: np.ndarray, mask: Mask) -> np.ndarray:
    """Number each label and answer: [N, C] int8 of TN, FP, FN, TP or UNKNOWN."""
    cells = (np.asarray(y_true) > 0.5).astype(np.int8) * np.int8(2) + decisions.astype(np.int8)
    if mask is not None:
        cells[np.asarray(mask) <= 0.5] = UNKNOWN
    return cells


def count_outcomes(cells: np.ndarray, axis: int = 0) -> np.ndarray:
    """Count per class, [C, 4] int64, or per image on the other axis, [N, 4]."""
    return np.stack([(cells == outcome).sum(axis) for outcome in range(OUTCOMES)], axis=-1)


def hits_and_trials(name: str, cells: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Turn outcomes into the hits and trials of a figure of `SHARES`, in the same shape."""
    hits, trials = (np.array(added, np.float64)[cells] for added in SHARES[name])
    return hits, trials


def summed(name: str, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sum the hits and trials of a figure of `SHARES` over [..., 4] counts: [...] each."""
    hits, trials = (counts @ np.array(added[:OUTCOMES], np.float64) for added in SHARES[name])
    return hits, trials


def _share(name: str, counts: np.ndarray) -> np.ndarray:
    hits, trials = summed(name, counts)
    return np.where(trials > 0, ratio(hits, trials), np.nan)


def class_figures(counts: np.ndarray) -> dict[str, np.ndarray]:
    """Precision, recall and F1 from [..., C, 4] counts: [..., C] each, NaN where undefined."""
    precision, recall, f1 = (_share(name, counts) for name in ("precision", "recall", "f1"))
    return {"precision": precision, "recall": recall, "f1": np.where(np.isnan(recall), np.nan, f1)}


def overall_figures(counts: np.ndarray) -> dict[str, np.ndarray]:
    """Macro and micro figures from [..., C, 4] counts: [...] each, NaN where undefined."""
    figures, pooled = class_figures(counts), counts.sum(-2)
    occurs = ~np.isnan(figures["recall"])
    figures["precision"] = np.where(occurs, np.nan_to_num(figures["precision"]), np.nan)
    found = {}
    for name in ("f1", "precision", "recall"):
        found[f"{name}_macro"] = mean_defined(figures[name], -1)
        found[f"{name}_micro"] = _share(name, pooled)
    return found | {"hamming_loss": _share("hamming_loss", pooled)}


def image_figures(cells: np.ndarray) -> dict[str, np.ndarray]:
    """Figures of each image: [N] each; NaN for an image whose labels are all unknown."""
    fp, fn, tp = ((cells == outcome).sum(1) for outcome in (FP, FN, TP))
    known = (cells != UNKNOWN).any(1)
    wrong = fp + fn
    figures = {
        # Nothing to find and nothing said is a right answer: 1, not scikit-learn's default 0.
        "f1_samples": np.where(tp + wrong > 0, ratio(2 * tp, 2 * tp + wrong), 1.0),
        "exact_match": (wrong == 0).astype(np.float64),
        "no_label_rate": (tp + fp == 0).astype(np.float64),
        "true_no_label_rate": (tp + fn == 0).astype(np.float64),
    }
    return {name: np.where(known, values, np.nan) for name, values in figures.items()}


def confused_pairs(cells: np.ndarray) -> np.ndarray:
    """Count images where class i was missed while class j was wrongly said: [C, C]."""
    pairs = np.zeros((cells.shape[1], cells.shape[1]), np.float32)  # whole to 16 million
    for rows in chunks(len(cells)):
        missed, wrongly = (cells[rows] == outcome for outcome in (FN, FP))
        pairs += missed.T.astype(np.float32) @ wrongly.astype(np.float32)
    return pairs.astype(np.int32)


def worst_mistakes(
    y_true: np.ndarray, y_score: np.ndarray, thresholds: Bars, classes: Sequence[str],
    filepaths: Sequence[str], *, limit: int, mask: Mask = None, task: Task,
    per_class: int | None = None,
) -> pd.DataFrame:  # fmt: skip
    """List up to `limit` mistakes of each kind, worst first, at most `per_class` of one class.

    `image` is the row of the scores; `said` and `really` hold all classes of the image.
    """
    answers = Answers.of(y_true, y_score, thresholds, mask, task)
    bars = np.broadcast_to(np.asarray(thresholds, np.float64), answers.y_score.shape)
    distance, really = np.abs(answers.y_score - bars), answers.y_true > 0.5
    rows = []
    for kind, outcome in MISTAKES.items():
        places = pd.DataFrame(np.argwhere(answers.cells == outcome), columns=["image", "column"])
        order = np.argsort(-distance[places.image, places.column], kind="stable")
        worst = places.iloc[order]
        if per_class is not None:
            worst = worst[worst.groupby("column").cumcount() < per_class]
        for image, column in worst[:limit].to_numpy().tolist():
            known = kind, image, filepaths[image], classes[column], column
            scores = float(answers.y_score[image, column]), float(bars[image, column])
            both = (answers.decisions[image], really[image])
            names = (tuple(classes[i] for i in np.flatnonzero(chosen)) for chosen in both)
            rows.append((*known, *scores, *names))
    columns = ["kind", "image", "filepath", "class", "class_index", "probability", "threshold",
               "said", "really"]  # fmt: skip
    return pd.DataFrame(rows, columns=columns)


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
        return ratio(self.tp, self.positives)

    @property
    def false_positive_rate(self) -> np.ndarray:
        return ratio(self.fp, self.negatives)


def curve(y_true: np.ndarray, y_score: np.ndarray, mask: Mask = None) -> Curve:
    """Sort one class, [N] labels and scores; masked images are left out."""
    if mask is not None:
        known = np.asarray(mask) > 0.5
        y_true, y_score = y_true[known], y_score[known]
    order = np.argsort(-np.asarray(y_score, np.float64), kind="stable")
    positive = np.asarray(y_true)[order] > 0.5
    score, total = np.asarray(y_score)[order], int(positive.sum())
    last = np.flatnonzero(np.append(score[1:] != score[:-1], True)[: len(score)])
    tp = np.cumsum(positive)[last]
    return Curve(score[last], tp, last + 1 - tp, total, len(score) - total)


def average_precision(y_true: np.ndarray, y_score: np.ndarray, mask: Mask = None) -> float | None:
    """Area under the precision-recall steps of one class; None without positives."""
    found = curve(y_true, y_score, mask)
    if not found.positives:
        return None
    return float(np.sum(np.diff(found.tp, prepend=0) * found.precision) / found.positives)


def roc_auc(y_true: np.ndarray, y_score: np.ndarray, mask: Mask = None) -> float | None:
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
