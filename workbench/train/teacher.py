"""03: train the large network on the labels."""

from __future__ import annotations

import logging
from pathlib import Path

import tf_keras as keras

from workbench.data.tables import Dataset
from workbench.nets.teacher import build_teacher, teacher_view
from workbench.settings import Settings
from workbench.train.distill import FromLabels, Objective
from workbench.train.fingerprints import training_fingerprint
from workbench.train.losses import Loss
from workbench.train.phases import Role, Training, train_in_phases

logger = logging.getLogger(__name__)


def train_teacher(
    settings: Settings,
    dataset: Dataset,
    folder: Path,
    report: logging.Logger = logger,
    *,
    fingerprint: str = "",
    bar: bool | None = None,
) -> Training:
    """Train the teacher, or go on where a killed run stopped, or load what is finished.

    Writes teacher_warmup.h5, teacher_finetuned.h5, checkpoints/ and logs/ into `folder`.
    """
    own = settings.teacher
    role = Role(
        name="teacher",
        arch=own.arch,
        settings=own,
        views=(teacher_view(settings),),
        build=lambda: build_teacher(own, len(dataset.classes)),
    )
    mark = training_fingerprint(settings, dataset, "teacher", extra=fingerprint)
    return train_in_phases(
        role, _from_labels, settings, dataset, folder, fingerprint=mark, report=report, bar=bar
    )


def _from_labels(network: keras.Model, loss: Loss) -> Objective:
    return FromLabels(loss)
