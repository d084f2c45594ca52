"""One pass over the images: each is read and decoded once, and everything is measured then.

Threads, since decoding and measuring run outside Python's lock. What is kept of an image is one
row, a thumbnail on disk and five hashes, so memory stays flat. Judges nothing: see `findings`.

Thumbnails are enough to tell two images apart without decoding them again. The hashes are 64 bits
of low frequencies, robust to size, light and compression: they propose pairs, `likeness` decides.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass, fields
from operator import attrgetter
from pathlib import Path

import cv2
import numpy as np
import pandas as pd

from workbench.data.decode import ImageFacts, count_cores, examine_image, map_in_order
from workbench.settings import DatasetSettings

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
BLOCK_IMAGES = 64  # enough for NumPy to work in bulk, little enough to keep every core busy
# Statistics are taken near the scale networks see; a sharp 12 Mpx photo and its small copy agree.
STATISTICS_SIDE = 256
COLOUR_SAMPLES = 72  # pixels a side: 36 in each cell of the colour square
CONSTANT_RANGE = 4  # levels from the darkest to the brightest pixel; JPEG wavers by 2
HEADER_COLUMNS = tuple(field.name for field in fields(ImageFacts))
MEASURES = ("range", "sharpness", "brightness", "darkest", "brightest", "contrast")


# Of neighbouring images: headers; measures, float32 [images, MEASURES], NaN where refused; coarse
# hashes, uint64 [images, CUTS]; fine ones, uint64 [images]; records, uint8 [images, RECORD_BYTES].
Block = tuple[list[ImageFacts], np.ndarray, np.ndarray, np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Collection:
    """Facts of all images, in the order of the paths that were asked for."""

    table: pd.DataFrame
    coarse: np.ndarray
    fine: np.ndarray

    def take(self, rows: np.ndarray) -> Collection:
        """Give the facts of these rows, in this order."""
        table = self.table.iloc[rows].reset_index(drop=True)
        return Collection(table, self.coarse[rows], self.fine[rows])


def collect_facts(
    paths: Sequence[Path], dataset: DatasetSettings, store: Thumbnails, threads: int = 0
) -> Collection:
    """Examine every path once, on `threads` cores (0: all); thumbnails go to `store`."""

    def examine(start: int) -> Block:
        return _examine_block(paths[start : start + BLOCK_IMAGES], dataset)

    columns: dict[str, list] = {name: [] for name in HEADER_COLUMNS}
    measures = np.empty((len(paths), len(MEASURES)), np.float32)
    coarse = np.empty((len(paths), len(CUTS)), np.uint64)
    fine = np.empty(len(paths), np.uint64)
    starts = range(0, len(paths), BLOCK_IMAGES)
    blocks = map_in_order(examine, starts, count_cores(threads))
    for start, (headers, *values, records) in zip(starts, blocks, strict=True):
        for name, column in columns.items():
            column.extend(map(attrgetter(name), headers))
        here = slice(start, start + len(headers))
        measures[here], coarse[here], fine[here] = values
        store.write(start, records)
    table = pd.DataFrame(columns)
    table["refused"] = table["refused"].astype(object).where(table["refused"].notna(), None)
    table[list(MEASURES)] = measures
    return Collection(table, coarse, fine)


def _examine_block(paths: Sequence[Path], dataset: DatasetSettings) -> Block:
    headers = []
    grey = np.zeros((len(paths), SIDE, SIDE), np.uint8)
    colour = np.zeros((len(paths), COLOUR_SIDE, COLOUR_SIDE, 3), np.uint8)
    full = np.full((len(paths), 2), np.nan, np.float32)
    for number, path in enumerate(paths):
        facts, pixels = examine_image(path, dataset)
        headers.append(facts)
        if pixels is not None:
            grey[number], colour[number], full[number] = _measure(pixels)
    measures = np.concatenate([full, _light(grey)], axis=1)
    measures[np.isnan(full[:, 0])] = np.nan
    return headers, measures, *fingerprints(grey.astype(np.float32)), pack(grey, colour)


def _measure(pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray, tuple[float, float]]:
    """Give the grey and the colour square of an image, its range of greys and its sharpness."""
    grey = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
    darkest, brightest, _, _ = cv2.minMaxLoc(grey)
    reduced, span = _reduce(grey), brightest - darkest
    # in two steps: a quarter of the time of one, to half a level equal
    double = cv2.resize(reduced, (2 * SIDE, 2 * SIDE), interpolation=cv2.INTER_LINEAR)
    square = cv2.resize(double, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
    # coarse cells of some thousand pixels spread over the image
    some = cv2.resize(pixels, (COLOUR_SAMPLES, COLOUR_SAMPLES), interpolation=cv2.INTER_NEAREST)
    colours = cv2.resize(some, (COLOUR_SIDE, COLOUR_SIDE), interpolation=cv2.INTER_AREA)
    return square, colours, (span, _sharpness(reduced, span))


def _sharpness(grey: np.ndarray, light_range: float) -> float:
    """Give the strongest edge, 1 for a white dot on black.

    A sharp photo has one somewhere, whatever it shows; the mean edge would follow the subject.
    """
    lowest, highest, _, _ = cv2.minMaxLoc(cv2.Laplacian(grey, cv2.CV_16S))
    return max(-lowest, highest) / (4 * max(light_range, CONSTANT_RANGE))


def _reduce(grey: np.ndarray) -> np.ndarray:
    """Shrink by a whole factor: several times faster in OpenCV than to an exact size."""
    height, width = grey.shape
    factor = -(-max(height, width) // STATISTICS_SIDE)
    if factor == 1:
        return grey
    down, across = min(factor, height), min(factor, width)
    rows, columns = height // down, width // across
    whole = grey[: rows * down, : columns * across]
    return cv2.resize(whole, (columns, rows), interpolation=cv2.INTER_AREA)


def _light(grey: np.ndarray) -> np.ndarray:
    """Give mean, darkest and brightest twentieth and spread of grey squares, [n, 4]."""
    levels = grey.reshape(len(grey), -1)
    ordered = np.sort(levels, axis=1, kind="stable")  # a radix sort, for bytes
    low, high = round(0.05 * levels.shape[1]), round(0.95 * levels.shape[1])
    values = levels.astype(np.float32)
    mean = values.mean(axis=1)
    spread = np.sqrt(np.maximum(np.vecdot(values, values) / levels.shape[1] - mean**2, 0))
    return np.stack([mean, ordered[:, low], ordered[:, high], spread], axis=1).astype(np.float32)


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
    """Records by image number, written in any order, in a file that is gone once it is closed."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile(prefix="workbench_thumbnails_")  # noqa: SIM115
        self._rows: np.ndarray | None = None

    def __enter__(self) -> Thumbnails:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._file.close()

    def only(self, rows: np.ndarray) -> Thumbnails:
        """Number some of the records anew, in this order."""
        some = copy(self)
        some._rows = rows
        return some

    def write(self, start: int, records: np.ndarray) -> None:
        """Store the records of images `start`, `start + 1`, …"""
        self._file.seek(start * RECORD_BYTES)
        self._file.write(np.ascontiguousarray(records).data)

    def read(self, images: np.ndarray) -> np.ndarray:
        """Read the records of `images`, uint8 [len(images), RECORD_BYTES]; neighbours in one go."""
        self._file.flush()
        images = images if self._rows is None else self._rows[images]
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
        low = spectrum[:, :COARSE, :COARSE].reshape(len(spectrum), -1).copy()
        low[:, 0] = spectrum[:, COARSE, 0]  # not the mean, which is light, but the next one down
        coarse.append(_signs(low))
        if cut == 0:
            right, below = spectrum[:, :COARSE, COARSE:FINE], spectrum[:, COARSE:FINE, :COARSE]
            middle = [part.reshape(len(spectrum), -1) for part in (right, below)]
            fine = _signs(np.concatenate(middle, axis=1))
    return np.stack(coarse, axis=1), fine


def _cosines(cut: float) -> np.ndarray:
    position = (np.arange(SIDE) + 0.5) / SIDE
    inside = (position - cut) / (1 - 2 * cut)
    waves = np.cos(np.pi * np.arange(FINE + 1)[:, None] * inside)
    weight = np.clip((np.minimum(position, 1 - position) - cut) * SIDE + 0.5, 0, 1)
    return (waves * weight).astype(np.float32)


def _signs(values: np.ndarray) -> np.ndarray:
    bits = values > np.median(values, axis=1, keepdims=True)
    return np.packbits(bits, axis=1).view(">u8").ravel().astype(np.uint64)
