"""Small pictures of every image, kept on disk, and hashes of what they show.

Enough to tell two images apart without decoding them again. The hashes are 64 bits of low
frequencies, robust to size, light and compression: they propose pairs, `likeness` decides.
"""

from __future__ import annotations

import tempfile

import numpy as np

SIDE = 48  # different photos of one scene part at 48 pixels, JPEG noise does not yet show
COLOUR_SIDE = 12
GREY_BYTES = SIDE * SIDE
RECORD_BYTES = GREY_BYTES + 2 * COLOUR_SIDE * COLOUR_SIDE
LUMA = np.array([0.299, 0.587, 0.114], np.float32)
# What is cut from each side. Between two neighbours of this list at most 3 % of the bits differ,
# so any cut up to about 4 % is met (measured on 1 400 photos).
CUTS = (0.0, 0.015, 0.03, 0.045)
COARSE = 8  # 8 x 8 frequencies are the hash
FINE = 12  # the next ones, up to 12 x 12, order pictures whose hashes are equal


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


def fingerprints(grey: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Hash grey squares [n, SIDE, SIDE] to coarse uint64 [n, len(CUTS)] and fine uint64 [n]."""
    coarse = []
    fine = np.empty(0, np.uint64)
    for cut in CUTS:
        basis = _cosines(cut)
        spectrum = basis @ grey @ basis.T
        coarse.append(_signs(_low_frequencies(spectrum)))
        if cut == 0:
            fine = _signs(_middle_frequencies(spectrum))
    return np.stack(coarse, axis=1), fine


def distance(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Count the bits in which hashes differ."""
    return np.bitwise_count(first ^ second)


def _cosines(cut: float) -> np.ndarray:
    position = (np.arange(SIDE) + 0.5) / SIDE
    inside = (position - cut) / (1 - 2 * cut)
    waves = np.cos(np.pi * np.arange(FINE + 1)[:, None] * inside)
    weight = np.clip((np.minimum(position, 1 - position) - cut) * SIDE + 0.5, 0, 1)
    return (waves * weight).astype(np.float32)


def _low_frequencies(spectrum: np.ndarray) -> np.ndarray:
    """Take the 8 × 8 block, but for its mean the next frequency down: 64 values without light."""
    block = spectrum[:, :COARSE, :COARSE].reshape(len(spectrum), -1).copy()
    block[:, 0] = spectrum[:, COARSE, 0]
    return block


def _middle_frequencies(spectrum: np.ndarray) -> np.ndarray:
    right = spectrum[:, :COARSE, COARSE:FINE].reshape(len(spectrum), -1)
    below = spectrum[:, COARSE:FINE, :COARSE].reshape(len(spectrum), -1)
    return np.concatenate([right, below], axis=1)


def _signs(values: np.ndarray) -> np.ndarray:
    bits = values > np.median(values, axis=1, keepdims=True)
    return np.packbits(bits, axis=1).view(">u8").ravel().astype(np.uint64)
