"""The one training loop: epochs, validation, the best weights, checkpoints and logs.

Teacher, student and quantization-aware training all pass through `fit_phase`. It knows no dataset
and no network; it gets both, and a folder to write in.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import workbench  # noqa: F401

# isort: split
import tensorflow as tf
import tf_keras as keras

from workbench.errors import StepError
from workbench.nets.randomness import reset_randomness
from workbench.settings import Settings
from workbench.train.checkpoints import Checkpoint, Checkpoints
from workbench.train.distill import Objective
from workbench.train.logs import history_table, write_logs
from workbench.train.losses import Loss
from workbench.train.monitors import validation_figures
from workbench.train.predict import logits_of_batches
from workbench.train.schedule import Progress, make_schedule
from workbench.train.step import TrainingStep

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Phase:
    """How one phase trains. `first_epoch` is where its augmentation epochs start to count."""

    name: str
    epochs: int
    learning_rate: float
    weight_decay: float
    early_stopping_patience: int
    reduce_lr_patience: int
    reduce_lr_factor: float
    first_epoch: int = 0


@dataclass(frozen=True)
class Feed:
    """Where the images of a phase come from."""

    training: Callable[[int], Any]  # the first epoch to TrainingBatches
    validation: tf.data.Dataset  # elements (views, targets, mask), in order, nothing dropped
    targets: np.ndarray  # [N, C] of the validation images
    mask: np.ndarray  # [N, C]


@dataclass(frozen=True)
class Fitted:
    """What a phase ends with; the network holds the weights of the best epoch."""

    history: pd.DataFrame
    best: dict[str, Any]
    traces: int


def fit_phase(
    network: keras.Model,
    phase: Phase,
    objective: Objective,
    loss: Loss,
    feed: Feed,
    settings: Settings,
    folder: Path,
    *,
    fingerprint: str = "",
    strategy: tf.distribute.Strategy | None = None,
    report: logging.Logger = logger,
) -> Fitted:
    """Train a phase to its end from wherever it stands; leave the best weights in `network`."""
    strategy = strategy or tf.distribute.get_strategy()
    fit = _Fit(network, phase, objective, loss, feed, settings, Path(folder), strategy, report)
    return fit.to_the_end(fingerprint)


class _Fit:
    """A phase under way: the compiled step, the schedule, the progress and the best weights."""

    def __init__(self, network, phase, objective, loss, feed, settings, folder, strategy, report):
        self.network, self.phase, self.objective, self.loss = network, phase, objective, loss
        self.feed, self.settings, self.folder = feed, settings, folder
        self.strategy, self.report = strategy, report
        self.progress = Progress()
        self.best_weights: list[np.ndarray] = []

    def to_the_end(self, fingerprint: str) -> Fitted:
        self.checkpoints = Checkpoints(self.folder / "checkpoints" / self.phase.name, fingerprint)
        checkpoint = self.checkpoints.latest()
        if checkpoint:
            self._restore_progress(checkpoint)
        if not self._finished():
            self._start(checkpoint)
        while not self._finished():
            self._epoch()
        self.network.set_weights(self.best_weights)
        history = history_table(self.progress.rows)
        return Fitted(history, self.progress.best, self.step.traces if self.step else 0)

    step: TrainingStep | None = None

    def _start(self, checkpoint: Checkpoint | None) -> None:
        phase = self.phase
        self.batches = self.feed.training(phase.first_epoch + self.progress.epoch)
        self.iterator = iter(self.strategy.experimental_distribute_dataset(self.batches.dataset))
        self.schedule = make_schedule(
            self.settings.schedule,
            peak=phase.learning_rate,
            steps=phase.epochs * self.batches.steps_per_epoch,
            factor=phase.reduce_lr_factor,
            patience=phase.reduce_lr_patience,
        )
        self.step = TrainingStep(
            self.network, self.objective, self.settings.training, phase.weight_decay, self.strategy
        )
        if checkpoint:
            self.schedule.restore(checkpoint.state["schedule"])
            self.step.restore(checkpoint.arrays)

    def _finished(self) -> bool:
        return self.progress.epoch >= self.phase.epochs or bool(self.progress.stopped)

    def _epoch(self) -> None:
        started = time.monotonic()
        index = self.phase.first_epoch + self.progress.epoch
        reset_randomness(self.network, self.settings.seed, index)
        losses = self._train_epoch()
        with self.step.averaged():
            row = self._row(losses, started)
            improved = self.progress.observe(row, self.settings.training.monitor)
            if improved:
                self.best_weights = self.network.get_weights()
        self.schedule.observe(improved)
        self._stop_early()
        self._write()

    def _train_epoch(self) -> np.ndarray:
        steps = self.batches.steps_per_epoch
        losses = []
        for index in range(steps):
            rate = self.schedule.rate(self.progress.epoch * steps + index)
            self.step.optimizer.learning_rate = rate
            losses.append(self.step.run(self.iterator))
        losses = np.asarray([loss.numpy() for loss in losses])
        self._refuse_nan(losses)
        return losses

    def _refuse_nan(self, losses: np.ndarray) -> None:
        bad = np.flatnonzero(~np.isfinite(losses))
        if len(bad):
            raise StepError(
                f"{self.phase.name}: the loss became {losses[bad[0]]} in epoch "
                f"{self.progress.epoch + 1}, step {bad[0] + 1}. The checkpoint of the epoch before "
                "is kept. Lower the learning rate, or lower training.clip_norm."
            )

    def _row(self, losses: np.ndarray, started: float) -> dict[str, Any]:
        logits = logits_of_batches(self.network, self.feed.validation)
        targets, mask = self.feed.targets, self.feed.mask
        per_image = self.loss(tf.constant(logits), tf.constant(targets), tf.constant(mask))
        single_label = self.settings.task == "single_label"
        return {
            "phase": self.phase.name,
            "epoch": self.progress.epoch + 1,
            "loss": float(np.mean(losses, dtype=np.float64)),
            "val_loss": float(np.mean(per_image.numpy(), dtype=np.float64)),
            **validation_figures(logits, targets, mask, single_label=single_label),
            "lr": float(self.step.optimizer.learning_rate.numpy()),
            "seconds": round(time.monotonic() - started, 3),
        }

    def _stop_early(self) -> None:
        patience = self.phase.early_stopping_patience
        if self.progress.wait >= patience:
            self.progress.stopped = f"{patience} epochs without a better {self._monitor()}"

    def _monitor(self) -> str:
        return self.settings.training.monitor

    def _write(self) -> None:
        write_logs(self.folder / "logs", self.phase.name, self.progress.rows)
        row, epochs = self.progress.rows[-1], self.phase.epochs
        self.report.info("%s", epoch_line(row, epochs))
        every = self.settings.training.checkpoint_every_epochs
        if self._finished() or self.progress.epoch % every == 0:
            self._save()

    def _save(self) -> None:
        arrays = self.step.arrays()
        best_is_now = self.progress.best["epoch"] == self.progress.epoch and not self.step.average
        arrays["best"] = [] if best_is_now else self.best_weights
        state = {"progress": asdict(self.progress), "schedule": self.schedule.state()}
        self.checkpoints.save(self.progress.epoch, Checkpoint(arrays, state))

    def _restore_progress(self, checkpoint: Checkpoint) -> None:
        self.progress = Progress(**checkpoint.state["progress"])
        self.best_weights = checkpoint.arrays["best"] or checkpoint.arrays["weights"]
        write_logs(self.folder / "logs", self.phase.name, self.progress.rows)
        self.report.info("%s: resumed after epoch %d", self.phase.name, self.progress.epoch)


def epoch_line(row: dict[str, Any], epochs: int) -> str:
    """Describe a finished epoch in one line, with the time that is left at this pace."""
    minutes, seconds = divmod(round((epochs - row["epoch"]) * row["seconds"]), 60)
    return (
        f"{row['phase']} epoch {row['epoch']}/{epochs}: loss {row['loss']:.4f}, "
        f"val_loss {row['val_loss']:.4f}, F1 {row['val_f1_macro']:.4f}, mAP {row['val_map']:.4f}, "
        f"lr {row['lr']:.2e}, {row['seconds']:.1f} s, about {minutes} min {seconds:02d} s left"
    )
