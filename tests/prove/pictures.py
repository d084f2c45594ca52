"""Draw the pictures of the README anew from a finished run: its verdict, and a slider that moves.

python -m tests.prove pictures run_folder=outputs/demo
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tests.browser import chromium

DOCS = Path(__file__).parents[2] / "docs"
FRAMES, MILLISECONDS, REACH = 14, 220, 24
VIEW = {"width": 1040, "height": 760}
WIDTH, TALL = 700, 540  # of a picture in the README


def run(*, run_folder: str = "", folder: str = "") -> dict[str, Any]:
    """Write both pictures into `folder`, the repository's docs without one."""
    if not run_folder:
        return {"skipped": "run_folder names no finished run", "files": {}}
    pages, docs = Path(run_folder).resolve() / "html", Path(folder) if folder else DOCS
    with chromium() as browser:
        page = browser.new_page(viewport=VIEW)
        page.goto(f"file://{pages}/index.html")
        _small(page.screenshot()).quantize(128).save(docs / "verdict.png", optimize=True)
        page.goto(f"file://{pages}/06_tune_thresholds.html")
        explorer = page.locator(".threshold-explorer").first
        explorer.scroll_into_view_if_needed()
        slider = explorer.locator('[data-te="slider"]')
        start = int(slider.input_value())
        turns = np.linspace(0, 2 * np.pi, FRAMES, endpoint=False)
        frames = [_frame(explorer, slider, round(start + REACH * np.sin(turn))) for turn in turns]
    frames[0].save(docs / "explorer.gif", save_all=True, append_images=frames[1:],
                   duration=MILLISECONDS, loop=0, optimize=True)  # fmt: skip
    names = ("verdict.png", "explorer.gif")
    return {"files": {name: (docs / name).stat().st_size for name in names}}


def table(figures: dict[str, Any]) -> str:
    if not figures["files"]:
        return f"skipped: {figures['skipped']}"
    return "\n".join(f"{name}: {size:,} bytes" for name, size in figures["files"].items())


def _frame(explorer: Any, slider: Any, integer: int) -> Image.Image:
    slider.evaluate(
        "(element, value) => { element.value = value; element.dispatchEvent(new Event('input')) }",
        str(integer),
    )
    image = _small(explorer.screenshot())
    return image.crop((0, 0, WIDTH, min(image.height, TALL))).quantize(32, dither=Image.Dither.NONE)


def _small(shot: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(shot)).convert("RGB")
    return image.resize((WIDTH, round(image.height * WIDTH / image.width)), Image.LANCZOS)
