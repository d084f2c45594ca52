"""A small network and a synthetic feed: what the training tests train."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

import workbench  # noqa: F401

# isort: split
import tensorflow as tf
import tf_keras as keras

from workbench.nets.lite import restartable_randomness
from workbench.train.feeds import Feed

CLASSES = 3
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
        lambda epoch: training_stream(images, targets, batch_size, epoch),
        validation.batch(batch_size),
        val_targets,
        mask,
        tuple(f"class {index}" for index in range(CLASSES)),
        batch_size,
    )
