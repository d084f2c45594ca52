"""Is the result ready to hand on? Rules over what a run left, each a sentence for a person.

A rule gives a grade and says value, rule and remedy; the gravest grade is the verdict. The bounds
are knobs (`verdict`) with their reasons. Nothing is measured here and no file is read.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

from pydantic import BaseModel

from workbench.decide.trivial import Trivial
from workbench.settings import VerdictSettings

Grade = Literal["ready", "with care", "not ready"]
GRADES: tuple[Grade, ...] = ("not ready", "with care", "ready")  # the gravest first
NAMES_SHOWN = 10
OUTLOOK = {
    "ready": "nothing that was measured speaks against handing it on",
    "with care": "usable by whoever knows what stands here",
    "not ready": "nobody should rely on it yet",
}
FIGURES = {"f1_macro": "F1 macro", "accuracy": "accuracy"}


class Reason(BaseModel, frozen=True, extra="forbid"):
    rule: str
    grade: Grade
    words: str  # value, rule and, where it is not ready, the remedy


class Verdict(BaseModel, frozen=True, extra="forbid"):
    grade: Grade
    reasons: tuple[Reason, ...]  # the gravest first

    @property
    def doubts(self) -> tuple[Reason, ...]:
        return tuple(one for one in self.reasons if one.grade != "ready")

    @property
    def lines(self) -> list[str]:
        """Say it in a console: the grade, then what speaks against handing it on."""
        return [
            f"Verdict: {self.grade.upper()}, {OUTLOOK[self.grade]}",
            *(f"  {one.grade}, {one.rule}: {one.words}" for one in self.doubts),
        ]


@dataclass(frozen=True)
class TestedClass:
    """A class on the test split."""

    name: str
    positives: int
    negatives: int
    said: int  # how often the answer was yes
    f1: float | None
    interval: tuple[float, float] | None
    __test__ = False  # no test, though it begins like one


@dataclass(frozen=True)
class AuditError:
    kind: str
    split: str
    image: str
    detail: str


@dataclass(frozen=True)
class Evidence:
    """What a verdict rests on; what a run lacks is empty or None, and its rule says nothing."""

    images: int
    f1_macro: float | None
    interval: tuple[float, float] | None
    withheld: str  # why there is no interval
    classes: Sequence[TestedClass]
    trivial: Trivial
    coverage: tuple[float, float] | None = None  # of a single label, and what was asked for
    untuned: Sequence[str] = ()  # classes that validation lacks
    always: Sequence[str] = ()  # whose threshold every score reaches
    never: Sequence[str] = ()
    errors: Sequence[AuditError] = ()
    teacher: tuple[float, float, float, tuple[float, float]] | None = None  # teacher, student, gap
    shipped: tuple[str, str, str] | None = None  # title of the rung, its budget, its reason
    lost: Sequence[tuple[str, str]] = field(default=())  # runtimes without parity, and why
    megabytes: float | None = None
    milliseconds: float | None = None
    opened: int = 1


def judge(found: Evidence, rules: VerdictSettings) -> Verdict:
    """Apply every rule; the gravest grade is the verdict."""
    reasons = [one for rule in RULES for one in rule(found, rules)]
    reasons.sort(key=lambda one: GRADES.index(one.grade))
    return Verdict(grade=reasons[0].grade, reasons=tuple(reasons))


def _images(found: Evidence, rules: VerdictSettings) -> Iterator[Reason]:
    least = rules.min_test_images
    if found.images < least:
        yield Reason(rule="test photos", grade="not ready", words=(
            f"{found.images} test photos, fewer than {least}: where none goes wrong one in "
            f"{max(1, round(found.images / 3))} still may. Label more photos for test"
        ))  # fmt: skip
        return
    if found.interval is None:
        yield Reason(rule="test photos", grade="with care", words=(
            f"{found.images} test photos, and F1 macro has no interval: {found.withheld}. "
            "Label more photos for test"
        ))  # fmt: skip
        return
    low, high = found.interval
    span = f"{found.images} test photos put F1 macro between {low:.3f} and {high:.3f}"
    if high - low > rules.max_interval_width:
        yield Reason(rule="test photos", grade="with care", words=(
            f"{span}, wider than {rules.max_interval_width:g}: too wide to decide much. "
            "Label more photos for test"
        ))  # fmt: skip
    else:
        yield Reason(rule="test photos", grade="ready", words=span)


def _trivial(found: Evidence, rules: VerdictSettings) -> Iterator[Reason]:
    """What ignores the photo must be beaten, surely and by enough."""
    best, trivial = found.trivial.best, found.trivial
    if trivial.gain is None:
        return
    ends = trivial.interval
    span = f" [{ends[0]:+.3f}, {ends[1]:+.3f}]" if ends else ""
    value = trivial.answers[best] + trivial.gain
    words = (
        f"{FIGURES[trivial.figure]} {value:.3f}, where “{best}” scores {trivial.answers[best]:.3f} "
        f"on the same photos: {trivial.gain:+.3f}{span}"
    )
    if ends is None or ends[0] <= 0 or trivial.gain < rules.min_gain:
        grade, then = "not ready", (
            f". It has to be surely above 0 and at least {rules.min_gain:g}: the network has "
            "learned next to nothing. Train it longer, from pretrained weights, or check labels"
        )  # fmt: skip
    elif ends[0] < rules.min_gain:
        grade, then = "with care", (
            f". That it is at least {rules.min_gain:g} is not sure. Label more photos for test, "
            "or train it longer"
        )  # fmt: skip
    else:
        grade, then = "ready", ""
    yield Reason(rule="trivial answers", grade=grade, words=words + then)


def _level(found: Evidence, rules: VerdictSettings) -> Iterator[Reason]:
    if found.f1_macro is None:
        yield Reason(rule="level", grade="not ready", words=(
            "F1 macro is undefined: no test photo is known to have a class. Label the test photos"
        ))  # fmt: skip
    elif found.f1_macro < rules.min_f1:
        yield Reason(rule="level", grade="not ready", words=(
            f"F1 macro {found.f1_macro:.3f} is below {rules.min_f1:g}: more than two mistakes for "
            "every right yes. Train it longer, on more photos, or leave out what it cannot tell"
        ))  # fmt: skip


def _weakest(found: Evidence, rules: VerdictSettings) -> Iterator[Reason]:
    judged = [one for one in found.classes if one.positives and one.f1 is not None]
    if not judged:
        return
    weakest = min(judged, key=lambda one: one.f1)
    span = "[{:.3f}, {:.3f}]".format(*weakest.interval) if weakest.interval else "without interval"
    words = f"the weakest class is {weakest.name}: F1 {weakest.f1:.3f} {span}"
    below = [one.name for one in judged if one.f1 < rules.min_class_f1]
    if not below:
        yield Reason(rule="weakest class", grade="ready", words=words)
        return
    yield Reason(rule="weakest class", grade="with care", words=(
        f"{words}; below {rules.min_class_f1:g}: {_listed(below)}. Add photos of what they are "
        "confused with, or leave them out"
    ))  # fmt: skip


def _absent(found: Evidence, rules: VerdictSettings) -> Iterator[Reason]:
    untested = [one.name for one in found.classes if not one.positives]
    few = [one.name for one in found.classes if 0 < one.positives < rules.min_class_images]
    for what, names in (
        ("absent from test, so nobody judged them", untested),
        ("absent from val, so nobody tuned them", found.untuned),
        (f"judged on fewer than {rules.min_class_images} test photos", few),
    ):
        if names:
            then = "Add photos of them, or leave them out"
            words = f"{what}: {_listed(names)}. {then}"
            yield Reason(rule="classes without photos", grade="with care", words=words)


def _constant(found: Evidence, rules: VerdictSettings) -> Iterator[Reason]:
    """An answer that is always alike says nothing of the photo."""
    named: set[str] = set()
    for what, names, always in (
        ("always", found.always, True), ("never", found.never, False),
    ):  # fmt: skip
        said = [one.name for one in found.classes if _is_constant(one, always)]
        names = list(dict.fromkeys((*names, *said)))
        named |= set(names)
        if names:
            grade = "not ready" if _too_many(named, found, rules) else "with care"
            words = (
                f"the answer is {what} yes, whatever the photo: {_listed(names)}. Set their "
                "thresholds in 06, or add photos and train again"
            )
            yield Reason(rule="constant answers", grade=grade, words=words)


def _is_constant(one: TestedClass, always: bool) -> bool:
    known = one.positives + one.negatives
    return bool(known and one.said == known) if always else bool(one.positives and not one.said)


def _too_many(named: set[str], found: Evidence, rules: VerdictSettings) -> bool:
    return len(named) >= rules.max_constant_share * len(found.classes)


def _coverage(found: Evidence, rules: VerdictSettings) -> Iterator[Reason]:
    if found.coverage is None:
        return
    answered, wanted = found.coverage
    words = f"{answered:.1%} of the test photos get an answer that is not unknown"
    if answered >= wanted:
        yield Reason(rule="coverage", grade="ready", words=words)
        return
    yield Reason(rule="coverage", grade="with care" if answered else "not ready", words=(
        f"{words}, fewer than {wanted:.0%} (single_label.threshold_min_coverage). Lower "
        "single_label.threshold_target_accept_accuracy, or train it longer"
    ))  # fmt: skip


def _audit(found: Evidence, rules: VerdictSettings) -> Iterator[Reason]:
    counts = Counter(one.kind for one in found.errors)
    for kind, count in counts.most_common():
        first = next(one for one in found.errors if one.kind == kind)
        where = " ".join(part for part in (first.split, first.image) if part)
        more = f" (and {count - 1} more)" if count > 1 else ""
        words = f"the audit found {kind}: {where}: {first.detail}{more}"
        if kind == "leak":
            leaked = {one.image for one in found.errors if one.kind == kind and one.split == "test"}
            share = len(leaked) / max(1, found.images)
            grade = "not ready" if share > rules.max_leaked_share else "with care"
            words += (
                f"; {share:.1%} of the test photos, {rules.max_leaked_share:.1%} may leak. Train "
                "on proposed_split/, or remove the copies"
            )
        else:
            grade = "not ready" if kind == "class_missing" else "with care"
            words += ". Mend what 01 names and run again"
        yield Reason(rule="audit", grade=grade, words=words)
    if not counts:
        yield Reason(rule="audit", grade="ready", words="the audit found no error and no leak")


def _teacher(found: Evidence, rules: VerdictSettings) -> Iterator[Reason]:
    if found.teacher is None:
        return
    teacher, student, gap, (low, high) = found.teacher
    words = (
        f"F1 macro on validation {student:.3f}, the teacher's {teacher:.3f}: the teacher has "
        f"{gap:+.3f} [{low:+.3f}, {high:+.3f}]"
    )
    behind = low > rules.max_behind_teacher
    then = (
        f", surely more than {rules.max_behind_teacher:g}. Train the student longer, or take a "
        "larger student.variant"
    )  # fmt: skip
    grade = "with care" if behind else "ready"
    yield Reason(rule="teacher", grade=grade, words=words + (then if behind else ""))


def _phone_file(found: Evidence, rules: VerdictSettings) -> Iterator[Reason]:
    if found.shipped:
        title, budget, why = found.shipped
        grade = "with care" if budget == "beyond" else "ready"
        then = ". See 05 for the layers that lose most" if budget == "beyond" else ""
        yield Reason(rule="8 bits", grade=grade, words=f"the file is that of {title}: {why}{then}")
    for name, why in found.lost:
        yield Reason(rule="parity", grade="not ready", words=(
            f"parity is lost at “{name}”, and no other file was left: {why}. The phone would "
            "not decide as measured: see 07"
        ))  # fmt: skip


def _cost(found: Evidence, rules: VerdictSettings) -> Iterator[Reason]:
    if found.megabytes is not None:
        large = found.megabytes > rules.max_megabytes
        words = f"the file has {found.megabytes:.1f} MB, {rules.max_megabytes:g} are allowed"
        then = ". Take a smaller student.variant" if large else ""
        yield Reason(rule="size", grade="with care" if large else "ready", words=words + then)
    if found.milliseconds is not None:
        slow = found.milliseconds > rules.max_milliseconds
        words = (
            f"an image takes {found.milliseconds:.1f} ms on one thread of the machine that "
            f"measured, {rules.max_milliseconds:g} are allowed"
        )
        then = ". Take a smaller student.variant or student.input_size" if slow else ""
        yield Reason(rule="latency", grade="with care" if slow else "ready", words=words + then)


def _openings(found: Evidence, rules: VerdictSettings) -> Iterator[Reason]:
    if found.opened > 1:
        often = found.opened > rules.max_test_openings
        words = (
            f"this run opened its test split {found.opened} times: what was changed in between "
            "may have been chosen on it"
        )
        then = f". More than {rules.max_test_openings} ask for fresh test photos" if often else ""
        grade = "with care" if often else "ready"
        yield Reason(rule="test openings", grade=grade, words=words + then)


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else ""
    return ", ".join(names[:NAMES_SHOWN]) + more


RULES = (_trivial, _level, _images, _weakest, _absent, _constant, _coverage, _audit, _teacher,
         _phone_file, _cost, _openings)  # fmt: skip
