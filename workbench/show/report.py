"""Pages for a reviewer who has nothing but a browser: every notebook, and an index over them.

Offline and inert: no request leaves the page, and no script runs but our own, whose hash the
page's content security policy names. Whatever a class or file is called, it stays text.
"""

from __future__ import annotations

import base64
import hashlib
import html
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from urllib.parse import quote

from workbench import status
from workbench.artifacts import AuditAnswer, Figure, TestFigures, Training
from workbench.cautions import cautions
from workbench.errors import InputError
from workbench.files import is_plain_file, sha256
from workbench.run import zip_of
from workbench.settings import PHONE_FILE, Product
from workbench.show.page import policy
from workbench.show.panel import MIME, SCRIPTS, fragment
from workbench.steps import STEPS, Step, mandatory

Records = dict[Step, dict[str, Any]]  # what status.json says of every step
WIDGET = "application/vnd.jupyter.widget-view+json"
STYLE = Path(__file__).with_name("report.css")
HOME = re.compile(r"(?:/home/|/Users/)[^/\s\"'\\]+(?=/)|(?<![\w.])/root(?=/)")
SCRIPT_ELEMENT = re.compile(r"<script\b.*?</script\s*>", re.DOTALL | re.IGNORECASE)
# What Markdown and our tables are made of; everything else in an output becomes text.
TAGS = {
    "a", "abbr", "b", "blockquote", "br", "code", "div", "em", "figcaption", "figure", "h1", "h2",
    "h3", "h4", "hr", "i", "img", "li", "ol", "p", "pre", "small", "span", "strong", "sub", "sup",
    "table", "tbody", "td", "th", "thead", "tr", "ul",
}  # fmt: skip
ATTRIBUTES = {
    "*": ["class", "id"],
    "a": ["href", "title"],
    "img": ["alt", "height", "src", "title", "width"],
    "td": ["align", "colspan", "rowspan"],
    "th": ["align", "colspan", "rowspan", "scope"],
}


def render_notebook(executed: Path, step: Step) -> str:
    """Render an executed notebook, also one that broke half-way, with its figures and panels."""
    import nbformat

    text = _without_places(executed.read_text(encoding="utf-8"), executed)
    book = nbformat.reads(text, as_version=4)
    book.metadata.pop("widgets", None)  # their state is for Lab; what lives on here is a panel
    own, scripts = _take_own_outputs(book, hashlib.sha256(text.encode("utf-8")).hexdigest())
    page = SCRIPT_ELEMENT.sub("", _export(book))
    for token, piece in own.items():
        page = page.replace(f"<pre>{token}</pre>", piece)
    page = page.replace("<body", f"<body data-step='{step.number}'", 1)
    body = page.index(">", page.index("<body")) + 1
    page = page[:body] + _navigation(step) + page[body:]
    title = f"<title>{html.escape(step.title)}</title>"
    page = re.sub(r"<title>.*?</title>", lambda _: title, page, count=1, flags=re.DOTALL)
    style = f"<style>{STYLE.read_text(encoding='utf-8')}</style>"
    page = page.replace("<head>", "<head>" + policy(scripts), 1)
    return page.replace("</head>", style + "</head>", 1)


def _without_places(text: str, executed: Path) -> str:
    """Leave out where on this machine it ran: tracebacks name folders and whose they are."""
    for place in (*executed.resolve().parents[3:4], Path(sys.prefix), Path(sys.base_prefix)):
        text = text.replace(f"{place}/", "")
    return HOME.sub("~", text)


def _take_own_outputs(book: Any, digest: str) -> tuple[dict[str, str], list[str]]:
    """Replace our outputs by words that only we can know; return what stands there, and scripts.

    The words hold the digest of the notebook, which no text inside it can.
    """
    own: dict[str, str] = {}
    scripts: dict[str, str] = {}
    for output in (one for cell in book.cells for one in cell.get("outputs", ())):
        data = output.get("data", {})
        panel = data.get(MIME)
        if isinstance(panel, dict) and panel.get("module") in SCRIPTS:
            piece = fragment(panel)
            scripts[panel["module"]] = SCRIPTS[panel["module"]]
        elif WIDGET in data:
            piece = "<p class='live-only'>A control lives here in JupyterLab.</p>"
        elif "image/png" in data:
            piece = _figure(data["image/png"], output.get("metadata", {}).get("image/png", {}))
        else:
            continue
        token = f"{digest}-{len(own)}"
        own[token] = piece
        output["data"] = {"text/plain": token}
    return own, list(scripts.values())


