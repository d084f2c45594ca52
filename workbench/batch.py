"""Run the notebooks in order: skip what is up to date, execute the rest, render every page.

Success is what status.json says, never what an executed notebook claims: after a killed kernel its
metadata calls every cell completed. A step is up to date with its page; a run that was killed
between the two executes the notebook once more, which finds its finished trainings.
"""

from __future__ import annotations

import json
import logging
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench import errors, freshness, machine, status
from workbench.artifacts import AuditAnswer, Figure, TestFigures
from workbench.errors import InputError, RungRefusedError, StepError, WorkbenchError
from workbench.evidence import Judged
from workbench.files import PARTIAL, is_plain_file, sha256, write_json, write_text
from workbench.freshness import Verdict
from workbench.lock import locked
from workbench.notebook import what_if_cells
from workbench.run import CHANGES_NAME, LOG_MARK, Run, zip_of
from workbench.steps import STEPS, Step, find_step, mandatory

if TYPE_CHECKING:
    from nbformat import NotebookNode

    from workbench.handover import Handover

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


def judge_steps(run: Run, plan: Plan) -> Iterator[tuple[Step, Verdict]]:
    """Judge each step lazily, so that a step is judged after those before it have run."""
    for step in plan.steps:
        forced = plan.force and not step.skipped(run.settings)
        yield step, Verdict(False, "--force") if forced else judge(run, step)


def judge(run: Run, step: Step) -> Verdict:
    """Judge a step together with its page."""
    verdict = freshness.judge(run, step)
    if verdict.skipped or not verdict.fresh:
        return verdict
    recorded = status.state_of(run.folder, step).get("page", {})
    if not recorded:
        return Verdict(False, f"html/{step.page} was not made of this result")
    for name, digest in recorded.items():
        if not run.path(name).is_file() or sha256(run.path(name)) != digest:
            return Verdict(False, f"{name} is missing or was changed")
    return verdict


def _require_dataset(run: Run, plan: Plan) -> None:
    from workbench.data.layouts import stamp_dataset

    if STEPS[0] in plan.steps:
        stamp_dataset(run.dataset_folder, run.folder)


def dry_run(run: Run, plan: Plan) -> Iterator[str]:
    """Say what each step would do and why; one that reads what another writes may follow it."""
    _require_dataset(run, plan)
    written: dict[str, Step] = {}
    for step, verdict in judge_steps(run, plan):
        sources = [written[n] for n in freshness.files_read(step, run.settings) if n in written]
        if verdict.fresh and (verdict.skipped or not sources):
            yield f"{step.title:<22} {verdict.words}"
            continue
        written |= {name.rstrip("?"): step for name in step.under(run.settings).writes}
        if verdict.fresh:
            reason = f"if {sources[0].title} writes something else than last time"
            yield f"{step.title:<22} may run: {reason}"
        else:
            yield f"{step.title:<22} would run: {verdict.reason}"
        yield from _trainings(run, step, plan.force)


def _trainings(run: Run, step: Step, force: bool) -> Iterator[str]:
    """Say which finished trainings a step would keep, and which it would train anew."""
    for phase in step.phases(run.settings):
        from workbench.train.checkpoints import standing

        found = standing(run.folder, phase, run.settings)
        if found.seconds:
            what = "trained anew: --force" if force else found.words
            yield f"{'':<25}{phase.name}: {what} (took {machine.minutes(found.seconds)})"


def run_chain(run: Run, plan: Plan, changes: dict[str, Any] | None = None) -> None:
    """Run what is not up to date; stop at the first failure with its reason."""
    with locked(run.folder), terminate_as_interrupt():
        refuse_foreign_kernel()
        if STEPS[0] in plan.steps:
            run.fetch_dataset()
        _require_dataset(run, plan)
        _sweep(run.folder)
        run.save_settings()
        if changes is not None:
            write_json(run.path(CHANGES_NAME), changes)
        machine.write_run_metadata(run)
        started = time.monotonic()
        try:
            while not _reached_the_end(run, plan, started):
                plan = replace(plan, force=False)  # what was forced has been done
        except BaseException:
            _render_what_there_is(run, _render_index)
            raise
        _render_index(run)
        machine.write_run_metadata(run)
        _seal(run)


def _seal(run: Run) -> None:
    """Seal the run, pages included, once every step is up to date: here and nowhere else. Zip it.

    Half computed anew it keeps a seal that no longer fits, and `verify` names what changed.
    """
    from workbench import handover
    from workbench.deploy.bundle import seal

    if waiting := outdated(run):
        log.info("not sealed: %s has to run first", waiting[0].title)
        return
    log.info("sealed: SHA256SUMS has sha256 %s", seal(run.folder))
    try:
        log.info("to hand over: %s", handover.hand_over(run.folder).words)
    except WorkbenchError as error:
        zip_of(run.folder).unlink(missing_ok=True)  # of another result
        log.warning("no zip to hand over: %s", error)


