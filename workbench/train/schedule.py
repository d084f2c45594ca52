"""The learning rate over time, and when to stop. Plain numbers; knows no network."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from workbench.settings import ScheduleSettings
    from workbench.train.phases import Phase


class Schedule:
    """A learning rate by step; its state is what a resumed training needs."""

    def rate(self, step: int) -> float:
        raise NotImplementedError

    def observe(self, improved: bool) -> None:
        """Take notice of a finished epoch."""

    def state(self) -> dict[str, Any]:
        return {}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a saved state."""


@dataclass
class WarmupCosine(Schedule):
    """Climb in a line to `peak`, then fall along a half cosine to `min_lr`."""

    peak: float
    min_lr: float
    warmup_steps: int
    total_steps: int

    def rate(self, step: int) -> float:
        if step < self.warmup_steps:
            return self.peak * (step + 1) / self.warmup_steps
        share = (step - self.warmup_steps) / max(1, self.total_steps - self.warmup_steps)
        fall = 0.5 * (1 + math.cos(math.pi * min(1.0, share)))
        return self.min_lr + (self.peak - self.min_lr) * fall


@dataclass
class ReduceOnPlateau(Schedule):
    """Hold the rate; multiply it by `factor` after `patience` epochs without improvement."""

    lr: float
    min_lr: float
    factor: float
    patience: int
    wait: int = 0

    def rate(self, step: int) -> float:
        return self.lr

    def observe(self, improved: bool) -> None:
        self.wait = 0 if improved else self.wait + 1
        if self.wait >= self.patience:
            # A peak below min_lr is the user's choice; never raise it.
            self.lr = min(self.lr, max(self.lr * self.factor, self.min_lr))
            self.wait = 0

    def state(self) -> dict[str, Any]:
        return asdict(self)

    def restore(self, state: dict[str, Any]) -> None:
        self.lr, self.wait = state["lr"], state["wait"]


def make_schedule(settings: ScheduleSettings, phase: Phase, steps: int) -> Schedule:
    """Make the schedule of a phase of `steps` steps."""
    peak = phase.learning_rate
    min_lr = min(settings.min_lr, peak)
    if settings.name == "cosine":
        return WarmupCosine(peak, min_lr, round(settings.warmup_fraction * steps), steps)
    return ReduceOnPlateau(peak, min_lr, phase.reduce_lr_factor, phase.reduce_lr_patience)


@dataclass
class Progress:
    """How far a phase has come: everything beside tensors that a resumed run needs."""

    epoch: int = 0
    rows: list[dict[str, Any]] = field(default_factory=list)
    best: dict[str, Any] | None = None
    wait: int = 0
    stopped: str = ""

    def observe(self, row: dict[str, Any], monitor: str) -> bool:
        """Take the figures of a finished epoch; tell whether it is the best so far."""
        improved = self.best is None or rank(row, monitor) > rank(self.best, monitor)
        self.wait = 0 if improved else self.wait + 1
        self.best = dict(row) if improved else self.best
        self.rows.append(row)
        self.epoch = row["epoch"]
        return improved


def rank(row: dict[str, Any], monitor: str) -> tuple[float, float]:
    """Order epochs by the monitor; the validation loss breaks ties of figures that stand still."""
    value = -row["val_loss"] if monitor == "loss" else row[f"val_{monitor}"]
    undefined = value is None or math.isnan(value)
    return (-math.inf if undefined else value, -row["val_loss"])
