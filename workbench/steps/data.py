"""01 and 02: audit the dataset, write it down once, and prove what the networks will see."""

from __future__ import annotations

import hashlib
import logging
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from workbench.data.audit import Audit, audit_dataset, write_audit
from workbench.data.pipeline import SheetRow, sample_sheet
from workbench.data.tables import Dataset, read_dataset, read_tables, write_tables
from workbench.errors import MissingInputError
from workbench.files import write_bytes, write_json
from workbench.run import Run
from workbench.settings import Settings

log = logging.getLogger(__name__)

MANIFEST = "dataset_manifest.json"
SPLITS = ("train", "val", "test")


def audit(run: Run) -> Audit:
    """Read the dataset, look at every image, and write down what later steps may rely on."""
    with run.step("01"):
        dataset = read_dataset(run.dataset_folder, run.settings)
        report = audit_dataset(dataset, run.settings)
        write_audit(report, run.folder)
        report.raise_if_unfit()
        write_splits(run, report)
    return report


def write_splits(run: Run, report: Audit) -> None:
    """Write the tables, labels.txt, the quarantine and the manifest of what was read."""
    write_tables(report.dataset, run.path("splits"))
    for name in ("labels.txt", "quarantine.csv"):
        write_bytes(run.path(name), run.path(f"splits/{name}").read_bytes())
    run.write_json(MANIFEST, describe_dataset(run, report))


def describe_dataset(run: Run, report: Audit) -> dict[str, Any]:
    """Describe the dataset by content, with paths that mean the same on another machine."""
    dataset = report.dataset
    return {
        "schema": 1,
        "task": run.settings.task,
        "images_folder": os.path.relpath(dataset.images, run.root),
        "classes": list(dataset.classes),
        "images": {name: int((dataset.rows["split"] == name).sum()) for name in SPLITS},
        "quarantined": len(report.quarantine),
        "content_sha256": _content_digest(report),
    }


def _content_digest(report: Audit) -> str:
    """Hash every image's name and content, and its labels, in the order of the tables."""
    contents = dict(zip(report.facts["image"], report.facts["sha256"], strict=True))
    digest = hashlib.sha256()
    for row in report.dataset.rows.itertuples():
        labels = "|".join((*row.labels, *(f"?{name}" for name in row.unknown)))
        line = f"{row.split}\0{row.filepath}\0{contents[row.filepath]}\0{labels}\n"
        digest.update(line.encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def load_dataset(run: Run) -> Dataset:
    """Read back the dataset as 01 wrote it."""
    manifest = run.read_json(MANIFEST)
    images = run.root / manifest["images_folder"]
    if not images.is_dir():
        raise MissingInputError(
            f"The images of this run lay in {images}, which is gone. Put them back, or run "
            "01_dataset_audit with the new dataset.dir"
        )
    return read_tables(run.path("splits"), images, manifest["classes"])


def audit_folder(folder: Path, settings: Settings, out: Path | None) -> tuple[str, dict[str, Any]]:
    """Audit any dataset folder without a run; return words and figures."""
    report = audit_dataset(read_dataset(folder, settings), settings)
    if out:
        write_audit(report, out)
    counts = report.summary["findings"]
    lines = [f"{report.summary['images']} images, {len(report.dataset.classes)} classes"]
    lines += [f"{counts[kind]} {kind}" for kind in counts if not isinstance(counts[kind], dict)]
    shown = report.findings.head(20)
    lines += [f"{row.severity:<8} {row.kind:<24} {row.image}: {row.detail}"
              for row in shown.itertuples()]  # fmt: skip
    if len(report.findings) > len(shown):
        lines.append(f"… {len(report.findings) - len(shown)} more; write them with --out FOLDER")
    return "\n".join(lines), report.summary


@dataclass(frozen=True)
class PipelineCheck:
    """What the networks see: shapes, ranges and speed of the streams, and a sheet of views."""

    streams: pd.DataFrame
    sheet: list[SheetRow]


def check_pipelines(run: Run, sheet_images: int = 8) -> PipelineCheck:
    """Draw batches from every stream and write down their shape, range and speed."""
    from workbench.data.pipeline import evaluation_batches, training_batches
    from workbench.nets.teacher import student_view, teacher_view

    with run.step("02"):
        dataset, settings = load_dataset(run), run.settings
        views = (teacher_view(settings), student_view(settings))
        size = settings.student.batch_size
        train, val = dataset.split("train"), dataset.split("val")
        training = training_batches(train, views, size, settings).dataset
        streams = [
            _measure("training, augmented", training, 8),
            _measure("validation", evaluation_batches(val, views, size, settings), 8),
        ]
        check = PipelineCheck(pd.DataFrame(streams), sample_sheet(train, settings, sheet_images))
        write_json(run.path("pipeline_check.json"), {"streams": streams})
    return check


def _measure(name: str, batches: Any, count: int) -> dict[str, Any]:
    started, images, low, high = time.perf_counter(), 0, np.inf, -np.inf
    for views, _targets, _mask in batches.take(count):
        images += len(views[0])
        low, high = min(low, float(np.min(views[0]))), max(high, float(np.max(views[0])))
    return {
        "stream": name,
        "views": " and ".join("x".join(map(str, view.shape[1:])) for view in views),
        "teacher_low": low,
        "teacher_high": high,
        "images_per_second": round(images / (time.perf_counter() - started), 1),
    }
