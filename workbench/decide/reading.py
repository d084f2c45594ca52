"""Read `threshold_recommendation.json` back, also when a person or a browser has written it.

Every key is read exactly once; what is missing, unknown, of another type or at odds with the
integers is refused with its place in the file.
"""

from __future__ import annotations

import json
import math
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

from workbench.decide.intervals import Interval
from workbench.decide.levels import Quantization
from workbench.decide.recommendation import SCHEMA, ClassThreshold, Edit, Thresholds
from workbench.decide.unknown import UnknownThreshold
from workbench.errors import InputError

LARGEST_BYTES = 64 << 20  # 10 000 classes take 8 MB; more is not a recommendation
TOLERANCE = 1e-6  # browsers and Python differ in the last places of a sigmoid


class Fields:
    """One JSON object: take each key once, then `done` refuses what is left."""

    def __init__(self, value: Any, where: str) -> None:
        if not isinstance(value, dict):
            raise InputError(f"{where} must be an object, not {type(value).__name__}")
        self.left, self.where = dict(value), where

    def take(self, key: str, *kinds: type) -> Any:
        if key not in self.left:
            raise InputError(f"{self.where}: {key} is missing")
        value = self.left.pop(key)
        # bool is an int to Python, and nobody means 1 by true
        if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
            names = " or ".join("null" if k is type(None) else k.__name__ for k in kinds)
            raise InputError(f"{self.where}: {key} is {value!r}; it must be {names}")
        if isinstance(value, float) and not math.isfinite(value):
            raise InputError(f"{self.where}: {key} is {value}; it must be finite")
        return value

    def number(self, key: str) -> float:
        return float(self.take(key, int, float))

    def optional(self, key: str) -> float | None:
        return self.take(key, int, float, type(None))

    def text(self, key: str) -> str:
        return self.take(key, str)

    def whole(self, key: str) -> int:
        return self.take(key, int)

    def inner(self, key: str) -> Fields:
        return Fields(self.take(key, dict), f"{self.where}, {key}")

    def pair(self, key: str) -> Fields:
        ends = self.take(key, list)
        if len(ends) != 2:
            raise InputError(f"{self.where}: {key} is {ends!r}; it must hold two ends")
        return Fields(dict(zip(("low", "high"), ends, strict=True)), f"{self.where}, {key}")

    def interval(self, key: str) -> Interval:
        if self.left.get(key, "") is None:
            return Interval(self.take(key, type(None)), None)
        ends = self.pair(key)
        return Interval(ends.number("low"), ends.number("high"))

    def done(self) -> None:
        if self.left:
            raise InputError(f"{self.where}: unknown key {sorted(self.left)[0]!r}; remove it")


def read(path: Path) -> Thresholds | UnknownThreshold:
    """Read a recommendation file."""
    path = Path(path)
    if path.stat().st_size > LARGEST_BYTES:
        raise InputError(f"{path} has {path.stat().st_size} bytes; it is no recommendation")
    try:
        value = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=_no_twins)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not valid JSON: {error}") from None
    return from_json(value, path.name)


def _no_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    keys = [key for key, _ in pairs]
    twins = {key for key in keys if keys.count(key) > 1}
    if twins:
        raise ValueError(f"the key {sorted(twins)[0]!r} is there twice")
    return dict(pairs)


def from_json(
    value: Any, where: str = "threshold_recommendation.json"
) -> Thresholds | UnknownThreshold:
    """Rebuild what `to_json` wrote, refusing everything it would not have written."""
    fields = Fields(value, where)
    schema = fields.whole("schema")
    if schema != SCHEMA:
        raise InputError(
            f"{where}: schema is {schema}, this version reads {SCHEMA}; run 06_tune_thresholds"
        )
    task = fields.text("task")
    if task not in ("multilabel", "single_label"):
        raise InputError(f"{where}: task is {task!r}; it must be multilabel or single_label")
    return _multilabel(fields) if task == "multilabel" else _single_label(fields)


def accept(current: Thresholds | UnknownThreshold, edited: Any) -> Thresholds | UnknownThreshold:
    """Take over a recommendation edited elsewhere, if it is about the run of `current`."""
    if type(edited) is not type(current):
        raise InputError("the edited recommendation is for the other task; tune this run again")
    for name, own, other in _identity(current, edited):
        if own != other:
            raise InputError(
                f"the edited recommendation belongs to another run: its {name} is {other!r}, "
                f"here it is {own!r}. Open the explorer of this run and edit there."
            )
    return replace(edited, curve=current.curve)


def _identity(current, edited) -> list[tuple[str, Any, Any]]:
    names = ["source_sha256", "split", "images", "seed"]
    if isinstance(current, Thresholds):
        names += ["quantization", "names", "shared"]
    else:
        names += ["classes"]
    return [(name, getattr(current, name), getattr(edited, name)) for name in names]


def _multilabel(fields: Fields) -> Thresholds:
    scores = fields.inner("scores")
    quantization = Quantization(scores.number("scale"), scores.whole("zero_point"))
    allowed = set(quantization.separable().tolist())
    shared = fields.inner("global")
    shared_integer = _integer(shared, quantization, allowed)
    expected = fields.inner("expected")
    thresholds = Thresholds(
        classes=tuple(
            _class(Fields(entry, f"{fields.where}, class {number}"), quantization, allowed)
            for number, entry in enumerate(fields.take("classes", list))
        ),
        shared=shared_integer,
        shared_interval=_integer_interval(shared),
        quantization=quantization,
        objective=fields.take("objective", dict),
        method=fields.text("method"),
        split=scores.text("split"),
        images=scores.whole("images"),
        unknown_labels=scores.whole("unknown_labels"),
        source_sha256=scores.take("source_sha256", str, type(None)),
        seed=fields.whole("seed"),
        replicates=fields.whole("bootstrap_replicates"),
        apparent=expected.optional("apparent"),
        apparent_interval=expected.interval("apparent_interval"),
        cross_fitted=expected.optional("cross_fitted"),
        edits=_edits(fields),
    )
    expected.optional("optimism")
    _finish(fields, thresholds.created_by, scores, shared, expected)
    _check_classes(thresholds, fields.where)
    return thresholds


