"""05: quantise the student by the first rung of the ladder that holds on validation."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from workbench.artifacts import QuantizationLadder
from workbench.deploy.convert import convert_full_integer, convert_quantized
from workbench.deploy.ladder import Ladder
from workbench.deploy.qat import fit, qat_batches, qat_phase
from workbench.deploy.quantize import calibration_images, cover_logits, fake_quantize
from workbench.run import Run
from workbench.steps.learning import load_student, load_teacher, located
from workbench.train.phases import loss_of
from workbench.train.student import student_objective

LADDER = QuantizationLadder.file


@dataclass(frozen=True)
class Quantized:
    """The ladder, and what 8 bits cost each layer."""

    ladder: QuantizationLadder
    layers: pd.DataFrame


def quantize(run: Run) -> Quantized:
    """Make the candidate that ships, score it on validation and say what each rung was worth."""
    with run.step("05"):
        settings, dataset = located(run), run.dataset()
        run = Run(run.folder, settings, run.root)
        student = load_student(run, dataset)
        helps = settings.qat.enabled and settings.qat.distill and settings.distillation.enabled
        teacher = load_teacher(run, dataset) if helps else None
        loss, classes = loss_of(settings, dataset), len(dataset.classes)
        objective = student_objective(settings, loss, teacher, classes)
        batches = qat_batches(settings, dataset, teacher)
        calibration = calibration_images(dataset, settings)
        ladder = Ladder(student, dataset, settings, run.folder)
        if ladder.needs("qat"):
            with ladder.rung("qat") as rung:
                skipped = settings.qat.skip_layers
                quantized = fake_quantize(student, calibration, skip_layers=skipped)
                fit(qat_phase(settings), quantized, objective, batches, run)
                cover_logits(student, quantized, calibration)
                model = convert_quantized(quantized, settings.tflite_export, calibration)
                rung.offer(model, quantized)
        if ladder.needs("ptq"):
            with ladder.rung("ptq") as rung:
                rung.offer(convert_full_integer(student, calibration, settings.tflite_export))
        ladder.fall_back(calibration, objective, batches, run)
        found = ladder.choose()
    return Quantized(found, ladder.layer_errors(calibration))
