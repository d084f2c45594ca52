"""Exact edits of a finished `.tflite`: integer ports, an activation, thresholds folded in.

They change a few tensors at the ends of the graph and never the network in between, so what was
measured on the candidate stays true of the file that ships.
"""

from __future__ import annotations

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from workbench.deploy import flatbuffer
from workbench.deploy.flatbuffer import Operator, TensorType
from workbench.errors import StepError

INPUT_SCALE, INPUT_ZERO_POINT = 1 / 128, 127  # bytes as they are mean (x - 127) / 128
INPUT_TYPES = {"uint8": (TensorType.UINT8, 0), "int8": (TensorType.INT8, -128)}
ALWAYS, NEVER = -128, 128  # thresholds that every and no int8 reaches
FAR = 512  # levels that no output comes back from
PROBABILITY = {"scale": 1 / 256, "zero_point": -128}  # fixed by the LOGISTIC and SOFTMAX kernels


def with_integer_ports(model: bytes, input_type: str, logit_range: tuple[float, float]) -> bytes:
    """Give a float32-in, float32-out file the ports of an INT8 one: image bytes in, int8 out.

    The app then needs no second code path for a rung with float arithmetic inside. `logit_range`
    is what the 256 output levels cover.
    """
    tree = flatbuffer.parse(model)
    graph = tree.subgraphs[0]
    kind, shift = INPUT_TYPES[input_type]
    old = graph.inputs[0]
    new = flatbuffer.add_tensor(
        graph,
        "input",
        kind,
        graph.tensors[old].shape,
        scale=INPUT_SCALE,
        zero_point=INPUT_ZERO_POINT + shift,
    )
    graph.operators.insert(0, flatbuffer.make_operator(tree, Operator.DEQUANTIZE, new, old))
    flatbuffer.replace_input(tree, new)
    scale, zero_point = _levels(*logit_range)
    _append(tree, Operator.QUANTIZE, "output", {"scale": scale, "zero_point": zero_point})
    return flatbuffer.pack(tree)


def _levels(low: float, high: float) -> tuple[float, int]:
    """Return the scale and zero point of int8 that cover [low, high] and hold zero exactly."""
    low, high = min(low, 0.0), max(high, 0.0)
    scale = max(high - low, 1e-3) / 255
    return scale, round(-128 - low / scale)


def with_activation(model: bytes, activation: str) -> bytes:
    """Append sigmoid or softmax, so that the file gives probabilities in steps of 1/256."""
    tree = flatbuffer.parse(model)
    code = {"sigmoid": Operator.LOGISTIC, "softmax": Operator.SOFTMAX}[activation]
    operator = _append(tree, code, "probability", PROBABILITY)
    if activation == "softmax":
        operator.builtinOptionsType = schema.BuiltinOptions.SoftmaxOptions
        operator.builtinOptions = schema.SoftmaxOptionsT()
        operator.builtinOptions.beta = 1.0
    return flatbuffer.pack(tree)


def _append(tree: schema.ModelT, code: int, name: str, levels: dict) -> schema.OperatorT:
    graph = tree.subgraphs[0]
    old = graph.outputs[0]
    new = flatbuffer.add_tensor(graph, name, TensorType.INT8, graph.tensors[old].shape, **levels)
    operator = flatbuffer.make_operator(tree, code, old, new)
    graph.operators.append(operator)
    flatbuffer.replace_output(tree, new)
    return operator


def with_folded_thresholds(model: bytes, integers: np.ndarray) -> bytes:
    """Move each class by whole output levels: `raw >= 0` now says what `raw >= integers[c]` did.

    Only the bias of the last layer and the zero point behind it change. An accumulator step is a
    hundredth of a level, so a score that lies that close to the middle of two levels may flip.
    """
    tree = flatbuffer.parse(model)
    output = tree.subgraphs[0].tensors[tree.subgraphs[0].outputs[0]].quantization
    integers = np.asarray(integers, dtype=np.int64)
    levels = (int(output.zeroPoint[0]) - integers).astype(np.float64)
    levels[integers <= ALWAYS] = FAR
    levels[integers >= NEVER] = -FAR
    _shift_bias(tree, _last_layer(tree), levels * float(output.scale[0]))
    output.zeroPoint = np.zeros(1, dtype=np.int64)
    return flatbuffer.pack(tree)


def _last_layer(tree: schema.ModelT) -> schema.OperatorT:
    graph = tree.subgraphs[0]
    operator = flatbuffer.producer(graph, graph.outputs[0])
    if operator and flatbuffer.operator_name(tree, operator) == Operator.QUANTIZE:
        operator = flatbuffer.producer(graph, operator.inputs[0])
    if operator is None or flatbuffer.operator_name(tree, operator) != Operator.FULLY_CONNECTED:
        raise StepError("thresholds fold into a fully connected last layer; this file has none")
    return operator


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
    inputs[2] = flatbuffer.add_constant(tree, "folded_thresholds", shifted, scale=scale)
    layer.inputs = inputs


def _bias_values(tree: schema.ModelT, index: int, classes: int) -> np.ndarray:
    """Return the bias as float64; it may be absent, or half precision behind a DEQUANTIZE."""
    if index < 0:
        return np.zeros(classes)
    graph = tree.subgraphs[0]
    source = flatbuffer.producer(graph, index)
    tensor = graph.tensors[index if source is None else source.inputs[0]]
    return flatbuffer.constant(tree, tensor).astype(np.float64)
