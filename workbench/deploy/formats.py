"""The other formats of a finished network: float16, dynamic range, INT8, ONNX and TorchScript.

For the student and for any teacher. Every file is opened again by its own runtime and compared
with Keras on real images before it counts as written. TorchScript needs torch, an optional extra.
"""

from __future__ import annotations

import io
import logging
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
import tf_keras as keras

from workbench.artifacts import QuantizationLadder
from workbench.data.tables import Split
from workbench.data.views import View, letterboxed
from workbench.deploy import convert, tflite
from workbench.deploy.coverage import covering_rows
from workbench.errors import InputError, StepError
from workbench.files import write_bytes
from workbench.nets.network import load_network
from workbench.nets.teacher import VIEWS
from workbench.settings import Settings, TfliteExportSettings

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
TORCH_MISSING = "TorchScript needs torch, an optional extra: pip install torch (2.6 or later)"


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

    @classmethod
    def of(cls, split: Split, view: View, settings: Settings) -> Sample:
        """Take as many images of a split as calibration does, every class among them."""
        rows = covering_rows(
            split, settings.tflite_export.representative_dataset_size, settings.seed
        )
        return cls(list(letterboxed(split, view.size, settings, rows)), view.normalization)


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


def export_network(
    run: Any, network: str, formats: Sequence[str], *, force: bool = False
) -> tuple[str, dict[str, Any]]:
    """Write the `student` or `teacher` of a run in other formats; return lines and values."""
    settings = run.settings
    sample = Sample.of(run.dataset().split("train"), VIEWS[network](settings), settings)
    trained = load_network(run.folder, network, settings)
    found = export_formats(
        trained, formats, run.folder, network, sample, settings.tflite_export, force=force
    )
    lines = [f"{o.file}  {o.bytes / 1024:,.0f} KiB  sha256 {o.sha256[:12]}" for o in found]
    return "\n".join(lines), {"files": [asdict(one) for one in found]}


def candidate_of(
    folder: Path, settings: Settings, network: keras.Model, ladder: QuantizationLadder
) -> bytes:
    """Return what 07 puts labels into: the file that 05 chose, or the large network in float16."""
    if settings.product.quantized:
        return (folder / ladder.candidate).read_bytes()
    return convert.convert_float16(network)


def installed(formats: Sequence[str]) -> list[str]:
    """Leave out TorchScript where torch is not there, with a line."""
    if "torchscript" in formats and find_spec("torch") is None:
        log.warning("torchscript is left out: %s", TORCH_MISSING)
        return [name for name in formats if name != "torchscript"]
    return list(formats)


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
    difference = float(np.abs(run(sample) - reference).max())
    if wanted == "onnx" and not difference <= ONNX_TOLERANCE * max(1.0, np.abs(reference).max()):
        raise StepError(
            f"the ONNX file differs from Keras by {difference:.2e}, more than {ONNX_TOLERANCE}"
        )
    path = Path(folder) / f"{name}{SUFFIXES[wanted]}"
    write_bytes(path, data)
    log.info("%s: %d bytes, within %.2e of Keras", path.name, len(data), difference)
    return Exported(wanted, path.name, len(data), sha256(data).hexdigest(), difference)


Written = tuple[bytes, Callable[[Sample], np.ndarray]]  # a file, and how to compute logits with it


def _float16(network, sample, export) -> Written:
    return _tflite(convert.convert_float16(network))


def _dynamic_range(network, sample, export) -> Written:
    return _tflite(convert.convert_dynamic_range(network))


def _int8(network, sample, export) -> Written:
    model = convert.convert_full_integer(
        network, sample.images, export, normalization=sample.normalization
    )
    tflite.require_full_integer(model)
    return _tflite(model)


def _tflite(model: bytes) -> Written:
    return model, lambda sample: tflite.tflite_logits(
        model, sample.images, threads=0, normalization=sample.normalization
    )


def _onnx(network, sample, export) -> Written:
    model = to_onnx(network)
    return model, lambda sample: run_onnx(model, _inputs(sample))


def _torchscript(network, sample, export) -> Written:
    model = to_torchscript(network)
    return model, lambda sample: run_torchscript(model, _inputs(sample))


def _inputs(sample: Sample) -> np.ndarray:
    return convert.network_input(np.stack(sample.images), sample.normalization)


