"""EfficientNet-Lite0 to Lite4 as one flat graph that quantisation accepts.

No squeeze-and-excite, ReLU6, no preprocessing inside, logits out. Layer names, shapes and
arithmetic are those of efficientnet-lite-keras, so its published weight files load by name.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import tf_keras as keras
from tf_keras import layers

from workbench.settings import STUDENT_SIZES

# Multipliers of width and depth (github.com/tensorflow/tpu, efficientnet/lite).
VARIANTS = {"lite0": (1.0, 1.0), "lite1": (1.0, 1.1), "lite2": (1.1, 1.2), "lite3": (1.2, 1.4)}
VARIANTS |= {"lite4": (1.4, 1.8)}
HEAD = "logits"
HIDDEN = "head_hidden"
DROP_CONNECT = 0.2
MOMENTUM = 0.99
STEM_FILTERS = 32
TOP_FILTERS = 1280


@dataclass(frozen=True)
class Stage:
    """A row of the architecture table: `repeats` inverted residual blocks."""

    kernel: int
    repeats: int
    filters: int
    expansion: int
    stride: int


STAGES = (
    Stage(kernel=3, repeats=1, filters=16, expansion=1, stride=1),
    Stage(kernel=3, repeats=2, filters=24, expansion=6, stride=2),
    Stage(kernel=5, repeats=2, filters=40, expansion=6, stride=2),
    Stage(kernel=3, repeats=3, filters=80, expansion=6, stride=2),
    Stage(kernel=5, repeats=3, filters=112, expansion=6, stride=1),
    Stage(kernel=5, repeats=4, filters=192, expansion=6, stride=2),
    Stage(kernel=3, repeats=1, filters=320, expansion=6, stride=1),
)
BLOCKS = sum(stage.repeats for stage in STAGES)


def build_lite(
    variant: str, num_classes: int | None, *, input_size: int | None = None, dropout: float = 0.0,
    drop_connect: float = DROP_CONNECT, normalization_momentum: float | None = None,
    hidden_units: int = 0,
) -> keras.Model:  # fmt: skip
    """Build a Lite network for inputs in [-1, 1]; `num_classes` None stops at the features."""
    size = input_size or STUDENT_SIZES[variant]
    momentum = MOMENTUM if normalization_momentum is None else normalization_momentum
    width, depth = VARIANTS[variant]
    with restartable_randomness():
        image = keras.Input((size, size, 3), name="input_1")
        x = _Parts(drop_connect, momentum).features(image, scaled_stages(width, depth))
        outputs = x if num_classes is None else head(x, num_classes, dropout, hidden_units)
        return keras.Model(image, outputs, name=f"efficientnet_{variant}")


def head(features, num_classes: int, dropout: float, hidden_units: int = 0):
    """Put a hidden layer, if any, dropout and logits on pooled features [N, D]."""
    if hidden_units:
        hidden = layers.Dense(hidden_units, kernel_initializer="he_normal", name=HIDDEN)
        features = layers.ReLU(max_value=6, name=HIDDEN + "_activation")(hidden(features))
    if dropout > 0:
        features = layers.Dropout(dropout, name="top_dropout")(features)
    # Small, so that every logit starts near 0: the usual fan-out scale was made for 1000 classes
    # and starts a head for seven at a loss of 1.6, which a short training never makes good.
    initializer = keras.initializers.RandomNormal(stddev=0.01)
    # float32 also under mixed precision: the loss wants full logits
    dense = layers.Dense(num_classes, kernel_initializer=initializer, dtype="float32", name=HEAD)
    return dense(features)


def rounded_filters(filters: int, width: float) -> int:
    """Scale a filter count and round it to a multiple of 8, never down by more than 10 %."""
    scaled = filters * width
    rounded = max(8, int(scaled + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * scaled else rounded


def scaled_stages(width: float, depth: float) -> list[Stage]:
    """Scale the table; Lite leaves the depth of its first and last stage alone."""
    return [
        replace(
            stage,
            filters=rounded_filters(stage.filters, width),
            repeats=math.ceil(depth * stage.repeats) if 0 < index < 6 else stage.repeats,
        )
        for index, stage in enumerate(STAGES)
    ]


class _Parts:
    """Layers with what all of one network share: drop-connect and batch norm momentum."""

    def __init__(self, drop_connect: float, momentum: float) -> None:
        self.drop_connect, self.momentum = drop_connect, momentum

    def features(self, image, stages: list[Stage]):
        x = layers.ZeroPadding2D(_padding(image, 3), name="stem_conv_pad")(image)
        x = self._conv(x, STEM_FILTERS, "stem_conv", kernel_size=3, strides=2, padding="valid")
        x = self._activated(x, "stem_bn", "stem_activation")
        index = 0
        for number, stage in enumerate(stages, start=1):
            for repeat in range(stage.repeats):
                name = f"block{number}{chr(ord('a') + repeat)}_"
                # The original divides by the unscaled number of blocks in every variant. The deep
                # ones have more blocks than that; no branch may be dropped always.
                drop_rate = self.drop_connect * min(index / BLOCKS, 1)
                x = self._block(x, replace(stage, stride=1) if repeat else stage, name, drop_rate)
                index += 1
        x = self._conv(x, TOP_FILTERS, "top_conv")
        x = self._activated(x, "top_bn", "top_activation")
        return layers.GlobalAveragePooling2D(name="avg_pool")(x)

    def _block(self, inputs, stage: Stage, name: str, drop_rate: float):
        x, filters_in = inputs, inputs.shape[-1]
        if stage.expansion != 1:
            x = self._conv(x, filters_in * stage.expansion, name + "expand_conv")
            x = self._activated(x, name + "expand_bn", name + "expand_activation")
        x = self._depthwise(x, stage, name)
        x = self._activated(x, name + "bn", name + "activation")
        x = self._conv(x, stage.filters, name + "project_conv")
        x = layers.BatchNormalization(momentum=self.momentum, name=name + "project_bn")(x)
        if stage.stride != 1 or stage.filters != filters_in:
            return x
        if drop_rate > 0:
            x = layers.Dropout(drop_rate, noise_shape=(None, 1, 1, 1), name=name + "drop")(x)
        return layers.Add(name=name + "add")([x, inputs])

    def _depthwise(self, x, stage: Stage, name: str):
        if stage.stride == 2:
            x = layers.ZeroPadding2D(_padding(x, stage.kernel), name=name + "dwconv_pad")(x)
        padding = "valid" if stage.stride == 2 else "same"
        start = {"use_bias": False, "depthwise_initializer": _conv_initializer()}
        name += "dwconv"
        return layers.DepthwiseConv2D(stage.kernel, stage.stride, padding, name=name, **start)(x)

    def _conv(self, x, filters: int, name: str, kernel_size=1, strides=1, padding="same"):
        start = {"use_bias": False, "kernel_initializer": _conv_initializer()}
        return layers.Conv2D(filters, kernel_size, strides, padding, name=name, **start)(x)

    def _activated(self, x, norm_name: str, activation_name: str):
        x = layers.BatchNormalization(momentum=self.momentum, name=norm_name)(x)
        return layers.ReLU(max_value=6, name=activation_name)(x)


def _conv_initializer() -> keras.initializers.Initializer:
    return keras.initializers.VarianceScaling(2.0, mode="fan_out", distribution="truncated_normal")


def _padding(x, kernel: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """Pad as the original does before a stride of 2: an even side gets one pixel less in front."""
    half = kernel // 2
    return tuple((half - (1 - side % 2), half) for side in x.shape[1:3])


# The parts of a network: what lies under the pooled features, and the head on top of them.

POOLINGS = (layers.GlobalAveragePooling2D, layers.GlobalMaxPooling2D, layers.Flatten)
QUANTIZED = "quant_"  # what quantisation puts before the name of a layer it wraps


def backbone_layers(network: keras.Model) -> list[keras.layers.Layer]:
    """List the layers below the pooled features, from the bottom up, in anybody's network."""
    below = network.layers
    ends = [i for i, layer in enumerate(below) if layer.name.removeprefix(QUANTIZED) == "avg_pool"]
    ends += [i for i, layer in enumerate(below) if isinstance(layer, POOLINGS)]
    ends += [i for i, layer in enumerate(below) if layer.weights][-1:]
    found = below[: ends[0]] if ends else []
    return [layer for layer in found if not isinstance(layer, layers.InputLayer)]


