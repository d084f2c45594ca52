"""Weights in and out of networks. Networks come from settings; a file only fills in numbers."""

from __future__ import annotations

import hashlib
import http.client
import logging
import math
import re
import urllib.request
import zipfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import tf_keras as keras

from workbench import files
from workbench.errors import WeightsError
from workbench.nets.lite import HEAD, HIDDEN, is_head

logger = logging.getLogger(__name__)

# Arrays out of weight files, as data only: no links, no code, no pickles, no surprising sizes.

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
    header = np.lib.format
    read = header.read_array_header_1_0 if version == (1, 0) else header.read_array_header_2_0
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


# Between networks and files.

HEADS = {HEAD, HIDDEN, "predictions"}  # ours, and that of the published networks
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


def holds_weights(path: Path, model: keras.Model) -> bool:
    """Tell whether a file has the weights of a network, layer by layer."""
    try:
        arrays = read_arrays(path)
    except WeightsError:
        return False
    names = [unnumbered(layer.name) for layer in model.layers for _weight in layer.weights]
    same = (
        np.array_equal(*pair) for pair in zip(arrays.values(), model.get_weights(), strict=False)
    )
    return names == [unnumbered(key.split("/")[0]) for key in arrays] and all(same)


def unnumbered(names: str) -> str:
    """Take off the numbers that Keras gives to layers without a name."""
    return re.sub(r"_\d+\b", "", names)


def load_weights_into(model: keras.Model, source: str | Path, *, backbone_only: bool) -> None:
    """Fill a network from a file that must fit it; `backbone_only` leaves the head as it is."""
    wanted = _slots(model, backbone_only)
    arrays = _found(read_arrays(Path(source)), wanted, backbone_only, source)
    for layer in {id(layer): layer for layer, _weight in wanted.values()}.values():
        keys = [key for key, (owner, _weight) in wanted.items() if owner is layer]
        layer.set_weights([arrays[key] for key in keys])


def fits_head(model: keras.Model, source: str | Path) -> bool:
    """Tell whether a file holds a head like the network's, for as many classes."""
    arrays = read_arrays(Path(source))
    heads = {key: slot for key, slot in _slots(model, False).items() if is_head(slot[0])}
    held = {key for key in arrays if key.split("/")[0] in (HEAD, HIDDEN)}
    return held == heads.keys() and all(_same(arrays[k], w) for k, (_layer, w) in heads.items())


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


# ImageNet backbones: where they are published, fetched once, checked, kept where Keras keeps them.

CACHE = Path.home() / ".keras" / "models"
TIMEOUT_SECONDS = 30
CHUNK_BYTES = 1 << 20
KERAS = "https://storage.googleapis.com/keras-applications/"
TENSORFLOW = "https://storage.googleapis.com/tensorflow/keras-applications/"
LITE = "https://github.com/sebastian-sz/efficientnet-lite-keras/releases/download/v1.0/"


@dataclass(frozen=True)
class Published:
    """A weights file without top. Its publishers give MD5 sums, or none."""

    url: str
    md5: str | None
    bytes: int | None = None

    @property
    def name(self) -> str:
        return self.url.rsplit("/", 1)[1]


# The sums are those in tf_keras.applications and in efficientnet-lite-keras.
EFFICIENTNET = (
    "50bc09e76180e00e4465e1a485ddc09d", "74c4e6b3e1f6a1eea24c589628592432",
    "111f8e2ac8aa800a7a99e3239f7bfb39", "af6d107764bb5b1abb91932881670226",
    "ebc24e6d6c33eaebbd558eafbeedf1ba", "38879255a25d3c92d5e44e04ae6cec6f",
    "9ecce42647a20130c1f39a5d4cb75743", "cbcfe4450ddf6f3ad90b1b398090fe4a",
)  # fmt: skip
EFFICIENTNET_LITE = (
    "d7a91a3c0e7f0bdffe67f599ebe511cd", "9fece5f941068bf189913cd5b42439bf",
    "d0b7d56925cc4b82e30a45570766b32e", "7ae45c1c6cb1d2ba5193d131984a2225",
    "8939585df7b434869381f7786dc60290",
)  # fmt: skip
RESNET = {101: "88cf7a10940856eca736dc7b7e228a21", 152: "ee4c566cf9a93f14d82f913c2dc6dd0c"}
RESNET_FILE = "resnet{}_weights_tf_dim_ordering_tf_kernels_notop.h5"
MOBILENET_FILE = "mobilenet_v2_weights_tf_dim_ordering_tf_kernels_1.0_224_no_top.h5"
PUBLISHED = {
    f"efficientnet_b{n}": Published(f"{KERAS}efficientnetb{n}_notop.h5", md5)
    for n, md5 in enumerate(EFFICIENTNET)
}
PUBLISHED |= {
    f"efficientnet_lite{n}": Published(f"{LITE}efficientnet_lite_b{n}_notop.h5", md5)
    for n, md5 in enumerate(EFFICIENTNET_LITE)
}
PUBLISHED |= {
    f"resnet{depth}": Published(f"{TENSORFLOW}resnet/{RESNET_FILE.format(depth)}", md5)
    for depth, md5 in RESNET.items()
}
# Its sum was never published; size, names and shapes are checked instead.
MOBILENET = Published(f"{TENSORFLOW}mobilenet_v2/{MOBILENET_FILE}", md5=None, bytes=9_406_464)
PUBLISHED["mobilenet_v2"] = MOBILENET


def imagenet_weights(arch: str, key: str, folder: Path = CACHE) -> Path:
    """Return the checked file of an architecture; errors name the setting `key`."""
    published = PUBLISHED[arch]
    path = Path(folder) / published.name
    if path.is_file():
        reason = _damage(path, published)
        if reason is None:
            return path
        logger.warning("%s %s; it is fetched again", path, reason)
    try:
        with files.writing(path) as temporary:
            with open(temporary, "wb") as file:
                file.writelines(_chunks(published))
            if reason := _damage(temporary, published):
                raise WeightsError(f"{published.url}: the download {reason}. Try again.")
    except _UnreachableError as error:
        raise WeightsError(
            f"{key} is imagenet, and {published.url} cannot be reached ({error}). "
            f"Without a network, train from random weights ({key}: none), or fetch the file "
            f"elsewhere and name it ({key}: PATH/{published.name})."
        ) from None
    return path


class _UnreachableError(Exception):
    """The network or the server failed; the disk did not."""


def _chunks(published: Published) -> Iterator[bytes]:
    try:
        with urllib.request.urlopen(published.url, timeout=TIMEOUT_SECONDS) as response:
            total, done = int(response.headers["Content-Length"] or 0), 0
            while chunk := response.read(CHUNK_BYTES):
                before, done = done, done + len(chunk)
                if total and before * 10 // total != done * 10 // total:  # a line a tenth
                    logger.info("%s: %d of %d MB", published.name, done >> 20, total >> 20)
                yield chunk
    except (OSError, http.client.HTTPException) as error:
        raise _UnreachableError(error) from error


def _damage(path: Path, published: Published) -> str | None:
    size = path.stat().st_size
    if published.bytes is not None and size != published.bytes:
        return f"has {size} bytes, expected {published.bytes}"
    if published.md5 is None:
        return None
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    return None if digest == published.md5 else f"has MD5 {digest}, expected {published.md5}"
