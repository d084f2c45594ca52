"""What the networks see, as tf.data: decoded, augmented, letterboxed, batched, normalised.

Every batch is a function of (settings, split, number of the batch): no shuffle buffer, no hidden
state. A stream that starts at epoch k is therefore the stream an uninterrupted run sees there.
Python only looks after the order; decoding (OpenCV) and letterboxing (C) leave the GIL.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import tempfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal, Protocol

import cv2
import numpy as np
import tensorflow as tf

from workbench.data.augment import augment, view_side
from workbench.data.decode import Buffers, count_cores, decode_image, map_in_order
from workbench.data.letterbox import letterbox, letterbox_all
from workbench.data.tables import Split
from workbench.errors import DatasetError, StepError
from workbench.settings import DatasetSettings, Mixup, Settings

# A cache of letterboxed evaluation images, in memory or on disk.

ARITHMETIC = "q8-1"  # raise the number when decoding or letterbox give other bytes
CHECKSUM_BYTES = 4

Squares = list[np.ndarray]


class Cache(Protocol):
    def read(self, key: str, sizes: Sequence[int]) -> Squares | None: ...

    def write(self, key: str, squares: Squares) -> None: ...


def open_cache(settings: DatasetSettings) -> Cache | None:
    """Open what `dataset.cache` asks for; None for none."""
    if settings.cache == "none":
        return None
    return MemoryCache() if settings.cache == "memory" else DiskCache(default_folder())


def default_folder() -> Path:
    """Return the cache folder of this user below the system's temporary folder."""
    return Path(tempfile.gettempdir()) / f"workbench_cache_{os.getuid()}"


def cached(
    cache: Cache | None,
    split: Split,
    index: int,
    sizes: Sequence[int],
    settings: DatasetSettings,
    make: Callable[[], Squares],
) -> Squares:
    """Return the squares of an image, from the cache where they are, else made and kept."""
    if cache is None:
        return make()
    key = _key(split.path(index), sizes, settings)
    squares = cache.read(key, sizes)
    if squares is None:
        squares = make()
        cache.write(key, squares)
    return squares


def _key(path: Path, sizes: Sequence[int], settings: DatasetSettings) -> str:
    try:
        status = path.stat()
    except OSError as error:
        raise DatasetError(f"{path} cannot be read: {error.strerror}.") from None
    state = (status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)
    rules = (ARITHMETIC, settings.exif, settings.max_pixels)
    return hashlib.sha256(repr((str(path), state, rules, tuple(sizes))).encode()).hexdigest()


class MemoryCache:
    def __init__(self) -> None:
        self._squares: dict[str, Squares] = {}

    def read(self, key: str, sizes: Sequence[int]) -> Squares | None:
        return self._squares.get(key)

    def write(self, key: str, squares: Squares) -> None:
        self._squares[key] = squares


