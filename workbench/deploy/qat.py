"""Quantization-aware training: wrap the student in fake quantisation, train it, restore it.

The float student is never changed: `quantize` copies it. A QAT network cannot be saved whole, so
it is saved as weights and rebuilt: same student, same skipped layers, then `restore`.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf
import tensorflow_model_optimization as tfmot
import tf_keras as keras
from tensorflow_model_optimization.python.core.quantization.keras.default_8bit import (
    default_8bit_quantize_registry as registries,
)
from tensorflow_model_optimization.python.core.quantization.keras.quantize_layer import (
    QuantizeLayer,
)

from workbench.data.tables import Dataset
from workbench.deploy.convert import first_line, keras_logits, network_input
from workbench.deploy.layers import QUANT_PREFIX, fused_groups
from workbench.errors import StepError
from workbench.nets.lite import restartable_randomness
from workbench.nets.teacher import student_view, teacher_view
from workbench.nets.weights import load_weights_into
from workbench.settings import Settings
from workbench.train.devices import precision, seed_everything
from workbench.train.feeds import feed_from
from workbench.train.fingerprints import training_fingerprint, weights_hash
from workbench.train.loop import Fitted, Phase, fit_phase
from workbench.train.phases import loss_of
from workbench.train.student import student_objective

# The ranges that fake quantisation rounds to: where they start, and what the last one covers.

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


log = logging.getLogger(__name__)
toolkit = tfmot.quantization.keras

PHASE = "student_qat"  # names its checkpoints and logs


def quantize(
    student: keras.Model,
    images: Sequence[np.ndarray] | None = None,
    *,
    skip_layers: Iterable[str] = (),
) -> keras.Model:
    """Return a copy of the student under fake quantisation, its ranges seeded from `images`.

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
            quantized = toolkit.quantize_apply(annotated)
    except (ValueError, RuntimeError) as error:
        raise StepError(f"quantize_model refused the student: {first_line(error)}") from error
    seed(student, quantized, images or ())
    return quantized


def unsupported_layers(student: keras.Model) -> list[str]:
    """Name the layers that the toolkit cannot put under fake quantisation.

    It knows batch norm only behind the convolution that it is fused with.
    """
    registry = registries.Default8BitQuantizeRegistry()
    fused = {name for group in fused_groups(student) for name in group}
    return [
        layer.name
        for layer in student.layers
        if not isinstance(layer, keras.layers.InputLayer)
        and not registry.supports(layer)
        and not (isinstance(layer, keras.layers.BatchNormalization) and layer.name in fused)
    ]


def float_twin(student: keras.Model, quantized: keras.Model) -> keras.Model:
    """Return the student's network in float with the weights that QAT ended with."""
    with restartable_randomness():
        twin = keras.models.clone_model(student)
    trained = {
        f"{layer.name.removeprefix(QUANT_PREFIX)}/{short_name(weight)}": weight
        for layer in quantized.layers
        for weight in layer.weights
    }
    for layer in twin.layers:
        for weight in layer.weights:
            weight.assign(trained[f"{layer.name}/{short_name(weight)}"])
    return twin


def train(
    settings: Settings,
    dataset: Dataset,
    quantized: keras.Model,
    teacher: keras.Model | None,
    folder: Path,
    *,
    name: str = PHASE,
    report: logging.Logger = log,
) -> Fitted:
    """Train under fake quantisation with the student's own loop, or go on where it stopped.

    One device and float32: the toolkit supports neither several replicas nor mixed precision. The
    weights are not averaged either, an average of ranges is no range.
    """
    settings = _plain(settings)
    teacher = teacher if settings.qat.distill and settings.distillation.enabled else None
    own = student_view(settings)
    loss = loss_of(settings, dataset)
    with precision(settings):
        seed_everything(settings)
        return fit_phase(
            quantized,
            _phase(settings, name),
            student_objective(settings, loss, teacher, len(dataset.classes)),
            feed_from(
                dataset,
                (teacher_view(settings), own) if teacher else (own,),
                settings.qat.batch_size or settings.student.batch_size,
                settings,
            ),
            settings,
            folder,
            fingerprint=_fingerprint(settings, dataset, quantized, teacher),
            report=report,
        )


def _plain(settings: Settings) -> Settings:
    training = settings.training.model_copy(update={"ema_decay": 0.0})
    return settings.model_copy(update={"training": training, "precision": "float32"})


def _phase(settings: Settings, name: str) -> Phase:
    student, qat = settings.student, settings.qat
    return Phase(
        name=name,
        epochs=qat.epochs,
        learning_rate=qat.lr,
        weight_decay=student.weight_decay,
        early_stopping_patience=qat.early_stopping_patience,
        reduce_lr_patience=student.reduce_lr_patience,
        reduce_lr_factor=student.reduce_lr_factor,
        first_epoch=student.epochs_head + student.epochs_finetune,
    )


def _fingerprint(settings, dataset, quantized, teacher) -> str:
    """What the checkpoints belong to: settings, data, and the weights QAT starts from."""
    networks = [network for network in (quantized, teacher) if network is not None]
    marks = [settings.qat.model_dump_json(), *map(weights_hash, networks)]
    return training_fingerprint(settings, dataset, "student", extra="".join(marks))


def restore(student: keras.Model, weights: Path, *, skip_layers: Iterable[str] = ()) -> keras.Model:
    """Rebuild the QAT network whose weights were saved; only the student's shape matters."""
    quantized = quantize(student, skip_layers=skip_layers)
    load_weights_into(quantized, weights, backbone_only=False)
    return quantized


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
