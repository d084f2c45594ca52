"""Files that are whole or absent: atomic writes, hashes and safe paths. Knows no run folder."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from workbench.errors import InputError

CHUNK_BYTES = 1 << 20
PARTIAL = ".partial_"  # how the name of a file begins until it is whole


@contextmanager
def writing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it replaces `path`, on failure it goes."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(prefix=PARTIAL, suffix=path.suffix, dir=path.parent)
    os.close(descriptor)
    temporary = Path(name)
    try:
        yield temporary
        os.chmod(temporary, 0o666 & ~_umask())
        _flush(temporary)
        os.replace(temporary, path)
        _flush_folder(path.parent)
    except OSError as error:
        error.filename = error.filename or str(path)  # a full disk does not say whose it is
        raise
    finally:
        temporary.unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _flush_folder(path: Path) -> None:
    # Some file systems refuse fsync on a folder; the rename itself is still atomic there.
    with suppress(OSError):
        _flush(path)


def write_bytes(path: Path, data: bytes) -> None:
    with writing(path) as temporary:
        temporary.write_bytes(data)


def write_text(path: Path, text: str) -> None:
    write_bytes(path, text.encode("utf-8"))


def write_json(path: Path, value: Any) -> None:
    """Write strict JSON: NaN is refused here rather than by the reader's parser."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False, ensure_ascii=False) + "\n")


def read_json(path: Path) -> Any:
    if Path(path).exists() and not Path(path).is_file():
        raise InputError(f"{path} is no file. Delete it and run again")
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not valid JSON ({error}). Delete it and run again.") from None


def sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def digest_of(path: Path) -> str:
    """Hash a file, or a folder with the names in it."""
    if path.is_file():
        return sha256(path)
    digest = hashlib.sha256()
    for inner in sorted(file for file in path.rglob("*") if file.is_file()):
        if "__pycache__" in inner.parts:  # left by who ran what lies there
            continue
        digest.update(f"{inner.relative_to(path)}\0{sha256(inner)}\n".encode())
    return digest.hexdigest()


def check_relative(name: str) -> str:
    """Return a name that stays in its folder; a model's field takes it as its validator."""
    if reason := _unsafe(name):
        raise ValueError(f"{name!r} {reason}")
    return name


def safe_join(root: Path, relative: str) -> Path:
    """Join a path that came from a table; refuse everything that could leave `root`."""
    reason = _unsafe(relative)
    if reason:
        raise InputError(f"{relative!r} {reason}; paths are relative to {root} and stay inside it")
    joined = Path(root) / relative
    if not joined.resolve().is_relative_to(Path(root).resolve()):
        raise InputError(f"{relative!r} leads out of {root}; copy the file inside instead")
    return joined


def _unsafe(relative: str) -> str | None:
    if not relative or "\0" in relative:
        return "is empty or holds a NUL byte"
    if "\\" in relative or PureWindowsPath(relative).drive:
        return "is a Windows path: write it with / and without a drive"
    if PurePosixPath(relative).is_absolute() or relative.startswith("~") or "://" in relative:
        return "is absolute or a URL"
    if ".." in PurePosixPath(relative).parts:
        return "leads out with .."
    return None


def is_plain_file(path: Path) -> bool:
    """Tell a file from a link, a pipe and a folder: no page shows what lies elsewhere."""
    return path.is_file() and not path.is_symlink()


def check_folder(folder: Path) -> None:
    """Refuse a folder somebody gave us that holds pipes, devices, or links to outside of it."""
    inside = Path(folder).resolve()
    for place, folders, names in os.walk(inside):
        for path in (Path(place, name) for name in (*folders, *names)):
            leads_out = path.is_symlink() and not path.resolve().is_relative_to(inside)
            if leads_out or not (path.is_symlink() or path.is_file() or path.is_dir()):
                kind = "a link to outside of it" if leads_out else "neither a file nor a folder"
                name = path.relative_to(inside)
                raise InputError(f"{folder}: {name} is {kind}. Remove it and look at the rest")


def find_upwards(name: str) -> Path:
    """Find a file named from the project's folder, wherever in it a notebook runs."""
    here = Path.cwd()
    found = (folder / name for folder in (here, *here.parents) if (folder / name).is_file())
    return next(found, Path(name))
