"""Does every Lite variant export in every format, and does each file run in its own runtime?

Exact formats must compute what Keras does. How far the others are off is printed beside the largest
logit: in a random network nothing stands out, so rounding weighs more than in any trained one.

    python -m tests.prove variants first=0 last=4
"""

from __future__ import annotations

import importlib.util
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

CLASSES = 7
SEED = 3
FORMATS = ("float16", "dynamic_range", "int8", "onnx", "torchscript")
EXACT = {"onnx": 1e-4, "torchscript": 1e-4}


def run(*, first: int = 0, last: int = 4, images: int = 4) -> dict[str, Any]:
    """Export Lite variants with random weights and compare each file with Keras on noise."""
    formats = [name for name in FORMATS if name != "torchscript" or _has_torch()]
    rows = [
        row
        for number in range(first, last + 1)
        for row in _exported(f"lite{number}", formats, images)
    ]
    return {"rows": rows, "kept": sum(row["kept"] for row in rows)}


def _has_torch() -> bool:
    return importlib.util.find_spec("torch") is not None


def _exported(variant: str, formats: list[str], count: int) -> list[dict[str, Any]]:
    from workbench.deploy.convert import keras_logits
    from workbench.deploy.formats import Sample, export_formats
    from workbench.settings import TfliteExportSettings

    network = _settled(variant, count)
    side = network.input_shape[1]
    sample = Sample(_noise(count, side), "lite")
    largest = float(np.abs(keras_logits(network, sample.images)).max())
    with tempfile.TemporaryDirectory(prefix="workbench_variants_") as folder:
        found = export_formats(
            network, formats, Path(folder), variant, sample, TfliteExportSettings()
        )
    return [
        {"variant": variant, "size": side, "largest_logit": largest, **asdict(one),
         "kept": one.largest_difference <= EXACT.get(one.format, largest)}
        for one in found
    ]  # fmt: skip


def _settled(variant: str, count: int) -> Any:
    """Build a network whose batch norms know its activations, as a trained one's do."""
    from workbench.deploy.convert import network_input
    from workbench.nets.lite import build_lite, keras

    keras.utils.set_random_seed(SEED)
    network = build_lite(variant, CLASSES, normalization_momentum=0.0)
    network(network_input(np.stack(_noise(count, network.input_shape[1]))), training=True)
    return network


def _noise(count: int, side: int) -> list[np.ndarray]:
    """Coarse blobs, whose mean colour differs from image to image."""
    rng = np.random.default_rng(SEED)
    cells = rng.integers(0, 256, (count, 6, 6, 3), dtype=np.uint8)
    blobs = np.kron(cells, np.ones((1, -(-side // 6), -(-side // 6), 1), np.uint8))
    return list(blobs[:, :side, :side])


def table(figures: dict[str, Any]) -> str:
    lines = [f"  {'variant':<8} {'format':<14} {'bytes':>11} {'off Keras by':>13} {'of':>7}"]
    lines += [
        f"  {row['variant']:<8} {row['format']:<14} {row['bytes']:>11,} "
        f"{row['largest_difference']:>13.2e} {row['largest_logit']:>7.2f}"
        for row in figures["rows"]
    ]
    lines.append(
        f"{figures['kept']} of {len(figures['rows'])} files run and compute what Keras does"
    )
    return "\n".join(lines)