def freeze(network: keras.Model, fraction: float | None) -> None:
    """Let the head and the top `fraction` of the backbone learn; None leaves layers as they are.

    A frozen layer's batch norm stays in inference mode: legacy Keras sees to that itself.
    """
    if fraction is None:
        return
    backbone = backbone_layers(network)
    frozen = len(backbone) - round(fraction * len(backbone))
    network.trainable = True
    for index, layer in enumerate(backbone):
        layer.trainable = index >= frozen


def split_at_features(network: keras.Model) -> tuple[keras.Model, list[keras.layers.Layer]] | None:
    """Part a network into its frozen backbone, up to the pooled features, and the head's layers.

    None where layers below the features learn, or those above them are no chain.
    """
    below = backbone_layers(network)
    if not below or any(layer.trainable_weights for layer in below):
        return None
    pooling, *chain = network.layers[network.layers.index(below[-1]) + 1 :]
    try:
        ends = [layer.output for layer in (pooling, *chain)]
        joined = [layer.input is end for layer, end in zip(chain, ends, strict=False)]
    except AttributeError:  # code of somebody's own joins the layers
        return None
    if not isinstance(pooling, POOLINGS) or not chain or not all(joined):
        return None
    return keras.Model(network.inputs, pooling.output), chain


def copied_head(backbone: keras.Model, chain: list[keras.layers.Layer]) -> keras.Model:
    """Build the same head on an input of features, with the weights that it has now."""
    with restartable_randomness():
        features = x = keras.Input(backbone.output_shape[1:], name="features")
        for layer in chain:
            x = type(layer).from_config(layer.get_config())(x)
        head = keras.Model(features, x)
    for own, copied in zip(chain, head.layers[1:], strict=True):
        copied.set_weights(own.get_weights())
    return head


def is_head(layer: keras.layers.Layer) -> bool:
    return layer.name.removeprefix(QUANTIZED) in (HEAD, HIDDEN)


# Dropout that can be restarted: its state is a function of (seed, epoch), not of history.


@contextmanager
def restartable_randomness() -> Iterator[None]:
    """Build layers whose random state can be reset."""
    random = keras.backend.experimental
    before = random.is_tf_random_generator_enabled()
    random.enable_tf_random_generator()
    try:
        yield
    finally:
        if not before:
            random.disable_tf_random_generator()


def reset_randomness(model: keras.Model, seed: int, epoch: int) -> None:
    """Give every dropout layer of `model` the random state of that epoch."""
    for index, generator in enumerate(_generators(model)):
        state = np.random.SeedSequence(seed, spawn_key=(epoch, index)).generate_state(1)[0]
        generator.reset_from_seed(int(state))


def _generators(model: keras.Model) -> list:
    # Keras keeps the generator in private attributes and offers no way to reset it.
    sources = [getattr(layer, "_random_generator", None) for layer in model.submodules]
    generators = [getattr(source, "_generator", None) for source in sources]
    return [generator for generator in generators if generator is not None]
