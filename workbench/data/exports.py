"""Datasets as other tools export them: COCO, Roboflow, Hugging Face, Edge Impulse, FiftyOne, and
Label Studio.

A reader says what one record of a tool means: a path, labels, a split. The rest is done once for
all of them: opening the files, finding the photos where they lie, dealing entries to tables.
Nothing here is trusted: files have a size to stay below, values a type, and a path that leads out
is handed on as it stands, to be refused like that of any table.
"""

from __future__ import annotations

import json
import logging
import os
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from workbench.data.cells import csv_rows, read_text, unguard
from workbench.data.layouts import (
    SPLIT_NAMES,
    SUFFIXES,
    Problems,
    RawTable,
    is_litter,
    settle_splits,
    use_bar,
    walk_files,
)
from workbench.errors import DatasetError
from workbench.files import is_plain_file

log = logging.getLogger(__name__)

MOST_BYTES = 512 << 20  # COCO's own training file has 450 MB
MOST_FILES = 50  # of one folder; where there are more, each is about one photo
TABLES = {"metadata.csv", "_classes.csv"}
TEXTS = (".json", ".jsonl", ".labels")
UPLOAD = re.compile(r"^[0-9a-f]{8}-")  # what Label Studio puts before the names of uploads


class _OddError(Exception):
    """A value that the format does not allow; the message says which."""


@dataclass(frozen=True)
class Document:
    """One file of a tool, read: its records with the line or place of each."""

    name: str  # relative to the dataset
    content: Any

    @property
    def depth(self) -> int:
        return self.name.count("/")


@dataclass(frozen=True)
class Entry:
    """What one record says of one photo; labels None: nobody labelled it, a text: a whole cell."""

    path: str
    labels: Iterable[Any] | str | None
    unknown: Iterable[str] = ()
    split: str | None = None


Meaning = Callable[[Any], Entry | None]  # of a record; None: it is about no photo
Records = tuple[Iterable[tuple[int, Any]], Meaning]


@dataclass(frozen=True)
class Format:
    """How the files of a tool are told from others, and what their records mean."""

    takes: Callable[[Any], bool]
    read: Callable[[Any], Records]


def recognise(folder: Path, wanted: str = "") -> tuple[str, list[Document]] | None:
    """Find the format of a folder and its files, or the files of the format that is `wanted`."""
    documents = list(_documents(folder))
    for name, formats in FORMATS.items():
        for one in formats if wanted in ("", name) else ():
            found = [document for document in documents if one.takes(document.content)]
            if found:
                return name, _foremost(found)
    if wanted in ("", NAMED) and _is_upload_folder(folder):
        return NAMED, []
    if wanted:
        raise DatasetError(f"{folder} holds no {wanted} dataset. Looked for {LOOKED_FOR[wanted]} "
                           "in it and in its folders")  # fmt: skip
    return None


def _foremost(documents: list[Document]) -> list[Document]:
    """Keep those nearest to the top: below them tools repeat themselves."""
    depth = min(document.depth for document in documents)
    found = [document for document in documents if document.depth == depth]
    instances = [one for one in found if Path(one.name).name.startswith("instances_")]
    return instances or found  # beside them COCO has keypoints of the same photos


def _documents(folder: Path) -> Iterator[Document]:
    below = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir())
    places = [folder, *(folder / name for name in below if not is_litter(name))]
    for place in places:
        names = sorted(os.listdir(place)) if not place.is_symlink() else []
        names = [name for name in names if name in TABLES or name.endswith(TEXTS)]
        for name in names if len(names) <= MOST_FILES else ():
            path = place / name
            if not is_plain_file(path):
                continue
            try:
                content = _content(path)
            except DatasetError as error:
                log.warning("%s is passed over: %s", path, error)
                continue
            yield Document(path.relative_to(folder).as_posix(), content)


def _content(path: Path) -> Any:
    if path.stat().st_size > MOST_BYTES:
        raise DatasetError(f"{path.name} has {path.stat().st_size >> 20} MB, at most "
                           f"{MOST_BYTES >> 20} MB are read. Split it")  # fmt: skip
    text = read_text(path)
    if path.name in TABLES:
        return _rows(text, path.name)
    try:
        if path.suffix != ".jsonl":
            return json.loads(text)
        lines = enumerate(text.split("\n"), start=1)
        return [(number, json.loads(line)) for number, line in lines if line.strip()]
    except (ValueError, RecursionError) as error:
        raise DatasetError(f"{path.name} is not valid JSON ({error})") from None


