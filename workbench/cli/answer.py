"""What a command says, and the flags that several commands share."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Answer:
    """What a command found: words for a person, figures for a script."""

    text: str = ""
    figures: dict[str, Any] = field(default_factory=dict)
    exit_code: int = 0


def add_set(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", dest="assignments",
        help="change one knob, like --set teacher.epochs_head=2 (repeatable)",
    )  # fmt: skip


def settings_for(options: Namespace, given: dict[str, Any] | None = None) -> Any:
    from workbench.parameters import read_settings
    from workbench.run import project_root

    return read_settings(options.parameters, options.assignments, given, project_root())
