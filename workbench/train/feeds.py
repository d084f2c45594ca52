"""What the loop eats: training batches from any epoch on, and validation in order."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import tensorflow as tf

from workbench.data.pipeline import evaluation_batches, training_batches
from workbench.data.tables import Dataset
from workbench.data.views import View
from workbench.errors import SettingsError
from workbench.settings import Settings
from workbench.train.devices import worker


class Stream(Protocol):
    """An endless stream of global batches (views, targets, mask)."""

    dataset: tf.data.Dataset
    steps_per_epoch: int


@dataclass(frozen=True)
class Feed:
    """Where the images of a phase come from."""

    training: Callable[[int], Stream]  # the stream that starts at an epoch
    validation: tf.data.Dataset  # elements (views, targets, mask), in order, nothing dropped
    targets: np.ndarray  # [N, C] of the validation images
    mask: np.ndarray  # [N, C]
    classes: tuple[str, ...]
    batch_size: int  # per device


def feed_from(
    dataset: Dataset,
    views: tuple[View, ...],
    batch_size: int,
    settings: Settings,
    strategy: tf.distribute.Strategy | None = None,
) -> Feed:
    """Feed a phase from a dataset; the last view is the one that the trained network sees."""
    train, validation = dataset.split("train"), dataset.split("val")
    machine, machines = worker(strategy)
    local = strategy.num_replicas_in_sync // machines if strategy else 1

    def training(epoch: int) -> Stream:
        # On one machine a global batch is split among its devices. Several machines deal out the
        # images instead, and every device takes batches of its own.
        size, turns = (batch_size * local, 1) if machines == 1 else (batch_size, local)
        shard = (machine, machines)
        stream = training_batches(train, views, size, settings, first_epoch=epoch, shard=shard)
        _check_share(len(train) // machines // stream.steps_per_epoch, turns, local)
        return replace(stream, steps_per_epoch=-(-stream.steps_per_epoch // turns))

    return Feed(
        training,
        evaluation_batches(validation, views[-1:], batch_size, settings),
        validation.targets,
        validation.mask,
        dataset.classes,
        batch_size,
    )


def _check_share(smallest_batch: int, turns: int, devices: int) -> None:
    """Refuse batches of which a device would get nothing: batch norm cannot average that."""
    if smallest_batch * turns < devices:
        raise SettingsError(
            f"the smallest training batch has {smallest_batch} images for {devices} devices. "
            "Set multi_gpu.enabled: false, or a larger batch_size."
        )