def _rows(text: str, name: str) -> list[tuple[int, dict[str, str] | None]]:
    """Read a table with a header as records; a row of another length is none."""
    rows = csv_rows(text, name)
    header = [field.strip() for field in next(rows, (1, []))[1]]
    return [(line, {key: unguard(field.strip()) for key, field in zip(header, fields, strict=False)}
             if len(fields) == len(header) else None) for line, fields in rows]  # fmt: skip


def read_tables(
    folder: Path, documents: list[Document], separator: str, problems: Problems
) -> list[RawTable]:
    """Turn every record into a row of a table a split; the folder has to be recognised."""
    photos = _Photos(folder)
    tables: dict[tuple[str, str | None], RawTable] = {}
    for name, number, entry in _entries(documents, photos, problems):
        try:
            path, cell = photos.find(entry.path, name), _cell(entry, separator)
        except _OddError as error:
            problems.add(name, number, str(error))
            continue
        split = entry.split or _split_of(path) or _split_of(name, several=len(documents) > 1)
        table = tables.setdefault((name, split), RawTable(name, split))
        table.add(path, cell, number)
    photos.say_what_was_done()
    return settle_splits(list(tables.values()))


def _entries(
    documents: list[Document], photos: _Photos, problems: Problems
) -> Iterator[tuple[str, int, Entry]]:
    """Give every entry with its file and place; the names of photos are entries as well."""
    for number, path in enumerate(photos.paths if not documents else (), start=1):
        yield str(photos.folder), number, Entry(path, [PurePosixPath(path).name.split(".")[0]])
    for document in documents:
        known = (one for formats in FORMATS.values() for one in formats)
        records, meaning = (), None
        try:
            records, meaning = next(
                one.read(document.content) for one in known if one.takes(document.content)
            )
        except _OddError as error:
            problems.add(document.name, None, str(error))
        for number, record in records:
            try:
                if entry := meaning(record):
                    yield document.name, number, entry
            except _OddError as error:
                problems.add(document.name, number, str(error))


def _cell(entry: Entry, separator: str) -> str:
    if isinstance(entry.labels, str):
        return use_bar(entry.labels, separator)
    if entry.labels is None and not entry.unknown:
        return "?"
    labels = {_class(name) for name in entry.labels or ()}
    return "|".join([*sorted(labels), *(f"?{_class(name)}" for name in sorted(entry.unknown))])


def _class(name: Any) -> str:
    """Take what names a class: a number is a name as well, which some tools give."""
    text = str(name).strip() if isinstance(name, str | int) else ""
    if not text or "|" in text or text.startswith("?"):
        raise _OddError(f'class {name!r}: a class is a word without "|" that does not start with '
                        '"?". Rename it')  # fmt: skip
    return text


def _split_of(path: str, several: bool = False) -> str | None:
    """Take the split from the folders of a path, like train2017/; of several files from a name
    like instances_train2017.json.
    """
    *folders, name = path.casefold().split("/")
    words = [folder.rstrip("0123456789") for folder in folders]
    words += re.split(r"[^a-z]+", name) if several else []
    return next((SPLIT_NAMES[word] for word in words if word in SPLIT_NAMES), None)


