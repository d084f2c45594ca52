"""A cheap stamp of a dataset folder: has anything in it been touched since the audit read it?

Links are followed, since photos often lie elsewhere. A file counts by size and both times: tools
such as `rsync -t` put the time of modification back, but nobody can set that of the last change.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

from workbench.errors import DatasetError
from workbench.files import sha256

TABLE_SUFFIXES = (".csv", ".txt", ".yaml")


def stamp_dataset(folder: Path, without: Path | None = None) -> str:
    """Hash the tables' content, and path, size and times of every other file.

    `without` is a folder that may lie inside and is no part of it: the run's own.
    """
    if not folder.is_dir():
        raise DatasetError(
            f"No dataset in {folder}. Set dataset.dir to your folder, or draw the demo dataset "
            f"with: python -m workbench demo {folder}"
        )
    seen = {_identity(os.stat(place)) for place in (folder, without) if place and place.exists()}
    lines = _lines(str(folder), "", seen)
    return hashlib.sha256(b"".join(lines)).hexdigest()


def _lines(folder: str, inside: str, seen: set[tuple[int, int]]) -> Iterator[bytes]:
    """Give a line a file, folders in order of their names, each once: links may lead in circles."""
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        name = os.fsencode(inside + entry.name)
        try:
            facts = entry.stat()
            is_folder = entry.is_dir()
        except OSError as error:  # a link to nowhere, or in a circle of links
            yield name + b"\0%d\n" % (error.errno or 0)
            continue
        if is_folder:
            yield name + b"/\n"
            if _identity(facts) not in seen:
                seen.add(_identity(facts))
                yield from _lines(entry.path, f"{inside}{entry.name}/", seen)
        elif entry.is_file() and not entry.name.startswith("."):
            if not inside and entry.name.endswith(TABLE_SUFFIXES):
                state = sha256(Path(entry.path))
            else:
                state = f"{facts.st_mtime_ns} {facts.st_ctime_ns}"
            yield name + f"\0{facts.st_size} {state}\n".encode()


def _identity(facts: os.stat_result) -> tuple[int, int]:
    return facts.st_dev, facts.st_ino
