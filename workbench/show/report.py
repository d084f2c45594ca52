"""Pages for a reviewer who has nothing but a browser: every notebook; the index is in `index`.

Offline and inert: no request leaves the page, and no script runs but our own, whose hash the
page's content security policy names. Whatever a class or file is called, it stays text.
"""

from __future__ import annotations

import hashlib
import html
import re
import sys
from pathlib import Path
from typing import Any

from workbench.show.page import policy
from workbench.show.panel import MIME, SCRIPTS, fragment
from workbench.steps import STEPS, Step

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


# Answers before code: code, knobs and long logs are folded, a traceback too, as its message leads.
TEMPLATE = """
{%- extends 'lab/index.html.j2' -%}
{%- block input_group -%}
<details class="code"><summary>Code</summary>{{ super() }}</details>
{%- endblock -%}
{%- block output_group -%}
{%- if 'knobs(' in cell.source -%}
<details class="settings"><summary>Settings of this step</summary>{{ super() }}</details>
{%- else -%}{{ super() }}{%- endif -%}
{%- endblock -%}
{%- block stream_stdout -%}
{%- if output.text.strip().count('\n') >= 4 -%}
<details class="log"><summary>Log</summary>{{ super() }}</details>
{%- else -%}{{ super() }}{%- endif -%}
{%- endblock -%}
{%- block error -%}
<details class="trace"><summary>Traceback</summary>{{ super() }}</details>
{%- endblock -%}
"""
ANSWER = "answer"  # tag of a cell whose output answers the question of its notebook
HEADING = re.compile(r'<h2 id="([^"]*)"[^>]*>(.*?)</h2>', re.DOTALL)
TAG = re.compile(r"<[^>]*>")


def render_notebook(executed: Path, step: Step) -> str:
    """Render an executed notebook, also one that broke half-way, with its figures and panels."""
    import nbformat

    text = _without_places(executed.read_text(encoding="utf-8"), executed)
    book = nbformat.reads(text, as_version=4)
    book.metadata.pop("widgets", None)  # their state is for Lab; what lives on here is a panel
    _put_answers_first(book)
    own, scripts = _take_own_outputs(book, hashlib.sha256(text.encode("utf-8")).hexdigest())
    page = SCRIPT_ELEMENT.sub("", _export(book))
    for token, piece in own.items():
        page = page.replace(f"<pre>{token}</pre>", piece)
    page = page.replace("<body", f"<body data-step='{step.number}'", 1)
    body = page.index(">", page.index("<body")) + 1
    page = page[:body] + _navigation(step) + _failure(book) + _contents(page) + page[body:]
    title = f"<title>{html.escape(step.title)}</title>"
    page = re.sub(r"<title>.*?</title>", lambda _: title, page, count=1, flags=re.DOTALL)
    style = f"<style>{STYLE.read_text(encoding='utf-8')}</style>"
    page = page.replace("<head>", "<head>" + policy(scripts), 1)
    return page.replace("</head>", style + "</head>", 1)


def _put_answers_first(book: Any) -> None:
    """Move the cells that answer the notebook's question up to its title."""
    found = [cell for cell in book.cells if ANSWER in cell.metadata.get("tags", ())
             and cell.get("outputs")]  # fmt: skip
    rest = [cell for cell in book.cells if not any(cell is one for one in found)]
    book.cells = [*rest[:1], *found, *rest[1:]]


def _failure(book: Any) -> str:
    """Say in one box why the notebook ended early; the message holds rule and remedy."""
    for output in (one for cell in book.cells for one in cell.get("outputs", ())):
        if output.output_type == "error":
            name, words = html.escape(str(output.ename)), html.escape(str(output.evalue))
            return f'<div class="failure" role="alert"><b>{name}</b><p>{words}</p></div>'
    return ""


def _contents(page: str) -> str:
    links = [f'<li><a href="#{name}">{TAG.sub("", words).replace("¶", "").strip()}</a></li>'
             for name, words in HEADING.findall(page)]  # fmt: skip
    if len(links) < 2:
        return ""
    inside = f"<summary>Contents</summary><ol>{''.join(links)}</ol>"
    return f'<details class="contents">{inside}</details>'


def _without_places(text: str, executed: Path) -> str:
    """Leave out where on this machine it ran: tracebacks name folders and whose they are."""
    for place in (*executed.resolve().parents[3:4], Path(sys.prefix), Path(sys.base_prefix)):
        if place.name:  # not "/", which pictures in base64 hold as well
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
    exporter.raw_template = TEMPLATE
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
