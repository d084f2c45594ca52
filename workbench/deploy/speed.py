"""How long one image takes on this machine: a host figure, for the order of things.

A phone's processor differs; which of two files is the faster one rarely does.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from workbench.deploy.tflite import input_port, input_table, open_model

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
