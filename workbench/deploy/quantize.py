"""Put a student under fake quantisation, ready to train, and take it out again.

The float student is never changed: `fake_quantize` copies it. A fake-quantised network cannot be
saved whole, so it is saved as weights and rebuilt: same student, same skipped layers, `restore`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_model_optimization as tfmot
import tf_keras as keras
from tensorflow_model_optimization.python.core.quantization.keras.quantize_layer import (
    QuantizeLayer,
)

from workbench.artifacts import QuantizationLadder
from workbench.data.tables import Dataset
from workbench.data.views import letterboxed
from workbench.deploy.convert import first_line, keras_logits, network_input
from workbench.deploy.coverage import covering_rows
from workbench.deploy.depthwise import Registry, Scheme
from workbench.deploy.layers import QUANT_PREFIX, fused_groups
from workbench.errors import StepError
from workbench.nets.lite import restartable_randomness
from workbench.nets.weights import load_weights_into, read_arrays
from workbench.settings import Settings

toolkit = tfmot.quantization.keras

BATCH = 16  # images whose extremes are averaged, like a training batch
INPUT_RANGE = (-127 / 128, 1.0)  # the bytes 0 and 255 after (x - 127) / 128
ZERO_WIDTH = 1e-3  # a range narrower than this would make a scale of zero


def calibration_images(dataset: Dataset, settings: Settings) -> list[np.ndarray]:
    """Letterbox the training images that calibrate the ranges: uint8 [S, S, 3] each."""
    train = dataset.split("train")
    size = settings.tflite_export.representative_dataset_size
    rows = covering_rows(train, size, settings.seed)
    return list(letterboxed(train, settings.student_size, settings, indices=rows))


def fake_quantize(
    student: keras.Model,
    images: Sequence[np.ndarray] | None = None,
    *,
    skip_layers: Iterable[str] = (),
) -> keras.Model:
    """Return a copy of the student under fake quantisation, its ranges measured on `images`.

    Layers named in `skip_layers` train in float, together with the batch norm and activation that
    the converter fuses into them, and are quantised afterwards.
    """
    refused = set(unsupported_layers(student)) - set(skip_layers)
    if refused:
        raise StepError(
            f"QAT does not support {', '.join(sorted(refused))}. Leave them out with "
            "qat.skip_layers, or start at PTQ with qat.enabled: false."
        )
    # The toolkit numbers its input layer by a global counter, and that name ends up in the file.
    keras.backend.reset_uids()
    annotated = _annotated(student, _whole_groups(student, skip_layers))
    try:
        with toolkit.quantize_scope(), restartable_randomness():
            quantized = toolkit.quantize_apply(annotated, Scheme())
    except (ValueError, RuntimeError) as error:
        raise StepError(f"quantize_model refused the student: {first_line(error)}") from error
    _set_input_range(quantized)
    _measure_weights(quantized)
    if images:
        _measure_activations(student, quantized, images)
    return quantized


def unsupported_layers(student: keras.Model) -> list[str]:
    """Name the layers that the toolkit cannot put under fake quantisation.

    It knows batch norm only behind the convolution that it is fused with.
    """
    registry = Registry()
    fused = {name for group in fused_groups(student) for name in group}
    return [
        layer.name
        for layer in student.layers
        if not isinstance(layer, keras.layers.InputLayer)
        and not registry.supports(layer)
        and not (isinstance(layer, keras.layers.BatchNormalization) and layer.name in fused)
    ]


def skipped_layers(student: keras.Model, quantized: keras.Model) -> list[str]:
    """Name what `quantized` computes in float: of a fused group its first layer."""
    followers = {name for group in fused_groups(student) for name in group[1:]}
    wrapped = {layer.name for layer in quantized.layers}
    return [
        layer.name
        for layer in student.layers
        if layer.name not in followers
        and QUANT_PREFIX + layer.name not in wrapped
        and not isinstance(layer, keras.layers.InputLayer)
    ]


def float_twin(student: keras.Model, quantized: keras.Model) -> keras.Model:
    """Return the student's network in float with the weights that QAT ended with."""
    with restartable_randomness():
        twin = keras.models.clone_model(student)
    trained = {
        f"{layer.name}/{_short_name(weight)}": weight
        for layer in quantized.layers
        for weight in layer.weights
    }
    return _filled(twin, trained)


def shipped_weights(folder: Path, student: keras.Model, ladder: QuantizationLadder) -> keras.Model:
    """Return the float network with the very weights of the phone file: the student's own, or those
    that QAT ended with. Nothing is fake-quantised for that.
    """
    if not ladder.ships_qat:
        return student
    with restartable_randomness():
        twin = keras.models.clone_model(student)
    return _filled(twin, read_arrays(Path(folder) / ladder.qat_weights))


