"""What `threshold_recommendation.json` says: when the app says yes, how sure we are, who chose.

The models are the file, key by key; what a browser or a person wrote is checked when it is read.
The searches that fill them are in `thresholds` and `unknown`.
"""

from __future__ import annotations

import json
import math
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import numpy as np
import pandas as pd
from pydantic import AfterValidator, BaseModel, Field, TypeAdapter, ValidationError, model_validator

from workbench.decide.intervals import Ends, or_none
from workbench.decide.levels import LOWEST, NEVER, Quantization
from workbench.errors import InputError

RECOMMENDATION = "threshold_recommendation.json"
SCHEMA = 1
LARGEST_BYTES = 64 << 20  # 10 000 classes take 8 MB; more is not a recommendation
TOLERANCE = 1e-6  # browsers and Python differ in the last places of a sigmoid

Author = Literal["search", "person"]


class Record(
    BaseModel, frozen=True, extra="forbid", strict=True, allow_inf_nan=False,
    serialize_by_alias=True, validate_by_name=True, validate_by_alias=True,
):  # fmt: skip
    """A part of the file: every key is there, none beside them, and nothing is converted."""


def _is_date(when: str) -> str:
    try:
        datetime.fromisoformat(when)
    except ValueError:
        wanted = "it must be a date like 2026-11-20T09:30:00+00:00"
        raise ValueError(f"when is {when!r}; {wanted}") from None
    return when


class Edit(Record):
    """One change by a person: `changes` maps a class to its value before and after."""

    who: str
    when: Annotated[str, AfterValidator(_is_date)]
    why: str
    changes: dict[str, tuple[float, float]]


class Recommendation(Record):
    """What the files of both tasks begin with; read as one of the two kinds below."""

    schema_version: int = Field(alias="schema", ge=SCHEMA, le=SCHEMA)
    task: str
    created_by: Author
    _curve: pd.DataFrame | None = None

    @property
    def curve(self) -> pd.DataFrame | None:
        """What every threshold would do; the search has it, a file has not."""
        return self._curve

    def with_curve(self, curve: pd.DataFrame | None) -> Self:
        copy = self.model_copy()
        copy._curve = curve
        return copy

    def pooled_over(self, frames: int) -> Self:
        """Say that the scores were pooled over groups, most of them of so many frames."""
        pooled = Aggregation(method="mean_logits", frames=frames)
        scores = self.scores.model_copy(update={"aggregation": pooled})
        return self.model_copy(update={"scores": scores})

    def identity(self) -> dict[str, Any]:
        """Return what must be the same for a person's edits to mean the same."""
        return self.scores.model_dump() | {"classes": self.names}

    def _with(self, edits: tuple[Edit, ...], **changes: Any) -> Self:
        author = "person" if edits else "search"
        return self.model_copy(update={"created_by": author, "edits": edits, **changes})

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and self.model_dump() == other.model_dump()

    @model_validator(mode="after")
    def _names_its_author(self) -> Self:
        author = "person" if self.edits else "search"
        if self.created_by != author:
            wanted = f"the edits say {author!r}; a person's change needs an entry in edits"
            raise ValueError(f"created_by is {self.created_by!r}, but {wanted}")
        return self


class Level(Record):
    """A threshold in its three forms, of which the app compares the integer."""

    probability: float
    logit: float
    integer: int
    integer_interval: tuple[int, int]
    probability_interval: tuple[float, float]


class _Named(Record):
    name: str


class ClassThreshold(Level, _Named):  # in this order the name comes first in the file
    """When the app says yes to one class."""

    adopted: bool  # its own threshold; False follows the shared one
    created_by: Author
    reason: str
    note: str
    positives: int
    negatives: int
    prevalence: float | None
    gain: float | None  # of the own threshold over the shared one, the luck of choosing taken off
    gain_interval: Ends
    adopted_in: int  # of so many resamplings the same choice would give it its own threshold


def forms(quantization: Quantization, integer: int, interval: tuple[int, int]) -> dict[str, Any]:
    """Derive from the integer what a `Level` holds."""
    probabilities = quantization.threshold_probabilities(np.array([integer, *interval])).tolist()
    return {
        "probability": probabilities[0], "logit": float(quantization.threshold_logits(integer)),
        "integer": int(integer), "integer_interval": (int(interval[0]), int(interval[1])),
        "probability_interval": tuple(probabilities[1:]),
    }  # fmt: skip


class Aggregation(Record):
    """How answers to several photos became one: the mean of their logits, without their order."""

    method: Literal["mean_logits"]
    frames: int  # that most clips had which were searched


