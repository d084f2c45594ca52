"""The largest batch that fits: train on made-up pictures, twice as many each time, until it fails.

On a GPU the device says when it is full. On a CPU the operating system would kill the process
without a word, so the search stops while the next size is still expected to fit, or when two
doublings made nothing faster.
"""

from __future__ import annotations

import logging
import os
import time
from typing import Any

import numpy as np
import psutil
import tensorflow as tf

from workbench.data.views import View
from workbench.nets.devices import precision, prepare_devices, seed_everything
from workbench.nets.lite import freeze
from workbench.nets.teacher import STRUCTURES, VIEWS, teacher_view
from workbench.settings import Settings
from workbench.train.losses import Distillation, binary_cross_entropy
from workbench.train.step import TrainingStep

logger = logging.getLogger(__name__)
LARGEST = 1024
STEPS = 2  # timed, after one that traces and allocates
WORTH_IT = 1.05  # a larger batch must be this much faster to be recommended
FREE_SHARE = 0.8  # of the memory that is free may be planned with
ANY_CLASSES = 10  # for num_classes: auto; the head hardly counts


def find_batch_size(settings: Settings, network: str, *, largest: int = LARGEST) -> dict[str, Any]:
    """Measure the finetuning of `network` (teacher or student) at 1, 2, 4, … images a batch."""
    prepare_devices(settings)
    rows: list[dict[str, Any]] = []
    with precision(settings) as policy:
        seed_everything(settings)
        step, views, classes = _training(settings, network)
        size = 1
        while size <= largest and _worth_trying(rows):
            row = _measure(step, views, classes, size)
            if row is None:
                break
            rows.append(row)
            logger.info("%(batch_size)d images: %(images_per_second).1f images/s", row)
            size *= 2
    return {"network": network, "precision": policy, "rows": rows, **_advice(network, rows)}


def made_up_batches(views: tuple[View, ...], size: int, classes: int) -> tf.data.Dataset:
    """Repeat one random batch for ever; its element says nothing of the batch size."""
    rng = np.random.default_rng(np.random.SeedSequence(0))
    images = tuple(rng.random((size, v.size, v.size, 3), np.float32) for v in views)
    targets = (rng.random((size, classes)) < 0.3).astype(np.float32)
    batch = tf.data.Dataset.from_tensor_slices((images, targets, np.ones_like(targets)))
    return batch.batch(size).cache().repeat()


def any_loss(logits: tf.Tensor, targets: tf.Tensor, _mask: tf.Tensor) -> tf.Tensor:
    """A loss as good as any other where only time counts."""
    return tf.reduce_mean(binary_cross_entropy(logits, targets, 1 - targets), axis=-1)


def _training(settings: Settings, network: str) -> tuple[TrainingStep, tuple[View, ...], int]:
    classes = ANY_CLASSES if settings.num_classes == "auto" else settings.num_classes
    own, objective = getattr(settings, network), any_loss
    views = (VIEWS[network](settings),)
    model = STRUCTURES[network](settings, classes)
    if network == "student" and settings.distillation.enabled:
        views = (teacher_view(settings), *views)
        objective = Distillation(any_loss, STRUCTURES["teacher"](settings, classes), settings)
    freeze(model, own.unfreeze_fraction)
    strategy = tf.distribute.get_strategy()
    knobs = (settings.training, own.weight_decay, strategy, settings.task)
    step = TrainingStep(model, objective, *knobs)
    step.set_rate(1e-6)
    return step, views, classes


def _measure(step: TrainingStep, views: tuple[View, ...], classes: int, size: int) -> dict | None:
    """Time some steps; None when the device has no room for them."""
    try:
        stream = iter(made_up_batches(views, size, classes))
        step.run(stream).numpy()
        started = time.perf_counter()
        for _step in range(STEPS):
            step.run(stream).numpy()
        seconds = (time.perf_counter() - started) / STEPS
    except tf.errors.ResourceExhaustedError:
        logger.info("%d images do not fit", size)
        return None
    return {"batch_size": size, "images_per_second": size / seconds,
            "seconds_per_step": seconds, "memory_bytes": _memory_in_use()}  # fmt: skip


def _memory_in_use() -> int:
    if tf.config.list_logical_devices("GPU"):
        return tf.config.experimental.get_memory_info("GPU:0")["peak"]
    return psutil.Process(os.getpid()).memory_info().rss


def _worth_trying(rows: list[dict[str, Any]]) -> bool:
    """On a CPU: are larger ones still faster, and would twice the last growth fit?"""
    if len(rows) < 3 or tf.config.list_logical_devices("GPU"):
        return True
    speeds = [row["images_per_second"] for row in rows[-3:]]
    if max(speeds) < WORTH_IT * speeds[0]:
        return False
    growth = max(0, rows[-1]["memory_bytes"] - rows[-2]["memory_bytes"])
    return 2 * growth < FREE_SHARE * psutil.virtual_memory().available


def _advice(network: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
    if not rows:
        words = f"not one image fits; lower {network}.input_size"
        return {"largest": 0, "recommended": 0, "advice": words}
    best = max(row["images_per_second"] for row in rows)
    worth = [row for row in rows if row["images_per_second"] * WORTH_IT >= best]
    recommended, largest = worth[0]["batch_size"], rows[-1]["batch_size"]
    words = (
        f"{network}.batch_size: {recommended} trains {worth[0]['images_per_second']:.1f} images/s; "
        f"up to {largest} fit a device, larger ones gain less than 5 % speed"
    )
    return {"largest": largest, "recommended": recommended, "advice": words}