def _figure(png: str, metadata: dict[str, Any]) -> str:
    alt = html.escape(str(metadata.get("alt") or "A figure without a description"), quote=True)
    return f'<img alt="{alt}" src="data:image/png;base64,{html.escape(png, quote=True)}">'


def _export(book: Any) -> str:
    from nbconvert import HTMLExporter
    from nbconvert.preprocessors import CoalesceStreamsPreprocessor

    exporter = HTMLExporter(
        template_name="lab", sanitize_html=True, embed_images=True, mathjax_url="",
        require_js_url="", jquery_url="", mermaid_js_url="",
    )  # fmt: skip
    exporter.register_filter("clean_html", _clean)
    exporter.register_preprocessor(CoalesceStreamsPreprocessor, enabled=True)  # prints are one text
    page, _ = exporter.from_notebook_node(book)
    return page


def _clean(element: str | bytes) -> str:
    import bleach

    text = element.decode() if isinstance(element, bytes) else str(element)
    return bleach.clean(text, tags=TAGS, attributes=ATTRIBUTES)


def _navigation(step: Step) -> str:
    place = STEPS.index(step)
    links = ['<a href="index.html">All steps</a>']
    if place > 0:
        links.append(_link(STEPS[place - 1], "←"))
    if place + 1 < len(STEPS):
        links.append(_link(STEPS[place + 1], "→"))
    return f'<nav class="steps" aria-label="Steps">{" ".join(links)}</nav>'


def _link(step: Step, arrow: str) -> str:
    return f'<a href="{step.page}">{arrow} {html.escape(step.title)}</a>'


def render_index(folder: Path) -> str:
    """Render the one page that says how the run ended and where to look."""
    records = {step: status.state_of(folder, step) for step in STEPS}
    name = html.escape(folder.name)
    body = "".join(
        [
            f"<h1>{name}</h1><p class='lead'>{html.escape(_headline(folder, records))}</p>",
            _handover(folder, records),
            _figures(folder),
            _cautions(folder),
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


def _figures(folder: Path) -> str:
    try:
        test = TestFigures.read_if_there(folder).test
    except InputError as error:
        return f"<p>{html.escape(str(error))}</p>"
    if not test.overall:
        return ""
    tiles = [_tile(title, test.overall[key]) for title, key in HEADLINES if key in test.overall]
    shipped = _product(folder).title.capitalize()
    note = f"{shipped} on the test split, 95 % intervals; {html.escape(test.macro_means)}."
    return f"<div class='tiles'>{''.join(tiles)}</div><p>{note}</p>"


def _cautions(folder: Path) -> str:
    items = "".join(f"<li>{html.escape(line)}</li>" for line in cautions(folder))
    return f"<h2>Mind</h2><ul class='cautions'>{items}</ul>" if items else ""


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
    state = record["state"] + (f": {record['reason']}" if "reason" in record else "")
    state += f"; accepted {record['accepted']}" if "accepted" in record else ""
    seconds = f"{record['seconds']:.0f} s" if "seconds" in record else ""
    mark = f"<span class='state {record['state']}'>{html.escape(state)}</span>"
    return [linked, html.escape(step.question), mark, seconds]


def _files_table(folder: Path, records: Records) -> str:
    hashes = _recorded(records)
    due = mandatory(_product(folder))
    names = [*due, *sorted(set(hashes) - set(due))]
    rows = [_file_row(folder / name, hashes) for name in names if is_plain_file(folder / name)]
    return "<h2>Files</h2>" + _table(("File", "Size", "sha256"), rows, "files")


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
    return f"<table class='{name}'><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _pictures(folder: Path, records: Records) -> str:
    """Show the pictures that a step recorded and that are still as it left them."""
    named = {folder / name: digest for name, digest in sorted(_recorded(records).items())
             if name.endswith(".png")}  # fmt: skip
    shown = [_picture(path) for path, digest in named.items()
             if is_plain_file(path) and sha256(path) == digest]  # fmt: skip
    return f"<h2>Pictures</h2><div class='pictures'>{''.join(shown)}</div>" if shown else ""


def _picture(path: Path) -> str:
    data = base64.b64encode(path.read_bytes()).decode()
    title = html.escape(path.stem.replace("_", " "))
    image = f"<img alt='{title}' src='data:image/png;base64,{data}'>"
    return f"<figure>{image}<figcaption>{title}</figcaption></figure>"