class LevelScores(Record):
    """The integers that were searched."""

    split: str
    images: int
    unknown_labels: int
    source_sha256: str | None
    scale: float
    zero_point: int
    aggregation: Aggregation | None = None  # None: every photo stands alone


class Expected(Record):
    """The objective on the images that chose, and what is left of it without their luck."""

    apparent: float | None
    optimism: float | None  # the luck of choosing and scoring on the same images
    corrected: float | None
    corrected_interval: Ends


class Thresholds(Recommendation):
    """The thresholds of a multi-label run."""

    task: Literal["multilabel"]
    objective: dict[str, str | float]  # its name, the figures that belong to it, its meaning
    method: str
    scores: LevelScores
    seed: int
    bootstrap_replicates: int
    expected: Expected
    shared: Level = Field(alias="global")
    classes: tuple[ClassThreshold, ...]
    edits: tuple[Edit, ...]

    @property
    def quantization(self) -> Quantization:
        return Quantization(self.scores.scale, self.scores.zero_point)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(entry.name for entry in self.classes)

    @property
    def integer(self) -> np.ndarray:
        return np.array([entry.integer for entry in self.classes], np.int64)

    @property
    def logit(self) -> np.ndarray:
        return self.quantization.threshold_logits(self.integer)

    @property
    def probability(self) -> np.ndarray:
        return self.quantization.threshold_probabilities(self.integer)

    @property
    def adopted(self) -> np.ndarray:
        return np.array([entry.adopted for entry in self.classes])

    @property
    def table(self) -> pd.DataFrame:
        """One row a class, to be read by people."""
        columns = ["name", "probability", "logit", "integer", "adopted", "adopted_in", "positives",
                   "gain", "reason", "note"]  # fmt: skip
        rows = [[getattr(entry, name) for name in columns] for entry in self.classes]
        table = pd.DataFrame(rows, columns=["class", *columns[1:]]).astype({"gain": float})
        return table.assign(probability=self.probability, logit=self.logit)

    def decide(self, raw: np.ndarray) -> np.ndarray:
        """Say yes or no to int8 scores [N, C] as the app does: by comparing integers."""
        return raw.astype(np.int16) >= self.integer

    def edited(self, changes: dict[str, int], who: str, when: str, why: str) -> Thresholds:
        """Return the thresholds after a person's changes, with who, when and why beside them."""
        before = dict(zip(self.names, self.integer.tolist(), strict=True))
        changes = {name: new for name, new in changes.items() if before.get(name) != new}
        for name, integer in changes.items():
            if name not in before:
                its = f"its classes are {list(before)}"
                raise InputError(f"{name!r} is not a class of this run; {its}")
            if integer not in self.quantization.separable():
                raise InputError(
                    f"{name}: {integer} cannot be a threshold; choose a whole number between "
                    f"{LOWEST} (always yes) and {NEVER} (never) whose probability is not yet 1"
                )
        if not changes:
            return self
        moved = {name: (float(before[name]), float(new)) for name, new in changes.items()}
        edit = Edit(who=who, when=when, why=why, changes=moved)
        reasoned = {name: (new, _set_by(who, why)) for name, new in changes.items()}
        return self._moved(reasoned, (*self.edits, edit))

    def nearest_integer(self, probability: float) -> int:
        """Return the threshold that lies nearest to a probability."""
        if not 0 <= probability <= 1:
            raise InputError(f"a threshold is {probability}; it must be a probability, 0 to 1")
        allowed = self.quantization.separable()
        distance = abs(self.quantization.threshold_probabilities(allowed) - probability)
        return int(allowed[distance.argmin()])

    def _moved(self, moves: dict[str, tuple[int, str]], edits: tuple[Edit, ...]) -> Thresholds:
        """Set the integers of some classes as a person's own, each with its reason."""
        classes = []
        for entry in self.classes:
            if entry.name in moves:
                integer, reason = moves[entry.name]
                level = forms(self.quantization, integer, entry.integer_interval)
                own = {"adopted": True, "created_by": "person", "reason": reason}
                entry = entry.model_copy(update=level | own)
            classes.append(entry)
        return self._with(edits, classes=tuple(classes))

    def with_edits_of(self, other: Thresholds) -> Thresholds:
        """Put what a person changed in `other` on top of these; all else stays as searched."""
        theirs = (entry for entry in other.classes if entry.created_by == "person")
        return self._moved({one.name: (one.integer, one.reason) for one in theirs}, other.edits)

    @model_validator(mode="after")
    def _agrees_with_itself(self) -> Self:
        if not self.names or len(set(self.names)) != len(self.names):
            raise ValueError("class names must be there and each only once")
        allowed = set(self.quantization.separable().tolist())
        _check_forms("global", self.shared, self.quantization, allowed)
        last = {name: ends[1] for edit in self.edits for name, ends in edit.changes.items()}
        for number, entry in enumerate(self.classes):
            place = f"class {number} ({entry.name!r})"
            _check_forms(place, entry, self.quantization, allowed)
            if entry.created_by != ("person" if entry.name in last else "search"):
                raise ValueError(f"{place}: created_by and the edits do not agree")
            if entry.name in last and last[entry.name] != entry.integer:
                its = f"integer is {entry.integer}, but the last edit set {last[entry.name]:g}"
                raise ValueError(f"{place}: {its}")
            if not entry.adopted and entry.integer != self.shared.integer:
                wanted = f"the global {self.shared.integer}, not {entry.integer}"
                raise ValueError(f"{place}: not adopted, so its integer must be {wanted}")
        if unknown := set(last) - set(self.names):
            raise ValueError(f"an edit names {min(unknown)!r}, which is no class")
        return self


