"""What a reader must know beside the figures: it stands in the closing lines, the index and 09.

Gathered from what the steps left in the run folder; nothing is judged here that they did not find.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from workbench.artifacts import ParityReport, QuantizationLadder, TeacherComparison
from workbench.decide.levels import LOWEST, NEVER
from workbench.files import read_json

KINDS_SHOWN = 3
NAMES_SHOWN = 10


def cautions(folder: Path) -> list[str]:
    """Say in a sentence each what the audit, teacher, file, thresholds and test give to doubt."""
    test = _read(folder, "metrics.json").get("test", {"classes": ()})
    tuned = _read(folder, "threshold_recommendation.json")
    tuned = tuned if tuned.get("task") == "multilabel" else {"classes": ()}
    opened = _read(folder, "run_metadata.json").get("test_split", {"opened": 0})["opened"]
    lines = [*_audit_errors(folder / "audit.csv"), *_teacher(folder), *_phone_file(folder)]
    lines += _named("absent from val, so nobody tuned them", _absent(tuned["classes"], "name"))
    lines += _named("absent from test, so nobody judged them", _absent(test["classes"], "class"))
    lines += _named("the answer is always yes", _trivial(test, tuned, LOWEST))
    lines += _named("the answer is never yes", _trivial(test, tuned, NEVER))
    if opened > 1:
        lines.append(
            f"the test split was opened {opened} times by this run: what was changed in between "
            "may have been chosen on it"
        )
    return lines


def _read(folder: Path, name: str) -> dict[str, Any]:
    return read_json(folder / name) if (folder / name).exists() else {}


def _audit_errors(path: Path) -> Iterator[str]:
    if not path.exists():
        return
    with open(path, encoding="utf-8", newline="") as file:
        errors = [row for row in csv.DictReader(file) if row["severity"] == "error"]
    counts = Counter(row["kind"] for row in errors)
    for kind, count in counts.most_common(KINDS_SHOWN):
        first = next(row for row in errors if row["kind"] == kind)
        of_what = " ".join(part for part in (first["split"], first["image"]) if part)
        more = f" (and {count - 1} more)" if count > 1 else ""
        yield f"the audit found {kind}: {of_what}: {first['detail']}{more}"
    if rest := sum(count for _, count in counts.most_common()[KINDS_SHOWN:]):
        yield f"the audit found {rest} more errors, see audit.csv"


def _teacher(folder: Path) -> Iterator[str]:
    """Name a teacher that taught although it was not clearly better than its student."""
    taught = _read(folder, "training_config.json").get("distillation", {}).get("enabled", True)
    if taught and (folder / TeacherComparison.file).exists():
        found = TeacherComparison.read(folder)
        if not found.can_teach:
            yield found.words


def _phone_file(folder: Path) -> Iterator[str]:
    """Say why another file than that of QAT ships, what it may have lost, and what 07 could not."""
    if (folder / QuantizationLadder.file).exists():
        ladder = QuantizationLadder.read(folder)
        if ladder.chosen != "qat" or ladder.budget != "within":
            shipped = next(rung for rung in ladder.rungs if rung.rung == ladder.chosen)
            yield f"the phone file is {shipped.title}: {shipped.reason}"
    lost = [rung for rung in _read(folder, ParityReport.file).get("rungs", ()) if rung["verdict"]]
    for rung in lost:
        yield f'parity is lost at "{rung["name"]}", and no other file was left: {rung["verdict"]}'


def _absent(classes: list[dict[str, Any]], key: str) -> list[str]:
    return [row[key] for row in classes if row["positives"] == 0]


def _trivial(test: dict[str, Any], tuned: dict[str, Any], integer: int) -> list[str]:
    """Name the classes whose threshold, or whose answers on the test split, are always alike."""
    names = {row["name"]: None for row in tuned["classes"] if row["integer"] == integer}
    for row in test["classes"]:
        said, known = row["tp"] + row["fp"], row["positives"] + row["negatives"]
        if known and said == known if integer == LOWEST else row["positives"] and not said:
            names[row["class"]] = None
    return list(names)


def _named(what: str, names: list[str]) -> Iterator[str]:
    if names:
        more = f" and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else ""
        yield f"{what}: {', '.join(names[:NAMES_SHOWN])}{more}"
