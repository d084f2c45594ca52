"""The threshold explorer for rendered pages: works offline, without a kernel and under a policy.

The page holds counts per class and level (or the curve of a single-label run), a script that
turns them into words and curves, and a button that downloads the edited recommendation. The data
is text to the page, never markup.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
from pathlib import Path
from typing import Any

from workbench.decide.levels import LevelCounts
from workbench.decide.recommendation import Thresholds, UnknownThreshold

FOLDER = Path(__file__).parent
POLICY = (
    "default-src 'none'; img-src data:; base-uri 'none'; form-action 'none'; "
    "script-src 'sha256-{script}'; style-src 'sha256-{style}' 'sha256-{page}'"
)
PAGE_STYLE = "body{margin:0;padding:0 1.5rem 3rem;background:#fff}h1{font:600 1.8rem system-ui}"


def fragment(
    counts: LevelCounts | None,
    thresholds: Thresholds | UnknownThreshold,
    command: str,
    *,
    identity: str = "1",
) -> str:
    """Return the explorer as a piece of a page; its <script> needs its hash in the policy.

    `command` applies the downloaded file; `identity` tells two explorers on a page apart. A
    single-label run has no counts.
    """
    name = _name(thresholds)
    data = explorer_data(counts, thresholds, command, identity)
    return (
        f"<style>{_read('explorer.css')}</style>{_read(f'{name}.html').strip()}"
        f'<script type="application/json">{script_json(data)}</script>'
        f"<script>{_read(f'{name}.js')}</script>"
    )


def page(
    counts: LevelCounts | None, thresholds: Thresholds | UnknownThreshold, command: str, title: str
) -> str:
    """Return the explorer as a page of its own, which lets nothing run or load but itself."""
    policy = POLICY.format(
        script=_hash(_read(f"{_name(thresholds)}.js")),
        style=_hash(_read("explorer.css")),
        page=_hash(PAGE_STYLE),
    )
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(title)}</title><style>{PAGE_STYLE}</style></head>"
        f"<body><h1>{html.escape(title)}</h1>{fragment(counts, thresholds, command)}</body></html>"
    )


def explorer_data(
    counts: LevelCounts | None,
    thresholds: Thresholds | UnknownThreshold,
    command: str,
    identity: str,
) -> dict[str, Any]:
    """Gather what the script needs: numbers, the recommendation and the command."""
    data = {
        "id": identity,
        "command": command,
        "recommendation": thresholds.model_dump(mode="json"),
    }
    if isinstance(thresholds, UnknownThreshold):
        curve = thresholds.curve.astype(object).where(thresholds.curve.notna(), None)
        return {**data, "curve": curve.to_dict("records")}
    pairs = zip(counts.positives.tolist(), counts.negatives.tolist(), strict=True)
    return {
        **data,
        "integers": thresholds.quantization.separable().tolist(),
        "classes": [list(pair) for pair in pairs],
    }


def script_json(value: Any) -> str:
    """Write JSON that stays data inside a <script> element, whatever the names in it."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _name(thresholds: Thresholds | UnknownThreshold) -> str:
    return "unknown_explorer" if isinstance(thresholds, UnknownThreshold) else "explorer"


def _read(name: str) -> str:
    return (FOLDER / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode("ascii")
