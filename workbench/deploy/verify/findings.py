"""Run every check over a folder, and say what came out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from . import calibration, evaluation, ladder, model, names, pages, parity, recommendation, seals
from .agreement import MismatchError, compare
from .answers import in_floats
from .arithmetic import Tree
from .folder import MALFORMED, Bundle
from .names import CONFIG


@dataclass(frozen=True)
class Check:
    """One check: passed (True), failed (False), or of something that this folder lacks (None)."""

    name: str
    passed: bool | None
    detail: str


@dataclass(frozen=True)
class Verification:
    """What came out, for a person (`text`) and for a script (`figures`)."""

    folder: Path
    checks: tuple[Check, ...]

    @property
    def passed(self) -> bool:
        return all(check.passed is not False for check in self.checks)

    @property
    def text(self) -> str:
        marks = {True: "ok    ", False: "FAILED", None: "-     "}
        lines = [f"{marks[check.passed]}  {check.name}: {check.detail}" for check in self.checks]
        failed = sum(check.passed is False for check in self.checks)
        last = f"{failed} of {len(lines)} checks failed" if failed else (
            "every check passed: the figures are those of the files"
        )  # fmt: skip
        return "\n".join([*lines, f"{self.folder}: {last}"])

    @property
    def figures(self) -> dict[str, Any]:
        return {"passed": self.passed, "checks": [vars(check) for check in self.checks]}


def verify(run: Path, checks: Checks | None = None) -> Verification:
    """Check a run folder or a bundle, in every way or only by some of the checks."""
    run = Path(run)
    try:
        bundle = Bundle(run)
        bundle.config["model"]["sha256"]
    except MALFORMED as error:
        return Verification(run, (Check(CONFIG, False, _reason(error)),))
    made = (_check(name, derive, bundle) for name, derive in checks or CHECKS)
    return Verification(run, tuple(made))


def _check(name: str, derive: Callable[[Bundle], str], bundle: Bundle) -> Check:
    try:
        detail = derive(bundle)
    except MALFORMED as error:
        return Check(name, False, _reason(error))
    return Check(name, None if detail.startswith("not ") else True, detail)


def _reason(error: Exception) -> str:
    if isinstance(error, MismatchError):
        return str(error)
    return f"a file has an unexpected form ({type(error).__name__}: {error})"


def agree(name: str, bundle: Bundle) -> str:
    """Compare a file with what was derived, figure by figure; name what nobody derives."""
    derive, sources = FIGURES[name]
    if names.VALIDATION in sources and in_floats(bundle.config):
        return "not here: no phone file ships"
    files = [name, *(bundle.source if one == names.SOURCE else one for one in sources)]
    if in_floats(bundle.config) and names.LADDER in files:
        files.remove(names.LADDER)
    if missing := [file for file in files if not bundle.has(file)]:
        return f"not here: {', '.join(missing)}"
    stated = bundle.table(name) if name.endswith(".csv") else bundle.json(name)
    figures, left = compare(name, stated, derive(bundle, stated))
    last = sorted({place.split(", ")[-1] for place in left})
    return f"{figures} figures derived" + (f"; not derived: {', '.join(last)}" if last else "")


Checks = tuple[tuple[str, Callable[[Bundle], str]], ...]
BUNDLE_CHECKS: Checks = (
    ("model", model.model_file),
    ("labels", model.labels),
    ("ports", model.ports),
    ("thresholds", recommendation.thresholds),
    ("golden", model.golden),
)
SEARCHED = (names.SOURCE, names.SETTINGS)
RATED = (names.VALIDATION, names.STUDENT, names.SETTINGS)
COMPARED = (names.PARITY_SCORES, names.RECOMMENDATION, names.LADDER, names.SETTINGS)
FIGURES: dict[str, tuple[Callable[[Bundle, Tree], Tree], tuple[str, ...]]] = {
    names.RECOMMENDATION: (recommendation.derive, SEARCHED),
    names.CURVE: (recommendation.derive_curve, SEARCHED),
    names.CALIBRATION: (calibration.derive, SEARCHED),
    names.FLOATS: (recommendation.derive_floats, RATED),
    names.LADDER: (ladder.derive, (names.VALIDATION, names.SETTINGS)),
    names.METRICS: (evaluation.derive, (names.SCORES,)),
    names.PARITY: (parity.derive, COMPARED),
    names.TEACHER: (ladder.derive_teacher, (*RATED, names.TEACHER_SCORES)),
}  # by file: what derives its figures, and from which files
CHECKS: Checks = (
    ("hashes", seals.hashes),
    ("review", seals.signed),
    *BUNDLE_CHECKS,
    ("test answers", model.test_answers),
    *((name, partial(agree, name)) for name in FIGURES),
    ("pages", pages.pages),
    ("panels", pages.panels),
    ("index", pages.index),
    ("the rest", seals.sealed_only),
)
