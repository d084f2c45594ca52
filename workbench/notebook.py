"""What a live notebook says: the knobs of its parameters cell, and how its cells end.

Nothing is ever read from the kernel's variables: a person's own names never matter. What counts is
the text of the parameters cell, and of the cell that papermill put behind it.
"""

from __future__ import annotations

import ast
import logging
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any

from workbench.errors import SettingsError
from workbench.parameters import nearest_key
from workbench.settings import Settings

log = logging.getLogger(__name__)

INJECTED = "# Parameters"  # the whole first line of the cell that papermill writes
OWN_NAMES = ("run_dir", "parameters")


@dataclass(frozen=True)
class CellParameters:
    """What the parameters cell says, and what papermill said after it."""

    own: dict[str, Any] = field(default_factory=dict)
    injected: dict[str, Any] = field(default_factory=dict)

    @property
    def knobs(self) -> dict[str, Any]:
        return {name: value for name, value in (self.own | self.injected).items()
                if name not in OWN_NAMES}  # fmt: skip


def shell() -> Any:
    """Return the interactive shell this code runs in; None in a plain Python process."""
    found = sys.modules.get("IPython")
    return found.get_ipython() if found else None


def read_cells() -> CellParameters:
    """Read the parameters from the cells that were run; the latest run of each cell counts."""
    kernel = shell()
    if kernel is None or not hasattr(kernel, "history_manager"):
        return CellParameters()
    own = injected = ""
    for source in kernel.history_manager.input_hist_raw:
        if source.lstrip().split("\n")[0].rstrip() == INJECTED:
            injected = source
        elif "run_dir" in _assigned(source):
            own = source
    return CellParameters(_literals(own, strict=False), _literals(injected, strict=True))


def _assigned(source: str) -> dict[str, ast.expr]:
    """Map the names that a cell assigns at its top level to what it assigns."""
    try:
        body = ast.parse(source).body
    except (SyntaxError, ValueError, RecursionError):
        return {}  # magics, or half a thought
    pairs = [(target, node.value) for node in body if isinstance(node, ast.Assign)
             for target in node.targets]  # fmt: skip
    return {target.id: value for target, value in pairs if isinstance(target, ast.Name)}


def what_if_cells(sources: Sequence[str]) -> set[int]:
    """Find the cells that fork a run or use what such a cell made; they are no part of a step.

    The chain leaves them out: a what-if is computed by executing the same notebook, and would
    start itself again and again.
    """
    found: set[int] = set()
    made: set[str] = set()
    for place, source in enumerate(sources):
        nodes = _nodes(source)
        names = [node for node in nodes if isinstance(node, ast.Name)]
        used = {name.id for name in names if isinstance(name.ctx, ast.Load)}
        forks = any(isinstance(node, ast.Attribute) and node.attr == "fork" for node in nodes)
        if forks or used & made:
            found.add(place)
            made |= {name.id for name in names if isinstance(name.ctx, ast.Store)}
    return found


def _nodes(source: str) -> list[ast.AST]:
    try:
        return list(ast.walk(ast.parse(source)))
    except SyntaxError:  # of IPython's own words, like %matplotlib
        return []


def _literals(source: str, *, strict: bool) -> dict[str, Any]:
    """Evaluate the knobs of a cell; nothing but literals, and no key that is none of ours."""
    found: dict[str, Any] = {}
    for name, expression in _assigned(source).items():
        if name not in Settings.model_fields and name not in OWN_NAMES:
            _refuse_or_leave(name, expression, strict)
            continue
        try:
            found[name] = ast.literal_eval(expression)
        except ValueError:
            if name in Settings.model_fields:
                raise SettingsError(
                    f"parameters cell: {name} = {ast.unparse(expression)} is no literal. "
                    f'Write it out, like {name} = {{"…": …}}'
                ) from None
    return found


def _refuse_or_leave(name: str, expression: ast.expr, strict: bool) -> None:
    """A knob under a wrong name is a mistake; another variable is the person's own."""
    mistyped = isinstance(expression, ast.Dict) and get_close_matches(name, Settings.model_fields)
    if strict or mistyped:
        source = "papermill" if strict else "parameters cell"
        raise SettingsError(f'{source}: unknown key "{name}". {nearest_key((name,))}')
    log.info("parameters cell: %s is no knob and is left alone", name)


class CellWatcher:
    """Counts the seconds that cells run, and tells how one failed."""

    def __init__(self, on_failure: Callable[[BaseException], None]) -> None:
        self.seconds = 0.0
        self._on_failure = on_failure
        self._started = time.monotonic()

    def start(self) -> None:
        if kernel := shell():
            kernel.events.register("pre_run_cell", self._before)
            kernel.events.register("post_run_cell", self._after)

    def stop(self) -> None:
        if kernel := shell():
            for event, callback in (("pre_run_cell", self._before), ("post_run_cell", self._after)):
                with suppress(ValueError):  # it was never started
                    kernel.events.unregister(event, callback)

    def busy_seconds(self) -> float:
        """Seconds that cells ran since the start, the present one included."""
        return self.seconds + time.monotonic() - self._started

    def _before(self, _info: Any) -> None:
        self._started = time.monotonic()

    def _after(self, result: Any) -> None:
        self.seconds += time.monotonic() - self._started
        self._started = time.monotonic()
        if result.error_in_exec is not None:
            self._on_failure(result.error_in_exec)
