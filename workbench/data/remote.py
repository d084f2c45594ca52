"""A dataset that lies elsewhere (s3, gs, https, file, memory): copied once, then read as a folder.

All steps read the copy. What the other side says of a file (its size, and an etag, hash or time)
decides whether it is copied again; so a file that changed there makes 01 out of date, and a copy
that was broken off goes on. Names and sizes from elsewhere are trusted no further than checked:
every file is read to its promised end, and becomes visible only whole.
"""

from __future__ import annotations

import hashlib
import logging
import re
import shutil
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from tqdm import tqdm

from workbench.errors import DatasetError, InputError
from workbench.files import CHUNK_BYTES, check_relative, read_json, sha256, write_json, writing
from workbench.lock import locked

log = logging.getLogger(__name__)

PACKAGES = {"s3": "s3fs", "gs": "gcsfs", "https": "aiohttp", "file": "", "memory": ""}
URL = re.compile(r"^[A-Za-z][A-Za-z0-9+.-]*://")
# What file systems call the state of a file, the surest first; the size counts as well.
VERSIONS = ("ETag", "etag", "md5Hash", "crc32c", "mtime", "LastModified", "last_modified",
            "updated", "created")  # fmt: skip
COPIES = "outputs/.remote"
RECORD = ".remote.json"  # hidden, as no file of a dataset is
THREADS = 8  # most of the time is waiting
FILES_AT_ONCE = 256  # between two notes of what is here
TRIES = 3
SPARE_BYTES = 1 << 30  # what a copy leaves free on the disk
CONTROL = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")


class _SameError(Exception):
    """What came is what is here already; the file keeps its times, and 01 stays up to date."""


@dataclass(frozen=True)
class There:
    """A file as the other side lists it."""

    path: str
    bytes: int
    version: str


@dataclass(frozen=True)
class Copied:
    """What a look at the other side came to."""

    files: int
    bytes: int  # of all files
    copied: int
    gone: int


def is_remote(folder: str) -> bool:
    return bool(URL.match(folder))


def local_folder(folder: str, root: Path) -> Path:
    """Say where a dataset lies on this machine: the folder itself, or the copy of a URL."""
    if not is_remote(folder):
        return root / folder
    return root / COPIES / hashlib.sha256(folder.rstrip("/").encode()).hexdigest()[:16]


def copy_dataset(url: str, root: Path) -> Copied:
    """Bring the copy of `url` to what is there now; what it has already stays untouched."""
    folder = local_folder(url, root)
    with locked(folder):
        there, system = _list(url)
        here = _record(folder, url)
        wanted = {name: one for name, one in there.items() if not _is_here(folder, name, one, here)}
        _check_room(url, folder, sum(one.bytes for one in wanted.values()))
        total = sum(one.bytes for one in there.values())
        log.info("%s: %d files, %.1f MB; %d of them, %.1f MB, have to be copied to %s", url,
                 len(there), total / 1e6, len(wanted),
                 sum(one.bytes for one in wanted.values()) / 1e6, folder)  # fmt: skip
        gone = [name for name in here if name not in there]
        for name in gone:
            (folder / name).unlink(missing_ok=True)
            del here[name]
        _copy(system, url, folder, wanted, here)
        return Copied(len(there), total, len(wanted), len(gone))


def _list(url: str) -> tuple[dict[str, There], Any]:
    """List the files below a URL by their name there, checked; and the file system they are in."""
    system, base = _open(url)
    found: dict[str, There] = {}
    hidden = 0
    try:
        system.invalidate_cache()
        listing = system.find(base, detail=True)
        for path, facts in sorted(listing.items()):
            name = _name(url, base, path)
            if any(part.startswith(".") for part in PurePosixPath(name).parts):
                hidden += 1
                continue
            if facts.get("type") != "file" or facts.get("islink"):
                raise DatasetError(f"{url}: {name!r} is no plain file. Copy the file itself there")
            facts = facts if facts.get("size") is not None else system.info(path)
            found[name] = _there(url, name, path, facts)
    except (OSError, ImportError) as error:
        raise _unreachable(url, error) from None
    if hidden:
        log.info("%s: %d hidden files are left there", url, hidden)
    if not found:
        raise DatasetError(f"{url} holds no files. dataset.dir names the dataset's folder")
    _refuse_clashes(url, found)
    return found, system


def _open(url: str) -> tuple[Any, str]:
    import fsspec

    parts = urlsplit(url)
    if parts.scheme not in PACKAGES or "::" in url:
        known = ", ".join(f"{one}://" for one in PACKAGES)
        raise DatasetError(f"{url}: dataset.dir may begin with {known}, or name a folder")
    if "@" in parts.netloc or parts.query:
        where = f"{parts.scheme}://{parts.hostname or ''}{parts.path}"
        raise DatasetError(f"{where} comes with a password or token, which would be written into "
                           "the run. Give it in the environment, as the package of "
                           f"{parts.scheme}:// says")  # fmt: skip
    try:
        system = fsspec.filesystem(parts.scheme)
    except ImportError:
        raise DatasetError(f"{url}: {parts.scheme}:// needs a package that the lock leaves out: "
                           f"pip install {PACKAGES[parts.scheme]}") from None  # fmt: skip
    return system, system._strip_protocol(url).rstrip("/")


