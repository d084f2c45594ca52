"""Arrays out of weight files, as data only: no links, no code, no pickles, no surprising sizes.

Keras would run a Lambda that a file brings along and follow its links to other files. Here a file
can only ever give names and numbers, and is refused before memory is spent on what it claims.
"""

from __future__ import annotations

import math
import zipfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np

from workbench.errors import WeightsError

Arrays = dict[str, np.ndarray]
MAX_BYTES = 1 << 30  # the largest network here, EfficientNet-B7, has a quarter of that
NUMBERS = "fiu"


def read_arrays(path: Path) -> Arrays:
    """Read an .h5, .weights.h5 or .npz file, by `layer/weight` and in the order of the file."""
    path = Path(path)
    readers = {".npz": _read_npz, ".h5": _read_h5, ".hdf5": _read_h5}
    if path.suffix not in readers:
        raise WeightsError(f"{path}: weights are read from .h5, .weights.h5 and .npz files only")
    if not path.is_file():
        raise WeightsError(f"{path} does not exist; name a weights file, imagenet or none")
    try:
        arrays = readers[path.suffix](path)
    except (OSError, RuntimeError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise WeightsError(f"{path} is damaged or no weights file ({error})") from None
    for name, array in arrays.items():
        if not np.isfinite(array).all():
            raise WeightsError(f"{path}: {name} holds values that are not finite numbers")
    return arrays


def _refuse(path: Path, name: str, reason: str) -> WeightsError:
    return WeightsError(f"{path}: {name} {reason}; only plain arrays of numbers are read")


def _read_npz(path: Path) -> Arrays:
    arrays: Arrays = {}
    with zipfile.ZipFile(path) as archive:
        _check_total(path, sum(member.file_size for member in archive.infolist()))
        for member in archive.infolist():
            with archive.open(member) as file:
                _check_npy_header(path, member, file)
                file.seek(0)
                array = np.lib.format.read_array(file, allow_pickle=False)
            arrays[_key(member.filename.removesuffix(".npy"))] = array
    return arrays


def _check_npy_header(path: Path, member: zipfile.ZipInfo, file) -> None:
    """Compare what the header claims with what is there; NumPy would allocate first."""
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0
    if version != (1, 0):
        read = np.lib.format.read_array_header_2_0
    shape, _order, dtype = read(file)
    if dtype.kind not in NUMBERS:
        raise _refuse(path, member.filename, f"has type {dtype}")
    if math.prod(shape) * dtype.itemsize != member.file_size - file.tell():
        raise _refuse(path, member.filename, f"claims shape {shape}, which is not what it holds")


def _read_h5(path: Path) -> Arrays:
    with h5py.File(path, "r") as file:
        # Collected first, checked after: h5py turns an exception inside a visit into another.
        links: dict[str, object] = {}
        items: dict[str, h5py.Group | h5py.Dataset] = {}
        file.visititems_links(links.__setitem__)
        file.visititems(items.__setitem__)
        datasets = {name: item for name, item in items.items() if isinstance(item, h5py.Dataset)}
        for name, link in links.items():
            if not isinstance(link, h5py.HardLink):
                raise _refuse(path, name, "is a link to somewhere else")
        for name, dataset in datasets.items():
            _check_dataset(path, name, dataset)
        _check_total(path, sum(dataset.nbytes for dataset in datasets.values()))
        root = file.get("model_weights", file)
        prefix = "" if root == file else "model_weights/"
        inside = {n.removeprefix(prefix): d for n, d in datasets.items() if n.startswith(prefix)}
        names = [name for name in _file_order(root) if name in inside]
        ordered = {name: inside[name][()] for name in (names or inside)}
    return _by_layer(ordered)


def _check_dataset(path: Path, name: str, dataset: h5py.Dataset) -> None:
    if dataset.is_virtual or dataset.external:
        raise _refuse(path, name, "keeps its numbers in other files")
    if dataset.dtype.kind not in NUMBERS:
        raise _refuse(path, name, f"has type {dataset.dtype}")
    if dataset.id.get_storage_size() < dataset.nbytes:
        # Keras compresses nothing, so a file that holds less than it claims is a bomb.
        raise _refuse(path, name, f"claims shape {dataset.shape} without holding the numbers")


def _check_total(path: Path, count: int) -> None:
    if count > MAX_BYTES:
        raise WeightsError(f"{path} claims {count} bytes of weights; at most {MAX_BYTES} are read")


def _file_order(root: h5py.Group) -> Iterator[str]:
    """List datasets in the order of the layers, which Keras keeps in attributes."""
    for layer in root.attrs.get("layer_names", []):
        layer = _text(layer)
        if isinstance(root.get(layer), h5py.Group):
            for weight in root[layer].attrs.get("weight_names", []):
                yield f"{layer}/{_text(weight)}"


def _text(name: str | bytes) -> str:
    return name.decode() if isinstance(name, bytes) else str(name)


def _by_layer(arrays: Arrays) -> Arrays:
    """Name arrays `layer/weight`; of a network inside a network the inner layers count."""
    outer = Counter(_key(name) for name in arrays)
    nested = {key.split("/")[0] for key, count in outer.items() if count > 1}
    return {_key(name, inner=name.split("/")[0] in nested): array for name, array in arrays.items()}


def _key(name: str, inner: bool = False) -> str:
    parts = name.split("/")
    if "vars" in parts:  # .weights.h5: layers/<class>/vars/<index>
        return name
    layer = parts[-2] if inner and len(parts) > 1 else parts[0]
    return f"{layer}/{parts[-1].split(':')[0]}"
