"""What goes out: the INT8 file with its labels inside. Trains and scores nothing."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import flatbuffers
import numpy as np

from workbench.deploy import tflite
from workbench.deploy import tflite as edits
from workbench.deploy import tflite as flatbuffer
from workbench.errors import StepError
from workbench.settings import Settings

# The metadata block that TFLite's own tools read: Android Studio, ML Kit, the Task Library.

BLOCK_NAME = "TFLITE_METADATA"
IDENTIFIER = b"M001"
PARSER_VERSION = "1.0.0"  # tables and fields of the first schema only
TENSOR_AXIS_LABELS = 2
IMAGE_PROPERTIES, RGB = 2, 1  # of the unions ContentProperties and ColorSpaceType
NORMALIZATION_OPTIONS = 1  # of the union ProcessUnitOptions
MEAN, DEVIATION = 127.0, 128.0


class _Writer(flatbuffers.Builder):
    """Tables by slot number; children first, as flatbuffers wants them."""

    def table(self, slots: int, references: Mapping[int, int], scalars: Mapping[int, int]) -> int:
        self.StartObject(slots)
        for slot, offset in references.items():
            self.PrependUOffsetTRelativeSlot(slot, offset, 0)
        for slot, value in scalars.items():
            self.PrependInt8Slot(slot, value, 0)
        return self.EndObject()

    def tables(self, offsets: Sequence[int]) -> int:
        self.StartVector(4, len(offsets), 4)
        for offset in reversed(offsets):
            self.PrependUOffsetTRelative(offset)
        return self.EndVector()

    def floats(self, values: Sequence[float]) -> int:
        self.StartVector(4, len(values), 4)
        for value in reversed(values):
            self.PrependFloat32(value)
        return self.EndVector()


def metadata_block(
    metadata: Mapping[str, Any], labels_file: str, *, size: tuple[int, int]
) -> bytes:
    """Describe an image classifier: `metadata` has name, description, version and licence."""
    writer = _Writer(1024)
    image = _image_tensor(writer, size)
    scores = _score_tensor(writer, labels_file)
    graph = writer.table(
        7,
        {0: writer.CreateString("classifier"), 2: writer.tables([image])}
        | {3: writer.tables([scores])},
        {},
    )
    texts = {
        slot: writer.CreateString(str(metadata[key]))
        for slot, key in ((0, "name"), (1, "description"), (2, "version"), (5, "licence"))
        if key in metadata
    }
    graphs, parser = writer.tables([graph]), writer.CreateString(PARSER_VERSION)
    writer.Finish(writer.table(8, {**texts, 3: graphs, 7: parser}, {}), IDENTIFIER)
    return bytes(writer.Output())


def _image_tensor(writer: _Writer, size: tuple[int, int]) -> int:
    writer.StartObject(2)
    writer.PrependUint32Slot(0, size[0], 0)
    writer.PrependUint32Slot(1, size[1], 0)
    image_size = writer.EndObject()
    properties = writer.table(2, {1: image_size}, {0: RGB})
    content = writer.table(3, {1: properties}, {0: IMAGE_PROPERTIES})
    options = writer.table(2, {0: writer.floats([MEAN]), 1: writer.floats([DEVIATION])}, {})
    unit = writer.table(2, {1: options}, {0: NORMALIZATION_OPTIONS})
    name, text = writer.CreateString("image"), writer.CreateString("RGB, letterboxed (q8)")
    return writer.table(7, {0: name, 1: text, 3: content, 4: writer.tables([unit])}, {})


def _score_tensor(writer: _Writer, labels_file: str) -> int:
    name, text = writer.CreateString(labels_file), writer.CreateString("one class a line")
    file = writer.table(4, {0: name, 1: text}, {2: TENSOR_AXIS_LABELS})
    name, text = writer.CreateString("scores"), writer.CreateString("one a class")
    return writer.table(7, {0: name, 1: text, 6: writer.tables([file])}, {})


LABELS_FILE = "labels.txt"
METADATA_FILE = "metadata.json"
OLDEST = (1980, 1, 1, 0, 0, 0)  # the oldest date a ZIP knows: no clock in the bytes


def export_model(
    candidate: bytes | Path,
    labels: Sequence[str],
    metadata: Mapping[str, Any],
    settings: Settings,
    thresholds: Mapping[str, Any] | None = None,
) -> bytes:
    """Return the file that ships, made from the chosen candidate.

    `thresholds` is the content of threshold_recommendation.json; only `fold_thresholds` needs it.
    """
    export, model = settings.tflite_export, tflite.read_model(candidate)
    if export.fold_thresholds:
        model = edits.with_folded_thresholds(model, _integers(settings, labels, thresholds))
    if export.sigmoid_in_model:
        model = edits.with_activation(model, activation_of(settings.task))
    return attach_metadata(model, labels, metadata)


def activation_of(task: str) -> str:
    """What turns logits into probabilities."""
    return "softmax" if task == "single_label" else "sigmoid"


def _integers(
    settings: Settings, labels: Sequence[str], thresholds: Mapping[str, Any] | None
) -> np.ndarray:
    if settings.task == "single_label":
        raise StepError(
            "tflite_export.fold_thresholds: a single label has one confidence threshold, which no "
            "bias can hold. Turn it off."
        )
    if thresholds is None:
        raise StepError("tflite_export.fold_thresholds needs the thresholds of 06_tune_thresholds")
    by_name = {entry["name"]: entry["integer"] for entry in thresholds["classes"]}
    return np.array([by_name[label] for label in labels])


def labels_text(labels: Sequence[str]) -> str:
    """One label a line, line 0 is class 0."""
    return "".join(f"{label}\n" for label in labels)


def attach_metadata(model: bytes, labels: Sequence[str], metadata: Mapping[str, Any]) -> bytes:
    """Put the description into the file and append the labels as a ZIP, as TFLite's tools expect.

    The runtime ignores both; `unzip`, Android Studio and the Task Library find them.
    """
    _refuse_broken_labels(labels)
    tree = flatbuffer.parse(model)
    _, height, width, _ = tflite.input_port(model).shape
    block = metadata_block(metadata, LABELS_FILE, size=(width, height))
    flatbuffer.add_metadata(tree, BLOCK_NAME, block)
    archive = io.BytesIO()
    text = json.dumps(dict(metadata), indent=2, sort_keys=True, allow_nan=False, ensure_ascii=False)
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_STORED) as bundle:
        for name, content in ((LABELS_FILE, labels_text(labels)), (METADATA_FILE, text + "\n")):
            bundle.writestr(zipfile.ZipInfo(name, OLDEST), content.encode("utf-8"))
    return flatbuffer.pack(tree) + archive.getvalue()


def read_metadata(model: bytes | Path) -> tuple[list[str], dict[str, Any]]:
    """Return the labels and the metadata that `attach_metadata` put into a file."""
    try:
        with zipfile.ZipFile(io.BytesIO(tflite.read_model(model))) as bundle:
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
