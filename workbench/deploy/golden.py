"""Golden vectors: a few images recorded from pixels to decisions, to check others by."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from workbench.data.decode import decode_image
from workbench.data.tables import Split
from workbench.deploy import verify
from workbench.deploy.calibrate import choose_calibration
from workbench.files import write_bytes, write_json
from workbench.settings import Settings

LONGEST = 640  # pixels; larger photos are thinned out: this is a test vector, not the photo
RIM = {  # sizes where implementations of a resize part ways: (height, width)
    "dot": (1, 1),
    "sliver": (1, 97),
    "tower": (101, 1),
    "tie": (3, 480),
}


@dataclass(frozen=True)
class GoldenImage:
    """A decoded image and what is true of it."""

    name: str
    pixels: np.ndarray  # uint8 [H, W, 3]
    labels: tuple[str, ...]


def choose_golden(split: Split, settings: Settings) -> list[GoldenImage]:
    """Choose validation images that cover the classes, and add drawn ones of odd sizes."""
    rows = choose_calibration(split, settings.tflite_export.golden_images, settings.seed)
    photos = [
        GoldenImage(
            f"{row:04d}_{_plain(Path(split.filepaths[row]).stem)}",
            decode_image(split.path(row), settings.dataset),
            tuple(np.array(split.classes)[split.targets[row] > 0.5].tolist()),
        )
        for row in map(int, rows)
    ]
    rng = np.random.default_rng(settings.seed)
    drawn = [
        GoldenImage(name, rng.integers(0, 256, (*size, 3), dtype=np.uint8), ())
        for name, size in RIM.items()
    ]
    return [*photos, *drawn]


def _plain(name: str) -> str:
    """Keep a file name to what every file system and C string holds."""
    kept = "".join(c if c.isascii() and (c.isalnum() or c in "-_") else "_" for c in name)
    return kept[:40]


def _thinned(pixels: np.ndarray) -> np.ndarray:
    step = -(-max(pixels.shape[:2]) // LONGEST)
    return np.ascontiguousarray(pixels[::step, ::step])


def write_golden(
    folder: Path, config: Mapping[str, Any], images: Sequence[GoldenImage]
) -> list[dict[str, Any]]:
    """Record every image under golden/ and return the vectors."""
    shutil.rmtree(folder / "golden", ignore_errors=True)
    interpreter = verify.open_model((folder / config["model"]["file"]).read_bytes())
    vectors = [_record(folder, config, interpreter, image) for image in images]
    write_json(folder / verify.VECTORS, {"schema": 1, "vectors": vectors})
    return vectors


def _record(folder: Path, config, interpreter, image: GoldenImage) -> dict[str, Any]:
    pixels = _thinned(image.pixels)
    boxed = verify.letterbox(pixels, config["input"]["width"])
    tensor = verify.input_table(config["input"])[boxed]
    raw = verify.run_model(interpreter, tensor)
    parts = {
        "source": ("source.ppm", ppm(pixels)),
        "letterbox": ("letterbox.ppm", ppm(boxed)),
        "input": ("input.bin", tensor.tobytes()),
        "output": ("output.bin", raw.tobytes()),
        "picture": ("png", _png(pixels)),
    }
    return {
        "name": image.name,
        "width": pixels.shape[1],
        "height": pixels.shape[0],
        **{
            part: _write(folder, f"golden/{image.name}.{suffix}", data)
            for part, (suffix, data) in parts.items()
        },
        "raw": raw.tolist(),
        "decisions": verify.decide(raw[None], config)[0],
        "true_labels": list(image.labels),
    }


def _write(folder: Path, name: str, data: bytes) -> dict[str, str]:
    write_bytes(folder / name, data)
    return {"file": name, "sha256": hashlib.sha256(data).hexdigest()}


def ppm(pixels: np.ndarray) -> bytes:
    """Write uint8 [H, W, 3] as a binary PPM, which C reads in ten lines."""
    height, width = pixels.shape[:2]
    return b"P6 %d %d 255\n" % (width, height) + pixels.tobytes()


def _png(pixels: np.ndarray) -> bytes:
    """Write the same pixels as PNG, which phones and people can open."""
    return cv2.imencode(".png", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR))[1].tobytes()
