"""Quantise the student: how each rung makes its file, and which of them ships."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pandas as pd
import tf_keras as keras

from workbench.data.tables import Dataset
from workbench.data.views import letterboxed
from workbench.deploy import convert, qat, tflite
from workbench.deploy import qat as ranges
from workbench.deploy.fallbacks import (
    TITLES,
    Maker,
    Rung,
    Truth,
    climb_down,
    f1_macro,
    mean_average_precision,
    row,
    score_logits,
)
from workbench.deploy.layers import layer_errors, worst_layers
from workbench.files import write_bytes
from workbench.nets.weights import save_weights
from workbench.settings import Settings

# Which training images calibrate the INT8 ranges. Chooses indices only; decodes nothing.


class Labelled(Protocol):
    """What this module needs of a split: `data.tables.Split` has it."""

    targets: np.ndarray  # float32 [N, C]
    mask: np.ndarray  # float32 [N, C], 0 where the label is unknown


def choose_calibration(split: Labelled, size: int, seed: int) -> np.ndarray:
    """Return up to `size` row indices, ascending, in which every class and frequent pair occurs.

    Greedy: each step takes the image that adds most to what is least covered so far. Ties are
    broken by a seeded shuffle, so another seed gives another, equally covering set.
    """
    order = np.random.default_rng(seed).permutation(len(split.targets))
    features = _features(np.asarray(split.targets) * np.asarray(split.mask))[order]
    chosen = _cover(features, min(size, len(order)))
    return np.sort(order[chosen])


def _features(targets: np.ndarray) -> np.ndarray:
    """Columns to cover: one a class, one a pair of classes that occurs, one for "none of them"."""
    positive = targets > 0.5
    first, second = np.triu_indices(positive.shape[1], k=1)
    pairs = positive.T.astype(np.float32) @ positive.astype(np.float32)
    frequent = pairs[first, second] >= _pair_floor(len(positive))
    together = positive[:, first[frequent]] & positive[:, second[frequent]]
    nothing = ~positive.any(axis=1, keepdims=True)
    return np.hstack([positive, together, nothing]).astype(np.float32)


def _pair_floor(images: int) -> int:
    """A pair counts as frequent from one image in a hundred on, and from two in any case."""
    return max(2, images // 100)


def _cover(features: np.ndarray, size: int) -> np.ndarray:
    """Pick rows by diminishing gain: the nth example of a feature is worth half the one before."""
    worth = np.ones(features.shape[1], dtype=np.float64)
    available = np.ones(len(features), dtype=bool)
    chosen = np.empty(size, dtype=np.int64)
    for step in range(size):
        gain = np.where(available, features @ worth, -1.0)
        best = int(np.argmax(gain))
        chosen[step] = best
        available[best] = False
        worth[features[best] > 0] *= 0.5
    return chosen


# Quantise the student: how each rung makes its file, and which of them ships.

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
