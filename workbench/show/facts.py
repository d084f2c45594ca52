"""What a reviewer asks first of a run: what it recognises, how many photos, how large, how fast."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from pydantic import Field

from workbench.artifacts import Count, Excerpt, FileExcerpt, TestFigures
from workbench.changes import saved_settings
from workbench.evidence import Latency
from workbench.settings import Settings


class Photos(FileExcerpt):
    """How many photos each split has."""

    file: ClassVar[str] = "dataset_manifest.json"
    notebook: ClassVar[str] = "01_dataset_audit"

    images: dict[str, Count] = Field(default_factory=dict)


class CostRow(Excerpt):
    figure: str
    difference: float | None
    low: float | None
    high: float | None


class Cost(Excerpt):
    overall: tuple[CostRow, ...] = ()


class Chosen(Excerpt):
    title: str = ""


class Made(FileExcerpt):
    """What 09 says of the file that ships, beside the figures."""

    file: ClassVar[str] = "metrics.json"
    notebook: ClassVar[str] = "09_eval_report"

    model_bytes: Count = 0
    host_latency: tuple[Latency, ...] = ()
    quantization: Chosen = Chosen()
    float_twin_against_int8: Cost = Cost()


class Side(Excerpt):
    width: Count = 0


class Port(FileExcerpt):
    """What the file that ships takes."""

    file: ClassVar[str] = "inference_config.json"
    notebook: ClassVar[str] = "08_inference_config"

    input: Side = Side()


class Ended(Excerpt):
    finished: str = ""
    seconds: float = 0.0


class Taken(FileExcerpt):
    """When the steps ended, and how long they took."""

    file: ClassVar[str] = "run_metadata.json"
    notebook: ClassVar[str] = "01_dataset_audit"

    steps: dict[str, Ended] = Field(default_factory=dict)


def run_facts(folder: Path) -> list[tuple[str, str]]:
    """Name and words of each fact; what nobody knows is left out."""
    made, taken = Made.read(folder), Taken.read_if_there(folder).steps
    settings = saved_settings(folder)
    photos = Photos.read_if_there(folder).images
    classes = len(TestFigures.read(folder).test.classes)
    kind = "one of them a photo" if settings.task == "single_label" else "several at once"
    rows = [
        ("recognises", f"{classes} classes, {kind}"),
        ("learned from", ", ".join(f"{count:,} {split}" for split, count in photos.items())),
        ("size", f"{made.model_bytes / 1e6:.1f} MB"),
        ("time", _times(made)),
        ("cost of 8 bits", _cost_of_8_bits(made)),
        ("how it was made", _how(settings, made, Port.read_if_there(folder).input.width)),
        ("when", _when(taken)),
    ]
    return [(name, words) for name, words in rows if words]


def _times(made: Made) -> str:
    threads = (f"{one.p50_ms:.1f} ms on {one.threads} thread{'s' * (one.threads > 1)}"
               for one in made.host_latency)  # fmt: skip
    return ", ".join(threads) + ", an image on the machine that measured"


def _cost_of_8_bits(made: Made) -> str:
    row = next((one for one in made.float_twin_against_int8.overall if one.figure == "f1_macro"),
               None)  # fmt: skip
    if row is None or row.difference is None:
        return ""
    span = f" [{row.low:+.3f}, {row.high:+.3f}]" if row.low is not None else ""
    return f"{row.difference:+.3f}{span} F1 macro on test, against the same weights in floats"


def _how(settings: Settings, made: Made, side: int) -> str:
    teacher, pixels = settings.teacher.arch, f"{side} px"
    if settings.student is None:
        return f"{teacher} at {pixels}"
    taught = f", taught by {teacher}" if settings.distillation.enabled else ""
    return f"{settings.student.variant} at {pixels}{taught}; {made.quantization.title}"


def _when(taken: Mapping[str, Ended]) -> str:
    ended = max((one.finished for one in taken.values()), default="")
    minutes = sum(one.seconds for one in taken.values()) / 60
    return f"{ended[:10]}, {minutes:.1f} minutes in all" if ended else ""
