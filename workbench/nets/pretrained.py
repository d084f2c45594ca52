"""ImageNet backbones: where they are published, fetched once, checked, kept where Keras keeps them.

A file that somebody put into the folder by hand is used as well, so a machine without a network
needs one copy from a machine with one.
"""

from __future__ import annotations

import hashlib
import http.client
import logging
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from workbench import files
from workbench.errors import WeightsError

logger = logging.getLogger(__name__)
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


def _efficientnet(version: str, md5: str) -> Published:
    return Published(f"{KERAS}efficientnet{version}_notop.h5", md5)


def _lite(version: int, md5: str) -> Published:
    return Published(f"{LITE}efficientnet_lite_b{version}_notop.h5", md5)


def _resnet(depth: int, md5: str) -> Published:
    name = f"resnet{depth}_weights_tf_dim_ordering_tf_kernels_notop.h5"
    return Published(f"{TENSORFLOW}resnet/{name}", md5)


# The sums are those in tf_keras.applications and in efficientnet-lite-keras.
PUBLISHED = {
    "efficientnet_b0": _efficientnet("b0", "50bc09e76180e00e4465e1a485ddc09d"),
    "efficientnet_b1": _efficientnet("b1", "74c4e6b3e1f6a1eea24c589628592432"),
    "efficientnet_b2": _efficientnet("b2", "111f8e2ac8aa800a7a99e3239f7bfb39"),
    "efficientnet_b3": _efficientnet("b3", "af6d107764bb5b1abb91932881670226"),
    "efficientnet_b4": _efficientnet("b4", "ebc24e6d6c33eaebbd558eafbeedf1ba"),
    "efficientnet_b5": _efficientnet("b5", "38879255a25d3c92d5e44e04ae6cec6f"),
    "efficientnet_b6": _efficientnet("b6", "9ecce42647a20130c1f39a5d4cb75743"),
    "efficientnet_b7": _efficientnet("b7", "cbcfe4450ddf6f3ad90b1b398090fe4a"),
    "resnet101": _resnet(101, "88cf7a10940856eca736dc7b7e228a21"),
    "resnet152": _resnet(152, "ee4c566cf9a93f14d82f913c2dc6dd0c"),
    "mobilenet_v2": Published(
        f"{TENSORFLOW}mobilenet_v2/mobilenet_v2_weights_tf_dim_ordering_tf_kernels_1.0_224_no_top.h5",
        md5=None,  # never published; size, names and shapes are checked instead
        bytes=9_406_464,
    ),
    "efficientnet_lite0": _lite(0, "d7a91a3c0e7f0bdffe67f599ebe511cd"),
    "efficientnet_lite1": _lite(1, "9fece5f941068bf189913cd5b42439bf"),
    "efficientnet_lite2": _lite(2, "d0b7d56925cc4b82e30a45570766b32e"),
    "efficientnet_lite3": _lite(3, "7ae45c1c6cb1d2ba5193d131984a2225"),
    "efficientnet_lite4": _lite(4, "8939585df7b434869381f7786dc60290"),
}


def imagenet_weights(arch: str, key: str, folder: Path = CACHE) -> Path:
    """Return the checked file of an architecture; errors name the setting `key`."""
    published = PUBLISHED[arch]
    path = Path(folder) / published.name
    if path.is_file():
        reason = _damage(path, published)
        if reason is None:
            return path
        logger.warning("%s %s; it is fetched again", path, reason)
    _fetch(published, path, key)
    return path


class _UnreachableError(Exception):
    """The network or the server failed; the disk did not."""


def _fetch(published: Published, path: Path, key: str) -> None:
    try:
        with files.writing(path) as temporary:
            _download(published, temporary)
            reason = _damage(temporary, published)
            if reason:
                raise WeightsError(f"{published.url}: the download {reason}. Try again.")
    except _UnreachableError as error:
        raise WeightsError(
            f"{key} is imagenet, and {published.url} cannot be reached ({error}). "
            f"Without a network, train from random weights ({key}: none), or fetch the file "
            f"elsewhere and name it ({key}: PATH/{published.name})."
        ) from None


def _download(published: Published, path: Path) -> None:
    with open(path, "wb") as file:
        for chunk in _chunks(published):
            file.write(chunk)


def _chunks(published: Published) -> Iterator[bytes]:
    try:
        with urllib.request.urlopen(published.url, timeout=TIMEOUT_SECONDS) as response:
            progress = _Tenths(published.name, int(response.headers["Content-Length"] or 0))
            while chunk := response.read(CHUNK_BYTES):
                progress.advance(len(chunk))
                yield chunk
    except (OSError, http.client.HTTPException) as error:
        raise _UnreachableError(error) from error


class _Tenths:
    """One log line each tenth of a download."""

    def __init__(self, name: str, total: int) -> None:
        self.name, self.total, self.done = name, total, 0

    def advance(self, count: int) -> None:
        before, self.done = self.done, self.done + count
        if self.total and before * 10 // self.total != self.done * 10 // self.total:
            logger.info("%s: %d of %d MB", self.name, self.done >> 20, self.total >> 20)


def _damage(path: Path, published: Published) -> str | None:
    size = path.stat().st_size
    if published.bytes is not None and size != published.bytes:
        return f"has {size} bytes, expected {published.bytes}"
    if published.md5 is None:
        return None
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    return None if digest == published.md5 else f"has MD5 {digest}, expected {published.md5}"
