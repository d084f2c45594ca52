"""Computing runs: `run` one, `sweep` many."""

from __future__ import annotations

import json
import logging
import time
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import Any

from workbench.cli.answer import Answer, add_set
from workbench.errors import SettingsError

log = logging.getLogger(__name__)


def run(options: Namespace) -> Answer:
    from workbench import batch, freshness, machine
    from workbench.steps import find_step

    the_run, changes, said = _named_run(options)
    first, last, only = (
        find_step(text) if text else None for text in (options.first, options.last, options.only)
    )
    plan = batch.choose_steps(first, last, only, options.force)
    for line in (*machine.startup_lines(the_run, plan.steps), *said):
        log.info("%s", line)
    if options.dry_run:
        lines = [*batch.dry_run(the_run, plan), *machine.batch_advice(the_run)]
        return Answer("\n".join(lines))
    for text in options.accept:
        log.info("%s", freshness.accept(the_run, find_step(text)))
    if options.stop_at_eof:
        batch.stop_at_eof()
    batch.run_chain(the_run, plan, changes)
    if left := batch.outdated(the_run):
        titles = ", ".join(step.title for step in left)
        return Answer(f"Not up to date: {titles}. Without --only, --from and --to they run too")
    return Answer("\n".join(batch.closing_lines(the_run)))


def _named_run(options: Namespace) -> tuple[Any, dict[str, Any], tuple[str, ...]]:
    """Resolve the run that the options name: by its parameter file, by --run, or a new one."""
    from workbench.run import CONFIG_NAME, check_run_name, required_project, resolve_run, run_folder

    root = required_project(options.parameters)
    given = [flag for flag in ("run", "new", "out") if getattr(options, flag)]
    if len(given) > 1:
        named = " and ".join(f"--{flag}" for flag in given)
        raise SettingsError(f"{named} name the folder more than once. Give one of them")
    stamp = time.strftime("run_%Y%m%d_%H%M%S")
    file = options.parameters
    name = options.run or (stamp if options.new else file.stem if file else "")
    if not name and not options.out:
        raise SettingsError("name a parameter file, or with --run or --out a run that exists")
    if not options.out:
        check_run_name(name)
    folder = run_folder(options.out or f"outputs/{name}", root)
    if options.new and folder.exists():
        raise SettingsError(f"{folder} exists already: wait a second, or name it with --run")
    if file is None and not (folder / CONFIG_NAME).exists():
        raise SettingsError(f"{folder} is no run yet: name the parameter file it starts from")
    return resolve_run(folder, root, file, [*_data(options.data), *options.assignments])


def _data(place: str) -> list[str]:
    """Set the dataset's folder, from where the person stands; an address stays what it is."""
    place = place if not place or "://" in place else str(Path(place).resolve())
    return [f"dataset.dir={json.dumps(place)}"] if place else []


def sweep(options: Namespace) -> Answer:
    from workbench.run import required_project
    from workbench.sweep import execution
    from workbench.sweep.spec import read_spec

    plan = execution.plan(
        read_spec(options.file), options.run or options.file.stem, required_project(options.file),
        options.first, options.last,
    )  # fmt: skip
    if options.dry_run:
        return Answer("\n".join(execution.dry_run(plan)))
    found = execution.run(plan, options.scheduler, options.workers)
    failed = any(trial.state == "failed" for trial in found.trials)
    return Answer("\n".join(execution.closing_lines(found)), found.to_json(), int(failed))


def add_commands(command: Any) -> None:
    _add_run(command("run", "run the notebooks 01 to 09 into outputs/<run>/", run, json=False))
    _add_sweep(command("sweep", "compute many runs: a grid, seeds, folds or a search", sweep))


def _add_run(parser: ArgumentParser) -> None:
    add = parser.add_argument
    add("parameters", type=Path, nargs="?", help="parameter file; its name names the run")
    add_set(parser)
    add("--run", metavar="NAME", help="name of the run folder in outputs/; a run that exists "
        "remembers its parameter file")  # fmt: skip
    add("--new", action="store_true", help="a new folder run_YYYYMMDD_HHMMSS")
    add("--out", metavar="DIR", help="the run folder itself, like outputs/my_sweep/seed-1")
    add("--data", default="", metavar="DIR", help="the dataset's folder, in place of dataset.dir")
    add("--stop-at-eof", action="store_true", help="stop when standard input ends, as a sweep "
        "has its runs do")  # fmt: skip
    add("--from", dest="first", metavar="STEP", help="start here, like 04")
    add("--to", dest="last", metavar="STEP", help="stop after this step")
    add("--only", metavar="STEP", help="this step alone")
    add("--force", action="store_true", help="run steps that are up to date too, and train anew; "
        "what was there is set aside")  # fmt: skip
    add("--accept", action="append", default=[], metavar="STEP",
        help="keep a finished step although its code or settings changed (repeatable)")  # fmt: skip
    add("--dry-run", action="store_true", help="say what would run, be trained anew, and why")


def _add_sweep(parser: ArgumentParser) -> None:
    add = parser.add_argument
    add("file", type=Path, help="sweep file, see parameters/sweep_example.yaml; its name names "
        "the folder in outputs/")  # fmt: skip
    add("--run", metavar="NAME", help="another name for the folder")
    add("--from", dest="first", metavar="STEP", help="start here, where earlier steps are done")
    add("--to", dest="last", metavar="STEP", help="stop after this step, in place of the file's "
        "`to`; 03 makes teachers only")  # fmt: skip
    add("--workers", type=int, metavar="N", help="runs at a time on this machine")
    add("--scheduler", metavar="tcp://HOST:PORT", help="a Dask scheduler, in place of workers on "
        "this machine; its workers see the project under the same path")  # fmt: skip
    add("--dry-run", action="store_true", help="list the runs and the steps that they share")
