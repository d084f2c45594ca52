"""Tables in notebooks: every cell is escaped text, whatever classes and files are called."""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Number
from pathlib import Path
from typing import Any

import pandas as pd

from workbench.files import digest_of
from workbench.settings import Settings


@dataclass(frozen=True)
class Table:
    """A DataFrame that shows itself as plain, escaped HTML, and as text where HTML is not.

    Numbers stand on the right, words on the left.
    """

    frame: pd.DataFrame

    def _repr_html_(self) -> str:
        columns = [self.frame.iloc[:, place].tolist() for place in range(self.frame.shape[1])]
        kinds = [' class="n"' if _are_numbers(column) else "" for column in columns]
        head = _row("th", kinds, self.frame.columns)
        rows = "".join(_row("td", kinds, cells) for cells in zip(*columns, strict=True))
        table = f"<table class='frame'><thead>{head}</thead><tbody>{rows}</tbody></table>"
        return f"<div class='frame'>{table}</div>"

    def __repr__(self) -> str:
        return self.frame.to_string(index=False, na_rep="–")


def _row(tag: str, kinds: Sequence[str], cells: Iterable[Any]) -> str:
    pairs = zip(kinds, cells, strict=True)
    inside = "".join(f"<{tag}{kind}>{html.escape(_text(cell))}</{tag}>" for kind, cell in pairs)
    return f"<tr>{inside}</tr>"


def _text(cell: Any) -> str:
    if _is_missing(cell):
        return "–"
    return f"{cell:.3f}" if isinstance(cell, float) else str(cell)


def _is_missing(cell: Any) -> bool:
    return cell is None or cell is pd.NA or (isinstance(cell, float) and math.isnan(cell))


def _are_numbers(column: Iterable[Any]) -> bool:
    told = [cell for cell in column if not _is_missing(cell)]
    return bool(told) and all(isinstance(cell, Number) and not isinstance(cell, bool)
                              for cell in told)  # fmt: skip


def table(rows: pd.DataFrame | Mapping[str, Any] | Sequence[Any]) -> Table:
    """Show a DataFrame, a mapping of names to values, or a list of rows."""
    if isinstance(rows, Mapping):
        rows = pd.DataFrame({"name": list(rows), "value": [str(v) for v in rows.values()]})
    return Table(pd.DataFrame(rows))


def knobs(settings: Settings, *names: str) -> Table:
    """Show the settings that matter here, each with the reason the code gives for it."""
    rows = [row for name in names for row in _knob_rows(settings, name)]
    return table(pd.DataFrame(rows, columns=["knob", "value", "default", "why"]))


def _knob_rows(settings: Settings, dotted: str) -> list[tuple[str, str, str, str]]:
    value, default, reason = settings, Settings(), ""
    for part in dotted.split("."):
        reason = type(value).model_fields[part].description or ""
        value, default = getattr(value, part), getattr(default, part)
    if not hasattr(value, "model_fields_set"):
        return [(dotted, str(value), "" if value == default else str(default), reason)]
    inner = [f"{dotted}.{name}" for name in type(value).model_fields]
    return [row for name in inner for row in _knob_rows(settings, name)]


def file_table(folder: Path, names: Iterable[str]) -> Table:
    """Show files and folders of a run: name, size and the start of the sha256."""
    rows = [
        {"file": name, "size": _size(folder / name), "sha256": digest_of(folder / name)[:12]}
        for name in names
    ]
    return table(pd.DataFrame(rows, columns=["file", "size", "sha256"]))


def _size(path: Path) -> str:
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    total = sum(file.stat().st_size for file in files)
    count = "" if path.is_file() else f" in {len(files)} files"
    return f"{total / 1024:,.1f} KiB{count}"
