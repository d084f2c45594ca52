"""How an epoch shows that it is alive: a bar for a person, a line a minute for a log."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterator

from tqdm import tqdm

from workbench.train.logs import duration

SECONDS_BETWEEN_LINES = 60


def paced(steps: int, title: str, report: logging.Logger, bar: bool | None = None) -> Iterator[int]:
    """Count the steps of an epoch; `bar` None shows a bar where a person looks on."""
    if _watched() if bar is None else bar:
        yield from tqdm(range(steps), desc=title, leave=False, mininterval=1)
        return
    started = told = time.monotonic()
    for step in range(steps):
        yield step
        now = time.monotonic()
        if now - told >= SECONDS_BETWEEN_LINES:
            told = now
            left = (now - started) / (step + 1) * (steps - step - 1)
            report.info("%s: step %d/%d, %s left", title, step + 1, steps, duration(left))


def _watched() -> bool:
    """Tell a terminal or a live notebook from a batch: only a live one may ask for input."""
    if sys.stderr.isatty():
        return True
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    # The kernel keeps what its client said with the cell, but offers no public name for it.
    return getattr(getattr(shell, "kernel", None), "_allow_stdin", False)
