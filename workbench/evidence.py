"""What a run left that its verdict rests on, gathered from its folder; the rules are in `decide`.

A file that is not there says nothing, one that nobody can read is refused by name.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from workbench.artifacts import (
    Count,
    Excerpt,
    FileExcerpt,
    Openings,
    ParityReport,
    QuantizationLadder,
    TeacherComparison,
    Tested,
    Training,
    TunedClasses,
)
from workbench.decide.levels import LOWEST, NEVER
from workbench.decide.trivial import Trivial
from workbench.decide.verdict import AuditError, Evidence, TestedClass, Verdict, judge
from workbench.errors import InputError
from workbench.settings import Settings

AUDIT_COLUMNS = ("kind", "split", "image", "detail")


class Judged(FileExcerpt):
    """The verdict of a run; None where 09 has not given one."""

    file: ClassVar[str] = "metrics.json"
    notebook: ClassVar[str] = "09_eval_report"

    verdict: Verdict | None = None


class Latency(Excerpt):
    threads: Count
    p50_ms: float


class Measured(Excerpt):
    """What 09 measured."""

    test: Tested
    trivial: Trivial
    model_bytes: Count
    host_latency: tuple[Latency, ...]


def with_verdict(
    record: Mapping[str, Any], trivial: Trivial, folder: Path, settings: Settings
) -> dict[str, Any]:
    """Add to what 09 measured what trivial answers score, and the verdict."""
    whole = {**record, "trivial": trivial.model_dump(mode="json")}
    found = judge(gather(folder, Measured.model_validate(whole), settings), settings.verdict)
    return whole | {"verdict": found.model_dump(mode="json")}


def gather(folder: Path, measured: Measured, settings: Settings) -> Evidence:
    """Read what the earlier steps found beside it."""
    overall, tuned = measured.test.overall, _tuned(folder)
    single = settings.task == "single_label"
    asked = settings.single_label.threshold_min_coverage
    one_thread = next((one for one in measured.host_latency if one.threads == 1), None)
    return Evidence(
        images=measured.test.images,
        f1_macro=overall["f1_macro"].value,
        interval=overall["f1_macro"].interval,
        withheld=overall["f1_macro"].withheld,
        classes=[
            TestedClass(one.name, one.positives, one.negatives, one.tp + one.fp, one.f1, one.span)
            for one in measured.test.classes
        ],
        trivial=measured.trivial,
        coverage=(overall["coverage"].value or 0.0, asked) if single else None,
        untuned=[one.name for one in tuned if one.positives == 0],
        always=[one.name for one in tuned if one.integer == LOWEST],
        never=[one.name for one in tuned if one.integer == NEVER],
        errors=_errors(folder),
        teacher=_teacher(folder),
        **_file(folder),
        megabytes=measured.model_bytes / 1e6,
        milliseconds=one_thread and one_thread.p50_ms,
        opened=Openings.read_if_there(folder).test_split.opened,
    )


def _tuned(folder: Path) -> tuple:
    found = TunedClasses.read_if_there(folder)
    return found.classes if found.task == "multilabel" else ()


def _errors(folder: Path) -> list[AuditError]:
    path = folder / "audit.csv"
    if not path.exists():
        return []
    try:
        with open(path, encoding="utf-8", newline="") as file:
            rows = [row for row in csv.DictReader(file) if row["severity"] == "error"]
        return [AuditError(*(row[key] or "" for key in AUDIT_COLUMNS)) for row in rows]
    except (UnicodeDecodeError, csv.Error, KeyError):
        raise InputError(f"{path} is damaged. Run 01_dataset_audit again") from None


def _teacher(folder: Path) -> tuple | None:
    """Return the F1 macro of teacher and student on validation, and what lies between them."""
    training = Training.read_if_there(folder)
    taught = training.product.quantized and training.distillation.enabled
    if not (taught and (folder / TeacherComparison.file).exists()):
        return None
    found = TeacherComparison.read(folder)
    if found.interval is None or found.difference is None:
        return None
    return found.teacher_f1, found.other_f1, found.difference, found.interval


def _file(folder: Path) -> dict[str, Any]:
    """Tell which rung ships, and where a runtime decides otherwise."""
    found: dict[str, Any] = {}
    quantized = Training.read_if_there(folder).product.quantized
    if quantized and (folder / QuantizationLadder.file).exists():
        ladder = QuantizationLadder.read(folder)
        rung = next(rung for rung in ladder.rungs if rung.rung == ladder.chosen)
        found["shipped"] = (rung.title, ladder.budget, rung.reason)
    if (folder / ParityReport.file).exists():
        rungs = ParityReport.read(folder).rungs
        found["lost"] = [(rung.name, rung.verdict) for rung in rungs if rung.verdict]
    return found