def _name(url: str, base: str, path: str) -> str:
    name = path.removeprefix(f"{base}/")
    if name == path:
        raise DatasetError(f"{url} lists {path!a}, which lies outside of it")
    try:
        tidy = check_relative(name) == PurePosixPath(name).as_posix()
    except ValueError as error:
        raise DatasetError(f"{url}: the file name {error}. Rename it there") from None
    if CONTROL.search(name) or not tidy:
        raise DatasetError(f"{url}: the file name {name!a} holds control characters, or empty "
                           "parts. Rename it there")  # fmt: skip
    return name


def _there(url: str, name: str, path: str, facts: dict[str, Any]) -> There:
    size = facts.get("size")
    if not isinstance(size, int) or size < 0:
        raise DatasetError(f"{url} does not say how large {name} is, so that a part cannot be told "
                           "from the whole. Copy the dataset to a folder yourself")  # fmt: skip
    version = next((f"{key} {facts[key]}" for key in VERSIONS if facts.get(key)), "")
    return There(path, size, version)


def _refuse_clashes(url: str, found: dict[str, There]) -> None:
    """Refuse names that one folder of this machine cannot hold at once."""
    seen: dict[str, str] = {}
    for name in found:
        if (other := seen.setdefault(name.casefold(), name)) != name:
            raise DatasetError(f"{url}: {other!r} and {name!r} differ in letter case only. Rename "
                               "one of the two there")  # fmt: skip
    for name in found:
        for parent in PurePosixPath(name).parents:
            if parent.as_posix() in found:
                raise DatasetError(f"{url}: {parent.as_posix()!r} is a file and a folder at once. "
                                   "Rename one of the two there")  # fmt: skip


def _record(folder: Path, url: str) -> dict[str, Any]:
    """Read what is known of the files that are here."""
    path = folder / RECORD
    if not path.exists():
        return {}
    try:
        record = read_json(path)
        return dict(record["files"]) if record["url"] == url.rstrip("/") else {}
    except (InputError, KeyError, TypeError, ValueError):
        log.warning("%s is damaged: everything is copied again", path)
        return {}


def _is_here(folder: Path, name: str, one: There, here: dict[str, Any]) -> bool:
    """Say whether the copy is of this very file, and nobody has touched it since."""
    known = here.get(name)
    if not known or not one.version or known["there"] != asdict(one):
        return False
    path = folder / name
    if path.is_symlink() or not path.is_file():
        return False
    status = path.stat()
    return [status.st_size, status.st_mtime_ns] == known["here"]


def _check_room(url: str, folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed + SPARE_BYTES > free:
        raise DatasetError(f"{url}: {needed / 1e9:.1f} GB have to be copied to {folder}, where "
                           f"{free / 1e9:.1f} GB are free and {SPARE_BYTES / 1e9:.1f} stay so. "
                           "Make room, or let outputs/ lie on a larger disk")  # fmt: skip


def _copy(
    system: Any, url: str, folder: Path, wanted: dict[str, There], here: dict[str, Any]
) -> None:
    """Copy file by file, and note every few hundred what is here: a kill loses no more."""
    total, rest = sum(one.bytes for one in wanted.values()), iter(wanted.items())
    with tqdm(total=total, desc="copied", unit="B", unit_scale=True, leave=False,
              disable=None) as bar:  # fmt: skip
        while block := list(islice(rest, FILES_AT_ONCE)):
            try:
                for name, one, facts in _copied(system, url, folder, block):
                    here[name] = {"there": asdict(one), **facts}
                    bar.update(one.bytes)
            finally:
                record = {"schema": 1, "url": url.rstrip("/"), "files": here}
                write_json(folder / RECORD, record)


def _copied(
    system: Any, url: str, folder: Path, block: list[tuple[str, There]]
) -> Iterator[tuple[str, There, dict[str, Any]]]:
    from workbench.data.decode import map_in_order  # here: every run imports this module

    def copy(item: tuple[str, There]) -> dict[str, Any]:
        name, one = item
        for left in reversed(range(TRIES)):
            try:
                return _copy_file(system, one, folder, name)
            except OSError as error:  # timeouts are OSErrors as well
                if not left:
                    raise _unreachable(url, error) from None
                log.info("%s/%s: %s; once more", url, name, _words(error))

    yield from (
        (name, one, facts)
        for (name, one), facts in zip(block, map_in_order(copy, block, THREADS), strict=True)
    )


def _copy_file(system: Any, one: There, folder: Path, name: str) -> dict[str, Any]:
    """Copy a file whole, or leave it as it is where that is the same."""
    target, digest, count = folder / name, hashlib.sha256(), 0
    if not target.parent.resolve().is_relative_to(folder.resolve()) or target.is_symlink():
        raise DatasetError(f"{target} leads out of {folder}: there is a link. Remove it")
    with (
        suppress(_SameError), system.open(one.path, "rb") as source, writing(target) as temporary
    ):  # fmt: skip
        with open(temporary, "wb") as file:
            while count <= one.bytes and (chunk := source.read(CHUNK_BYTES)):
                count += len(chunk)
                digest.update(chunk)
                file.write(chunk)
        if count != one.bytes:
            raise OSError(f"{name} gave {count} bytes, not the {one.bytes} it is said to have")
        if target.is_file() and sha256(target) == digest.hexdigest():
            raise _SameError
    status = target.stat()
    return {"here": [status.st_size, status.st_mtime_ns], "sha256": digest.hexdigest()}


def _unreachable(url: str, error: Exception) -> DatasetError:
    words = f"{url} cannot be read: {_words(error)}"
    return DatasetError(f"{words}. Look at the address and your access, and run again: what is "
                        "copied stays")  # fmt: skip


def _words(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
