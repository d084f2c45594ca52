"""The letterbox in integers, and the pictures it is proven on."""

from __future__ import annotations

import numpy as np


def letterbox(image: np.ndarray, size: int) -> np.ndarray:
    """Letterbox uint8 [H, W, 3] by the formula `q8`, in integers."""
    height, width = image.shape[:2]
    longest = max(width, height)
    new_width, new_height = (
        max(1, (2 * side * size + longest) // (2 * longest)) for side in (width, height)
    )
    x0, x1, fx = _taps(width, new_width)
    y0, y1, fy = _taps(height, new_height)
    pixels = image.astype(np.int64)
    fx, fy = fx[None, :, None], fy[:, None, None]
    upper = pixels[y0][:, x0] * (256 - fx) + pixels[y0][:, x1] * fx
    lower = pixels[y1][:, x0] * (256 - fx) + pixels[y1][:, x1] * fx
    square = np.zeros((size, size, 3), dtype=np.uint8)
    left, top = (size - new_width) // 2, (size - new_height) // 2
    mixed = (upper * (256 - fy) + lower * fy + 32768) >> 16
    square[top : top + new_height, left : left + new_width] = mixed
    return square


def _taps(old: int, new: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    x = np.arange(new, dtype=np.int64)
    place = (2 * ((2 * x + 1) * old - new) * 128 + new) // (2 * new)
    place = place.clip(0, (old - 1) * 256)
    return place >> 8, np.minimum((place >> 8) + 1, old - 1), place & 255


def read_ppm(data: bytes) -> np.ndarray:
    """Read a binary PPM as this workbench writes it: `P6 width height 255` and the pixels."""
    header, pixels = data.split(b"\n", 1)
    _magic, width, height, _deepest = header.split()
    return np.frombuffer(pixels, dtype=np.uint8).reshape(int(height), int(width), 3)
