"""Which of a table's paths are files inside the images folder, found with one listing a folder.

A million rows cost a million dictionary look-ups, not a million system calls. Contents are the
decoder's business.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from workbench.errors import InputError
from workbench.files import safe_join

SUSPICIOUS = re.compile(r"[\\~:\0-\x1f\x7f\ud800-\udfff]|\.\.|^/|^$")


@dataclass(frozen=True)
class PathFindings:
    """Reasons by path: `unsafe` ones are always refused, `bad` ones may be quarantined."""

    unsafe: dict[str, str]
    bad: dict[str, str]


@dataclass(frozen=True)
class _Folder:
    """One listing: plain files by name, everything else by its entry."""

    files: frozenset[str] = frozenset()
    others: dict[str, os.DirEntry] = field(default_factory=dict)
    unsafe: str | None = None
    bad: str | None = None


def check_paths(images: Path, filepaths: Iterable[str]) -> PathFindings:
    """Check that every path is safe and names a regular file; nothing is opened."""
    unsafe: dict[str, str] = {}
    bad: dict[str, str] = {}
    folders: dict[str, _Folder] = {}
    for filepath in filepaths:
        if SUSPICIOUS.search(filepath) and (reason := _unsafe(images, filepath)):
            unsafe[filepath] = reason
            continue
        parent, _, name = filepath.rpartition("/")
        if (folder := folders.get(parent)) is None:
            folder = folders[parent] = _list(images, parent)
        if name in folder.files:
            continue
        if folder.unsafe:
            unsafe[filepath] = folder.unsafe
        elif name in folder.others:
            _judge_entry(images, filepath, folder.others[name], unsafe, bad)
        else:
            bad[filepath] = folder.bad or f"does not exist{_lookalike(name, folder)}"
    return PathFindings(unsafe, bad)


def _unsafe(images: Path, filepath: str) -> str | None:
    categories = {unicodedata.category(character) for character in filepath}
    if "Cc" in categories:
        return f"{filepath!a} holds a control character. Rename the file"
    if "Cs" in categories:
        return f"{filepath!a} is not UTF-8, which the tables are written in. Rename the file"
    try:
        safe_join(images, filepath)
    except InputError as error:
        return str(error)
    return None


def _list(images: Path, parent: str) -> _Folder:
    path = images / parent
    try:
        if not path.resolve().is_relative_to(images.resolve()):
            return _Folder(unsafe=f"{parent!r} leads out of {images}; copy the files inside")
        with os.scandir(path) as entries:
            files, others = set(), {}
            for entry in entries:
                if entry.is_file(follow_symlinks=False):
                    files.add(entry.name)
                else:
                    others[entry.name] = entry
    except FileNotFoundError:
        return _Folder(bad=f"does not exist (nor does its folder){_hint(images, parent)}")
    except (OSError, RuntimeError) as error:  # RuntimeError: a loop of links, before Python 3.13
        words = getattr(error, "strerror", None) or error
        return _Folder(bad=f"cannot be reached: {words}")
    return _Folder(frozenset(files), others)


def _hint(images: Path, parent: str) -> str:
    within = parent.partition("/")[0] == images.name
    return f". Paths are relative to {images.name}/: leave it out" if within else ""


def _judge_entry(
    images: Path, filepath: str, entry: os.DirEntry, unsafe: dict[str, str], bad: dict[str, str]
) -> None:
    """A link may point to a file inside; a folder, pipe or device is no image."""
    if not entry.is_symlink():
        bad[filepath] = "is a folder" if entry.is_dir() else "is a pipe, socket or device"
        return
    try:
        target = Path(entry.path).resolve(strict=True)
    except (OSError, RuntimeError):
        bad[filepath] = "is a link that leads nowhere"
        return
    if not target.is_relative_to(images.resolve()):
        unsafe[filepath] = f"{filepath!r} is a link out of {images}; copy the file inside instead"
    elif not target.is_file():
        bad[filepath] = "is a link to something that is not a file"


def _lookalike(name: str, folder: _Folder) -> str:
    """Name a file that differs in case or Unicode composition only."""
    look = _look(name)
    for other in folder.files:
        if _look(other) == look:
            return f" (but {other!a} does: case and accents count)"
    return ""


def _look(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()
