"""Letterbox `q8`: the whole image, scaled by integer arithmetic, centred on a black square.

The contract with the phone. Every sum is an integer below 2**24, so int32 and float32 give the
same bits on any CPU, GPU or phone. Four implementations are kept in step by tests: the reference
here, the fast one here, `letterbox.c` and what the bundle generates from it.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

FOUR_CHANNEL_PIXELS = 1_000_000  # above, adding a channel costs more than it saves


def letterbox_size(width: int, height: int, size: int) -> tuple[int, int]:
    """Return the scaled (width, height) inside a square of `size`; neither is below 1."""
    longest = max(width, height)
    return tuple(max(1, (2 * side * size + longest) // (2 * longest)) for side in (width, height))


def letterbox(image: np.ndarray, size: int) -> np.ndarray:
    """Letterbox uint8 [height, width, 3] to [size, size, 3].

    OpenCV's INTER_LINEAR_EXACT is this very arithmetic; the tests compare every byte.
    """
    height, width = image.shape[:2]
    scaled = letterbox_size(width, height, size)
    square = np.zeros((size, size, 3), np.uint8)
    inside = _inside(square, scaled)
    if scaled == (width, height):
        inside[:] = image
    else:
        cv2.resize(image, scaled, dst=inside, interpolation=cv2.INTER_LINEAR_EXACT)
    return square


def letterbox_all(image: np.ndarray, sizes: Sequence[int]) -> list[np.ndarray]:
    """Letterbox one image to several sizes, faster than one by one; the bytes are the same.

    OpenCV resizes four channels a third faster than three, which pays for adding the fourth
    while the image is not large.
    """
    height, width = image.shape[:2]
    if height * width > FOUR_CHANNEL_PIXELS:
        return [letterbox(image, size) for size in sizes]
    rgba = cv2.cvtColor(image, cv2.COLOR_RGB2RGBA)
    return [_letterbox_rgba(rgba, size) for size in sizes]


def _letterbox_rgba(rgba: np.ndarray, size: int) -> np.ndarray:
    height, width = rgba.shape[:2]
    scaled = letterbox_size(width, height, size)
    square = np.zeros((size, size, 3), np.uint8)
    if scaled != (width, height):
        rgba = cv2.resize(rgba, scaled, interpolation=cv2.INTER_LINEAR_EXACT)
    cv2.cvtColor(rgba, cv2.COLOR_RGBA2RGB, dst=_inside(square, scaled))
    return square


def _inside(square: np.ndarray, scaled: tuple[int, int]) -> np.ndarray:
    """Return the centred window of `square` that the scaled image fills."""
    left, top = (len(square) - scaled[0]) // 2, (len(square) - scaled[1]) // 2
    return square[top : top + scaled[1], left : left + scaled[0]]


def letterbox_reference(image: np.ndarray, size: int) -> np.ndarray:
    """Compute the same straight from the formula, in int32, for reading and for tests."""
    height, width = image.shape[:2]
    new_width, new_height = letterbox_size(width, height, size)
    x0, x1, fx = _taps(width, new_width)
    y0, y1, fy = _taps(height, new_height)
    fx, fy = fx[None, :, None], fy[:, None, None]
    a, b, c, d = (image[np.ix_(y, x)].astype(np.int32) for y in (y0, y1) for x in (x0, x1))
    upper = a * (256 - fx) + b * fx
    lower = c * (256 - fx) + d * fx
    square = np.zeros((size, size, 3), np.uint8)
    _inside(square, (new_width, new_height))[:] = (upper * (256 - fy) + lower * fy + 32768) >> 16
    return square


def _taps(old: int, new: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return both source positions and the weight of the second, in 1/256, per output position."""
    x = np.arange(new, dtype=np.int64)
    # floor(a / b + 1/2) in integers is (2a + b) // 2b
    position = (2 * ((2 * x + 1) * old - new) * 128 + new) // (2 * new)
    position = position.clip(0, (old - 1) * 256)
    first = position >> 8
    return first, np.minimum(first + 1, old - 1), (position & 255).astype(np.int32)
