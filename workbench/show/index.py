"""The first page of a run, for a reviewer: verdict, what it is, class by class, how it was made.

Every figure is read from the files of the run folder and is derived again by `verify`. Whatever a
class or file is called, it stays text; pictures are shown where they are as a step left them.
"""

from __future__ import annotations

import base64
import html
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from workbench import status
from workbench.artifacts import AuditAnswer, Figure, TestedClass, TestFigures, Training
from workbench.decide.verdict import OUTLOOK, Reason
from workbench.errors import InputError
from workbench.evidence import Judged
from workbench.files import is_plain_file, sha256
from workbench.run import zip_of
from workbench.settings import PHONE_FILE, Product
from workbench.show.facts import run_facts
from workbench.show.final import EXAMPLES, EXAMPLES_A_ROW, MOST_EXAMPLES
from workbench.show.page import policy
from workbench.show.report import STYLE
from workbench.steps import STEPS, Step, mandatory

Records = dict[Step, dict[str, Any]]  # what status.json says of every step
MISTAKES = "error_gallery.png"
STATES = {"ok": "done"}  # a step that ended well is done, which says nothing of its result


def render_index(folder: Path) -> str:
    """Render the one page that says what came out and where to look."""
    records = {step: status.state_of(folder, step) for step in STEPS}
    name = html.escape(folder.name)
    try:
        verdict, result = _verdict(folder), _result(folder, records)
    except InputError as error:  # a damaged file is named where its figures would stand
        verdict, result = f"<p>{html.escape(str(error))}</p>", ""
    body = "".join(
        [
            f"<h1>{name}</h1>{verdict}{_handover(folder, records)}{result}",
            f"<h2>Steps</h2><p class='lead'>{html.escape(_headline(folder, records))}</p>",
            _steps_table(folder / "html", records),
            _files_table(folder, records),
            _pictures(folder, records),
        ]
    )
    style = STYLE.read_text(encoding="utf-8")
    return (
        f"<!doctype html><html lang='en'><head><meta charset='utf-8'>{policy(())}"
        "<meta name='viewport' content='width=device-width, initial-scale=1'>"
        f"<title>{name}</title><style>{style}</style></head>"
        f"<body class='index'><main>{body}</main></body></html>"
    )


def _result(folder: Path, records: Records) -> str:
    """Show what the verdict stands on, as far as 09 has come."""
    found = TestFigures.read_if_there(folder)
    if not found.test.overall:
        return ""
    return "".join(
        [
            _figures(folder, found),
            _about(folder),
            _classes(folder, records, found.test.classes),
            _mistakes(folder, records),
        ]
    )


def _headline(folder: Path, records: Records) -> str:
    done = ("ok", "skipped")
    open_steps = [step.title for step, record in records.items() if record["state"] not in done]
    if not open_steps:
        skipped = ", ".join(step.number for step in records if records[step]["state"] == "skipped")
        every = f"All steps but {skipped}" if skipped else "All nine steps"
        return f"{every} are done. Read 09 first; the others say why."
    done = len(records) - len(open_steps)
    try:
        audit = AuditAnswer.read_if_there(folder)
    except InputError as error:
        return str(error)
    if not audit.fit:
        return f"{done} of {len(records)} steps are done. The dataset is {audit.words}."
    return f"{done} of {len(records)} steps are done. Next: {open_steps[0]}."


def _handover(folder: Path, records: Records) -> str:
    """Link the zip that a finished run makes right after this page."""
    if any(record["state"] not in ("ok", "skipped") for record in records.values()):
        return ""
    link = f"<a href='../{quote(zip_of(folder).name)}'>{html.escape(zip_of(folder).name)}</a>"
    return f"<p class='handover'><b>Hand over</b> {link}: what an app developer needs.</p>"


HEADLINES = (
    ("F1 macro", "f1_macro"),
    ("F1 micro", "f1_micro"),
    ("Precision", "precision_macro"),
    ("Recall", "recall_macro"),
    ("mAP", "map"),
)


