"""Scores turned into answers on one set of images, and what can be said of each image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np

from workbench.decide import outcomes
from workbench.decide.levels import check_scores, chunks
from workbench.errors import InputError

Task = Literal["multilabel", "single_label"]
TOP = 5


@dataclass(frozen=True)
class Answers:
    """Labels, probabilities and the yes or no that follows, all [N, C]."""

    y_true: np.ndarray
    y_score: np.ndarray
    mask: np.ndarray | None
    decisions: np.ndarray
    task: Task

    @classmethod
    def of(
        cls,
        y_true: np.ndarray,
        y_score: np.ndarray,
        thresholds: np.ndarray | float,
        mask: np.ndarray | None,
        task: Task,
    ) -> Answers:
        """Check the arrays and decide at the given thresholds."""
        y_true, y_score = np.asarray(y_true), np.asarray(y_score)
        check_scores(y_true, y_score, mask)
        _check_probabilities(y_score)
        return cls(y_true, y_score, mask, decide(y_score, thresholds, task), task)

    @cached_property
    def cells(self) -> np.ndarray:
        """Outcome of each label, see `outcomes`."""
        return outcomes.outcome_cells(self.y_true, self.decisions, self.mask)

    @cached_property
    def labelled(self) -> np.ndarray:
        """Images that are known to have a class. [N]"""
        return np.isin(self.cells, (outcomes.FN, outcomes.TP)).any(1)

    @cached_property
    def judged(self) -> np.ndarray:
        """Images whose one answer is right or wrong; not those whose class is unknown. [N]"""
        return self.labelled | ~(self.cells == outcomes.UNKNOWN).any(1)

    @cached_property
    def per_image(self) -> dict[str, np.ndarray]:
        """Figures whose mean over the images is reported: [N] each, NaN where undefined."""
        parts = [outcomes.image_figures(self.cells[rows]) for rows in chunks(len(self.cells))]
        figures = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        figures["top5"] = np.concatenate([self._top_hits(rows) for rows in chunks(len(self.cells))])
        return figures | (self._single_label() if self.task == "single_label" else {})

    def _top_hits(self, rows: slice) -> np.ndarray:
        """Is a true label among the five best scores? NaN without labels, or with five classes."""
        y_score = self.y_score[rows]
        if y_score.shape[1] <= TOP:
            return np.full(len(y_score), np.nan)  # the answer would always be yes
        known = self.cells[rows] != outcomes.UNKNOWN
        ranked = np.argsort(np.where(known, y_score, -1), axis=1, kind="stable")
        positive = (self.y_true[rows] > 0.5) & known
        hit = np.take_along_axis(positive, ranked[:, -TOP:], axis=1).any(1)
        return np.where(positive.any(1), hit, np.nan)

    def _single_label(self) -> dict[str, np.ndarray]:
        answered, right = self.decisions.any(1), self._right()
        return {
            "accuracy": np.where(self.labelled, right, np.nan),
            "coverage": answered.astype(np.float64),
            "accepted_accuracy": np.where(answered & self.judged, right, np.nan),
        }

    def _right(self) -> np.ndarray:
        return (self.y_score.argmax(1) == self.y_true.argmax(1)) & self.labelled

    @cached_property
    def promises(self) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """Labels, probabilities and mask whose calibration counts: of the one answer, or of all."""
        if self.task == "multilabel":
            return self.y_true, self.y_score, self.mask
        return self._right()[:, None], self.y_score.max(1)[:, None], self.judged[:, None]


def decide(y_score: np.ndarray, thresholds: np.ndarray | float, task: Task) -> np.ndarray:
    """Return the answers, bool [N, C]: every class at its threshold, or the one best class."""
    if task == "multilabel":
        return y_score >= np.asarray(thresholds)
    answers = np.zeros(y_score.shape, bool)
    sure = y_score.max(1) >= float(np.asarray(thresholds))
    answers[np.arange(len(y_score)), y_score.argmax(1)] = sure
    return answers


def _check_probabilities(y_score: np.ndarray) -> None:
    if not np.isfinite(y_score).all() or y_score.min() < 0 or y_score.max() > 1:
        raise InputError(
            "scores must be probabilities, 0 to 1; apply sigmoid or softmax to the logits first"
        )


def check_names(classes: Sequence[str], scores: np.ndarray) -> None:
    if len(classes) != scores.shape[1]:
        raise InputError(f"{len(classes)} class names for {scores.shape[1]} columns of scores")
