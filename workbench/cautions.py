"""What a reader must know beside the figures: it stands in the closing lines, the index and 09.

Gathered from what the steps left in the run folder; nothing is judged here that they did not find.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from workbench.artifacts import (
    Openings,
    ParityReport,
    QuantizationLadder,
    TeacherComparison,
    TestedClass,
    TestFigures,
    Training,
    TunedClass,
    TunedClasses,
)
from workbench.decide.levels import LOWEST, NEVER
from workbench.errors import InputError

AUDIT_COLUMNS = ("image", "split", "kind", "severity", "detail")
KINDS_SHOWN = 3
NAMES_SHOWN = 10


def cautions(folder: Path) -> list[str]:
    """Say in a sentence each what the audit, teacher, file, thresholds and test give to doubt."""
    sources = (_audit_errors, _teacher, _phone_file, _classes, _openings)
    return [line for source in sources for line in _lines_of(source, folder)]


def _lines_of(source: Callable[[Path], Iterator[str]], folder: Path) -> list[str]:
    """A file that nobody can read is a doubt as well, and hides none of the others."""
    try:
        return list(source(folder))
    except InputError as error:
        return [str(error)]


def _openings(folder: Path) -> Iterator[str]:
    opened = Openings.read_if_there(folder).test_split.opened
    if opened > 1:
        yield (
            f"the test split was opened {opened} times by this run: what was changed in between "
            "may have been chosen on it"
        )


def _classes(folder: Path) -> Iterator[str]:
    test = TestFigures.read_if_there(folder).test.classes
    tuned = TunedClasses.read_if_there(folder)
    tuned = tuned.classes if tuned.task == "multilabel" else ()
    yield from _named("absent from val, so nobody tuned them", _absent(tuned))
    yield from _named("absent from test, so nobody judged them", _absent(test))
    yield from _named("the answer is always yes", _trivial(test, tuned, LOWEST))
    yield from _named("the answer is never yes", _trivial(test, tuned, NEVER))


def _audit_errors(folder: Path) -> Iterator[str]:
    path = folder / "audit.csv"
    if not path.exists():
        return
    try:
        with open(path, encoding="utf-8", newline="") as file:
            found = list(csv.DictReader(file))
        errors = [{key: row[key] or "" for key in AUDIT_COLUMNS} for row in found]
    except (UnicodeDecodeError, csv.Error, KeyError):
        raise InputError(f"{path} is damaged. Run 01_dataset_audit again") from None
    errors = [row for row in errors if row["severity"] == "error"]
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
    training = Training.read_if_there(folder)
    taught = training.product.quantized and training.distillation.enabled
    if taught and (folder / TeacherComparison.file).exists():
        found = TeacherComparison.read(folder)
        if not found.can_teach:
            yield found.words


def _phone_file(folder: Path) -> Iterator[str]:
    """Say why another file than that of QAT ships, and what it may have lost."""
    quantized = Training.read_if_there(folder).product.quantized
    if quantized and (folder / QuantizationLadder.file).exists():
        ladder = QuantizationLadder.read(folder)
        if ladder.chosen != "qat" or ladder.budget != "within":
            shipped = next(rung for rung in ladder.rungs if rung.rung == ladder.chosen)
            yield f"the phone file is {shipped.title}: {shipped.reason}"
    if (folder / ParityReport.file).exists():
        for rung in ParityReport.read(folder).rungs:
            if rung.verdict:
                yield f'parity is lost at "{rung.name}", and no other file was left: {rung.verdict}'


def _absent(classes: Iterable[TunedClass | TestedClass]) -> list[str]:
    return [one.name for one in classes if one.positives == 0]


def _trivial(test: Iterable[TestedClass], tuned: Iterable[TunedClass], integer: int) -> list[str]:
    """Name the classes whose threshold, or whose answers on the test split, are always alike."""
    names = {one.name: None for one in tuned if one.integer == integer}
    for one in test:
        said, known = one.tp + one.fp, one.positives + one.negatives
        if known and said == known if integer == LOWEST else one.positives and not said:
            names[one.name] = None
    return list(names)


def _named(what: str, names: list[str]) -> Iterator[str]:
    if names:
        more = f" and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else ""
        yield f"{what}: {', '.join(names[:NAMES_SHOWN])}{more}"
