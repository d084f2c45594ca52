"""`letterbox.c` as a function of Python, where a C compiler was at hand at installation.

Installing compiles the file into a library beside it if it can. ctypes calls it outside the GIL.
"""

from __future__ import annotations

import ctypes
import sysconfig
from collections.abc import Callable
from pathlib import Path

import numpy as np

SOURCE = Path(__file__).with_name("letterbox.c")
LIBRARY = SOURCE.with_name(f"_letterbox{sysconfig.get_config_var('EXT_SUFFIX')}")
LONGEST = 1_000_000  # LETTERBOX_LONGEST in letterbox.h

Letterbox = Callable[[np.ndarray, int], np.ndarray]


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
            raise ValueError(
                f"letterbox.c refuses {width} x {height} pixels of {channels} bytes to {size}: "
                f"sides are 1 to {LONGEST}, pixels 3 or 4 bytes"
            )
        return square

    return letterbox
