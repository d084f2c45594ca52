"""Read, change and write the tree of a `.tflite` file. Knows the format, not what a network is for.

LiteRT's own schema classes do the work; this adds what they forget (alignment) and the few
primitives that our edits need.
"""

from __future__ import annotations

from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

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
    buffer = schema.BufferT()
    buffer.data = np.frombuffer(values.tobytes(), dtype=np.uint8)
    tree.buffers.append(buffer)
    shape = np.array(values.shape, dtype=np.int32)
    graph = tree.subgraphs[0]
    return add_tensor(graph, name, kind, shape, scale=scale, buffer=len(tree.buffers) - 1)


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


def replace_input(tree: schema.ModelT, tensor: int) -> None:
    tree.subgraphs[0].inputs = [tensor]
    _redirect(tree.signatureDefs, "inputs", tensor)


def replace_output(tree: schema.ModelT, tensor: int) -> None:
    tree.subgraphs[0].outputs = [tensor]
    _redirect(tree.signatureDefs, "outputs", tensor)


def _redirect(signatures: list | None, side: str, tensor: int) -> None:
    for signature in signatures or []:
        for port in getattr(signature, side) or []:
            port.tensorIndex = tensor


def add_metadata(tree: schema.ModelT, name: str, content: bytes) -> None:
    """Put a named block of bytes into the file."""
    buffer = schema.BufferT()
    buffer.data = np.frombuffer(content, dtype=np.uint8)
    tree.buffers.append(buffer)
    entry = schema.MetadataT()
    entry.name, entry.buffer = name, len(tree.buffers) - 1
    tree.metadata = [*(tree.metadata or []), entry]
