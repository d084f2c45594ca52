"""TorchScript of a Keras network, layer by layer. Needs torch, which is an optional extra.

Our networks are flat graphs of a dozen kinds of layers; each becomes the torch module that
computes the same on NCHW. The input stays [N, S, S, 3], as everywhere in the workbench.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import workbench  # noqa: F401  (selects legacy Keras before TensorFlow loads)

# isort: split
import numpy as np
import tf_keras as keras

from workbench.errors import InputError, StepError

EXTRA = "TorchScript needs torch, an optional extra: pip install torch (2.6 or later)"


def import_torch() -> Any:
    """Import torch, or say how to get it."""
    try:
        import torch
    except ImportError:
        raise InputError(EXTRA) from None
    return torch


def to_torchscript(network: keras.Model) -> bytes:
    """Trace the torch twin of a network: float32 [N, S, S, 3] in, logits [N, C] out."""
    torch = import_torch()
    twin = _Twin.build(network)
    side = network.input_shape[1]
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


class _Twin:
    """Builds the torch module; a class only to keep torch out of the import."""

    @staticmethod
    def build(network: keras.Model) -> Any:
        torch = import_torch()
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
        *_same_padding(torch, layer, kernel.shape[:2]), module, _activation(torch, layer)
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
    return torch.nn.Sequential(module, _activation(torch, layer))


def _activation(torch: Any, layer: keras.layers.Layer) -> Any:
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
    "Activation": _activation,
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
