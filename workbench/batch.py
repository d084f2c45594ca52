"""Run the notebooks in order: skip what is up to date, execute the rest, render every page."""

from __future__ import annotations

import logging
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workbench import metadata, status
from workbench.chain import MANDATORY, STEPS, Step
from workbench.errors import InputError, WorkbenchError
from workbench.execution import execute, executed_path, page_path, refuse_foreign_kernel, relative
from workbench.files import PARTIAL, read_json, write_text
from workbench.lock import locked
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


def foretell(run: Run, plan: Plan) -> Iterator[tuple[Step, str, str]]:
    """Say what each step would do and why; one that reads what another writes may follow it."""
    written: dict[str, Step] = {}
    for step, verdict in judge_steps(run, plan):
        sources = [written[n] for n in status.files_read(step, run.settings) if n in written]
        if verdict.fresh and not sources:
            yield step, "up to date", verdict.reason
            continue
        written |= dict.fromkeys(step.writes, step)
        if verdict.fresh:
            yield step, "may run", f"if {sources[0].title} writes something else than last time"
        else:
            yield step, "would run", verdict.reason


def judge(run: Run, step: Step) -> status.Verdict:
    verdict = status.judge(run.folder, step, run.prints(step))
    if verdict.fresh and not page_path(run, step).exists():
        return status.Verdict(False, f"html/{page_path(run, step).name} is missing")
    return verdict


def run_chain(run: Run, plan: Plan) -> None:
    """Run what is not up to date; stop at the first failure with its reason."""
    with locked(run.folder), _terminate_as_interrupt():
        refuse_foreign_kernel()
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


def _render(run: Run, step: Step) -> None:
    from workbench.show.report import render_notebook

    notebook = executed_path(run, step)
    if notebook.exists():
        try:
            page = render_notebook(notebook, step, run.pieces())
        except ValueError:
            raise InputError(
                f"{notebook} is damaged. Run it again with --only {step.number} --force"
            ) from None
        write_text(page_path(run, step), page)


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
    lines.append(f"Report: {relative(run)}/html/index.html")
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