class _Photos:
    """The photos of a folder by name: tools know them by other paths than where they lie now."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.paths = [path.relative_to(folder).as_posix() for path in walk_files(folder)
                      if path.suffix.lower() in SUFFIXES]  # fmt: skip
        self._known = {*self.paths}
        self._by_name: dict[str, list[str]] = defaultdict(list)
        for path in self.paths:
            name = path.rpartition("/")[2]
            self._by_name[name].append(path)
            self._by_name[name.rpartition(".")[0]].append(path)
        self._used: set[str] = set()
        self._elsewhere: list[tuple[str, str]] = []

    def find(self, named: str, document: str) -> str:
        """Return the photo's path in the folder; what is not found stays as it was named."""
        beside = document.rpartition("/")[0]
        found = next((path for path in (f"{beside}/{named}".lstrip("/"), named)
                      if path in self._known), None)  # fmt: skip
        found = found or self._search(named, _split_of(document, several=True))
        self._used.add(found or named)
        return found or named

    def _search(self, named: str, split: str | None) -> str | None:
        """Find the one photo whose path ends as the name does; folders of the split come first."""
        parts = named.split("/")
        if ".." in parts or not parts[-1]:
            return None
        names = parts[-1], UPLOAD.sub("", parts[-1]), PurePosixPath(parts[-1]).stem  # `prepare`d
        candidates = next(filter(None, map(self._by_name.get, names)), [])
        if len(candidates) > 1:
            ends = [path for path in candidates if f"/{path}".endswith("/" + named.lstrip("/"))]
            same = [path for path in candidates if split and _split_of(path) == split]
            candidates = next((few for few in (same, ends) if len(few) == 1), candidates)
        if len(candidates) > 1:
            places = ", ".join(candidates[:3])
            raise _OddError(f"{named} may be any of {len(candidates)} photos: {places}. "
                            "Name the folder too")  # fmt: skip
        if candidates and candidates[0] != named:
            self._elsewhere.append((named, candidates[0]))
        return candidates[0] if candidates else None

    def say_what_was_done(self) -> None:
        if self._elsewhere:
            named, path = self._elsewhere[0]
            log.info("%d photos are named otherwise than they lie, such as %s: taken as %s",
                     len(self._elsewhere), named, path)  # fmt: skip
        left = sorted(self._known - self._used)
        if left:
            log.info("%d photos that no label is about are left out, such as %s",
                     len(left), left[0])  # fmt: skip


# What the records of each tool mean.


def _value(record: Any, key: str, *kinds: type) -> Any:
    value = record.get(key) if isinstance(record, dict) else None
    if not isinstance(value, kinds):
        words = " or ".join(kind.__name__ for kind in kinds)
        raise _OddError(f"{key!r} is {str(value)[:80]!r}, expected {words}")
    return value


def _numbered(records: Iterable[Any]) -> Iterable[tuple[int, Any]]:
    return enumerate(records, start=1)


def _has(content: Any, **kinds: type) -> bool:
    return isinstance(content, dict) and all(
        isinstance(content.get(key), kind) for key, kind in kinds.items()
    )


def _is_coco(content: Any) -> bool:
    return _has(content, images=list, annotations=list, categories=list)


def _read_coco(content: Any) -> Records:
    names = {_value(one, "id", int, str): _value(one, "name", str) for one in content["categories"]}
    labels = defaultdict(set)
    for number, one in _numbered(content["annotations"]):
        category = _value(one, "category_id", int, str)
        if category not in names:
            raise _OddError(f"annotation {number} has category_id {category}, which no category is")
        labels[_value(one, "image_id", int, str)].add(names[category])

    def meaning(image: Any) -> Entry:
        return Entry(_value(image, "file_name", str), labels[_value(image, "id", int, str)])

    return _numbered(content["images"]), meaning


def _file_column(content: Any) -> str:
    """Name the column with the photo's name: Roboflow's or Hugging Face's; or none."""
    records = content if isinstance(content, list) and content else [None]
    first = records[0][1] if isinstance(records[0], tuple) else None
    names = [
        name for name in ("filename", "file_name") if isinstance(first, dict) and name in first
    ]
    return names[0] if names and _label_columns(first, names[0]) else ""


def _label_columns(record: dict, file: str) -> list[str]:
    """Name the column of labels, or those of a yes and a no a class."""
    named = [name for name in ("labels", "label") if name in record]
    others = [name for name in record if name != file]
    yes_or_no = all(str(record[name]) in YES_OR_NO for name in others)
    return named[:1] or (others if yes_or_no else [])


YES_OR_NO = {"0": False, "1": True, "False": False, "True": True}


def _read_columns(content: Any) -> Records:
    file = _file_column(content)
    columns = _label_columns(content[0][1], file)

    def meaning(record: Any) -> Entry:
        if not isinstance(record, dict):
            raise _OddError("has not as many fields as the header")
        path = _value(record, file, str)
        if columns[0] in ("labels", "label"):
            labels = record.get(columns[0])
            return Entry(path, labels if isinstance(labels, str | list | None) else [labels])
        marks = {name: str(record.get(name, "")) for name in columns}
        if odd := next((name for name, mark in marks.items() if mark not in YES_OR_NO), ""):
            raise _OddError(f"{odd!r} is {marks[odd][:80]!r}, expected 0 or 1")
        return Entry(path, [name for name, mark in marks.items() if YES_OR_NO[mark]])

    return content, meaning