_WRITERS: dict[str, Callable[..., Written]] = {
    "float16": _float16,
    "dynamic_range": _dynamic_range,
    "int8": _int8,
    "onnx": _onnx,
    "torchscript": _torchscript,
}


def to_onnx(network: keras.Model) -> bytes:
    """Convert to ONNX: float32 [N, S, S, 3] in, float32 logits [N, C] out."""
    with tflite.quiet():
        import tf2onnx  # chatty on import, and nobody else needs it

        signature = [tf.TensorSpec((None, *network.input_shape[1:]), tf.float32, name="image")]
        model, _ = tf2onnx.convert.from_keras(network, signature, opset=ONNX_OPSET)
    _rename_tensors(model.graph)
    return model.SerializeToString(deterministic=True)


def _rename_tensors(graph: Any) -> None:
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


def import_torch() -> Any:
    """Import torch, or say how to get it."""
    try:
        import torch
    except ImportError:
        raise InputError(TORCH_MISSING) from None
    return torch


def to_torchscript(network: keras.Model) -> bytes:
    """Rebuild a network in torch, layer by layer: float32 [N, S, S, 3] in, logits [N, C] out."""
    torch = import_torch()
    twin, side = _torch_twin(torch, network), network.input_shape[1]
    with torch.no_grad():
        traced = torch.jit.trace(twin, torch.zeros(1, side, side, 3))
    buffer = io.BytesIO()
    torch.jit.save(traced, buffer)
    return buffer.getvalue()


def run_torchscript(model: bytes, inputs: np.ndarray) -> np.ndarray:
    """Return logits [N, C] of float32 inputs [N, S, S, 3]."""
    torch = import_torch()
    module = torch.jit.load(io.BytesIO(model))
    with torch.no_grad():
        return module(torch.from_numpy(inputs)).numpy()


