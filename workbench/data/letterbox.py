"""Letterbox `q8`: the whole image, scaled by integer arithmetic, centred on a black square.

The contract with the phone. Every sum is an integer below 2**24, so int32 and float32 give the
same bits on any CPU, GPU or phone. Three implementations are kept in step by tests: the reference
here, OpenCV's, and `letterbox.c`, which ships in the bundle. The pipeline runs `letterbox.c` where
installing could compile it and OpenCV elsewhere, which takes nearly three times as long.
"""

from __future__ import annotations

import ctypes
import logging
import sysconfig
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

import cv2
import numpy as np

log = logging.getLogger(__name__)

FOUR_CHANNEL_PIXELS = 1_000_000  # above, adding a channel costs OpenCV more than it saves
# Source positions are rounded to 1/256 of a pixel, halves up. OpenCV rounds halves to even, which
# differs where a scaled side is a multiple of 256. A scale this little larger lifts halves over
# the edge and moves nothing else: other positions are at least 1/2048 away from a half.
NUDGE = 1e-12
# What a library must get right before it is trusted: down, up, to thin strips, through all columns.
TRIALS = (((61, 47), 32), ((9, 13), 40), ((2, 300), 40), ((700, 5), 300))
SOURCE = Path(__file__).with_name("letterbox.c")
LIBRARY = SOURCE.with_name(f"_letterbox{sysconfig.get_config_var('EXT_SUFFIX')}")
LONGEST = 1_000_000  # LETTERBOX_LONGEST in letterbox.h

Letterbox = Callable[[np.ndarray, int], np.ndarray]


def letterbox_size(width: int, height: int, size: int) -> tuple[int, int]:
    """Return the scaled (width, height) inside a square of `size`; neither is below 1."""
    longest = max(width, height)
    return tuple(max(1, (2 * side * size + longest) // (2 * longest)) for side in (width, height))


def letterbox(image: np.ndarray, size: int) -> np.ndarray:
    """Letterbox uint8 [height, width, 3] to [size, size, 3]."""
    return letterbox_all(image, [size])[0]


def letterbox_all(image: np.ndarray, sizes: Sequence[int]) -> list[np.ndarray]:
    """Letterbox one image to several sizes."""
    by_c = trusted_library() if max(image.shape) <= LONGEST else None
    if by_c is None:
        return letterbox_by_opencv(image, sizes)
    return [by_c(image, size) for size in sizes]


@cache
def trusted_library() -> Letterbox | None:
    """Open the compiled `letterbox.c`, unless it is not there or not this arithmetic."""
    if not LIBRARY.exists():
        return None
    try:
        by_c, rng = open_library(LIBRARY), np.random.default_rng(8)
        trials = [(rng.integers(0, 256, (*sides, 3), np.uint8), size) for sides, size in TRIALS]
        fits = (np.array_equal(by_c(*one), letterbox_reference(*one)) for one in trials)
        fault = None if all(fits) else "gives other bytes than the contract"
    except (OSError, AttributeError, ValueError) as error:
        fault = f"cannot be used ({error})"
    if fault is None:
        return by_c
    log.warning(
        "%s %s: OpenCV letterboxes instead, slower and to the same bytes. "
        "`pip install --no-deps --no-build-isolation -e .` compiles it anew.",
        LIBRARY, fault,
    )  # fmt: skip
    return None


def open_library(path: Path) -> Letterbox:
    """Return `letterbox(image, size)` of a library; OSError or AttributeError where it has none."""
    function = ctypes.CDLL(str(path)).letterbox_rgb
    integer, pointer, stride = ctypes.c_int, ctypes.c_void_p, ctypes.c_ssize_t
    function.argtypes = [pointer, integer, integer, integer, stride, pointer, integer, stride]

    def letterbox(image: np.ndarray, size: int) -> np.ndarray:
        if image.dtype != np.uint8 or image.strides[1:] != (image.shape[2], 1):
            image = np.ascontiguousarray(image, np.uint8)
        height, width, channels = image.shape
        square = np.empty((size, size, 3), np.uint8)
        source = (image.ctypes.data, width, height, channels, image.strides[0])
        if function(*source, square.ctypes.data, size, square.strides[0]) != 0:
            raise ValueError(f"letterbox.c refuses {width} x {height} pixels of {channels} bytes "
                             f"to {size}: sides are 1 to {LONGEST}, pixels 3 or 4 "
                             "bytes")  # fmt: skip
        return square

    return letterbox


def letterbox_by_opencv(image: np.ndarray, sizes: Sequence[int]) -> list[np.ndarray]:
    """Letterbox with OpenCV, which resizes four channels a third faster than three.

    The bytes are the same, and it pays for adding the fourth while the image is not large.
    """
    if image.shape[0] * image.shape[1] <= FOUR_CHANNEL_PIXELS:
        image = cv2.cvtColor(image, cv2.COLOR_RGB2RGBA)
    return [_letterbox(image, size) for size in sizes]


def _letterbox(image: np.ndarray, size: int) -> np.ndarray:
    """Letterbox three channels, or four of which the last is dropped."""
    height, width, channels = image.shape
    scaled = letterbox_size(width, height, size)
    if scaled != (width, height):  # INTER_LINEAR_EXACT is this very arithmetic but for `NUDGE`
        fx, fy = (scaled[0] / width) * (1 - NUDGE), (scaled[1] / height) * (1 - NUDGE)
        image = cv2.resize(image, None, fx=fx, fy=fy, interpolation=cv2.INTER_LINEAR_EXACT)
    square = np.zeros((size, size, 3), np.uint8)
    if channels == 4:
        cv2.cvtColor(image, cv2.COLOR_RGBA2RGB, dst=_inside(square, scaled))
    else:
        _inside(square, scaled)[:] = image
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
