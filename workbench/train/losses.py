"""What training minimises, from logits: a loss per image, so that batches and replicas add up.

Every loss takes a mask [N, C] that is 0 where a label is unknown. An unknown label contributes
nothing and gives no other label more weight. Soft labels (MixUp, smoothing) are allowed throughout.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import tensorflow as tf

from workbench.settings import LossSettings, Settings

# (logits, targets, mask), each [N, C], to the loss of each image [N]
Loss = Callable[[tf.Tensor, tf.Tensor, tf.Tensor], tf.Tensor]


def task_loss(settings: Settings, positives: np.ndarray, images: int) -> Loss:
    """Choose the loss of the task, its classes weighed by their training `positives` [C]."""
    weights = class_weights(settings.loss.class_weights, positives, images)
    smoothing = settings.loss.label_smoothing
    cells = softmax_cross_entropy if settings.task == "single_label" else _binary(settings.loss)
    resting = 1 / len(weights) if settings.task == "single_label" else 0.5

    def loss(logits: tf.Tensor, targets: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
        targets = tf.cast(targets, logits.dtype) * (1 - smoothing) + smoothing * resting
        weighted = tf.cast(mask, logits.dtype) * tf.cast(weights, logits.dtype)
        per_class = cells(logits, targets) * weighted
        if settings.task == "single_label":
            return tf.reduce_sum(per_class, axis=-1)
        return tf.reduce_mean(per_class, axis=-1)

    return loss


def class_weights(kind: str, positives: np.ndarray, images: int) -> np.ndarray:
    """Weigh classes [C] by rarity: mean 1 over the classes that occur, 0 for one that does not."""
    positives = np.asarray(positives, np.float64)
    present = positives > 0
    if kind == "none" or not present.any():
        return np.ones(len(positives), np.float32)
    counts = np.maximum(positives, 1)
    if kind == "effective":
        # Cui et al. 2019: beta = (N - 1) / N for N distinct samples.
        beta = (images - 1) / images
        counts = (1 - beta**counts) / (1 - beta)
    weights = np.where(present, 1 / counts, 0)
    return (weights / weights[present].mean()).astype(np.float32)


def binary_cross_entropy(logits: tf.Tensor, targets: tf.Tensor) -> tf.Tensor:
    return focal_cross_entropy(logits, targets, gamma=0)


def focal_cross_entropy(logits: tf.Tensor, targets: tf.Tensor, gamma: float) -> tf.Tensor:
    """Fade what is already right (Lin et al. 2017): -(1-p)^g log p, and alike for negatives."""
    log_yes, log_no = -tf.nn.softplus(-logits), -tf.nn.softplus(logits)
    positive = tf.exp(gamma * log_no) * log_yes
    negative = tf.exp(gamma * log_yes) * log_no
    return -(targets * positive + (1 - targets) * negative)


def asymmetric_cross_entropy(
    logits: tf.Tensor, targets: tf.Tensor, gamma_positive: float, gamma_negative: float, clip: float
) -> tf.Tensor:
    """Fade easy negatives faster than positives, very easy ones to nothing (Ridnik et al. 2021)."""
    log_yes, log_no = -tf.nn.softplus(-logits), -tf.nn.softplus(logits)
    positive = tf.exp(gamma_positive * log_no) * log_yes
    if clip == 0:
        negative = tf.exp(gamma_negative * log_yes) * log_no
    else:
        shifted = tf.nn.relu(tf.sigmoid(logits) - clip)
        negative = _power(shifted, gamma_negative) * tf.math.log1p(-shifted)
    return -(targets * positive + (1 - targets) * negative)


def softmax_cross_entropy(logits: tf.Tensor, targets: tf.Tensor) -> tf.Tensor:
    return -targets * tf.nn.log_softmax(logits)


def _binary(settings: LossSettings) -> Callable[[tf.Tensor, tf.Tensor], tf.Tensor]:
    if settings.name == "bce":
        return binary_cross_entropy
    if settings.name == "focal":
        return lambda logits, targets: focal_cross_entropy(logits, targets, settings.focal_gamma)
    return lambda logits, targets: asymmetric_cross_entropy(
        logits,
        targets,
        settings.asymmetric_gamma_positive,
        settings.asymmetric_gamma_negative,
        settings.asymmetric_clip,
    )


def _power(base: tf.Tensor, exponent: float) -> tf.Tensor:
    """Raise to a power; the gradient at 0 is 0 where TensorFlow's is infinite or NaN."""
    if exponent == 0:
        return tf.ones_like(base)
    above = base > 0
    return tf.where(above, tf.pow(tf.where(above, base, 1), exponent), 0)
