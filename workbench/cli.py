"""The command line: `python -m workbench COMMAND` gathers its inputs and calls one function.

What computes is imported inside the commands, so that `--help` and `--dry-run` start in a second.
Exit codes: 0 done · 1 a step failed or a check says no · 2 wrong input · 130 interrupted
"""

from __future__ import annotations

import argparse
import errno
import importlib
import inspect
import json
import logging
import os
import shutil
import sys
import time
import warnings
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from workbench import __version__
from workbench.errors import InputError, PlainLines, SettingsError, WorkbenchError, printable

log = logging.getLogger(__name__)
INTERRUPTED = 130

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
    handler.setFormatter(PlainLines())
    logger = logging.getLogger("workbench")
    logger.handlers = [handler]
    logger.setLevel(logging.INFO)
    logger.propagate = False


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
    from workbench.run import CONFIG_NAME, check_run_name, project_root, resolve_run, run_folder

    root = project_root()
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
    return resolve_run(folder, root, file, options.assignments)


def sweep(options: Namespace) -> Answer:
    from workbench.run import project_root
    from workbench.sweep import execution
    from workbench.sweep.spec import read_spec

    plan = execution.plan(
        read_spec(options.file), options.run or options.file.stem, project_root(),
        options.first, options.last,
    )  # fmt: skip
    if options.dry_run:
        return Answer("\n".join(execution.dry_run(plan)))
    found = execution.run(plan, options.scheduler, options.workers)
    failed = any(trial.state == "failed" for trial in found.trials)
    return Answer("\n".join(execution.closing_lines(found)), found.to_json(), int(failed))


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

    done = standardise(
        options.source, options.destination, options.size, options.quality, options.frames
    )
    return Answer(done.summary, done.figures)


def audit(options: Namespace) -> Answer:
    from workbench.data.audit.report import audit_folder

    given = {"dataset": {"dir": str(options.folder.resolve())}}  # its config.yaml has a say
    if options.parameters is None:
        given["num_classes"] = "auto"  # an audit counts the classes itself
    settings = _settings_for(options, given)
    text, figures = audit_folder(options.folder, settings, options.out)
    if options.scores:
        from workbench.folds import dispute

        words, disputed = dispute(options.scores, settings, options.out)
        text, figures = f"{text}\n{words}", figures | {"label_errors": disputed}
    return Answer(text, figures)


def _settings_for(options: Namespace, given: dict[str, Any] | None = None) -> Any:
    from workbench.parameters import read_settings
    from workbench.run import project_root

    return read_settings(options.parameters, options.assignments, given, project_root())


def report(options: Namespace) -> Answer:
    from workbench import batch
    from workbench.run import existing_run

    the_run = existing_run(options.run)
    page = batch.render_all(the_run)
    return Answer(f"Report: {page}", {"report": str(page), "complete": not batch.outdated(the_run)})


def compare(options: Namespace) -> Answer:
    from workbench.compare import compare_runs
    from workbench.files import check_folder, write_text
    from workbench.show.differences import page, text

    for folder in (options.first, *options.others):
        check_folder(folder)
    found = compare_runs(options.first, *options.others)
    if options.html:
        write_text(options.html, page(found))
    figures = [comparison.to_json() for comparison in found]
    return Answer(text(found), figures[0] if len(found) == 1 else {"comparisons": figures})


def leaderboard(options: Namespace) -> Answer:
    from workbench.files import write_text
    from workbench.leaderboard import leaderboard as rank
    from workbench.show.standings import page, text

    board = rank(*options.places, figure=options.by, network=options.network)
    alone = options.places[0] if len(options.places) == 1 else None
    html = options.html or (alone / "leaderboard.html" if alone else None)
    csv = options.csv or (alone / "leaderboard.csv" if alone else None)
    for path, written in ((html, page), (csv, lambda board: board.csv())):
        if path:
            write_text(path, written(board))
    written = "".join(f"\n{path}" for path in (html, csv) if path)
    return Answer(f"{text(board)}\n{written}", board.to_json())


def folds(options: Namespace) -> Answer:
    from workbench.folds import OUT_OF_FOLD, join, read_folds, report, write_out_of_fold

    found = read_folds(options.places)
    answers = join(found)
    words, figures = report(found)
    path = options.out or next(iter(found.runs.values())).parent / OUT_OF_FOLD
    write_out_of_fold(answers, path)
    figures |= {"file": str(path), "images": len(answers.filepaths)}
    return Answer(f"{words}\n\n{path}", figures | {"networks": list(answers.logits)})


def export(options: Namespace) -> Answer:
    from workbench.deploy.formats import export_network
    from workbench.run import existing_run

    formats = [name.strip() for name in options.format.split(",")]
    the_run = existing_run(options.run)
    network = options.network or the_run.settings.product.network
    return Answer(*export_network(the_run, network, formats, force=options.force))


