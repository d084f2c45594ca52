"""A cheap stamp of a dataset folder: has anything in it been touched since the audit read it?"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from workbench.errors import DatasetError
from workbench.files import sha256

TABLE_SUFFIXES = (".csv", ".txt", ".yaml")


def stamp_dataset(folder: Path, without: Path | None = None) -> str:
    """Hash the tables' content and every other file's path, size and time of change.

    `without` is a folder that may lie inside and is no part of it: the run's own.
    """
    if not folder.is_dir():
        raise DatasetError(
            f"No dataset in {folder}. Set dataset.dir to your folder, or draw the demo dataset "
            f"with: python -m workbench demo {folder}"
        )
    digest = hashlib.sha256()
    for path in sorted(_files(folder, without)):
        facts = os.stat(path)
        content = sha256(Path(path)) if _is_table(folder, path) else f"{facts.st_mtime_ns}"
        name = os.fsencode(os.path.relpath(path, folder))
        digest.update(name + f"\0{facts.st_size}\0{content}\n".encode())
    return digest.hexdigest()


def _is_table(folder: Path, path: str) -> bool:
    return os.path.dirname(path) == str(folder) and path.endswith(TABLE_SUFFIXES)


def _files(folder: Path, without: Path | None) -> list[str]:
    found = []
    for place, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if Path(place, name) != without]
        found += [os.path.join(place, name) for name in names if not name.startswith(".")]
    return [path for path in found if os.path.isfile(path)]
