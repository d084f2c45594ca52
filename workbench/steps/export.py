"""07: write the shipped file from the candidate, and prove that it computes the same."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from workbench.data.views import letterboxed
from workbench.decide.recommendation import RECOMMENDATION
from workbench.deploy import tflite
from workbench.deploy.bundle import withdrawn_on_failure
from workbench.deploy.config import MODEL_FILE, inference_config
from workbench.deploy.export import export_model
from workbench.deploy.formats import Sample, export_formats, summary
from workbench.deploy.parity import Networks, Parity, rehearse, require_parity
from workbench.deploy.quantize import choose_calibration
from workbench.deploy.tflite import Scan
from workbench.files import write_bytes
from workbench.machine import PACKAGES, installed
from workbench.nets.teacher import student_view, teacher_view
from workbench.run import Run
from workbench.settings import Settings
from workbench.steps.data import load_dataset
from workbench.steps.learning import load_student, load_teacher
from workbench.steps.quantization import LADDER, load_quantized

MODEL = MODEL_FILE


@dataclass(frozen=True)
class Shipped:
    """The file that leaves the house, what a scan found in it, and the parity ladder."""

    scan: Scan
    parity: Parity


def ship(run: Run) -> Shipped:
    """Attach labels and metadata to the candidate, scan it, and climb the parity ladder.

    Decisions are compared at the neutral thresholds here, so that tuning does not touch this
    step; the last rungs compute the same integers, which no threshold can tell apart.
    """
    with run.step("07"), withdrawn_on_failure(run.folder):
        settings, classes = (
            run.settings,
            tuple(run.need("labels.txt").read_text(encoding="utf-8").splitlines()),
        )
        ladder = run.read_json(LADDER)
        folded = run.read_json(RECOMMENDATION) if settings.tflite_export.fold_thresholds else None
        model = export_model(
            run.folder / ladder["candidate"], classes, describe_model(settings, ladder), settings,
            folded,
        )  # fmt: skip
        write_bytes(run.path(MODEL), model)
        parity = _rehearse(run, ladder, folded)
        run.write_json("parity.json", parity.summary())
        require_parity(parity)
    return Shipped(tflite.scan_tensors(model), parity)


def describe_model(settings: Settings, ladder: dict[str, Any]) -> dict[str, Any]:
    """Say inside the file what it is; nothing here may change from one export to the next."""
    return {
        "name": f"{settings.student.variant} {settings.task} classifier",
        "description": f"input letterbox q8 {settings.student_size}px, RGB; output logits",
        "task": settings.task,
        "rung": ladder["chosen"],
        "is_logits": not settings.tflite_export.sigmoid_in_model,
    }


def neutral_thresholds(
    settings: Settings, classes: tuple[str, ...], scale: float, zero_point: int
) -> dict[str, Any]:
    """Build a recommendation that says yes at one half: what parity is measured at."""
    if settings.task == "single_label":
        return {"unknown": {"probability": 0.0}}
    level = {"probability": 0.5, "logit": 0.0, "integer": zero_point}
    return {
        "classes": [{"name": name, **level} for name in classes],
        "scores": {"scale": scale, "zero_point": zero_point},
    }


def _rehearse(run: Run, ladder: dict[str, Any], tuned: dict[str, Any] | None) -> Parity:
    dataset, settings = load_dataset(run), run.settings
    candidate = run.folder / ladder["candidate"]
    levels = tflite.output_quantization(candidate)
    thresholds = tuned or neutral_thresholds(settings, dataset.classes, *levels)
    config = inference_config(
        run.folder, settings, dataset.classes, thresholds, ladder, versions=versions()
    )
    student = load_student(run, dataset)
    networks = Networks(student, load_quantized(run, student), candidate, run.path(MODEL), config)
    return rehearse(settings, dataset.split("val"), networks, _logits(thresholds, settings))


def _logits(thresholds: dict[str, Any], settings: Settings) -> np.ndarray:
    if settings.task == "single_label":
        return np.float64(thresholds["unknown"]["probability"])
    return np.array([entry["logit"] for entry in thresholds["classes"]])


def versions() -> dict[str, str]:
    found = {name: installed(name) for name in PACKAGES}
    return {name: version for name, version in found.items() if version}


def export_network(
    run: Run, network: str, formats: list[str], *, force: bool = False
) -> tuple[str, dict[str, Any]]:
    """Write a finished network in other formats beside the shipped file."""
    dataset, settings = load_dataset(run), run.settings
    load, view_of = {
        "student": (load_student, student_view),
        "teacher": (load_teacher, teacher_view),
    }[network]
    view, train = view_of(settings), dataset.split("train")
    rows = choose_calibration(
        train, settings.tflite_export.representative_dataset_size, settings.seed
    )
    sample = Sample(list(letterboxed(train, view.size, settings, rows)), view.normalization)
    written = export_formats(
        load(run, dataset), formats, run.folder, network, sample, settings.tflite_export,
        force=force,
    )  # fmt: skip
    lines = [
        f"{one.file}  {one.bytes / 1024:,.0f} KiB  sha256 {one.sha256[:12]}" for one in written
    ]
    return "\n".join(lines), {"files": summary(written)}
