"""Exact edits of a finished `.tflite`: integer ports, an activation, thresholds, labels inside.

Reads the file into the tree of its schema, changes that and writes it again; the same edit of the
same file gives the same bytes. Trains and converts nothing.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

from workbench.decide.levels import LOWEST, NEVER
from workbench.decide.recommendation import Thresholds
from workbench.deploy import tflite
from workbench.errors import StepError
from workbench.settings import Settings

FILE_IDENTIFIER = b"TFL3"
BUFFER_ALIGNMENT = 16  # the schema's force_align, which the Python classes drop
Operator = schema.BuiltinOperator
TensorType = schema.TensorType
NUMPY_TYPES = {
    TensorType.FLOAT32: np.dtype("<f4"),
    TensorType.FLOAT16: np.dtype("<f2"),
    TensorType.INT32: np.dtype("<i4"),
    TensorType.INT8: np.dtype("i1"),
    TensorType.UINT8: np.dtype("u1"),
}
INT8_VERSION = 2  # the first version of QUANTIZE, DEQUANTIZE, LOGISTIC and SOFTMAX that takes int8
INPUT_SCALE, INPUT_ZERO_POINT = 1 / 128, 127  # bytes as they are mean (x - 127) / 128
INPUT_TYPES = {"uint8": (TensorType.UINT8, 0), "int8": (TensorType.INT8, -128)}
PROBABILITY = {"scale": 1 / 256, "zero_point": -128}  # fixed by the LOGISTIC and SOFTMAX kernels
FAR = 512  # levels that no output comes back from

LABELS_FILE = "labels.txt"
METADATA_FILE = "metadata.json"
OLDEST = (1980, 1, 1, 0, 0, 0)  # the oldest date a ZIP knows: no clock in the bytes
METADATA_NAME = "TFLITE_METADATA"  # what TFLite's own tools look for
METADATA_IDENTIFIER = b"M001"
PARSER_VERSION = "1.0.0"  # tables and fields of the first schema only
TENSOR_AXIS_LABELS = 2
IMAGE_PROPERTIES, RGB = 2, 1  # of the unions ContentProperties and ColorSpaceType
NORMALIZATION_OPTIONS = 1  # of the union ProcessUnitOptions
MEAN, DEVIATION = 127.0, 128.0


def export_model(
    candidate: bytes | Path,
    labels: Sequence[str],
    metadata: Mapping[str, Any],
    settings: Settings,
    thresholds: Thresholds | None = None,
) -> bytes:
    """Return the file that ships, made from the chosen candidate.

    Only `fold_thresholds` needs `thresholds`, those of 06.
    """
    export, model = settings.tflite_export, tflite.read_model(candidate)
    if export.fold_thresholds:
        model = with_folded_thresholds(model, _integers(settings, labels, thresholds))
    if export.sigmoid_in_model:
        model = with_activation(model, activation_of(settings.task))
    return with_metadata(model, labels, metadata, settings.product_scaling)


def activation_of(task: str) -> str:
    """What turns logits into probabilities."""
    return "softmax" if task == "single_label" else "sigmoid"


def _integers(
    settings: Settings, labels: Sequence[str], thresholds: Thresholds | None
) -> np.ndarray:
    if settings.task == "single_label":
        raise StepError(
            "tflite_export.fold_thresholds: a single label has one confidence threshold, which no "
            "bias can hold. Turn it off."
        )
    if thresholds is None:
        raise StepError("tflite_export.fold_thresholds needs the thresholds of 06_tune_thresholds")
    by_name = {entry.name: entry.integer for entry in thresholds.classes}
    return np.array([by_name[label] for label in labels])


class _AlignedBuffer(schema.BufferT):
    """A buffer whose data starts at a multiple of 16, as kernels expect."""

    def Pack(self, builder: flatbuffers.Builder) -> int:  # noqa: N802  (the schema's spelling)
        data = b"" if self.data is None else np.asarray(self.data, dtype=np.uint8).tobytes()
        if data:
            builder.StartVector(1, len(data), BUFFER_ALIGNMENT)
            builder.head -= len(data)
            builder.Bytes[builder.head : builder.head + len(data)] = data
            offset = builder.EndVector()
        schema.BufferStart(builder)
        if data:
            schema.BufferAddData(builder, offset)
        return schema.BufferEnd(builder)


def parse(model: bytes) -> schema.ModelT:
    return schema.ModelT.InitFromObj(schema.Model.GetRootAs(model, 0))


def pack(tree: schema.ModelT) -> bytes:
    """Serialise a model; the same tree gives the same bytes."""
    for buffer in tree.buffers:
        buffer.__class__ = _AlignedBuffer
    builder = flatbuffers.Builder(1 << 20)
    builder.Finish(tree.Pack(builder), file_identifier=FILE_IDENTIFIER)
    return bytes(builder.Output())


def operator_name(tree: schema.ModelT, operator: schema.OperatorT) -> int:
    """Return the builtin code of an operator; old files keep it in the deprecated field."""
    code = tree.operatorCodes[operator.opcodeIndex]
    return max(code.builtinCode, code.deprecatedBuiltinCode)


def producer(graph: schema.SubGraphT, tensor: int) -> schema.OperatorT | None:
    """Return the operator that writes a tensor; constants and inputs have none."""
    return next((one for one in graph.operators if tensor in list(one.outputs)), None)


def constant(tree: schema.ModelT, tensor: schema.TensorT) -> np.ndarray:
    """Return the values of a constant tensor."""
    data = np.asarray(tree.buffers[tensor.buffer].data, dtype=np.uint8).tobytes()
    return np.frombuffer(data, dtype=NUMPY_TYPES[tensor.type]).reshape(tensor.shape)


def add_tensor(
    graph: schema.SubGraphT,
    name: str,
    kind: int,
    shape: Any,
    *,
    scale: Any = None,
    zero_point: int = 0,
    buffer: int = 0,
) -> int:
    """Append a tensor and return its index; buffer 0 holds nothing."""
    tensor = schema.TensorT()
    tensor.name, tensor.type, tensor.shape, tensor.buffer = name, kind, shape, buffer
    if scale is not None:
        scales = np.atleast_1d(np.asarray(scale, dtype=np.float32))
        tensor.quantization = schema.QuantizationParametersT()
        tensor.quantization.scale = scales
        tensor.quantization.zeroPoint = np.full(len(scales), zero_point, dtype=np.int64)
    graph.tensors.append(tensor)
    return len(graph.tensors) - 1


def add_constant(tree: schema.ModelT, name: str, values: np.ndarray, *, scale: Any = None) -> int:
    """Append a constant tensor to the main graph and return its index."""
    kind = next(kind for kind, dtype in NUMPY_TYPES.items() if dtype == values.dtype)
    shape, buffer = np.array(values.shape, dtype=np.int32), _add_buffer(tree, values.tobytes())
    return add_tensor(tree.subgraphs[0], name, kind, shape, scale=scale, buffer=buffer)


def _add_buffer(tree: schema.ModelT, content: bytes) -> int:
    buffer = schema.BufferT()
    buffer.data = np.frombuffer(content, dtype=np.uint8)
    tree.buffers.append(buffer)
    return len(tree.buffers) - 1


def make_operator(tree: schema.ModelT, code: int, source: int, target: int) -> schema.OperatorT:
    """Make an operator of one input and one output; the caller places it in the graph."""
    operator = schema.OperatorT()
    operator.opcodeIndex = _code_index(tree, code)
    operator.inputs, operator.outputs = [source], [target]
    return operator


def _code_index(tree: schema.ModelT, code: int) -> int:
    for index, known in enumerate(tree.operatorCodes):
        if max(known.builtinCode, known.deprecatedBuiltinCode) == code:
            known.version = max(known.version, INT8_VERSION)
            return index
    added = schema.OperatorCodeT()
    added.builtinCode = added.deprecatedBuiltinCode = code
    added.version = INT8_VERSION
    tree.operatorCodes.append(added)
    return len(tree.operatorCodes) - 1


def replace_port(tree: schema.ModelT, side: str, tensor: int) -> None:
    """Make a tensor the only one of `inputs` or `outputs`."""
    setattr(tree.subgraphs[0], side, [tensor])
    for signature in tree.signatureDefs or []:
        for port in getattr(signature, side) or []:
            port.tensorIndex = tensor


def with_integer_ports(model: bytes, input_type: str, logit_range: tuple[float, float]) -> bytes:
    """Give a float32-in, float32-out file the ports of an INT8 one: image bytes in, int8 out.

    The app then needs no second code path for a rung with float arithmetic inside. `logit_range`
    is what the 256 output levels cover.
    """
    tree = parse(model)
    graph = tree.subgraphs[0]
    kind, shift = INPUT_TYPES[input_type]
    old = graph.inputs[0]
    levels = {"scale": INPUT_SCALE, "zero_point": INPUT_ZERO_POINT + shift}
    new = add_tensor(graph, "input", kind, graph.tensors[old].shape, **levels)
    graph.operators.insert(0, make_operator(tree, Operator.DEQUANTIZE, new, old))
    replace_port(tree, "inputs", new)
    scale, zero_point = _levels(*logit_range)
    _append(tree, Operator.QUANTIZE, "output", {"scale": scale, "zero_point": zero_point})
    return pack(tree)


def _levels(low: float, high: float) -> tuple[float, int]:
    """Return the scale and zero point of int8 that cover [low, high] and hold zero exactly."""
    low, high = min(low, 0.0), max(high, 0.0)
    scale = max(high - low, 1e-3) / 255
    return scale, round(-128 - low / scale)


def with_activation(model: bytes, activation: str) -> bytes:
    """Append sigmoid or softmax, so that the file gives probabilities in steps of 1/256."""
    tree = parse(model)
    code = {"sigmoid": Operator.LOGISTIC, "softmax": Operator.SOFTMAX}[activation]
    operator = _append(tree, code, "probability", PROBABILITY)
    if activation == "softmax":
        operator.builtinOptionsType = schema.BuiltinOptions.SoftmaxOptions
        operator.builtinOptions = schema.SoftmaxOptionsT()
        operator.builtinOptions.beta = 1.0
    return pack(tree)


def _append(tree: schema.ModelT, code: int, name: str, levels: dict) -> schema.OperatorT:
    graph = tree.subgraphs[0]
    old = graph.outputs[0]
    new = add_tensor(graph, name, TensorType.INT8, graph.tensors[old].shape, **levels)
    operator = make_operator(tree, code, old, new)
    graph.operators.append(operator)
    replace_port(tree, "outputs", new)
    return operator


def with_folded_thresholds(model: bytes, integers: np.ndarray) -> bytes:
    """Move each class by whole output levels: `raw >= 0` now says what `raw >= integers[c]` did.

    Only the bias of the last layer and the zero point behind it change. An accumulator step is a
    hundredth of a level, so a score that lies that close to the middle of two levels may flip.
    """
    tree = parse(model)
    output = tree.subgraphs[0].tensors[tree.subgraphs[0].outputs[0]].quantization
    integers = np.asarray(integers, dtype=np.int64)
    levels = (int(output.zeroPoint[0]) - integers).astype(np.float64)
    levels[integers <= LOWEST] = FAR
    levels[integers >= NEVER] = -FAR
    _shift_bias(tree, _last_layer(tree), levels * float(output.scale[0]))
    output.zeroPoint = np.zeros(1, dtype=np.int64)
    return pack(tree)


def _last_layer(tree: schema.ModelT) -> schema.OperatorT:
    graph = tree.subgraphs[0]
    operator = producer(graph, graph.outputs[0])
    if operator and operator_name(tree, operator) == Operator.QUANTIZE:
        operator = producer(graph, operator.inputs[0])
    if operator is None or operator_name(tree, operator) != Operator.FULLY_CONNECTED:
        raise StepError("thresholds fold into a fully connected last layer; this file has none")
    return operator


def with_features(model: bytes) -> bytes:
    """Let the file also give what its last layer reads, as a second output.

    The arithmetic before it is untouched, so the first output keeps its bits.
    """
    tree = parse(model)
    graph = tree.subgraphs[0]
    operator = producer(graph, graph.outputs[0])
    while operator and operator_name(tree, operator) != Operator.FULLY_CONNECTED:
        operator = producer(graph, operator.inputs[0])
    if operator is None:
        raise StepError("this file has no fully connected last layer, so no features before it")
    graph.outputs = [*graph.outputs, operator.inputs[0]]
    return pack(tree)


def _shift_bias(tree: schema.ModelT, layer: schema.OperatorT, logits: np.ndarray) -> None:
    """Add logits [C] to the bias, in the layer's own arithmetic."""
    graph = tree.subgraphs[0]
    inputs = [*list(layer.inputs), -1][:3]
    features, weights = graph.tensors[inputs[0]], graph.tensors[inputs[1]]
    bias = _bias_values(tree, inputs[2], len(logits))
    if features.type == TensorType.FLOAT32:
        shifted, scale = (bias + logits).astype(np.float32), None
    else:
        scale = np.float64(features.quantization.scale[0]) * np.float64(weights.quantization.scale)
        shifted = (bias + np.rint(logits / scale)).astype(np.int32)
    inputs[2] = add_constant(tree, "folded_thresholds", shifted, scale=scale)
    layer.inputs = inputs