def _check_forms(place: str, level: Level, quantization: Quantization, allowed: set[int]) -> None:
    if level.integer not in allowed:
        raise ValueError(f"{place}: integer is {level.integer}, which cannot be a threshold")
    derived = forms(quantization, level.integer, level.integer_interval)
    for key in ("probability", "logit"):
        given = getattr(level, key)
        if abs(given - derived[key]) > TOLERANCE:
            means = f"integer {level.integer} means {derived[key]:.6g}"
            rule = "the app compares the integer, so change that one and let the rest follow"
            raise ValueError(f"{place}: {key} is {given:g}, but {means}; {rule}")


class Targets(Record):
    """What was asked of a single-label run."""

    target_accept_accuracy: float
    min_coverage: float
    penalty_incorrect: float


class ConfidenceScores(Record):
    """The answers that were searched."""

    split: str
    images: int
    source_sha256: str | None
    aggregation: Aggregation | None = None


class Unknown(Record):
    """The confidence under which the answer is "unknown", and what that gives."""

    probability: Annotated[float, Field(ge=0, le=1)]
    coverage: float
    coverage_interval: Ends
    accepted_accuracy: float | None
    accepted_accuracy_interval: Ends
    held_out_accuracy: float | None = None  # of answers to images that did not choose
    utility: float
    meets_target: bool  # the lower end of the accuracy reaches the target
    reason: str

    @classmethod
    def of(cls, row: Any, reason: str, held_out: float | None = None) -> Unknown:
        """Take a row of the curve."""
        accuracy = or_none(row.accepted_accuracy)
        ends = float(row.coverage_low), float(row.coverage_high)
        right = None if accuracy is None else (float(row.accuracy_low), float(row.accuracy_high))
        return cls(
            probability=float(row.threshold), coverage=float(row.coverage), coverage_interval=ends,
            accepted_accuracy=accuracy, accepted_accuracy_interval=right,
            held_out_accuracy=held_out, utility=float(row.utility),
            meets_target=bool(row.meets_target), reason=reason,
        )  # fmt: skip


