"""Open, run and inspect a `.tflite` file with LiteRT and NumPy. Converts nothing."""

from __future__ import annotations

import logging
import os
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter, OpResolverType

from workbench.errors import StepError

# Keep the chatter of native libraries out of notebooks and terminals. Needs no TensorFlow.

log = logging.getLogger(__name__)

DESCRIPTORS = (1, 2)  # stdout, stderr
CHATTY = ("absl", "tensorflow", "tf2onnx")  # Python loggers


@contextmanager
def quiet() -> Iterator[None]:
    """Send descriptors, warnings and chatty loggers to our debug log while the block runs."""
    with tempfile.TemporaryFile() as noise, warnings.catch_warnings(), _calm_loggers():
        warnings.simplefilter("ignore")
        saved = [os.dup(descriptor) for descriptor in DESCRIPTORS]
        _flush()
        try:
            for descriptor in DESCRIPTORS:
                os.dup2(noise.fileno(), descriptor)
            yield
        finally:
            _flush()
            for descriptor, copy in zip(DESCRIPTORS, saved, strict=True):
                os.dup2(copy, descriptor)
                os.close(copy)
            noise.seek(0)
            log.debug("%s", noise.read().decode(errors="replace").strip())


@contextmanager
def _calm_loggers() -> Iterator[None]:
    loggers = [logging.getLogger(name) for name in CHATTY]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()


# Read, change and write the tree of a `.tflite` file. Knows the format, not what a network is for.

FILE_IDENTIFIER = b"TFL3"
BUFFER_ALIGNMENT = 16  # the schema's force_align, which the Python classes drop
Operator = schema.BuiltinOperator
TensorType = schema.TensorType
NUMPY_TYPES = {
    TensorType.FLOAT32: np.dtype("<f4"),
    TensorType.FLOAT16: np.dtype("<f2"),
    TensorType.INT32: np.dtype("<i4"),
    TensorType.INT8: np.dtype("i1"),
    TensorType.UINT8: np.dtype("u1"),
}
INT8_VERSION = 2  # the first version of QUANTIZE, DEQUANTIZE, LOGISTIC and SOFTMAX that takes int8


class _AlignedBuffer(schema.BufferT):
    """A buffer whose data starts at a multiple of 16, as kernels expect."""

    def Pack(self, builder: flatbuffers.Builder) -> int:  # noqa: N802  (the schema's spelling)
        data = b"" if self.data is None else np.asarray(self.data, dtype=np.uint8).tobytes()
        if data:
            builder.StartVector(1, len(data), BUFFER_ALIGNMENT)
            builder.head -= len(data)
            builder.Bytes[builder.head : builder.head + len(data)] = data
            offset = builder.EndVector()
        schema.BufferStart(builder)
        if data:
            schema.BufferAddData(builder, offset)
        return schema.BufferEnd(builder)


def parse(model: bytes) -> schema.ModelT:
    return schema.ModelT.InitFromObj(schema.Model.GetRootAs(model, 0))


def pack(tree: schema.ModelT) -> bytes:
    """Serialise a model; the same tree gives the same bytes."""
    for buffer in tree.buffers:
        buffer.__class__ = _AlignedBuffer
    builder = flatbuffers.Builder(1 << 20)
    builder.Finish(tree.Pack(builder), file_identifier=FILE_IDENTIFIER)
    return bytes(builder.Output())


def operator_name(tree: schema.ModelT, operator: schema.OperatorT) -> int:
    """Return the builtin code of an operator; old files keep it in the deprecated field."""
    code = tree.operatorCodes[operator.opcodeIndex]
    return max(code.builtinCode, code.deprecatedBuiltinCode)


def producer(graph: schema.SubGraphT, tensor: int) -> schema.OperatorT | None:
    """Return the operator that writes a tensor; constants and inputs have none."""
    return next((one for one in graph.operators if tensor in list(one.outputs)), None)


