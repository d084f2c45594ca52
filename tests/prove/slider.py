"""How long from a slider's move to repainted numbers?

Timed in a real Chromium from the input event to the frame after it is painted; JupyterLab runs the
same script. It looks at counts a level, so that the number of images costs nothing; `images` is
what they were counted from.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from tests.browser import CHROMIUM, Opened, chromium, page_of
from tests.decision_doubles import tuned
from workbench.show.explorer import explorer

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
    """Move one slider `moves` times; the figures are None without a Chromium."""
    figures = {"images": images, "classes": classes, "moves": moves, "p50": None, "p95": None}
    if not os.path.exists(CHROMIUM):
        return figures
    panel = explorer(*tuned(images, classes), lambda _: None, "command")
    with tempfile.TemporaryDirectory(prefix="workbench_slider_") as folder, chromium() as browser:
        opened = Opened(browser, page_of(Path(folder), panel))
        milliseconds = opened.page.evaluate(MOVE, moves)
    middle, late = np.percentile(milliseconds, [50, 95])
    return figures | {"p50": float(middle), "p95": float(late)}


def table(figures: dict[str, Any]) -> str:
    lines = [
        f"One slider over {figures['images']:,} images x {figures['classes']} classes, "
        f"{figures['moves']} moves",
        f"  {'':<36}{'p50 ms':>9}{'p95 ms':>9}",
    ]
    spread = f"{figures['p50']:>9.2f}{figures['p95']:>9.2f}" if figures["p50"] else "  no Chromium"
    lines.append(f"  {'page, to the painted frame':<36}{spread}")
    return "\n".join(lines)