def _class(fields: Fields, quantization: Quantization, allowed: set[int]) -> ClassThreshold:
    name = fields.text("name")
    fields.where += f" ({name!r})"
    entry = ClassThreshold(
        name=name,
        integer=_integer(fields, quantization, allowed),
        adopted=fields.take("adopted", bool),
        reason=fields.text("reason"),
        note=fields.text("note"),
        created_by=fields.text("created_by"),
        positives=fields.whole("positives"),
        negatives=fields.whole("negatives"),
        interval=_integer_interval(fields),
        gain=fields.optional("gain"),
        gain_interval=fields.interval("gain_interval"),
    )
    fields.optional("prevalence")
    fields.done()
    return entry


def _integer(fields: Fields, quantization: Quantization, allowed: set[int]) -> int:
    """Take a threshold in its three forms, which must be one."""
    integer = fields.whole("integer")
    if integer not in allowed:
        raise InputError(f"{fields.where}: integer is {integer}, which cannot be a threshold")
    for key, derived in (
        ("probability", float(quantization.threshold_probabilities(integer))),
        ("logit", float(quantization.threshold_logits(integer))),
    ):
        given = fields.number(key)
        if abs(given - derived) > TOLERANCE:
            raise InputError(
                f"{fields.where}: {key} is {given:g}, but integer {integer} means {derived:.6g}; "
                "the app compares the integer, so change that one and let the rest follow"
            )
    return integer


def _integer_interval(fields: Fields) -> tuple[int, int]:
    ends = fields.pair("integer_interval")
    fields.interval("probability_interval")  # follows from the integers
    return ends.whole("low"), ends.whole("high")


def _edits(fields: Fields) -> tuple[Edit, ...]:
    return tuple(
        _edit(Fields(value, f"{fields.where}, edit {number}"))
        for number, value in enumerate(fields.take("edits", list))
    )


def _edit(fields: Fields) -> Edit:
    when, changes = fields.text("when"), fields.inner("changes")
    try:
        datetime.fromisoformat(when)
    except ValueError:
        raise InputError(
            f"{fields.where}: when is {when!r}; it must be a date like 2026-11-20T09:30:00+00:00"
        ) from None
    pairs = {name: changes.pair(name) for name in list(changes.left)}
    ends = {name: (pair.number("low"), pair.number("high")) for name, pair in pairs.items()}
    edit = Edit(fields.text("who"), when, fields.text("why"), ends)
    fields.done()
    return edit


def _finish(fields: Fields, created_by: str, *inner: Fields) -> None:
    if (given := fields.text("created_by")) != created_by:
        raise InputError(
            f"{fields.where}: created_by is {given!r}, but the edits say {created_by!r}; "
            "a person's change needs an entry in edits"
        )
    for part in (*inner, fields):
        part.done()


def _check_classes(thresholds: Thresholds, where: str) -> None:
    names = thresholds.names
    if not names or len(set(names)) != len(names):
        raise InputError(f"{where}: class names must be there and each only once")
    last = {name: ends[1] for edit in thresholds.edits for name, ends in edit.changes.items()}
    for entry in thresholds.classes:
        if entry.created_by != ("person" if entry.name in last else "search"):
            raise InputError(f"{where}, {entry.name!r}: created_by and the edits do not agree")
        if entry.name in last and last[entry.name] != entry.integer:
            raise InputError(
                f"{where}, {entry.name!r}: integer is {entry.integer}, but the last edit set "
                f"{last[entry.name]:g}"
            )
        if not entry.adopted and entry.integer != thresholds.shared:
            raise InputError(
                f"{where}, {entry.name!r}: not adopted, so its integer must be the global "
                f"{thresholds.shared}, not {entry.integer}"
            )
    unknown = set(last) - set(names)
    if unknown:
        raise InputError(f"{where}: an edit names {sorted(unknown)[0]!r}, which is no class")


def _single_label(fields: Fields) -> UnknownThreshold:
    scores, rules, found = (fields.inner(key) for key in ("scores", "objective", "unknown"))
    threshold = UnknownThreshold(
        classes=tuple(fields.take("classes", list)),
        probability=found.number("probability"),
        coverage=found.number("coverage"),
        coverage_interval=found.interval("coverage_interval"),
        accepted_accuracy=found.optional("accepted_accuracy"),
        accepted_accuracy_interval=found.interval("accepted_accuracy_interval"),
        utility=found.number("utility"),
        meets_target=found.take("meets_target", bool),
        reason=found.text("reason"),
        target_accept_accuracy=rules.number("target_accept_accuracy"),
        min_coverage=rules.number("min_coverage"),
        penalty_incorrect=rules.number("penalty_incorrect"),
        split=scores.text("split"),
        images=scores.whole("images"),
        source_sha256=scores.take("source_sha256", str, type(None)),
        seed=fields.whole("seed"),
        replicates=fields.whole("bootstrap_replicates"),
        edits=_edits(fields),
    )
    if not 0 <= threshold.probability <= 1:
        raise InputError(f"{found.where}: probability is {threshold.probability}; it is 0 to 1")
    if not all(isinstance(name, str) for name in threshold.classes):
        raise InputError(f"{fields.where}: classes must be names")
    _finish(fields, threshold.created_by, scores, rules, found)
    return threshold
