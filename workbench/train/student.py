"""04: train the network for the phone on the labels and, where there is one, on a teacher."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import tensorflow as tf
import tf_keras as keras

from workbench.data.tables import Dataset
from workbench.data.views import View
from workbench.nets.lite import build_lite
from workbench.nets.teacher import build_teacher, student_view, teacher_view
from workbench.settings import Settings
from workbench.train.distill import FromLabels, FromTeacher, Objective, gate_classes
from workbench.train.fingerprints import training_fingerprint, weights_hash
from workbench.train.losses import Loss
from workbench.train.monitors import class_scores
from workbench.train.phases import Role, Training, train_in_phases
from workbench.train.predict import Inference, predict_logits

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
        if teacher is None:
            return FromLabels(loss)
        own = _like_the_student(teacher, settings, len(dataset.classes))
        gate = _gate(settings, dataset, own, network) if settings.distillation.gate else None
        return student_objective(settings, loss, own, len(dataset.classes), gate=gate)

    return train_in_phases(
        role, objective, settings, dataset, folder, fingerprint=mark, report=report, bar=bar
    )


def student_objective(
    settings: Settings,
    loss: Loss,
    teacher: keras.Model | None,
    num_classes: int,
    *,
    gate: np.ndarray | None = None,
) -> Objective:
    """Join labels and teacher; quantization-aware training learns from the same."""
    if teacher is None:
        return FromLabels(loss)
    return FromTeacher(
        loss=loss,
        teacher=Inference(teacher),
        settings=settings.distillation,
        single_label=settings.task == "single_label",
        gate=np.ones(num_classes, np.float32) if gate is None else gate,
    )


def _like_the_student(teacher: keras.Model, settings: Settings, num_classes: int) -> keras.Model:
    """Copy the teacher into the number format and onto the devices that the student trains in."""
    half = keras.mixed_precision.global_policy().name != "float32"
    if not half and not tf.distribute.has_strategy():
        return teacher
    copy = build_teacher(settings.teacher, num_classes)
    copy.set_weights(teacher.get_weights())
    return copy


def _gate(
    settings: Settings, dataset: Dataset, teacher: keras.Model, start: keras.Model
) -> np.ndarray:
    """Leave out classes that the teacher knows less of than the student does at its start."""
    train, validation = dataset.split("train"), dataset.split("val")

    def scores(network: keras.Model, view: View) -> np.ndarray:
        batch_size = settings.student.batch_size
        logits = predict_logits(network, validation, view, batch_size, settings)
        return class_scores(logits, validation.targets, validation.mask)

    gate = gate_classes(
        (train.targets * train.mask).sum(axis=0),
        settings.distillation.gate_min_positives,
        scores(teacher, teacher_view(settings)),
        scores(start, student_view(settings)),
    )
    shut = [name for name, is_open in zip(dataset.classes, gate, strict=True) if not is_open]
    logger.info("distillation gate: %s", f"not for {', '.join(shut)}" if shut else "every class")
    return gate
