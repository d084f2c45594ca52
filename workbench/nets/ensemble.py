"""Finished networks as one: it takes one image and answers the mean of their probabilities.

One flat graph of Keras layers, so that it is saved, rebuilt, distilled and exported like any other
network. A member that sees fewer pixels gets the common image resized, one of another scaling gets
it rescaled. Trains nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf
import tf_keras as keras
from tf_keras import layers

from workbench.data.views import View
from workbench.nets.devices import choose_strategy, prepare_devices
from workbench.nets.lite import restartable_randomness
from workbench.settings import Settings

CHANNELS = 3
REVERSAL = (Ellipsis, {"start": None, "stop": None, "step": -1})  # as Keras writes [..., ::-1]


class MeanProbability(layers.Layer):
    """Logits of the mean of probabilities, from a list of logits [N, C]; exact where they are far.

    For several labels the mean is that of each yes, for one label that of each class.
    """

    def __init__(self, single_label: bool = False, **known: Any) -> None:
        super().__init__(**known)
        self.single_label = single_label

    def call(self, logits: Sequence[tf.Tensor]) -> tf.Tensor:
        if self.single_label:
            return _log_mean([one - _log_sum(one, -1, keepdims=True) for one in logits])
        yes, no = ([_log_sigmoid(sign * one) for one in logits] for sign in (1, -1))
        return _log_mean(yes) - _log_mean(no)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "single_label": self.single_label}


# Of operations that every runtime has: TensorFlow's own reductions have no form on a phone.


def _log_sigmoid(logits: tf.Tensor) -> tf.Tensor:
    return tf.minimum(logits, 0.0) - tf.math.log(1.0 + tf.exp(-tf.abs(logits)))


def _log_mean(values: Sequence[tf.Tensor]) -> tf.Tensor:
    return _log_sum(tf.stack(values), 0) - tf.math.log(float(len(values)))


def _log_sum(values: tf.Tensor, axis: int, keepdims: bool = False) -> tf.Tensor:
    highest = tf.reduce_max(values, axis=axis, keepdims=True)
    total = tf.reduce_sum(tf.exp(values - highest), axis=axis, keepdims=True)
    found = highest + tf.math.log(total)
    return found if keepdims else tf.squeeze(found, axis)


def join_networks(
    networks: Sequence[keras.Model], views: Sequence[View], settings: Settings
) -> keras.Model:
    """Join networks, and the view that each was trained with, into one with the teacher's view."""
    prepare_devices(settings)
    image = keras.Input((settings.teacher_size, settings.teacher_size, 3), name="image")
    prefixes = [f"member{place}_" for place in range(1, len(networks) + 1)]
    starts = [_seen(image, *one) for one in zip(views, prefixes, strict=True)]
    config = keras.Model(image, starts).get_config() | {"name": "members", "output_layers": []}
    for network, start, prefix in zip(networks, starts, prefixes, strict=True):
        inner = _renamed(network, start.node.layer.name, prefix)
        config["layers"] += inner["layers"]
        config["output_layers"] += inner["output_layers"]
    with choose_strategy(settings).scope(), restartable_randomness():
        members = keras.Model.from_config(config)
        # float32 also under mixed precision: tails of probabilities are small numbers
        mean = MeanProbability(settings.task == "single_label", dtype="float32", name="mean")
        joined = keras.Model(members.inputs, mean(members.outputs), name="ensemble")
    for network, prefix in zip(networks, prefixes, strict=True):
        for layer in network.layers:
            if weights := _weights(layer):
                joined.get_layer(prefix + layer.name).set_weights(weights)
    return joined


def parts_of(network: keras.Model) -> list[keras.Model]:
    """Take an ensemble apart into its members, on the common image; any other network is whole."""
    last = network.layers[-1]
    if not isinstance(last, MeanProbability):
        return [network]
    return [keras.Model(network.inputs, answer) for answer in last.input]


def _seen(image: tf.Tensor, view: View, prefix: str) -> tf.Tensor:
    """Turn the common image, float [0, 255], into what a member was trained with."""
    scale = 1 / 128 if view.normalization == "lite" else 1.0
    offset = -127 / 128 if view.normalization == "lite" else 0.0
    if view.size != image.shape[1]:
        image = layers.Resizing(view.size, view.size, name=f"{prefix}resized")(image)
    return layers.Rescaling(scale, offset=offset, name=f"{prefix}scaled")(image)


def _renamed(network: keras.Model, start: str, prefix: str) -> dict[str, Any]:
    """Describe a network with other layer names, on what the layer `start` gives as its image."""
    config = keras.Model(network.inputs, network.outputs).get_config()
    names = {layer["name"]: prefix + layer["name"] for layer in config["layers"]}
    names |= {name: start for name, _node, _tensor in config["input_layers"]}
    described = []
    for layer in config["layers"]:
        if layer["class_name"] != "InputLayer":
            layer = _as_data(layer, network.get_layer(layer["name"]))
            own = {"name": names[layer["name"]]}
            inner = {"config": layer["config"] | own, **own}
            nodes = {"inbound_nodes": _replaced(layer["inbound_nodes"], names)}
            described.append({**layer, **inner, **nodes})
    return {"layers": described, "output_layers": _replaced(config["output_layers"], names)}


def _replaced(value: Any, names: dict[str, str]) -> Any:
    """Put other names into what says how layers are joined."""
    if isinstance(value, dict):
        return {key: _replaced(item, names) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_replaced(item, names) for item in value)
    return names.get(value, value) if isinstance(value, str) else value


# Two layers that Keras describes in part only: the rest would be lost on the way through a file.


def _as_data(described: dict[str, Any], layer: layers.Layer) -> dict[str, Any]:
    """Describe all that a layer computes: its statistics, and a reversal as a fixed convolution."""
    if isinstance(layer, layers.Normalization) and layer.weights:
        mean, variance, _count = (value.tolist() for value in layer.get_weights())
        return {**described, "config": described["config"] | {"mean": mean, "variance": variance}}
    if not _reverses(layer):
        return described
    ((source, node, tensor, _slices),) = described["inbound_nodes"]
    fixed = layers.Conv2D(CHANNELS, 1, use_bias=False, trainable=False, name=layer.name)
    return {
        "module": "keras.layers", "class_name": "Conv2D", "config": fixed.get_config(),
        "registered_name": None, "name": layer.name,
        "inbound_nodes": [[[source, node, tensor, {}]]],
    }  # fmt: skip


def _reverses(layer: layers.Layer) -> bool:
    """Does it turn RGB into BGR, as the published ResNets want it?"""
    slices = type(layer).__name__ == "SlicingOpLambda"
    return slices and layer.inbound_nodes[0].call_args[1:] == (REVERSAL,)


def _weights(layer: layers.Layer) -> list[np.ndarray]:
    """Return what the copy of a layer holds."""
    if isinstance(layer, layers.Normalization):
        return []
    if _reverses(layer):
        return [np.eye(CHANNELS, dtype=np.float32)[None, None, ::-1]]
    return layer.get_weights()
