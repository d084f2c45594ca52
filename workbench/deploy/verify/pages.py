"""The pages of 06, 09 and the index: every cell, slider, caption and tile."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Callable, Sequence
from html.parser import HTMLParser
from typing import Any

from .agreement import MismatchError, compare, same
from .arithmetic import Tree
from .cells import TABLES, UNKNOWN, Kind, Rows, derive_mistakes, derive_sliders, same_cell
from .folder import Bundle
from .names import INDEX, METRICS, PAGE_06, PAGE_09

TITLES = {"F1 macro": "f1_macro", "F1 micro": "f1_micro", "Precision": "precision_macro",
          "Recall": "recall_macro", "mAP": "map"}  # fmt: skip
TILE = re.compile("<div class='tile'><b>(.*?)</b><span>(.*?)</span><small>(.*?)</small>")
VERDICT = re.compile("<p class='verdict [a-z-]+'><b>(.*?)</b>")
REASON = re.compile("<li class='[a-z-]+'><b>(.*?)</b> (.*?)</li>")
PANEL = re.compile(r'<script type="application/json"[^>]*>(.*?)</script>', re.DOTALL)


def pages(bundle: Bundle, names: Sequence[str] = (PAGE_06, PAGE_09, INDEX)) -> str:
    """Derive the tables of 06, 09 and the index, and compare cell by cell."""
    shown = [name for name in names if bundle.has(name)]
    if not shown:
        return "not here: the pages of 06 and 09"
    figures, left = 0, set()
    for name in shown:
        missing = set(PAGES[name])
        for head, rows in page_tables(bundle.bytes(name).decode("utf-8")):
            head = [text.lower() for text in head]
            kind = tuple(head[:2])
            missing.discard(kind)
            columns = TABLES[kind](bundle, rows) if kind in TABLES else {}
            figures += _compare_table(name, head, rows, columns)
            left |= {one for one in head if one not in columns}
        if missing:
            raise MismatchError(f"{name} lacks the table of {' and '.join(missing.pop())}")
    return f"{figures} cells of {len(shown)} pages; not compared: {', '.join(sorted(left))}"


def _compare_table(page: str, head: list[str], rows: list[list[str]], columns: Tree) -> int:
    """Compare the cells of a table with its columns as far as they are known."""
    compared = 0
    for name, values in columns.items():
        same(f"{page}: columns named {name}", head.count(name), 1)
        same(f"{page}: rows under {name}", len(rows), len(values))
        for row, value in zip(rows, values, strict=True):
            if value is not UNKNOWN:
                same_cell(f"{page}: {name} of {row[0]}", row[head.index(name)], value)
                compared += 1
    return compared


class _Tables(HTMLParser):
    """Collects the text of every table, row by row."""

    def __init__(self) -> None:
        super().__init__()
        self.tables: list[list[list[str]]] = []
        self.inside = False

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        if tag == "table":
            self.tables.append([])
        elif tag == "tr" and self.tables:
            self.tables[-1].append([])
        elif tag in ("td", "th") and self.tables and self.tables[-1]:
            self.tables[-1][-1].append("")
            self.inside = True

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th"):
            self.inside = False

    def handle_data(self, data: str) -> None:
        if self.inside:
            self.tables[-1][-1][-1] += data.strip()


def page_tables(page: str) -> list[tuple[list[str], Rows]]:
    """Return the tables of a page: names of the columns, and rows of cells, all text."""
    parser = _Tables()
    parser.feed(page)
    return [(rows[0], rows[1:]) for rows in parser.tables if rows]


def panels(bundle: Bundle) -> str:
    """Compare what sliders and gallery hold as data with what is derived."""
    shown = {page: asked for page, asked in PANELS.items() if bundle.has(page)}
    figures = 0
    for page, (key, derive) in shown.items():
        stated = panel(bundle, page, key)
        figures += compare(page, stated, derive(bundle, stated))[0]
    return f"{figures} figures of sliders and gallery" if shown else "not here: 06 and 09"


def panel(bundle: Bundle, page: str, key: str) -> Tree:
    """Return the data of a panel, which is told from others by a key in it."""
    held = (json.loads(data) for data in PANEL.findall(bundle.bytes(page).decode("utf-8")))
    found = next((one for one in held if key in one), None)
    if found is None:
        raise MismatchError(f"{page} holds no {key}")
    return found


def index(bundle: Bundle) -> str:
    """Compare the verdict of the index, its reasons and its first figures."""
    if not (bundle.has(INDEX) and bundle.has(METRICS)):
        return f"not here: {INDEX}"
    page, test = bundle.bytes(INDEX).decode("utf-8"), bundle.json(METRICS)["test"]
    tiles = TILE.findall(page)
    same(f"{INDEX}: figures", {title for _, title, _ in tiles}, set(TITLES))
    for value, title, span in tiles:
        stated = test["overall"][TITLES[title]]
        same_cell(f"{INDEX}: {title}", value, stated["value"])
        ends = stated["interval"] or html.escape(stated["withheld"])
        same_cell(f"{INDEX}: interval of {title}", span, ends)
    same(f"{INDEX}: note", html.escape(test["macro_means"]) in page, True)
    found = bundle.json(METRICS)["verdict"]
    same(f"{INDEX}: verdict", VERDICT.findall(page), [found["grade"]])
    said = [tuple(map(html.unescape, one)) for one in REASON.findall(page)]
    wanted = [(one["rule"], one["words"]) for one in found["reasons"]]
    same(f"{INDEX}: reasons of the verdict", said, wanted)
    return f"{len(tiles)} figures on the index; the verdict is {found['grade']}"


PAGES: dict[str, tuple[Kind, ...]] = {
    PAGE_06: (("thresholds", "f1_macro"), ("class", "error before")),
    PAGE_09: (("figure", "value"), ("class", "positives"), ("cost of", "figure")),
    INDEX: (("about", "this run"), ("class", "f1")),
}  # and the tables that must be there
PANELS: dict[str, tuple[str, Callable[[Bundle, Tree], Tree]]] = {
    PAGE_06: ("recommendation", derive_sliders),
    PAGE_09: ("pictures", derive_mistakes),
}
