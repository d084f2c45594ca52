"""Does verify find every figure that somebody edits and seals again?

On drawn runs of both tasks, and on a finished `outputs/demo` where there is one: every number in
the files that 06 and 09 show is changed by one in the third decimal, one at a time, with everything
sealed again. What verify says it does not derive is counted apart, by name.

    python -m tests.prove edited_figures
"""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.run_doubles import make_run
from workbench.deploy import verify

KINDS: dict[str, dict[str, Any]] = {
    "several labels": {},
    "folded thresholds": {"tflite_export": {"fold_thresholds": True}},
    "single label": {"task": "single_label"},
    "precision floor": {"threshold_search": {"objective": "precision_floor"}},
}
VISIBLE = 0.001  # the last digit that tables show
SHOWN = re.compile(r"(?<=<td>)[-+]?\d+\.\d{3}(?=</td>)|(?<=<b>)\d\.\d{3}(?=</b><span>)")
Place = tuple[str | int, ...]


def run(*, every: int = 1) -> dict[str, Any]:
    """Edit every figure, or one in `every`, of drawn runs and of the demo."""
    with tempfile.TemporaryDirectory(prefix="workbench_edits_") as name:
        rows = []
        for kind, settings in KINDS.items():
            rows += edit_run(make_run(Path(name) / kind.replace(" ", "_"), settings), kind, every)
        if (demo := Path("outputs/demo")).exists():
            rows += edit_run(Path(shutil.copytree(demo, Path(name) / "demo")), "demo", every)
    return {"rows": rows}


def edit_run(folder: Path, kind: str, every: int) -> list[dict[str, Any]]:
    """Edit the figures of each file of a run, and say how many of the edits were found."""
    before = verify.verify(folder)
    if not before.passed:
        raise RuntimeError(before.text)
    return [{"run": kind, "file": name, **edit_file(folder, name, every)}
            for name in verify.FIGURES if name.endswith(".json")] + [
            {"run": kind, "file": name, **edit_page(folder, name, every)}
            for name in (*verify.PAGES, verify.INDEX)]  # fmt: skip


def edit_file(folder: Path, name: str, every: int) -> dict[str, Any]:
    """Hold every edit against what verify derives; one of each file goes the whole way."""
    whole = (folder / name).read_bytes()
    stated, derive = json.loads(whole), verify.FIGURES[name][0]
    derived = derive(verify.Bundle(folder), stated)
    edited, found, left, missed = 0, 0, set(), []
    for place in list(figures(stated))[::every]:
        changed = json.loads(whole)
        edit(changed, place)
        edited += 1
        try:
            _, not_derived = verify.compare("", changed, derived)
        except verify.MismatchError:
            found += 1
        else:
            names = {text.split(", ")[-1] for text in not_derived} & set(place)
            left |= names
            missed += [] if names else ["/".join(map(str, place))]
    return {"edited": edited, "found": found, "missed": missed, "not_derived": sorted(left)}


def edit_page(folder: Path, name: str, every: int) -> dict[str, Any]:
    """Edit the last digit of every figure that a page shows in a table or a tile."""
    path = folder / name
    whole = path.read_text("utf-8")
    shown = list(SHOWN.finditer(whole))[::every]
    found = 0
    for match in shown:
        digit = str((int(match[0][-1]) + 5) % 10)
        path.write_text(whole[: match.end() - 1] + digit + whole[match.end() :], "utf-8")
        checks = (("pages", verify.pages), ("index", verify.index))
        found += not verify.verify(folder, checks).passed
    path.write_text(whole, "utf-8")
    left = verify.verify(folder, (("pages", verify.pages),)).checks[0].detail
    tables = left.partition("not compared: ")[2]
    whole_page = found == len(shown)
    return {"edited": len(shown), "found": found, "missed": [] if whole_page or tables else [name],
            "not_derived": [] if whole_page else [tables]}  # fmt: skip


def figures(value: Any, place: Place = ()) -> Iterator[Place]:
    """Yield the place of every number in a file."""
    if isinstance(value, dict | list):
        inner = value.items() if isinstance(value, dict) else enumerate(value)
        for key, part in inner:
            yield from figures(part, (*place, key))
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield place


def edit(value: Any, place: Place) -> None:
    """Move a number by what a table shows: a count by one."""
    for key in place[:-1]:
        value = value[key]
    number = value[place[-1]]
    value[place[-1]] = number + 1 if isinstance(number, int) else number + VISIBLE


def table(found: dict[str, Any]) -> str:
    lines = [f"{'run':<19}{'file':<32}{'edited':>7}{'found':>7}{'missed':>7}  not derived"]
    for row in found["rows"]:
        lines.append(
            f"{row['run']:<19}{row['file']:<32}{row['edited']:>7}{row['found']:>7}"
            f"{len(row['missed']):>7}  {', '.join(row['not_derived'])}"
        )
        lines += [f"    missed: {place}" for place in row["missed"]]
    return "\n".join(lines)
