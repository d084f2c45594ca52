"""From a dataset to what the loop eats: training batches from any epoch on, and validation."""

from __future__ import annotations

import workbench  # noqa: F401

# isort: split
import tensorflow as tf

from workbench.data.pipeline import View, evaluation_batches, training_batches
from workbench.data.tables import Dataset
from workbench.settings import Settings
from workbench.train.loop import Feed


def feed_from(
    dataset: Dataset,
    views: tuple[View, ...],
    batch_size: int,
    settings: Settings,
    strategy: tf.distribute.Strategy | None = None,
) -> Feed:
    """Feed a phase; the last view is the one the trained network sees. `batch_size` per device."""
    replicas = strategy.num_replicas_in_sync if strategy else 1
    train, validation = dataset.split("train"), dataset.split("val")
    return Feed(
        lambda epoch: training_batches(
            train, views, batch_size * replicas, settings, first_epoch=epoch
        ),
        evaluation_batches(validation, views[-1:], batch_size, settings),
        validation.targets,
        validation.mask,
    )
