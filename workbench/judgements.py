"""What a person said of the mistakes in 09, click by click, and the label tables that follow.

Kept in the run folder, where a restart finds it; a page hands it over as a file. Labels change in
the dataset's own tables, whose first version is kept; photos themselves are never touched.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from workbench.data.cells import csv_rows, csv_text, join_labels, parse_labels, read_text, unguard
from workbench.data.layouts import COLUMNS, CSV_NAMES, GROUP, TABLE_NAME
from workbench.errors import InputError
from workbench.files import read_json, write_bytes, write_json, write_text

KEPT = "judged/judgements.json"  # in a folder of its own: it goes on changing after the seal
BEFORE = "judged/before"
MOST = 100_000


class Judgement(BaseModel):
    """Of one mistake: is the label wrong, the network, or is the photo of no use?"""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", populate_by_name=True)

    filepath: str = Field(min_length=1, max_length=4096)
    name: str = Field(alias="class", min_length=1, max_length=200)
    kind: Literal["false positive", "false negative"]
    judgement: Literal["label wrong", "network wrong", "unusable"]

    @property
    def place(self) -> tuple[str, str, str]:
        return self.filepath, self.name, self.kind


def read(path: Path) -> list[Judgement]:
    """Read judgements that somebody may have made elsewhere."""
    found = read_json(path)
    listed = found.get("judgements") if isinstance(found, dict) else None
    if not isinstance(listed, list) or len(listed) > MOST:
        raise InputError(f"{path} holds no judgements. Download them from the gallery of page 09")
    try:
        return [Judgement.model_validate(one) for one in listed]
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise InputError(f"{path}: {place}: {first['msg']}. Download it again") from None


def kept(folder: Path) -> list[Judgement]:
    path = folder / KEPT
    return read(path) if path.exists() else []


def keep(folder: Path, judgements: Iterable[Judgement]) -> None:
    rows = [one.model_dump(by_alias=True) for one in judgements]
    write_json(folder / KEPT, {"schema": 1, "judgements": rows})


def set_aside(folder: Path) -> None:
    """Put what became labels beside the earlier tables; what the network got wrong stays."""
    data = (folder / KEPT).read_bytes()
    digest = hashlib.sha256(data).hexdigest()[:12]
    write_bytes(folder / BEFORE / f"{digest}_judgements.json", data)
    keep(folder, [one for one in kept(folder) if one.judgement == "network wrong"])


def on_click(folder: Path, message: Mapping[str, Any]) -> str:
    """Keep one click of a live gallery; the same button again takes it back."""
    place, judgement = message["mistake"], message["judgement"]
    wanted = (place["filepath"], place["class"], place["kind"])
    others = [one for one in kept(folder) if one.place != wanted]
    if judgement:
        others.append(Judgement.model_validate({**place, "judgement": judgement}))
    keep(folder, others)
    return f"{len(others)} kept in {folder.name}/{KEPT}"


def edit_tables(run_folder: Path, dataset: Path, judged: Iterable[Judgement], task: str) -> str:
    """Correct the label tables of a dataset; say what was changed and what could not be."""
    judged = list(judged)
    tables = [dataset / name for name in (*CSV_NAMES.values(), TABLE_NAME)]
    tables = [path for path in tables if path.is_file()]
    if not tables:
        raise InputError(
            f"{dataset} has no {TABLE_NAME} or {CSV_NAMES['test']}: labels of folders and text "
            "files are corrected by hand. Move the photo, or change its line"
        )
    changed, left = 0, {one.filepath for one in judged if one.judgement != "network wrong"}
    for path in tables:
        text = read_text(path)
        new, done = _edited(text, path.name, judged, task)
        if new != text and done:
            digest = hashlib.sha256(text.encode()).hexdigest()[:12]
            write_bytes(run_folder / BEFORE / f"{digest}_{path.name}", path.read_bytes())
            write_text(path, new)
        changed, left = changed + len(done), left - done
    lines = [
        f"{changed} rows corrected in {dataset}; the tables as they were are in "
        f"{run_folder / BEFORE}."
    ]
    if left:
        lines.append(f"Not changed, as no table says what is right: {', '.join(sorted(left)[:10])}")
    lines.append(
        "Only labels were looked at that the network disputed: figures on these photos now favour "
        "it. New test photos tell the truth"
    )
    return "\n".join(lines)


def _edited(text: str, name: str, judged: list[Judgement], task: str) -> tuple[str, set[str]]:
    """Return a table with its corrections, and the photos that were corrected or taken out."""
    of_photo: dict[str, list[Judgement]] = {}
    for one in judged:
        of_photo.setdefault(one.filepath, []).append(one)
    rows, done = [[unguard(cell) for cell in fields] for _, fields in csv_rows(text, name)], set()
    head = [cell.strip() for cell in rows[0]] if rows else []
    if head not in (COLUMNS, [*COLUMNS, GROUP]):
        raise InputError(f"{name} does not begin with {','.join(COLUMNS)}. Correct it by hand")
    kept_rows = []
    for row in rows[1:]:
        ours = of_photo.get(row[0].strip(), [])
        if any(one.judgement == "unusable" for one in ours):
            done.add(row[0].strip())
            continue
        cell = row[1]
        for one in (one for one in ours if one.judgement == "label wrong"):
            cell = _corrected(cell, one, task)
        if cell != row[1]:
            done.add(row[0].strip())
        kept_rows.append([row[0], cell, *row[2:]])
    return csv_text(head, kept_rows), done


def _corrected(cell: str, one: Judgement, task: str) -> str:
    """Put a class in that was rightly said, take one out that was rightly not."""
    labels, unknown = (set(names) for names in parse_labels(cell))
    there = one.kind == "false positive"
    if task == "single_label":
        return one.name if there else cell  # what else it is, nobody said
    labels = labels | {one.name} if there else labels - {one.name}
    return join_labels(sorted(labels), sorted(unknown - {one.name}))
