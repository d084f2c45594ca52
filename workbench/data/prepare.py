"""Raw photos to a tidy copy: upright, RGB, not larger than needed, JPEG. The source is only read.

Folders and label tables come along; names in the tables follow the files. What cannot be read is
listed with its labels in `unreadable.csv` and left out of the tables, so the copy can be used.
Videos are taken apart into frames where that is asked for: rows of a table with the clip as group.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

import cv2
import numpy as np
import pandas as pd

from workbench.data import layouts
from workbench.data.cells import csv_rows, csv_text, read_text, unguard
from workbench.data.decode import count_cores, examine_image, map_in_order
from workbench.data.layouts import COLUMNS, GROUP, IMAGES, txt_rows, walk_files
from workbench.data.video import MOST_FRAMES, VideoError, is_video, read_frames
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
    clips: int  # whose frames are among the images
    unreadable: pd.DataFrame  # filepath, reason, labels

    @property
    def summary(self) -> str:
        lines = [
            f"{self.images} images in {self.destination}, {self.shrunk} of them made smaller, "
            f"{self.renamed} renamed: {self.bytes_before / 1e6:.1f} MB became "
            f"{self.bytes_after / 1e6:.1f} MB"
        ]
        if self.clips:
            lines.append(f"{self.clips} clips became frames; column {GROUP} says of which clip")
        for row in self.unreadable.head(10).itertuples():
            lines.append(f"not read: {row.filepath} {row.reason}")
        if len(self.unreadable):
            where = self.destination / UNREADABLE_NAME
            lines.append(f"{len(self.unreadable)} files could not be read, listed in {where}")
        return "\n".join(lines)

    @property
    def figures(self) -> dict[str, Any]:
        counts = ("images", "shrunk", "renamed", "bytes_before", "bytes_after", "clips")
        return {name: getattr(self, name) for name in counts} | {"unreadable": len(self.unreadable)}


@dataclass(frozen=True)
class _Photo:
    """One file on its way: `reason` says why it could not be read."""

    name: str  # relative to the source
    target: str
    bytes_before: int = 0  # a video counts once, with its first frame
    bytes_after: int = 0
    shrunk: bool = False
    reason: str | None = None
    clip: str = ""  # that it is a frame of

    @property
    def renamed(self) -> bool:
        return not self.clip and self.name != self.target


def prepare(
    source: Path, destination: Path, size: int = 600, quality: int = 95, frames: int = 0
) -> Prepared:
    """Copy the photos below `source` to `destination`, longest side at most `size` pixels.

    Of every video so many frames are taken; with 0 it is listed as unreadable. The copy appears
    whole or not at all; `destination` must not exist or be empty.
    """
    source, destination = Path(source), Path(destination)
    _check(source, destination, size, quality, frames)
    partial = destination.with_name(f".partial_{destination.name}")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        prepared = _write_all(source, partial, destination, _Rules(size, quality, frames))
        if destination.is_dir():
            destination.rmdir()
        os.replace(partial, destination)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    log.info("Prepared %d images in %s", prepared.images, destination)
    return prepared


@dataclass(frozen=True)
class _Rules:
    """What becomes of a photo or a video."""

    size: int
    quality: int
    frames: int
    dataset: DatasetSettings = field(default_factory=DatasetSettings)


def _check(source: Path, destination: Path, size: int, quality: int, frames: int) -> None:
    if not source.is_dir():
        raise InputError(f"{source} is not a folder. Name the folder with the photos")
    if not 1 <= size <= LARGEST_SIDE:
        raise InputError(f"--size {size} must be 1 to {LARGEST_SIDE} pixels")
    if not 1 <= quality <= 100:
        raise InputError(f"--quality {quality} must be 1 to 100")
    if not 0 <= frames <= MOST_FRAMES:
        raise InputError(f"--frames {frames} must be 1 to {MOST_FRAMES}, or 0 for no videos")
    if destination.exists() and (not destination.is_dir() or any(destination.iterdir())):
        raise InputError(f"{destination} is not an empty folder. Name a new one")
    inside = destination.resolve().is_relative_to(source.resolve())
    if inside or source.resolve().is_relative_to(destination.resolve()):
        raise InputError(f"{destination} and {source} lie in each other. Name a folder beside the "
                         "source")  # fmt: skip


def _write_all(source: Path, partial: Path, destination: Path, rules: _Rules) -> Prepared:
    photos, texts = _list_files(source, rules.frames)

    def convert(photo: _Photo) -> list[_Photo]:
        return _convert(source, partial, photo, rules)

    found = list(map_in_order(convert, photos, count_cores()))
    by_name = {photo.name: made for photo, made in zip(photos, found, strict=True)}
    done = [photo for made in found for photo in made]
    labels = _write_texts(source, partial, texts, by_name)
    bad = [(photo.name, photo.reason, labels.get(photo.name, "")) for photo in done if photo.reason]
    if bad:
        (partial / UNREADABLE_NAME).write_text(csv_text(UNREADABLE_COLUMNS, bad), "utf-8")
    written = [photo for photo in done if photo.reason is None]
    clips = len({photo.clip for photo in written} - {""})
    if clips and not {*CSV_TABLES, *TXT_TABLES} & {*texts}:
        _write_clip_tables(partial, written)
    sums = {
        name: sum(getattr(photo, name) for photo in written)
        for name in ("shrunk", "renamed", "bytes_before", "bytes_after")
    }
    unreadable = pd.DataFrame(bad, columns=UNREADABLE_COLUMNS)
    return Prepared(destination, len(written), **sums, clips=clips, unreadable=unreadable)


def _list_files(source: Path, frames: int) -> tuple[list[_Photo], list[str]]:
    """List photos and texts below `source`; links are not followed out of it."""
    names, texts = [], []
    for path in walk_files(source):
        name = path.relative_to(source).as_posix()
        text = name.lower().endswith(COPIED) and _is_file_inside(source, name)
        (texts if text else names).append(name)
    clips = [name for name in names if frames and is_video(name)]
    photos = list(map(_Photo, names, _targets(names)))
    taken = {photo.target.casefold() for photo in photos}
    named = dict(zip(clips, _clip_names(clips, frames, taken), strict=True))
    prefix = ""
    if clips and not (source / IMAGES).is_dir():
        prefix = f"{IMAGES}/"  # that a table with groups asks for
    return [
        replace(photo, target=prefix + named.get(photo.name, photo.target),
                clip=named.get(photo.name, ""))
        for photo in photos
    ], texts  # fmt: skip


def _clip_names(clips: list[str], frames: int, taken: set[str]) -> Iterator[str]:
    """Name each clip by its path without the suffix, unless frames would meet another file."""
    for name in clips:
        path = PurePosixPath(name)
        clip = path.with_suffix("")
        while any(_frame_name(str(clip), n).casefold() in taken for n in range(1, frames + 1)):
            clip = clip.with_name(f"{clip.name}_{path.suffix[1:]}")
        taken |= {_frame_name(str(clip), n).casefold() for n in range(1, frames + 1)}
        yield str(clip)


def _frame_name(clip: str, number: int) -> str:
    return f"{clip}_{number:04d}.jpg"


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


def _convert(source: Path, partial: Path, photo: _Photo, rules: _Rules) -> list[_Photo]:
    path = source / photo.name
    if path.is_symlink() and not path.resolve().is_relative_to(source.resolve()):
        return [replace(photo, reason="is a link out of the source", clip="")]
    if photo.clip:
        return _take_apart(path, partial, photo, rules)
    facts, pixels = examine_image(path, rules.dataset)
    if pixels is None:
        video = "is a video; --frames N takes it apart" if is_video(photo.name) else None
        return [replace(photo, reason=video or facts.refused)]
    return [_write_photo(partial, replace(photo, bytes_before=facts.bytes), pixels, rules)]


def _take_apart(path: Path, partial: Path, photo: _Photo, rules: _Rules) -> list[_Photo]:
    """Write the frames of a video, or none of them and say why."""
    done: list[_Photo] = []
    try:
        if not path.is_file():
            raise VideoError("is no file")
        for pixels in read_frames(path, rules.frames, rules.dataset.max_pixels):
            frame = replace(photo, target=_frame_name(photo.target, len(done) + 1))
            done.append(_write_photo(partial, frame, pixels, rules))
    except (VideoError, OSError, cv2.error) as error:
        for frame in done:
            (partial / frame.target).unlink()
        words = str(error) if isinstance(error, VideoError) else "cannot be read"
        return [replace(photo, reason=words, clip="")]
    first = replace(done[0], bytes_before=path.stat().st_size)
    if len(done) < rules.frames:
        log.info("%s has %d frames, fewer than --frames %d", photo.name, len(done), rules.frames)
    return [first, *done[1:]]


def _write_photo(partial: Path, photo: _Photo, pixels: np.ndarray, rules: _Rules) -> _Photo:
    small = shrink(pixels, rules.size)
    flags = [cv2.IMWRITE_JPEG_QUALITY, rules.quality]
    data = cv2.imencode(".jpg", cv2.cvtColor(small, cv2.COLOR_RGB2BGR), flags)[1].tobytes()
    target = partial / photo.target
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(data)
    return replace(photo, bytes_after=len(data), shrunk=small is not pixels)


def shrink(pixels: np.ndarray, size: int) -> np.ndarray:
    """Average down to `size` pixels on the longest side; what is smaller stays as it is."""
    height, width = pixels.shape[:2]
    longest = max(height, width)
    if longest <= size:
        return pixels
    wanted = [max(1, round(side * size / longest)) for side in (width, height)]
    return cv2.resize(pixels, wanted, interpolation=cv2.INTER_AREA)


def _write_clip_tables(partial: Path, written: list[_Photo]) -> None:
    """Write tables of clips in class folders, which alone cannot tell what frames go together.

    A table a split where the class folders lie in split folders, one for all otherwise.
    """
    rows: dict[str, list[list[str]]] = {}
    places = [PurePosixPath(photo.target).relative_to(IMAGES).parts for photo in written]
    split = {place[0] for place in places} == {*layouts.SPLITS}
    for photo, place in zip(written, places, strict=True):
        folders = place[split:-1]
        if not folders:
            log.warning("%s lies in no class folder and in no table: no labels", photo.name)
            return
        table = layouts.CSV_NAMES[place[0]] if split else layouts.TABLE_NAME
        rows.setdefault(table, []).append(["/".join(place), folders[0], _group(photo)])
    for name, lines in rows.items():
        (partial / name).write_text(csv_text([*COLUMNS, GROUP], lines), encoding="utf-8")


def _group(photo: _Photo) -> str:
    return photo.clip.removeprefix(f"{IMAGES}/")


def _write_texts(
    source: Path, partial: Path, texts: list[str], photos: Mapping[str, list[_Photo]]
) -> dict[str, str]:
    """Copy texts; in label tables names follow the files. Returns labels of the unreadable."""
    prefix = f"{IMAGES}/" if (source / IMAGES).is_dir() else ""
    unreadable: dict[str, str] = {}
    clips = any(photo.clip for made in photos.values() for photo in made)
    for name in texts:
        target = partial / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if name in CSV_TABLES:
            rows = [fields for _, fields in csv_rows(read_text(source / name), name)]
            kept = _follow(rows[1:], prefix, photos, unreadable)
            header = rows[0] if rows else COLUMNS
            if clips and len(header) == len(COLUMNS):
                header, kept = [*header, GROUP], [[*row, ""][:3] for row in kept]
            target.write_text(csv_text(header, kept), encoding="utf-8")
        elif name in TXT_TABLES:
            rows = [fields for _, fields in txt_rows(read_text(source / name))]
            kept = _follow(rows, prefix, photos, unreadable)
            target.write_text("".join(f"{'	'.join(row)}\n" for row in kept), encoding="utf-8")
        else:
            shutil.copyfile(source / name, target)
    return unreadable


def _follow(
    rows: list[list[str]], prefix: str, photos: Mapping[str, list[_Photo]],
    unreadable: dict[str, str],
) -> list[list[str]]:  # fmt: skip
    """Rename the first field as its file was renamed; rows of unreadable files go to the list.

    The row of a clip becomes a row a frame, with the clip as group unless it has one.
    """
    kept = []
    for row in rows:
        made = photos.get(prefix + unguard(row[0].strip()))
        fields = [*map(unguard, row[1:])]
        if made is None:
            kept.append([unguard(row[0]), *fields])
        elif made[0].reason:
            unreadable[made[0].name] = fields[0].strip() if fields else ""
        else:
            for photo in made:
                own = [*fields[:1], (*fields[1:2], "")[0] or _group(photo)]
                name = photo.target.removeprefix(f"{IMAGES}/")
                kept.append([name, *(own if photo.clip else fields)])
    return kept
