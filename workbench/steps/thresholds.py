"""06: choose when the app says yes, on the integers of the candidate that will ship."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any

import numpy as np

from workbench.decide.calibration import Calibration, calibrate
from workbench.decide.choice import with_saved_choice
from workbench.decide.levels import LevelCounts, Quantization, count_levels
from workbench.decide.outcomes import probabilities
from workbench.decide.recommendation import RECOMMENDATION, Thresholds, UnknownThreshold
from workbench.decide.thresholds import search
from workbench.decide.unknown import search_unknown
from workbench.files import sha256, write_json, write_text
from workbench.run import Run

CURVE = "threshold_curve.csv"
SCORES = "candidate_scores.npz"
FLOAT_SCORES = "student_scores.npz"
CALIBRATION = "calibration.json"


@dataclass(frozen=True)
class Scores:
    """What the candidate answered on validation, and what was true."""

    raw: np.ndarray  # int8 [N, C]
    scale: float
    zero_point: int
    y_true: np.ndarray
    mask: np.ndarray
    task: str

    @property
    def logits(self) -> np.ndarray:
        return Quantization(self.scale, self.zero_point).logits(self.raw)

    @property
    def probability(self) -> np.ndarray:
        return probabilities(self.logits, self.task)


@dataclass(frozen=True)
class Tuned:
    """The thresholds, the scores they were tuned on, and whether their probabilities hold."""

    thresholds: Thresholds | UnknownThreshold
    scores: Scores
    classes: tuple[str, ...]
    calibration: Calibration
    float_probability: np.ndarray  # of the student before INT8, on the same images


def read_scores(run: Run) -> Scores:
    with np.load(run.need(SCORES), allow_pickle=False) as held:
        return Scores(
            held["raw"], float(held["scale"]), int(held["zero_point"]), held["y_true"],
            held["mask"], run.settings.task,
        )  # fmt: skip


def read_classes(run: Run) -> tuple[str, ...]:
    return tuple(run.need("labels.txt").read_text(encoding="utf-8").splitlines())


def tune(run: Run) -> Tuned:
    """Search thresholds, put a person's saved edits back on top, and write both."""
    with run.step("06"):
        scores, classes = read_scores(run), read_classes(run)
        found = _search(run, scores, classes)
        found = with_saved_choice(found, run.folder)
        write_thresholds(run, found)
        calibration = _calibrate(run, scores, classes)
        write_json(run.path(CALIBRATION), calibration.to_json())
    return Tuned(found, scores, classes, calibration, _float_probability(run))


def _search(run: Run, scores: Scores, classes: tuple[str, ...]) -> Any:
    settings, source = run.settings, sha256(run.path(SCORES))
    if settings.task == "single_label":
        return search_unknown(
            scores.y_true, scores.logits, settings.single_label, classes, settings.seed,
            replicates=settings.threshold_search.bootstrap_replicates, source_sha256=source,
            mask=scores.mask,
        )  # fmt: skip
    return search(
        scores.y_true, scores.raw, scores.scale, scores.zero_point, settings.threshold_search,
        classes, settings.seed, mask=scores.mask, source_sha256=source,
    )  # fmt: skip


def _calibrate(run: Run, scores: Scores, classes: tuple[str, ...]) -> Calibration:
    settings = run.settings
    return calibrate(
        scores.y_true, scores.raw, scores.scale, scores.zero_point, classes, settings.seed,
        task=scores.task, mask=scores.mask, method=settings.calibration.method,
        replicates=settings.calibration.bootstrap_replicates,
    )  # fmt: skip


def _float_probability(run: Run) -> np.ndarray:
    with np.load(run.need(FLOAT_SCORES), allow_pickle=False) as held:
        return probabilities(held["logits"], run.settings.task)


def write_thresholds(run: Run, found: Thresholds | UnknownThreshold) -> None:
    write_json(run.path(RECOMMENDATION), found.model_dump(mode="json"))
    if found.curve is not None:
        text = io.StringIO()
        found.curve.to_csv(text, index=False, lineterminator="\n")
        write_text(run.path(CURVE), text.getvalue())


def choice_command(run: Run) -> str:
    """The command that applies what the explorer of a rendered page downloads."""
    return f"python -m workbench thresholds outputs/{run.name} {RECOMMENDATION}"


def count_scores(tuned: Tuned) -> LevelCounts | None:
    """Count images per class and level: all that curves, sliders and pages need."""
    if tuned.scores.task == "single_label":
        return None
    return count_levels(tuned.scores.y_true, tuned.scores.raw, tuned.scores.mask)
