"""Pack what an app developer receives. Needs no TensorFlow.

Everything in a bundle can be derived again from the files beside it: `verify` does so.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workbench.deploy import verify
from workbench.deploy.description import inference_config, model_metadata
from workbench.deploy.export import LABELS_FILE, labels_text
from workbench.deploy.golden import GoldenImage, write_golden
from workbench.deploy.sources import write_sources
from workbench.errors import StepError
from workbench.files import sha256, write_bytes, write_json, write_text
from workbench.settings import Settings


@dataclass(frozen=True)
class Bundle:
    """What was written."""

    config: dict[str, Any]
    files: tuple[Path, ...]


def write_bundle(
    folder: Path,
    settings: Settings,
    labels: Sequence[str],
    thresholds: Mapping[str, Any],
    ladder: Mapping[str, Any],
    images: Sequence[GoldenImage],
    *,
    versions: Mapping[str, str],
    calibration: Mapping[str, Any] | None = None,
) -> Bundle:
    """Describe `model_qat_int8.tflite` in `folder` and write everything an app needs beside it.

    `thresholds` is the content of threshold_recommendation.json, `ladder` that of
    quantization_ladder.json, `images` come from `golden.choose_golden`.
    """
    folder = Path(folder)
    write_text(folder / LABELS_FILE, labels_text(labels))
    config = inference_config(folder, settings, labels, thresholds, ladder, versions, calibration)
    write_json(folder / verify.CONFIG, config)
    write_json(folder / verify.METADATA, model_metadata(config))
    vectors = write_golden(folder, config, images)
    write_sources(folder, config, vectors)
    write_bytes(folder / "verify.py", Path(verify.__file__).read_bytes())
    return Bundle(config, seal(folder))


@contextmanager
def withdrawn_on_failure(folder: Path) -> Iterator[None]:
    """Leave nothing that an app could take for this run's when what ships could not be made."""
    try:
        yield
    except StepError:
        withdraw(folder)
        raise


def withdraw(folder: Path) -> None:
    """Remove a bundle and the figures about it; labels and thresholds stay, others wrote them."""
    stay = (verify.LABELS, verify.RECOMMENDATION)
    for name in (*verify.SINGLE_FILES, verify.SUMS):
        if name not in stay:
            (folder / name).unlink(missing_ok=True)
    for name in verify.FOLDERS:
        shutil.rmtree(folder / name, ignore_errors=True)


def seal(folder: Path) -> tuple[Path, ...]:
    """Write SHA256SUMS over what is there; 09 seals again with its metrics and test scores."""
    names = verify.sealed_files(folder)
    lines = "".join(f"{sha256(folder / name)}  {name}\n" for name in names)
    write_text(folder / verify.SUMS, lines)
    return tuple(folder / name for name in (*names, verify.SUMS))
