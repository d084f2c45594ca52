"""07: write the shipped file from the candidate, and prove that it computes the same."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from workbench.artifacts import ParityReport, QuantizationLadder
from workbench.data.views import letterboxed
from workbench.decide.recommendation import RECOMMENDATION
from workbench.deploy import parity as runtimes
from workbench.deploy import tflite
from workbench.deploy.bundle import withdrawn_on_failure
from workbench.deploy.config import MODEL_FILE, describe_model, inference_config, neutral_thresholds
from workbench.deploy.convert import keras_logits
from workbench.deploy.coverage import covering_rows
from workbench.deploy.flatbuffer import export_model
from workbench.deploy.formats import Sample, describe_exports, export_formats
from workbench.deploy.quantize import float_twin, load_quantized
from workbench.deploy.tflite import Scan
from workbench.files import write_bytes
from workbench.machine import PACKAGES, installed
from workbench.nets.teacher import student_view, teacher_view
from workbench.run import Run
from workbench.steps.learning import load_student, load_teacher

MODEL = MODEL_FILE


@dataclass(frozen=True)
class Shipped:
    """The file that ships, what a scan found in it, and how the runtimes agree."""

    scan: Scan
    parity: ParityReport


def ship(run: Run) -> Shipped:
    """Attach labels and metadata to the candidate, scan it, and compare the runtimes.

    Decisions are compared at the neutral thresholds here, so that tuning does not touch this
    step; the last rungs compute the same integers, which no threshold can tell apart.
    """
    with run.step("07"), withdrawn_on_failure(run.folder):
        settings, classes = run.settings, run.dataset().classes
        ladder = QuantizationLadder.read(run.folder)
        candidate = (run.folder / ladder.candidate).read_bytes()
        tuned = run.read_json(RECOMMENDATION) if settings.tflite_export.fold_thresholds else None
        model = export_model(candidate, classes, describe_model(settings, ladder), settings, tuned)
        write_bytes(run.path(MODEL_FILE), model)
        parity = _compare(run, ladder, candidate, model, tuned)
        run.write_json(parity.file, parity.to_json())
        runtimes.require_parity(parity)
    return Shipped(tflite.scan_tensors(model), parity)


def _compare(run: Run, ladder: QuantizationLadder, candidate, model, tuned) -> ParityReport:
    dataset, settings = run.dataset(), run.settings
    split = dataset.split("val")
    rows = covering_rows(split, settings.parity.images, settings.seed)
    images = list(letterboxed(split, settings.student_size, settings, indices=rows))
    student = load_student(run, dataset)
    quantized = load_quantized(run.folder, student, ladder)
    logits = {runtimes.KERAS: keras_logits(student, images)}
    if quantized is not None:
        logits[runtimes.QAT_TWIN] = keras_logits(float_twin(student, quantized), images)
        logits[runtimes.FAKE_QUANTIZED] = keras_logits(quantized, images)
    threads = settings.run.threads
    for name, reference in ((runtimes.REFERENCE, True), (runtimes.LITERT, False)):
        found = tflite.tflite_logits(candidate, images, threads=threads, reference=reference)
        logits[name] = found
    levels = tflite.output_quantization(candidate)
    thresholds = tuned or neutral_thresholds(settings, dataset.classes, *levels)
    cut = _cut(thresholds, settings.task)
    decisions = {
        name: runtimes.decide_logits(values, settings.task, cut) for name, values in logits.items()
    }
    config = inference_config(
        run.folder, settings, dataset.classes, thresholds, ladder, versions=versions()
    )
    logits[runtimes.PHONE], decisions[runtimes.PHONE] = runtimes.phone_harness(
        model, config, split, rows, settings, like=logits[runtimes.LITERT]
    )
    return runtimes.measure_parity(
        logits, decisions, split.targets[rows], split.mask[rows], split.classes,
        [split.filepaths[row] for row in rows], settings.parity,
    )  # fmt: skip


def _cut(thresholds: dict[str, Any], task: str) -> np.ndarray:
    if task == "single_label":
        return np.float64(thresholds["unknown"]["probability"])
    return np.array([entry["logit"] for entry in thresholds["classes"]])


def versions() -> dict[str, str]:
    found = {name: installed(name) for name in PACKAGES}
    return {name: version for name, version in found.items() if version}


def export_network(
    run: Run, network: str, formats: list[str], *, force: bool = False
) -> tuple[str, dict[str, Any]]:
    """Write a finished network in other formats beside the shipped file."""
    dataset, settings = run.dataset(), run.settings
    load, view = {
        "student": (load_student, student_view(settings)),
        "teacher": (load_teacher, teacher_view(settings)),
    }[network]
    sample = Sample.of(dataset.split("train"), view, settings)
    text, files = describe_exports(
        export_formats(
            load(run, dataset), formats, run.folder, network, sample, settings.tflite_export,
            force=force,
        )
    )  # fmt: skip
    return text, {"files": files}
