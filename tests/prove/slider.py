"""How long from a slider's move to repainted numbers? In a page without a kernel, and in a kernel.

The page is timed in a real Chromium, from the input event to the frame after it is painted; the
kernel from the changed value to the end of its answer. Both look at counts a level, so that the
number of images costs nothing; `images` is what they were counted from.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from tests.decision_doubles import tuned
from workbench.show import explorer
from workbench.show.widgets import threshold_tuner

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or "/usr/bin/chromium"
MOVE = """async (moves) => {
  const slider = document.querySelector('[data-te="slider"]'), taken = [];
  for (let move = 0; move < moves; move++) {
    await new Promise(requestAnimationFrame);
    const start = performance.now();
    slider.value = -100 + (move * 3) % 200;
    slider.dispatchEvent(new Event("input"));
    await new Promise((painted) => requestAnimationFrame(() => {
      const after = new MessageChannel();
      after.port1.onmessage = painted;
      after.port2.postMessage(0);
    }));
    taken.push(performance.now() - start);
  }
  return taken;
}"""


def run(*, images: int = 50_000, classes: int = 80, moves: int = 100) -> dict[str, Any]:
    """Move one slider `moves` times in both; the page is None without a Chromium."""
    counts, thresholds = tuned(images, classes)
    return {
        "images": images,
        "classes": classes,
        "moves": moves,
        "page": _spread(_page_milliseconds(counts, thresholds, moves)),
        "kernel": _spread(_kernel_milliseconds(counts, thresholds, moves)),
    }


def table(figures: dict[str, Any]) -> str:
    lines = [
        f"One slider over {figures['images']:,} images x {figures['classes']} classes, "
        f"{figures['moves']} moves",
        f"  {'':<36}{'p50 ms':>9}{'p95 ms':>9}",
    ]
    names = {"page": "page, to the painted frame", "kernel": "kernel, to the end of its answer"}
    for key, name in names.items():
        found = figures[key]
        spread = f"{found['p50']:>9.2f}{found['p95']:>9.2f}" if found else "  no Chromium here"
        lines.append(f"  {name:<36}{spread}")
    return "\n".join(lines)


def _spread(milliseconds: list[float] | None) -> dict[str, float] | None:
    if milliseconds is None:
        return None
    middle, late = np.percentile(milliseconds, [50, 95])
    return {"p50": float(middle), "p95": float(late)}


def _page_milliseconds(counts, thresholds, moves: int) -> list[float] | None:
    if not os.path.exists(CHROMIUM):
        return None
    from playwright.sync_api import sync_playwright

    with tempfile.TemporaryDirectory(prefix="workbench_slider_") as folder, sync_playwright() as it:
        path = Path(folder) / "explorer.html"
        path.write_text(explorer.page(counts, thresholds, "command", "Thresholds"), "utf-8")
        browser = it.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1200, "height": 900})
        page.goto(path.as_uri())
        milliseconds = page.evaluate(MOVE, moves)
        browser.close()
    return milliseconds


def _kernel_milliseconds(counts, thresholds, moves: int) -> list[float]:
    tuner = threshold_tuner(counts, thresholds, on_save=lambda _: None)
    milliseconds = []
    for move in range(moves):
        start = time.perf_counter()
        tuner.slider.value = -100 + move * 3 % 200
        milliseconds.append(1000 * (time.perf_counter() - start))
    return milliseconds