def constant(tree: schema.ModelT, tensor: schema.TensorT) -> np.ndarray:
    """Return the values of a constant tensor."""
    data = np.asarray(tree.buffers[tensor.buffer].data, dtype=np.uint8).tobytes()
    return np.frombuffer(data, dtype=NUMPY_TYPES[tensor.type]).reshape(tensor.shape)


def add_tensor(
    graph: schema.SubGraphT,
    name: str,
    kind: int,
    shape: Any,
    *,
    scale: Any = None,
    zero_point: int = 0,
    buffer: int = 0,
) -> int:
    """Append a tensor and return its index; buffer 0 holds nothing."""
    tensor = schema.TensorT()
    tensor.name, tensor.type, tensor.shape, tensor.buffer = name, kind, shape, buffer
    if scale is not None:
        scales = np.atleast_1d(np.asarray(scale, dtype=np.float32))
        tensor.quantization = schema.QuantizationParametersT()
        tensor.quantization.scale = scales
        tensor.quantization.zeroPoint = np.full(len(scales), zero_point, dtype=np.int64)
    graph.tensors.append(tensor)
    return len(graph.tensors) - 1


def add_constant(tree: schema.ModelT, name: str, values: np.ndarray, *, scale: Any = None) -> int:
    """Append a constant tensor to the main graph and return its index."""
    kind = next(kind for kind, dtype in NUMPY_TYPES.items() if dtype == values.dtype)
    buffer = schema.BufferT()
    buffer.data = np.frombuffer(values.tobytes(), dtype=np.uint8)
    tree.buffers.append(buffer)
    shape = np.array(values.shape, dtype=np.int32)
    graph = tree.subgraphs[0]
    return add_tensor(graph, name, kind, shape, scale=scale, buffer=len(tree.buffers) - 1)


def make_operator(tree: schema.ModelT, code: int, source: int, target: int) -> schema.OperatorT:
    """Make an operator of one input and one output; the caller places it in the graph."""
    operator = schema.OperatorT()
    operator.opcodeIndex = _code_index(tree, code)
    operator.inputs, operator.outputs = [source], [target]
    return operator


def _code_index(tree: schema.ModelT, code: int) -> int:
    for index, known in enumerate(tree.operatorCodes):
        if max(known.builtinCode, known.deprecatedBuiltinCode) == code:
            known.version = max(known.version, INT8_VERSION)
            return index
    added = schema.OperatorCodeT()
    added.builtinCode = added.deprecatedBuiltinCode = code
    added.version = INT8_VERSION
    tree.operatorCodes.append(added)
    return len(tree.operatorCodes) - 1


def replace_input(tree: schema.ModelT, tensor: int) -> None:
    tree.subgraphs[0].inputs = [tensor]
    _redirect(tree.signatureDefs, "inputs", tensor)


def replace_output(tree: schema.ModelT, tensor: int) -> None:
    tree.subgraphs[0].outputs = [tensor]
    _redirect(tree.signatureDefs, "outputs", tensor)


def _redirect(signatures: list | None, side: str, tensor: int) -> None:
    for signature in signatures or []:
        for port in getattr(signature, side) or []:
            port.tensorIndex = tensor


def add_metadata(tree: schema.ModelT, name: str, content: bytes) -> None:
    """Put a named block of bytes into the file."""
    buffer = schema.BufferT()
    buffer.data = np.frombuffer(content, dtype=np.uint8)
    tree.buffers.append(buffer)
    entry = schema.MetadataT()
    entry.name, entry.buffer = name, len(tree.buffers) - 1
    tree.metadata = [*(tree.metadata or []), entry]


FLOAT_TYPES = {
    schema.TensorType.FLOAT32: "float32",
    schema.TensorType.FLOAT16: "float16",
    schema.TensorType.FLOAT64: "float64",
    schema.TensorType.BFLOAT16: "bfloat16",
}
OPERATOR_NAMES = {
    code: name for name, code in vars(schema.BuiltinOperator).items() if name[0] != "_"
}


@dataclass(frozen=True)
class Port:
    """The input or the output of a file."""

    shape: tuple[int, ...]
    dtype: str
    scale: float
    zero_point: int


