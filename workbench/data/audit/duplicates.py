"""Copies of one photo: files of equal bytes, files of equal pictures, and the groups they form.

A near-linear search by hash, then a strict comparison of thumbnails. No image is opened.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from workbench.data.audit.facts import CONSTANT_RANGE, Collection, Thumbnails, collect_facts, unpack
from workbench.data.audit.likeness import MINIMUM_CONTRAST, SAME, compare
from workbench.data.decode import count_cores, map_in_order
from workbench.settings import Settings

if TYPE_CHECKING:
    from workbench.data.tables import Dataset

HASH_BITS = 64
PREFIX_BITS = 32
# Twelve orders of the bits: four starts, three strides. Their prefixes cover every bit often, so
# a pair that differs in 6 bits shares a long prefix in one of them (missed: under 1 in 1 000).
ORDERS = tuple((start, stride) for start in (0, 16, 32, 48) for stride in (1, 11, 23))
WINDOW = 8  # neighbours looked at on each side after sorting
SKETCH_SIDE = 12
# What a pair must pass, not aligned, before the exact comparison; true pairs kept half as much
# distance from either limit again (3 000 drawn and 2 000 real photos, copied in nine ways).
MINIMUM_SKETCH = 0.82  # correlation of 12 x 12 greys
MAXIMUM_TINT = 3.0  # mean difference of the colours of the four quarters, in levels
TINT_SHARE = 0.2  # and this much of their strength: a cut border makes a red thing larger
PAIRS_AT_ONCE = 64  # what stays in a core's cache
SKETCHES_AT_ONCE = 1024
FIRST_ROUND = 4096  # pairs compared before the first look at what is settled
MOST_LOOKS = 40


def find_near_duplicates(
    collection: Collection, store: Thumbnails, wanted: np.ndarray, maximum_bits: int, threads: int
) -> tuple[pd.DataFrame, int]:
    """Search among the images where `wanted` is true; the others stay alone.

    Returns pairs (first, second, bits, distance) and how many went to the exact comparison.
    """
    images = np.flatnonzero(wanted)
    sketches, tints, telling = _sketch(store, images)
    images, sketches, tints = images[telling], sketches[telling], tints[telling]
    pairs = candidate_pairs(collection.coarse[images], collection.fine[images], maximum_bits)
    pairs = images[pairs[_sketches_agree(sketches, tints, pairs)]]
    return _compare_closest_first(store, collection.coarse, pairs, threads)


def _compare_closest_first(
    store: Thumbnails, coarse: np.ndarray, pairs: np.ndarray, threads: int
) -> tuple[pd.DataFrame, int]:
    """Compare pairs exactly, in growing rounds, leaving out what the rounds before have settled.

    A thousand copies of a photo need a thousand comparisons, not half a million; and nobody needs
    the fortieth look at an image that resembles everything and equals nothing.
    """
    bits = _fewest_bits(coarse, pairs[:, 0], pairs[:, 1])
    order = np.argsort(bits, kind="stable")
    pairs, bits = pairs[order], bits[order]
    found = np.empty((4, 0))  # first, second, bits, distance
    looks = np.zeros(len(coarse), np.int64)
    size = FIRST_ROUND
    while len(pairs):
        now, pairs = pairs[:size], pairs[size:]
        apart = _compare_all(store, now, threads)
        same = apart < SAME
        found = np.hstack([found, np.stack([*now.T, bits[:size], apart])[:, same]])
        looks += np.bincount(now.ravel(), minlength=len(looks))
        groups = connect(len(looks), *found[:2].astype(np.int64))
        unsettled = groups[pairs[:, 0]] != groups[pairs[:, 1]]
        unsettled &= (looks[pairs] < MOST_LOOKS).any(axis=1)
        pairs, bits = pairs[unsettled], bits[size:][unsettled]
        size *= 2
    table = pd.DataFrame(dict(zip(("first", "second", "bits", "distance"), found, strict=True)))
    table = table.astype({"first": np.int64, "second": np.int64, "bits": np.int64})
    return table, int(looks.sum() // 2)


def distance(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Count the bits in which hashes differ."""
    return np.bitwise_count(first ^ second)


