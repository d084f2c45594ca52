"""Two phases: first the head learns on a frozen backbone, then the top of the backbone joins in."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

import workbench  # noqa: F401

# isort: split
import tf_keras as keras

from workbench.data.pipeline import View
from workbench.data.tables import Dataset
from workbench.nets.anatomy import backbone_layers
from workbench.nets.pretrained import imagenet_weights
from workbench.nets.weights import load_weights_into, save_weights
from workbench.settings import Settings, StudentSettings, TeacherSettings
from workbench.train.devices import choose_strategy, precision, seed_everything
from workbench.train.distill import Objective
from workbench.train.feeds import feed_from
from workbench.train.loop import Phase, fit_phase
from workbench.train.losses import Loss, task_loss

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Training:
    """A trained network with the weights of its best epoch, and how it got there."""

    model: keras.Model
    history: pd.DataFrame
    best: dict[str, Any]
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
    fingerprint: str,
    report: logging.Logger,
) -> Training:
    """Train warmup and finetune from wherever they stand, and write the weights of both."""
    strategy = choose_strategy(settings)
    with precision(settings) as policy:
        seed_everything(settings)
        with strategy.scope():
            network = role.build()
            load_start_weights(network, role)
        loss = loss_of(settings, dataset)
        feed = feed_from(dataset, role.views, role.settings.batch_size, settings, strategy)
        fits, paths = [], []
        goal = objective(network, loss)
        for phase, fraction in _phases(role, settings.training.head_early_stopping_patience):
            path = Path(folder) / f"{phase.name}.h5"
            freeze(network, fraction)
            if phase.epochs:
                fits.append(
                    fit_phase(
                        network,
                        phase,
                        goal,
                        loss,
                        feed,
                        settings,
                        folder,
                        fingerprint=fingerprint,
                        strategy=strategy,
                        report=report,
                    )
                )
            else:
                report.info("%s: 0 epochs; %s holds the weights it began with", phase.name, path)
            save_weights(network, path)
            paths.append(path)
    plain = policy == "float32" and strategy.num_replicas_in_sync == 1
    model = network if plain else _plain_copy(network, role)
    history = pd.concat([fit.history for fit in fits], ignore_index=True) if fits else None
    return Training(model, history, fits[-1].best if fits else {}, tuple(paths))


def loss_of(settings: Settings, dataset: Dataset) -> Loss:
    """The loss of the task, its classes weighed by their training positives."""
    train = dataset.split("train")
    return task_loss(settings, (train.targets * train.mask).sum(axis=0), len(train.filepaths))


def load_start_weights(network: keras.Model, role: Role) -> None:
    """Fill the network with what `weights` names; with `none` it stays random."""
    source = role.settings.weights
    if source == "imagenet":
        path = imagenet_weights(role.arch, f"{role.name}.weights")
        load_weights_into(network, path, backbone_only=True)
    elif source != "none":
        load_weights_into(network, source, backbone_only=True)


def freeze(network: keras.Model, fraction: float) -> None:
    """Let the head and the top `fraction` of the backbone learn.

    A frozen layer's batch norm stays in inference mode: legacy Keras sees to that itself.
    """
    backbone = backbone_layers(network)
    frozen = len(backbone) - round(fraction * len(backbone))
    network.trainable = True
    for index, layer in enumerate(backbone):
        layer.trainable = index >= frozen


def _phases(role: Role, patience: int) -> list[tuple[Phase, float]]:
    """Each phase with the share of the backbone that learns in it."""
    own = role.settings
    common = {
        "weight_decay": own.weight_decay,
        "reduce_lr_patience": own.reduce_lr_patience,
        "reduce_lr_factor": own.reduce_lr_factor,
    }
    warmup = Phase(
        name=f"{role.name}_warmup",
        epochs=own.epochs_head,
        learning_rate=own.lr_head,
        early_stopping_patience=patience,
        **common,
    )
    finetune = Phase(
        name=f"{role.name}_finetuned",
        epochs=own.epochs_finetune,
        learning_rate=own.lr_finetune,
        early_stopping_patience=own.early_stopping_patience,
        first_epoch=own.epochs_head,
        **common,
    )
    return [(warmup, 0.0), (finetune, own.unfreeze_fraction)]


def _plain_copy(network: keras.Model, role: Role) -> keras.Model:
    """Rebuild in float32 on one device: what everybody after training expects."""
    keras.mixed_precision.set_global_policy("float32")
    copy = role.build()
    copy.set_weights(network.get_weights())
    return copy
