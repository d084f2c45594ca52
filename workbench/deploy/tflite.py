"""Open, run, time and scan a `.tflite` file with LiteRT and NumPy. Converts and changes nothing."""

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

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter, OpResolverType

from workbench.errors import StepError

log = logging.getLogger(__name__)

DESCRIPTORS = (1, 2)  # stdout and stderr
CHATTY = ("absl", "tensorflow", "tf2onnx")  # Python loggers
WARMUP_RUNS = 5  # calls before those that are timed: they allocate and pack weights
FLOAT_TYPES = {
    schema.TensorType.FLOAT32: "float32",
    schema.TensorType.FLOAT16: "float16",
    schema.TensorType.FLOAT64: "float64",
    schema.TensorType.BFLOAT16: "bfloat16",
}
OPERATOR_NAMES = {
    code: name for name, code in vars(schema.BuiltinOperator).items() if name[0] != "_"
}


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
    float_tensors: tuple[str, ...]
    bytes: int

    @property
    def full_integer(self) -> bool:
        return not self.float_tensors


def read_model(model: bytes | Path) -> bytes:
    return model if isinstance(model, bytes) else Path(model).read_bytes()


def open_model(model: bytes | Path, *, threads: int = 1, reference: bool = False) -> Interpreter:
    """Open a file; `reference` takes the plain C++ kernels in place of XNNPACK's."""
    kernels = OpResolverType.BUILTIN_REF if reference else OpResolverType.AUTO
    try:
        with quiet():
            interpreter = Interpreter(
                model_content=read_model(model),
                num_threads=threads or os.cpu_count(),
                experimental_op_resolver_type=kernels,
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


def tflite_logits(model: bytes | Path, images: Iterable[np.ndarray], **options: Any) -> np.ndarray:
    """Return logits [N, C]; `options` are those of `run_tflite`."""
    return logits_of(run_tflite(model, images, **options), *output_quantization(model))


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
    return Scan(dict(sorted(operators.items())), floats, len(data))


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
    source = interpreter.get_input_details()[0]
    interpreter.set_tensor(source["index"], input_table(_port(source))[image][None])
    return interpreter.invoke
