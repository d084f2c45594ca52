"""Which Keras layers the converter fuses, and what quantisation costs each of them.

The cost is *local*: a layer gets the float network's own input, computes with the weights of the
`.tflite` file and rounds to its output levels. So the worst layer is the one that loses most by
itself, not the last one, which inherits the losses of all.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import tensorflow as tf
import tf_keras as keras

from workbench.deploy import flatbuffer
from workbench.deploy.convert import network_input
from workbench.deploy.flatbuffer import Operator, TensorType
from workbench.deploy.tflite import read_model
from workbench.errors import StepError

COLUMNS = (
    *("layer", "kind", "sqnr_db", "weights_sqnr_db", "saturated", "levels_used"),
    *("float_low", "float_high", "low", "high"),
)
WEIGHTED = (keras.layers.Conv2D, keras.layers.DepthwiseConv2D, keras.layers.Dense)
FUSED = (keras.layers.BatchNormalization, keras.layers.ReLU, keras.layers.Activation)
WEIGHTED_OPERATORS = (Operator.CONV_2D, Operator.DEPTHWISE_CONV_2D, Operator.FULLY_CONNECTED)
QUANT_PREFIX = "quant_"  # what the QAT toolkit puts before a layer's name
LOSSLESS_DB = 120.0  # written for a layer that loses nothing at all
FAINTEST = 1e-12  # of a signal: a layer that never varies has no ratio


@dataclass(frozen=True)
class QuantizedLayer:
    """The arithmetic of one operator of the file."""

    weights: np.ndarray  # dequantised, in the file's order of axes
    bias: np.ndarray
    scale: float  # of the output
    zero_point: int


def fused_groups(model: keras.Model) -> list[tuple[str, ...]]:
    """Return, in graph order, each weighted layer with the batch norm and activation behind it."""
    return [
        tuple(layer.name for layer in _chain(layer))
        for layer in model.layers
        if isinstance(layer, WEIGHTED)
    ]


def _chain(layer: keras.layers.Layer) -> list[keras.layers.Layer]:
    chain = [layer]
    while True:
        nodes = chain[-1].outbound_nodes
        if len(nodes) != 1 or not isinstance(nodes[0].layer, FUSED):
            return chain
        chain.append(nodes[0].layer)


def layer_errors(network: keras.Model, model: bytes, images: Sequence[np.ndarray]) -> pd.DataFrame:
    """Rank the weighted layers by what INT8 costs them, worst first.

    `network` is the float network with the very weights that were quantised, `images` are
    letterboxed uint8 [S, S, 3]. Columns: layer, kind, sqnr_db (of the output, the layer alone),
    weights_sqnr_db, saturated (share of float outputs outside the levels), levels_used, float_low,
    float_high, low, high (what the levels cover).
    """
    quantized = quantized_layers(model, [group[0] for group in fused_groups(network)])
    rows = []
    for group in fused_groups(network):
        if group[0] in quantized:
            rows.append(_layer_row(network, group, quantized[group[0]], images))
    return (
        pd.DataFrame(rows, columns=COLUMNS)
        .sort_values("sqnr_db", kind="stable")
        .reset_index(drop=True)
    )


def worst_layers(errors: pd.DataFrame, count: int) -> list[str]:
    """Name the layers that lose most."""
    return errors.layer.head(count).tolist()


def quantized_layers(model: bytes, names: Sequence[str]) -> dict[str, QuantizedLayer]:
    """Find the operator of each Keras layer in the file, by the names its tensors carry."""
    tree = flatbuffer.parse(read_model(model))
    graph, found = tree.subgraphs[0], {}
    for operator in graph.operators:
        if flatbuffer.operator_name(tree, operator) not in WEIGHTED_OPERATORS:
            continue
        name = _layer_of(graph, operator, names)
        if name and graph.tensors[operator.outputs[0]].type == TensorType.INT8:
            found[name] = _read_layer(tree, operator)
    if not found:
        raise StepError("no layer of the student is INT8 in this file: there is no error to rank")
    return found


def _layer_of(graph, operator, names: Sequence[str]) -> str | None:
    """The converter joins the names of what it fuses: `net/bn/FusedBatchNorm;net/conv/Conv2D`."""
    known = set(names)
    for tensor in (*operator.inputs[1:], *operator.outputs):
        for part in re.split(r"[/;]", graph.tensors[tensor].name.decode()):
            if part.removeprefix(QUANT_PREFIX) in known:
                return part.removeprefix(QUANT_PREFIX)
    return None


def _read_layer(tree, operator) -> QuantizedLayer:
    tensors = tree.subgraphs[0].tensors
    weights, output = tensors[operator.inputs[1]], tensors[operator.outputs[0]].quantization
    inputs = [*list(operator.inputs), -1]  # the converter leaves out a bias of zeros
    return QuantizedLayer(
        weights=_dequantised(tree, weights),
        bias=np.zeros(1) if inputs[2] < 0 else _dequantised(tree, tensors[inputs[2]]),
        scale=float(output.scale[0]),
        zero_point=int(output.zeroPoint[0]),
    )


def _dequantised(tree, tensor) -> np.ndarray:
    values = flatbuffer.constant(tree, tensor).astype(np.float64)
    quantization = tensor.quantization
    scale = np.asarray(quantization.scale, dtype=np.float64)
    if len(scale) > 1:
        shape = np.ones(values.ndim, dtype=int)
        shape[quantization.quantizedDimension] = len(scale)
        scale = scale.reshape(shape)
    return (values * scale).astype(np.float32)


def _layer_row(
    network: keras.Model, group: tuple[str, ...], quantized: QuantizedLayer, images
) -> dict[str, object]:
    layer, last = network.get_layer(group[0]), network.get_layer(group[-1])
    probe = keras.Model(network.input, [layer.input, last.output])
    inputs, wanted = (
        part.numpy() for part in probe(network_input(np.stack(images)), training=False)
    )
    exact = _compute(layer, inputs, _as_keras(layer, quantized.weights), quantized.bias)
    if any(isinstance(network.get_layer(name), keras.layers.ReLU) for name in group):
        exact = np.clip(exact, 0, 6)
    low = (-128 - quantized.zero_point) * quantized.scale
    high = (127 - quantized.zero_point) * quantized.scale
    levels = np.clip(np.rint(exact / quantized.scale) + quantized.zero_point, -128, 127)
    rounded = (levels - quantized.zero_point) * quantized.scale
    return {
        "layer": group[0],
        "kind": type(layer).__name__,
        "sqnr_db": _sqnr(wanted, rounded - wanted),
        "weights_sqnr_db": _sqnr(wanted, exact - wanted),
        "saturated": float(((wanted < low) | (wanted > high)).mean()),
        "levels_used": len(np.unique(levels)),
        "float_low": float(wanted.min()),
        "float_high": float(wanted.max()),
        "low": low,
        "high": high,
    }


def _as_keras(layer: keras.layers.Layer, weights: np.ndarray) -> np.ndarray:
    """Turn the file's order of axes into that of Keras."""
    if isinstance(layer, keras.layers.Dense):
        return weights.T
    return weights.transpose(1, 2, 3, 0)


def _compute(layer, inputs: np.ndarray, weights: np.ndarray, bias: np.ndarray) -> np.ndarray:
    if isinstance(layer, keras.layers.Dense):
        return inputs @ weights + bias
    padding = layer.padding.upper()
    if isinstance(layer, keras.layers.DepthwiseConv2D):
        strides = (1, *layer.strides, 1)
        return tf.nn.depthwise_conv2d(inputs, weights, strides, padding).numpy() + bias
    return tf.nn.conv2d(inputs, weights, layer.strides, padding).numpy() + bias


def _sqnr(signal: np.ndarray, noise: np.ndarray) -> float:
    """Signal to quantisation noise in decibels; 6 dB are one bit.

    The signal is what varies around each channel's mean: a constant, however large, says nothing
    about the image, and would hide how few levels are left for the rest.
    """
    varying = signal - signal.mean(axis=tuple(range(signal.ndim - 1)), keepdims=True)
    power, lost = (np.square(part, dtype=np.float64).sum() for part in (varying, noise))
    if lost == 0:
        return LOSSLESS_DB
    return float(min(10 * np.log10(max(power, FAINTEST) / lost), LOSSLESS_DB))
