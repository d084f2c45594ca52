"""A page of finished HTML that a browser opens offline: no request, no script but our own."""

from __future__ import annotations

import base64
import hashlib
import html
from collections.abc import Iterable

POLICY = (
    "default-src 'none'; img-src data:; style-src 'unsafe-inline'; font-src data:; "
    "base-uri 'none'; form-action 'none'; script-src {hashes}"
)
STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;color:#1f2933;max-width:64rem;margin:2rem auto;"
    "padding:0 1.5rem}table{border-collapse:collapse;margin:1rem 0}"
    "th,td{padding:.3rem .9rem .3rem 0;border-bottom:1px solid #d9dee5;text-align:right;"
    "font-variant-numeric:tabular-nums}th:first-child,td:first-child{text-align:left;"
    "overflow-wrap:anywhere}th{color:#52606d;font-weight:600}img{max-width:100%}"
    ".better{color:#1a7f4b;font-weight:650}.worse{color:#b42318;font-weight:650}"
    ".differs,small{color:#52606d}.wide{overflow-x:auto}.wide td{white-space:nowrap}"
    ".runs :is(td,th):is(:nth-child(2),:nth-child(3),:nth-child(8)){text-align:left}"
    ".runs td:is(:nth-child(2),:nth-child(3),:nth-child(8)){white-space:normal;min-width:14rem}"
    "h1{overflow-wrap:anywhere;line-height:1.2}@media(max-width:30rem){body{padding:0 1rem}}"
)


def policy(scripts: Iterable[str], *, wasm: bool = False) -> str:
    """Allow the scripts of our own that we put in, and no other."""
    hashes = "'wasm-unsafe-eval' " * wasm
    hashes += " ".join(f"'sha256-{_base64_digest(text)}'" for text in scripts) or "'none'"
    return f'<meta http-equiv="Content-Security-Policy" content="{POLICY.format(hashes=hashes)}">'


def _base64_digest(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode()


def document(title: str, body: str, scripts: Iterable[str] = (), *, wasm: bool = False) -> str:
    """Wrap finished HTML; of its scripts only those named here may run."""
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f"{policy(scripts, wasm=wasm)}"
        f'<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(title)}</title><style>{STYLE}</style></head><body>{body}</body></html>"
    )


def html_table(heads: Iterable[str], rows: Iterable[Iterable[str]], kind: str = "wide") -> str:
    """Build a table of plain text: every cell is escaped."""
    head = "".join(f'<th scope="col">{html.escape(one)}</th>' for one in heads)
    body = "".join(
        "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows
    )
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    return f'<div class="{kind}">{table}</div>'