def _torch_twin(torch: Any, network: keras.Model) -> Any:
    steps = [
        (layer.name, _sources(layer), _module(torch, layer))
        for layer in network.layers
        if not isinstance(layer, keras.layers.InputLayer)
    ]
    first, last = network.input_names[0], network.output_names[0]

    class Twin(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.steps = torch.nn.ModuleList([module for _, _, module in steps])

        def forward(self, image):
            tensors = {first: image.permute(0, 3, 1, 2)}
            for (name, sources, _), module in zip(steps, self.steps, strict=True):
                tensors[name] = module(*(tensors[source] for source in sources))
            return tensors[last]

    return Twin().eval()


def _sources(layer: keras.layers.Layer) -> list[str]:
    found = layer.inbound_nodes[0].inbound_layers
    return [one.name for one in (found if isinstance(found, list) else [found])]


def _module(torch: Any, layer: keras.layers.Layer) -> Any:
    make = _MODULES.get(type(layer).__name__)
    if make is None:
        raise StepError(f"TorchScript: {layer.name} is a {type(layer).__name__}, not known here")
    return make(torch, layer)


def _function(torch: Any, compute: Callable) -> Any:
    class Function(torch.nn.Module):
        def forward(self, *inputs):
            return compute(*inputs)

    return Function()


def _tensor(torch: Any, array: Any) -> Any:
    return torch.from_numpy(np.array(array, dtype=np.float32, order="C"))


def _convolution(torch: Any, layer: keras.layers.Layer) -> Any:
    depthwise = isinstance(layer, keras.layers.DepthwiseConv2D)
    kernel = layer.get_weights()[0]  # [h, w, in, out] or [h, w, in, 1]
    channels = kernel.shape[2]
    out = channels * kernel.shape[3] if depthwise else kernel.shape[3]
    module = torch.nn.Conv2d(
        channels,
        out,
        kernel.shape[:2],
        stride=layer.strides,
        groups=channels if depthwise else 1,
        bias=layer.use_bias,
    )
    axes = (2, 3, 0, 1) if depthwise else (3, 2, 0, 1)
    module.weight.data = _tensor(torch, kernel.transpose(axes))
    if layer.use_bias:
        module.bias.data = _tensor(torch, layer.get_weights()[1])
    return torch.nn.Sequential(
        *_same_padding(torch, layer, kernel.shape[:2]), module, _torch_activation(torch, layer)
    )


def _same_padding(torch: Any, layer: keras.layers.Layer, kernel: tuple[int, int]) -> list[Any]:
    """TensorFlow pads more on the right and at the bottom; torch knows symmetric padding only."""
    if layer.padding == "valid":
        return []
    amounts = []
    for side, size, stride in zip(layer.input_shape[1:3], kernel, layer.strides, strict=True):
        total = max((-(-side // stride) - 1) * stride + size - side, 0)
        amounts.append((total // 2, total - total // 2))
    (top, bottom), (left, right) = amounts
    return [torch.nn.ZeroPad2d((left, right, top, bottom))]


def _batch_norm(torch: Any, layer: keras.layers.Layer) -> Any:
    gamma, beta, mean, variance = (_tensor(torch, weight) for weight in layer.get_weights())
    module = torch.nn.BatchNorm2d(len(gamma), eps=layer.epsilon)
    module.weight.data, module.bias.data = gamma, beta
    module.running_mean, module.running_var = mean, variance
    return module


def _dense(torch: Any, layer: keras.layers.Layer) -> Any:
    kernel, bias = layer.get_weights()
    module = torch.nn.Linear(*kernel.shape)
    module.weight.data, module.bias.data = _tensor(torch, kernel.T), _tensor(torch, bias)
    return torch.nn.Sequential(module, _torch_activation(torch, layer))


def _torch_activation(torch: Any, layer: keras.layers.Layer) -> Any:
    name = layer.activation.__name__
    kinds = {
        "linear": torch.nn.Identity,
        "relu": torch.nn.ReLU,
        "relu6": torch.nn.ReLU6,
        "swish": torch.nn.SiLU,
        "silu": torch.nn.SiLU,
        "sigmoid": torch.nn.Sigmoid,
    }
    if name not in kinds:
        raise StepError(f"TorchScript: {layer.name} has the activation {name}, not known here")
    return kinds[name]()


def _relu(torch: Any, layer: keras.layers.Layer) -> Any:
    return (
        torch.nn.ReLU() if layer.max_value is None else torch.nn.Hardtanh(0, float(layer.max_value))
    )


def _zero_padding(torch: Any, layer: keras.layers.Layer) -> Any:
    (top, bottom), (left, right) = layer.padding
    return torch.nn.ZeroPad2d((left, right, top, bottom))


def _pooling(torch: Any, layer: keras.layers.Layer) -> Any:
    return torch.nn.MaxPool2d(layer.pool_size, layer.strides)


def _mean(torch: Any, layer: keras.layers.Layer) -> Any:
    keep = bool(getattr(layer, "keepdims", False))
    return _function(torch, lambda x: x.mean(dim=(2, 3), keepdim=keep))


def _reshape(torch: Any, layer: keras.layers.Layer) -> Any:
    """Only ever [N, C] to [N, 1, 1, C], in front of a squeeze-and-excite gate."""
    return _function(torch, lambda x: x.reshape(x.shape[0], -1, 1, 1))


def _affine(torch: Any, layer: keras.layers.Layer) -> Any:
    """Measure a pixel-wise preprocessing layer: it scales, shifts and may swap channels."""
    probe = keras.Model(layer.input, layer.output)
    colours = np.vstack([np.zeros(3), np.eye(3)]).astype(np.float32)
    pixels = np.broadcast_to(colours[:, None, None], (4, *layer.input_shape[1:]))
    black, *primaries = probe(np.array(pixels)).numpy()[:, 0, 0]
    module = torch.nn.Conv2d(3, 3, 1)
    module.weight.data = _tensor(torch, (np.array(primaries) - black).T.reshape(3, 3, 1, 1))
    module.bias.data = _tensor(torch, black)
    return module


def _identity(torch: Any, layer: keras.layers.Layer) -> Any:
    return torch.nn.Identity()


_MODULES: dict[str, Callable[[Any, keras.layers.Layer], Any]] = {
    "Conv2D": _convolution,
    "DepthwiseConv2D": _convolution,
    "BatchNormalization": _batch_norm,
    "Dense": _dense,
    "ReLU": _relu,
    "Activation": _torch_activation,
    "ZeroPadding2D": _zero_padding,
    "MaxPooling2D": _pooling,
    "GlobalAveragePooling2D": _mean,
    "Reshape": _reshape,
    "Add": lambda torch, layer: _function(torch, lambda a, b: a + b),
    "Multiply": lambda torch, layer: _function(torch, lambda a, b: a * b),
    "Dropout": _identity,
    "FixedDropout": _identity,
    "Rescaling": _affine,
    "Normalization": _affine,
    "SlicingOpLambda": _affine,
}
