"""The batch door: `python -m workbench COMMAND`. Parses, calls one room, returns an exit code.

0 done · 1 a step failed · 2 the input or parameters are wrong · 130 interrupted
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from workbench import __version__, commands
from workbench.errors import WorkbenchError

INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    options = build_parser().parse_args(arguments)
    commands.show_log_lines()
    try:
        answer = options.command(options)
        _print_answer(answer, options)
    except WorkbenchError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from here", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        return 0  # whoever read our lines has seen enough
    except OSError as error:
        print(f"error: {_explain(error)}", file=sys.stderr)
        return WorkbenchError.exit_code
    return answer.exit_code


def _explain(error: OSError) -> str:
    """Say what the machine refused: a full disk, a read-only folder, a file where one must be."""
    place = f"{error.filename}: " if error.filename else ""
    return (
        f"{place}{error.strerror or error}. Files are written whole or not at all: put this right "
        "and give the same command again"
    )


def _print_answer(answer: commands.Answer, options: argparse.Namespace) -> None:
    if getattr(options, "json", False):
        text = json.dumps(answer.figures, indent=2, allow_nan=False, ensure_ascii=False)
        print(text, flush=True)
    elif answer.text:
        print(answer.text, flush=True)


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m workbench",
        description="From a folder of photos to a phone-ready INT8 classifier.",
        epilog="Exit codes: 0 done, 1 a step failed, 2 wrong input, 130 interrupted.",
    )
    parser.add_argument("--version", action="version", version=__version__)
    doors = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for add in (_run, _demo, _new, _prepare, _audit, _report, _compare, _export, _verify,
                _thresholds, _benchmark, _find_batch_size):  # fmt: skip
        add(doors)
    return parser


def _door(doors: Any, name: str, help: str, command: Any) -> argparse.ArgumentParser:
    door = doors.add_parser(name, help=help, description=help)
    door.set_defaults(command=command)
    return door


def _json(door: argparse.ArgumentParser) -> None:
    door.add_argument("--json", action="store_true", help="print the figures as JSON")


def _settings(door: argparse.ArgumentParser) -> None:
    door.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", dest="assignments",
        help="change one knob, like --set teacher.epochs_head=2 (repeatable)",
    )  # fmt: skip


def _run(doors: Any) -> None:
    door = _door(doors, "run", "run the notebooks 01 to 09 into outputs/<run>/", commands.run)
    door.add_argument("parameters", type=Path, help="parameter file; its name names the run")
    _settings(door)
    door.add_argument("--run", metavar="NAME", help="name of the run folder in outputs/")
    door.add_argument("--new", action="store_true", help="a new folder run_YYYYMMDD_HHMMSS")
    door.add_argument("--from", dest="first", metavar="STEP", help="start here, like 04")
    door.add_argument("--to", dest="last", metavar="STEP", help="stop after this step")
    door.add_argument("--only", metavar="STEP", help="this step alone")
    door.add_argument("--force", action="store_true", help="run steps that are up to date too")
    door.add_argument("--dry-run", action="store_true", help="say what would run and why")


def _demo(doors: Any) -> None:
    door = _door(doors, "demo", "draw the demo dataset into a folder", commands.demo)
    door.add_argument("folder", type=Path, nargs="?", default=Path("data/demo"))
    door.add_argument("--images", type=int, default=1400, help="how many (default 1400)")
    door.add_argument("--seed", type=int, default=1337)


def _new(doors: Any) -> None:
    door = _door(doors, "new", "start a project: parameters, notebooks, folders", commands.new)
    door.add_argument("folder", type=Path)


def _prepare(doors: Any) -> None:
    door = _door(doors, "prepare", "standardise raw photos into a new folder", commands.prepare)
    door.add_argument("source", type=Path)
    door.add_argument("destination", type=Path)
    door.add_argument("--size", type=int, default=600, help="longest side in pixels")
    door.add_argument("--quality", type=int, default=95, help="JPEG quality, 1 to 100")
    _json(door)


def _audit(doors: Any) -> None:
    door = _door(doors, "audit", "say whether a dataset is fit to train on", commands.audit)
    door.add_argument("folder", type=Path)
    door.add_argument("--parameters", type=Path, help="parameter file with the dataset's rules")
    door.add_argument("--out", type=Path, help="where to write audit.csv and audit.json")
    _settings(door)
    _json(door)


def _report(doors: Any) -> None:
    door = _door(doors, "report", "render a run's notebooks and index again", commands.report)
    door.add_argument("run", type=Path)
    _json(door)


def _compare(doors: Any) -> None:
    door = _door(doors, "compare", "compare two runs, paired image by image", commands.compare)
    door.add_argument("first", type=Path)
    door.add_argument("second", type=Path)
    door.add_argument("--html", type=Path, help="also write the comparison as a page")
    _json(door)


def _export(doors: Any) -> None:
    door = _door(doors, "export", "write a run's network in other formats", commands.export)
    door.add_argument("run", type=Path)
    door.add_argument("--network", choices=("student", "teacher"), default="student")
    door.add_argument("--format", default="float16", help="comma-separated: float16, "
                      "dynamic_range, onnx, torchscript, int8")  # fmt: skip
    door.add_argument("--force", action="store_true", help="INT8 of a network made for floats")
    _json(door)


def _verify(doors: Any) -> None:
    door = _door(doors, "verify", "derive every promised number again", commands.verify)
    door.add_argument("run", type=Path)
    _json(door)


def _thresholds(doors: Any) -> None:
    door = _door(doors, "thresholds", "apply thresholds chosen by a person", commands.thresholds)
    door.add_argument("run", type=Path)
    door.add_argument("choice", type=Path, help="threshold_recommendation.json from the explorer")


def _benchmark(doors: Any) -> None:
    door = _door(doors, "benchmark", "measure a part on this machine", commands.benchmark)
    door.add_argument("name", choices=sorted(commands.BENCHMARKS))
    door.formatter_class = argparse.RawDescriptionHelpFormatter
    door.epilog = "what each compares; what --count counts\n" + "\n".join(
        f"  {name:<12} {words}" for name, words in sorted(commands.BENCHMARKS.items())
    )
    door.add_argument("--run", type=Path, help="run folder, for calibration and latency")
    door.add_argument("--images", type=Path, help="folder of your own, for audit and pipeline")
    door.add_argument("--count", type=int, help="how many, see below")
    _json(door)


def _find_batch_size(doors: Any) -> None:
    door = _door(doors, "find-batch-size", "largest batch that fits", commands.find_batch_size)
    door.add_argument("parameters", type=Path)
    door.add_argument("--network", choices=("student", "teacher"), default="teacher")
    _settings(door)
    _json(door)


def _leave(code: int) -> NoReturn:
    """Exit with our code, also where Python's own last flush finds the reader gone."""
    try:
        if sys.stdout:
            sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(code)


if __name__ == "__main__":
    logging.captureWarnings(True)
    _leave(main())
