"""The layouts a dataset may come in, read into raw tables: path, labels cell, line.

Tolerant of what is harmless (a byte order mark, CR, CRLF, spaces around values, blank lines) and
exact about the rest; `check_paths` says which paths are files inside the images folder. What the
values mean is judged in `tables`. `stamp_dataset` says whether anything in a folder was touched.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from workbench.data.cells import csv_rows, read_text, unguard
from workbench.errors import DatasetError, InputError
from workbench.files import safe_join, sha256
from workbench.settings import DatasetSettings

log = logging.getLogger(__name__)

SPLITS = ("train", "val", "test")
SPLIT_NAMES = {  # what folders and files of other people call them
    "train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val",
    "dev": "val", "test": "test", "testing": "test",
}  # fmt: skip
UNLABELED = "unlabeled"  # beside the splits: photos that nobody labelled, for a teacher to answer
COLUMNS = ["filepath", "labels"]
GROUP = "group"  # of photos that belong together: a clip, a patient, a burst, a camera
CSV_NAMES = {split: f"{split}_labels.csv" for split in SPLITS}
TXT_NAMES = {split: f"{split}.txt" for split in SPLITS}
TABLE_NAME = "labels.csv"
IMAGES = "images"
SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".heic", ".heif", ".avif"}
# Left behind by file managers; hidden files (.DS_Store, ._photo.jpg) are told by their dot.
LITTER = {"thumbs.db", "desktop.ini", "icon\r", "__macosx"}
TABLE_SUFFIXES = (".csv", ".txt", ".yaml")
FEW = 10
LONGEST_LINE = 600  # of a message; a hostile table has cells of megabytes
SUSPICIOUS = re.compile(r"[\\~:\0-\x1f\x7f\ud800-\udfff]|\.\.|^/|^$")


@dataclass
class RawTable:
    """One table as it stands: parallel lists, and the file it came from."""

    source: str
    split: str | None
    filepaths: list[str] = field(default_factory=list)
    cells: list[str] = field(default_factory=list)
    groups: list[str] = field(default_factory=list)  # "" where a photo stands for itself
    lines: list[int] = field(default_factory=list)

    def add(self, filepath: str, cell: str, line: int, group: str = "") -> None:
        self.filepaths.append(filepath)
        self.cells.append(cell)
        self.groups.append(group)
        self.lines.append(line)


@dataclass(frozen=True)
class Layout:
    kind: str  # csv | txt | table | folders, or one of `exports`
    folder: Path  # where it was found
    images: Path  # what filepaths are relative to
    tables: list[RawTable]


class Problems:
    """Collects what is wrong, so that one run shows the first few of everything."""

    def __init__(self) -> None:
        self._lines: list[str] = []
        self._unsaid = 0

    def add(self, source: str, line: int | None, text: str) -> None:
        place = source if line is None else place_of(source, line)
        if len(text) > LONGEST_LINE:
            text = f"{text[:LONGEST_LINE]}… ({len(text)} characters)"
        self._lines.append(f"{place}: {text}.")

    def add_each(self, names: Sequence[str], say: Callable[[str], tuple[str, int, str]]) -> None:
        """Add what `say` finds of the first few names; finding words for all may take minutes."""
        for name in names[:FEW]:
            self.add(*say(name))
        self._unsaid += len(names[FEW:])

    def about(self, source: str) -> bool:
        return any(line.startswith(source) for line in self._lines)

    def refuse(self) -> None:
        """Raise one `DatasetError` when anything was added."""
        rest = len(self._lines[FEW:]) + self._unsaid
        more = [f"… and {rest} more."] if rest else []
        if self._lines:
            raise DatasetError("\n".join(self._lines[:FEW] + more))


def place_of(source: str, line: int) -> str:
    """Say where something stands; JSON is counted by its entries, which few editors number."""
    return f"{source}, {'entry' if source.endswith(('.json', '.labels')) else 'line'} {line}"


def read_layout(folder: Path, dataset: DatasetSettings) -> Layout:
    """Read the tables of `folder`; `auto` takes the first layout that is there.

    The folder `dataset.unlabeled` is no class, wherever it lies.
    """
    if not folder.is_dir():
        raise DatasetError(f"{folder} is not a folder. dataset.dir names the dataset's folder.")
    unlabeled = (folder / dataset.unlabeled).resolve() if dataset.unlabeled else None
    kind, documents = dataset.layout, None
    if kind == "auto":
        folder, kind, documents = _find(folder, unlabeled)
    if kind == "folders":
        return _read_folders(folder, unlabeled)
    if kind in ("csv", "txt", "table"):
        return _read_files(folder, kind, dataset)
    return _read_export(folder, kind, dataset, documents)


def _read_export(
    folder: Path, kind: str, dataset: DatasetSettings, documents: list | None
) -> Layout:
    """Read what another tool wrote; without `documents` they are looked for."""
    from workbench.data import exports  # it builds on this module

    if documents is None:
        documents = exports.recognise(folder, kind)[1]
    problems = Problems()
    tables = exports.read_tables(folder, documents, dataset.label_separator, problems)
    if not tables:
        problems.add(str(folder), None, f"no photo has an entry in the {kind} export")
    problems.refuse()
    return Layout(kind, folder, folder, tables)


def _find(folder: Path, unlabeled: Path | None) -> tuple[Path, str, list]:
    """Find where a dataset lies and its layout; a folder that holds but one is looked into."""
    from workbench.data import exports

    tables = {"csv": CSV_NAMES.values(), "txt": TXT_NAMES.values(), "table": [TABLE_NAME]}
    for kind, names in tables.items():
        if any((folder / name).exists() for name in names):
            return folder, kind, []
    if found := exports.recognise(folder):
        return folder, *found
    root = _class_root(folder)
    inner = [Path(entry.path) for entry in os.scandir(root)
             if entry.is_dir(follow_symlinks=False) and not is_litter(entry.name)
             and Path(entry.path) != folder / IMAGES
             and Path(entry.path).resolve() != unlabeled]  # fmt: skip
    if len(inner) == 1 and not _holds_photos(root) and not _holds_photos(inner[0]):
        return _find(inner[0], unlabeled)
    if len(inner) > 1:
        return folder, "folders", []
    raise DatasetError(_no_dataset(folder))


def _class_root(folder: Path) -> Path:
    """Return where class folders lie: in `images/`, or beside it as long as it is empty."""
    images = folder / IMAGES
    filled = images.is_dir() and any(not is_litter(name) for name in os.listdir(images))
    return images if filled else folder


def _holds_photos(folder: Path) -> bool:
    return any(Path(name).suffix.lower() in SUFFIXES for name in os.listdir(folder))


def _no_dataset(folder: Path) -> str:
    """Say what was looked for, and where photos go."""
    place = folder / IMAGES if (folder / IMAGES).is_dir() else folder
    photos = sum(path.suffix.lower() in SUFFIXES for path in walk_files(folder))
    there = f", but {photos} photos without labels" if photos else ""
    return (
        f"{folder} holds no dataset{there}: neither {CSV_NAMES['train']} nor {TXT_NAMES['train']} "
        f"nor {TABLE_NAME} nor one folder a class, nor an export of COCO, Roboflow, Hugging Face, "
        "Edge Impulse, FiftyOne or Label Studio. One label a photo: put the photos into one folder "
        f"a class, like {place}/cat. Several: list them in {folder / TABLE_NAME}, "
        f"{','.join(COLUMNS)} (a|b), and put them into {folder / IMAGES}"
    )


def _read_files(folder: Path, kind: str, dataset: DatasetSettings) -> Layout:
    """Read one table a split, or one table alone."""
    images, problems = folder / IMAGES, Problems()
    if not images.is_dir():
        raise DatasetError(f"{images} does not exist. The tables' paths are relative to it.")
    if kind == "table":
        tables = [_read_csv(folder, TABLE_NAME, None, dataset, problems)]
    else:
        names, read = (CSV_NAMES, _read_csv) if kind == "csv" else (TXT_NAMES, _read_txt)
        if missing := [name for name in names.values() if not (folder / name).exists()]:
            raise DatasetError(f"{folder}: {', '.join(missing)} missing. Every split needs its "
                               "table; to let the workbench split, put all rows into one "
                               f"{TABLE_NAME} instead.")  # fmt: skip
        tables = [read(folder, name, split, dataset, problems) for split, name in names.items()]
    problems.refuse()
    return Layout(kind, folder, images, tables)


def settle_splits(tables: list[RawTable]) -> list[RawTable]:
    """Sort tables by their split; photos without one learn, and all are dealt where none does."""
    splits = {table.split for table in tables}
    if splits and "train" not in splits:
        if splits != {None}:
            log.info("no photo is in train: the splits are dealt anew")
        return [replace(table, split=None) for table in tables]
    settled = [replace(table, split=table.split or "train") for table in tables]
    return sorted(settled, key=lambda table: SPLITS.index(table.split))


def use_bar(cell: str, separator: str) -> str:
    """Write a labels cell with our separator; what holds it already is taken as it is."""
    return cell if separator == "|" else cell.replace(separator, "|")


def _read_csv(
    folder: Path, name: str, split: str | None, dataset: DatasetSettings, problems: Problems
) -> RawTable:
    table = RawTable(name, split)
    rows = csv_rows(read_text(folder / name), name, dataset.separator)
    columns = _check_header(name, next(rows, (1, []))[1], dataset.separator)
    for line, fields in rows:
        if len(fields) != len(columns):
            wanted = f"{len(columns)} ({','.join(columns)})"
            problems.add(name, line, f"{len(fields)} fields, expected {wanted}")
            continue
        filepath, cell, *group = (unguard(field.strip()) for field in fields)
        table.add(filepath, use_bar(cell, dataset.label_separator), line, *group)
    _refuse_empty(table, problems)
    return table


def _check_header(name: str, fields: list[str], separator: str) -> list[str]:
    found = [field.strip() for field in fields]
    if found in (COLUMNS, [*COLUMNS, GROUP]):
        return found
    if not found:
        reason = "the file is empty"
    elif len(found) == 1 and any(mark in found[0] for mark in ",;\t|"):
        reason = (f"found {found[0]!r}: columns are separated by {separator!r}; "
                  "dataset.separator names another")  # fmt: skip
    else:
        reason = f"found {','.join(found)!r}"
    wanted = f"the header must be {','.join(COLUMNS)!r}; {reason}"
    raise DatasetError(f"{name}, line 1: {wanted}. A third column {GROUP!r} may follow.")


def _refuse_empty(table: RawTable, problems: Problems) -> None:
    if not table.filepaths and not problems.about(table.source):
        problems.add(table.source, None, "no rows. Every split needs at least one image")


def _read_txt(
    folder: Path, name: str, split: str | None, dataset: DatasetSettings, problems: Problems
) -> RawTable:
    table = RawTable(name, split)
    for line, fields in txt_rows(read_text(folder / name)):
        if line == 1 and fields in (COLUMNS, [*COLUMNS, GROUP]):
            continue
        if not 2 <= len(fields) <= 3:
            row = "\t".join(fields)
            words = "has no tab or comma" if len(fields) == 1 else f"has {len(fields) - 1} tabs"
            problems.add(name, line, f"{row!r} {words} between path and labels")
            continue
        filepath, cell, *group = (unguard(field.strip()) for field in fields)
        table.add(filepath, use_bar(cell, dataset.label_separator), line, *group)
    _refuse_empty(table, problems)
    return table


def txt_rows(text: str) -> Iterator[tuple[int, list[str]]]:
    """Yield (line, fields) of `path<TAB>labels<TAB>group`, or where a line has no tab of its last
    comma: paths may hold others. A header with a group in it says that it is two commas.
    """
    rows = text.split("\n")
    commas = 2 if rows[0].split(",") == [*COLUMNS, GROUP] else 1
    for line, row in enumerate(rows, start=1):
        if row.strip():
            yield line, row.split("\t") if "\t" in row else row.rsplit(",", commas)


def _read_folders(folder: Path, unlabeled: Path | None) -> Layout:
    """Read one folder a class, under `images/` where there is one, inside splits if they exist."""
    images, problems = _class_root(folder), Problems()
    entries = _entries(images, problems, unlabeled)
    splits = [SPLIT_NAMES.get(entry.name.casefold()) for entry in entries]
    split_folders = "train" in splits and None not in splits and len({*splits}) == len(splits)
    roots = [(None, images)]
    if split_folders:
        roots = [(split, Path(entry.path)) for split, entry in zip(splits, entries, strict=True)]
    tables = []
    for split, root in roots:
        table = RawTable(str(root), split)
        for entry in _entries(root, problems, unlabeled) if split else entries:
            _read_class(images, entry, table, problems)
        _refuse_empty(table, problems)
        tables.append(table)
    problems.refuse()
    return Layout("folders", folder, images, settle_splits(tables))


def _entries(root: Path, problems: Problems, unlabeled: Path | None) -> list[os.DirEntry]:
    """Return the class folders of `root`; other files there may be notes, but not images."""
    found = []
    for entry in sorted(os.scandir(root), key=lambda entry: entry.name):
        if is_litter(entry.name):
            log.info("%s is ignored: left behind by a file manager", entry.path)
        elif entry.is_dir(follow_symlinks=False):
            if Path(entry.path).resolve() != unlabeled and not _is_empty_images(entry):
                found.append(entry)
        elif entry.is_dir():
            problems.add(entry.path, None, "is a link to a folder. Copy the folder itself")
        elif Path(entry.name).suffix.lower() in SUFFIXES:
            problems.add(entry.path, None, "is an image outside of the class folders. Move it")
        else:
            log.info("%s is ignored: a file beside the class folders", entry.path)
    return found


def _is_empty_images(entry: os.DirEntry) -> bool:
    """Pass over the folder that `new` makes, as long as nothing is in it."""
    return entry.name == IMAGES and all(is_litter(name) for name in os.listdir(entry.path))


def _read_class(images: Path, entry: os.DirEntry, table: RawTable, problems: Problems) -> None:
    """Add every image below one class folder; the folder's name is the label."""
    for path in walk_files(Path(entry.path)):
        if path.suffix.lower() not in SUFFIXES:
            problems.add(str(path), None, "is not an image. Move it out of the class folder")
        else:
            table.add(path.relative_to(images).as_posix(), entry.name, len(table.lines) + 1)


