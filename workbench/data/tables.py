"""The dataset as a table: one row an image, its split, labels, and where that was written.

`read_dataset` reads anybody's layout and refuses what is wrong with file and row; `write_tables`
and `read_tables` are what the steps hand to each other. No pixel is decoded here.
"""

from __future__ import annotations

import csv
import io
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from workbench.data.labels import join_labels, parse_labels
from workbench.data.layouts import (
    COLUMNS,
    CSV_NAMES,
    SPLITS,
    Problems,
    csv_rows,
    guard,
    read_layout,
    read_text,
    unguard,
)
from workbench.data.rows import check_class_count, check_files, find_classes, parse_rows
from workbench.data.split import assign_splits
from workbench.errors import DatasetError
from workbench.files import write_text
from workbench.settings import Settings

log = logging.getLogger(__name__)

QUARANTINE_COLUMNS = ["split", "filepath", "reason", "source", "line"]
QUARANTINE_NAME = "quarantine.csv"
LABELS_NAME = "labels.txt"

Grouping = Callable[[Sequence[Path]], np.ndarray]


@dataclass(frozen=True)
class Split:
    """One split as arrays; `targets` and `mask` are float32 [images, classes]."""

    name: str
    filepaths: tuple[str, ...]
    images: Path
    classes: tuple[str, ...]
    targets: np.ndarray
    mask: np.ndarray  # 0 where the label is unknown

    def __len__(self) -> int:
        return len(self.filepaths)

    def path(self, index: int) -> Path:
        return self.images / self.filepaths[index]


@dataclass(frozen=True)
class Dataset:
    """All splits; `rows` has split, filepath, labels, unknown (tuples), source, line."""

    images: Path  # the folder that filepaths are relative to
    classes: tuple[str, ...]  # by code point; the index is the class id
    rows: pd.DataFrame
    quarantine: pd.DataFrame = field(
        default_factory=lambda: pd.DataFrame(columns=QUARANTINE_COLUMNS)
    )

    def split(self, name: str) -> Split:
        if name not in SPLITS:
            raise ValueError(f"split {name!r} is not one of {', '.join(SPLITS)}")
        rows = self.rows[self.rows["split"] == name]
        return Split(
            name=name,
            filepaths=tuple(rows["filepath"]),
            images=self.images,
            classes=self.classes,
            targets=_indicators(rows["labels"], self.classes),
            mask=1 - _indicators(rows["unknown"], self.classes),
        )

    def without(self, reasons: Mapping[str, str]) -> Dataset:
        """Move images to the quarantine; `reasons` says why, by filepath."""
        bad = self.rows["filepath"].isin(list(reasons))
        if not bad.any():
            return self
        moved = self.rows[bad].assign(reason=self.rows["filepath"].map(reasons))
        frames = [frame for frame in (self.quarantine, moved[QUARANTINE_COLUMNS]) if len(frame)]
        quarantine = pd.concat(frames, ignore_index=True)
        return replace(self, rows=self.rows[~bad].reset_index(drop=True), quarantine=quarantine)


def _indicators(labels: Iterable[tuple[str, ...]], classes: Sequence[str]) -> np.ndarray:
    number = {name: index for index, name in enumerate(classes)}
    labels = list(labels)
    matrix = np.zeros((len(labels), len(classes)), np.float32)
    rows = np.repeat(np.arange(len(labels)), [len(names) for names in labels])
    matrix[rows, [number[name] for names in labels for name in names]] = 1
    return matrix


def read_dataset(
    folder: Path, settings: Settings, *, group_images: Grouping | None = None
) -> Dataset:
    """Read the dataset in `folder`, whatever its layout, and check everything but the pixels.

    A layout without splits is split here; `group_images` gives images that must stay together
    the same number. Without it every image is looked at once, to find copies of a photo.
    """
    layout = read_layout(Path(folder), settings.dataset.layout)
    problems = Problems()
    rows = parse_rows(layout, settings, problems)
    classes = find_classes(rows, problems)
    bad = check_files(layout.images, rows, settings, problems)
    problems.refuse()
    check_class_count(classes, settings)
    dataset = Dataset(layout.images, classes, rows).without(bad)
    if layout.tables[0].split is None:
        dataset = _split(dataset, settings, group_images)
    if settings.dataset.folds:
        dataset = _fold(dataset, settings, group_images)
    _log_dataset(dataset, layout.kind)
    return dataset


def _split(dataset: Dataset, settings: Settings, group_images: Grouping | None) -> Dataset:
    """Split rows in the order of their paths, so that the order of a listing does not matter."""
    rows = dataset.rows.sort_values("filepath", ignore_index=True)
    fractions = [getattr(settings.dataset, f"{split}_frac") for split in SPLITS]
    numbers = _deal(dataset, rows, fractions, settings, group_images)
    rows["split"] = np.array(SPLITS, dtype=object)[numbers]
    return replace(dataset, rows=rows)


