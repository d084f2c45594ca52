"""Logits of a network: one compiled function per network, traced once and shared by everybody."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import tensorflow as tf
import tf_keras as keras

from workbench.data.pipeline import evaluation_batches
from workbench.data.tables import Split
from workbench.data.views import View
from workbench.settings import Settings

# Keyed weakly: a compiled function must not keep a network alive that nobody uses any more.
_compiled: weakref.WeakKeyDictionary[keras.Model, Callable] = weakref.WeakKeyDictionary()


def inference(network: keras.Model) -> Callable[[tf.Tensor], tf.Tensor]:
    """Compile the network in inference mode, for any batch size; the caller keeps it alive."""
    if network not in _compiled:
        _compiled[network] = _compile(network)
    return _compiled[network]


@dataclass(frozen=True)
class Inference:
    """A network in inference mode that stays alive as long as somebody may call it."""

    network: keras.Model

    def __call__(self, images: tf.Tensor) -> tf.Tensor:
        return inference(self.network)(images)


def predict_logits(
    model: keras.Model, split: Split, view: View, batch_size: int, settings: Settings
) -> np.ndarray:
    """Compute float32 logits [N, C] for every image of a split, in order."""
    compiled = inference(model)
    batches = evaluation_batches(split, (view,), batch_size, settings)
    return np.concatenate([compiled(views[-1]).numpy() for views, _targets, _mask in batches])


def _compile(network: keras.Model) -> Callable[[tf.Tensor], tf.Tensor]:
    reference = weakref.ref(network)

    @tf.function(input_signature=[tf.TensorSpec([None, *network.input_shape[1:]], tf.float32)])
    def logits(images: tf.Tensor) -> tf.Tensor:
        return tf.cast(reference()(images, training=False), tf.float32)

    return logits
