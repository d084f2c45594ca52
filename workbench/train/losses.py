"""What training minimises, from logits: the labels and, for a student, a teacher's answers.

A loss gives a value per image, so that batches and replicas add up. Every loss takes a mask [N, C]
that is 0 where a label is unknown: such a label contributes nothing and gives no other label more
weight. Soft labels (MixUp, smoothing) are allowed throughout.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import tensorflow as tf

from workbench.decide.outcomes import average_precision
from workbench.nets.devices import choose_strategy, precision
from workbench.nets.network import Inference, in_format, predict_logits
from workbench.nets.teacher import student_view, teacher_view
from workbench.settings import LossSettings, Settings

if TYPE_CHECKING:
    import tf_keras as keras

    from workbench.data.tables import Dataset, Split

logger = logging.getLogger(__name__)

# (logits, targets, mask), each [N, C], to the loss of each image [N]
Loss = Callable[[tf.Tensor, tf.Tensor, tf.Tensor], tf.Tensor]


def task_loss(settings: Settings, train: Split) -> Loss:
    """Choose the loss of the task, its answers weighed by how often `train` gives them."""
    yes, known = (train.targets * train.mask).sum(axis=0), train.mask.sum(axis=0)
    kind, single_label = settings.loss.class_weights, settings.task == "single_label"
    if single_label:
        of_yes, of_no = rarity_weights(kind, yes, len(train)), np.zeros(len(yes), np.float32)
    else:
        both = rarity_weights(kind, np.stack([yes, known - yes], axis=1), known[:, None])
        of_yes, of_no = (both if kind == "none" else both * (yes > 0)[:, None]).T
    cells = softmax_cross_entropy if single_label else _binary(settings.loss)
    return LabelLoss(cells, of_yes, of_no, settings.loss.label_smoothing, single_label)


@dataclass(frozen=True)
class LabelLoss:
    """A loss per class, smoothed and weighed: the mean over classes; for one label the sum."""

    cells: Callable[[tf.Tensor, tf.Tensor, tf.Tensor], tf.Tensor]  # (logits, yes, no) to [N, C]
    of_yes: np.ndarray  # [C], what a class weighs where it is there
    of_no: np.ndarray  # [C], and where it is not
    smoothing: float
    single_label: bool

    def __call__(self, logits: tf.Tensor, targets: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
        of_yes, of_no, targets, mask = (
            tf.cast(array, logits.dtype) for array in (self.of_yes, self.of_no, targets, mask)
        )
        resting = 1 / len(self.of_yes) if self.single_label else 0.5
        targets = targets * (1 - self.smoothing) + self.smoothing * resting
        per_class = self.cells(logits, targets * mask * of_yes, (1 - targets) * mask * of_no)
        total = tf.reduce_sum if self.single_label else tf.reduce_mean
        return total(per_class, axis=-1)


def rarity_weights(kind: str, counts: np.ndarray, images: np.ndarray | int) -> np.ndarray:
    """Weigh answers [..., K] that exclude one another by how rarely `counts` has each.

    The mean over the labels given is 1, as where a weighted mean divides by the weights' sum:
    labels keep their say against a teacher. An answer that is never given weighs 0.
    """
    counts = np.asarray(counts, np.float64)
    labels = counts.sum(axis=-1, keepdims=True)
    if kind == "none":
        return np.ones(counts.shape, np.float32)
    numbers = np.maximum(counts, 1)
    if kind == "effective":
        # Cui et al. 2019: beta = (N - 1) / N for N distinct samples.
        beta = 1 - 1 / np.maximum(images, 1)
        numbers = (1 - beta**numbers) / (1 - beta)
    weights = np.where(counts > 0, 1 / numbers, 0)
    total = (weights * counts).sum(axis=-1, keepdims=True)
    return (weights * labels / np.where(total > 0, total, 1)).astype(np.float32)


# Each takes logits and what a yes and a no weigh, [N, C] all: targets, mask and weights in one.


def binary_cross_entropy(logits: tf.Tensor, yes: tf.Tensor, no: tf.Tensor) -> tf.Tensor:
    return focal_cross_entropy(logits, yes, no, gamma=0)


def focal_cross_entropy(
    logits: tf.Tensor, yes: tf.Tensor, no: tf.Tensor, gamma: float
) -> tf.Tensor:
    """Fade what is already right (Lin et al. 2017): -(1-p)^g log p, and alike for negatives."""
    log_yes, log_no = -tf.nn.softplus(-logits), -tf.nn.softplus(logits)
    positive = tf.exp(gamma * log_no) * log_yes
    negative = tf.exp(gamma * log_yes) * log_no
    return -(yes * positive + no * negative)


def asymmetric_cross_entropy(
    logits: tf.Tensor, yes: tf.Tensor, no: tf.Tensor,
    gamma_positive: float, gamma_negative: float, clip: float,
) -> tf.Tensor:  # fmt: skip
    """Fade easy negatives faster than positives, very easy ones to nothing (Ridnik et al. 2021)."""
    log_yes, log_no = -tf.nn.softplus(-logits), -tf.nn.softplus(logits)
    positive = tf.exp(gamma_positive * log_no) * log_yes
    if clip == 0:
        negative = tf.exp(gamma_negative * log_yes) * log_no
    else:
        shifted = tf.nn.relu(tf.sigmoid(logits) - clip)
        negative = _power(shifted, gamma_negative) * tf.math.log1p(-shifted)
    return -(yes * positive + no * negative)


def softmax_cross_entropy(logits: tf.Tensor, yes: tf.Tensor, _no: tf.Tensor) -> tf.Tensor:
    return -yes * tf.nn.log_softmax(logits)


def _binary(settings: LossSettings) -> Callable[[tf.Tensor, tf.Tensor, tf.Tensor], tf.Tensor]:
    if settings.name == "bce":
        return binary_cross_entropy
    if settings.name == "focal":
        return partial(focal_cross_entropy, gamma=settings.focal_gamma)
    return partial(
        asymmetric_cross_entropy, gamma_positive=settings.asymmetric_gamma_positive,
        gamma_negative=settings.asymmetric_gamma_negative, clip=settings.asymmetric_clip,
    )  # fmt: skip


def _power(base: tf.Tensor, exponent: float) -> tf.Tensor:
    """Raise to a power; the gradient at 0 is 0 where TensorFlow's is infinite or NaN."""
    if exponent == 0:
        return tf.ones_like(base)
    above = base > 0
    return tf.where(above, tf.pow(tf.where(above, base, 1), exponent), 0)


