"""What the networks see, as tf.data: decoded, augmented, letterboxed, batched, normalised.

Every batch is a function of (settings, split, number of the batch): no shuffle buffer, no hidden
state. A stream that starts at epoch k is therefore the stream an uninterrupted run sees there.
Python only looks after the order; decoding (OpenCV) and letterboxing (C) leave the GIL.
"""

from __future__ import annotations

import hashlib
import logging
import math
import os
import re
import tempfile
import time
import weakref
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import tensorflow as tf

from workbench.data.decode import count_cores, decode_image
from workbench.data.letterbox import letterbox_all
from workbench.data.views import Augment, Purpose, View, augmented, normalize, random_stream
from workbench.errors import DatasetError, StepError
from workbench.settings import DatasetSettings, Mixup, Settings

if TYPE_CHECKING:
    from workbench.data.tables import Split

log = logging.getLogger(__name__)

BATCHES_AHEAD = 2
ALIGNMENT_BYTES = 64  # TensorFlow takes an array over as it is when it starts like this

ARITHMETIC = "q8-1"  # raise the number when decoding or letterbox give other bytes
CHECKSUM_BYTES = 4

Squares = list[np.ndarray]  # uint8 [size, size, 3], one a size
Batch = list[np.ndarray]  # the views, targets, mask


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
    augment: Augment | None = None,
    first_epoch: int = 0,
    shard: tuple[int, int] = (0, 1),
) -> TrainingBatches:
    """Stream augmented batches over epochs `first_epoch`, `first_epoch` + 1, …

    `augment`, a function (image, rng) -> image, takes the place of the settings' augmentation.
    Batches of an epoch differ by at most one image, so that none is tiny and nothing is dropped.
    `shard` (worker, workers) gives every worker equally many steps; the last images of an epoch
    may be seen by two workers for that.
    """
    plan = _TrainingPlan(len(split), batch_size, settings.seed, shard)
    loader = _Loader(split, views, settings, own=augment)

    def load(number: np.int64) -> Batch:
        epoch, step = divmod(int(number), plan.steps)
        return loader.training_batch(plan.indices(epoch, step), epoch, step, shard[0])

    numbers = tf.data.Dataset.counter(first_epoch * plan.steps)
    return TrainingBatches(_dataset(numbers, load, split, views, settings), plan.steps)


def evaluation_batches(
    split: Split, views: tuple[View, ...], batch_size: int, settings: Settings
) -> tf.data.Dataset:
    """Give every image once, in order, the last batch as small as it comes."""
    loader = _Loader(split, views, settings, cache=open_cache(settings.dataset))
    if settings.dataset.cache != "none":
        size = len(split) * sum(3 * view.size**2 for view in views) / 1e6
        log.info("%s images take %.0f MB of cache (%s)", split.name, size, settings.dataset.cache)

    def load(number: np.int64) -> Batch:
        start = int(number) * batch_size
        return loader.evaluation_batch(range(start, min(start + batch_size, len(split))))

    numbers = tf.data.Dataset.range(-(-len(split) // batch_size))
    return _dataset(numbers, load, split, views, settings)


def measure_stream(name: str, batches: tf.data.Dataset, count: int = 8) -> dict[str, Any]:
    """Draw `count` batches; return the shape and range of their views, and images a second."""
    started, images, low, high = time.perf_counter(), 0, np.inf, -np.inf
    with plain_errors():
        for views, _targets, _mask in batches.take(count):
            images += len(views[0])
            low, high = min(low, float(np.min(views[0]))), max(high, float(np.max(views[0])))
    return {
        "stream": name,
        "views": " and ".join("x".join(map(str, view.shape[1:])) for view in views),
        "teacher_low": low,
        "teacher_high": high,
        "images_per_second": round(images / (time.perf_counter() - started), 1),
    }


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
        order = random_stream(Purpose.ORDER, self._seed, epoch).permutation(self._images)
        return np.resize(order, self._share * self._workers)[self._worker :: self._workers]


class _Loader:
    """Turns indices into the float32 arrays of one batch."""

    def __init__(
        self,
        split: Split,
        views: tuple[View, ...],
        settings: Settings,
        *,
        own: Augment | None = None,
        cache: Cache | None = None,
    ) -> None:
        self._split, self._views, self._settings = split, views, settings
        self._own, self._cache = own, cache
        self._sizes = [view.size for view in views]
        self._buffers = Buffers()

    def training_batch(self, indices: Sequence[int], epoch: int, step: int, worker: int) -> Batch:
        """Augment each image once and letterbox the one view for every network."""

        def squares(index: int) -> list[np.ndarray]:
            view = augmented(
                self._split, index, epoch, self._settings, sizes=self._sizes, own=self._own
            )
            return letterbox_all(view, self._sizes)

        batch = self._batch(indices, squares)
        mixup = self._settings.augmentation.mixup
        if mixup.enabled:
            rng = random_stream(Purpose.MIXUP, self._settings.seed, epoch, step, worker)
            batch = mix_up(batch, rng, mixup)
        return batch

    def evaluation_batch(self, indices: Sequence[int]) -> Batch:
        return self._batch(indices, self._as_it_is)

    def _as_it_is(self, index: int) -> list[np.ndarray]:
        path, dataset = self._split.path(index), self._settings.dataset
        if self._cache is None:
            return letterbox_all(decode_image(path, dataset), self._sizes)
        key = cache_key(path, self._sizes, dataset)
        squares = self._cache.read(key, self._sizes)
        if squares is None:
            squares = letterbox_all(decode_image(path, dataset), self._sizes)
            self._cache.write(key, squares)
        return squares

    def _batch(
        self, indices: Sequence[int], squares_of: Callable[[int], list[np.ndarray]]
    ) -> Batch:
        images = [self._buffers.lend((len(indices), size, size, 3)) for size in self._sizes]
        for row, index in enumerate(indices):
            for batch, square, view in zip(images, squares_of(index), self._views, strict=True):
                normalize(square, view.normalization, out=batch[row])
        rows = np.asarray(indices)
        return [*images, self._split.targets[rows], self._split.mask[rows]]


class Buffers:
    """Lends float32 arrays for batches; their memory comes back when TensorFlow has let go."""

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


class Cache(Protocol):
    def read(self, key: str, sizes: Sequence[int]) -> Squares | None: ...

    def write(self, key: str, squares: Squares) -> None: ...


def open_cache(settings: DatasetSettings) -> Cache | None:
    if settings.cache == "none":
        return None
    return MemoryCache() if settings.cache == "memory" else DiskCache(default_folder())


def default_folder() -> Path:
    """Return the cache folder of this user below the system's temporary folder."""
    return Path(tempfile.gettempdir()) / f"workbench_cache_{os.getuid()}"


def cache_key(path: Path, sizes: Sequence[int], settings: DatasetSettings) -> str:
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
        """Write beside and rename; not `files.writing`, whose flush costs more than the image."""
        pixels = b"".join(square.tobytes() for square in squares)
        path = self._path(key)
        try:
            path.parent.mkdir(exist_ok=True)
            descriptor, partial = tempfile.mkstemp(dir=path.parent)
            try:
                with os.fdopen(descriptor, "wb") as file:
                    file.write(pixels + zlib.crc32(pixels).to_bytes(CHECKSUM_BYTES, "big"))
                os.replace(partial, path)
            except OSError:
                os.unlink(partial)
                raise
        except OSError as error:
            raise StepError(
                f"{self._folder} cannot keep images: {error.strerror}. Make room there, or set "
                "dataset.cache: none"
            ) from None

    def _path(self, key: str) -> Path:
        return self._folder / key[:2] / key