def _filled(twin: keras.Model, trained: Mapping[str, Any]) -> keras.Model:
    """Assign weights by `layer/weight`; a layer under fake quantisation has a prefix."""
    plain = {name.removeprefix(QUANT_PREFIX): values for name, values in trained.items()}
    for layer in twin.layers:
        for weight in layer.weights:
            weight.assign(plain[f"{layer.name}/{_short_name(weight)}"])
    return twin


def cover_logits(
    student: keras.Model, quantized: keras.Model, images: Sequence[np.ndarray]
) -> None:
    """Let the output levels cover every logit that the float twin gives on `images`.

    Training follows the mean extremes of a batch, so the surest images of all would share the last
    level, and nothing could rank them any more.
    """
    if not images:
        return
    logits = keras_logits(float_twin(student, quantized), images)
    for minimum, maximum in range_variables(quantized.layers[-1]):
        minimum.assign(min(float(logits.min()), 0.0))
        maximum.assign(max(float(logits.max()), ZERO_WIDTH))


def restore(student: keras.Model, weights: Path, *, skip_layers: Iterable[str] = ()) -> keras.Model:
    """Rebuild the network whose weights QAT saved; only the student's shape matters."""
    quantized = fake_quantize(student, skip_layers=skip_layers)
    load_weights_into(quantized, weights, backbone_only=False)
    return quantized


def load_quantized(
    folder: Path, student: keras.Model, ladder: QuantizationLadder
) -> keras.Model | None:
    """Rebuild the network of a QAT that ships; None where another rung does."""
    if not ladder.ships_qat:
        return None
    return restore(student, Path(folder) / ladder.qat_weights, skip_layers=ladder.skipped_layers)


def range_variables(layer: keras.layers.Layer) -> list[tuple[tf.Variable, tf.Variable]]:
    """Return the (min, max) variables of a wrapper's output, those of its kernel excepted."""
    named = {_short_name(weight): weight for weight in layer.weights}
    kinds = ("output", "pre_activation", "post_activation")
    return [
        (named[f"{kind}_min"], named[f"{kind}_max"]) for kind in kinds if f"{kind}_min" in named
    ]


def _short_name(weight: tf.Variable) -> str:
    """Return `kernel` of `quant_stem_conv/stem_conv/kernel:0`."""
    return weight.name.split("/")[-1].split(":")[0]


def _whole_groups(student: keras.Model, names: Iterable[str]) -> frozenset[str]:
    """Widen layer names to the groups that the converter fuses; refuse names that do not exist."""
    groups = fused_groups(student)
    widened: set[str] = set()
    for name in names:
        group = next((group for group in groups if name in group), None)
        if group is None and any(layer.name == name for layer in student.layers):
            group = (name,)
        if group is None:
            known = ", ".join(group[0] for group in groups[:5])
            raise StepError(
                f'qat.skip_layers: the student has no layer "{name}". Its layers are {known}, …'
            )
        widened.update(group)
    return frozenset(widened)


def _annotated(student: keras.Model, left_out: frozenset[str]) -> keras.Model:
    """Copy the student and mark what is to be quantised; marking would tie it to the original."""
    with restartable_randomness():
        copy = keras.models.clone_model(student)
    copy.set_weights(student.get_weights())

    def annotate(layer: keras.layers.Layer) -> keras.layers.Layer:
        if layer.name in left_out or isinstance(layer, keras.layers.InputLayer):
            return layer
        return toolkit.quantize_annotate_layer(layer)

    return keras.models.clone_model(copy, clone_function=annotate)


def _set_input_range(quantized: keras.Model) -> None:
    for layer in quantized.layers:
        if isinstance(layer, QuantizeLayer):
            layer.quantizer_vars["min_var"].assign(INPUT_RANGE[0])
            layer.quantizer_vars["max_var"].assign(INPUT_RANGE[1])


def _measure_weights(quantized: keras.Model) -> None:
    """Measure the range of every quantised kernel; the toolkit does so in a training step only."""
    for layer in quantized.layers:
        for weight, quantizer, ranges in getattr(layer, "_weight_vars", ()):
            quantizer(weight, True, weights=ranges)


def _measure_activations(
    student: keras.Model, quantized: keras.Model, images: Sequence[np.ndarray]
) -> None:
    """Set every activation range to the mean of the batches' ranges, the toolkit's own estimate."""
    wrapped = {layer.layer.name: layer for layer in quantized.layers if hasattr(layer, "layer")}
    variables = {name: range_variables(layer) for name, layer in wrapped.items()}
    names = [name for name, pairs in variables.items() if pairs]
    for name, (low, high) in zip(names, _output_ranges(student, names, images), strict=True):
        for minimum, maximum in variables[name]:
            minimum.assign(low)
            maximum.assign(high)


def _output_ranges(
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