def _bias_values(tree: schema.ModelT, index: int, classes: int) -> np.ndarray:
    """Return the bias as float64; it may be absent, or half precision behind a DEQUANTIZE."""
    if index < 0:
        return np.zeros(classes)
    graph = tree.subgraphs[0]
    source = producer(graph, index)
    tensor = graph.tensors[index if source is None else source.inputs[0]]
    return constant(tree, tensor).astype(np.float64)


def labels_text(labels: Sequence[str]) -> str:
    """One label a line, line 0 is class 0."""
    return "".join(f"{label}\n" for label in labels)


def with_metadata(
    model: bytes, labels: Sequence[str], metadata: Mapping[str, Any],
    scaling: tuple[float, float] = (MEAN, DEVIATION),
) -> bytes:  # fmt: skip
    """Put the description into the file and append the labels as a ZIP, as TFLite's tools expect.

    The runtime ignores both; `unzip`, Android Studio, ML Kit and the Task Library find them.
    """
    for index, label in enumerate(labels):
        if not label or len(label.splitlines()) != 1:
            raise StepError(f"class {index} is {label!r}: a label is one line of text")
    tree = parse(model)
    _, height, width, _ = tflite.input_port(model).shape
    entry = schema.MetadataT()
    entry.name = METADATA_NAME
    entry.buffer = _add_buffer(tree, metadata_block(metadata, (width, height), scaling))
    tree.metadata = [*(tree.metadata or []), entry]
    archive = io.BytesIO()
    text = json.dumps(dict(metadata), indent=2, sort_keys=True, allow_nan=False, ensure_ascii=False)
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_STORED) as inside:
        for name, content in ((LABELS_FILE, labels_text(labels)), (METADATA_FILE, text + "\n")):
            inside.writestr(zipfile.ZipInfo(name, OLDEST), content.encode("utf-8"))
    return pack(tree) + archive.getvalue()


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
    metadata: Mapping[str, Any], size: tuple[int, int],
    scaling: tuple[float, float] = (MEAN, DEVIATION),
) -> bytes:  # fmt: skip
    """Describe an image classifier: `metadata` has name, description, version and licence."""
    writer = _Writer(1024)
    image, scores = _image_tensor(writer, size, scaling), _score_tensor(writer)
    name, inputs = writer.CreateString("classifier"), writer.tables([image])
    graph = writer.table(7, {0: name, 2: inputs, 3: writer.tables([scores])}, {})
    texts = {
        slot: writer.CreateString(str(metadata[key]))
        for slot, key in ((0, "name"), (1, "description"), (2, "version"), (5, "licence"))
        if key in metadata
    }
    graphs, parser = writer.tables([graph]), writer.CreateString(PARSER_VERSION)
    writer.Finish(writer.table(8, {**texts, 3: graphs, 7: parser}, {}), METADATA_IDENTIFIER)
    return bytes(writer.Output())


