"""The one training loop: epochs, validation, the best weights, checkpoints and logs.

Teacher, student and quantization-aware training all pass through `fit_phase`. It knows no dataset
and no architecture; it gets a network and a feed, and a folder to write in.
"""

from __future__ import annotations

import logging
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import tensorflow as tf
import tf_keras as keras

from workbench.errors import StepError
from workbench.nets.lite import reset_randomness
from workbench.nets.weights import save_weights
from workbench.settings import Settings
from workbench.train.checkpoints import Checkpoint, Checkpoints
from workbench.train.devices import agreed, distributed, earliest
from workbench.train.distill import Objective
from workbench.train.feeds import Feed
from workbench.train.logs import Row, epoch_line, history_table, write_logs
from workbench.train.pace import paced
from workbench.train.schedule import Progress, Schedule, make_schedule
from workbench.train.step import TrainingStep
from workbench.train.tensorboard import TensorBoard
from workbench.train.validation import Validation

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
class Fitted:
    """What a phase ends with; the network holds the weights of the best epoch."""

    history: pd.DataFrame
    best: Row
    traces: int  # how often the training step was traced: once, or not at all when finished before


def fit_phase(
    network: keras.Model,
    phase: Phase,
    objective: Objective,
    feed: Feed,
    settings: Settings,
    folder: Path,
    *,
    fingerprint: str = "",
    strategy: tf.distribute.Strategy | None = None,
    report: logging.Logger = logger,
    bar: bool | None = None,
) -> Fitted:
    """Train a phase to its end from wherever it stands; leave the best weights in `network`."""
    folder = Path(folder)
    strategy = strategy or tf.distribute.get_strategy()
    fit = _Fit(
        network=network,
        phase=phase,
        objective=objective,
        feed=feed,
        settings=settings,
        folder=folder,
        strategy=strategy,
        report=report,
        bar=bar,
        checkpoints=Checkpoints(folder / "checkpoints" / phase.name, fingerprint),
    )
    try:
        return fit.to_the_end()
    except tf.errors.ResourceExhaustedError:
        raise StepError(_memory_message(phase, feed)) from None
    except tf.errors.UnimplementedError as error:
        if "determini" not in str(error).lower():
            raise
        raise StepError(
            f"{phase.name}: this device has no deterministic form of an operation "
            f"({str(error).splitlines()[0]}). Set run.deterministic: false."
        ) from None


def _memory_message(phase: Phase, feed: Feed) -> str:
    smaller = f"try batch_size {feed.batch_size // 2}"
    advice = smaller if feed.batch_size > 1 else "use a smaller input_size"
    return (
        f"{phase.name}: a batch of {feed.batch_size} images does not fit in the memory of the "
        f"device; {advice}, or let `python -m workbench find-batch-size` measure what fits."
    )


