"""What each command of the batch door does: gather its inputs, call one room, return an answer.

Rooms are imported inside the commands, so that `--help` and `--dry-run` start in a second.
"""

from __future__ import annotations

import importlib
import inspect
import logging
import shutil
import sys
import time
import warnings
from argparse import Namespace
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from workbench.errors import InputError, SettingsError

log = logging.getLogger(__name__)

BENCHMARKS = {  # what each compares, and what --count counts
    "audit": "the audit against decoding each image once, and cleanvision if installed; images",
    "calibration": "INT8 by size and choice of the calibration set, of a --run; seeds",
    "latency": "INT8 against float and ONNX, one and two threads; calls a row",
    "pipeline": "both letterboxes and augmentation against decoding alone; images a round",
    "thresholds": "the exact search against a loop with scikit-learn; no --count",
    "train": "a step and an epoch against a bare Keras loop; steps of each kind",
}


@dataclass(frozen=True)
class Answer:
    """What a command found: words for a person, figures for a script."""

    text: str = ""
    figures: dict[str, Any] = field(default_factory=dict)
    exit_code: int = 0


def show_log_lines() -> None:
    """Show our own lines on stderr; Pillow's warnings name no file, the audit does."""
    warnings.filterwarnings("ignore", module="PIL")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    room = logging.getLogger("workbench")
    room.handlers = [handler]
    room.setLevel(logging.INFO)
    room.propagate = False


def run(options: Namespace) -> Answer:
    from workbench import batch, forecast
    from workbench.chain import find_step

    the_run = _named_run(options)
    first, last, only = (
        find_step(text) if text else None for text in (options.first, options.last, options.only)
    )
    plan = batch.choose_steps(first, last, only, options.force)
    for line in forecast.startup_lines(the_run, plan.steps):
        log.info("%s", line)
    if options.dry_run:
        return _dry_run(the_run, plan)
    batch.run_chain(the_run, plan)
    if left := batch.outdated(the_run):
        titles = ", ".join(step.title for step in left)
        return Answer(f"Not up to date: {titles}. Without --only, --from and --to they run too")
    return Answer("\n".join(batch.closing_lines(the_run)))


def _dry_run(the_run: Any, plan: Any) -> Answer:
    from workbench import batch, forecast

    lines = [
        f"{step.title:<22} {what}: {reason}" for step, what, reason in batch.foretell(the_run, plan)
    ]
    return Answer("\n".join([*lines, *forecast.batch_advice(the_run.settings)]))


def _named_run(options: Namespace) -> Any:
    from workbench.parameters import read_settings
    from workbench.run import Run, check_run_name, project_root, run_folder

    root = project_root()
    settings = read_settings(options.parameters, options.assignments, root=root)
    if options.run and options.new:
        raise SettingsError("--run and --new name the folder twice. Give one of them")
    stamp = time.strftime("run_%Y%m%d_%H%M%S")
    name = options.run or (stamp if options.new else options.parameters.stem)
    check_run_name(name)
    folder = run_folder(f"outputs/{name}", root)
    if options.new and folder.exists():
        raise SettingsError(f"{folder} exists already: wait a second, or name it with --run")
    return Run(folder, settings, root)


def _existing_run(folder: Path) -> Any:
    from workbench.run import Run, project_root, saved_settings

    folder = folder.resolve()
    return Run(folder, saved_settings(folder), project_root())


def demo(options: Namespace) -> Answer:
    from workbench.data.demo import draw_demo

    if options.seed < 0:
        raise InputError(f"--seed is {options.seed}: seeds are whole numbers from 0")
    if options.images < 20:
        raise InputError(f"--images is {options.images}: fewer than 20 cannot fill three splits")
    made = draw_demo(options.folder, options.images, options.seed)
    verb = "drawn in" if made.drawn else "already in"
    return Answer(f"{made.images} pictures {verb} {made.folder}", {"images": made.images})