def _fold(dataset: Dataset, settings: Settings, group_images: Grouping | None) -> Dataset:
    """Deal train and val anew into equal parts, one of which validates; test stays what it is."""
    rows = dataset.rows.sort_values("filepath", ignore_index=True)
    inside = rows["split"].isin(["train", "val"])
    parts = [1 / settings.dataset.folds] * settings.dataset.folds
    numbers = _deal(dataset, rows[inside], parts, settings, group_images)
    rows.loc[inside, "split"] = np.where(numbers == settings.dataset.fold, "val", "train")
    return replace(dataset, rows=rows)


def _deal(
    dataset: Dataset,
    rows: pd.DataFrame,
    fractions: Sequence[float],
    settings: Settings,
    group_images: Grouping | None,
) -> np.ndarray:
    # Imported here: most datasets come with splits and need neither OpenCV nor SciPy for reading.
    from workbench.data.duplicates import group_same_photos

    group_images = group_images or group_same_photos(settings)
    groups = group_images([dataset.images / filepath for filepath in rows["filepath"]])
    return assign_splits(rows["labels"], groups, fractions, np.random.default_rng(settings.seed))


def _log_dataset(dataset: Dataset, kind: str) -> None:
    counts = dataset.rows["split"].value_counts()
    sizes = ", ".join(f"{split} {counts.get(split, 0)}" for split in SPLITS)
    log.info("Read %s layout: %s images, %d classes", kind, sizes, len(dataset.classes))
    if len(dataset.quarantine):
        row = dataset.quarantine.iloc[0]
        log.warning(
            "%d images are in quarantine, first %s: %s",
            len(dataset.quarantine),
            row["filepath"],
            row["reason"],
        )


def write_tables(dataset: Dataset, folder: Path) -> None:
    """Write one CSV a split, labels.txt and quarantine.csv; `read_tables` gives them back."""
    for split, name in CSV_NAMES.items():
        rows = dataset.rows[dataset.rows["split"] == split]
        cells = [join_labels(*row) for row in zip(rows["labels"], rows["unknown"], strict=True)]
        write_text(folder / name, _csv_text(COLUMNS, zip(rows["filepath"], cells, strict=True)))
    write_text(folder / LABELS_NAME, "".join(f"{name}\n" for name in dataset.classes))
    rows = dataset.quarantine[QUARANTINE_COLUMNS].itertuples(index=False)
    write_text(folder / QUARANTINE_NAME, _csv_text(QUARANTINE_COLUMNS, rows))


def _csv_text(columns: Sequence[str], rows: Iterable[Iterable[Any]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([guard(str(cell)) for cell in row] for row in rows)
    return text.getvalue()


def read_tables(folder: Path, images: Path, classes: Sequence[str] | None = None) -> Dataset:
    """Read what `write_tables` wrote; `classes` defaults to the labels.txt beside it."""
    if classes is None:
        classes = read_text(folder / LABELS_NAME).splitlines()
    frames = [_read_split(folder, split, name) for split, name in CSV_NAMES.items()]
    rows = pd.concat(frames, ignore_index=True)
    strangers = set().union(*set(rows["labels"]), *set(rows["unknown"])) - set(classes)
    if strangers:
        raise DatasetError(
            f"{folder}: label {min(strangers)!r} is not in {LABELS_NAME}. "
            "Run 01_dataset_audit again."
        )
    quarantine = pd.DataFrame(
        _read_own(folder / QUARANTINE_NAME, QUARANTINE_COLUMNS), columns=QUARANTINE_COLUMNS
    )
    return Dataset(Path(images), tuple(classes), rows, quarantine)


def _read_split(folder: Path, split: str, name: str) -> pd.DataFrame:
    fields = _read_own(folder / name, COLUMNS)
    parsed = [parse_labels(cell) for _, cell in fields]
    return pd.DataFrame(
        {
            "split": split,
            "filepath": [path for path, _ in fields],
            "labels": [labels for labels, _ in parsed],
            "unknown": [unknown for _, unknown in parsed],
            "source": name,
            "line": range(2, len(fields) + 2),
        }
    )


def _read_own(path: Path, columns: Sequence[str]) -> list[list[str]]:
    rows = [fields for _, fields in csv_rows(read_text(path), path.name)]
    if rows[:1] != [list(columns)] or any(len(fields) != len(columns) for fields in rows):
        raise DatasetError(f"{path} is damaged. Run 01_dataset_audit again.")
    return [[unguard(field) for field in fields] for fields in rows[1:]]
