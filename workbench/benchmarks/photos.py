"""The photos of a folder, for benchmarks that take one of your own."""

from __future__ import annotations

from pathlib import Path

from workbench.data.layouts import SUFFIXES
from workbench.errors import InputError


def list_photos(folder: Path) -> list[Path]:
    """List every image below `folder`; none at all is refused."""
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    if not found:
        suffixes = ", ".join(sorted(SUFFIXES))
        raise InputError(f"{folder} holds no images. Give a folder with {suffixes} files")
    return found