class DiskCache:
    """One file an image: the squares' bytes and a checksum, since a crash may tear a file."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if folder.is_symlink() or folder.stat().st_uid != os.getuid():
            raise DatasetError(
                f"{folder} belongs to somebody else, who could change cached images. Remove it, or "
                "set dataset.cache: memory"
            )

    def read(self, key: str, sizes: Sequence[int]) -> Squares | None:
        try:
            data = self._path(key).read_bytes()
        except FileNotFoundError:
            return None
        pixels = data[:-CHECKSUM_BYTES]
        if zlib.crc32(pixels).to_bytes(CHECKSUM_BYTES, "big") != data[-CHECKSUM_BYTES:]:
            return None
        ends = np.cumsum([3 * size**2 for size in sizes])
        flat = np.split(np.frombuffer(pixels, np.uint8), ends[:-1])
        return [part.reshape(size, size, 3) for part, size in zip(flat, sizes, strict=True)]

    def write(self, key: str, squares: Squares) -> None:
        pixels = b"".join(square.tobytes() for square in squares)
        checksum = zlib.crc32(pixels).to_bytes(CHECKSUM_BYTES, "big")
        try:
            self._place(self._path(key), pixels + checksum)
        except OSError as error:
            raise StepError(
                f"{self._folder} cannot keep images: {error.strerror}. Make room there, or set "
                "dataset.cache: none"
            ) from None

    def _place(self, path: Path, data: bytes) -> None:
        """Write beside and rename; not `files.writing`, whose flush costs more than the image."""
        path.parent.mkdir(exist_ok=True)
        descriptor, partial = tempfile.mkstemp(dir=path.parent)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
            os.replace(partial, path)
        except OSError:
            os.unlink(partial)
            raise

    def _path(self, key: str) -> Path:
        return self._folder / key[:2] / key


log = logging.getLogger(__name__)

BATCHES_AHEAD = 2

Batch = list[np.ndarray]  # the views, targets, mask


@dataclass(frozen=True)
class View:
    """How one network wants an image: its side and its numbers."""

    size: int
    normalization: Literal["none", "lite"]  # none: float32 [0, 255]; lite: (x - 127) / 128


@dataclass(frozen=True)
class TrainingBatches:
    dataset: tf.data.Dataset  # endless: ((view, …), targets, mask), all float32
    steps_per_epoch: int


def training_batches(
    split: Split,
    views: tuple[View, ...],
    batch_size: int,
    settings: Settings,
    *,
    first_epoch: int = 0,
    shard: tuple[int, int] = (0, 1),
) -> TrainingBatches:
    """Stream augmented batches over epochs `first_epoch`, `first_epoch` + 1, …

    Batches of an epoch differ by at most one image, so that none is tiny and nothing is dropped.
    `shard` (worker, workers) gives every worker equally many steps; the last images of an epoch
    may be seen by two workers for that.
    """
    plan = _TrainingPlan(len(split), batch_size, settings.seed, shard)
    loader = _Loader(split, views, settings)

    def load(number: np.int64) -> Batch:
        epoch, step = divmod(int(number), plan.steps)
        return loader.training_batch(plan.indices(epoch, step), epoch, step, shard[0])

    numbers = tf.data.Dataset.counter(first_epoch * plan.steps)
    return TrainingBatches(_dataset(numbers, load, split, views, settings), plan.steps)


def evaluation_batches(
    split: Split, views: tuple[View, ...], batch_size: int, settings: Settings
) -> tf.data.Dataset:
    """Give every image once, in order, the last batch as small as it comes."""
    loader = _Loader(split, views, settings, open_cache(settings.dataset))
    if settings.dataset.cache != "none":
        size = len(split) * sum(3 * view.size**2 for view in views) / 1e6
        log.info("%s images take %.0f MB of cache (%s)", split.name, size, settings.dataset.cache)

    def load(number: np.int64) -> Batch:
        start = int(number) * batch_size
        return loader.evaluation_batch(range(start, min(start + batch_size, len(split))))

    numbers = tf.data.Dataset.range(-(-len(split) // batch_size))
    return _dataset(numbers, load, split, views, settings)


def letterboxed(
    split: Split, size: int, settings: Settings, indices: Sequence[int] | None = None
) -> Iterator[np.ndarray]:
    """Yield uint8 [size, size, 3] of every image, or of those at `indices`, without TensorFlow."""

    def square(index: int) -> np.ndarray:
        return letterbox(decode_image(split.path(index), settings.dataset), size)

    wanted = range(len(split)) if indices is None else indices
    yield from map_in_order(square, wanted, count_cores(settings.run.threads))


@contextmanager
def plain_errors() -> Iterator[None]:
    """Turn what tf.data makes of one of our errors back into the error that it was."""
    try:
        yield
    except tf.errors.OpError as error:
        ours = re.search(r"(DatasetError|StepError): (.+)", error.message)
        if ours is None:
            raise
        if ours[1] == "StepError":
            raise StepError(ours[2]) from None
        raise DatasetError(
            f"{ours[2]} The audit could read it: run 01_dataset_audit again."
        ) from None


def _dataset(
    numbers: tf.data.Dataset,
    load: Callable[[np.int64], Batch],
    split: Split,
    views: tuple[View, ...],
    settings: Settings,
) -> tf.data.Dataset:
    """Map batch numbers to batches, in parallel and in order."""
    shapes = [(None, view.size, view.size, 3) for view in views]
    shapes += [(None, len(split.classes))] * 2

    def load_tensors(number: tf.Tensor) -> tuple:
        arrays = tf.numpy_function(load, [number], [tf.float32] * len(shapes), stateful=False)
        *images, targets, mask = (
            tf.ensure_shape(array, shape) for array, shape in zip(arrays, shapes, strict=True)
        )
        return tuple(images), targets, mask

    options = tf.data.Options()
    options.deterministic = True
    # Shards are ours; TensorFlow would shard what is a shard already.
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
    # One more than cores: a batch that is ready but not yet its turn must not idle a core.
    calls = count_cores(settings.run.threads) + 1
    batches = numbers.map(load_tensors, num_parallel_calls=calls)
    return batches.prefetch(BATCHES_AHEAD).with_options(options)


class _TrainingPlan:
    """Which images make which batch: a fresh permutation an epoch, dealt out to the workers."""

    def __init__(self, images: int, batch_size: int, seed: int, shard: tuple[int, int]) -> None:
        if images == 0:
            raise DatasetError("The train split has no images.")
        self._images, self._seed, (self._worker, self._workers) = images, seed, shard
        self._share = -(-images // self._workers)
        self.steps = -(-self._share // batch_size)
        self._epoch_order = lru_cache(maxsize=2)(self._draw_order)

    def indices(self, epoch: int, step: int) -> np.ndarray:
        order = self._epoch_order(epoch)
        bounds = [number * len(order) // self.steps for number in (step, step + 1)]
        return order[slice(*bounds)]

    def _draw_order(self, epoch: int) -> np.ndarray:
        order = np.random.default_rng([self._seed, epoch]).permutation(self._images)
        return np.resize(order, self._share * self._workers)[self._worker :: self._workers]


class _Loader:
    """Turns indices into the float32 arrays of one batch."""

    def __init__(
        self, split: Split, views: tuple[View, ...], settings: Settings, cache: Cache | None = None
    ) -> None:
        self._split, self._views, self._settings, self._cache = split, views, settings, cache
        self._sizes = [view.size for view in views]
        self._view_side = view_side(self._sizes)
        self._buffers = Buffers()
        # tf.data already runs one batch a core; threads inside OpenCV would fight over the cores.
        cv2.setNumThreads(0)

    def training_batch(self, indices: np.ndarray, epoch: int, step: int, worker: int) -> Batch:
        batch = self._batch(indices, lambda index: self._augmented(index, epoch))
        mixup = self._settings.augmentation.mixup
        if mixup.enabled:
            rng = np.random.default_rng([self._settings.seed, epoch, step, worker])
            batch = mix_up(batch, rng, mixup)
        return batch

    def evaluation_batch(self, indices: Sequence[int]) -> Batch:
        return self._batch(indices, self._as_it_is)

    def _as_it_is(self, index: int) -> list[np.ndarray]:
        def make() -> list[np.ndarray]:
            return letterbox_all(self._decode(index), self._sizes)

        return cached(self._cache, self._split, index, self._sizes, self._settings.dataset, make)

    def _augmented(self, index: int, epoch: int) -> list[np.ndarray]:
        """Augment once and letterbox the one view for every network."""
        view = augment(
            self._decode(index),
            seed=self._settings.seed,
            epoch=epoch,
            index=int(index),
            settings=self._settings.augmentation,
            longest=self._view_side,
        )
        return letterbox_all(view, self._sizes)

    def _decode(self, index: int) -> np.ndarray:
        return decode_image(self._split.path(index), self._settings.dataset)

    def _batch(
        self, indices: Sequence[int], squares_of: Callable[[int], list[np.ndarray]]
    ) -> Batch:
        images = [self._buffers.lend((len(indices), size, size, 3)) for size in self._sizes]
        for row, index in enumerate(indices):
            for batch, square, view in zip(images, squares_of(index), self._views, strict=True):
                normalize(square, view.normalization, out=batch[row])
        rows = np.asarray(indices)
        return [*images, self._split.targets[rows], self._split.mask[rows]]


def normalize(square: np.ndarray, normalization: str, out: np.ndarray) -> None:
    """Write uint8 pixels as the network's float32 numbers; both forms are exact."""
    if normalization == "none":
        np.copyto(out, square)
    else:  # one pass; 1/128 and 127/128 are exact, so this is (x - 127) / 128 to the bit
        cv2.addWeighted(square, 1 / 128, square, 0, -127 / 128, dst=out, dtype=cv2.CV_32F)


