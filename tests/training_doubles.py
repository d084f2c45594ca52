"""A small network and a synthetic feed: what the training tests train."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import tensorflow as tf
import tf_keras as keras

from workbench.data.tables import Dataset, Split
from workbench.nets.lite import restartable_randomness
from workbench.nets.teacher import build_student, build_teacher, student_view, teacher_view
from workbench.settings import Settings
from workbench.train.loop import Feed, feed, fit
from workbench.train.losses import Distillation, task_loss, trusted_classes
from workbench.train.phases import phases

CLASSES = 3


@dataclass(frozen=True)
class Place:
    """What a training needs of a run."""

    folder: Path
    settings: Settings


SIDE = 8


def small_network(dropout: float = 0.25, norm: bool = True) -> keras.Model:
    with restartable_randomness():
        image = keras.Input((SIDE, SIDE, 3), name="image")
        x = keras.layers.Conv2D(8, 3, padding="same", name="conv")(image)
        if norm:
            x = keras.layers.BatchNormalization(momentum=0.9, name="bn")(x)
        x = keras.layers.ReLU(max_value=6, name="activation")(x)
        x = keras.layers.GlobalAveragePooling2D(name="avg_pool")(x)
        x = keras.layers.Dropout(dropout, name="top_dropout")(x)
        return keras.Model(image, keras.layers.Dense(CLASSES, name="logits")(x))


def pictures(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Noise, brighter in the channel of each class that is there."""
    rng = np.random.default_rng(seed)
    targets = (rng.random((count, CLASSES)) < 0.4).astype(np.float32)
    noise = rng.normal(0, 0.5, (count, SIDE, SIDE, 3)).astype(np.float32)
    return noise + targets[:, None, None, :], targets


@dataclass(frozen=True)
class Batches:
    dataset: tf.data.Dataset
    steps_per_epoch: int
    end: float = np.inf


def training_stream(images, targets, batch_size: int, first_epoch: int) -> Batches:
    """An endless stream whose order is a function of the epoch."""
    steps = -(-len(images) // batch_size)

    def epoch(index):
        order = tf.random.experimental.stateless_shuffle(
            tf.range(len(images)), seed=tf.stack([index, 7])
        )
        return tf.data.Dataset.from_tensor_slices(order).batch(batch_size)

    def batch(rows):
        views = (tf.gather(images, rows),)
        return views, tf.gather(targets, rows), tf.ones([tf.shape(rows)[0], CLASSES])

    epochs = tf.data.Dataset.range(first_epoch, 10_000, output_type=tf.int32)
    return Batches(epochs.flat_map(epoch).map(batch), steps)


def small_feed(count: int = 48, batch_size: int = 8) -> Feed:
    images, targets = pictures(count)
    val_images, val_targets = pictures(count // 2, seed=1)
    mask = np.ones_like(val_targets)
    validation = tf.data.Dataset.from_tensor_slices(((val_images,), val_targets, mask))
    return Feed(
        lambda epoch, _strategy: training_stream(images, targets, batch_size, epoch),
        validation.batch(batch_size),
        val_targets,
        mask,
        tuple(f"class {index}" for index in range(CLASSES)),
        batch_size,
    )


def even_loss(settings: Settings) -> Callable:
    """The loss of the task, every class weighing the same."""
    targets = np.ones((48, CLASSES), np.float32)
    classes = tuple("abc")
    return task_loss(settings, Split("train", ("",) * 48, Path(), classes, targets, targets))


def train_role(
    role: str,
    settings: Settings,
    dataset: Dataset,
    folder: Path,
    teacher: keras.Model | None = None,
    **changed: Callable,
) -> tuple[keras.Model, pd.DataFrame]:
    """Train as notebooks 03 and 04 do; `network` and `loss` may be a reader's own."""
    build, view = (
        (build_teacher, teacher_view) if role == "teacher" else (build_student, student_view)
    )
    network = changed.get("network") or build(settings, len(dataset.classes))
    loss = changed.get("loss") or task_loss(settings, dataset.split("train"))
    views = (view(settings),)
    if teacher is not None:
        gate = trusted_classes(settings, dataset, teacher, network)
        views = (teacher_view(settings), *views)
        loss = Distillation(loss, teacher, settings, gate)
    batches = feed(dataset, views, settings, batch_size=getattr(settings, role).batch_size)
    run = Place(folder, settings)
    fits = [fit(phase, network, loss, batches, run) for phase in phases(settings, role)]
    return network, pd.concat([one.history for one in fits], ignore_index=True)
