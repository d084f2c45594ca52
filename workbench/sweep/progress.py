"""How far a run has come and how good it is, from what it writes itself; validation only."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any

from workbench.artifacts import QuantizationLadder, SweepRank
from workbench.run import Run
from workbench.train.phases import phases
from workbench.train.schedule import rank as rank_of_epoch


@dataclass(frozen=True)
class Epoch:
    """One epoch of the network that ranks."""

    title: str
    number: int  # over warmup and finetune, from 0
    value: float


def epochs(run: Run, rank: SweepRank) -> list[Epoch]:
    """Read the finished epochs of the network that ranks; of a phone file, of its student."""
    found = []
    for phase in phases(run.settings, _role(rank)):
        for row in _rows(run, phase.name):
            value = row[f"val_{rank.figure}"]
            if value is not None and math.isfinite(value):
                number = phase.first_epoch + row["epoch"] - 1
                found.append(Epoch(f"{phase.name} epoch {row['epoch']}", number, value))
    return found


def final_value(run: Run, rank: SweepRank) -> float | None:
    """Return the figure that ranks a finished run: that of the weights it kept."""
    if rank.of == "phone":
        ladder = QuantizationLadder.read(run.folder)
        rung = next(one for one in ladder.rungs if one.rung == ladder.chosen)
        return getattr(rung, rank.figure)
    last = [phase for phase in phases(run.settings, _role(rank)) if phase.epochs][-1]
    monitor = run.settings.training.monitor
    kept = max(_rows(run, last.name), key=lambda row: rank_of_epoch(row, monitor), default=None)
    return kept[f"val_{rank.figure}"] if kept else None


def _role(rank: SweepRank) -> Any:
    return "teacher" if rank.of == "teacher" else "student"


def _rows(run: Run, phase: str) -> list[dict[str, Any]]:
    path = run.path(f"logs/{phase}.jsonl")
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]
