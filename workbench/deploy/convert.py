"""Turn a Keras network into TFLite bytes. Every conversion is quiet and repeatable.

Full-integer files take image bytes and give INT8 logits. Float files (float16, dynamic range)
are the extras of an export.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import tensorflow as tf
import tf_keras as keras
from tensorflow.lite.python.convert_phase import ConverterError

from workbench.deploy.flatbuffer import with_integer_ports
from workbench.deploy.tflite import quiet, run_tflite
from workbench.errors import StepError
from workbench.nets.network import inference
from workbench.settings import TfliteExportSettings

# `ConverterError` and `OpError` descend from Exception directly.
REFUSALS = (ConverterError, tf.errors.OpError, ValueError, RuntimeError, TypeError)
USUAL_LOGITS = (-10.0, 10.0)  # beyond lie probabilities of 1 in 22 000


def network_input(images: np.ndarray, normalization: str = "lite") -> np.ndarray:
    """Map bytes to what a network takes, float32: `lite` is (x - 127) / 128, `none` is x."""
    pixels = np.asarray(images, dtype=np.float32)
    return (pixels - 127.0) / 128.0 if normalization == "lite" else pixels


def convert_full_integer(
    model: keras.Model,
    images: Sequence[np.ndarray],
    export: TfliteExportSettings,
    *,
    normalization: str = "lite",
) -> bytes:
    """Convert a float network to INT8, calibrated on letterboxed uint8 images [S, S, 3]."""
    converter = _optimised(_converter(model, images, normalization))
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    return _run(_with_ports(converter, export).convert)


def convert_quantized(
    model: keras.Model, export: TfliteExportSettings, images: Sequence[np.ndarray] | None = None
) -> bytes:
    """Convert a QAT network, which brings its ranges along.

    Layers that QAT was told to skip bring none: `images` calibrate them, as in PTQ.
    """
    if images is not None and any(map(_is_float, model.layers)):
        return convert_full_integer(model, images, export)
    return _run(_with_ports(_optimised(_converter(model)), export).convert)


def _is_float(layer: keras.layers.Layer) -> bool:
    """Tell a layer that QAT left alone; the toolkit's own carry their way of quantising."""
    own = isinstance(layer, keras.layers.InputLayer) or type(layer).__name__ == "QuantizeLayer"
    return not own and not hasattr(layer, "quantize_config")


def _optimised(converter: tf.lite.TFLiteConverter) -> tf.lite.TFLiteConverter:
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    return converter


def _with_ports(
    converter: tf.lite.TFLiteConverter, export: TfliteExportSettings
) -> tf.lite.TFLiteConverter:
    converter.inference_input_type = getattr(tf, export.input_type)
    converter.inference_output_type = getattr(tf, export.output_type)
    return converter


def convert_float_head(
    model: keras.Model, images: Sequence[np.ndarray], export: TfliteExportSettings
) -> bytes:
    """Convert with an INT8 backbone and a float head; the ports stay integers."""
    converter = _optimised(_converter(model, images))
    converter.target_spec.supported_ops = [
        tf.lite.OpsSet.TFLITE_BUILTINS_INT8,
        tf.lite.OpsSet.TFLITE_BUILTINS,
    ]
    options = tf.lite.experimental.QuantizationDebugOptions(denylisted_ops=["FULLY_CONNECTED"])

    def convert() -> bytes:
        debugger = tf.lite.experimental.QuantizationDebugger(
            converter=converter,
            debug_dataset=converter.representative_dataset,
            debug_options=options,
        )
        return debugger.get_nondebug_quantized_model()

    return _integer_ports(_run(convert), images, export)


def convert_float16(
    model: keras.Model,
    images: Sequence[np.ndarray] | None = None,
    export: TfliteExportSettings | None = None,
) -> bytes:
    """Convert with weights in half precision.

    Given images the ports are those of the INT8 file, otherwise float32.
    """
    converter = _optimised(_converter(model))
    converter.target_spec.supported_types = [tf.float16]
    converted = _run(converter.convert)
    return converted if images is None else _integer_ports(converted, images, export)


def convert_float32(model: keras.Model) -> bytes:
    """Convert without any quantisation: what INT8 is measured against."""
    return _run(_converter(model).convert)


def convert_dynamic_range(model: keras.Model) -> bytes:
    """Convert with INT8 weights and float activations; input and output are float32."""
    return _run(_optimised(_converter(model)).convert)


def _integer_ports(
    model: bytes, images: Sequence[np.ndarray], export: TfliteExportSettings
) -> bytes:
    """Put integer ports on a float file; no image at all leaves the usual range of logits."""
    logits = run_tflite(model, images)
    covered = (logits.min(), logits.max()) if len(logits) else USUAL_LOGITS
    return with_integer_ports(model, export.input_type, covered)


def _converter(
    model: keras.Model, images: Sequence[np.ndarray] | None = None, normalization: str = "lite"
) -> tf.lite.TFLiteConverter:
    """Convert from the traced computation, with a batch of one.

    `from_keras_model` writes and reads a SavedModel first, which traces every layer by itself: 40 s
    for a QAT Lite1 where this takes 2 s, and the same integers come out.
    """
    signature = [tf.TensorSpec((1, *model.input_shape[1:]), tf.float32, name="image")]
    compute = tf.function(lambda image: model(image, training=False), input_signature=signature)
    with quiet():
        traced = compute.get_concrete_function()
        converter = tf.lite.TFLiteConverter.from_concrete_functions([traced])
    if images is not None:
        if not len(images):
            raise StepError("no image to calibrate on. Give tflite_export at least one image.")
        converter.representative_dataset = lambda: _calibration_inputs(images, normalization)
    return converter


def _calibration_inputs(
    images: Sequence[np.ndarray], normalization: str
) -> Iterator[list[np.ndarray]]:
    """Yield network inputs; two corner pixels pin the input range to exactly the bytes 0…255.

    With that range the input scale is 1/128 and the zero point 127, so the app feeds the bytes of
    the image as they are.
    """
    for image in images:
        pinned = np.array(image, dtype=np.uint8)
        pinned[0, 0], pinned[-1, -1] = 0, 255
        yield [network_input(pinned, normalization)[None]]


def _run(convert: Callable[[], bytes]) -> bytes:
    with quiet():
        try:
            return bytes(convert())
        except REFUSALS as error:
            raise StepError(
                f"the TFLite converter refused the network: {first_line(error)}"
            ) from error


def first_line(error: Exception) -> str:
    """Say what went wrong in one line; compilers put it behind the place in somebody's code."""
    text = str(error).strip() or type(error).__name__
    named = re.search(r"\berror: (.+)", text)
    return (named[1] if named else text.splitlines()[0])[:300]


def keras_logits(
    model: keras.Model,
    images: Sequence[np.ndarray],
    *,
    normalization: str = "lite",
    batch: int = 32,
) -> np.ndarray:
    """Return float32 logits [N, C] of a Keras network for letterboxed uint8 images."""
    compute = inference(model)
    outputs = [
        compute(tf.constant(network_input(np.stack(images[start : start + batch]), normalization)))
        for start in range(0, len(images), batch)
    ]
    return np.concatenate([output.numpy() for output in outputs])