def connect(count: int, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Number the groups that pairs form among `count` images."""
    links = coo_matrix((np.ones(len(first), bool), (first, second)), shape=(count, count))
    return connected_components(links, directed=False)[1].astype(np.int64)


def candidate_pairs(coarse: np.ndarray, fine: np.ndarray, maximum_bits: int) -> np.ndarray:
    """Propose pairs [n, 2] of images whose hashes differ in few bits.

    The whole of one image is held against the whole and every cut of the others.
    """
    count = len(coarse)
    found = [np.empty(0, np.int64)]
    whole = np.arange(count)
    for cut in range(coarse.shape[1]):
        hashes, owners = coarse[:, 0], whole
        ties = fine
        if cut:
            hashes = np.concatenate([hashes, coarse[:, cut]])
            owners, ties = np.tile(whole, 2), np.tile(fine, 2)
        for order in ORDERS:
            pairs = _neighbours(hashes, ties, owners, order, maximum_bits)
            found.append(np.unique(pairs))
        found = [np.unique(np.concatenate(found))]
    return np.stack(np.divmod(found[0], max(1, count)), axis=1)


def _neighbours(
    hashes: np.ndarray, ties: np.ndarray, owners: np.ndarray, order: tuple[int, int],
    maximum_bits: int,
) -> np.ndarray:  # fmt: skip
    """Sort by the bits in `order`; return close neighbours as `smaller * count + larger`."""
    count = int(owners[-1]) + 1 if len(owners) else 0
    ranks = np.argsort(_sort_keys(hashes, ties, order), kind="stable")
    hashes, owners, cuts = hashes[ranks], owners[ranks], ranks >= count
    found = [np.empty(0, np.int64)]
    for step in range(1, WINDOW + 1):
        near = distance(hashes[step:], hashes[:-step]) <= maximum_bits
        near &= owners[step:] != owners[:-step]
        near &= ~(cuts[step:] & cuts[:-step])
        place = np.flatnonzero(near)
        one, other = owners[place], owners[place + step]
        found.append(np.minimum(one, other) * count + np.maximum(one, other))
    return np.concatenate(found)


def _sort_keys(hashes: np.ndarray, ties: np.ndarray, order: tuple[int, int]) -> np.ndarray:
    """Put the first bits of `order` in the upper half of a key, and the fine hash below."""
    start, stride = order
    keys = np.zeros(len(hashes), np.uint64)
    for place in range(PREFIX_BITS):
        bit = np.uint64((start + stride * place) % HASH_BITS)
        keys = (keys << np.uint64(1)) | ((hashes >> bit) & np.uint64(1))
    return (keys << np.uint64(PREFIX_BITS)) | (ties >> np.uint64(PREFIX_BITS))


def _sketch(store: Thumbnails, images: np.ndarray) -> tuple[np.ndarray, ...]:
    """Shrink thumbnails to int8 sketches of grey and of tint; say which of them show anything."""
    sketches = np.zeros((len(images), SKETCH_SIDE**2), np.int8)
    tints = np.zeros((len(images), 8), np.int8)
    telling = np.zeros(len(images), bool)
    for start in range(0, len(images), SKETCHES_AT_ONCE):
        here = slice(start, start + SKETCHES_AT_ONCE)
        grey, colour = unpack(store.read(images[here]))
        cells = _average(grey, SKETCH_SIDE)
        cells -= cells.mean(axis=1, keepdims=True)
        length = np.linalg.norm(cells, axis=1, keepdims=True)
        sketches[here] = np.rint(127 * cells / np.maximum(length, 1e-6))
        tints[here] = np.rint(_average(colour.reshape(-1, *colour.shape[2:]), 2).reshape(-1, 8) / 2)
        telling[here] = length[:, 0] >= MINIMUM_CONTRAST * SKETCH_SIDE
    return sketches, tints, telling


def _average(pictures: np.ndarray, side: int) -> np.ndarray:
    """Average squares [n, m, m] in cells, float32 [n, side * side]."""
    block = pictures.shape[-1] // side
    return pictures.reshape(-1, side, block, side, block).mean(axis=(2, 4)).reshape(-1, side * side)


def _sketches_agree(sketches: np.ndarray, tints: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    agree = np.zeros(len(pairs), bool)
    for start in range(0, len(pairs), SKETCHES_AT_ONCE):
        here = slice(start, start + SKETCHES_AT_ONCE)
        first, second = (sketches[pairs[here, side]].astype(np.float32) for side in (0, 1))
        likeness = np.vecdot(first, second) / 127**2
        first, second = (tints[pairs[here, side]].astype(np.float32) for side in (0, 1))
        difference = 2 * np.abs(first - second).mean(axis=1)
        strength = np.abs(first + second).mean(axis=1)
        allowed = MAXIMUM_TINT + TINT_SHARE * strength
        agree[here] = (likeness >= MINIMUM_SKETCH) & (difference <= allowed)
    return agree


def _compare_all(store: Thumbnails, pairs: np.ndarray, threads: int) -> np.ndarray:
    """Give the distance of every pair, as `likeness` measures it."""

    def chunks() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for start in range(0, len(pairs), PAIRS_AT_ONCE):
            chunk = pairs[start : start + PAIRS_AT_ONCE]
            records = store.read(chunk.ravel()).reshape(len(chunk), 2, -1)
            yield records[:, 0], records[:, 1]

    results = map_in_order(lambda records: compare(*records), chunks(), threads)
    return np.concatenate([np.empty(0, np.float32), *results])


def _fewest_bits(coarse: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    fewest = np.full(len(first), HASH_BITS)
    for cut in range(coarse.shape[1]):
        fewest = np.minimum(fewest, distance(coarse[first, 0], coarse[second, cut]))
        fewest = np.minimum(fewest, distance(coarse[first, cut], coarse[second, 0]))
    return fewest


@dataclass(frozen=True)
class Duplicates:
    """Group numbers of every row; rows of one group show the same photo."""

    files: np.ndarray  # int64: equal bytes
    photos: np.ndarray  # int64: equal bytes or the same picture
    pairs: pd.DataFrame  # near-duplicates: first, second (row numbers), bits, distance


def _same_files(table: pd.DataFrame) -> np.ndarray:
    """Number the rows by content; files that are no images stay alone, however alike."""
    alone = pd.Series(np.arange(len(table)).astype(str), table.index, dtype=object)
    return pd.factorize(table["sha256"].where(table["refused"].isna(), alone))[0].astype(np.int64)


def find_duplicates(
    collection: Collection, store: Thumbnails, maximum_bits: int, threads: int
) -> Duplicates:
    """Search equal bytes first; of those one goes on to the search for equal pictures."""
    table = collection.table
    files = _same_files(table)
    shows_something = table["refused"].isna() & (table["range"] > CONSTANT_RANGE)
    wanted = shows_something & ~pd.Series(files).duplicated()
    near, _ = find_near_duplicates(collection, store, wanted.to_numpy(), maximum_bits, threads)
    order = np.argsort(files, kind="stable")
    chained = np.flatnonzero(np.diff(files[order]) == 0)
    first = np.concatenate([order[chained], near["first"].to_numpy(np.int64)])
    second = np.concatenate([order[chained + 1], near["second"].to_numpy(np.int64)])
    return Duplicates(files, connect(len(files), first, second), near)


class Photos:
    """Photos that were each read once: their facts, and the copies among any of them.

    Thumbnails stay on disk as long as this lives. A split and the audit after it ask in turn, and
    neither reads what the other has read, unless a file has changed since.
    """

    def __init__(self, images: Path, names: Sequence[str], settings: Settings) -> None:
        self._settings, self._images = settings, images
        self._stamps = _stamp(images, names)
        self._row_of = {name: row for row, name in enumerate(names)}
        self._store = Thumbnails()
        weakref.finalize(self, self._store.close)
        paths = [images / name for name in names]
        threads = count_cores(settings.run.threads)
        self._collection = collect_facts(paths, settings.dataset, self._store, threads)
        self._found: tuple[np.ndarray, int, Duplicates] | None = None

    def hold(self, images: Path, names: Sequence[str], settings: Settings) -> bool:
        """Say whether all these are here, read in the same way and unchanged since."""
        alike = (images, settings.dataset) == (self._images, self._settings.dataset)
        if not alike or not self._row_of.keys() >= set(names):
            return False
        return np.array_equal(_stamp(images, names), self._stamps[self._rows(names)])

    def _rows(self, names: Sequence[str]) -> np.ndarray:
        return np.array([self._row_of[name] for name in names], np.int64)

    def facts(self, names: Sequence[str]) -> Collection:
        """Give what was measured of these, in their order."""
        return self._collection.take(self._rows(names))

    def copies(self, names: Sequence[str], settings: Settings) -> Duplicates:
        """Search for copies among these alone; the last answer is kept."""
        rows, bits = self._rows(names), settings.audit.near_duplicate_bits
        if self._found and bits == self._found[1] and np.array_equal(rows, self._found[0]):
            return self._found[2]
        threads = count_cores(settings.run.threads)
        found = find_duplicates(self.facts(names), self._store.only(rows), bits, threads)
        self._found = rows, bits, found
        return found


def _stamp(images: Path, names: Sequence[str]) -> np.ndarray:
    """Note size and times of files, int64 [files, 3]: what was read is as good as they are old."""

    def facts(name: str) -> tuple[int, int, int]:
        try:
            status = os.stat(os.path.join(images, name))
        except (OSError, ValueError):
            return -1, -1, -1
        return status.st_size, status.st_mtime_ns, status.st_ctime_ns

    flat = (value for name in names for value in facts(name))
    return np.fromiter(flat, np.int64, 3 * len(names)).reshape(-1, 3)


def read_photos(dataset: Dataset, settings: Settings) -> Dataset:
    """Give the dataset what there is to know of its photos, each read once."""
    names = dataset.rows["filepath"].tolist()
    if dataset.photos and dataset.photos.hold(dataset.images, names, settings):
        return dataset
    return replace(dataset, photos=Photos(dataset.images, names, settings))


def groups_of(numbers: np.ndarray) -> list[list[int]]:
    """List the rows of every group with more than one."""
    order = np.argsort(numbers, kind="stable")
    ordered = numbers[order]
    starts = np.flatnonzero(np.diff(ordered, prepend=-1))
    sizes = np.diff(starts, append=len(order))
    chosen = sizes > 1
    return [
        order[start : start + size].tolist()
        for start, size in zip(starts[chosen], sizes[chosen], strict=True)
    ]


def disputed_labels(labels: Sequence[tuple[str, ...]], unknown: Sequence[tuple[str, ...]]) -> set:
    """Name the classes that one member has and another denies; not to know is not to deny."""
    views = [set(has).union(open_) for has, open_ in zip(labels, unknown, strict=True)]
    return set().union(*labels) - set.intersection(*views)