def hand_over(run: Run, out: Path | None = None, *, page: bool = False) -> Handover:
    """Write the zip of a run that is up to date; another is refused with the reason."""
    from workbench import handover

    with locked(run.folder):
        for step, verdict in judge_steps(run, Plan(STEPS)):
            if not verdict.fresh:
                raise StepError(
                    f"{step.title} is not up to date: {verdict.reason}. Run {relative(run)} again, "
                    "or --accept what is as it should be"
                )
        return handover.hand_over(run.folder, out, page=page)


def _reached_the_end(run: Run, plan: Plan, started: float) -> bool:
    """Run the steps once; False where 07 refused a file and 05 is to take the next rung."""
    for step, verdict in judge_steps(run, plan):
        if verdict.fresh:
            log.info("%-22s %s", step.title, verdict.words)
            if verdict.skipped:
                status.record(run.folder, step, state="skipped", reason=verdict.reason)
            continue
        if step != STEPS[0]:
            _stop_if_unfit(run)
        try:
            _run_step(run, step, verdict, plan, started)
        except RungRefusedError as refusal:
            if find_step("05") not in plan.steps:
                raise
            log.warning("%s", refusal)
            return False
    return True


def _stop_if_unfit(run: Run) -> None:
    """Let no network learn from a dataset that 01 found unfit, unless the settings say so."""
    found = AuditAnswer.read_if_there(run.folder)
    if not found.fit and run.settings.audit.on_errors == "stop":
        raise StepError(
            f"stopped after 01, which found the dataset {found.words}. To go on as it is: --set "
            f"audit.on_errors=go_on. See {run.path('html') / STEPS[0].page}"
        )


def _sweep(folder: Path) -> None:
    """Remove what a kill left half written; nobody else writes while the folder is held."""
    for path in folder.rglob(f"{PARTIAL}*"):
        if path.is_file():
            path.unlink()


def _run_step(run: Run, step: Step, verdict: Verdict, plan: Plan, started: float) -> None:
    before = status.state_of(run.folder, step).get("seconds")
    last_time = f"; took {before:.0f} s last time" if before is not None else ""
    log.info("%-22s runs: %s%s", step.title, verdict.reason, last_time)
    clock = time.monotonic()
    if plan.force:
        _set_trainings_aside(run, step)
    try:
        execute(run, step)
    except BaseException:
        _render_what_there_is(run, lambda run: _render(run, step))
        raise
    _render(run, step)
    _record_page(run, step)
    log.info(
        "%-22s done in %.0f s, %.0f s in all",
        step.title, time.monotonic() - clock, time.monotonic() - started,
    )  # fmt: skip


def _set_trainings_aside(run: Run, step: Step) -> None:
    for phase in step.phases(run.settings):
        from workbench.train.checkpoints import set_aside

        set_aside(run.folder, phase.name)


def _record_page(run: Run, step: Step) -> None:
    """Tie the page to this result: a page of another one is not up to date."""
    names = [f"notebooks/{step.notebook}", f"html/{step.page}"]
    record = status.state_of(run.folder, step)
    page = {name: sha256(run.path(name)) for name in names}
    status.record(run.folder, step, **(record | {"page": page}))


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
        message = f"{step.title} failed: {reason}\nSee {run.path('html') / step.page}"
        raise _kind(error)(message) from error
    if status.state_of(run.folder, step)["state"] != "ok":
        _mark_unfinished(run, step, "the notebook ended before its step was done")
        raise StepError(f"{step.title} ended without finishing its step")


def _mark_unfinished(run: Run, step: Step, reason: str, state: str = "failed") -> None:
    record = status.read_status(run.folder)["steps"].get(step.number, {})
    if record.get("state") not in ("failed", "interrupted"):
        status.record_failure(run.folder, step, reason, state)


def _papermill(run: Run, step: Step, source: Path) -> None:
    import papermill

    target = run.path("notebooks") / step.notebook
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f"{PARTIAL}{target.name}")
    timeout = math.ceil(run.settings.run.cell_timeout_minutes * 60) or None
    try:
        with _kernel_lines():
            papermill.execute_notebook(
                _without_what_ifs(source), partial,
                parameters={"run_dir": str(relative(run))},  # the settings lie in the run folder
                kernel_name="python3", cwd=run.root, progress_bar=False, log_output=True,
                execution_timeout=timeout,
                extra_arguments=["--log-level=CRITICAL"],  # it warns of its own loopback sockets
            )  # fmt: skip
    finally:
        if partial.exists():  # a failed notebook is kept as well: it shows where it broke
            _keep(partial, target)


def _without_what_ifs(source: Path) -> NotebookNode:
    from nbformat import read

    book = read(source, as_version=4)
    code = [cell for cell in book.cells if cell.cell_type == "code"]
    aside = [code[place] for place in what_if_cells([cell.source for cell in code])]
    if aside:
        log.info("    left out: %d cell(s) of %s with a what-if", len(aside), source.name)
    book.cells = [cell for cell in book.cells if not any(cell is one for one in aside)]
    return book