def walk_files(folder: Path) -> Iterator[Path]:
    """Yield every file below `folder` by name; links are not followed, and litter is left out."""
    for root, folders, names in os.walk(folder, followlinks=False):
        folders[:] = sorted(folder for folder in folders if not is_litter(folder))
        for name in sorted(names):
            if is_litter(name):
                log.info("%s is ignored: left behind by a file manager", Path(root, name))
            else:
                yield Path(root, name)


def read_unlabeled(folder: Path, named: Collection[Path]) -> RawTable:
    """List the photos of a folder, at any depth, but those `named` by the label tables."""
    if not folder.is_dir():
        raise DatasetError(
            f"{folder} is not a folder. dataset.unlabeled names one with photos that nobody "
            "labelled, as seen from the dataset's own folder"
        )
    table, others = RawTable(str(folder), UNLABELED), Counter()
    for path in walk_files(folder):
        if path.suffix.lower() not in SUFFIXES:
            others[path.suffix.lower() or "no suffix"] += 1
        elif path.resolve() not in named:
            table.add(path.relative_to(folder).as_posix(), "?", len(table.lines) + 1)
    if others:
        kinds = ", ".join(f"{count} {suffix}" for suffix, count in others.most_common())
        log.info("%s: files that are no photos are left out: %s", folder, kinds)
    if not table.lines:
        raise DatasetError(f"{folder} holds no photo beside those that the label tables name. "
                           "Put photos there, or leave dataset.unlabeled empty")  # fmt: skip
    return table


