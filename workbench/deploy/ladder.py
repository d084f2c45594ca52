"""Quantise the student: how each rung makes its file, and which of them ships."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import workbench  # noqa: F401  (selects legacy Keras before TensorFlow loads)

# isort: split
import numpy as np
import pandas as pd
import tf_keras as keras

from workbench.data.pipeline import letterboxed
from workbench.data.tables import Dataset
from workbench.deploy import convert, qat, tflite
from workbench.deploy.calibrate import choose_calibration
from workbench.deploy.rungs import TITLES, Maker, Rung, climb_down, row
from workbench.deploy.scores import Truth, f1_macro, mean_average_precision, score_logits
from workbench.files import write_bytes
from workbench.nets.weights import save_weights
from workbench.settings import Settings

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Ladder:
    """All rungs, best first, and the file of the chosen one."""

    rungs: tuple[Rung, ...]
    chosen: str
    candidate: Path
    float_f1_macro: float
    float_map: float | None
    scores: np.ndarray = field(repr=False)  # raw output of the candidate on validation, int8 [N, C]
    forced: bool = False
    qat_weights: Path | None = None
    skipped_layers: tuple[str, ...] = ()

    def table(self) -> pd.DataFrame:
        """One row a rung, for the report."""
        return pd.DataFrame([row(rung) for rung in self.rungs])

    def summary(self) -> dict[str, Any]:
        """Everything but the scores, JSON-able: what `quantization_ladder.json` holds."""
        return {
            "chosen": self.chosen,
            "title": TITLES[self.chosen],
            "forced": self.forced,
            "candidate": f"{self.candidate.parent.name}/{self.candidate.name}",
            "qat_weights": self.qat_weights.name if self.qat_weights else None,
            "skipped_layers": list(self.skipped_layers),
            "float": {"f1_macro": self.float_f1_macro, "map": self.float_map},
            "rungs": [row(rung) for rung in self.rungs],
        }


@dataclass(frozen=True)
class Workshop:
    """What the rungs share."""

    settings: Settings
    dataset: Dataset
    student: keras.Model
    teacher: keras.Model | None
    folder: Path
    calibration: Sequence[np.ndarray]  # letterboxed uint8 [S, S, 3]


def quantize_student(
    settings: Settings,
    dataset: Dataset,
    student: keras.Model,
    teacher: keras.Model | None,
    folder: Path,
) -> Ladder:
    """Climb down the ladder until a rung holds on validation.

    Writes `candidates/<rung>.tflite` of the rung that ships and `student_qat.h5` into `folder`.
    """
    validation = dataset.split("val")
    images = list(letterboxed(validation, settings.student_size, settings))
    truth = Truth(validation.targets, validation.mask, settings.task)
    reference = convert.keras_logits(student, images)
    workshop = Workshop(
        settings, dataset, student, teacher, folder, calibration_images(settings, dataset)
    )
    rungs, (model, raw) = climb_down(
        makers(workshop),
        run=lambda file: tflite.run_tflite(file, images, threads=settings.run.threads),
        judge=lambda logits: score_logits(
            logits,
            reference,
            truth,
            replicates=settings.evaluation.bootstrap_replicates,
            seed=settings.seed,
        ),
        settings=settings.ladder,
    )
    chosen = next(rung.name for rung in rungs if rung.state == "shipped")
    candidate = folder / "candidates" / f"{chosen}.tflite"
    write_bytes(candidate, model)
    weights = folder / "student_qat.h5"
    return Ladder(
        rungs=tuple(rungs),
        chosen=chosen,
        candidate=candidate,
        float_f1_macro=f1_macro(reference, truth),
        float_map=mean_average_precision(reference, truth),
        scores=raw,
        forced=settings.ladder.force_rung is not None,
        qat_weights=weights if weights.exists() else None,
    )


def calibration_images(settings: Settings, dataset: Dataset) -> list[np.ndarray]:
    """Letterbox the training images that calibrate the ranges."""
    train = dataset.split("train")
    size = settings.tflite_export.representative_dataset_size
    indices = choose_calibration(train, size, settings.seed)
    return list(letterboxed(train, settings.student_size, settings, indices=indices))


def makers(workshop: Workshop) -> dict[str, Maker]:
    """Return a maker for every rung that the settings allow."""
    export, images = workshop.settings.tflite_export, workshop.calibration
    after_training = {
        "ptq": lambda: convert.convert_full_integer(workshop.student, images, export),
        "ptq_float_head": lambda: convert.convert_float_head(workshop.student, images, export),
        "float16": lambda: convert.convert_float16(workshop.student, images, export),
    }
    if not workshop.settings.qat.enabled:
        return after_training
    return {
        "qat": lambda: make_qat(workshop, workshop.settings.qat.skip_layers),
        **after_training,
    }


def make_qat(workshop: Workshop, skip_layers: Sequence[str]) -> bytes:
    """Train under fake quantisation, keep the weights, convert."""
    quantized = qat.quantize(workshop.student, workshop.calibration, skip_layers=skip_layers)
    qat.train(workshop.settings, workshop.dataset, quantized, workshop.teacher, workshop.folder)
    save_weights(quantized, workshop.folder / "student_qat.h5")
    export = workshop.settings.tflite_export
    return convert.convert_full_integer(quantized, workshop.calibration, export)
