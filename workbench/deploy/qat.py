"""Quantization-aware training with the student's loop: one device, float32, no averaged weights."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import tf_keras as keras

from workbench.data.tables import Dataset
from workbench.nets.teacher import student_view, teacher_view
from workbench.settings import Settings
from workbench.train.devices import precision, seed_everything
from workbench.train.feeds import Feed, feed_from
from workbench.train.fingerprints import training_fingerprint, weights_hash
from workbench.train.loop import Fitted, Phase, fit_phase

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Batches:
    """The images of QAT, and the teacher that sees them beside it."""

    dataset: Dataset
    teacher: keras.Model | None
    feed: Feed


def qat_batches(settings: Settings, dataset: Dataset, teacher: keras.Model | None) -> Batches:
    own = student_view(settings)
    views = (teacher_view(settings), own) if teacher else (own,)
    size = settings.qat.batch_size or settings.student.batch_size
    return Batches(dataset, teacher, feed_from(dataset, views, size, settings))


def qat_phase(settings: Settings) -> Phase:
    student, qat = settings.student, settings.qat
    return Phase(
        name="student_qat",
        epochs=qat.epochs,
        learning_rate=qat.lr,
        weight_decay=student.weight_decay,
        early_stopping_patience=qat.early_stopping_patience,
        reduce_lr_patience=student.reduce_lr_patience,
        reduce_lr_factor=student.reduce_lr_factor,
        first_epoch=student.epochs_head + student.epochs_finetune,
    )


def fit(phase: Phase, quantized: keras.Model, objective: Any, batches: Batches, run: Any) -> Fitted:
    """Train under fake quantisation, or go on where a killed run stopped.

    The toolkit supports neither several replicas nor mixed precision, and an average of ranges is
    no range.
    """
    training = run.settings.training.model_copy(update={"ema_decay": 0.0})
    settings = run.settings.model_copy(update={"training": training, "precision": "float32"})
    networks = [network for network in (quantized, batches.teacher) if network is not None]
    marks = "".join([settings.qat.model_dump_json(), *map(weights_hash, networks)])
    mark = training_fingerprint(settings, batches.dataset, "student", extra=marks)
    with precision(settings):
        seed_everything(settings)
        return fit_phase(
            quantized, phase, objective, batches.feed, settings, run.folder, fingerprint=mark,
            report=log,
        )  # fmt: skip
