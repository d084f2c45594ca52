"""Small, exact edits of a `.tflite` file: integer ports around float arithmetic.

Uses LiteRT's own schema classes. Knows the file format, not what a network is for.
"""

from __future__ import annotations

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

FILE_IDENTIFIER = b"TFL3"
BUFFER_ALIGNMENT = 16  # the schema's force_align, which the Python classes forget
INPUT_SCALE, INPUT_ZERO_POINT = 1 / 128, 127  # bytes as they are mean (x - 127) / 128
PORT_TYPES = {
    "uint8": (schema.TensorType.UINT8, 0),
    "int8": (schema.TensorType.INT8, -128),
}
Operator = schema.BuiltinOperator


class _AlignedBuffer(schema.BufferT):
    """A buffer whose data starts at a multiple of 16, as kernels expect."""

    def Pack(self, builder: flatbuffers.Builder) -> int:  # noqa: N802  (the schema's spelling)
        data = None if self.data is None else np.asarray(self.data, dtype=np.uint8)
        if data is not None and data.size:
            builder.StartVector(1, data.size, BUFFER_ALIGNMENT)
            builder.head -= data.size
            builder.Bytes[builder.head : builder.head + data.size] = data.tobytes()
            offset = builder.EndVector()
        schema.BufferStart(builder)
        if data is not None and data.size:
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


def with_integer_ports(model: bytes, input_type: str, logit_range: tuple[float, float]) -> bytes:
    """Give a float32-in, float32-out file the ports of an INT8 one: image bytes in, int8 out.

    The app then needs no second code path for a rung with float arithmetic inside. `logit_range`
    is what the 256 output levels cover.
    """
    tree = parse(model)
    graph = tree.subgraphs[0]
    _integer_input(tree, graph, *PORT_TYPES[input_type])
    _integer_output(tree, graph, *_levels(*logit_range))
    return pack(tree)


def _levels(low: float, high: float) -> tuple[float, int]:
    """Return the scale and zero point of int8 that cover [low, high] and hold zero exactly."""
    low, high = min(low, 0.0), max(high, 0.0)
    scale = max(high - low, 1e-3) / 255
    return scale, round(-128 - low / scale)


def _integer_input(tree: schema.ModelT, graph: schema.SubGraphT, kind: int, shift: int) -> None:
    old = graph.inputs[0]
    quantized = _new_tensor(graph, old, "input", kind, INPUT_SCALE, INPUT_ZERO_POINT + shift)
    graph.operators.insert(0, _operator(tree, Operator.DEQUANTIZE, quantized, old))
    graph.inputs = [quantized]
    _redirect(tree.signatureDefs, "inputs", quantized)


def _integer_output(
    tree: schema.ModelT, graph: schema.SubGraphT, scale: float, zero_point: int
) -> None:
    old = graph.outputs[0]
    kind = schema.TensorType.INT8
    quantized = _new_tensor(graph, old, "output", kind, scale, zero_point)
    graph.operators.append(_operator(tree, Operator.QUANTIZE, old, quantized))
    graph.outputs = [quantized]
    _redirect(tree.signatureDefs, "outputs", quantized)


def _new_tensor(
    graph: schema.SubGraphT, like: int, name: str, kind: int, scale: float, zero_point: int
) -> int:
    tensor = schema.TensorT()
    tensor.name, tensor.type, tensor.buffer = name, kind, 0
    tensor.shape = graph.tensors[like].shape
    tensor.quantization = schema.QuantizationParametersT()
    tensor.quantization.scale = np.array([scale], dtype=np.float32)
    tensor.quantization.zeroPoint = np.array([zero_point], dtype=np.int64)
    graph.tensors.append(tensor)
    return len(graph.tensors) - 1


def _operator(tree: schema.ModelT, code: int, source: int, target: int) -> schema.OperatorT:
    operator = schema.OperatorT()
    operator.opcodeIndex = _operator_code(tree, code)
    operator.inputs, operator.outputs = [source], [target]
    return operator


def _operator_code(tree: schema.ModelT, code: int) -> int:
    for index, known in enumerate(tree.operatorCodes):
        if max(known.builtinCode, known.deprecatedBuiltinCode) == code:
            return index
    added = schema.OperatorCodeT()
    added.builtinCode = added.deprecatedBuiltinCode = code
    added.version = 2  # the first version of QUANTIZE and DEQUANTIZE that takes int8
    tree.operatorCodes.append(added)
    return len(tree.operatorCodes) - 1


def _redirect(signatures: list | None, side: str, tensor: int) -> None:
    for signature in signatures or []:
        for port in getattr(signature, side) or []:
            port.tensorIndex = tensor
