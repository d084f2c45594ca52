"""Run every check over a folder, and say what came out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from .agreement import MismatchError, compare
from .answers import in_floats
from .arithmetic import Tree
from .calibration import derive_calibration
from .evaluation import derive_metrics
from .folder import (
    CALIBRATION,
    CONFIG,
    CURVE,
    FLOATS,
    LADDER,
    MALFORMED,
    METRICS,
    PARITY,
    PARITY_SCORES,
    RECOMMENDATION,
    SCORES,
    SETTINGS,
    SOURCE,
    STUDENT,
    TEACHER,
    TEACHER_SCORES,
    VALIDATION,
    Bundle,
)
from .ladder import derive_ladder, derive_teacher
from .model import golden, labels, model_file, ports, test_answers
from .pages import index, pages, panels
from .parity import derive_parity
from .recommendation import derive_curve, derive_floats, derive_recommendation, thresholds
from .seals import hashes, sealed_only


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
        last = f"{failed} of {len(lines)} checks failed" if failed else "every check passed"
        return "\n".join([*lines, f"{self.folder}: {last}"])

    @property
    def figures(self) -> dict[str, Any]:
        return {"passed": self.passed, "checks": [vars(check) for check in self.checks]}


def verify(folder: Path, checks: Checks | None = None) -> Verification:
    """Check a run folder or a bundle, in every way or only by some of the checks."""
    folder = Path(folder)
    try:
        bundle = Bundle(folder)
        bundle.config["model"]["sha256"]
    except MismatchError as error:
        return Verification(folder, (Check(CONFIG, False, str(error)),))
    except MALFORMED as error:
        reason = f"{CONFIG} is not of the form we write ({type(error).__name__}: {error})"
        return Verification(folder, (Check(CONFIG, False, reason),))
    made = (_check(name, derive, bundle) for name, derive in checks or CHECKS)
    return Verification(folder, tuple(made))


def _check(name: str, derive: Callable[[Bundle], str], bundle: Bundle) -> Check:
    try:
        detail = derive(bundle)
    except MismatchError as error:
        return Check(name, False, str(error))
    except MALFORMED as error:
        return Check(
            name, False, f"a file has an unexpected form ({type(error).__name__}: {error})"
        )
    return Check(name, None if detail.startswith("not ") else True, detail)


def agree(name: str, bundle: Bundle) -> str:
    """Compare a file with what was derived, figure by figure; name what nobody derives."""
    derive, sources = FIGURES[name]
    if VALIDATION in sources and in_floats(bundle.config):
        return "not here: no phone file ships"
    files = [name, *(bundle.source if one == SOURCE else one for one in sources)]
    if in_floats(bundle.config) and LADDER in files:
        files.remove(LADDER)
    if missing := [file for file in files if not bundle.has(file)]:
        return f"not here: {', '.join(missing)}"
    stated = bundle.table(name) if name.endswith(".csv") else bundle.json(name)
    figures, left = compare(name, stated, derive(bundle, stated))
    last = sorted({place.split(", ")[-1] for place in left})
    return f"{figures} figures derived" + (f"; not derived: {', '.join(last)}" if last else "")


Checks = tuple[tuple[str, Callable[[Bundle], str]], ...]
BUNDLE_CHECKS: Checks = (
    ("model", model_file),
    ("labels", labels),
    ("ports", ports),
    ("thresholds", thresholds),
    ("golden", golden),
)
FIGURES: dict[str, tuple[Callable[[Bundle, Tree], Tree], tuple[str, ...]]] = {
    RECOMMENDATION: (derive_recommendation, (SOURCE, SETTINGS)),
    CURVE: (derive_curve, (SOURCE, SETTINGS)),
    CALIBRATION: (derive_calibration, (SOURCE, SETTINGS)),
    FLOATS: (derive_floats, (VALIDATION, STUDENT, SETTINGS)),
    LADDER: (derive_ladder, (VALIDATION, SETTINGS)),
    METRICS: (derive_metrics, (SCORES,)),
    PARITY: (derive_parity, (PARITY_SCORES, RECOMMENDATION, LADDER, SETTINGS)),
    TEACHER: (derive_teacher, (VALIDATION, STUDENT, TEACHER_SCORES, SETTINGS)),
}  # by file: what derives its figures, and from which files
CHECKS: Checks = (
    ("hashes", hashes),
    *BUNDLE_CHECKS,
    ("test answers", test_answers),
    *((name, partial(agree, name)) for name in FIGURES),
    ("pages", pages),
    ("panels", panels),
    ("index", index),
    ("the rest", sealed_only),
)