@dataclass
class _Fit:
    """A phase under way."""

    network: keras.Model
    phase: Phase
    objective: Objective
    feed: Feed
    settings: Settings
    folder: Path
    strategy: tf.distribute.Strategy
    report: logging.Logger
    bar: bool | None
    checkpoints: Checkpoints
    progress: Progress = field(default_factory=Progress)
    best_weights: list[np.ndarray] = field(default_factory=list)
    step: TrainingStep | None = None

    def __post_init__(self) -> None:
        self.validation = Validation(self.feed, self.objective.loss, self.settings)

    def to_the_end(self) -> Fitted:
        self.checkpoints.sweep()
        checkpoint = self._latest()
        if checkpoint:
            self._take_up(checkpoint)
        if not self._finished():
            self._start(checkpoint)
        while not self._finished():
            self._epoch()
        self.network.set_weights(self.best_weights)
        traces = self.step.traces if self.step else 0
        return Fitted(history_table(self.progress.rows), self.progress.best, traces)

    def _latest(self) -> Checkpoint | None:
        """Read the newest checkpoint; several machines go back to one that all of them have."""
        checkpoint = self.checkpoints.latest()
        reached = _epoch_of(checkpoint)
        common = earliest(self.strategy, reached)
        if common < reached:
            checkpoint = self.checkpoints.latest(until=common)
        if _epoch_of(checkpoint) != common:
            raise StepError(
                f"{self.phase.name}: another machine stopped after epoch {common}, of which "
                f"{self.checkpoints.folder} holds nothing. Remove the folder on every machine."
            )
        return checkpoint

    def _take_up(self, checkpoint: Checkpoint) -> None:
        self.progress = Progress(**checkpoint.state["progress"])
        self.best_weights = checkpoint.arrays["best"] or checkpoint.arrays["weights"]
        self._write_logs()
        done = "was finished" if self._finished() else "goes on"
        self.report.info("%s %s after epoch %d", self.phase.name, done, self.progress.epoch)

    def _start(self, checkpoint: Checkpoint | None) -> None:
        """Make everything that trains; the stream starts at the epoch that comes next."""
        training = self.settings.training
        self.batches = self.feed.training(self.phase.first_epoch + self.progress.epoch)
        self.iterator = iter(distributed(self.strategy, self.batches.dataset))
        self.schedule = self._schedule()
        self.step = TrainingStep(
            self.network, self.objective, training, self.phase.weight_decay, self.strategy
        )
        self.board = TensorBoard(self.folder / "logs/tensorboard" / self.phase.name, training)
        if checkpoint:
            self.schedule.restore(checkpoint.state["schedule"])
            self.step.restore(checkpoint.arrays)

    def _schedule(self) -> Schedule:
        return make_schedule(
            self.settings.schedule,
            peak=self.phase.learning_rate,
            steps=self.phase.epochs * self.batches.steps_per_epoch,
            factor=self.phase.reduce_lr_factor,
            patience=self.phase.reduce_lr_patience,
        )

    def _finished(self) -> bool:
        return self.progress.epoch >= self.phase.epochs or bool(self.progress.stopped)

    def _epoch(self) -> None:
        started = time.monotonic()
        index = self.phase.first_epoch + self.progress.epoch
        reset_randomness(self.network, self.settings.seed, index)
        loss = self._train()
        with self.step.averaged():
            row = self._row(loss, started)
            improved = self.progress.observe(row, self.settings.training.monitor)
            weights = self.network.get_weights()
            self.best_weights = weights if improved else self.best_weights
            self._keep_weights(weights)
        self.schedule.observe(improved)
        self._stop_early()
        self._save()
        self._write_logs()
        self.board.write_epoch(row, self.network, self.validation.examples)
        self.report.info("%s", epoch_line(row, self.phase.epochs))

    def _train(self) -> float:
        """Train an epoch; return its mean loss."""
        steps, epoch = self.batches.steps_per_epoch, self.progress.epoch
        title = f"{self.phase.name} epoch {epoch + 1}/{self.phase.epochs}"
        rates = [self.schedule.rate(epoch * steps + index) for index in range(steps)]
        losses = []
        for index in paced(steps, title, self.report, self.bar):
            self.step.set_rate(rates[index])
            losses.append(self.step.run(self.iterator))
        losses = np.asarray([loss.numpy() for loss in losses])
        self._refuse_nan(losses)
        self.board.write_batches(epoch * steps, losses, rates)
        return float(np.mean(losses, dtype=np.float64))

    def _refuse_nan(self, losses: np.ndarray) -> None:
        bad = np.flatnonzero(~np.isfinite(losses))
        if len(bad):
            raise StepError(
                f"{self.phase.name}: the loss became {losses[bad[0]]} in epoch "
                f"{self.progress.epoch + 1}, step {bad[0] + 1}. The checkpoint of the epoch before "
                "is kept. Lower the learning rate or training.clip_norm."
            )

    def _row(self, loss: float, started: float) -> Row:
        return {
            "phase": self.phase.name,
            "epoch": self.progress.epoch + 1,
            "loss": loss,
            **agreed(self.strategy, self.validation.figures(self.network)),
            "lr": self.step.rate,
            "seconds": round(time.monotonic() - started, 3),
        }

    def _stop_early(self) -> None:
        patience = self.phase.early_stopping_patience
        if self.progress.wait >= patience:
            monitor = self.settings.training.monitor
            self.progress.stopped = f"{patience} epochs without a better {monitor}"
            self.report.info("%s stops: %s", self.phase.name, self.progress.stopped)

    def _save(self) -> None:
        """Write a checkpoint when one is due."""
        training, epoch = self.settings.training, self.progress.epoch
        if not (self._finished() or epoch % training.checkpoint_every_epochs == 0):
            return
        arrays = self.step.arrays()
        # The best weights are most often the present ones; they are not written twice.
        same = self.progress.best["epoch"] == epoch and not training.ema_decay
        arrays["best"] = [] if same else self.best_weights
        state = {"progress": asdict(self.progress), "schedule": self.schedule.state()}
        self.checkpoints.save(epoch, Checkpoint(arrays, state))

    def _keep_weights(self, weights: list[np.ndarray]) -> None:
        """Keep every Nth epoch for good, beside the checkpoints that come and go."""
        every, epoch = self.settings.training.keep_every_epochs, self.progress.epoch
        if every and epoch % every == 0:
            path = self.checkpoints.folder / f"kept_{epoch:05d}.h5"
            save_weights(self.network, path, weights)

    def _write_logs(self) -> None:
        write_logs(self.folder / "logs", self.phase.name, self.progress.rows)


def _epoch_of(checkpoint: Checkpoint | None) -> int:
    return checkpoint.state["progress"]["epoch"] if checkpoint else 0
