"""Logits of a network: one compiled function per network, traced once and shared by everybody."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import tensorflow as tf
import tf_keras as keras

from workbench.data.pipeline import evaluation_batches, plain_errors
from workbench.data.views import View
from workbench.nets.lite import restartable_randomness

if TYPE_CHECKING:
    from workbench.data.tables import Split
    from workbench.settings import Settings

BATCH = 32  # images at a time; logits do not depend on it
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
    network: keras.Model, split: Split, view: View, settings: Settings, *, batch_size: int = BATCH
) -> np.ndarray:
    """Compute float32 logits [N, C] for every image of a split, in order."""
    network = in_format(network, "float32")
    compiled = inference(network)
    batches = evaluation_batches(split, (view,), batch_size, settings)
    with plain_errors():
        return np.concatenate([compiled(views[-1]).numpy() for views, _targets, _mask in batches])


def in_format(network: keras.Model, policy: str) -> keras.Model:
    """Copy a network into another number format and onto the devices of the present scope.

    Where neither changes, the network itself comes back.
    """
    spread = tf.distribute.has_strategy() or _is_spread(network)
    whole = network.layers[-1]
    formats = {one.dtype_policy.name for one in network.layers if one.weights and one is not whole}
    if formats <= {policy} and not spread:
        return network
    classes = {type(layer).__name__: type(layer) for layer in network.layers}
    with restartable_randomness(), keras.utils.custom_object_scope(classes):
        copy = type(network).from_config(_with_format(network.get_config(), policy))
    copy.set_weights(network.get_weights())
    return copy


def _is_spread(network: keras.Model) -> bool:
    return any(isinstance(w, tf.distribute.DistributedValues) for w in network.weights[:1])


def _with_format(config: dict[str, Any], policy: str) -> dict[str, Any]:
    """Set the format of every layer but the input and the last, whose logits stay whole."""
    inner = config["layers"]
    changed = []
    for number, layer in enumerate(inner, start=1):
        own = dict(layer["config"])
        if "layers" in own:
            own = _with_format(own, policy)
        elif layer["class_name"] != "InputLayer":
            own["dtype"] = policy if number < len(inner) else "float32"
        changed.append({**layer, "config": own})
    return {**config, "layers": changed}


def _compile(network: keras.Model) -> Callable[[tf.Tensor], tf.Tensor]:
    reference = weakref.ref(network)

    @tf.function(input_signature=[tf.TensorSpec([None, *network.input_shape[1:]], tf.float32)])
    def logits(images: tf.Tensor) -> tf.Tensor:
        return tf.cast(reference()(images, training=False), tf.float32)

    return logits