def _image_tensor(writer: _Writer, size: tuple[int, int], scaling: tuple[float, float]) -> int:
    writer.StartObject(2)
    writer.PrependUint32Slot(0, size[0], 0)
    writer.PrependUint32Slot(1, size[1], 0)
    image_size = writer.EndObject()
    properties = writer.table(2, {1: image_size}, {0: RGB})
    content = writer.table(3, {1: properties}, {0: IMAGE_PROPERTIES})
    mean, deviation = (writer.floats([value]) for value in scaling)
    options = writer.table(2, {0: mean, 1: deviation}, {})
    unit = writer.table(2, {1: options}, {0: NORMALIZATION_OPTIONS})
    name, text = writer.CreateString("image"), writer.CreateString("RGB, letterboxed (q8)")
    return writer.table(7, {0: name, 1: text, 3: content, 4: writer.tables([unit])}, {})


def _score_tensor(writer: _Writer) -> int:
    name, text = writer.CreateString(LABELS_FILE), writer.CreateString("one class a line")
    file = writer.table(4, {0: name, 1: text}, {2: TENSOR_AXIS_LABELS})
    name, text = writer.CreateString("scores"), writer.CreateString("one a class")
    return writer.table(7, {0: name, 1: text, 6: writer.tables([file])}, {})
