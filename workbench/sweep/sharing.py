"""Steps that several runs have in common: computed by the first that needs them, taken over then.

Which steps are equal is known beforehand from their keys (`freshness.keys`). A run is cut into
stretches, so that others wait for no more than they need; each key is computed in the folder of one
run alone, whose lock keeps a second process out.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from workbench import status
from workbench.run import Run
from workbench.steps import Step

Keys = dict[str, str]  # of a run's steps, by number
LARGE_BYTES = 1 << 18  # weights and checkpoints are replaced, never written into: a link will do


@dataclass(frozen=True)
class Stretch:
    """Consecutive steps of a run that one process does, after what it takes over."""

    run: str
    steps: tuple[str, ...]
    taken: dict[str, str]  # step: the run that computes it

    @property
    def name(self) -> str:
        return f"{self.run} {self.steps[0]}-{self.steps[-1]}"


class Sharing:
    """Who computes what; runs are added in order, the first to need a key computes it."""

    def __init__(self, steps: tuple[Step, ...], wanted: Callable[[str, str], Collection]) -> None:
        self.steps = [step.number for step in steps]
        self.wanted = wanted  # (step, key) to whoever may take it over: cut where that changes
        self.owners: dict[tuple[str, str], str] = {}

    def add(self, run: str, keys: Keys) -> list[Stretch]:
        """Cut a run into stretches; from now on others can take over what it computes."""
        stretches: list[Stretch] = []
        steps: list[str] = []
        taken: dict[str, str] = {}
        before: Collection = ()
        for number in self.steps:
            key = number, keys[number]
            owner = self.owners.setdefault(key, run)
            sharers = self.wanted(*key)
            computed = [one for one in steps if one not in taken]
            if computed and (owner != run or (before and sharers != before)):
                stretches.append(Stretch(run, tuple(steps), taken))
                steps, taken = [], {}
            steps.append(number)
            if owner != run:
                taken[number] = owner
            before = sharers if owner == run else ()
        return [*stretches, Stretch(run, tuple(steps), taken)]


def take_over(source: Run, target: Run, step: Step) -> None:
    """Copy what a step of one run left into another, as if it had been computed there."""
    record = status.state_of(source.folder, step)
    names = [*record["outputs"], *record.get("page", {})]
    for phase in step.phases(target.settings):
        logs = (f"logs/{phase.name}{suffix}" for suffix in (".csv", ".jsonl"))
        names += [f"checkpoints/{phase.name}", *logs]
    for name in names:
        if source.path(name).exists():
            _put(source.path(name), target.path(name))
    status.record(target.folder, step, **record)


def _put(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(source, target, copy_function=_place)
    else:
        target.unlink(missing_ok=True)
        _place(source, target)


def _place(source: str | Path, target: str | Path) -> None:
    """Link what is large, where the file system can; copy the rest."""
    if os.path.getsize(source) > LARGE_BYTES:
        with suppress(OSError):
            os.link(source, target)
            return
    shutil.copy2(source, target)


def computed(stretches: list[Stretch]) -> dict[str, int]:
    """Count how often each step is computed."""
    numbers = [n for one in stretches for n in one.steps if n not in one.taken]
    return {n: numbers.count(n) for n in sorted(set(numbers))}
