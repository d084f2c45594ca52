"""Which Keras layers the converter fuses, and what quantisation costs each of them."""

from __future__ import annotations

import workbench  # noqa: F401  (selects legacy Keras before TensorFlow loads)

# isort: split
import tf_keras as keras

WEIGHTED = (keras.layers.Conv2D, keras.layers.DepthwiseConv2D, keras.layers.Dense)
FUSED = (keras.layers.BatchNormalization, keras.layers.ReLU, keras.layers.Activation)


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
