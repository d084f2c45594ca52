"""The structure of a trained network as data, so that later notebooks find a reader's own one.

Only layers that Keras brings are rebuilt from a file, and nothing that could carry code.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import tensorflow as tf
import tf_keras as keras

from workbench import files
from workbench.errors import MissingInputError, WeightsError
from workbench.fingerprint import value_digest
from workbench.nets.devices import prepare_devices
from workbench.nets.inference import in_format
from workbench.nets.lite import restartable_randomness
from workbench.nets.teacher import student_structure, teacher_structure
from workbench.nets.weights import MAX_BYTES, load_weights_into
from workbench.settings import Settings

NOTEBOOKS = {"teacher": "03_train_teacher", "student": "04_distill_student"}
STRUCTURES = {"teacher": teacher_structure, "student": student_structure}
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
MODULES = {f"keras.{name}" for name in ("layers", "initializers", "regularizers", "constraints")}
MODULES |= {"keras.activations", "keras.models", "keras.src.engine.functional", "keras"}
MODULES |= {"keras.src.engine.sequential", "builtins", None}


def write_structure(network: keras.Model, path: Path) -> None:
    """Write the float32 structure of a network beside the digest that names it."""
    network = in_format(network, "float32")
    try:
        config = network.get_config()
        text = json.dumps(config)
        structure = {"class": type(network).__name__, "config": json.loads(text)}
    except (NotImplementedError, TypeError):  # a subclass of Model, or a layer that tells nothing
        structure = {"class": type(network).__name__, "config": None}
    digest = value_digest(network)
    files.write_json(path, {"schema": 1, "digest": digest, **structure})


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
    classes = len(files.read_json(folder / "dataset_manifest.json")["classes"])
    own = STRUCTURES[role](settings, classes)
    if not path.exists():
        return own
    if path.stat().st_size > LARGEST_FILE:
        raise WeightsError(
            f"{path} has {path.stat().st_size} bytes; at most {LARGEST_FILE} are read"
        )
    saved = files.read_json(path)
    if not isinstance(saved, dict) or not {"digest", "class", "config"} <= saved.keys():
        raise WeightsError(f"{path} describes no network. Run {NOTEBOOKS[role]} again")
    return own if saved["digest"] == value_digest(own) else _rebuilt(saved, path)


def _rebuilt(saved: dict[str, Any], path: Path) -> keras.Model:
    """Build a reader's own network, first on a graph, where its weights take no room."""
    kinds = {"Functional": keras.Model, "Sequential": keras.Sequential}
    if saved["class"] not in kinds or saved["config"] is None:
        raise _refused(path, f"a {saved['class']}")
    _check(saved["config"], path)
    kind = kinds[saved["class"]]
    try:
        with tf.Graph().as_default():
            size = sum(w.shape.num_elements() for w in kind.from_config(saved["config"]).weights)
        if 4 * size > MAX_BYTES:
            raise WeightsError(
                f"{path} describes {size} weights; at most {MAX_BYTES // 4} are built"
            )
        with restartable_randomness():
            return kind.from_config(saved["config"])
    except (ValueError, TypeError, KeyError, AttributeError, IndexError) as error:
        words = str(error).splitlines()[0]
        raise WeightsError(f"{path} describes no network that Keras can build ({words})") from None


def _check(config: Any, path: Path) -> None:
    """Refuse layers outside the list, and everything that names code of somebody else."""
    if isinstance(config, dict):
        if "inbound_nodes" in config and config.get("class_name") not in LAYERS:
            raise _refused(path, f'the layer "{config.get("name")}" ({config.get("class_name")})')
        if config.get("module") not in MODULES or config.get("registered_name"):
            name = config.get("registered_name") or config.get("class_name")
            raise _refused(path, f"{config['module']}.{name}")
        if len(config.get("layers", ())) > MOST_LAYERS:
            raise WeightsError(f"{path} has more than {MOST_LAYERS} layers")
    for item in config.values() if isinstance(config, dict) else config:
        if isinstance(item, (dict, list)):
            _check(item, path)


def _refused(path: Path, what: str) -> WeightsError:
    return WeightsError(
        f"{path} holds {what}, which is not rebuilt from a file: it may carry code. Build the "
        "network in this notebook as well, in place of load_network, and load its weights with "
        "network.load_weights"
    )
