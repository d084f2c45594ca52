"""Weights in and out of networks. Networks come from settings; a file only fills in numbers."""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import h5py
import numpy as np

import workbench  # noqa: F401

# isort: split
import tf_keras as keras

from workbench import files
from workbench.errors import WeightsError
from workbench.nets.anatomy import is_head
from workbench.nets.lite import HEAD
from workbench.nets.plain_files import Arrays, read_arrays

__all__ = ["fits_head", "load_weights_into", "read_arrays", "save_weights"]
logger = logging.getLogger(__name__)
HEADS = {HEAD, "predictions"}  # ours, and that of the published networks
# The statistics of Normalization are constants of the architecture, whatever a file holds.
CONSTANT = re.compile(r"normalization(_\d+)?/(mean|variance|count)")


def save_weights(
    model: keras.Model, path: Path, values: Sequence[np.ndarray] | None = None
) -> None:
    """Write weights in the layout that Keras calls h5, whole or not at all.

    `values` are those of `model.get_weights()`, for whoever has them already. The same weights
    give the same bytes, which Keras does not promise.
    """
    left = iter(model.get_weights() if values is None else values)
    with files.writing(Path(path)) as temporary, h5py.File(temporary, "w") as file:
        file.attrs["layer_names"] = [layer.name.encode() for layer in model.layers]
        file.attrs["backend"], file.attrs["keras_version"] = b"tensorflow", keras.__version__
        for layer in model.layers:
            group = file.create_group(layer.name)
            group.attrs["weight_names"] = [weight.name.encode() for weight in layer.weights]
            for weight in layer.weights:
                group.create_dataset(weight.name, data=next(left), track_times=False)


def load_weights_into(model: keras.Model, source: str | Path, *, backbone_only: bool) -> None:
    """Fill a network from a file that must fit it; `backbone_only` leaves the head as it is."""
    wanted = _slots(model, backbone_only)
    arrays = _found(read_arrays(Path(source)), wanted, backbone_only, source)
    for layer in {id(layer): layer for layer, _weight in wanted.values()}.values():
        keys = [key for key, (owner, _weight) in wanted.items() if owner is layer]
        layer.set_weights([arrays[key] for key in keys])


def fits_head(model: keras.Model, source: str | Path) -> bool:
    """Tell whether a file holds a head for as many classes as the network has."""
    arrays = read_arrays(Path(source))
    heads = {key: slot for key, slot in _slots(model, False).items() if is_head(slot[0])}
    return all(key in arrays and _same(arrays[key], w) for key, (_layer, w) in heads.items())


def _slots(model: keras.Model, backbone_only: bool) -> dict[str, tuple]:
    """Every weight that a file must fill, by `layer/weight`, in the order of the network."""
    slots = {}
    for layer in model.layers:
        if (backbone_only and is_head(layer)) or isinstance(layer, keras.layers.Normalization):
            continue
        for weight in layer.weights:
            slots[f"{layer.name}/{weight.name.split('/')[-1].split(':')[0]}"] = (layer, weight)
    return slots


def _found(arrays: Arrays, wanted: dict[str, tuple], backbone_only: bool, source) -> Arrays:
    """Match by name; where names differ, by order, as Keras does with its published files."""
    offered = {key: array for key, array in arrays.items() if not CONSTANT.fullmatch(key)}
    if backbone_only:
        offered = {k: array for k, array in offered.items() if k.split("/")[0] not in HEADS}
    if not wanted.keys() <= offered.keys():
        offered = _renamed(offered, wanted, source)
    for key, (_layer, weight) in wanted.items():
        if key not in offered:
            raise WeightsError(f"{source} holds no {key}; another network wrote it")
        if not _same(offered[key], weight):
            raise WeightsError(
                f"{source}: {key} has shape {offered[key].shape}, expected "
                f"{tuple(weight.shape)}; it is of another network or for other classes"
            )
    surplus = sorted(offered.keys() - wanted.keys())
    if surplus:
        raise WeightsError(f"{source} also holds {surplus[0]}; another network wrote it")
    return offered


def _renamed(offered: Arrays, wanted: dict[str, tuple], source) -> Arrays:
    """Give arrays the names of the network, where class and number or order say which is which."""
    by_class = _class_keys(wanted)
    if by_class.keys() <= offered.keys():
        return {by_class[key]: array for key, array in offered.items() if key in by_class}
    arrays, slots = list(offered.values()), list(wanted.items())
    fits = all(_same(array, slot[1]) for array, (_key, slot) in zip(arrays, slots, strict=False))
    if len(arrays) != len(slots) or not fits:
        return offered
    logger.info("%s uses other layer names; its weights fit in order", source)
    return dict(zip(wanted, arrays, strict=True))


def _class_keys(wanted: dict[str, tuple]) -> dict[str, str]:
    """Translate the names inside .weights.h5, which count layers by class, to ours."""
    seen: Counter[str] = Counter()
    names: dict[int, str] = {}
    places: Counter[int] = Counter()
    keys = {}
    for key, (layer, _weight) in wanted.items():
        if id(layer) not in names:
            kind = _snake(type(layer).__name__)
            names[id(layer)] = f"{kind}_{seen[kind]}" if seen[kind] else kind
            seen[kind] += 1
        keys[f"layers/{names[id(layer)]}/vars/{places[id(layer)]}"] = key
        places[id(layer)] += 1
    return keys


def _snake(name: str) -> str:
    """Write a class name as Keras does in its files."""
    name = re.sub(r"\W+", "", name)
    name = re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", name)
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", name).lower()


def _same(array: np.ndarray, weight) -> bool:
    return array.shape == tuple(weight.shape)
