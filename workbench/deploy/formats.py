"""The other formats of a finished network: float16, dynamic range, INT8, ONNX and TorchScript.

For the student and for any teacher. Every file is opened again by its own runtime and compared
with Keras on real images before it counts as written.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import workbench  # noqa: F401  (selects legacy Keras before TensorFlow loads)

# isort: split
import numpy as np
import tensorflow as tf
import tf_keras as keras

from workbench.deploy import convert, tflite
from workbench.deploy.quiet import quiet
from workbench.errors import InputError, StepError
from workbench.files import write_bytes
from workbench.settings import TfliteExportSettings

log = logging.getLogger(__name__)

SUFFIXES = {
    "float16": "_float16.tflite",
    "dynamic_range": "_dynamic_range.tflite",
    "int8": "_int8.tflite",
    "onnx": ".onnx",
    "torchscript": ".pt",
}
ONNX_OPSET = 17
COUNTED = re.compile(r"__\d+(?=_|:|$)")  # a number of the converter, somewhere in a name
ONNX_TOLERANCE = 1e-4  # of the largest logit, and of 1 where that is smaller
FRAGILE_ACTIVATIONS = ("swish", "silu")


@dataclass(frozen=True)
class Exported:
    """A written file, and how far its logits lie from those of Keras."""

    format: str
    file: str
    bytes: int
    sha256: str
    largest_difference: float


@dataclass(frozen=True)
class Sample:
    """Images to calibrate on and to compare with: letterboxed uint8 [S, S, 3]."""

    images: Sequence[np.ndarray]
    normalization: str  # lite | none, as the network's view says


def export_formats(
    network: keras.Model,
    formats: Sequence[str],
    folder: Path,
    name: str,
    sample: Sample,
    export: TfliteExportSettings,
    *,
    force: bool = False,
) -> list[Exported]:
    """Write `name` in every format asked for; `force` allows INT8 of a network made for floats."""
    unknown = [wanted for wanted in formats if wanted not in SUFFIXES]
    if unknown:
        raise InputError(f'format "{unknown[0]}" is not known; formats are {", ".join(SUFFIXES)}')
    if "int8" in formats and not force:
        refuse_fragile(network)
    return [_export(network, wanted, folder, name, sample, export) for wanted in formats]


def refuse_fragile(network: keras.Model) -> None:
    """Refuse INT8 of networks that lose too much by it, with the reason."""
    swish = [layer.name for layer in network.layers if _activation(layer) in FRAGILE_ACTIVATIONS]
    gates = [layer.name for layer in network.layers if isinstance(layer, keras.layers.Multiply)]
    if swish or gates:
        found = " and ".join(
            f"{len(names)} {what} ({names[0]}, …)"
            for names, what in ((swish, "swish activations"), (gates, "squeeze-and-excite gates"))
            if names
        )
        raise InputError(
            f"{network.name} has {found}: 256 levels are too few for them, INT8 loses several "
            "points. Export float16 or onnx, distill a Lite student, or insist with --force."
        )


def _activation(layer: keras.layers.Layer) -> str:
    return getattr(getattr(layer, "activation", None), "__name__", "")


def _export(network, wanted, folder, name, sample, export) -> Exported:
    data, run = _WRITERS[wanted](network, sample, export)
    reference = convert.keras_logits(network, sample.images, normalization=sample.normalization)
    difference = float(np.abs(run(sample.images) - reference).max())
    if wanted == "onnx" and not difference <= ONNX_TOLERANCE * max(1.0, np.abs(reference).max()):
        raise StepError(
            f"the ONNX file differs from Keras by {difference:.2e}, more than {ONNX_TOLERANCE}"
        )
    path = Path(folder) / f"{name}{SUFFIXES[wanted]}"
    write_bytes(path, data)
    log.info("%s: %d bytes, within %.2e of Keras", path.name, len(data), difference)
    return Exported(wanted, path.name, len(data), sha256(data).hexdigest(), difference)


Runner = Callable[[Sequence[np.ndarray]], np.ndarray]


def _float16(network, sample, export) -> tuple[bytes, Runner]:
    return _with_runner(convert.convert_float16(network), sample)


def _dynamic_range(network, sample, export) -> tuple[bytes, Runner]:
    return _with_runner(convert.convert_dynamic_range(network), sample)


def _int8(network, sample, export) -> tuple[bytes, Runner]:
    model = convert.convert_full_integer(
        network, sample.images, export, normalization=sample.normalization
    )
    tflite.require_full_integer(model)
    return _with_runner(model, sample)


def _with_runner(model: bytes, sample: Sample) -> tuple[bytes, Runner]:
    levels = tflite.output_quantization(model)

    def run(images: Sequence[np.ndarray]) -> np.ndarray:
        raw = tflite.run_tflite(model, images, threads=0, normalization=sample.normalization)
        return tflite.logits_of(raw, *levels)

    return model, run


def to_onnx(network: keras.Model) -> bytes:
    """Convert to ONNX: float32 [N, S, S, 3] in, float32 logits [N, C] out."""
    with quiet():
        import tf2onnx  # chatty on import, and nobody else needs it

        signature = [tf.TensorSpec((None, *network.input_shape[1:]), tf.float32, name="image")]
        model, _ = tf2onnx.convert.from_keras(network, signature, opset=ONNX_OPSET)
    _name_anew(model.graph)
    return model.SerializeToString(deterministic=True)


def _name_anew(graph: Any) -> None:
    """Name tensors and constants after the nodes that use them, in the order of the nodes.

    The converter numbers names by a counter of the process and keeps any one of several equal
    constants; so the same network would give other bytes each time. The graph's own input and
    output keep their names.
    """
    names = {port.name: port.name for port in (*graph.input, *graph.output)}
    for number, node in enumerate(graph.node):
        node.name = f"{COUNTED.sub('', node.name)}__{number}"
        for tensors, side in ((node.input, "in"), (node.output, "out")):
            for index, name in enumerate(tensors):
                if name:
                    tensors[index] = names.setdefault(name, f"{node.name}_{side}_{index}")
    for constant in graph.initializer:
        constant.name = names.get(constant.name, constant.name)
    for port in (*graph.input, *graph.output):
        port.type.tensor_type.shape.dim[0].dim_param = "N"
    order = {name: place for place, name in enumerate(names.values())}
    graph.initializer.sort(key=lambda constant: order.get(constant.name, len(order)))
    del graph.value_info[:]  # shapes in between, which every runtime infers by itself


def run_onnx(model: bytes, inputs: np.ndarray) -> np.ndarray:
    """Return logits [N, C] of float32 inputs [N, S, S, 3]."""
    import onnxruntime

    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: inputs})[0]


def _onnx(network, sample, export) -> tuple[bytes, Runner]:
    model = to_onnx(network)

    def run(images: Sequence[np.ndarray]) -> np.ndarray:
        return run_onnx(model, convert.network_input(np.stack(images), sample.normalization))

    return model, run


def _torchscript(network, sample, export) -> tuple[bytes, Runner]:
    from workbench.deploy import torchscript

    model = torchscript.to_torchscript(network)

    def run(images: Sequence[np.ndarray]) -> np.ndarray:
        inputs = convert.network_input(np.stack(images), sample.normalization)
        return torchscript.run_torchscript(model, inputs)

    return model, run


_WRITERS: dict[str, Callable[..., tuple[bytes, Runner]]] = {
    "float16": _float16,
    "dynamic_range": _dynamic_range,
    "int8": _int8,
    "onnx": _onnx,
    "torchscript": _torchscript,
}


def summary(exported: Sequence[Exported]) -> list[dict[str, Any]]:
    """Describe the files, JSON-able."""
    return [asdict(one) for one in exported]
