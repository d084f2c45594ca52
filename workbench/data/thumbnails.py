"""Small pictures of every image, on disk: enough to tell two images apart without decoding again.

A thumbnail is a grey square and two coarse colour planes, 2.6 kB an image. They lie in a temporary
file without a name, so memory stays flat however many images there are.
"""

from __future__ import annotations

import tempfile

import numpy as np

SIDE = 48  # different photos of one scene part at 48 pixels, JPEG noise does not yet show
COLOUR_SIDE = 12
GREY_BYTES = SIDE * SIDE
RECORD_BYTES = GREY_BYTES + 2 * COLOUR_SIDE * COLOUR_SIDE
LUMA = np.array([0.299, 0.587, 0.114], np.float32)


def pack(grey: np.ndarray, colour: np.ndarray) -> np.ndarray:
    """Join grey squares [n, SIDE, SIDE] and RGB [n, COLOUR_SIDE, COLOUR_SIDE, 3] to records."""
    count = len(grey)
    # red and blue against grey, halved to fit a byte
    planes = (colour[..., [0, 2]] - (colour @ LUMA)[..., None]) / 2 + 128
    planes = np.rint(planes).astype(np.uint8).transpose(0, 3, 1, 2)
    return np.concatenate([grey.reshape(count, -1), planes.reshape(count, -1)], axis=1)


def unpack(records: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Give grey float32 [n, SIDE, SIDE] and colour float32 [n, 2, COLOUR_SIDE, COLOUR_SIDE]."""
    grey = records[:, :GREY_BYTES].astype(np.float32).reshape(-1, SIDE, SIDE)
    colour = records[:, GREY_BYTES:].astype(np.float32)
    return grey, (colour.reshape(-1, 2, COLOUR_SIDE, COLOUR_SIDE) - 128) * 2


class Thumbnails:
    """Records by image number, written in any order, in a file that goes with the object."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile(prefix="workbench_thumbnails_")  # noqa: SIM115

    def __enter__(self) -> Thumbnails:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def write(self, start: int, records: np.ndarray) -> None:
        """Store the records of images `start`, `start + 1`, …"""
        self._file.seek(start * RECORD_BYTES)
        self._file.write(np.ascontiguousarray(records).data)

    def read(self, images: np.ndarray) -> np.ndarray:
        """Read the records of `images`, uint8 [len(images), RECORD_BYTES]; neighbours in one go."""
        self._file.flush()
        wanted, place = np.unique(images, return_inverse=True)
        records = np.empty((len(wanted), RECORD_BYTES), np.uint8)
        starts = np.flatnonzero(np.diff(wanted, prepend=-2) != 1)
        for start, stop in zip(starts, np.append(starts[1:], len(wanted)), strict=False):
            self._file.seek(int(wanted[start]) * RECORD_BYTES)
            self._file.readinto(records[start:stop].data)
        return records[place]
