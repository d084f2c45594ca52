"""The parts of a network: what lies under the pooled features, and the head on top of them."""

from __future__ import annotations

import workbench  # noqa: F401

# isort: split
import tf_keras as keras

from workbench.nets.lite import HEAD

QUANTIZED = "quant_"  # what quantisation puts before the name of a layer it wraps


def backbone_layers(network: keras.Model) -> list[keras.layers.Layer]:
    """List the layers between the image and the pooled features, from the bottom up."""
    names = [layer.name for layer in network.layers]
    end = next(i for i, name in enumerate(names) if name.removeprefix(QUANTIZED) == "avg_pool")
    return [layer for layer in network.layers[:end] if not _is_input(layer)]


def is_head(layer: keras.layers.Layer) -> bool:
    return layer.name.removeprefix(QUANTIZED) == HEAD


def _is_input(layer: keras.layers.Layer) -> bool:
    return isinstance(layer, keras.layers.InputLayer)
