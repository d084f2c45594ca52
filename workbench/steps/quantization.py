"""05: climb down the quantisation ladder until a rung holds on validation."""

from __future__ import annotations

import logging
import shutil
from dataclasses import dataclass

import numpy as np
import pandas as pd
import tf_keras as keras

from workbench.data.views import letterboxed
from workbench.deploy.bundle import withdrawn_on_failure
from workbench.deploy.convert import convert_full_integer
from workbench.deploy.layers import COLUMNS, layer_errors
from workbench.deploy.qat import float_twin, restore
from workbench.deploy.quantize import Ladder, calibration_images, quantize_student
from workbench.deploy.tflite import output_quantization
from workbench.errors import StepError
from workbench.run import Run
from workbench.steps.data import load_dataset
from workbench.steps.learning import load_student, load_teacher, located, write_arrays

log = logging.getLogger(__name__)

LADDER = "quantization_ladder.json"
SCORES = "candidate_scores.npz"
LAYER_IMAGES = 16  # enough to see ranges; every layer's output is held for them


@dataclass(frozen=True)
class Quantized:
    """The ladder, and what 8 bits cost each layer."""

    ladder: Ladder
    layers: pd.DataFrame


def quantize(run: Run) -> Quantized:
    """Make the candidate that ships, score it on validation and say what each rung was worth."""
    with run.step("05"), withdrawn_on_failure(run.folder):
        dataset = load_dataset(run)
        settings = located(run)
        student = load_student(run, dataset)
        helps = settings.qat.enabled and settings.qat.distill and settings.distillation.enabled
        teacher = load_teacher(run, dataset) if helps else None
        _clear(run)
        ladder = quantize_student(settings, dataset, student, teacher, run.folder)
        run.write_json(LADDER, ladder.summary())
        _write_scores(run, ladder, dataset)
    return Quantized(ladder, _layers(run, ladder, student, dataset))


def _clear(run: Run) -> None:
    """Forget earlier rungs first: should none hold now, 06 and 07 must not find those of then."""
    shutil.rmtree(run.path("candidates"), ignore_errors=True)
    for name in (LADDER, SCORES):
        run.path(name).unlink(missing_ok=True)


def _write_scores(run: Run, ladder: Ladder, dataset) -> None:
    """Keep the candidate's raw integers: thresholds are tuned on exactly these."""
    validation = dataset.split("val")
    scale, zero_point = output_quantization(ladder.candidate)
    write_arrays(
        run.path(SCORES),
        raw=ladder.scores,
        scale=np.float64(scale),
        zero_point=np.int64(zero_point),
        y_true=validation.targets,
        mask=validation.mask,
    )


def load_quantized(run: Run, student):
    """Rebuild the fake-quantised network of a QAT rung; None where another rung ships."""
    ladder = run.read_json(LADDER)
    if not ladder["qat_weights"] or not ladder["chosen"].startswith("qat"):
        return None
    weights = run.path(ladder["qat_weights"])
    return restore(student, weights, skip_layers=ladder["skipped_layers"])


def _layers(run: Run, ladder: Ladder, student, dataset) -> pd.DataFrame:
    """Rank the layers by what INT8 costs them, under their Keras names."""
    validation = dataset.split("val")
    rows = range(min(LAYER_IMAGES, len(validation)))
    images = list(letterboxed(validation, run.settings.student_size, run.settings, indices=rows))
    try:
        return layer_errors(*_in_integers(run, ladder, student, dataset), images)
    except StepError as error:
        log.warning("the layers cannot be ranked: %s", error)
        return pd.DataFrame(columns=COLUMNS)


def _in_integers(run: Run, ladder: Ladder, student, dataset) -> tuple[keras.Model, bytes]:
    """Return a network and its INT8 file: what ships or, where floats do, a PTQ for the ranking."""
    quantized = load_quantized(run, student)
    if quantized is not None:
        return float_twin(student, quantized), ladder.candidate.read_bytes()
    if ladder.chosen != "float16":
        return student, ladder.candidate.read_bytes()
    settings = run.settings
    calibration = calibration_images(settings, dataset)
    return student, convert_full_integer(student, calibration, settings.tflite_export)
