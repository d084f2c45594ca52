"""What a student learns from: the labels, and a teacher that looks at the same view.

The soft part for several labels is a *binary* KL divergence per class. A softmax over classes that
do not exclude one another would teach competition that is not there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

import workbench  # noqa: F401

# isort: split
import tensorflow as tf

from workbench.settings import DistillationSettings, Settings
from workbench.train.losses import Loss

# (logits, views, targets, mask) to the loss of each image [N]
Objective = Callable[[tf.Tensor, tuple[tf.Tensor, ...], tf.Tensor, tf.Tensor], tf.Tensor]


def labels_only(loss: Loss) -> Objective:
    """Learn from the labels alone."""
    return lambda logits, views, targets, mask: loss(logits, targets, mask)


@dataclass(frozen=True)
class Distillation:
    """`alpha * hard + (1 - alpha) * T^2 * soft`; the teacher sees the first view."""

    loss: Loss
    teacher: Callable[[tf.Tensor], tf.Tensor]
    settings: DistillationSettings
    single_label: bool
    gate: np.ndarray  # [C], 0 where a class is not distilled

    def __call__(self, logits, views, targets, mask) -> tf.Tensor:
        teacher_logits = tf.stop_gradient(self.teacher(views[0]))
        hard = self.loss(logits, targets, mask)
        soft = self.soft(logits, teacher_logits, targets)
        alpha, temperature = self.settings.alpha, self.settings.temperature
        return alpha * hard + (1 - alpha) * temperature**2 * soft

    def soft(self, logits, teacher_logits, targets) -> tf.Tensor:
        """Compare with the teacher, also where a label is unknown: the teacher has an opinion."""
        temperature = self.settings.temperature
        gate = tf.cast(self.gate, logits.dtype)
        if self.single_label:
            distilled = tf.reduce_sum(gate * tf.cast(targets, logits.dtype), axis=-1)
            return distilled * softmax_divergence(logits, teacher_logits, temperature)
        return tf.reduce_mean(
            gate * binary_divergence(logits, teacher_logits, temperature), axis=-1
        )


def binary_divergence(logits, teacher_logits, temperature: float) -> tf.Tensor:
    """KL of two yes/no distributions per class [N, C], softened by the temperature."""
    student, teacher = logits / temperature, teacher_logits / temperature
    yes = tf.sigmoid(teacher)
    log_ratio_yes = tf.nn.softplus(-student) - tf.nn.softplus(-teacher)
    log_ratio_no = tf.nn.softplus(student) - tf.nn.softplus(teacher)
    return yes * log_ratio_yes + (1 - yes) * log_ratio_no


def softmax_divergence(logits, teacher_logits, temperature: float) -> tf.Tensor:
    """KL of two distributions over the classes [N], softened by the temperature."""
    student = tf.nn.log_softmax(logits / temperature)
    teacher = tf.nn.log_softmax(teacher_logits / temperature)
    return tf.reduce_sum(tf.exp(teacher) * (teacher - student), axis=-1)


def distillation_gate(
    settings: Settings, positives: np.ndarray, teacher_scores: np.ndarray, start_scores: np.ndarray
) -> np.ndarray:
    """Decide per class [C] whether the teacher is worth listening to."""
    if not settings.distillation.gate:
        return np.ones(len(positives), np.float32)
    enough = positives >= settings.distillation.gate_min_positives
    better = np.nan_to_num(teacher_scores) >= np.nan_to_num(start_scores)
    return (enough & better).astype(np.float32)