def _verdict(folder: Path) -> str:
    """Say first whether it may be handed on, then what speaks against it; the rest is folded."""
    found = Judged.read_if_there(folder).verdict
    if found is None:
        return "<p class='verdict open'>No verdict yet: 09 gives it.</p>"
    kind = found.grade.replace(" ", "-")
    good = [one for one in found.reasons if one not in found.doubts]
    folded = (
        f"<details><summary>What speaks for it ({len(good)})</summary>{_reasons(good)}</details>"
    )
    return (
        f"<p class='verdict {kind}'><b>{found.grade}</b> {OUTLOOK[found.grade]}</p>"
        f"{_reasons(found.doubts)}{folded if good else ''}"
    )


def _reasons(reasons: Sequence[Reason]) -> str:
    rows = (
        f"<li class='{one.grade.replace(' ', '-')}'><b>{html.escape(one.rule)}</b> "
        f"{html.escape(one.words)}</li>"
        for one in reasons
    )
    return f"<ul class='reasons'>{''.join(rows)}</ul>" if reasons else ""


def _figures(folder: Path, found: TestFigures) -> str:
    overall = found.test.overall
    tiles = [_tile(title, overall[key]) for title, key in HEADLINES if key in overall]
    shipped = _product(folder).title.capitalize()
    note = f"{shipped} on the test split, 95 % intervals; {html.escape(found.test.macro_means)}."
    return f"<div class='tiles'>{''.join(tiles)}</div><p class='lead'>{note}</p>"


def _about(folder: Path) -> str:
    rows = ([name, html.escape(words)] for name, words in run_facts(folder))
    return f"<h2>What it is</h2>{_table(('About', 'This run'), rows, 'about')}"


