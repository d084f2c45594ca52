"""Photos for benchmarks: those of a folder of your own, or drawn ones with the detail of photos."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from workbench.data.layouts import SUFFIXES
from workbench.errors import InputError

WIDTH, HEIGHT, QUALITY = 500, 400, 90
MOST_DRAWN = 200  # more images than that are the same ones again


def list_photos(folder: Path) -> list[Path]:
    """List every image below `folder`; none at all is refused."""
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    if not found:
        suffixes = ", ".join(sorted(SUFFIXES))
        raise InputError(f"{folder} holds no images. Give a folder with {suffixes} files")
    return found


def draw_images(folder: Path, count: int) -> Path:
    """Draw noise whose detail falls off with frequency as it does in photos."""
    for number in range(count):
        image = draw_image(np.random.default_rng(number))
        flags = [cv2.IMWRITE_JPEG_QUALITY, QUALITY]
        (folder / f"{number:04d}.jpg").write_bytes(cv2.imencode(".jpg", image, flags)[1].tobytes())
    return folder


def draw_image(rng: np.random.Generator) -> np.ndarray:
    across, down = np.fft.rfftfreq(WIDTH), np.fft.fftfreq(HEIGHT)
    frequency = np.hypot(across[None], down[:, None])
    frequency[0, 0] = 1
    waves = rng.standard_normal((2, 3, *frequency.shape))
    fields = np.fft.irfft2((waves[0] + 1j * waves[1]) / frequency, s=(HEIGHT, WIDTH))
    fields /= fields.std(axis=(1, 2), keepdims=True)
    light, *colours = fields * np.array([50, 12, 12])[:, None, None]
    image = np.stack([light + colours[0], light, light + colours[1]], axis=-1) + 120
    return image.clip(0, 255).astype(np.uint8)
