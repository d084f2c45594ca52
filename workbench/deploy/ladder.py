"""Quantise the student: how each rung makes its file, and which of them ships."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import workbench  # noqa: F401  (selects legacy Keras before TensorFlow loads)

# isort: split
import numpy as np
import pandas as pd
import tf_keras as keras

from workbench.data.pipeline import letterboxed
from workbench.data.tables import Dataset
from workbench.deploy import convert, qat, ranges, tflite
from workbench.deploy.calibrate import choose_calibration
from workbench.deploy.layers import layer_errors, worst_layers
from workbench.deploy.rungs import TITLES, Maker, Rung, climb_down, row
from workbench.deploy.scores import Truth, f1_macro, mean_average_precision, score_logits
from workbench.files import write_bytes
from workbench.nets.weights import save_weights
from workbench.settings import Settings

log = logging.getLogger(__name__)

QAT_WEIGHTS = "student_qat.h5"
RANKING_IMAGES = 16  # enough to see ranges; the outputs of every layer are held for them


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
    qat_weights: Path | None = None  # of the last QAT rung that was trained
    skipped_layers: tuple[str, ...] = ()  # left in float arithmetic while that rung trained

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


def quantize_student(
    settings: Settings,
    dataset: Dataset,
    student: keras.Model,
    teacher: keras.Model | None,
    folder: Path,
) -> Ladder:
    """Climb down the ladder until a rung holds on validation.

    Writes `candidates/<rung>.tflite` of the rung that ships and, where QAT trained,
    `student_qat.h5` into `folder`. A killed QAT goes on at its last checkpoint.
    """
    workshop = Workshop(settings, dataset, student, teacher, Path(folder))
    validation = dataset.split("val")
    images = list(letterboxed(validation, settings.student_size, settings))
    truth = Truth(validation.targets, validation.mask, settings.task)
    reference = convert.keras_logits(student, images)
    rungs, (model, raw) = climb_down(
        workshop.makers(),
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
    candidate = workshop.folder / "candidates" / f"{chosen}.tflite"
    write_bytes(candidate, model)
    return Ladder(
        rungs=tuple(rungs),
        chosen=chosen,
        candidate=candidate,
        float_f1_macro=f1_macro(reference, truth),
        float_map=mean_average_precision(reference, truth),
        scores=raw,
        forced=settings.ladder.force_rung is not None,
        qat_weights=workshop.weights,
        skipped_layers=workshop.skipped,
    )


def calibration_images(settings: Settings, dataset: Dataset) -> list[np.ndarray]:
    """Letterbox the training images that calibrate the ranges: uint8 [S, S, 3] each."""
    train = dataset.split("train")
    size = settings.tflite_export.representative_dataset_size
    indices = choose_calibration(train, size, settings.seed)
    return list(letterboxed(train, settings.student_size, settings, indices=indices))


class Workshop:
    """Makes the file of each rung; remembers the last QAT, which names its own worst layers."""

    def __init__(
        self,
        settings: Settings,
        dataset: Dataset,
        student: keras.Model,
        teacher: keras.Model | None,
        folder: Path,
    ) -> None:
        self.settings, self.dataset, self.folder = settings, dataset, folder
        self.student, self.teacher = student, teacher
        self.weights: Path | None = None
        self.skipped: tuple[str, ...] = ()
        self._attempt: tuple[keras.Model, bytes] | None = None

    @cached_property
    def calibration(self) -> list[np.ndarray]:
        return calibration_images(self.settings, self.dataset)

    def makers(self) -> dict[str, Maker]:
        """Return a maker for every rung that the settings allow."""
        rungs: dict[str, Maker] = {
            "ptq": lambda: self._convert(convert.convert_full_integer),
            "ptq_float_head": lambda: self._convert(convert.convert_float_head),
            "float16": lambda: self._convert(convert.convert_float16),
        }
        if self.settings.qat.enabled:
            rungs["qat"] = self.make_qat
            rungs["qat_skip_worst"] = self.make_qat_skip_worst
        return rungs

    def _convert(self, converter) -> bytes:
        return converter(self.student, self.calibration, self.settings.tflite_export)

    def make_qat(self) -> bytes:
        """Train all layers under fake quantisation but those that the settings leave out."""
        return self._train_and_convert(qat.PHASE, self.settings.qat.skip_layers)

    def make_qat_skip_worst(self) -> bytes:
        """Train again without the layers that lose most, nor those that the toolkit refuses."""
        left_out = [*self.settings.qat.skip_layers, *qat.unsupported_layers(self.student)]
        left_out += self._worst_layers()
        log.info("QAT leaves out %s", ", ".join(left_out))
        return self._train_and_convert(f"{qat.PHASE}_skip_worst", left_out)

    def _train_and_convert(self, phase: str, skip_layers: Sequence[str]) -> bytes:
        settings = self.settings
        quantized = qat.quantize(self.student, self.calibration, skip_layers=skip_layers)
        qat.train(settings, self.dataset, quantized, self.teacher, self.folder, name=phase)
        ranges.cover_logits(quantized, qat.float_twin(self.student, quantized), self.calibration)
        self.weights, self.skipped = self.folder / QAT_WEIGHTS, tuple(skip_layers)
        save_weights(quantized, self.weights)
        images = self.calibration if skip_layers else None
        model = convert.convert_quantized(quantized, settings.tflite_export, images)
        self._attempt = quantized, model
        return model

    def _worst_layers(self) -> list[str]:
        """Rank by the QAT that failed; where it got no further than an error, by a PTQ."""
        if self._attempt:
            network, model = qat.float_twin(self.student, self._attempt[0]), self._attempt[1]
        else:
            network, model = self.student, self._convert(convert.convert_full_integer)
        errors = layer_errors(network, model, self.calibration[:RANKING_IMAGES])
        return worst_layers(errors, self.settings.ladder.worst_layers)
