"""What goes out: the INT8 file with its labels inside. Trains and scores nothing."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from workbench.deploy.tflite import read_model
from workbench.errors import StepError

LABELS_FILE = "labels.txt"
METADATA_FILE = "metadata.json"
EPOCH = (1980, 1, 1, 0, 0, 0)  # the oldest date a ZIP knows: no clock in the bytes


def export_model(
    candidate: bytes | Path, labels: Sequence[str], metadata: Mapping[str, Any]
) -> bytes:
    """Return the file that ships, made from the chosen candidate."""
    return attach_metadata(read_model(candidate), labels, metadata)


def labels_text(labels: Sequence[str]) -> str:
    """One label a line, line 0 is class 0."""
    return "".join(f"{label}\n" for label in labels)


def attach_metadata(model: bytes, labels: Sequence[str], metadata: Mapping[str, Any]) -> bytes:
    """Append labels and metadata as a ZIP; the runtime stops reading before it.

    This is where TFLite's own tools look for the label file, so `unzip` and Android Studio find it.
    """
    _refuse_broken_labels(labels)
    archive = io.BytesIO()
    text = json.dumps(dict(metadata), indent=2, sort_keys=True, allow_nan=False, ensure_ascii=False)
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_STORED) as bundle:
        for name, content in ((LABELS_FILE, labels_text(labels)), (METADATA_FILE, text + "\n")):
            bundle.writestr(zipfile.ZipInfo(name, EPOCH), content.encode("utf-8"))
    return model + archive.getvalue()


def read_metadata(model: bytes | Path) -> tuple[list[str], dict[str, Any]]:
    """Return the labels and the metadata that `attach_metadata` put into a file."""
    try:
        with zipfile.ZipFile(io.BytesIO(read_model(model))) as bundle:
            labels = bundle.read(LABELS_FILE).decode("utf-8").split("\n")[:-1]
            return labels, json.loads(bundle.read(METADATA_FILE))
    except (zipfile.BadZipFile, KeyError) as error:
        raise StepError(
            f"the file carries no labels ({error}). Run 07_export_tflite again."
        ) from None


def _refuse_broken_labels(labels: Sequence[str]) -> None:
    for index, label in enumerate(labels):
        if not label or len(label.splitlines()) != 1:
            raise StepError(f"class {index} is {label!r}: a label is one line of text")
