"""From raw tables to checked rows: labels parsed, classes found, files there, nothing twice."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection
from pathlib import Path

import pandas as pd

from workbench.data.labels import (
    MOST_CLASSES,
    Labels,
    class_problems,
    folder_label,
    nearest,
    parse_labels,
)
from workbench.data.layouts import Layout, Problems, RawTable
from workbench.data.listing import check_paths
from workbench.errors import DatasetError
from workbench.settings import Settings

log = logging.getLogger(__name__)


def parse_rows(layout: Layout, settings: Settings, problems: Problems) -> pd.DataFrame:
    """Turn raw tables into one frame: split, filepath, labels, unknown, source, line."""
    parse = folder_label if layout.kind == "folders" else parse_labels
    frames = [_parse_table(table, parse, settings, problems) for table in layout.tables]
    rows = pd.concat(frames, ignore_index=True)
    _refuse_repeated(rows, problems)
    return rows


def _parse_table(
    table: RawTable, parse: Callable[[str], Labels], settings: Settings, problems: Problems
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
    return pd.DataFrame(
        {
            "split": table.split or "",
            "filepath": [_canonical(path) for path in table.filepaths],
            "labels": [parsed[cell][0] for cell in table.cells],
            "unknown": [parsed[cell][1] for cell in table.cells],
            "source": table.source,
            "line": table.lines,
        }
    )


def _check_count(cell: str, parsed: Labels, settings: Settings) -> None:
    labels, unknown = parsed
    if settings.task == "single_label" and (len(labels) != 1 or unknown):
        raise ValueError(
            f"labels {cell!r}: task single_label takes exactly one class an image. Set task: "
            "multilabel, or correct the labels"
        )
    if not (labels or unknown or settings.dataset.allow_empty_labels):
        raise ValueError(
            "no labels, and dataset.allow_empty_labels is false. Label the image or set it to true"
        )


def _canonical(filepath: str) -> str:
    """`./a//b.jpg` and `a/b.jpg` are one file and must be seen as one."""
    if "://" in filepath:
        return filepath
    if "//" not in filepath and not filepath.startswith("./") and "/./" not in filepath:
        return filepath
    root = "/" if filepath.startswith("/") else ""
    return root + "/".join(part for part in filepath.split("/") if part not in ("", "."))


def _refuse_repeated(rows: pd.DataFrame, problems: Problems) -> None:
    repeated = rows[rows.duplicated("filepath", keep="first")]
    first = rows[rows["filepath"].isin(repeated["filepath"])].drop_duplicates("filepath")
    first = first.set_index("filepath")
    for row in repeated.itertuples():
        other = first.loc[row.filepath]
        labels = "the same labels" if other["labels"] == row.labels else "other labels"
        splits = "" if other["split"] == row.split else ", in another split"
        problems.add(
            row.source,
            row.line,
            f"{row.filepath} stands already in {other['source']}, line {other['line']}{splits}, "
            f"with {labels}. Keep one of the two",
        )


def find_classes(rows: pd.DataFrame, problems: Problems) -> tuple[str, ...]:
    """Collect the classes in code point order, and what is wrong with their names."""
    labelled = set().union(*set(rows["labels"]))
    for name in sorted(set().union(*set(rows["unknown"])) - labelled):
        text = f'"?{name}" is unknown here, but no image has the label{nearest(name, labelled)}'
        problems.add(*_first_place(rows["unknown"], name, rows), text)
    for name, text in class_problems(labelled):
        problems.add(*_first_place(rows["labels"], name, rows), text)
    return tuple(sorted(labelled))


def _first_place(labels: pd.Series, name: str, rows: pd.DataFrame) -> tuple[str, int]:
    row = rows.iloc[next(index for index, names in enumerate(labels) if name in names)]
    return row["source"], int(row["line"])


def check_class_count(classes: Collection[str], settings: Settings) -> None:
    """Hold the number of classes against `num_classes`."""
    shown = ", ".join(list(classes)[:20]) + (" …" if len(classes) > 20 else "")
    if not classes:
        raise DatasetError("No image has a label, so there is no class to learn.")
    if len(classes) > MOST_CLASSES:
        raise DatasetError(
            f"Found {len(classes)} classes, at most {MOST_CLASSES} are supported: {shown}. "
            'Are labels joined by something else than "|"?'
        )
    if settings.num_classes not in ("auto", len(classes)):
        raise DatasetError(
            f"Expected {settings.num_classes} classes, found {len(classes)}: {shown}. "
            f"Correct the labels, or set num_classes: {len(classes)} (or auto)."
        )


def check_files(
    images: Path, rows: pd.DataFrame, settings: Settings, problems: Problems
) -> dict[str, str]:
    """Refuse rows without a file; with `on_bad_image: quarantine` return them with the reason."""
    findings = check_paths(images, rows["filepath"])
    refused = dict(findings.unsafe)
    if settings.dataset.on_bad_image == "fail":
        refused |= {path: f"{images.name}/{path} {why}" for path, why in findings.bad.items()}
    if refused:
        for row in rows[rows["filepath"].isin(refused)].itertuples():
            problems.add(row.source, row.line, refused[row.filepath])
    _warn_of_case_twins(rows)
    return {} if settings.dataset.on_bad_image == "fail" else findings.bad


def _warn_of_case_twins(rows: pd.DataFrame) -> None:
    names = rows["filepath"].drop_duplicates()
    twins = names[names.str.casefold().duplicated(keep=False)]
    if len(twins):
        log.warning(
            "%d file names differ only in letter case, for example %r and %r: on Windows and macOS "
            "they are one file",
            len(twins),
            *sorted(twins, key=str.casefold)[:2],
        )
