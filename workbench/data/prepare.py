"""Raw photos to a tidy copy: upright, RGB, not larger than needed, JPEG. The source is only read.

Folders and label tables come along; names in the tables follow the files. What cannot be read is
listed with its labels in `unreadable.csv` and left out of the tables, so the copy can be used.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

import cv2
import numpy as np
import pandas as pd

from workbench.data import layouts
from workbench.data.cells import csv_rows, csv_text, read_text, unguard
from workbench.data.decode import count_cores, examine_image, map_in_order
from workbench.data.layouts import COLUMNS, IMAGES, txt_rows, walk_files
from workbench.errors import InputError
from workbench.settings import DatasetSettings

log = logging.getLogger(__name__)

LARGEST_SIDE = 65_500  # what a JPEG header can say
UNREADABLE_NAME = "unreadable.csv"
UNREADABLE_COLUMNS = ["filepath", "reason", "labels"]
COPIED = (".csv", ".txt", ".yaml", ".yml", ".json", ".md")
CSV_TABLES = (*layouts.CSV_NAMES.values(), layouts.TABLE_NAME)
TXT_TABLES = tuple(layouts.TXT_NAMES.values())


@dataclass(frozen=True)
class Prepared:
    """What was written, and what could not be read."""

    destination: Path
    images: int
    shrunk: int
    renamed: int
    bytes_before: int
    bytes_after: int
    unreadable: pd.DataFrame  # filepath, reason, labels

    @property
    def summary(self) -> str:
        lines = [
            f"{self.images} images in {self.destination}, {self.shrunk} of them made smaller, "
            f"{self.renamed} renamed: {self.bytes_before / 1e6:.1f} MB became "
            f"{self.bytes_after / 1e6:.1f} MB"
        ]
        for row in self.unreadable.head(10).itertuples():
            lines.append(f"not read: {row.filepath} {row.reason}")
        if len(self.unreadable):
            where = self.destination / UNREADABLE_NAME
            lines.append(f"{len(self.unreadable)} files could not be read, listed in {where}")
        return "\n".join(lines)

    @property
    def figures(self) -> dict[str, Any]:
        counts = ("images", "shrunk", "renamed", "bytes_before", "bytes_after")
        return {name: getattr(self, name) for name in counts} | {"unreadable": len(self.unreadable)}


@dataclass(frozen=True)
class _Photo:
    """One file on its way: `reason` says why it could not be read."""

    name: str  # relative to the source
    target: str
    bytes_before: int = 0
    bytes_after: int = 0
    shrunk: bool = False
    reason: str | None = None

    @property
    def renamed(self) -> bool:
        return self.name != self.target


def prepare(source: Path, destination: Path, size: int = 600, quality: int = 95) -> Prepared:
    """Copy the photos below `source` to `destination`, longest side at most `size` pixels.

    The copy appears whole or not at all; `destination` must not exist or be empty.
    """
    source, destination = Path(source), Path(destination)
    _check(source, destination, size, quality)
    partial = destination.with_name(f".partial_{destination.name}")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        prepared = _write_all(source, partial, destination, size, quality)
        if destination.is_dir():
            destination.rmdir()
        os.replace(partial, destination)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    log.info("Prepared %d images in %s", prepared.images, destination)
    return prepared


def _check(source: Path, destination: Path, size: int, quality: int) -> None:
    if not source.is_dir():
        raise InputError(f"{source} is not a folder. Name the folder with the photos")
    if not 1 <= size <= LARGEST_SIDE:
        raise InputError(f"--size {size} must be 1 to {LARGEST_SIDE} pixels")
    if not 1 <= quality <= 100:
        raise InputError(f"--quality {quality} must be 1 to 100")
    if destination.exists() and (not destination.is_dir() or any(destination.iterdir())):
        raise InputError(f"{destination} is not an empty folder. Name a new one")
    inside = destination.resolve().is_relative_to(source.resolve())
    if inside or source.resolve().is_relative_to(destination.resolve()):
        raise InputError(f"{destination} and {source} lie in each other. Name a folder beside the "
                         "source")  # fmt: skip


def _write_all(source: Path, partial: Path, destination: Path, size: int, quality: int) -> Prepared:
    photos, texts = _list_files(source)
    rules = DatasetSettings()

    def convert(photo: _Photo) -> _Photo:
        return _convert(source, partial, photo, size, quality, rules)

    done = list(map_in_order(convert, photos, count_cores()))
    labels = _write_texts(source, partial, texts, {photo.name: photo for photo in done})
    bad = [(photo.name, photo.reason, labels.get(photo.name, "")) for photo in done if photo.reason]
    if bad:
        (partial / UNREADABLE_NAME).write_text(csv_text(UNREADABLE_COLUMNS, bad), "utf-8")
    written = [photo for photo in done if photo.reason is None]
    sums = {
        name: sum(getattr(photo, name) for photo in written)
        for name in ("shrunk", "renamed", "bytes_before", "bytes_after")
    }
    unreadable = pd.DataFrame(bad, columns=UNREADABLE_COLUMNS)
    return Prepared(destination, len(written), **sums, unreadable=unreadable)


def _list_files(source: Path) -> tuple[list[_Photo], list[str]]:
    """List photos and texts below `source`; links are not followed out of it."""
    names, texts = [], []
    for path in walk_files(source):
        name = path.relative_to(source).as_posix()
        text = name.lower().endswith(COPIED) and _is_file_inside(source, name)
        (texts if text else names).append(name)
    return list(map(_Photo, names, _targets(names))), texts


def _is_file_inside(source: Path, name: str) -> bool:
    """Tell a text from a pipe, a device or a link out, which are listed among the unreadable."""
    path = (source / name).resolve()
    return path.is_file() and path.is_relative_to(source.resolve())


def _targets(names: list[str]) -> Iterator[str]:
    """End every name in .jpg; one that is taken keeps its old suffix inside: cat_png.jpg."""
    taken = {name.casefold() for name in names if name.endswith(".jpg")}
    for name in names:
        path = PurePosixPath(name)
        if path.suffix == ".jpg":
            yield name
            continue
        target = path.with_suffix(".jpg")
        while str(target).casefold() in taken:
            target = target.with_name(f"{target.stem}_{path.suffix[1:] or 'file'}.jpg")
        taken.add(str(target).casefold())
        yield str(target)


def _convert(
    source: Path, partial: Path, photo: _Photo, size: int, quality: int, rules: DatasetSettings
) -> _Photo:
    path = source / photo.name
    if path.is_symlink() and not path.resolve().is_relative_to(source.resolve()):
        return replace(photo, reason="is a link out of the source")
    facts, pixels = examine_image(path, rules)
    if pixels is None:
        return replace(photo, reason=facts.refused)
    small = shrink(pixels, size)
    flags = [cv2.IMWRITE_JPEG_QUALITY, quality]
    data = cv2.imencode(".jpg", cv2.cvtColor(small, cv2.COLOR_RGB2BGR), flags)[1].tobytes()
    target = partial / photo.target
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(data)
    shrunk = small is not pixels
    return replace(photo, bytes_before=facts.bytes, bytes_after=len(data), shrunk=shrunk)


def shrink(pixels: np.ndarray, size: int) -> np.ndarray:
    """Average down to `size` pixels on the longest side; what is smaller stays as it is."""
    height, width = pixels.shape[:2]
    longest = max(height, width)
    if longest <= size:
        return pixels
    wanted = [max(1, round(side * size / longest)) for side in (width, height)]
    return cv2.resize(pixels, wanted, interpolation=cv2.INTER_AREA)


def _write_texts(
    source: Path, partial: Path, texts: list[str], photos: Mapping[str, _Photo]
) -> dict[str, str]:
    """Copy texts; in label tables names follow the files. Returns labels of the unreadable."""
    prefix = f"{IMAGES}/" if (source / IMAGES).is_dir() else ""
    unreadable: dict[str, str] = {}
    for name in texts:
        target = partial / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if name in CSV_TABLES:
            rows = [fields for _, fields in csv_rows(read_text(source / name), name)]
            kept = [rows[0]] if rows else []
            kept += _follow(rows[1:], prefix, photos, unreadable)
            target.write_text(csv_text(kept[0] if kept else COLUMNS, kept[1:]), encoding="utf-8")
        elif name in TXT_TABLES:
            rows = [fields for _, fields in txt_rows(read_text(source / name))]
            kept = _follow(rows, prefix, photos, unreadable)
            target.write_text("".join(f"{'	'.join(row)}\n" for row in kept), encoding="utf-8")
        else:
            shutil.copyfile(source / name, target)
    return unreadable


def _follow(
    rows: list[list[str]], prefix: str, photos: Mapping[str, _Photo], unreadable: dict[str, str]
) -> list[list[str]]:
    """Rename the first field as its file was renamed; rows of unreadable files go to the list."""
    kept = []
    for row in rows:
        photo = photos.get(prefix + unguard(row[0].strip()))
        if photo is not None and photo.reason:
            unreadable[photo.name] = unguard(row[1].strip()) if len(row) > 1 else ""
        elif photo is not None:
            kept.append([photo.target.removeprefix(prefix), *map(unguard, row[1:])])
        else:
            kept.append([unguard(field) for field in row])
    return kept
