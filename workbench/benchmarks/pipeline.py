"""How fast is the pipeline? Against decoding alone, through the same tf.data and decoder.

Draws JPEGs of 500 x 400 pixels with the detail of photos (about 110 kB each, as in ImageNet), or
takes a folder of your own: the smaller the files, the more the letterboxes weigh. The stages take
turns, so that a busy neighbour slows all of them; the shortest time of each counts.
"""

from __future__ import annotations

import resource
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from workbench.benchmarks.photos import MOST_DRAWN, draw_images, list_photos
from workbench.data.decode import count_cores, decode_image, map_in_order
from workbench.data.letterbox import trusted_library
from workbench.data.pipeline import evaluation_batches, training_batches
from workbench.data.tables import Split
from workbench.data.views import View
from workbench.settings import AugmentationSettings, ColorJitter, Cutout, RunSettings, Settings

BATCH = 16
WARM_UP_IMAGES = 96  # these fill buffers, before what is timed and again after it
VIEWS = (View(300, "none"), View(240, "lite"))
NO_AUGMENTATION = AugmentationSettings(
    random_flip_horizontal=False, random_rotation_factor=0.0, random_zoom_factor=0.0,
    color_jitter=ColorJitter(brightness=0.0, contrast=0.0, saturation=0.0),
    gaussian_noise_stddev=0.0, cutout=Cutout(num_patches=0),
)  # fmt: skip
DECODING = "decoding alone"


class Seconds(NamedTuple):
    """What one image takes: on the clock, and of all cores together."""

    wall: float
    cpu: float


def run(
    *, count: int = 2500, folder: Path | None = None, repeats: int = 5, threads: int = 0
) -> dict[str, Any]:
    """Time `repeats` rounds of `count` images through every stage."""
    threads = count_cores(threads)
    with tempfile.TemporaryDirectory(prefix="workbench_benchmark_") as place:
        images = Path(folder) if folder else draw_images(Path(place), min(count, MOST_DRAWN))
        split = list_split(images)
        _refuse_unreadable(split, threads)
        stages = _stages(_repeated(split, WARM_UP_IMAGES + count + WARM_UP_IMAGES), threads)
        rounds = [
            {name: _seconds_an_image(stage, count) for name, stage in stages.items()}
            for _ in range(repeats)
        ]
        size = float(np.mean([split.path(index).stat().st_size for index in range(len(split))]))
    seconds = {name: min(one[name].wall for one in rounds) for name in stages}
    return {
        "images": len(split), "threads": threads, "bytes_an_image": size,
        "images_per_second": {name: 1 / value for name, value in seconds.items()},
        "cpu_seconds_an_image": {name: min(one[name].cpu for one in rounds) for name in stages},
        "ratio": {name: seconds[DECODING] / value for name, value in seconds.items()},
        "letterbox": "letterbox.c" if trusted_library() else "OpenCV",
        "peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }  # fmt: skip


def table(figures: dict[str, Any]) -> str:
    """Write the figures for a terminal."""
    lines = [
        f"Pipeline on {figures['threads']} threads, {figures['images']:,} images of "
        f"{figures['bytes_an_image'] / 1000:.0f} kB, letterbox by {figures['letterbox']}",
        f"  {'':<42}{'images/s':>10}{'ratio':>8}{'CPU us':>9}",
    ]
    for name, speed in figures["images_per_second"].items():
        cpu = 1e6 * figures["cpu_seconds_an_image"][name]
        lines.append(f"  {name:<42}{speed:>10.0f}{figures['ratio'][name]:>8.2f}{cpu:>9.0f}")
    lines.append(f"  most memory of the process: {figures['peak_memory_bytes'] / 1e6:.0f} MB")
    if figures["letterbox"] == "OpenCV":
        lines.append(
            "  letterbox.c, nearly three times as fast, needs a C compiler at installation"
        )
    return "\n".join(lines)


def list_split(folder: Path) -> Split:
    """Make a split of every image below `folder`, all of one class."""
    paths = list_photos(folder)
    names = tuple(path.relative_to(folder).as_posix() for path in paths)
    ones = np.ones((len(names), 1), np.float32)
    return Split("train", names, folder, ("any",), ones, ones)


def _refuse_unreadable(split: Split, threads: int) -> None:
    """Name a file that cannot be decoded before anything is timed."""
    dataset = Settings().dataset
    paths = (split.path(index) for index in range(len(split)))
    for _ in map_in_order(lambda path: decode_image(path, dataset), paths, threads):
        pass


def _repeated(split: Split, count: int) -> Split:
    """List the images again and again, so that `count` of them are a single pass."""
    times = -(-count // len(split))
    ones = np.ones((times * len(split), 1), np.float32)
    return replace(split, filepaths=times * split.filepaths, targets=ones, mask=ones)


def _stages(split: Split, threads: int) -> dict[str, tf.data.Dataset]:
    """Make datasets that last long enough: single images for decoding, batches for the rest."""
    settings = Settings(run=RunSettings(threads=threads))
    plain = settings.model_copy(update={"augmentation": NO_AUGMENTATION})
    return {
        DECODING: _decoding(split, settings, threads),
        "decoding alone, tf.io.decode_jpeg": _decoding_by_tensorflow(split, threads),
        "evaluation: both letterboxes": evaluation_batches(split, VIEWS, BATCH, settings),
        "training: both letterboxes": training_batches(split, VIEWS, BATCH, plain).dataset,
        "training: default augmentation as well": training_batches(
            split, VIEWS, BATCH, settings
        ).dataset,
    }


def _decoding(split: Split, settings: Settings, threads: int) -> tf.data.Dataset:
    def decode(index: np.int64) -> np.ndarray:
        return decode_image(split.path(index), settings.dataset)

    images = tf.data.Dataset.range(len(split)).repeat()
    images = images.map(lambda index: tf.numpy_function(decode, [index], tf.uint8, stateful=False),
                        num_parallel_calls=threads)  # fmt: skip
    return images.prefetch(2 * threads)


def _decoding_by_tensorflow(split: Split, threads: int) -> tf.data.Dataset:
    def decode(path: tf.Tensor) -> tf.Tensor:
        data = tf.io.read_file(path)
        return tf.io.decode_jpeg(data, channels=3, dct_method="INTEGER_ACCURATE")

    paths = tf.data.Dataset.from_tensor_slices([str(split.path(i)) for i in range(len(split))])
    return paths.repeat().map(decode, num_parallel_calls=threads).prefetch(2 * threads)


def _seconds_an_image(stage: tf.data.Dataset, count: int) -> Seconds:
    """Time `count` images of a running stage."""
    elements = iter(stage)
    _take(elements, WARM_UP_IMAGES)
    wall, cpu = time.perf_counter(), time.process_time()
    taken = _take(elements, count)
    return Seconds((time.perf_counter() - wall) / taken, (time.process_time() - cpu) / taken)


def _take(elements: Iterator[Any], count: int) -> int:
    """Take elements until they hold `count` images; return how many they hold."""
    taken = 0
    while taken < count:
        element = next(elements)
        taken += len(element[1]) if isinstance(element, tuple) else 1
    return taken
