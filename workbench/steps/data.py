"""01 and 02: audit the dataset, write it down once, and prove what the networks will see."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from workbench.data import tables
from workbench.data.audit.report import Audit, audit_dataset, write_audit
from workbench.data.tables import MANIFEST, Dataset, read_dataset, write_dataset
from workbench.data.views import SheetRow, sample_rows
from workbench.files import write_json
from workbench.run import Run
from workbench.settings import Settings

log = logging.getLogger(__name__)


__all__ = ["MANIFEST", "load_dataset"]


def audit(run: Run) -> Audit:
    """Read the dataset, look at every image, and write down what later steps may rely on."""
    with run.step("01"):
        dataset = read_dataset(run.dataset_folder, run.settings)
        report = audit_dataset(dataset, run.settings)
        write_audit(report, run.folder)
        report.raise_if_unfit()
        write_dataset(report.dataset, run.folder, run.root, task=run.settings.task,
                      sha256=report.sha256)  # fmt: skip
    return report


def load_dataset(run: Run) -> Dataset:
    """Read back the dataset as 01 wrote it."""
    return tables.load_dataset(run.folder, run.root)


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
        check = PipelineCheck(pd.DataFrame(streams), sample_rows(train, settings, sheet_images))
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
