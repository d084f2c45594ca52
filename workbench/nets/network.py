"""A network as a value: its logits, a copy in another number format, and its structure in a file.

Only layers that Keras brings are rebuilt from a file, and nothing that could carry code.
"""

from __future__ import annotations

import json
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import tensorflow as tf
import tf_keras as keras

from workbench import files
from workbench.data.pipeline import evaluation_batches, plain_errors
from workbench.data.views import View
from workbench.errors import InputError, MissingInputError, WeightsError
from workbench.fingerprint import value_digest
from workbench.nets.devices import prepare_devices
from workbench.nets.ensemble import MeanProbability
from workbench.nets.lite import restartable_randomness
from workbench.nets.teacher import STRUCTURES
from workbench.nets.weights import (
    MAX_BYTES,
    holds_weights,
    load_weights_into,
    save_weights,
    unnumbered,
)
from workbench.settings import Settings

if TYPE_CHECKING:
    from workbench.data.tables import Split

BATCH = 32  # images at a time; logits do not depend on it
# Keyed weakly: a compiled function must not keep a network alive that nobody uses any more.
_compiled: weakref.WeakKeyDictionary[keras.Model, Callable] = weakref.WeakKeyDictionary()


def inference(network: keras.Model) -> Callable[[tf.Tensor], tf.Tensor]:
    """Compile the network in inference mode, for any batch size; the caller keeps it alive."""
    if network not in _compiled:
        reference = weakref.ref(network)

        @tf.function(input_signature=[tf.TensorSpec([None, *network.input_shape[1:]], tf.float32)])
        def logits(images: tf.Tensor) -> tf.Tensor:
            return tf.cast(reference()(images, training=False), tf.float32)

        _compiled[network] = logits
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


# The structure as data, so that later notebooks find a reader's own network.

NOTEBOOKS = {"teacher": "03_train_teacher", "student": "04_distill_student"}
LARGEST_FILE = 16 << 20  # bytes; EfficientNet-B7 has half a megabyte
MOST_LAYERS = 5000
# Layers that compute what their numbers say. Lambda and its kin carry code, so they are missing.
LAYERS = {"InputLayer", "Functional", "Sequential", "Dense", "Activation", "Dropout", "Flatten"}
LAYERS |= {"Conv2D", "DepthwiseConv2D", "SeparableConv2D", "Conv2DTranspose", "Resizing", "Reshape"}
LAYERS |= {"BatchNormalization", "LayerNormalization", "GroupNormalization", "Normalization"}
LAYERS |= {"ReLU", "LeakyReLU", "ELU", "PReLU", "Softmax", "SpatialDropout2D", "GaussianNoise"}
LAYERS |= {"ZeroPadding2D", "Cropping2D", "UpSampling2D", "MaxPooling2D", "AveragePooling2D"}
LAYERS |= {"GlobalAveragePooling2D", "GlobalMaxPooling2D", "Rescaling", "Permute"}
LAYERS |= {"Add", "Subtract", "Multiply", "Average", "Maximum", "Concatenate"}
OWN_LAYERS = {"MeanProbability": MeanProbability}
LAYERS |= OWN_LAYERS.keys()
MODULES = {f"keras.{name}" for name in ("layers", "initializers", "regularizers", "constraints")}
MODULES |= {"keras.activations", "keras.models", "keras.src.engine.functional", "keras"}
MODULES |= {"keras.src.engine.sequential", "builtins", None}


def save_network(network: keras.Model, weights: Path, structure: Path | None = None) -> None:
    """Write the weights of a network, and its structure if it is to be rebuilt from a file.

    Files that hold this network are left as they are. Written again they could differ, since Keras
    numbers layers without a name by what the kernel built before, and later steps would seem old.
    """
    described = _described(network) if structure else None
    if holds_weights(weights, network) and (not structure or _tells(structure, described)):
        return
    save_weights(network, weights)
    if structure:
        files.write_json(structure, described)


def _described(network: keras.Model) -> dict[str, Any]:
    """Describe the float32 structure of a network beside the digest that names it."""
    network = in_format(network, "float32")
    try:
        config = network.get_config()
        config = json.loads(json.dumps(config), object_hook=_without_freezing)
    except (NotImplementedError, TypeError):  # a subclass of Model, or a layer that tells nothing
        config = None
    named = {"class": type(network).__name__, "config": config}
    return {"schema": 1, "digest": value_digest(network), **named}


def _without_freezing(config: dict[str, Any]) -> dict[str, Any]:
    """Leave out which layers the phase trained; a rebuilt network is free."""
    return {key: value for key, value in config.items() if key != "trainable"}


