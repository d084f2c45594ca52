"""The metadata block that TFLite's own tools read: Android Studio, ML Kit, the Task Library.

A small flatbuffer beside the network (schema `M001` of tflite-support, whose package is asleep, so
the few tables that a classifier needs are written here by slot number).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import flatbuffers

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