def mix_up(batch: Batch, rng: np.random.Generator, mixup: Mixup) -> Batch:
    """Blend every image with a partner: the same pairs and shares in all views and targets.

    A label unknown for either partner is unknown for the blend.
    """
    *blended, mask = batch
    partner = rng.permutation(len(mask))
    share = rng.beta(mixup.alpha, mixup.alpha, len(mask)).astype(np.float32)
    mixed = []
    for array in blended:
        weight = share.reshape(-1, *[1] * (array.ndim - 1))
        mixed.append(weight * array + (1 - weight) * array[partner])
    return [*mixed, mask * mask[partner]]


# A sheet of what becomes of an image: as read, augmented, and as each network sees it.


@dataclass(frozen=True)
class SheetRow:
    """One image through the pipeline, every picture uint8 [H, W, 3]."""

    title: str
    original: np.ndarray
    augmented: tuple[np.ndarray, ...]  # the same image in the first epochs
    teacher: np.ndarray  # the first augmented view, letterboxed for the teacher
    student: np.ndarray  # and the very same view, letterboxed for the student


def sample_sheet(split: Split, settings: Settings, count: int, variants: int = 3) -> list[SheetRow]:
    """Take `count` images spread over the split through decoding, augmentation and letterbox."""
    places = np.linspace(0, len(split) - 1, min(count, len(split))).astype(int)
    return [_row(split, int(place), settings, variants) for place in places]


def _row(split: Split, index: int, settings: Settings, variants: int) -> SheetRow:
    original = decode_image(split.path(index), settings.dataset)
    longest = view_side((settings.teacher_size, settings.student_size))
    views = tuple(
        augment(
            original,
            seed=settings.seed,
            epoch=epoch,
            index=index,
            settings=settings.augmentation,
            longest=longest,
        )
        for epoch in range(variants)
    )
    teacher = letterbox(views[0], settings.teacher_size)
    student = letterbox(views[0], settings.student_size)
    return SheetRow(split.filepaths[index], original, views, teacher, student)