@dataclass(frozen=True)
class Scan:
    """What a file is made of."""

    operators: dict[str, int]
    tensors: int
    float_tensors: tuple[str, ...]
    bytes: int

    @property
    def full_integer(self) -> bool:
        return not self.float_tensors


def read_model(model: bytes | Path) -> bytes:
    return model if isinstance(model, bytes) else Path(model).read_bytes()


def open_model(
    model: bytes | Path, *, threads: int = 1, reference: bool = False, keep_tensors: bool = False
) -> Interpreter:
    """Open a file; `reference` takes the plain C++ kernels in place of XNNPACK's."""
    kernels = OpResolverType.BUILTIN_REF if reference else OpResolverType.AUTO
    try:
        with quiet():
            interpreter = Interpreter(
                model_content=read_model(model),
                num_threads=threads or os.cpu_count(),
                experimental_op_resolver_type=kernels,
                experimental_preserve_all_tensors=keep_tensors,
            )
            interpreter.allocate_tensors()
    except (ValueError, RuntimeError) as error:
        raise StepError(f"LiteRT cannot open the file ({error}). Export it again.") from None
    return interpreter


def input_port(model: bytes | Path) -> Port:
    return _port(open_model(model).get_input_details()[0])


def output_port(model: bytes | Path) -> Port:
    return _port(open_model(model).get_output_details()[0])


def output_quantization(model: bytes | Path) -> tuple[float, int]:
    """Return (scale, zero_point) of the raw output."""
    port = output_port(model)
    return port.scale, port.zero_point


def _port(details: dict) -> Port:
    scale, zero_point = details["quantization"]
    shape = tuple(int(side) for side in details["shape"])
    return Port(shape, np.dtype(details["dtype"]).name, float(scale), int(zero_point))


def input_table(port: Port, normalization: str = "lite") -> np.ndarray:
    """Return the 256 input values that stand for the bytes 0…255.

    A byte means (x - 127) / 128 (`lite`) or itself (`none`). A file whose scale is 1/128 and zero
    point 127 takes the bytes as they are.
    """
    pixels = np.arange(256, dtype=np.float64)
    meant = (pixels - 127) / 128 if normalization == "lite" else pixels
    if port.dtype == "float32":
        return meant.astype(np.float32)
    limits = np.iinfo(port.dtype)
    levels = np.floor(meant / port.scale + 0.5).astype(np.int64) + port.zero_point
    return np.clip(levels, limits.min, limits.max).astype(port.dtype)


def run_tflite(
    model: bytes | Path,
    images: Iterable[np.ndarray],
    *,
    threads: int = 1,
    reference: bool = False,
    normalization: str = "lite",
) -> np.ndarray:
    """Return the raw output [N, C] for letterboxed images, uint8 [S, S, 3] each."""
    interpreter = open_model(model, threads=threads, reference=reference)
    source, target = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
    table = input_table(_port(source), normalization)
    rows = [_run_one(interpreter, source, target, table[image]) for image in images]
    if not rows:
        return np.empty((0, int(target["shape"][-1])), dtype=target["dtype"])
    return np.stack(rows)


def _run_one(interpreter: Interpreter, source: dict, target: dict, image: np.ndarray) -> np.ndarray:
    interpreter.set_tensor(source["index"], image[None])
    interpreter.invoke()
    return interpreter.get_tensor(target["index"])[0].copy()


def logits_of(raw: np.ndarray, scale: float, zero_point: int) -> np.ndarray:
    """Turn raw integers into what they stand for, float32; a float output passes through."""
    if np.issubdtype(raw.dtype, np.floating):
        return raw.astype(np.float32)
    return ((raw.astype(np.int32) - zero_point) * np.float32(scale)).astype(np.float32)


