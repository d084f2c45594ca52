"""`python -m workbench COMMAND` gathers its inputs, calls one function and says what it found.

What computes is imported inside the commands, so that `--help` and `--dry-run` start in a second.
Exit codes: 0 done · 1 a step failed or a check says no · 2 wrong input · 130 interrupted
"""

from __future__ import annotations

import errno
import json
import logging
import os
import sys
import warnings
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from typing import Any, NoReturn

from workbench import __version__
from workbench.cli import measurements, photos, projects, results, runs
from workbench.errors import PlainLines, WorkbenchError, printable

INTERRUPTED = 130
FULL, FORBIDDEN = {errno.ENOSPC, errno.EDQUOT}, {errno.EROFS, errno.EACCES, errno.EPERM}


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


def show_log_lines() -> None:
    """Show our own lines on stderr; Pillow's warnings name no file, the audit does."""
    warnings.filterwarnings("ignore", module="PIL")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(PlainLines())
    logger = logging.getLogger("workbench")
    logger.handlers = [handler]
    logger.setLevel(logging.INFO)
    logger.propagate = False


def _answer(options: Namespace) -> int:
    answer = options.function(options)
    if getattr(options, "json", False):
        text = json.dumps(answer.figures, indent=2, allow_nan=False, ensure_ascii=False)
        print(text, flush=True)
    elif answer.text:
        print(printable(answer.text), flush=True)
    return answer.exit_code


def _fail(words: str, code: int = WorkbenchError.exit_code) -> int:
    print(f"error: {printable(words)}", file=sys.stderr)
    return code


def _explain(error: OSError) -> str:
    """Say what the machine refused: a full disk, a read-only folder, a name it cannot have."""
    place = f"{str(error.filename)[:200]}: " if error.filename else ""
    words = f"{place}{error.strerror or error}"
    if error.errno in FULL:
        return f"{words}. Make room there; the same command goes on from here"
    if error.errno in FORBIDDEN:
        return f"{words}. Give the same command again where you may write, or with the right to"
    return words


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

    for group in (runs, projects, results, photos, measurements):
        group.add_commands(command)
    return parser


def leave(code: int) -> NoReturn:
    """Exit with our code, also where Python's own last flush finds the reader gone."""
    try:
        if sys.stdout:
            sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(code)
