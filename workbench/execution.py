"""One notebook through papermill: executed, kept, its lines shown, its failure said in words.

Success is what status.json says, never what the executed notebook claims: after a killed kernel
its metadata calls every cell completed.
"""

from __future__ import annotations

import json
import logging
import math
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from workbench import errors, status
from workbench.chain import Step
from workbench.errors import InputError, StepError, WorkbenchError
from workbench.files import PARTIAL, write_text
from workbench.parameters import differences
from workbench.run import Run

log = logging.getLogger(__name__)


def executed_path(run: Run, step: Step) -> Path:
    """Return where the executed notebook of a step is kept."""
    return run.path("notebooks") / step.notebook


def page_path(run: Run, step: Step) -> Path:
    """Return where the rendered notebook of a step is kept."""
    return run.path("html") / f"{step.notebook[:-6]}.html"


def execute(run: Run, step: Step) -> None:
    """Execute one notebook by papermill and hold its status to the truth."""
    source = run.root / "notebooks" / step.notebook
    if not source.exists():
        raise InputError(f"{source} does not exist. Run inside the project folder")
    try:
        _papermill(run, step, source)
    except KeyboardInterrupt:
        _mark_unfinished(run, step, "interrupted by a person", "interrupted")
        raise
    except Exception as error:
        reason = _explain(error)
        _mark_unfinished(run, step, reason)
        message = f"{step.title} failed: {reason}\nSee {page_path(run, step)}"
        raise _kind(error)(message) from error
    state = status.state_of(run.folder, step)
    if state["state"] != "ok":
        _mark_unfinished(run, step, "the notebook ended before its step was done")
        raise StepError(f"{step.title} ended without finishing its step")


def _mark_unfinished(run: Run, step: Step, reason: str, state: str = "failed") -> None:
    record = status.read_status(run.folder)["steps"].get(step.number, {})
    if record.get("state") not in ("failed", "interrupted"):
        status.record_failure(run.folder, step, reason, state)


def _papermill(run: Run, step: Step, source: Path) -> None:
    import papermill

    target = executed_path(run, step)
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f"{PARTIAL}{target.name}")
    minutes = run.settings.run.cell_timeout_minutes
    try:
        with _kernel_lines():
            papermill.execute_notebook(
                source,
                partial,
                parameters=_injected(run),
                kernel_name="python3",
                cwd=run.root,
                progress_bar=False,
                log_output=True,
                execution_timeout=math.ceil(minutes * 60) or None,
                extra_arguments=["--log-level=CRITICAL"],  # it warns of its own loopback sockets
            )
    finally:
        if partial.exists():  # a failed notebook is kept as well: it shows where it broke
            _keep(partial, target)


def _keep(partial: Path, target: Path) -> None:
    """Keep an executed notebook without the folders of this machine: it is passed on."""
    try:
        book = json.loads(partial.read_text(encoding="utf-8"))
        book["metadata"]["papermill"] |= {"input_path": target.name, "output_path": target.name}
        write_text(target, json.dumps(book, indent=1, ensure_ascii=False) + "\n")
    except ValueError:
        log.warning("%s was torn while it was written; what was there stays", target)
    finally:
        partial.unlink()


def _injected(run: Run) -> dict[str, Any]:
    """Give the notebook its run folder and what differs from the defaults, for its readers.

    Keys are pasted into the notebook as code, so only names of settings get this far.
    """
    return {"run_dir": str(relative(run)), **differences(run.settings)}


def relative(run: Run) -> Path:
    inside = run.folder.is_relative_to(run.root)
    return run.folder.relative_to(run.root) if inside else run.folder


def _kind(error: Exception) -> type[WorkbenchError]:
    """Tell wrong input, which the kernel names by its class, from a step that failed."""
    found = vars(errors).get(getattr(error, "ename", ""))
    wrong_input = isinstance(found, type) and issubclass(found, InputError)
    return InputError if wrong_input else StepError


def _explain(error: Exception) -> str:
    kind = type(error).__name__
    if kind == "PapermillExecutionError":
        return f"{error.ename}: {error.evalue}"
    if kind == "DeadKernelError":
        return "the kernel was killed, most often because memory ran out. Run again to go on"
    if kind == "CellTimeoutError":
        return "a cell ran longer than run.cell_timeout_minutes"
    return f"{kind}: {error}"


@contextmanager
def _kernel_lines() -> Iterator[None]:
    """Show what the kernel logs, indented under its step, and nothing else of papermill's."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("    %(message)s"))
    handler.addFilter(_is_kernel_line)
    room = logging.getLogger("papermill")
    before = room.handlers[:], room.level, room.propagate
    room.handlers, room.propagate = [handler], False
    room.setLevel(logging.INFO)
    try:
        yield
    finally:
        room.handlers, room.propagate = before[0], before[2]
        room.setLevel(before[1])


def _is_kernel_line(record: logging.LogRecord) -> bool:
    """Keep what the kernel printed: streams end a line, the text of tables and figures does not."""
    text = str(record.msg)
    printed = record.levelno == logging.INFO and text.endswith("\n")
    record.msg = text.rstrip().replace("\n", "\n    ")
    return printed


def refuse_foreign_kernel() -> None:
    """Check that `python3` starts this interpreter: another one lacks what is installed here."""
    from jupyter_client.kernelspec import KernelSpecManager, NoSuchKernel

    try:
        command = KernelSpecManager().get_kernel_spec("python3").argv[0]
    except NoSuchKernel:
        raise InputError("There is no python3 kernel. Run: pip install ipykernel") from None
    found = Path(command).absolute() if os.sep in command else Path(sys.executable)
    if found.parent != Path(sys.executable).absolute().parent:
        raise InputError(
            f"The python3 kernel starts {command}, not {sys.executable}. "
            "Run: python -m ipykernel install --sys-prefix"
        )