def scan_tensors(model: bytes | Path) -> Scan:
    """List operators and every float tensor of a file, from the file itself."""
    data = read_model(model)
    tree = schema.ModelT.InitFromObj(schema.Model.GetRootAs(data, 0))
    codes = [max(code.builtinCode, code.deprecatedBuiltinCode) for code in tree.operatorCodes]
    operators = Counter(
        OPERATOR_NAMES.get(codes[operator.opcodeIndex], "CUSTOM")
        for graph in tree.subgraphs
        for operator in graph.operators
    )
    tensors = [tensor for graph in tree.subgraphs for tensor in graph.tensors]
    floats = tuple(
        f"{tensor.name.decode()} ({FLOAT_TYPES[tensor.type]})"
        for tensor in tensors
        if tensor.type in FLOAT_TYPES
    )
    return Scan(dict(sorted(operators.items())), len(tensors), floats, len(data))


def require_full_integer(model: bytes | Path) -> Scan:
    """Return the scan of a file without float tensors; fail with their names otherwise."""
    scan = scan_tensors(model)
    if scan.float_tensors:
        some = ", ".join(scan.float_tensors[:3])
        raise StepError(
            f"{len(scan.float_tensors)} float tensors are left in a full-integer file ({some}, …). "
            "Remove the layers that do not quantise, or ship another rung with ladder.force_rung."
        )
    return scan


# Exact edits of a finished `.tflite`: integer ports, an activation, thresholds folded in.

INPUT_SCALE, INPUT_ZERO_POINT = 1 / 128, 127  # bytes as they are mean (x - 127) / 128
INPUT_TYPES = {"uint8": (TensorType.UINT8, 0), "int8": (TensorType.INT8, -128)}
ALWAYS, NEVER = -128, 128  # thresholds that every and no int8 reaches
FAR = 512  # levels that no output comes back from
PROBABILITY = {"scale": 1 / 256, "zero_point": -128}  # fixed by the LOGISTIC and SOFTMAX kernels


def with_integer_ports(model: bytes, input_type: str, logit_range: tuple[float, float]) -> bytes:
    """Give a float32-in, float32-out file the ports of an INT8 one: image bytes in, int8 out.

    The app then needs no second code path for a rung with float arithmetic inside. `logit_range`
    is what the 256 output levels cover.
    """
    tree = parse(model)
    graph = tree.subgraphs[0]
    kind, shift = INPUT_TYPES[input_type]
    old = graph.inputs[0]
    new = add_tensor(
        graph,
        "input",
        kind,
        graph.tensors[old].shape,
        scale=INPUT_SCALE,
        zero_point=INPUT_ZERO_POINT + shift,
    )
    graph.operators.insert(0, make_operator(tree, Operator.DEQUANTIZE, new, old))
    replace_input(tree, new)
    scale, zero_point = _levels(*logit_range)
    _append(tree, Operator.QUANTIZE, "output", {"scale": scale, "zero_point": zero_point})
    return pack(tree)


def _levels(low: float, high: float) -> tuple[float, int]:
    """Return the scale and zero point of int8 that cover [low, high] and hold zero exactly."""
    low, high = min(low, 0.0), max(high, 0.0)
    scale = max(high - low, 1e-3) / 255
    return scale, round(-128 - low / scale)


def with_activation(model: bytes, activation: str) -> bytes:
    """Append sigmoid or softmax, so that the file gives probabilities in steps of 1/256."""
    tree = parse(model)
    code = {"sigmoid": Operator.LOGISTIC, "softmax": Operator.SOFTMAX}[activation]
    operator = _append(tree, code, "probability", PROBABILITY)
    if activation == "softmax":
        operator.builtinOptionsType = schema.BuiltinOptions.SoftmaxOptions
        operator.builtinOptions = schema.SoftmaxOptionsT()
        operator.builtinOptions.beta = 1.0
    return pack(tree)


def _append(tree: schema.ModelT, code: int, name: str, levels: dict) -> schema.OperatorT:
    graph = tree.subgraphs[0]
    old = graph.outputs[0]
    new = add_tensor(graph, name, TensorType.INT8, graph.tensors[old].shape, **levels)
    operator = make_operator(tree, code, old, new)
    graph.operators.append(operator)
    replace_output(tree, new)
    return operator


