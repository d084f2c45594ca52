"""Memory for batches: handed to TensorFlow without a copy, and used again once it has let go.

Fresh memory for every batch would cost the kernel a tenth of the pipeline's time, page by page.
"""

from __future__ import annotations

import math
import weakref
from collections import defaultdict

import numpy as np

ALIGNMENT_BYTES = 64  # TensorFlow takes an array over as it is when it starts like this


class Buffers:
    """Lends float32 arrays; their memory comes back when nobody refers to the array any more."""

    def __init__(self) -> None:
        self._free: defaultdict[int, list[np.ndarray]] = defaultdict(list)

    def lend(self, shape: tuple[int, ...]) -> np.ndarray:
        """Return an array of `shape` with arbitrary contents; keep no slice of it longer."""
        values = math.prod(shape)
        free = self._free[values]
        try:
            buffer = free.pop()  # one bytecode: safe between threads
        except IndexError:
            buffer = np.empty(values + ALIGNMENT_BYTES // 4, np.float32)
        start = (-buffer.ctypes.data % ALIGNMENT_BYTES) // 4
        array = buffer[start : start + values].reshape(shape)
        weakref.finalize(array, free.append, buffer).atexit = False
        return array
