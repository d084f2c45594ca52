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
from typing import TYPE_CHECKING, Any

import cv2
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
class Kept:
    """What frozen networks say of the views of an epoch, in the places of those views."""

    epoch: int
    places: np.ndarray  # of the images that it shows, sorted
    values: tuple[np.ndarray | None, ...]  # by view, a row for each of the places


@dataclass(frozen=True)
class TrainingBatches:
    dataset: tf.data.Dataset  # ((view, …), targets, mask), all float32
    steps_per_epoch: int
    end: float = math.inf  # the epoch before which it ends


def training_batches(
    split: Split, views: tuple[View, ...], batch_size: int, settings: Settings, *,
    augment: Augment | None = None, first_epoch: int = 0, shard: tuple[int, int] = (0, 1),
    kept: Kept | None = None, least: int = 0,
) -> TrainingBatches:  # fmt: skip
    """Stream augmented batches over epochs `first_epoch`, `first_epoch` + 1, …

    An epoch is as many draws as there are images, or `least`: see `epoch_places`.
    `augment`, a function (image, rng) -> image, takes the place of the settings' augmentation.
    Batches of an epoch differ by at most one image, so that none is tiny and nothing is dropped;
    images without labels are spread evenly over them. `shard` (worker, workers) gives every worker
    equally many steps; the last images of an epoch may be seen by two workers for that. `kept`
    stands for views of one epoch, and ends the stream with the first one; it may be shown in
    another epoch than its own, in another order.
    """
    if len(split) == 0:
        raise DatasetError("The train split has no images.")
    worker, workers = shard
    shares = [-(-length // workers) for length in epoch_lengths(split, settings, least)]
    share = sum(shares)
    steps = -(-share // batch_size)
    values = kept.values if kept else (None,) * len(views)
    drawn = [view for view, one in zip(views, values, strict=True) if one is None]
    sizes, assemble = [view.size for view in views], _assembler(split, drawn)

    @lru_cache(maxsize=2)
    def order(epoch: int) -> np.ndarray:
        """Deal the images of an epoch out to the workers."""
        kinds = (_in_other_order(kept.places, split, settings, epoch)
                 if kept and kept.epoch != epoch
                 else epoch_places(split, settings, epoch, least))  # fmt: skip
        dealt = [np.resize(places, one * workers)[worker::workers]
                 for places, one in zip(kinds, shares, strict=True)]  # fmt: skip
        return _mingled(dealt)

    def load(number: np.int64) -> Batch:
        epoch, step = divmod(int(number), steps)

        def squares(place: int) -> Squares:
            """Augment each image once and letterbox the one view for every network."""
            copy, index = divmod(int(place), len(split))
            view = augmented(split, index, epoch, settings, sizes=sizes, own=augment, copy=copy)
            return letterbox_all(view, [one.size for one in drawn])

        start, stop = (place * share // steps for place in (step, step + 1))
        places = order(epoch)[start:stop]
        batch = assemble(places, squares)
        batch = _with_kept(batch, kept, places) if kept else batch
        mixup = settings.augmentation.mixup
        if mixup.enabled:
            rng = random_stream(Purpose.MIXUP, settings.seed, epoch, step, worker)
            batch = mix_up(batch, rng, mixup)
        return batch

    numbers = tf.data.Dataset.counter(first_epoch * steps)
    numbers = numbers.take(steps) if kept else numbers
    shapes = [_shape(view) if one is None else (None, *one.shape[1:])
              for view, one in zip(views, values, strict=True)]  # fmt: skip
    batches = _dataset(numbers, load, split, shapes, settings)
    return TrainingBatches(batches, steps, first_epoch + 1 if kept else math.inf)


def _with_kept(batch: Batch, kept: Kept, places: np.ndarray) -> Batch:
    """Put what is kept of these images where the views are that were not drawn."""
    *images, targets, mask = batch
    drawn, rows = iter(images), np.searchsorted(kept.places, places)
    views = [next(drawn) if one is None else one[rows].astype(np.float32) for one in kept.values]
    return [*views, targets, mask]


def epoch_lengths(split: Split, settings: Settings, least: int = 0) -> list[int]:
    """Count the draws of an epoch from the images with a known label, and from those without any.

    `distillation.unlabeled_share` says how they compare; of either kind all are shown.
    """
    labelled = int(split.mask.any(axis=1).sum())
    others = len(split) - labelled
    if not labelled:
        raise DatasetError("No photo of train has a label, so there is nothing to start from.")
    if not others:
        return [max(labelled, least)]
    share = settings.distillation.unlabeled_share
    draws = max(labelled / (1 - share), others / share, least)
    return [max(labelled, round(draws * (1 - share))), max(others, round(draws * share))]


def epoch_places(split: Split, settings: Settings, epoch: int, least: int = 0) -> list[np.ndarray]:
    """Draw the images of an epoch in a fresh order: those with a known label, those without any.

    Each once, or see `balanced_places`. The kind that is through first goes round again: further
    copies of an image, which are other views of it.
    """
    rng = random_stream(Purpose.ORDER, settings.seed, epoch)
    kinds = zip(_kinds(split), epoch_lengths(split, settings, least), strict=True)
    return [_rounds(split, images, length, settings, rng) for images, length in kinds]


def _rounds(
    split: Split, images: np.ndarray, length: int, settings: Settings, rng: np.random.Generator
) -> np.ndarray:
    balanced = settings.training.sampling == "balanced" and split.mask[images].any()
    rounds, drawn, copies = [], 0, 0
    while drawn < length:
        places = balanced_places(split, images, rng) if balanced else rng.permutation(images)
        rounds.append(places + copies * len(split))
        drawn, copies = drawn + len(places), int(rounds[-1].max()) // len(split) + 1
    return np.concatenate(rounds)[:length]


def _in_other_order(
    places: np.ndarray, split: Split, settings: Settings, epoch: int
) -> list[np.ndarray]:
    rng, known = random_stream(Purpose.ORDER, settings.seed, epoch), split.mask.any(axis=1)
    of_label = known[places % len(split)]
    kinds = (places[of_label], places[~of_label])
    return [rng.permutation(kind) for kind in kinds if len(kind)]


def _kinds(split: Split) -> list[np.ndarray]:
    known = split.mask.any(axis=1)
    return [images for images in map(np.flatnonzero, (known, ~known)) if len(images)]


def _mingled(kinds: list[np.ndarray]) -> np.ndarray:
    """Spread each kind evenly: batches and the parts that devices take of them are all alike."""
    where = np.concatenate([(np.arange(len(kind)) + 0.5) / len(kind) for kind in kinds])
    return np.concatenate(kinds)[np.argsort(where, kind="stable")]


@dataclass(frozen=True)
class EpochViews:
    """The training images as networks see them in an epoch, whatever batches they come in."""

    split: Split
    views: tuple[View, ...]
    settings: Settings
    augment: Augment | None = None
    least: int = 0

    @property
    def length(self) -> int:
        """Count the draws of an epoch."""
        return sum(epoch_lengths(self.split, self.settings, self.least))

    def places(self, epoch: int) -> np.ndarray:
        """List what an epoch shows, every place once and in order."""
        kinds = epoch_places(self.split, self.settings, epoch, self.least)
        return np.unique(np.concatenate(kinds))

    def batches(self, network: int, epoch: int, batch_size: int) -> tf.data.Dataset:
        """Give the views that one of the networks has of these places."""
        view, sizes = self.views[network], [one.size for one in self.views]
        assemble, places = _assembler(self.split, [view]), self.places(epoch)

        def squares(place: int) -> Squares:
            copy, index = divmod(int(place), len(self.split))
            drawn = {"sizes": sizes, "own": self.augment, "copy": copy}
            return letterbox_all(
                augmented(self.split, index, epoch, self.settings, **drawn), [view.size]
            )

        def load(number: np.int64) -> Batch:
            return assemble(places[int(number) * batch_size :][:batch_size], squares)

        numbers = tf.data.Dataset.range(-(-len(places) // batch_size))
        return _dataset(numbers, load, self.split, [_shape(view)], self.settings)


def balanced_places(split: Split, images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draw as many images as are given: a class, or none of them, then one of its images.

    An image comes as often as that makes likely, rounded up or down by chance. The first time it is
    its own number, each time after that `len(split)` more, which makes another view of it.
    """
    count = len(images)
    named = (split.targets[images] > 0) & (split.mask[images] > 0)
    member = np.column_stack([named, ~named.any(axis=1)]).astype(float)
    member = member[:, member.any(axis=0)]
    chance = (member / member.sum(axis=0)).mean(axis=1)  # adds up to 1
    order = rng.permutation(count)
    ends = np.cumsum(chance[order]) * count
    ends[-1] = count  # whatever rounding says
    times = np.diff(np.searchsorted(rng.uniform() + np.arange(count), ends), prepend=0)
    starts = np.repeat(np.cumsum(times) - times, times)
    copies = np.arange(count) - starts
    return rng.permutation(images[np.repeat(order, times)] + copies * len(split))


def evaluation_batches(
    split: Split, views: tuple[View, ...], batch_size: int, settings: Settings
) -> tf.data.Dataset:
    """Give every image once, in order, the last batch as small as it comes."""
    sizes, assemble = [view.size for view in views], _assembler(split, views)
    dataset, cache = settings.dataset, open_cache(settings.dataset)
    if cache is not None:
        size = len(split) * sum(3 * side**2 for side in sizes) / 1e6
        log.info("%s images take %.0f MB of cache (%s)", split.name, size, dataset.cache)

    def squares(index: int) -> Squares:
        path = split.path(index)
        if cache is None:
            return letterbox_all(decode_image(path, dataset), sizes)
        key = cache_key(path, sizes, dataset)
        found = cache.read(key, sizes)
        if found is None:
            found = letterbox_all(decode_image(path, dataset), sizes)
            cache.write(key, found)
        return found

    def load(number: np.int64) -> Batch:
        start = int(number) * batch_size
        return assemble(range(start, min(start + batch_size, len(split))), squares)

    numbers = tf.data.Dataset.range(-(-len(split) // batch_size))
    return _dataset(numbers, load, split, [_shape(view) for view in views], settings)


def measure_stream(name: str, batches: tf.data.Dataset, count: int = 8) -> dict[str, Any]:
    """Draw `count` batches; return the shape and range of their views, and images a second."""
    started, images, low, high = time.perf_counter(), 0, np.inf, -np.inf
    with plain_errors():
        for views, _targets, _mask in batches.take(count):
            images += len(views[0])
            low, high = min(low, float(np.min(views[0]))), max(high, float(np.max(views[0])))
    return {
        "stream": name, "views": " and ".join("x".join(map(str, view.shape[1:])) for view in views),
        "teacher_low": low, "teacher_high": high,
        "images_per_second": round(images / (time.perf_counter() - started), 1),
    }  # fmt: skip


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
        words = f"{ours[2]} The audit could read it: run 01_dataset_audit again."
        raise DatasetError(words) from None


def _dataset(
    numbers: tf.data.Dataset, load: Callable[[np.int64], Batch], split: Split,
    shapes: list[tuple[int | None, ...]], settings: Settings,
) -> tf.data.Dataset:  # fmt: skip
    """Map batch numbers to batches, in parallel and in order."""
    shapes = shapes + [(None, len(split.classes))] * 2

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


def _shape(view: View) -> tuple[int | None, ...]:
    return (None, view.size, view.size, 3)


def _assembler(
    split: Split, views: Sequence[View]
) -> Callable[[Sequence[int], Callable[[int], Squares]], Batch]:
    """Return what turns indices, and the squares of each, into the float32 arrays of one batch."""
    cv2.setNumThreads(0)  # batches run side by side; OpenCV's own threads would only queue up
    buffers = Buffers()

    def assemble(indices: Sequence[int], squares_of: Callable[[int], Squares]) -> Batch:
        images = [buffers.lend((len(indices), view.size, view.size, 3)) for view in views]
        for row, index in enumerate(indices if images else ()):
            for batch, square, view in zip(images, squares_of(index), views, strict=True):
                normalize(square, view.normalization, out=batch[row])
        rows = np.asarray(indices) % len(split)  # an image that is drawn again counts on
        return [*images, split.targets[rows], split.mask[rows]]

    return assemble


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

    A label unknown for either partner is unknown for the blend; so an image without any label is
    blended with its like.
    """
    *blended, mask = batch
    partner, known = np.arange(len(mask)), mask.any(axis=1)
    for kind in (np.flatnonzero(known), np.flatnonzero(~known)):
        partner[kind] = kind[rng.permutation(len(kind))]
    share = rng.beta(mixup.alpha, mixup.alpha, len(mask)).astype(np.float32)
    mixed = []
    for array in blended:
        weight = share.reshape(-1, *[1] * (array.ndim - 1))
        mixed.append(weight * array + (1 - weight) * array[partner])
    return [*mixed, mask * mask[partner]]


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


class MemoryCache(dict[str, Squares]):
    def read(self, key: str, sizes: Sequence[int]) -> Squares | None:
        return self.get(key)

    write = dict.__setitem__


class DiskCache:
    """One file an image: the squares' bytes and a checksum, since a crash may tear a file."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if folder.is_symlink() or folder.stat().st_uid != os.getuid():
            raise DatasetError(f"{folder} belongs to somebody else, who could change cached "
                               "images. Remove it, or set dataset.cache: memory")  # fmt: skip

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
            raise StepError(f"{self._folder} cannot keep images: {error.strerror}. Make room "
                            "there, or set dataset.cache: none") from None  # fmt: skip

    def _path(self, key: str) -> Path:
        return self._folder / key[:2] / key


def open_cache(settings: DatasetSettings) -> MemoryCache | DiskCache | None:
    """Open what `dataset.cache` asks for."""
    if settings.cache == "none":
        return None
    return MemoryCache() if settings.cache == "memory" else DiskCache(default_folder())