def with_folded_thresholds(model: bytes, integers: np.ndarray) -> bytes:
    """Move each class by whole output levels: `raw >= 0` now says what `raw >= integers[c]` did.

    Only the bias of the last layer and the zero point behind it change. An accumulator step is a
    hundredth of a level, so a score that lies that close to the middle of two levels may flip.
    """
    tree = parse(model)
    output = tree.subgraphs[0].tensors[tree.subgraphs[0].outputs[0]].quantization
    integers = np.asarray(integers, dtype=np.int64)
    levels = (int(output.zeroPoint[0]) - integers).astype(np.float64)
    levels[integers <= ALWAYS] = FAR
    levels[integers >= NEVER] = -FAR
    _shift_bias(tree, _last_layer(tree), levels * float(output.scale[0]))
    output.zeroPoint = np.zeros(1, dtype=np.int64)
    return pack(tree)


def _last_layer(tree: schema.ModelT) -> schema.OperatorT:
    graph = tree.subgraphs[0]
    operator = producer(graph, graph.outputs[0])
    if operator and operator_name(tree, operator) == Operator.QUANTIZE:
        operator = producer(graph, operator.inputs[0])
    if operator is None or operator_name(tree, operator) != Operator.FULLY_CONNECTED:
        raise StepError("thresholds fold into a fully connected last layer; this file has none")
    return operator


def _shift_bias(tree: schema.ModelT, layer: schema.OperatorT, logits: np.ndarray) -> None:
    """Add logits [C] to the bias, in the layer's own arithmetic."""
    graph = tree.subgraphs[0]
    inputs = [*list(layer.inputs), -1][:3]
    features, weights = graph.tensors[inputs[0]], graph.tensors[inputs[1]]
    bias = _bias_values(tree, inputs[2], len(logits))
    if features.type == TensorType.FLOAT32:
        shifted, scale = (bias + logits).astype(np.float32), None
    else:
        scale = np.float64(features.quantization.scale[0]) * np.float64(weights.quantization.scale)
        shifted = (bias + np.rint(logits / scale)).astype(np.int32)
    inputs[2] = add_constant(tree, "folded_thresholds", shifted, scale=scale)
    layer.inputs = inputs


def _bias_values(tree: schema.ModelT, index: int, classes: int) -> np.ndarray:
    """Return the bias as float64; it may be absent, or half precision behind a DEQUANTIZE."""
    if index < 0:
        return np.zeros(classes)
    graph = tree.subgraphs[0]
    source = producer(graph, index)
    tensor = graph.tensors[index if source is None else source.inputs[0]]
    return constant(tree, tensor).astype(np.float64)


# How long one image takes on this machine: a host figure, for the order of things.

WARMUP_RUNS = 5  # the first calls allocate and pack weights


def time_file(model: Path, repeats: int, *, threads: int = 1) -> dict[str, float]:
    """Time one image through a TFLite file: the median and the slow end, in milliseconds."""
    size = input_port(model).shape[1]
    image = np.zeros((size, size, 3), dtype=np.uint8)
    return percentiles(time_calls(tflite_caller(Path(model).read_bytes(), image, threads), repeats))


def percentiles(seconds: np.ndarray) -> dict[str, float]:
    middle, late = np.percentile(seconds * 1000, [50, 95])
    return {"p50_ms": float(middle), "p95_ms": float(late)}


def time_calls(call: Callable[[], Any], repeats: int) -> np.ndarray:
    """Return the seconds of each call, after a few that do not count."""
    for _ in range(WARMUP_RUNS):
        call()
    seconds = np.empty(repeats)
    for index in range(repeats):
        started = time.perf_counter()
        call()
        seconds[index] = time.perf_counter() - started
    return seconds


def tflite_caller(model: bytes, image: np.ndarray, threads: int) -> Callable[[], Any]:
    """Bind everything but the computation itself, which is what is timed."""
    interpreter = open_model(model, threads=threads)
    port = input_port(model)
    interpreter.set_tensor(
        interpreter.get_input_details()[0]["index"], input_table(port)[image][None]
    )
    return interpreter.invoke