def verify(options: Namespace) -> Answer:
    from workbench.deploy.verify import verify as derive_again

    if not options.run.is_dir():
        raise InputError(f"{options.run} is not a folder. Give that of a run or of its bundle")
    found = derive_again(options.run)
    return Answer(found.text, found.figures, 0 if found.passed else 1)


def thresholds(options: Namespace) -> Answer:
    from workbench.decide.choice import apply_choice
    from workbench.run import existing_run

    run = existing_run(options.run)
    with run.locked():
        return Answer(apply_choice(run.folder, options.choice))


def benchmark(options: Namespace) -> Answer:
    module = importlib.import_module(f"workbench.benchmarks.{options.name}")
    given = {"count": options.count, "run_folder": options.run, "folder": options.images}
    flags = dict(zip(given, ("--count", "--run", "--images"), strict=True))
    given = {name: value for name, value in given.items() if value is not None}
    for extra in given.keys() - inspect.signature(module.run).parameters.keys():
        raise InputError(f"benchmark {options.name} takes no {flags[extra]}. Leave it out")
    if options.count is not None and options.count < 1:
        raise InputError(f"--count is {options.count}; it must be 1 or more")
    figures = module.run(**given)
    return Answer(module.table(figures), figures)


def find_batch_size(options: Namespace) -> Answer:
    from workbench.train.batch_size import find_batch_size as search

    figures = search(_settings_for(options), options.network)
    return Answer(figures["advice"], figures)


def main(arguments: Sequence[str] | None = None) -> int:
    options = build_parser().parse_args(arguments)
    show_log_lines()
    if options.debug:
        return _answer(options)
    try:
        return _answer(options)
    except WorkbenchError as error:
        return _fail(str(error), error.exit_code)
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from here", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        return 0  # whoever read our lines has seen enough
    except OSError as error:
        return _fail(_explain(error))
    except MemoryError:
        return _fail("there is not enough memory for this. Close what else runs, or take less data")
    except Exception as error:  # noqa: BLE001  (a person reads a line, whatever it was)
        words = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        return _fail(f"{words}. Nobody foresaw this: the same command with --debug says where")


def _fail(words: str, code: int = WorkbenchError.exit_code) -> int:
    print(f"error: {printable(words)}", file=sys.stderr)
    return code


def _answer(options: Namespace) -> int:
    answer = options.function(options)
    if getattr(options, "json", False):
        text = json.dumps(answer.figures, indent=2, allow_nan=False, ensure_ascii=False)
        print(text, flush=True)
    elif answer.text:
        print(printable(answer.text), flush=True)
    return answer.exit_code


REFUSALS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM}


def _explain(error: OSError) -> str:
    """Say what the machine refused: a full disk, a read-only folder, a name it cannot have."""
    place = f"{str(error.filename)[:200]}: " if error.filename else ""
    words = f"{place}{error.strerror or error}"
    if error.errno not in REFUSALS:
        return words
    return (
        f"{words}. Files are written whole or not at all: put this right and give the same "
        "command again"
    )


def build_parser() -> ArgumentParser:
    parser = ArgumentParser(
        prog="python -m workbench",
        description="From a folder of photos to a phone-ready INT8 classifier.",
        epilog="Exit codes: 0 done, 1 a step failed or a check says no, 2 wrong input, "
               "130 interrupted.",
    )  # fmt: skip
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    def command(name: str, words: str, function: Any, *, json: bool = True) -> ArgumentParser:
        added = commands.add_parser(name, help=words, description=words)
        added.set_defaults(function=function)
        added.add_argument("--debug", action="store_true", help="show a failure's traceback")
        if json:
            added.add_argument("--json", action="store_true", help="print the figures as JSON")
        return added

    _add_run(command("run", "run the notebooks 01 to 09 into outputs/<run>/", run, json=False))
    _add_sweep(command("sweep", "compute many runs: a grid, seeds, folds or a search", sweep))
    _add_projects(command)
    _add_results(command)
    _add_measurements(command)
    return parser


def _add_set(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", dest="assignments",
        help="change one knob, like --set teacher.epochs_head=2 (repeatable)",
    )  # fmt: skip


def _add_run(parser: ArgumentParser) -> None:
    add = parser.add_argument
    add("parameters", type=Path, nargs="?", help="parameter file; its name names the run")
    _add_set(parser)
    add("--run", metavar="NAME", help="name of the run folder in outputs/; a run that exists "
        "remembers its parameter file")  # fmt: skip
    add("--new", action="store_true", help="a new folder run_YYYYMMDD_HHMMSS")
    add("--out", metavar="DIR", help="the run folder itself, like outputs/my_sweep/seed-1")
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


