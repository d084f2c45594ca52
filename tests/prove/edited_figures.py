"""Does verify find every figure that somebody edits and seals again?

On drawn runs of both tasks, with and without groups, and on a finished `outputs/demo` where there
is one: every number in the files that 06 and 09 show, also those inside sentences, and every number
of the pages of 06, 09 and the index is changed, one at a time, with everything sealed again. What
verify says it does not derive is counted apart, by name.

    python -m tests.prove edited_figures
"""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.run_doubles import make_run
from workbench.deploy import verify
from workbench.deploy.verify import pages
from workbench.deploy.verify.agreement import MismatchError, compare
from workbench.deploy.verify.findings import FIGURES
from workbench.deploy.verify.folder import MALFORMED

KINDS: dict[str, dict[str, Any]] = {
    "several labels": {},
    "folded thresholds": {"tflite_export": {"fold_thresholds": True}},
    "single label": {"task": "single_label"},
    "precision floor": {"threshold_search": {"objective": "precision_floor"}},
    "platt": {"calibration": {"method": "platt"}},
}
VISIBLE = 0.001  # the last digit that tables show
NUMBER = re.compile(r"(?<![\w.])\d+(?:\.\d+)?(?![\w])")
SHOWN = re.compile(
    "<td[^>]*>.*?</td>|<b>[^<]*</b><span>|<small>.*?</small>|<li>.*?</li>", re.DOTALL
)
WORDS = {
    "reads",
    "writes",
    "takes",
    "question",
    "default",
    "why",
}  # about the notebook, not the run
Place = tuple[str | int, ...]


def run(*, every: int = 1) -> dict[str, Any]:
    """Edit every figure, or one in `every`, of drawn runs and of the demo."""
    with tempfile.TemporaryDirectory(prefix="workbench_edits_") as name:
        rows = []
        for kind, settings in KINDS.items():
            for clips in (None, 25):
                called = kind if clips is None else f"{kind}, clips"
                folder = make_run(Path(name) / called.replace(" ", "_"), settings, clips=clips)
                rows += edit_run(folder, called, every)
        if (demo := Path("outputs/demo")).exists():
            rows += edit_run(Path(shutil.copytree(demo, Path(name) / "demo")), "demo", every)
    return {"rows": rows}


def edit_run(folder: Path, kind: str, every: int) -> list[dict[str, Any]]:
    """Edit the figures of each file and page of a run, and say how many edits were found."""
    before = verify.verify(folder)
    if not before.passed:
        raise RuntimeError(before.text)
    bundle, found = verify.Bundle(folder), {}
    for name, (derive, needed) in FIGURES.items():
        if name.endswith(".json") and all(bundle.has(one) for one in (name, *needed)):
            stated = bundle.json(name)
            found[name] = edit_tree(stated, derive(bundle, stated), every, bundle.folder / name)
    for page, (key, derive) in pages.PANELS.items():
        stated = pages.panel(bundle, page, key)
        found[f"{page}, {key}"] = edit_tree(stated, derive(bundle, stated), every)
    for page in pages.PAGES:
        found[page] = edit_page(bundle, page, every)
    return [{"run": kind, "file": name, **one} for name, one in found.items()]


def edit_tree(
    stated: Any, derived: Any, every: int, path: Path | None = None
) -> dict[str, Any]:  # fmt: skip
    """Hold every edit against what verify derives, and what is left against the pages.

    Figures that only a page gives away, which repeats them or the file's hash, are named.
    """
    edited, found, left, missed = 0, 0, set(), []
    whole = json.dumps(stated)
    for place in list(figures(stated))[::every]:
        changed = json.loads(whole)
        edit(changed, place)
        edited += 1
        try:
            _, not_derived = compare("", changed, derived)
        except MismatchError:
            found += 1
        else:
            names = {text.split(", ")[-1] for text in not_derived} & set(place)
            left |= names
            if path and _on_no_page_any_more(path, changed):
                found += 1
            elif not names:
                missed.append("/".join(map(str, place)))
    return {"edited": edited, "found": found, "missed": missed, "not_derived": sorted(left)}


def _on_no_page_any_more(path: Path, changed: Any) -> bool:
    """Tell whether the pages show something else than a file that was changed."""
    whole = path.read_bytes()
    path.write_text(json.dumps(changed), "utf-8")
    found = _fails(pages.pages, verify.Bundle(path.parent))
    path.write_bytes(whole)
    return found


def edit_page(bundle: verify.Bundle, name: str, every: int) -> dict[str, Any]:
    """Change a digit of every number in a table, a tile or a caution of a page."""
    path = bundle.folder / name
    whole = path.read_text("utf-8")
    places = [match.start() + number.end() - 1 for match in SHOWN.finditer(whole)
              for number in NUMBER.finditer(re.sub("<[^>]*>", _blank, match[0]))]  # fmt: skip
    edited, found, missed, left = 0, 0, [], set()
    for place in places[::every]:
        digit = str((int(whole[place]) + 5) % 10)
        path.write_text(whole[:place] + digit + whole[place + 1 :], "utf-8")
        column = _column(whole, path.read_text("utf-8"))
        edited += 1
        if _fails(pages.pages, bundle, [name]) or _fails(pages.index, bundle):
            found += 1
        elif column in WORDS:
            left.add(column)
        else:
            missed.append(f"{column}: {whole[place - 20 : place + 1]}")
    path.write_text(whole, "utf-8")
    return {"edited": edited, "found": found, "missed": missed, "not_derived": sorted(left)}


def _blank(tag: re.Match) -> str:
    return " " * len(tag[0])


def _fails(check: Callable, *asked: Any) -> bool:
    try:
        check(*asked)
    except (MismatchError, *MALFORMED):
        return True
    return False


def _column(before: str, after: str) -> str | None:
    """Name the column of the one cell in which two pages differ; None where it is in no table."""
    tables = (pages.page_tables(page) for page in (before, after))
    for (head, rows), (_, others) in zip(*tables, strict=True):
        for row, other in zip(rows, others, strict=True):
            for name, one, two in zip(head, row, other, strict=True):
                if one != two:
                    return name.lower()
    return None


def figures(value: Any, place: Place = ()) -> Iterator[Place]:
    """Yield the place of every number in a file; those in a sentence by where they end."""
    if isinstance(value, dict | list):
        inner = value.items() if isinstance(value, dict) else enumerate(value)
        for key, part in inner:
            yield from figures(part, (*place, key))
    elif isinstance(value, str) and not value.startswith("data:"):
        yield from ((*place, match.end()) for match in NUMBER.finditer(value))
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield place


def edit(value: Any, place: Place) -> None:
    """Move a number by what a table shows: a count by one, a digit in a sentence by five."""
    *outer, key = place
    for number, one in enumerate(outer):
        if isinstance(value[one], str):
            text, end = value[one], place[number + 1]
            value[one] = f"{text[: end - 1]}{(int(text[end - 1]) + 5) % 10}{text[end:]}"
            return
        value = value[one]
    value[key] = value[key] + 1 if isinstance(value[key], int) else value[key] + VISIBLE


def table(found: dict[str, Any]) -> str:
    lines = [f"{'run':<26}{'file':<44}{'edited':>7}{'found':>7}{'missed':>7}  not derived"]
    for row in found["rows"]:
        lines.append(
            f"{row['run']:<26}{row['file']:<44}{row['edited']:>7}{row['found']:>7}"
            f"{len(row['missed']):>7}  {', '.join(row['not_derived'])}"
        )
        lines += [f"    missed: {place}" for place in row["missed"]]
    return "\n".join(lines)