def _is_edge_impulse(content: Any) -> bool:
    return _has(content, version=int, files=list)


def _read_edge_impulse(content: Any) -> Records:
    def meaning(file: Any) -> Entry | None:
        path = _value(file, "path", str)
        if not _is_photo(path):
            return None  # sound and motion lie in the same projects
        label = file.get("label")
        label = {"type": "label", "label": label} if isinstance(label, str) else (label or {})
        boxes = file.get("boundingBoxes") or []
        labels: list[Any] | None = [_value(box, "label", str, int) for box in boxes]
        kind = _value(label, "type", str) if label else "unlabeled"
        if kind == "label":
            labels.append(_value(label, "label", str, int))
        elif kind == "multi-label":
            labels += [_value(one, "label", str, int) for one in _value(label, "labels", list)]
        elif not boxes:
            labels = None
        split = SPLIT_NAMES.get(str(file.get("category")).casefold())
        return Entry(path, labels, split=split)

    return _numbered(content["files"]), meaning


def _is_edge_impulse_boxes(content: Any) -> bool:
    return _has(content, version=int, boundingBoxes=dict)


def _read_edge_impulse_boxes(content: Any) -> Records:
    def meaning(item: tuple[str, Any]) -> Entry:
        path, boxes = item
        if not isinstance(boxes, list):
            raise _OddError(f"{path!r} has {str(boxes)[:80]!r}, expected a list of boxes")
        return Entry(path, [_value(box, "label", str, int) for box in boxes])

    return _numbered(content["boundingBoxes"].items()), meaning


def _is_photo(path: str) -> bool:
    return PurePosixPath(path).suffix.lower() in SUFFIXES


def _is_upload_folder(folder: Path) -> bool:
    """Tell photos named `label.anything.jpg`, as Edge Impulse's uploader reads them."""
    places = [folder, *(Path(entry.path) for entry in os.scandir(folder)
                        if entry.is_dir() and entry.name.casefold() in SPLIT_NAMES)]  # fmt: skip
    names = [name for place in places for name in os.listdir(place)
             if _is_photo(name) and not is_litter(name)]  # fmt: skip
    labels = [name.split(".")[0] for name in names]
    well_named = all(name.count(".") >= 2 and labels[place] for place, name in enumerate(names))
    return well_named and 1 < len({*labels}) <= len(labels) / 2


def _is_fiftyone(content: Any) -> bool:
    first = content["samples"][:1] if _has(content, samples=list) else []
    return any(isinstance(sample, dict) and "filepath" in sample for sample in first)


def _read_fiftyone(content: Any) -> Records:
    field = _label_field(content["samples"])

    def meaning(sample: Any) -> Entry:
        tags = [SPLIT_NAMES.get(str(tag).casefold()) for tag in sample.get("tags") or []]
        labels = _labels_of(sample.get(field))
        split = next(filter(None, tags), None)
        return Entry(_value(sample, "filepath", str), labels, split=split)

    return _numbered(content["samples"]), meaning


INSIDE = {"Classification": "", "Detection": "", "Classifications": "classifications",
          "Detections": "detections", "Polylines": "polylines"}  # fmt: skip


def _label_field(samples: list[Any]) -> str:
    fields = sorted({name for sample in samples if isinstance(sample, dict)
                     for name, value in sample.items()
                     if isinstance(value, dict) and value.get("_cls") in INSIDE})  # fmt: skip
    if "ground_truth" in fields:
        return "ground_truth"
    if len(fields) != 1:
        raise _OddError(f"label fields: {', '.join(fields) or 'none'}. Export with one of them, or "
                        "call it ground_truth")  # fmt: skip
    return fields[0]


def _labels_of(value: Any) -> list[str] | None:
    if value is None:
        return None
    inside = INSIDE.get(_value(value, "_cls", str))
    if inside is None:
        raise _OddError(f"a label of kind {value['_cls']!r}, which names no classes")
    found = _value(value, inside, list) if inside else [value]
    return [_value(one, "label", str, int) for one in found]


def _is_fiftyone_classes(content: Any) -> bool:
    named = _has(content, labels=dict) and "classes" in content  # null where there is no list
    return named and isinstance(content["classes"], list | None)


