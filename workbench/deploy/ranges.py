"""The ranges that fake quantisation rounds to: where they start, and what the last one covers.

The toolkit starts every activation at ±6 and moves it by a thousandth a step, so a short training
would end with half of the 256 levels unused. Ranges measured on the float student start where a
long training would end.
"""

from __future__ import annotations

from collections.abc import Sequence

import workbench  # noqa: F401  (selects legacy Keras before TensorFlow loads)

# isort: split
import numpy as np
import tensorflow as tf
import tf_keras as keras
from tensorflow_model_optimization.python.core.quantization.keras.quantize_layer import (
    QuantizeLayer,
)

from workbench.deploy.convert import keras_logits, network_input

BATCH = 16  # images whose extremes are averaged, like a training batch
INPUT_RANGE = (-127 / 128, 1.0)  # the bytes 0 and 255 after (x - 127) / 128
ZERO_WIDTH = 1e-3  # a range narrower than this would make a scale of zero


def seed(student: keras.Model, quantized: keras.Model, images: Sequence[np.ndarray]) -> None:
    """Set the ranges of input, kernels and, where there are images, of every activation."""
    for layer in quantized.layers:
        if isinstance(layer, QuantizeLayer):
            layer.quantizer_vars["min_var"].assign(INPUT_RANGE[0])
            layer.quantizer_vars["max_var"].assign(INPUT_RANGE[1])
    _seed_weights(quantized)
    if images:
        _seed_activations(student, quantized, images)


def cover_logits(quantized: keras.Model, twin: keras.Model, images: Sequence[np.ndarray]) -> None:
    """Let the output levels cover every logit that the float twin gives on `images`.

    Training follows the mean extremes of a batch, so the surest images of all would share the last
    level, and nothing could rank them any more.
    """
    if not images:
        return
    logits = keras_logits(twin, images)
    for minimum, maximum in range_variables(quantized.layers[-1]):
        minimum.assign(min(float(logits.min()), 0.0))
        maximum.assign(max(float(logits.max()), ZERO_WIDTH))


def _seed_weights(quantized: keras.Model) -> None:
    """Measure the range of every quantised kernel; the toolkit does so in a training step only."""
    for layer in quantized.layers:
        for weight, quantizer, ranges in getattr(layer, "_weight_vars", ()):
            quantizer(weight, True, weights=ranges)


def _seed_activations(
    student: keras.Model, quantized: keras.Model, images: Sequence[np.ndarray]
) -> None:
    """Set every activation range to the mean of the batches' ranges, the toolkit's own estimate."""
    wrapped = {layer.layer.name: layer for layer in quantized.layers if hasattr(layer, "layer")}
    variables = {name: range_variables(layer) for name, layer in wrapped.items()}
    names = [name for name, pairs in variables.items() if pairs]
    for name, (low, high) in zip(names, _measure_ranges(student, names, images), strict=True):
        for minimum, maximum in variables[name]:
            minimum.assign(low)
            maximum.assign(high)


def range_variables(layer: keras.layers.Layer) -> list[tuple[tf.Variable, tf.Variable]]:
    """Return the (min, max) variables of a wrapper's output, those of its kernel excepted."""
    named = {short_name(weight): weight for weight in layer.weights}
    kinds = ("output", "pre_activation", "post_activation")
    return [
        (named[f"{kind}_min"], named[f"{kind}_max"]) for kind in kinds if f"{kind}_min" in named
    ]


def _measure_ranges(
    student: keras.Model, names: Sequence[str], images: Sequence[np.ndarray]
) -> np.ndarray:
    """Return [len(names), 2]: the mean over batches of each layer's smallest and largest output."""
    probe = keras.Model(student.input, [student.get_layer(name).output for name in names])

    @tf.function
    def ranges(batch: tf.Tensor) -> tf.Tensor:
        outputs = tf.nest.flatten(probe(batch, training=False))
        return tf.stack([(tf.reduce_min(out), tf.reduce_max(out)) for out in outputs])

    batches = [
        ranges(tf.constant(network_input(np.stack(images[start : start + BATCH]))))
        for start in range(0, len(images), BATCH)
    ]
    low, high = np.mean(batches, axis=0).T
    # Zero must be representable, and an activation that never fires still needs a width.
    return np.stack([np.minimum(low, 0), np.maximum(high, ZERO_WIDTH)], axis=1)


def short_name(weight: tf.Variable) -> str:
    """Return `kernel` of `quant_stem_conv/stem_conv/kernel:0`."""
    return weight.name.split("/")[-1].split(":")[0]
