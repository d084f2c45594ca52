"""The dataset as a table: one row an image, its split, labels, and where that was written.

`read_dataset` reads anybody's layout and refuses what is wrong with file and row; `write_dataset`
and `load_dataset` are what notebook 01 leaves to all others. No pixel is decoded here.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from workbench.data import cells, layouts
from workbench.data.cells import EVERY, Labels, csv_text, parse_labels, read_text
from workbench.data.layouts import COLUMNS, CSV_NAMES, GROUP, SPLITS, UNLABELED, Problems
from workbench.errors import DatasetError, MissingInputError
from workbench.files import read_json, write_bytes, write_json, write_text
from workbench.settings import Settings

if TYPE_CHECKING:
    from workbench.data.audit.duplicates import Photos

log = logging.getLogger(__name__)

QUARANTINE_COLUMNS = ["split", "filepath", "reason", "source", "line"]
QUARANTINE = "quarantine.csv"
LABELS = "labels.txt"
MANIFEST = "dataset_manifest.json"
UNLABELED_MANIFEST = "unlabeled_manifest.json"  # apart: only what a teacher answers to reads it
UNLABELED_NAME = f"{UNLABELED}.csv"
TABLES = "splits"  # the folder of a run that holds the tables


@dataclass(frozen=True)
class Split:
    """One split as arrays; `targets` and `mask` are float32 [images, classes]."""

    name: str
    filepaths: tuple[str, ...]
    images: Path
    classes: tuple[str, ...]
    targets: np.ndarray
    mask: np.ndarray  # 0 where the label is unknown
    groups: np.ndarray | None = None  # int64 [images], None where no photo has a group

    def __len__(self) -> int:
        return len(self.filepaths)

    def path(self, index: int) -> Path:
        return self.images / self.filepaths[index]


def number_groups(names: Sequence[str]) -> np.ndarray | None:
    """Number the groups of photos, int64 [N]; one without a name is its own. None without any."""
    if not any(names):
        return None
    keys = [name or index for index, name in enumerate(names)]
    number = {key: place for place, key in enumerate(dict.fromkeys(keys))}
    return np.array([number[key] for key in keys], np.int64)


@dataclass(frozen=True)
class Dataset:
    """All splits; `rows` has split, filepath, labels, unknown (tuples), group, source, line."""

    images: Path  # the folder that filepaths are relative to
    classes: tuple[str, ...]  # by code point; the index is the class id
    rows: pd.DataFrame
    quarantine: pd.DataFrame = field(
        default_factory=lambda: pd.DataFrame(columns=QUARANTINE_COLUMNS)
    )
    photos: Photos | None = field(default=None, repr=False)  # once they were read, see the audit

    def __post_init__(self) -> None:
        if GROUP not in self.rows:
            object.__setattr__(self, "rows", self.rows.assign(**{GROUP: ""}))

    def split(self, *names: str) -> Split:
        """Return a split, or several as one; `unlabeled` holds what nobody labelled."""
        if wrong := set(names) - {*SPLITS, UNLABELED}:
            raise ValueError(f"split {min(wrong)!r} is not one of {', '.join(SPLITS)}, {UNLABELED}")
        rows = self.rows[self.rows["split"].isin(names)]
        targets, unknown = (_indicators(rows[key], self.classes) for key in ("labels", "unknown"))
        filepaths = tuple(rows["filepath"])
        groups = number_groups(rows[GROUP].tolist())
        values = (self.images, self.classes, targets, 1 - unknown, groups)
        return Split(names[0], filepaths, *values)

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


def read_dataset(folder: Path, settings: Settings) -> Dataset:
    """Read the dataset in `folder`, whatever its layout, and check everything but the pixels.

    A layout without splits is split here; for that every image is read, to keep copies of a photo
    together. What that found the dataset carries on, so that the audit need not read them again.
    """
    wanted = settings.dataset.unlabeled
    unlabeled = Path(folder, wanted) if wanted else None
    layout = layouts.read_layout(Path(folder), settings.dataset)
    problems = Problems()
    rows = parse_rows(layout, settings, problems)
    classes = find_classes(rows, problems)
    rows = set_aside(rows, classes, settings, problems)
    bad = check_files(layout.images, rows, settings, problems)
    if unlabeled:
        more, worse = unlabeled_rows(unlabeled, layout.images, rows, classes, settings, problems)
        rows, bad = pd.concat([rows, more], ignore_index=True), bad | worse
    problems.refuse()
    check_class_count(classes, settings)
    dataset = Dataset(layout.images, classes, rows).without(bad)
    missing = {*SPLITS} - {table.split for table in layout.tables}
    if missing or settings.dataset.folds:
        # Imported here: most datasets come with splits and need no OpenCV or SciPy for reading.
        from workbench.data.splits import deal_folds, deal_splits

        dataset = deal_splits(dataset, settings, missing) if missing else dataset
        dataset = deal_folds(dataset, settings) if settings.dataset.folds else dataset
    _log_dataset(dataset, layout.kind)
    return dataset


def _log_dataset(dataset: Dataset, kind: str) -> None:
    counts = dataset.rows["split"].value_counts()
    listed = [*SPLITS, *([UNLABELED] if UNLABELED in counts else [])]
    sizes = ", ".join(f"{split} {counts.get(split, 0)}" for split in listed)
    log.info("Read %s layout: %s images, %d classes", kind, sizes, len(dataset.classes))
    if len(dataset.quarantine):
        first = dataset.quarantine.iloc[0]
        log.warning("%d images are in quarantine, first %s: %s", len(dataset.quarantine),
                    first["filepath"], first["reason"])  # fmt: skip


def parse_rows(layout: layouts.Layout, settings: Settings, problems: Problems) -> pd.DataFrame:
    """Turn raw tables into one frame: split, filepath, labels, unknown, source, line."""
    parse = cells.folder_label if layout.kind == "folders" else parse_labels
    frames = [_parse_table(table, parse, settings, problems) for table in layout.tables]
    rows = pd.concat(frames, ignore_index=True)
    repeated = rows[rows.duplicated("filepath", keep="first")]
    first = rows[rows["filepath"].isin(repeated["filepath"])].drop_duplicates("filepath")
    first = first.set_index("filepath")
    for row in repeated.itertuples():
        other = first.loc[row.filepath]
        labels = "the same labels" if other["labels"] == row.labels else "other labels"
        splits = "" if other["split"] == row.split else ", in another split"
        place = layouts.place_of(other["source"], other["line"])
        text = f"{row.filepath} stands already in {place}{splits}, "
        problems.add(row.source, row.line, f"{text}with {labels}. Keep one of the two")
    return rows


def _parse_table(
    table: layouts.RawTable, parse: Callable[[str], Labels], settings: Settings, problems: Problems
) -> pd.DataFrame:
    """Parse every distinct labels cell once: a million rows share a few hundred."""
    parsed: dict[str, Labels] = {}
    wrong: dict[str, str] = {}
    for cell in dict.fromkeys(table.cells):
        try:
            parsed[cell] = parse(cell)
            _check_count(cell, parsed[cell], settings)
        except ValueError as error:
            parsed[cell], wrong[cell] = ((), ()), str(error)
    if wrong:
        for cell, line in zip(table.cells, table.lines, strict=True):
            if cell in wrong:
                problems.add(table.source, line, wrong[cell])
    paths, labels = map(_canonical, table.filepaths), [parsed[cell] for cell in table.cells]
    return _frame(table.split or "", paths, labels, table.groups, table.source, table.lines)


def _frame(
    split: str, filepaths: Iterable[str], labels: list[Labels], groups: Iterable[str],
    source: str, lines: Iterable[int],
) -> pd.DataFrame:  # fmt: skip
    known, unknown = ([pair[place] for pair in labels] for place in (0, 1))
    columns = {"split": split, "filepath": list(filepaths), "labels": known, "unknown": unknown}
    return pd.DataFrame(columns | {GROUP: list(groups), "source": source, "line": lines})


def _check_count(cell: str, parsed: Labels, settings: Settings) -> None:
    labels, unknown = parsed
    if settings.task == "single_label" and unknown != EVERY and (len(labels) != 1 or unknown):
        raise ValueError(f"labels {cell!r}: task single_label takes exactly one class an image. "
                         "Set task: multilabel, or correct the labels")  # fmt: skip
    if not (labels or unknown or settings.dataset.allow_empty_labels):
        raise ValueError("no labels, and dataset.allow_empty_labels is false. Label the image or "
                         "set it to true")  # fmt: skip


def _canonical(filepath: str) -> str:
    """`./a//b.jpg` and `a/b.jpg` are one file and must be seen as one."""
    untidy = "//" in filepath or filepath.startswith("./") or "/./" in filepath
    if "://" in filepath or not untidy:
        return filepath
    root = "/" if filepath.startswith("/") else ""
    return root + "/".join(part for part in filepath.split("/") if part not in ("", "."))


def find_classes(rows: pd.DataFrame, problems: Problems) -> tuple[str, ...]:
    """Collect the classes in code point order, and what is wrong with their names."""
    labelled = set().union(*set(rows["labels"]))
    unheard = sorted(set().union(*set(rows["unknown"])) - labelled - set(EVERY))
    problems.add_each(unheard, lambda name: (
        *_first_place(rows["unknown"], name, rows),
        f'"?{name}" is unknown here, but no image has the label{cells.nearest(name, labelled)}',
    ))  # fmt: skip
    wrong = dict(cells.class_problems(labelled))
    problems.add_each(
        list(wrong), lambda name: (*_first_place(rows["labels"], name, rows), wrong[name])
    )
    return tuple(sorted(labelled))


def set_aside(
    rows: pd.DataFrame, classes: tuple[str, ...], settings: Settings, problems: Problems
) -> pd.DataFrame:
    """Move training rows of which no label is known to `unlabeled`: a teacher alone answers them.

    In validation and test such a row counts for nothing; for one label it cannot stand there.
    """
    every = rows["unknown"].map(lambda names: names == EVERY or 0 < len(names) == len(classes))
    inside = rows["split"].isin(["train", ""])
    if settings.task == "single_label":
        for row in rows[every & ~inside].itertuples():
            words = f"{row.filepath} has no label, and {row.split} needs one. Label it, or leave it"
            problems.add(row.source, row.line, f"{words} out")
    unknown = rows["unknown"].where(~every, pd.Series([classes] * len(rows), rows.index))
    return rows.assign(unknown=unknown, split=rows["split"].mask(every & inside, UNLABELED))


def unlabeled_rows(
    folder: Path, images: Path, rows: pd.DataFrame, classes: tuple[str, ...], settings: Settings,
    problems: Problems,
) -> tuple[pd.DataFrame, dict[str, str]]:  # fmt: skip
    """List the photos of `dataset.unlabeled` as rows, and what is wrong with some of their files.

    Their paths are relative to `images` as all are, so they may lead out of it.
    """
    table = layouts.read_unlabeled(folder, {(images / name).resolve() for name in rows["filepath"]})
    found = _frame(UNLABELED, table.filepaths, [((), classes)] * len(table.lines), table.groups,
                   table.source, table.lines)  # fmt: skip
    bad = check_files(folder, found, settings, problems)
    way = Path(os.path.relpath(folder, images))
    found["filepath"] = [(way / name).as_posix() for name in found["filepath"]]
    return found, {(way / name).as_posix(): reason for name, reason in bad.items()}


def has_one_label(rows: pd.DataFrame) -> bool:
    """Tell whether every photo has exactly one label, and not all the same."""
    labels = rows["labels"]
    one = (labels.map(len) == 1) & (rows["unknown"].map(len) == 0)
    return bool(one.all()) and labels.nunique() > 1


def _first_place(labels: pd.Series, name: str, rows: pd.DataFrame) -> tuple[str, int]:
    row = rows.iloc[next(index for index, names in enumerate(labels) if name in names)]
    return row["source"], int(row["line"])


def check_class_count(classes: Collection[str], settings: Settings) -> None:
    """Hold the number of classes against `num_classes`."""
    shown = ", ".join(list(classes)[:20]) + (" …" if len(classes) > 20 else "")
    if not classes:
        raise DatasetError("No image has a label, so there is no class to learn.")
    if len(classes) > cells.MOST_CLASSES:
        raise DatasetError(
            f"Found {len(classes)} classes, at most {cells.MOST_CLASSES} are supported: {shown}. "
            'Are labels joined by something else than "|"?'
        )
    if settings.num_classes not in ("auto", len(classes)):
        raise DatasetError(f"Expected {settings.num_classes} classes, found {len(classes)}: "
                           f"{shown}. Correct the labels, or set num_classes: {len(classes)} (or "
                           "auto).")  # fmt: skip


def check_files(
    images: Path, rows: pd.DataFrame, settings: Settings, problems: Problems
) -> dict[str, str]:
    """Refuse rows without a file; with `on_bad_image: quarantine` return them with the reason."""
    refused, bad = layouts.check_paths(images, rows["filepath"])
    if settings.dataset.on_bad_image == "fail":
        refused |= {path: f"{images.name}/{path} {why}" for path, why in bad.items()}
        bad = {}
    for row in rows[rows["filepath"].isin(refused)].itertuples():
        problems.add(row.source, row.line, refused[row.filepath])
    names = rows["filepath"].drop_duplicates()
    twins = names[names.str.casefold().duplicated(keep=False)]
    if len(twins):
        log.warning("%d file names differ only in letter case, for example %r and %r: on Windows "
                    "and macOS they are one file", len(twins),
                    *sorted(twins, key=str.casefold)[:2])  # fmt: skip
    return bad


def write_tables(dataset: Dataset, folder: Path) -> None:
    """Write one CSV a split, labels.txt and quarantine.csv; `read_tables` gives them back.

    Photos without labels have a table where there are any; one of an earlier dataset goes.
    """
    grouped = [GROUP] if dataset.rows[GROUP].any() else []
    (folder / UNLABELED_NAME).unlink(missing_ok=True)
    for split, name in (CSV_NAMES | {UNLABELED: UNLABELED_NAME}).items():
        rows = dataset.rows[dataset.rows["split"] == split]
        if split == UNLABELED and rows.empty:
            continue
        labels = map(_cell, rows["split"], rows["labels"], rows["unknown"])
        columns = [rows["filepath"], labels, *(rows[column] for column in grouped)]
        write_text(folder / name, csv_text([*COLUMNS, *grouped], zip(*columns, strict=True)))
    write_text(folder / LABELS, "".join(f"{name}\n" for name in dataset.classes))
    rows = dataset.quarantine[QUARANTINE_COLUMNS].itertuples(index=False)
    write_text(folder / QUARANTINE, csv_text(QUARANTINE_COLUMNS, rows))


def _cell(split: str, labels: Collection[str], unknown: Collection[str]) -> str:
    return EVERY[0] if split == UNLABELED else cells.join_labels(labels, unknown)


def read_tables(folder: Path, images: Path, classes: Sequence[str] | None = None) -> Dataset:
    """Read what `write_tables` wrote; `classes` defaults to the labels.txt beside it."""
    if classes is None:
        classes = read_text(folder / LABELS).splitlines()
    frames = []
    names = CSV_NAMES.items()
    if (folder / UNLABELED_NAME).exists():
        names = [*names, (UNLABELED, UNLABELED_NAME)]
    for split, name in names:
        fields = _read_own(folder / name, COLUMNS, [*COLUMNS, GROUP])
        labels, groups = [parse_labels(row[1]) for row in fields], [(*row, "")[2] for row in fields]
        labels = [((), tuple(classes)) if split == UNLABELED else pair for pair in labels]
        lines = range(2, len(fields) + 2)
        frames.append(_frame(split, [row[0] for row in fields], labels, groups, name, lines))
    rows = pd.concat(frames, ignore_index=True)
    unknown = set().union(*set(rows["labels"]), *set(rows["unknown"])) - set(classes)
    if unknown:
        raise DatasetError(f"{folder}: label {min(unknown)!r} is not in {LABELS}. Run "
                           "01_dataset_audit again.")  # fmt: skip
    quarantine = _read_own(folder / QUARANTINE, QUARANTINE_COLUMNS)
    quarantine = pd.DataFrame(quarantine, columns=QUARANTINE_COLUMNS)
    return Dataset(Path(images), tuple(classes), rows, quarantine)


def _read_own(path: Path, *headers: list[str]) -> list[list[str]]:
    rows = [fields for _, fields in cells.csv_rows(read_text(path), path.name)]
    if not rows or rows[0] not in headers or any(len(row) != len(rows[0]) for row in rows):
        raise DatasetError(f"{path} is damaged. Run 01_dataset_audit again.")
    return [[cells.unguard(field) for field in fields] for fields in rows[1:]]


def write_dataset(
    dataset: Dataset, folder: Path, root: Path, *, task: str, sha256: Mapping[str, str]
) -> dict[str, Any]:
    """Write what later notebooks rely on into the run folder; return the manifest.

    `sha256` is each image's by filepath. Paths are written relative to `root`, the project, so
    that they mean the same on another machine.
    """
    write_tables(dataset, folder / TABLES)
    for name in (LABELS, QUARANTINE):
        write_bytes(folder / name, (folder / TABLES / name).read_bytes())
    aside, bad_aside = (frame["split"] == UNLABELED for frame in (dataset.rows, dataset.quarantine))
    manifest = {
        "schema": 1, "task": task, "images_folder": os.path.relpath(dataset.images, root),
        "classes": list(dataset.classes),
        "images": {name: int((dataset.rows["split"] == name).sum()) for name in SPLITS},
        "quarantined": int((~bad_aside).sum()),
        "content_sha256": _content_digest(dataset.rows[~aside], sha256),
    }  # fmt: skip
    write_json(folder / MANIFEST, manifest)
    (folder / UNLABELED_MANIFEST).unlink(missing_ok=True)
    if aside.any():
        unlabeled = {
            "schema": 1, "images": int(aside.sum()), "quarantined": int(bad_aside.sum()),
            "content_sha256": _content_digest(dataset.rows[aside], sha256),
        }  # fmt: skip
        write_json(folder / UNLABELED_MANIFEST, unlabeled)
    return manifest


def _content_digest(rows: pd.DataFrame, sha256: Mapping[str, str]) -> str:
    """Hash every image's name and content, and its labels, in the order of the tables."""
    digest = hashlib.sha256()
    for row in rows.itertuples():
        cell = _cell(row.split, row.labels, row.unknown)
        group = f"\0{row.group}" if row.group else ""
        line = f"{row.split}\0{row.filepath}\0{sha256[row.filepath]}\0{cell}{group}\n"
        digest.update(line.encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def load_dataset(folder: Path, root: Path) -> Dataset:
    """Read back what `write_dataset` left in the run folder."""
    path = folder / MANIFEST
    if not path.is_file():
        raise MissingInputError(f"No {MANIFEST} in {folder}. Run 01_dataset_audit first")
    manifest = read_json(path)
    images = root / manifest["images_folder"]
    if not images.is_dir():
        raise MissingInputError(f"The images of this run lay in {images}, which is gone. Put them "
                                "back, or run 01_dataset_audit with the new "
                                "dataset.dir")  # fmt: skip
    return read_tables(folder / TABLES, images, manifest["classes"])
