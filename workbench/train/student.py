"""04: train the network for the phone on the labels and, where there is one, on a teacher."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np

import workbench  # noqa: F401

# isort: split
import tf_keras as keras

from workbench.data.tables import Dataset
from workbench.nets.lite import build_lite
from workbench.nets.teacher import student_view, teacher_view
from workbench.settings import Settings
from workbench.train.distill import FromLabels, FromTeacher, Objective
from workbench.train.fingerprints import training_fingerprint, weights_hash
from workbench.train.losses import Loss
from workbench.train.phases import Role, Training, train_in_phases
from workbench.train.predict import inference

logger = logging.getLogger(__name__)


def build_student(settings: Settings, num_classes: int) -> keras.Model:
    """Build the student network that the settings describe."""
    own = settings.student
    return build_lite(
        own.variant,
        num_classes,
        input_size=settings.student_size,
        dropout=own.dropout,
        drop_connect=own.drop_connect,
        normalization_momentum=own.normalization_momentum,
    )


def train_student(
    settings: Settings,
    dataset: Dataset,
    teacher: keras.Model | None,
    folder: Path,
    report: logging.Logger = logger,
    *,
    fingerprint: str = "",
    bar: bool | None = None,
) -> Training:
    """Train the student, or go on where a killed run stopped, or load what is finished.

    Writes student_warmup.h5, student_finetuned.h5, checkpoints/ and logs/ into `folder`.
    """
    teacher = teacher if settings.distillation.enabled else None
    own = student_view(settings)
    role = Role(
        name="student",
        arch=f"efficientnet_{settings.student.variant}",
        settings=settings.student,
        views=(teacher_view(settings), own) if teacher else (own,),
        build=lambda: build_student(settings, len(dataset.classes)),
    )
    extra = fingerprint + (weights_hash(teacher) if teacher else "")
    mark = training_fingerprint(settings, dataset, "student", extra=extra)

    def objective(network: keras.Model, loss: Loss) -> Objective:
        return student_objective(settings, loss, teacher, len(dataset.classes))

    return train_in_phases(
        role, objective, settings, dataset, folder, fingerprint=mark, report=report, bar=bar
    )


def student_objective(
    settings: Settings, loss: Loss, teacher: keras.Model | None, num_classes: int
) -> Objective:
    """Join labels and teacher; quantization-aware training learns from the same."""
    if teacher is None:
        return FromLabels(loss)
    return FromTeacher(
        loss=loss,
        teacher=inference(teacher),
        settings=settings.distillation,
        single_label=settings.task == "single_label",
        gate=np.ones(num_classes, np.float32),
    )
