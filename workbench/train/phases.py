"""Two phases: first the head learns on a frozen backbone, then the top of the backbone joins in."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pandas as pd
import tensorflow as tf
import tf_keras as keras

from workbench.data.tables import Dataset
from workbench.data.views import View
from workbench.nets.lite import backbone_layers
from workbench.nets.weights import fits_head, imagenet_weights, load_weights_into, save_weights
from workbench.settings import Settings, StudentSettings, TeacherSettings
from workbench.train.devices import choose_strategy, precision, prepare_devices, seed_everything
from workbench.train.distill import Objective
from workbench.train.feeds import feed_from
from workbench.train.logs import Row, history_table
from workbench.train.loop import Fitted, Phase, fit_phase
from workbench.train.losses import Loss, task_loss

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Training:
    """A trained float32 network with the weights of its best epoch, and how it got there."""

    model: keras.Model
    history: pd.DataFrame
    best: Row
    files: tuple[Path, ...]


@dataclass(frozen=True)
class Role:
    """Who trains: `name` prefixes its files, the last of `views` is what it sees."""

    name: str
    arch: str  # of the ImageNet weights
    settings: TeacherSettings | StudentSettings
    views: tuple[View, ...]
    build: Callable[[], keras.Model]


def train_in_phases(
    role: Role,
    objective: Callable[[keras.Model, Loss], Objective],
    settings: Settings,
    dataset: Dataset,
    folder: Path,
    *,
    fingerprint: str,
    report: logging.Logger,
    bar: bool | None,
) -> Training:
    """Train warmup and finetune from wherever they stand, and write the weights of both."""
    prepare_devices(settings)
    strategy = choose_strategy(settings)
    with precision(settings):
        network = _start(role, settings, strategy)
        with strategy.scope():
            goal = objective(network, loss_of(settings, dataset))
        train = partial(
            fit_phase,
            network,
            objective=goal,
            feed=feed_from(dataset, role.views, role.settings.batch_size, settings, strategy),
            settings=settings,
            folder=folder,
            fingerprint=fingerprint,
            strategy=strategy,
            report=report,
            bar=bar,
        )
        fits, paths = [], []
        for phase, fraction in _phases(role, settings):
            paths.append(Path(folder) / f"{phase.name}.h5")
            freeze(network, fraction)
            fits.append(_fit(train, phase, paths[-1], report))
            save_weights(network, paths[-1])
    history = pd.concat([fit.history for fit in fits], ignore_index=True)
    best = next((fit.best for fit in reversed(fits) if fit.best), {})
    return Training(_plain(network, role, strategy), history, best, tuple(paths))


def loss_of(settings: Settings, dataset: Dataset) -> Loss:
    """The loss of the task, its classes weighed by their training positives."""
    train = dataset.split("train")
    return task_loss(settings, (train.targets * train.mask).sum(axis=0), len(train))


def load_start_weights(network: keras.Model, role: Role) -> None:
    """Fill the network with what `weights` names; with `none` it stays random."""
    source = role.settings.weights
    if source == "none":
        return
    if source == "imagenet":
        source, whole = imagenet_weights(role.arch, f"{role.name}.weights"), False
    else:
        whole = fits_head(network, source)
        head = "its head included" if whole else "with a new head"
        logger.info("%s goes on from %s, %s", role.name, source, head)
    load_weights_into(network, source, backbone_only=not whole)


def freeze(network: keras.Model, fraction: float) -> None:
    """Let the head and the top `fraction` of the backbone learn.

    A frozen layer's batch norm stays in inference mode: legacy Keras sees to that itself.
    """
    backbone = backbone_layers(network)
    frozen = len(backbone) - round(fraction * len(backbone))
    network.trainable = True
    for index, layer in enumerate(backbone):
        layer.trainable = index >= frozen


def _start(role: Role, settings: Settings, strategy: tf.distribute.Strategy) -> keras.Model:
    """Build the network; seeding right before makes it a function of the settings."""
    seed_everything(settings)
    with strategy.scope():
        network = role.build()
        load_start_weights(network, role)
    return network


def _phases(role: Role, settings: Settings) -> list[tuple[Phase, float]]:
    """Each phase with the share of the backbone that learns in it."""
    own = role.settings
    phase = partial(
        Phase,
        weight_decay=own.weight_decay,
        reduce_lr_patience=own.reduce_lr_patience,
        reduce_lr_factor=own.reduce_lr_factor,
    )
    warmup = phase(
        name=f"{role.name}_warmup",
        epochs=own.epochs_head,
        learning_rate=own.lr_head,
        early_stopping_patience=settings.training.head_early_stopping_patience,
    )
    finetune = phase(
        name=f"{role.name}_finetuned",
        epochs=own.epochs_finetune,
        learning_rate=own.lr_finetune,
        early_stopping_patience=own.early_stopping_patience,
        first_epoch=own.epochs_head,
    )
    return [(warmup, 0.0), (finetune, own.unfreeze_fraction)]


def _fit(train: Callable[..., Fitted], phase: Phase, path: Path, report: logging.Logger) -> Fitted:
    if phase.epochs:
        return train(phase=phase)
    report.info("%s has 0 epochs: %s holds the weights it began with", phase.name, path.name)
    return Fitted(history_table([]), {}, traces=0)


def _plain(network: keras.Model, role: Role, strategy: tf.distribute.Strategy) -> keras.Model:
    """Rebuild in float32 on one device what everybody after training expects, where it is not."""
    if strategy.num_replicas_in_sync == 1 and network.layers[-2].compute_dtype == "float32":
        return network
    before = keras.mixed_precision.global_policy()
    keras.mixed_precision.set_global_policy("float32")
    copy = role.build()
    keras.mixed_precision.set_global_policy(before)
    copy.set_weights(network.get_weights())
    return copy