def is_litter(name: str) -> bool:
    return name.startswith(".") or name.lower() in LITTER


@dataclass(frozen=True)
class _Folder:
    """One listing: plain files by name, everything else by its entry."""

    files: set[str] = field(default_factory=set)
    others: dict[str, os.DirEntry] = field(default_factory=dict)
    unsafe: str | None = None
    bad: str | None = None


def check_paths(images: Path, filepaths: Iterable[str]) -> tuple[dict[str, str], dict[str, str]]:
    """Check that every path is safe and names a regular file; nothing is opened.

    Returns reasons by path: of unsafe ones, always refused, and of bad ones, perhaps quarantined.
    """
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
    return unsafe, bad


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
        folder = _Folder()
        with os.scandir(path) as entries:
            for entry in entries:
                if entry.is_file(follow_symlinks=False):
                    folder.files.add(entry.name)
                else:
                    folder.others[entry.name] = entry
        return folder
    except FileNotFoundError:
        within = parent.partition("/")[0] == images.name
        hint = f". Paths are relative to {images.name}/: leave it out" if within else ""
        return _Folder(bad=f"does not exist (nor does its folder){hint}")
    except (OSError, RuntimeError) as error:  # RuntimeError: a loop of links, before Python 3.13
        words = getattr(error, "strerror", None) or error
        return _Folder(bad=f"cannot be reached: {words}")


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

    def look(text: str) -> str:
        return unicodedata.normalize("NFC", text).casefold()

    wanted = look(name)
    twins = (other for other in folder.files if look(other) == wanted)
    return next((f" (but {other!a} does: case and accents count)" for other in twins), "")


def stamp_dataset(folder: Path, without: Path | None = None) -> str:
    """Hash the tables' content, and path, size and times of every other file.

    `without` is a folder that may lie inside and is no part of it: the run's own.
    """
    if not folder.is_dir():
        raise DatasetError(f"No dataset in {folder}. Set dataset.dir to your folder, or draw the "
                           f"demo dataset with: python -m workbench demo {folder}")  # fmt: skip
    facts = [os.stat(place) for place in (folder, without) if place and place.exists()]
    seen = {(one.st_dev, one.st_ino) for one in facts}
    return hashlib.sha256(b"".join(_lines(str(folder), "", seen))).hexdigest()


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
            if (one := (facts.st_dev, facts.st_ino)) not in seen:
                seen.add(one)
                yield from _lines(entry.path, f"{inside}{entry.name}/", seen)
        elif entry.is_file() and not entry.name.startswith("."):
            if not inside and entry.name.endswith(TABLE_SUFFIXES):
                state = sha256(Path(entry.path))
            else:
                state = f"{facts.st_mtime_ns} {facts.st_ctime_ns}"
            yield name + f"\0{facts.st_size} {state}\n".encode()
