"""Where did the network look? Grad-CAM on a Keras network, for the error gallery."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import tensorflow as tf
import tf_keras as keras

from workbench.errors import InputError
from workbench.nets.ensemble import parts_of

BATCH = 16  # images at a time: gradients of all feature maps are held at once


def gradcam(model: keras.Model, images: np.ndarray, class_index: int | Sequence[int]) -> np.ndarray:
    """Return heat maps [N, h, w] in 0…1 for normalised images [N, H, W, 3] and a class each.

    The map is a weighted sum of the last feature maps, the weights being the mean gradient of
    the logit (Selvaraju et al. 2017), as coarse as those maps. A map that speaks against the
    class everywhere is all 0. Of an ensemble it is the mean over the members.
    """
    indices = np.broadcast_to(np.asarray(class_index, np.int64), len(images))
    classes = model.output_shape[-1]
    if len(indices) and not (indices.min() >= 0 and indices.max() < classes):
        raise InputError(f"class {indices.max()} was asked of a network with {classes} classes")
    models = [keras.Model(one.inputs, [last_feature_maps(one), one.output])
              for one in parts_of(model)]  # fmt: skip
    starts = range(0, len(images), BATCH)
    maps = [_mean(models, images[at : at + BATCH], indices[at : at + BATCH]) for at in starts]
    return np.concatenate(maps) if maps else np.zeros((0, 1, 1), np.float32)


def last_feature_maps(model: keras.Model) -> tf.Tensor:
    """Return the deepest tensor that still has width and height."""
    for layer in reversed(model.layers):
        shape = layer.output_shape
        if isinstance(shape, tuple) and len(shape) == 4 and (shape[1] or 0) > 1:
            return layer.output
    raise InputError(f"{model.name} has no layer with feature maps, so there is nothing to show")


def _mean(models: list[keras.Model], images: np.ndarray, indices: np.ndarray) -> np.ndarray:
    maps = [_maps(both, images, indices) for both in models]
    size = np.max([one.shape[1:] for one in maps], axis=0)
    return np.mean([tf.image.resize(one[..., None], size)[..., 0] for one in maps], axis=0)


def _maps(both: keras.Model, images: np.ndarray, indices: np.ndarray) -> np.ndarray:
    images = tf.convert_to_tensor(images, tf.float32)
    with tf.GradientTape() as tape:
        tape.watch(images)  # a frozen network has nothing else to record
        features, logits = both(images, training=False)
        chosen = tf.gather(logits, indices, batch_dims=1)
    gradients = tape.gradient(chosen, features)
    weights = tf.reduce_mean(gradients, axis=(1, 2), keepdims=True)
    maps = tf.nn.relu(tf.reduce_sum(weights * features, axis=-1))
    highest = tf.reduce_max(maps, axis=(1, 2), keepdims=True)
    return tf.math.divide_no_nan(maps, highest).numpy()