def _classes(folder: Path, records: Records, classes: Sequence[TestedClass]) -> str:
    """Show each class with the test photo it is surest of, and F1 as a bar with its interval."""
    sheet = folder / EXAMPLES
    shown = _is_as_left(sheet, records)
    style = ""
    if shown:
        data = base64.b64encode(sheet.read_bytes()).decode()
        rows = -(-min(len(classes), MOST_EXAMPLES) // EXAMPLES_A_ROW)
        style = (
            f"<style>.example{{background-image:url(data:image/jpeg;base64,{data});"
            f"background-size:{EXAMPLES_A_ROW * 100}% {rows * 100}%}}</style>"
        )
    rows = [_class_row(place, one, shown, len(classes)) for place, one in enumerate(classes)]
    heads = ("Class", "F1", "", "Test photos", "Found", "Missed", "Wrongly said")
    about = "The photo is the one of test that has the class and scored highest." if shown else ""
    table = _table(heads, rows, "classes")
    return f"<h2>What it recognises</h2><p class='lead'>{about}</p>{style}{table}"


def _class_row(place: int, one: TestedClass, shown: bool, classes: int) -> list[str]:
    name = f"<span>{html.escape(one.name)}</span>"
    if shown and one.positives and place < MOST_EXAMPLES:
        name = f"<i class='example' style='{_crop(place, classes)}' aria-hidden='true'></i>{name}"
    value = "–" if one.f1 is None else f"{one.f1:.3f}"
    span = " [{:.3f}, {:.3f}]".format(*one.span) if one.span and one.f1 is not None else ""
    counts = (one.positives, one.tp, one.positives - one.tp, one.fp)
    return [name, f"{value}{span}", _bar(one), *map(str, counts)]


def _crop(place: int, classes: int) -> str:
    """Move the sheet of examples so that one of them shows."""
    row, column = divmod(place, EXAMPLES_A_ROW)
    last = -(-min(classes, MOST_EXAMPLES) // EXAMPLES_A_ROW) - 1
    across = 100 * column / (EXAMPLES_A_ROW - 1)
    return f"background-position:{across:.3f}% {100 * row / max(1, last):.3f}%"


def _bar(one: TestedClass) -> str:
    if one.f1 is None:
        return ""
    low, high = one.span or (one.f1, one.f1)
    return (
        f"<i class='bar' aria-hidden='true'><i style='width:{100 * one.f1:.1f}%'></i>"
        f"<i class='reach' style='left:{100 * low:.1f}%;width:{100 * (high - low):.1f}%'></i></i>"
    )


def _mistakes(folder: Path, records: Records) -> str:
    if not _is_as_left(folder / MISTAKES, records):
        return ""
    link = f"<a href='{STEPS[-1].page}'>09</a>"
    more = f"<p class='lead'>Said and not there, or there and not said; filters are in {link}.</p>"
    return f"<h2>The worst mistakes</h2>{more}{_picture(folder / MISTAKES, named=False)}"


def _product(folder: Path) -> Product:
    """Tell what the run hands on; a damaged file is named where its figures would stand."""
    try:
        return Training.read_if_there(folder).product
    except InputError:
        return PHONE_FILE


def _tile(title: str, figure: Figure) -> str:
    value = "–" if figure.value is None else f"{figure.value:.3f}"
    span = "{:.3f} to {:.3f}".format(*figure.interval) if figure.interval else figure.withheld
    words = f"<span>{title}</span><small>{html.escape(span)}</small>"
    return f"<div class='tile'><b>{value}</b>{words}</div>"


def _steps_table(pages: Path, records: Records) -> str:
    rows = [_step_row(pages, step, record) for step, record in records.items()]
    return _table(("Step", "Question", "State", "Time"), rows, "steps")


def _step_row(pages: Path, step: Step, record: dict[str, Any]) -> list[str]:
    name = html.escape(step.title)
    linked = f"<a href='{step.page}'>{name}</a>" if (pages / step.page).exists() else name
    state = STATES.get(record["state"], record["state"])
    state += f": {record['reason']}" if "reason" in record else ""
    state += f"; accepted {record['accepted']}" if "accepted" in record else ""
    seconds = f"{record['seconds']:.0f} s" if "seconds" in record else ""
    mark = f"<span class='state {record['state']}'>{html.escape(state)}</span>"
    return [linked, html.escape(step.question), mark, seconds]


def _files_table(folder: Path, records: Records) -> str:
    hashes = _recorded(records)
    due = mandatory(_product(folder))
    names = [*due, *sorted(set(hashes) - set(due))]
    rows = [_file_row(folder / name, hashes) for name in names if is_plain_file(folder / name)]
    table = _table(("File", "Size", "sha256"), rows, "files")
    return f"<details><summary>Files and their checksums ({len(rows)})</summary>{table}</details>"


def _recorded(records: Records) -> dict[str, str]:
    """Gather what the steps say they left: sha256 by name."""
    return {
        name: digest for one in records.values() for name, digest in one.get("outputs", {}).items()
    }


def _file_row(path: Path, hashes: dict[str, str]) -> list[str]:
    digest = hashes.get(path.name, "")
    size = f"{path.stat().st_size / 1024:,.1f} KiB"
    return [html.escape(path.name), size, f"<code>{html.escape(digest[:16])}</code>"]


def _table(heads: Iterable[str], rows: Iterable[list[str]], name: str) -> str:
    head = "".join(f"<th scope='col'>{html.escape(text)}</th>" for text in heads)
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    inside = f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody>"
    return f"<div class='wide'><table class='{name}'>{inside}</table></div>"


def _pictures(folder: Path, records: Records) -> str:
    """Show the pictures that a step recorded and that are still as it left them."""
    names = sorted(name for name in _recorded(records) if name.endswith(".png"))
    paths = [folder / name for name in names if name != MISTAKES]
    shown = [_picture(path) for path in paths if _is_as_left(path, records)]
    if not shown:
        return ""
    inside = f"<div class='pictures'>{''.join(shown)}</div>"
    return f"<details><summary>All pictures ({len(shown)})</summary>{inside}</details>"


def _is_as_left(path: Path, records: Records) -> bool:
    digest = _recorded(records).get(path.name)
    return bool(digest) and is_plain_file(path) and sha256(path) == digest


def _picture(path: Path, *, named: bool = True) -> str:
    data = base64.b64encode(path.read_bytes()).decode()
    title = html.escape(path.stem.replace("_", " "))
    image = f"<img alt='{title}' src='data:image/png;base64,{data}'>"
    caption = f"<figcaption>{title}</figcaption>" if named else ""
    return f"<figure>{image}{caption}</figure>"