def _add_projects(command: Any) -> None:
    parser = command("demo", "draw the demo dataset into a folder", demo)
    parser.add_argument("folder", type=Path, nargs="?", default=Path("data/demo"))
    parser.add_argument("--images", type=int, default=1400, help="how many (default 1400)")
    parser.add_argument("--seed", type=int, default=1337)

    parser = command("new", "start a project: parameters, notebooks, folders", new, json=False)
    parser.add_argument("folder", type=Path)

    parser = command("prepare", "standardise raw photos into a new folder", prepare)
    parser.add_argument("source", type=Path)
    parser.add_argument("destination", type=Path)
    parser.add_argument("--size", type=int, default=600, help="longest side in pixels")
    parser.add_argument("--quality", type=int, default=95, help="JPEG quality, 1 to 100")
    frames = "take so many frames, evenly spaced, of every video; the clip becomes their group"
    parser.add_argument("--frames", type=int, default=0, metavar="N", help=frames)

    parser = command("audit", "say whether a dataset is fit to train on", audit)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--parameters", type=Path, help="parameter file with the dataset's rules")
    parser.add_argument("--out", type=Path, help="where to write audit.csv and audit.json")
    parser.add_argument("--scores", type=Path, help="out_of_fold.npz of a k-fold: name the labels "
                        "that its networks dispute")  # fmt: skip
    _add_set(parser)


def _add_results(command: Any) -> None:
    parser = command("report", "render a run's notebooks and index again", report)
    parser.add_argument("run", type=Path)

    parser = command("compare", "compare finished runs with the first, on test, paired", compare)
    parser.add_argument("first", type=Path, metavar="RUN")
    parser.add_argument("others", type=Path, nargs="+", metavar="RUN")
    parser.add_argument("--html", type=Path, help="also write the comparison as a page")

    parser = command("leaderboard", "rank runs on validation: a sweep, or any runs", leaderboard)
    parser.add_argument("places", type=Path, nargs="+", metavar="FOLDER",
                        help="run folders, or one folder that holds them")  # fmt: skip
    parser.add_argument("--by", metavar="FIGURE", help="f1_macro (the default), f1_micro, map, "
                        "roc_auc_macro, exact_match, hamming_loss, calibration_error, "
                        "accuracy")  # fmt: skip
    parser.add_argument("--network", choices=("teacher", "student", "phone"),
                        help="rank by this network; the furthest that two runs have")  # fmt: skip
    parser.add_argument("--html", type=Path, help="the page; FOLDER/leaderboard.html of one folder")
    parser.add_argument("--csv", type=Path, help="the table; FOLDER/leaderboard.csv of one folder")

    parser = command("folds", "join the runs of a k-fold: spread, out-of-fold scores", folds)
    parser.add_argument("places", type=Path, nargs="+", metavar="FOLDER",
                        help="the runs of the folds, or one folder that holds them")  # fmt: skip
    parser.add_argument("--out", type=Path, help="where to keep the scores (out_of_fold.npz beside "
                        "the runs)")  # fmt: skip

    parser = command("export", "write a run's network in other formats", export)
    parser.add_argument("run", type=Path)
    parser.add_argument("--network", choices=("student", "teacher"), help="default: what ships")
    parser.add_argument("--format", default="float16", help="comma-separated: float16, "
                        "dynamic_range, onnx, torchscript, int8")  # fmt: skip
    parser.add_argument("--force", action="store_true", help="INT8 of a network made for floats")

    parser = command("verify", "derive every number of the bundle again", verify)
    parser.add_argument("run", type=Path)

    parser = command("thresholds", "apply thresholds chosen by a person", thresholds, json=False)
    parser.add_argument("run", type=Path)
    parser.add_argument("choice", type=Path, help="threshold_recommendation.json of the explorer")


def _add_measurements(command: Any) -> None:
    parser = command("benchmark", "measure a part on this machine", benchmark)
    parser.add_argument("name", choices=sorted(BENCHMARKS))
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = "what each compares; what --count counts\n" + "\n".join(
        f"  {name:<12} {words}" for name, words in sorted(BENCHMARKS.items())
    )
    parser.add_argument("--run", type=Path, help="run folder, for calibration and latency")
    parser.add_argument("--images", type=Path, help="folder of your own, for audit and pipeline")
    parser.add_argument("--count", type=int, help="how many, see below")

    parser = command("find-batch-size", "largest batch that fits", find_batch_size)
    parser.add_argument("parameters", type=Path)
    parser.add_argument("--network", choices=("student", "teacher"), default="teacher")
    _add_set(parser)


def leave(code: int) -> NoReturn:
    """Exit with our code, also where Python's own last flush finds the reader gone."""
    try:
        if sys.stdout:
            sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(code)