def _keep(partial: Path, target: Path) -> None:
    """Keep an executed notebook without the folders of this machine: it is passed on."""
    try:
        book = json.loads(partial.read_text(encoding="utf-8").replace(LOG_MARK, ""))
        book["metadata"].pop("widgets", None)  # what panels show lies in their outputs as well
        book["metadata"]["papermill"] |= {"input_path": target.name, "output_path": target.name}
        write_text(target, json.dumps(book, indent=1, ensure_ascii=False) + "\n")
    except ValueError:
        log.warning("%s was torn while it was written; what was there stays", target)
    finally:
        partial.unlink()


def relative(run: Run) -> Path:
    inside = run.folder.is_relative_to(run.root)
    return run.folder.relative_to(run.root) if inside else run.folder


def _kind(error: Exception) -> type[WorkbenchError]:
    """Tell wrong input and a refused file, which the kernel names by class, from other failures."""
    found = vars(errors).get(getattr(error, "ename", ""))
    known = (InputError, RungRefusedError) if isinstance(found, type) else ()
    return next((kind for kind in known if issubclass(found, kind)), StepError)


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
    logger = logging.getLogger("papermill")
    before = logger.handlers[:], logger.level, logger.propagate
    logger.handlers, logger.propagate = [handler], False
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.handlers, logger.propagate = before[0], before[2]
        logger.setLevel(before[1])


def _is_kernel_line(record: logging.LogRecord) -> bool:
    """Keep what the workbench logged in the kernel, and leave out summaries and tables."""
    lines = [line for line in str(record.msg).split("\n") if line.startswith(LOG_MARK)]
    record.msg = "\n    ".join(line.removeprefix(LOG_MARK) for line in lines)
    return bool(lines)


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


@contextmanager
def terminate_as_interrupt() -> Iterator[None]:
    """Let SIGTERM end the kernel and be recorded like Ctrl-C; a background shell ignores both."""
    numbers = (signal.SIGTERM, signal.SIGINT)
    before = [signal.signal(number, signal.default_int_handler) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


def stop_at_eof() -> None:
    """End like Ctrl-C when standard input ends: whoever started this process is gone."""

    def watch() -> None:
        while os.read(0, 1):
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()


def _render(run: Run, step: Step) -> None:
    from workbench.show.report import render_notebook

    notebook = run.path("notebooks") / step.notebook
    if is_plain_file(notebook):
        try:
            page = render_notebook(notebook, step)
        except ValueError:
            raise InputError(
                f"{notebook} is damaged. Run it again with --only {step.number} --force"
            ) from None
        write_text(run.path("html") / step.page, page)


def _render_what_there_is(run: Run, render: Callable[[Run], None]) -> None:
    """Render after a failure, if that can be done: its reason is worth more than a page."""
    try:
        render(run)
    except (OSError, WorkbenchError) as error:
        log.warning("no page: %s", error)


def _render_index(run: Run) -> None:
    from workbench.show.index import render_index

    write_text(run.path("html") / "index.html", render_index(run.folder))


def render_all(run: Run) -> Path:
    """Render every executed notebook and the index again."""
    for step in STEPS:
        _render(run, step)
        if status.state_of(run.folder, step).get("page"):
            _record_page(run, step)
    _render_index(run)
    _seal(run)
    return run.path("html") / "index.html"


def closing_lines(run: Run) -> list[str]:
    """Build the last lines of a run from what lies in its folder."""
    due = mandatory(run.settings.product)
    marks = [f"{'✓' if run.path(name).exists() else '✗'} {name}" for name in due]
    zipped = zip_of(run.folder)
    handed = [f"Hand over: {relative(run)}/{zipped.name}"] if zipped.exists() else []
    return [
        "PIPELINE COMPLETE: every step has run. What that is worth, the verdict says",
        "Mandatory outputs:  " + "  ".join(marks),
        "Final test metrics:  " + _final_metrics(run.folder),
        f"Report: {relative(run)}/html/index.html",
        *handed,
        *_verdict(run.folder),
    ]


def _verdict(folder: Path) -> list[str]:
    try:
        found = Judged.read(folder).verdict
    except InputError as error:
        return [str(error)]
    return found.lines if found else ["Verdict: none yet. Run 09_eval_report again"]


FINAL_FIGURES = {
    "F1 macro": "f1_macro",
    "F1 micro": "f1_micro",
    "Precision": "precision_macro",
    "Recall": "recall_macro",
}


def _final_metrics(folder: Path) -> str:
    try:
        test = TestFigures.read(folder).test
    except InputError as error:
        return str(error)
    parts = [f"{title} {_with_interval(test.overall[key])}"
             for title, key in FINAL_FIGURES.items() if key in test.overall]  # fmt: skip
    return "  ".join(parts) + f"   (95 % intervals; {test.macro_means})"


def _with_interval(figure: Figure) -> str:
    if figure.value is None:
        return "undefined"
    if figure.interval is None:
        return f"{figure.value:.3f} [no interval: {figure.withheld}]"
    low, high = figure.interval
    return f"{figure.value:.3f} [{low:.3f}, {high:.3f}]"


def outdated(run: Run) -> list[Step]:
    """List the steps that a run of the whole chain would do now."""
    return [step for step in STEPS if not judge(run, step).fresh]