def _read_fiftyone_classes(content: Any) -> Records:
    classes = content.get("classes") or []

    def name(value: Any) -> str:
        value = value.get("label") if isinstance(value, dict) else value
        if isinstance(value, int) and classes and not 0 <= value < len(classes):
            raise _OddError(f"class {value}, and there are {len(classes)}")
        return classes[value] if isinstance(value, int) and classes else value

    def meaning(item: tuple[str, Any]) -> Entry:
        path, value = item
        values = value if isinstance(value, list | None) else [value]
        return Entry(path, values and [name(one) for one in values])

    return _numbered(content["labels"].items()), meaning


def _is_label_studio(content: Any) -> bool:
    first = content[0] if isinstance(content, list) and content else None
    task = _has(first, data=dict) and any(key in first for key in ("annotations", "completions"))
    return task or (isinstance(first, dict) and "annotation_id" in first)


def _read_label_studio(content: Any) -> Records:
    return _numbered(content), _task


def _task(task: Any) -> Entry:
    """Read a task; where its annotators differ, the class is unknown."""
    if not isinstance(task, dict):
        raise _OddError(f"a task is {str(task)[:80]!r}, expected an object")
    answers = [_answers(task)] if "annotation_id" in task else [
        {name for result in _value(one, "result", list) for name in _names(result)}
        for one in task.get("annotations") or task.get("completions") or []
        if isinstance(one, dict) and not one.get("was_cancelled")
    ]  # fmt: skip
    path = _photo_of(task.get("data", task))
    agreed = set.intersection(*answers) if answers else None
    return Entry(path, agreed, unknown=set().union(*answers) - (agreed or set()))


def _names(result: Any) -> list[str]:
    """List the classes of one result: `value` holds them under the name of the result's type."""
    if not isinstance(result, dict) or not isinstance(result.get("value"), dict):
        return []
    found = result["value"].get(str(result.get("type")))
    found = found if isinstance(found, list) else []
    return [_class(name[-1] if isinstance(name, list) and name else name) for name in found]


def _answers(task: dict) -> set[str]:
    """List the classes of a task in Label Studio's short form, where a key is the control's."""
    found = task.get("choice", task.get("choices", task.get("label", [])))
    found = found.get("choices", []) if isinstance(found, dict) else found
    found = [found] if isinstance(found, str) else found
    if not isinstance(found, list):
        raise _OddError(f"the answer is {str(found)[:80]!r}, expected choices")
    shapes = [name for one in found if isinstance(one, dict) for key, names in one.items()
              if key.endswith("labels") and isinstance(names, list) for name in names]  # fmt: skip
    return {_class(name) for name in [*shapes, *(one for one in found if isinstance(one, str))]}


def _photo_of(data: Any) -> str:
    """Take the photo's name from a task's data: a path, an upload, a local file or a URL."""
    values = [data.get("image"), *data.values()] if isinstance(data, dict) else []
    for value in values:
        parts = urlsplit(value) if isinstance(value, str) and len(value) < 4096 else None
        local = parse_qs(parts.query).get("d", [""])[0] if parts else ""
        path = local or (unquote(parts.path) if parts else "")
        if _is_photo(path):
            return path
    raise _OddError("names no photo. A task's data holds its path, mostly as image")


NAMED = "edge_impulse"
FORMATS: dict[str, list[Format]] = {
    "coco": [Format(_is_coco, _read_coco)],
    "roboflow": [Format(lambda content: _file_column(content) == "filename", _read_columns)],
    "imagefolder": [Format(lambda content: _file_column(content) == "file_name", _read_columns)],
    "edge_impulse": [
        Format(_is_edge_impulse, _read_edge_impulse),
        Format(_is_edge_impulse_boxes, _read_edge_impulse_boxes),
    ],
    "fiftyone": [
        Format(_is_fiftyone, _read_fiftyone),
        Format(_is_fiftyone_classes, _read_fiftyone_classes),
    ],
    "label_studio": [Format(_is_label_studio, _read_label_studio)],
}
LOOKED_FOR = {
    "coco": "a .json file with images, annotations and categories",
    "roboflow": "_classes.csv with a column filename and one of 0 and 1 a class",
    "imagefolder": "metadata.csv or metadata.jsonl with file_name and label or labels",
    "edge_impulse": "info.labels, bounding_boxes.labels or photos named label.anything.jpg",
    "fiftyone": "samples.json or labels.json",
    "label_studio": "a .json export with annotations",
}