def _tells(path: Path, described: dict[str, Any]) -> bool:
    if not path.is_file() or path.stat().st_size > LARGEST_FILE:
        return False
    try:
        saved = files.read_json(path)
    except InputError:
        return False
    return unnumbered(json.dumps(saved)) == unnumbered(json.dumps(described))


def load_network(folder: Path, role: str, settings: Settings) -> keras.Model:
    """Rebuild the teacher or student that a run trained, in float32, with its best weights."""
    folder = Path(folder)
    weights = folder / f"{role}_finetuned.h5"
    if not weights.is_file():
        raise MissingInputError(f"No {weights.name} in {folder}. Run {NOTEBOOKS[role]} first")
    prepare_devices(settings)
    network = _structure(folder, role, settings)
    load_weights_into(network, weights, backbone_only=False)
    network.trainable = True
    return network


def _structure(folder: Path, role: str, settings: Settings) -> keras.Model:
    path = folder / f"{role}_network.json"
    joined = role == "teacher" and bool(settings.teacher.members)  # then the file alone tells
    own = None if joined else _own_structure(folder, role, settings)
    if own and not path.exists():
        return own
    if not path.is_file():
        raise MissingInputError(f"No {path.name} in {folder}. Run {NOTEBOOKS[role]} first")
    if path.stat().st_size > LARGEST_FILE:
        raise WeightsError(
            f"{path} has {path.stat().st_size} bytes; at most {LARGEST_FILE} are read"
        )
    saved = files.read_json(path)
    if not isinstance(saved, dict) or not {"digest", "class", "config"} <= saved.keys():
        raise WeightsError(f"{path} describes no network. Run {NOTEBOOKS[role]} again")
    same = own is not None and saved["digest"] == value_digest(own)
    return own if same else _rebuilt(saved, path)


def _own_structure(folder: Path, role: str, settings: Settings) -> keras.Model:
    classes = len(files.read_json(folder / "dataset_manifest.json")["classes"])
    return STRUCTURES[role](settings, classes)


def _rebuilt(saved: dict[str, Any], path: Path) -> keras.Model:
    """Build a reader's own network, first on a graph, where its weights take no room."""
    kinds = {"Functional": keras.Model, "Sequential": keras.Sequential}
    if saved["class"] not in kinds or saved["config"] is None:
        raise _refused(path, f"a {saved['class']}")
    _check(saved["config"], path)
    kind = kinds[saved["class"]]
    try:
        with keras.utils.custom_object_scope(OWN_LAYERS), tf.Graph().as_default() as graph:
            graph.seed = 0  # dropout wants one where bits must repeat
            size = sum(w.shape.num_elements() for w in kind.from_config(saved["config"]).weights)
        if 4 * size > MAX_BYTES:
            raise WeightsError(
                f"{path} describes {size} weights; at most {MAX_BYTES // 4} are built"
            )
        with keras.utils.custom_object_scope(OWN_LAYERS), restartable_randomness():
            return kind.from_config(saved["config"])
    except (ValueError, TypeError, KeyError, AttributeError, IndexError) as error:
        words = str(error).splitlines()[0]
        raise WeightsError(f"{path} describes no network that Keras can build ({words})") from None


def _check(config: Any, path: Path) -> None:
    """Refuse layers outside the list, and everything that names code of somebody else."""
    if isinstance(config, dict):
        if "inbound_nodes" in config and config.get("class_name") not in LAYERS:
            raise _refused(path, f'the layer "{config.get("name")}" ({config.get("class_name")})')
        foreign = config.get("module") not in MODULES or config.get("registered_name")
        if foreign and not _is_ours(config):
            name = config.get("registered_name") or config.get("class_name")
            raise _refused(path, f"{config['module']}.{name}")
        if len(config.get("layers", ())) > MOST_LAYERS:
            raise WeightsError(f"{path} has more than {MOST_LAYERS} layers")
    for item in config.values() if isinstance(config, dict) else config:
        if isinstance(item, (dict, list)):
            _check(item, path)


def _is_ours(config: dict[str, Any]) -> bool:
    own = OWN_LAYERS.get(config.get("class_name"))
    return own is not None and config.get("module") == own.__module__


def _refused(path: Path, what: str) -> WeightsError:
    return WeightsError(
        f"{path} holds {what}, which is not rebuilt from a file: it may carry code. Build the "
        "network in this notebook as well, in place of load_network, and load its weights with "
        "network.load_weights"
    )
