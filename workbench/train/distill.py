"""What a network learns from: the labels, and for a student a teacher that sees the same view.

The soft part for several labels is a *binary* KL divergence per class. A softmax over classes that
do not exclude one another would teach a competition that is not there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import tensorflow as tf

from workbench.settings import DistillationSettings
from workbench.train.losses import Loss

Views = tuple[tf.Tensor, ...]


class Objective(Protocol):
    """What a training step minimises; `loss` is its part on the labels, which validation uses."""

    loss: Loss

    def __call__(
        self, logits: tf.Tensor, views: Views, targets: tf.Tensor, mask: tf.Tensor
    ) -> tf.Tensor:
        """Compute the loss of each image [N]."""


@dataclass(frozen=True)
class FromLabels:
    """Learn from the labels alone."""

    loss: Loss

    def __call__(self, logits, views, targets, mask) -> tf.Tensor:
        return self.loss(logits, targets, mask)


@dataclass(frozen=True)
class FromTeacher:
    """`alpha * hard + (1 - alpha) * T^2 * soft`; the teacher sees the first view."""

    loss: Loss
    teacher: Callable[[tf.Tensor], tf.Tensor]
    settings: DistillationSettings
    single_label: bool
    gate: np.ndarray  # [C], 0 where a class is not distilled

    def __call__(self, logits, views, targets, mask) -> tf.Tensor:
        alpha, temperature = self.settings.alpha, self.settings.temperature
        hard = self.loss(logits, targets, mask)
        soft = self.soft(logits, tf.stop_gradient(self.teacher(views[0])), targets)
        return alpha * hard + (1 - alpha) * temperature**2 * soft

    def soft(self, logits, teacher_logits, targets) -> tf.Tensor:
        """Compare with the teacher [N], also where a label is unknown: the teacher has a view."""
        temperature = self.settings.temperature
        gate = tf.cast(self.gate, logits.dtype)
        if self.single_label:
            distilled = tf.reduce_sum(gate * tf.cast(targets, logits.dtype), axis=-1)
            return distilled * softmax_divergence(logits, teacher_logits, temperature)
        divergence = binary_divergence(logits, teacher_logits, temperature)
        return tf.reduce_mean(gate * divergence, axis=-1)


def binary_divergence(logits, teacher_logits, temperature: float) -> tf.Tensor:
    """KL of a yes/no distribution per class [N, C], both sides softened by the temperature."""
    student, teacher = logits / temperature, teacher_logits / temperature
    yes = tf.sigmoid(teacher)
    log_ratio_yes = tf.nn.softplus(-student) - tf.nn.softplus(-teacher)
    log_ratio_no = tf.nn.softplus(student) - tf.nn.softplus(teacher)
    return yes * log_ratio_yes + (1 - yes) * log_ratio_no


def softmax_divergence(logits, teacher_logits, temperature: float) -> tf.Tensor:
    """KL of a distribution over the classes [N], both sides softened by the temperature."""
    student = tf.nn.log_softmax(logits / temperature)
    teacher = tf.nn.log_softmax(teacher_logits / temperature)
    return tf.reduce_sum(tf.exp(teacher) * (teacher - student), axis=-1)


def gate_classes(
    positives: np.ndarray, min_positives: int, teacher: np.ndarray, student: np.ndarray
) -> np.ndarray:
    """Decide per class [C] whether to listen to the teacher.

    `positives` are counted in training; `teacher` and `student` are validation scores, NaN where
    a class has no example there, and a teacher without a score is not listened to.
    """
    enough = np.asarray(positives) >= min_positives
    better = np.asarray(teacher) >= np.nan_to_num(student)
    return (enough & better).astype(np.float32)
