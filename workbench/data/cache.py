"""A cache of letterboxed images for evaluation, in memory or on disk, as `dataset.cache` asks.

Keyed by path, state of the file and rules of decoding, so a changed photo is read again.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from workbench.errors import DatasetError, StepError
from workbench.settings import DatasetSettings

ARITHMETIC = "q8-1"  # raise the number when decoding or letterbox give other bytes
CHECKSUM_BYTES = 4

Squares = list[np.ndarray]  # uint8 [size, size, 3], one a size


class Cache(Protocol):
    def read(self, key: str, sizes: Sequence[int]) -> Squares | None: ...

    def write(self, key: str, squares: Squares) -> None: ...


def open_cache(settings: DatasetSettings) -> Cache | None:
    if settings.cache == "none":
        return None
    return MemoryCache() if settings.cache == "memory" else DiskCache(default_folder())


def default_folder() -> Path:
    """Return the cache folder of this user below the system's temporary folder."""
    return Path(tempfile.gettempdir()) / f"workbench_cache_{os.getuid()}"


def cache_key(path: Path, sizes: Sequence[int], settings: DatasetSettings) -> str:
    try:
        status = path.stat()
    except OSError as error:
        raise DatasetError(f"{path} cannot be read: {error.strerror}.") from None
    state = (status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)
    rules = (ARITHMETIC, settings.exif, settings.max_pixels)
    return hashlib.sha256(repr((str(path), state, rules, tuple(sizes))).encode()).hexdigest()


class MemoryCache:
    def __init__(self) -> None:
        self._squares: dict[str, Squares] = {}

    def read(self, key: str, sizes: Sequence[int]) -> Squares | None:
        return self._squares.get(key)

    def write(self, key: str, squares: Squares) -> None:
        self._squares[key] = squares


class DiskCache:
    """One file an image: the squares' bytes and a checksum, since a crash may tear a file."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if folder.is_symlink() or folder.stat().st_uid != os.getuid():
            raise DatasetError(
                f"{folder} belongs to somebody else, who could change cached images. Remove it, or "
                "set dataset.cache: memory"
            )

    def read(self, key: str, sizes: Sequence[int]) -> Squares | None:
        try:
            data = self._path(key).read_bytes()
        except FileNotFoundError:
            return None
        pixels = data[:-CHECKSUM_BYTES]
        if zlib.crc32(pixels).to_bytes(CHECKSUM_BYTES, "big") != data[-CHECKSUM_BYTES:]:
            return None
        ends = np.cumsum([3 * size**2 for size in sizes])
        flat = np.split(np.frombuffer(pixels, np.uint8), ends[:-1])
        return [part.reshape(size, size, 3) for part, size in zip(flat, sizes, strict=True)]

    def write(self, key: str, squares: Squares) -> None:
        """Write beside and rename; not `files.writing`, whose flush costs more than the image."""
        pixels = b"".join(square.tobytes() for square in squares)
        path = self._path(key)
        try:
            path.parent.mkdir(exist_ok=True)
            descriptor, partial = tempfile.mkstemp(dir=path.parent)
            try:
                with os.fdopen(descriptor, "wb") as file:
                    file.write(pixels + zlib.crc32(pixels).to_bytes(CHECKSUM_BYTES, "big"))
                os.replace(partial, path)
            except OSError:
                os.unlink(partial)
                raise
        except OSError as error:
            raise StepError(
                f"{self._folder} cannot keep images: {error.strerror}. Make room there, or set "
                "dataset.cache: none"
            ) from None

    def _path(self, key: str) -> Path:
        return self._folder / key[:2] / key
