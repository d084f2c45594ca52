"""A small student that has learned colours, and the dataset it learned them from."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pandas as pd

import workbench  # noqa: F401

# isort: split
import tensorflow as tf
import tf_keras as keras
from tf_keras import layers

from workbench.data.tables import Dataset
from workbench.deploy.convert import network_input
from workbench.nets.lite import restartable_randomness
from workbench.settings import Settings

SIDE = 32
CLASSES = ("blue", "green", "red")
SHARES = {"train": 48, "val": 24, "test": 12}


def student_network(extra: keras.layers.Layer | None = None) -> keras.Model:
    """Every kind of layer that a Lite student has; `extra` goes in front of the pooling."""
    with restartable_randomness():
        image = x = keras.Input((SIDE, SIDE, 3), name="input_1")
        x = layers.ZeroPadding2D(((0, 1), (0, 1)), name="stem_conv_pad")(x)
        x = layers.Conv2D(8, 3, strides=2, use_bias=False, name="stem_conv")(x)
        x = shortcut = _activated(x, "stem")
        x = layers.DepthwiseConv2D(3, padding="same", use_bias=False, name="block_dwconv")(x)
        x = _activated(x, "block")
        x = layers.Conv2D(8, 1, use_bias=False, name="block_project_conv")(x)
        x = layers.BatchNormalization(momentum=0.8, name="block_project_bn")(x)
        x = layers.Dropout(0.1, noise_shape=(None, 1, 1, 1), name="block_drop")(x)
        x = layers.Add(name="block_add")([x, shortcut])
        x = layers.Conv2D(16, 1, use_bias=False, name="top_conv")(x)
        x = _activated(x, "top")
        x = x if extra is None else extra(x)
        x = layers.GlobalAveragePooling2D(name="avg_pool")(x)
        x = layers.Dropout(0.1, name="top_dropout")(x)
        return keras.Model(image, layers.Dense(len(CLASSES), name="logits")(x), name="small")


def _activated(x, name: str):
    x = layers.BatchNormalization(momentum=0.8, name=f"{name}_bn")(x)
    return layers.ReLU(6.0, name=f"{name}_activation")(x)


def unknown_to_phones() -> keras.layers.Layer:
    """A layer that Keras computes, and for which TFLite has no operator."""

    def beta(x):
        return tf.math.betainc(tf.ones_like(x), tf.ones_like(x), tf.sigmoid(x))

    return layers.Lambda(beta, name="beta")


def draw(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Grey noise in which each class that is there tints a patch: uint8 and [N, C] labels."""
    rng = np.random.default_rng(seed)
    images = rng.integers(90, 160, (count, SIDE, SIDE, 3)).astype(np.uint8)
    targets = (rng.random((count, len(CLASSES))) < 0.4).astype(np.float32)
    for image, present in zip(images, targets, strict=True):
        for index in np.flatnonzero(present):
            y, x = rng.integers(0, SIDE - 12, 2)
            image[y : y + 12, x : x + 12] = 40
            image[y : y + 12, x : x + 12, 2 - index] = 230
    return images, targets


def trained_student(extra: keras.layers.Layer | None = None, epochs: int = 30) -> keras.Model:
    keras.utils.set_random_seed(1)
    student = student_network(extra)
    images, targets = draw(192, seed=3)
    loss = keras.losses.BinaryCrossentropy(from_logits=True)
    student.compile(keras.optimizers.Adam(0.02), loss)
    student.fit(network_input(images), targets, batch_size=32, epochs=epochs, verbose=0)
    return student


def write_dataset(folder: Path) -> Dataset:
    """Write images as PNG and return the dataset that names them."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    rows = []
    for number, (split, count) in enumerate(SHARES.items()):
        for index, (image, present) in enumerate(zip(*draw(count, seed=10 + number), strict=True)):
            name = f"{split}_{index}.png"
            cv2.imwrite(str(folder / "images" / name), image[..., ::-1])
            names = tuple(np.array(CLASSES)[present > 0.5].tolist())
            rows.append((split, name, names, (), "double", index))
    columns = ["split", "filepath", "labels", "unknown", "source", "line"]
    return Dataset(folder / "images", CLASSES, pd.DataFrame(rows, columns=columns))


def small_settings(**groups) -> Settings:
    """Settings for the double: 32 px, one QAT epoch, no teacher."""
    given = {
        "student": {"input_size": SIDE, "batch_size": 8, "weights": "none"},
        "qat": {"epochs": 1, "lr": 1.0e-4},
        "distillation": {"enabled": False},
        "multi_gpu": {"enabled": False},
        "ladder": {"max_drop": 0.1},  # of 24 images a single flip is worth 0.03
        "evaluation": {"bootstrap_replicates": 50},
        "tflite_export": {"representative_dataset_size": 16},
        "augmentation": {"cutout": {"num_patches": 0}, "gaussian_noise_stddev": 0.0},
        "training": {"tensorboard": False},
    }
    for name, knobs in groups.items():
        given[name] = {**given.get(name, {}), **knobs} if isinstance(knobs, dict) else knobs
    return Settings.model_validate(given)


def feed_and_loss(dataset: Dataset, settings: Settings, teacher: keras.Model | None = None):
    """Batches of the dataset as QAT takes them, and what it minimises."""
    from workbench.nets.teacher import student_view, teacher_view
    from workbench.train.loop import feed
    from workbench.train.losses import Distillation, task_loss

    objective, views = task_loss(settings, dataset.split("train")), (student_view(settings),)
    if teacher is not None:
        objective = Distillation(objective, teacher, settings)
        views = (teacher_view(settings), *views)
    return feed(dataset, views, settings, batch_size=settings.student.batch_size), objective
