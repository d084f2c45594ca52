"""How fast is the phone file here? INT8 and float TFLite, and ONNX Runtime, on one and two threads.

Host figures: a phone's processor differs, the order of the rows rarely does.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from workbench.deploy.tflite import percentiles, tflite_caller, time_calls
from workbench.errors import MissingInputError
from workbench.settings import Settings, TfliteExportSettings

THREADS = (1, 2)
REPEATS = 200
SEED = 0
MODEL_FILE, WEIGHTS_FILE = "model_qat_int8.tflite", "student_finetuned.h5"


def run(*, run_folder: Path | None = None, count: int = REPEATS) -> dict[str, Any]:
    """Time `count` single images per row, of a run's own files or of a random Lite1."""
    files = _files_of_run(Path(run_folder)) if run_folder else _random_files(Settings())
    size = files.pop("size")
    image = np.random.default_rng(SEED).integers(0, 256, (size, size, 3), dtype=np.uint8)
    rows = [
        {
            "format": name,
            "threads": threads,
            "bytes": len(model),
            **percentiles(time_calls(_caller(name, model, image, threads), count)),
        }
        for name, model in files.items()
        for threads in THREADS
    ]
    return {
        "network": str(run_folder) if run_folder else "random Lite1",
        "input_size": size,
        "repeats": count,
        "cpu_cores": os.cpu_count(),
        "rows": rows,
    }


def table(figures: dict[str, Any]) -> str:
    """Write the figures for a terminal."""
    lines = [
        f"Latency of one image at {figures['input_size']} px, {figures['repeats']} runs each, "
        f"{figures['cpu_cores']} cores",
        f"  {'format':<22} {'threads':>7} {'p50 ms':>8} {'p95 ms':>8} {'size kB':>9}",
    ]
    lines += [
        f"  {row['format']:<22} {row['threads']:>7} {row['p50_ms']:>8.2f} {row['p95_ms']:>8.2f} "
        f"{row['bytes'] / 1000:>9.0f}"
        for row in figures["rows"]
    ]
    return "\n".join(lines)


def _caller(name: str, model: bytes, image: np.ndarray, threads: int) -> Callable[[], Any]:
    """Bind everything but the computation itself, which is what is timed."""
    return (_onnx_caller if name.startswith("ONNX") else tflite_caller)(model, image, threads)


def _onnx_caller(model: bytes, image: np.ndarray, threads: int) -> Callable[[], Any]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    inputs = {session.get_inputs()[0].name: (image[None].astype(np.float32) - 127) / 128}
    return lambda: session.run(None, inputs)


def _files_of_run(folder: Path) -> dict[str, Any]:
    """Take a run's INT8 file, and make its float twins from the weights of the student."""
    for name in (MODEL_FILE, WEIGHTS_FILE):
        if not (folder / name).exists():
            raise MissingInputError(f"No {name} in {folder}. Finish the run first")
    from workbench.nets.network import load_network
    from workbench.run import existing_run

    run = existing_run(folder)
    student = load_network(run.folder, "student", run.settings)
    model = (folder / MODEL_FILE).read_bytes()
    return {"size": run.settings.student_size, "INT8 TFLite": model, **_float_files(student)}


def _random_files(settings: Settings) -> dict[str, Any]:
    from workbench.deploy.convert import convert_full_integer
    from workbench.nets.lite import build_lite

    size = settings.student_size
    student = build_lite(settings.student.variant, 7, input_size=size)
    images = np.random.default_rng(SEED).integers(0, 256, (4, size, size, 3), dtype=np.uint8)
    model = convert_full_integer(student, list(images), TfliteExportSettings())
    return {"size": size, "INT8 TFLite": model, **_float_files(student)}


def _float_files(student: Any) -> dict[str, bytes]:
    from workbench.deploy.convert import convert_float16, convert_float32
    from workbench.deploy.formats import to_onnx

    return {
        "float32 TFLite": convert_float32(student),
        "float16 TFLite": convert_float16(student),
        "ONNX Runtime float32": to_onnx(student),
    }
