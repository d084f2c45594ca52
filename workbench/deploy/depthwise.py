"""Fake quantisation of depthwise kernels, one range a channel, as the phone file will have it.

The toolkit takes ranges along the last axis of a kernel. Of [h, w, C, 1] that is one range for all
channels (model-optimization#808), while the converter writes C scales: training then simulates a
file that nobody gets. Nothing else of the toolkit changes.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf
import tf_keras as keras
from tensorflow_model_optimization.python.core.quantization.keras import quantizers
from tensorflow_model_optimization.python.core.quantization.keras.default_8bit import (
    default_8bit_quantize_registry as registries,
)
from tensorflow_model_optimization.python.core.quantization.keras.default_8bit import (
    default_8bit_quantize_scheme as schemes,
)

LARGEST = 127  # -128 stays unused: symmetric, and zero is zero


class ChannelQuantizer(quantizers.Quantizer):
    """Round a kernel [h, w, C, m] to 255 levels a channel that reach its largest weight.

    The converter folds batch norm in first: channel c times gamma / sqrt(variance + epsilon). Range
    and weights of a channel grow by the same factor, so the integers are those of the plain kernel,
    whatever batch norm does. The range is read from the kernel itself and never out of date.
    """

    def build(self, tensor_shape, name: str, layer: keras.layers.Layer) -> dict[str, tf.Variable]:
        return {}

    def __call__(self, inputs: tf.Tensor, training: Any, weights: Any, **kwargs: Any) -> tf.Tensor:
        scale = tf.reduce_max(tf.abs(inputs), axis=(0, 1), keepdims=True) / LARGEST
        rounded = tf.round(tf.math.divide_no_nan(inputs, scale)) * scale
        return inputs + tf.stop_gradient(rounded - inputs)  # gradients pass as if nothing happened

    def get_config(self) -> dict[str, Any]:
        return {}


class Registry(registries.Default8BitQuantizeRegistry):
    """The toolkit's ways of quantising a layer, with ours for depthwise convolutions."""

    def get_quantize_config(self, layer: keras.layers.Layer) -> Any:
        if type(layer) is not keras.layers.DepthwiseConv2D:
            return super().get_quantize_config(layer)
        config = registries.Default8BitConvQuantizeConfig(
            ["depthwise_kernel"], ["activation"], False
        )
        config.weight_quantizer = ChannelQuantizer()
        return config


class Scheme(schemes.Default8BitQuantizeScheme):
    """What `quantize_apply` takes."""

    def get_quantize_registry(self) -> Registry:
        return Registry()