# A student's teacher. For several labels the soft part is a *binary* KL divergence per class: a
# softmax over classes that do not exclude one another teaches a competition that is not there.


class Distillation:
    """`alpha * loss + (1 - alpha) * T^2 * soft`; the teacher sees the first view."""

    def __init__(
        self,
        loss: Loss,  # on the labels alone, which is what validation reports
        teacher: keras.Model,
        settings: Settings,
        gate: np.ndarray | None = None,  # [C], 0 where a class is not distilled
    ) -> None:
        distillation = settings.distillation
        self.loss, self.gate = loss, gate
        self.alpha, self.temperature = distillation.alpha, distillation.temperature
        self.single_label = settings.task == "single_label"
        with precision(settings) as policy, choose_strategy(settings).scope():
            self.teacher = Inference(in_format(teacher, policy))

    def __call__(
        self, logits: tf.Tensor, views: tuple[tf.Tensor, ...], targets: tf.Tensor, mask: tf.Tensor
    ) -> tf.Tensor:
        hard = self.loss(logits, targets, mask)
        soft = self._soft(logits, tf.stop_gradient(self.teacher(views[0])), targets, mask)
        return self.alpha * hard + (1 - self.alpha) * self.temperature**2 * soft

    def on_answers(self) -> Distillation:
        """Take the first view for what the teacher says of it, not for what the teacher sees."""
        changed = copy.copy(self)
        changed.teacher = tf.identity
        return changed

    def _soft(self, logits, teacher_logits, targets, mask) -> tf.Tensor:
        """Compare with the teacher [N], also where a label is unknown: the teacher has a view."""
        gate = tf.ones(logits.shape[-1]) if self.gate is None else self.gate
        gate = tf.cast(gate, logits.dtype)
        if self.single_label:
            # Without a label, the gate is that of the classes that the teacher sees there.
            known = tf.reduce_any(mask > 0, axis=-1, keepdims=True)
            seen = tf.cast(tf.nn.softmax(teacher_logits), logits.dtype)
            classes = tf.where(known, tf.cast(targets, logits.dtype), seen)
            distilled = tf.reduce_sum(gate * classes, axis=-1)
            return distilled * softmax_divergence(logits, teacher_logits, self.temperature)
        divergence = binary_divergence(logits, teacher_logits, self.temperature)
        return tf.reduce_mean(gate * divergence, axis=-1)


def label_part(objective: Callable) -> Loss:
    """Return the part of an objective that is about labels: a loss itself, or that inside."""
    return objective.loss if isinstance(objective, Distillation) else objective


def loss_per_image(objective: Callable, logits, views, targets, mask) -> tf.Tensor:
    """Compute an objective [N]; only distillation looks at the views."""
    if isinstance(objective, Distillation):
        return objective(logits, views, targets, mask)
    return objective(logits, targets, mask)


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


def trusted_classes(
    settings: Settings, dataset: Dataset, teacher: keras.Model, student: keras.Model
) -> np.ndarray:
    """Decide per class [C] whether the student listens to the teacher (`distillation.gate`)."""
    train, validation = dataset.split("train"), dataset.split("val")
    if not settings.distillation.gate:
        return np.ones(len(dataset.classes), np.float32)
    positives, least = (
        (train.targets * train.mask).sum(axis=0),
        settings.distillation.gate_min_positives,
    )
    both = ((teacher, teacher_view(settings)), (student, student_view(settings)))
    logits = [predict_logits(network, validation, view, settings) for network, view in both]
    scores = [average_precisions(one, validation.targets, validation.mask) for one in logits]
    gate = gate_classes(positives, least, *scores)
    shut = [name for name, is_open in zip(dataset.classes, gate, strict=True) if not is_open]
    logger.info("distillation gate: %s", f"not for {', '.join(shut)}" if shut else "every class")
    return gate


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


def average_precisions(logits: np.ndarray, targets: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Compute the average precision of each class [C], NaN without an example."""
    columns = zip(targets.T, logits.T, mask.T, strict=True)
    found = [average_precision(*column) for column in columns]
    return np.array([np.nan if value is None else value for value in found])
