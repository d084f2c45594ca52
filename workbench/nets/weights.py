"""Weight files, read as data only: names and numbers, never code, links or surprises.

Keras would run a Lambda from a file and follow a link to another one. Networks here are built from
settings; a file may only fill in numbers of the expected names and shapes.
"""

from __future__ import annotations

import zipfile
from pathlib import Path

import h5py
import numpy as np

import workbench  # noqa: F401

# isort: split
import tf_keras as keras

from workbench import files
from workbench.errors import WeightsError
from workbench.nets.anatomy import is_head

MAX_BYTES = 4 << 30  # EfficientNet-B7 has 0.27 GB


def save_weights(model: keras.Model, path: Path) -> None:
    """Write the weights in the Keras HDF5 layout, whole or not at all."""
    path = Path(path)
    with files.writing(path) as temporary:
        model.save_weights(temporary, save_format="h5")


def load_weights_into(model: keras.Model, source: str | Path, *, backbone_only: bool) -> None:
    """Fill the network from a file; `backbone_only` leaves the head as it is."""
    arrays = read_arrays(Path(source))
    for layer in model.layers:
        if layer.weights and not (backbone_only and is_head(layer)) and not _is_constant(layer):
            layer.set_weights(
                [_matching(arrays, layer, weight, source) for weight in layer.weights]
            )


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Read every array of an .h5 or .npz file, by `layer/weight`."""
    path = Path(path)
    if not path.is_file():
        raise WeightsError(
            f"{path} does not exist; weights are imagenet, none or the path of a file"
        )
    if path.suffix == ".npz":
        return _read_npz(path)
    if path.suffix in {".h5", ".hdf5"}:
        return _read_h5(path)
    raise WeightsError(f"{path}: weights are read from .h5, .weights.h5 and .npz files only")


def weight_key(layer: keras.layers.Layer, weight) -> str:
    return f"{layer.name}/{_short(weight.name)}"


def _short(name: str) -> str:
    return name.split("/")[-1].split(":")[0]


def _is_constant(layer: keras.layers.Layer) -> bool:
    # Of the architecture, set when the network is built.
    return isinstance(layer, keras.layers.Normalization)


def _matching(arrays, layer, weight, source) -> np.ndarray:
    key = weight_key(layer, weight)
    if key not in arrays:
        raise WeightsError(f"{source} holds no {key}; it was written by another network")
    if arrays[key].shape != tuple(weight.shape):
        raise WeightsError(
            f"{source}: {key} has shape {arrays[key].shape}, expected {tuple(weight.shape)}; "
            "it was written by another network or for other classes"
        )
    return arrays[key]


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except (ValueError, OSError, zipfile.BadZipFile) as error:
        raise WeightsError(f"{path} is not a plain .npz file ({error})") from None


def _read_h5(path: Path) -> dict[str, np.ndarray]:
    arrays: dict[str, np.ndarray] = {}
    with h5py.File(path, "r") as file:
        root = file["model_weights"] if "model_weights" in file else file
        root.visititems(lambda name, item: _collect(arrays, name, item))
    return arrays


def _collect(arrays: dict[str, np.ndarray], name: str, item) -> None:
    if isinstance(item, h5py.Dataset):
        arrays[f"{name.split('/')[0]}/{_short(name)}"] = item[()]
