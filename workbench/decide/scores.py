"""What the phone file answered on validation, as integers, and what is fitted to them by task."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING
from zipfile import BadZipFile

import numpy as np

from workbench.decide.calibration import Calibration, calibrate
from workbench.decide.levels import LevelCounts, Quantization, count_levels
from workbench.decide.outcomes import Task, probabilities
from workbench.decide.recommendation import Thresholds, UnknownThreshold
from workbench.decide.thresholds import search
from workbench.decide.unknown import search_unknown
from workbench.errors import InputError
from workbench.files import sha256

if TYPE_CHECKING:
    from workbench.settings import Settings


@dataclass(frozen=True)
class Scores:
    """Integers, labels and which labels are known, all [N, C]."""

    raw: np.ndarray  # int8
    scale: float
    zero_point: int
    y_true: np.ndarray
    mask: np.ndarray
    task: Task
    source_sha256: str | None = None  # of the file they were read from

    @cached_property
    def logits(self) -> np.ndarray:
        return Quantization(self.scale, self.zero_point).logits(self.raw)

    @cached_property
    def probability(self) -> np.ndarray:
        return probabilities(self.logits, self.task)

    @property
    def counts(self) -> LevelCounts | None:
        """Images per class and level; a single label is not decided class by class."""
        multilabel = self.task == "multilabel"
        return count_levels(self.y_true, self.raw, self.mask) if multilabel else None


def read_scores(path: Path, task: Task) -> Scores:
    """Read `candidate_scores.npz`."""
    try:
        with np.load(path, allow_pickle=False) as held:
            return Scores(
                held["raw"], float(held["scale"]), int(held["zero_point"]), held["y_true"],
                held["mask"], task, sha256(path),
            )  # fmt: skip
    except (ValueError, EOFError, KeyError, BadZipFile):
        raise InputError(f"{path} is damaged. Run 05_quantize_student again") from None


def search_scores(
    scores: Scores, classes: tuple[str, ...], settings: Settings
) -> Thresholds | UnknownThreshold:
    """Search a threshold for every class, or the confidence under which it is "unknown"."""
    knobs, source = settings.threshold_search, scores.source_sha256
    if scores.task == "single_label":
        return search_unknown(
            scores.y_true, scores.logits, settings.single_label, classes, settings.seed,
            replicates=knobs.bootstrap_replicates, mask=scores.mask, source_sha256=source,
        )  # fmt: skip
    return search(
        scores.y_true, scores.raw, scores.scale, scores.zero_point, knobs, classes, settings.seed,
        mask=scores.mask, source_sha256=source,
    )  # fmt: skip


def calibrate_scores(scores: Scores, classes: tuple[str, ...], settings: Settings) -> Calibration:
    """Fit how probabilities are corrected, and measure what that helps."""
    return calibrate(
        scores.y_true, scores.raw, scores.scale, scores.zero_point, classes, settings.seed,
        task=scores.task, mask=scores.mask, method=settings.calibration.method,
        replicates=settings.calibration.bootstrap_replicates,
    )  # fmt: skip
