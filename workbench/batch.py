"""Run the notebooks in order: skip what is up to date, execute the rest, render every page.

Success is what status.json says, never what the executed notebook claims: after a killed kernel
its metadata calls every cell completed.
"""

from __future__ import annotations

import json
import logging
import math
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workbench import errors, metadata, status
from workbench.chain import MANDATORY, STEPS, Step
from workbench.errors import InputError, StepError, WorkbenchError
from workbench.files import PARTIAL, read_json, write_text
from workbench.lock import locked
from workbench.parameters import differences
from workbench.run import Run

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Plan:
    """Which steps were asked for."""

    steps: tuple[Step, ...]
    force: bool = False


def choose_steps(
    first: Step | None, last: Step | None, only: Step | None, force: bool = False
) -> Plan:
    if only:
        return Plan((only,), force)
    start = STEPS.index(first) if first else 0
    stop = STEPS.index(last) + 1 if last else len(STEPS)
    if start >= stop:
        raise InputError(f"--from {STEPS[start].number} comes after --to {STEPS[stop - 1].number}")
    return Plan(STEPS[start:stop], force)


def judge_steps(run: Run, plan: Plan) -> Iterator[tuple[Step, status.Verdict]]:
    """Judge each step lazily, so that a step is judged after those before it have run."""
    for step in plan.steps:
        if plan.force:
            yield step, status.Verdict(False, "--force")
        else:
            yield step, judge(run, step)


def judge(run: Run, step: Step) -> status.Verdict:
    verdict = status.judge(run.folder, step, run.prints(step))
    if verdict.fresh and not _page(run, step).exists():
        return status.Verdict(False, f"html/{_page(run, step).name} is missing")
    return verdict


def _page(run: Run, step: Step) -> Path:
    return run.path("html") / f"{step.notebook[:-6]}.html"


def _executed(run: Run, step: Step) -> Path:
    return run.path("notebooks") / step.notebook


def run_chain(run: Run, plan: Plan) -> None:
    """Run what is not up to date; stop at the first failure with its reason."""
    with locked(run.folder), _terminate_as_interrupt():
        _refuse_foreign_kernel()
        _sweep(run.folder)
        run.save_settings()
        metadata.write_run_metadata(run)
        started = time.monotonic()
        for step, verdict in judge_steps(run, plan):
            if verdict.fresh:
                log.info("%-22s up to date: %s", step.title, verdict.reason)
            else:
                _run_step(run, step, verdict, plan, started)
        _render_index(run)
        metadata.write_run_metadata(run)


def _sweep(folder: Path) -> None:
    """Remove what a kill left half written; nobody else writes while the folder is held."""
    for path in folder.rglob(f"{PARTIAL}*"):
        if path.is_file():
            path.unlink()


def _run_step(run: Run, step: Step, verdict: status.Verdict, plan: Plan, started: float) -> None:
    eta = _estimate(run, step, plan)
    log.info("%-22s runs: %s%s", step.title, verdict.reason, eta)
    clock = time.monotonic()
    try:
        execute(run, step)
    except BaseException:
        _render_what_there_is(run, step)
        raise
    _render(run, step)
    log.info(
        "%-22s done in %.0f s, %.0f s in all",
        step.title, time.monotonic() - clock, time.monotonic() - started,
    )  # fmt: skip


def _estimate(run: Run, step: Step, plan: Plan) -> str:
    """Foretell from how long this run's steps took last time, where they ran before."""
    ahead = plan.steps[plan.steps.index(step) :]
    records = [status.state_of(run.folder, each) for each in ahead]
    known = [record["seconds"] for record in records if "seconds" in record]
    return f"; took {known[0]:.0f} s last time" if known and "seconds" in records[0] else ""


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
        message = f"{step.title} failed: {reason}\nSee {_page(run, step)}"
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

    target = _executed(run, step)
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
    return {"run_dir": str(_relative(run)), **differences(run.settings)}


def _relative(run: Run) -> Path:
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


@contextmanager
def _terminate_as_interrupt() -> Iterator[None]:
    """Let SIGTERM end the kernel and be recorded like Ctrl-C; a background shell ignores both."""
    numbers = (signal.SIGTERM, signal.SIGINT)
    before = [signal.signal(number, signal.default_int_handler) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


def _refuse_foreign_kernel() -> None:
    """Check that `python3` starts this interpreter: another one lacks what is installed here."""
    import sys

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


def _render(run: Run, step: Step) -> None:
    from workbench.show.report import render_notebook

    if _executed(run, step).exists():
        try:
            page = render_notebook(_executed(run, step), step, run.pieces())
        except ValueError:
            raise InputError(
                f"{_executed(run, step)} is damaged. Run it again with --only {step.number} --force"
            ) from None
        write_text(_page(run, step), page)


def _render_what_there_is(run: Run, step: Step) -> None:
    """Render a failed notebook, if that can be done: its reason is worth more than its page."""
    try:
        _render(run, step)
    except (OSError, WorkbenchError) as error:
        log.warning("no page for %s: %s", step.title, error)


def _render_index(run: Run) -> None:
    from workbench.show.report import render_index

    write_text(run.path("html") / "index.html", render_index(run))


def render_all(run: Run) -> Path:
    """Render every executed notebook and the index again."""
    for step in STEPS:
        _render(run, step)
    _render_index(run)
    return run.path("html") / "index.html"


def closing_lines(run: Run) -> list[str]:
    """Build the last lines of a run from what lies in its folder."""
    marks = [f"{'✓' if run.path(name).exists() else '✗'} {name}" for name in MANDATORY]
    lines = ["PIPELINE COMPLETE", "Mandatory outputs:  " + "  ".join(marks)]
    lines.append("Final test metrics:  " + _final_metrics(run))
    lines.append(f"Report: {_relative(run)}/html/index.html")
    return lines


FINAL_FIGURES = {
    "F1 macro": "f1_macro",
    "F1 micro": "f1_micro",
    "Precision": "precision_macro",
    "Recall": "recall_macro",
}


def _final_metrics(run: Run) -> str:
    figures = read_json(run.path("metrics.json"))["test"]["overall"]
    parts = [f"{title} {_with_interval(figures[key])}" for title, key in FINAL_FIGURES.items()]
    return "  ".join(parts) + "   (95 % intervals)"


def _with_interval(figure: dict[str, Any]) -> str:
    if figure["value"] is None:
        return "undefined"
    low, high = figure["interval"]
    return f"{figure['value']:.3f} [{low:.3f}, {high:.3f}]"


def outdated(run: Run) -> list[Step]:
    """List the steps that a run of the whole chain would do now."""
    return [step for step in STEPS if not judge(run, step).fresh]