class UnknownThreshold(Recommendation):
    """The confidence under which a single-label run answers "unknown"."""

    task: Literal["single_label"]
    objective: Targets
    scores: ConfidenceScores
    seed: int
    bootstrap_replicates: int = Field(0, exclude=True)  # in older files only
    unknown: Unknown
    classes: tuple[str, ...]
    edits: tuple[Edit, ...]

    @property
    def names(self) -> tuple[str, ...]:
        return self.classes

    @property
    def probability(self) -> float:
        return self.unknown.probability

    @property
    def table(self) -> pd.DataFrame:
        """What is asked and what is kept, to be read by people."""
        found, asked = self.unknown, self.objective
        both = found.accepted_accuracy_interval, found.coverage_interval
        low, high = zip(*(ends or (math.nan, math.nan) for ends in both), strict=True)
        right, held_out = (
            math.nan if share is None else share
            for share in (found.accepted_accuracy, found.held_out_accuracy)
        )
        columns = {
            "target": ["right among the answers", "images that get an answer"],
            "wanted": [asked.target_accept_accuracy, asked.min_coverage],
            "reached": [right, found.coverage], "held out": [held_out, math.nan],
            "from": low, "to": high, "unknown below": found.probability, "reason": found.reason,
        }  # fmt: skip
        return pd.DataFrame(columns)

    def edited(self, probability: float, who: str, when: str, why: str) -> UnknownThreshold:
        """Return the threshold after a person's change to the nearest row of the curve."""
        if not 0 <= probability <= 1:
            raise InputError(f"the confidence threshold is {probability}; it must be 0 to 1")
        found = self._nearest(probability, _set_by(who, why))
        changes = {"unknown": (self.probability, found.probability)}
        edit = Edit(who=who, when=when, why=why, changes=changes)
        return self._moved(found, (*self.edits, edit))

    def _nearest(self, probability: float, reason: str) -> Unknown:
        nearest = (self.curve.threshold - probability).abs().argmin()
        return Unknown.of(self.curve.iloc[nearest], reason)

    def _moved(self, found: Unknown, edits: tuple[Edit, ...]) -> UnknownThreshold:
        chosen = self.curve.threshold == found.probability
        return self._with(edits, unknown=found).with_curve(self.curve.assign(chosen=chosen))

    def with_edits_of(self, other: UnknownThreshold) -> UnknownThreshold:
        """Put a person's confidence on top of this one, judged by this run's targets."""
        if not other.edits:
            return self
        return self._moved(self._nearest(other.probability, other.unknown.reason), other.edits)


def _set_by(who: str, why: str) -> str:
    return f"set by {who}: {why}" if why else f"set by {who}"


AnyThresholds = Thresholds | UnknownThreshold
FILE = TypeAdapter(Annotated[AnyThresholds, Field(discriminator="task")])


def read(path: Path) -> AnyThresholds:
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
    if len(dict(pairs)) < len(pairs):
        keys = [key for key, _ in pairs]
        twin = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"the key {twin!r} is there twice")
    return dict(pairs)


def from_json(value: Any, where: str = RECOMMENDATION) -> AnyThresholds:
    """Rebuild what was written, refusing everything that would not have been."""
    if not isinstance(value, dict):
        raise InputError(f"{where} must be an object, not {type(value).__name__}")
    try:
        return FILE.validate_json(json.dumps(value))
    except ValidationError as error:
        raise InputError(f"{where}: {_explain(error.errors()[0], value)}") from None


WANTED = {
    "int_type": "int", "float_type": "int or float", "bool_type": "bool", "string_type": "str",
    "tuple_type": "list", "model_type": "dict", "dict_type": "dict", "finite_number": "finite",
    "less_than_equal": "0 to 1", "greater_than_equal": "0 to 1", "too_long": "two ends",
}  # fmt: skip


def _explain(error: dict[str, Any], value: dict[str, Any]) -> str:
    """Say one refusal in plain words, with its place in the file."""
    kind, loc = error["type"], error["loc"][1:]  # without the task
    if kind == "missing" and isinstance(loc[-1], int):
        kind, loc = "too_long", loc[:-1]  # a pair with one end: the pair is named
    place, key = _place(loc, value)
    given = f"{key} is {repr(error['input'])[:100]}"
    if kind == "value_error":
        return f"{place}{error['ctx']['error']}"
    if kind == "json_invalid":
        return f"a text in it is no valid Unicode: {error['ctx']['error']}"
    if kind.startswith("union_tag"):
        if "task" not in value:
            return "task is missing"
        return f"task is {value['task']!r}; it must be multilabel or single_label"
    if key == "schema" and kind.endswith("than_equal"):
        return f"{given}, this version reads {SCHEMA}; run 06_tune_thresholds"
    if kind == "extra_forbidden":
        return f"{place}unknown key {key!r}; remove it"
    if kind == "missing":
        return f"{place}{key} is missing"
    wanted = WANTED.get(kind, error["msg"].removeprefix("Input should be "))
    return f"{place}{given}; it must be {wanted}"


def _place(loc: tuple[int | str, ...], value: dict[str, Any]) -> tuple[str, int | str]:
    """Say where an error lies, like "class 3 ('cat'), gain_interval: ", and at which key."""
    *parents, key = [part for part in loc if part not in ("str", "float")] or [""]
    match parents:
        case ["classes", number, *rest]:
            entry = value["classes"][number]
            name = f" ({entry.get('name')!r})" if isinstance(entry, dict) else ""
            parents = [f"class {number}{name}", *rest]
        case ["edits", number, *rest]:
            parents = [f"edit {number}", *rest]
    key = f"entry {key}" if isinstance(key, int) else key
    return ", ".join(map(str, parents)) + ": " if parents else "", key