def new(options: Namespace) -> Answer:
    """Copy the notebooks and parameter files, and explain where the photos go."""
    from workbench.files import write_text
    from workbench.run import project_root

    source, folder = project_root(Path(__file__).parent), options.folder
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder} is not an empty folder. Name a new one")
    for name in ("notebooks", "parameters"):
        shutil.copytree(source / name, folder / name, ignore=shutil.ignore_patterns(".*"))
    for name in ("data/images", "outputs"):
        (folder / name).mkdir(parents=True)
    text = "# Only what differs from default.yaml\nnum_classes: auto\n"
    write_text(folder / "parameters" / "mine.yaml", text)
    return Answer(
        f"Project in {folder}. Put photos in data/images and train_labels.csv, val_labels.csv and "
        f"test_labels.csv in data, then:\n  cd {folder}\n  "
        "python -m workbench run parameters/mine.yaml"
    )


def prepare(options: Namespace) -> Answer:
    from workbench.data.prepare import prepare as standardise

    done = standardise(options.source, options.destination, options.size, options.quality)
    return Answer(done.summary, done.figures)


def audit(options: Namespace) -> Answer:
    from workbench.steps.data import audit_folder

    given = {"dataset": {"dir": str(options.folder.resolve())}}  # its config.yaml has a say
    if options.parameters is None:
        given["num_classes"] = "auto"  # an audit counts the classes itself
    return Answer(*audit_folder(options.folder, _settings_for(options, given), options.out))


def _settings_for(options: Namespace, given: dict[str, Any] | None = None) -> Any:
    from workbench.parameters import read_settings
    from workbench.run import project_root

    return read_settings(options.parameters, options.assignments, given, project_root())


def report(options: Namespace) -> Answer:
    from workbench import batch

    the_run = _existing_run(options.run)
    page = batch.render_all(the_run)
    return Answer(f"Report: {page}", {"report": str(page), "complete": not batch.outdated(the_run)})


def compare(options: Namespace) -> Answer:
    from workbench.files import write_text
    from workbench.show.compare import page, text
    from workbench.steps.comparing import compare_runs

    comparison = compare_runs(options.first, options.second)
    if options.html:
        write_text(options.html, page(comparison))
    return Answer(text(comparison), comparison.to_json())


def export(options: Namespace) -> Answer:
    from workbench.steps.export import export_network

    formats = [name.strip() for name in options.format.split(",")]
    return Answer(*export_network(_existing_run(options.run), options.network, formats,
                                  force=options.force))  # fmt: skip


def verify(options: Namespace) -> Answer:
    from workbench.deploy.verify import verify as derive_again

    if not options.run.is_dir():
        raise InputError(f"{options.run} is not a folder. Give that of a run or of its bundle")
    found = derive_again(options.run)
    return Answer(found.text, found.figures, 0 if found.passed else 1)


def thresholds(options: Namespace) -> Answer:
    from workbench.steps.thresholds import apply_choice

    return Answer(apply_choice(_existing_run(options.run), options.choice))


def benchmark(options: Namespace) -> Answer:
    room = importlib.import_module(f"workbench.benchmarks.{options.name}")
    given = {"count": options.count, "run_folder": options.run, "folder": options.images}
    flags = dict(zip(given, ("--count", "--run", "--images"), strict=True))
    given = {name: value for name, value in given.items() if value is not None}
    for stranger in given.keys() - inspect.signature(room.run).parameters.keys():
        raise InputError(f"benchmark {options.name} takes no {flags[stranger]}. Leave it out")
    if options.count is not None and options.count < 1:
        raise InputError(f"--count is {options.count}; it must be 1 or more")
    figures = room.run(**given)
    return Answer(room.table(figures), figures)


def find_batch_size(options: Namespace) -> Answer:
    from workbench.train.batch_size import find_batch_size as search

    figures = search(_settings_for(options), options.network)
    return Answer(figures["advice"], figures)
