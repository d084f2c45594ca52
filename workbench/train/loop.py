"""The one training loop: a feed of images, epochs, validation, the best weights, checkpoints, logs.

Teacher, student and quantization-aware training all pass through `fit`. A phase that stands
finished is loaded, one that was interrupted goes on, and one of other settings, code, network, loss
or images trains anew while the earlier one is kept aside.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import tensorflow as tf
import tf_keras as keras

from workbench.data.pipeline import EpochViews, evaluation_batches, plain_errors, training_batches
from workbench.data.views import Augment, View
from workbench.decide import outcomes
from workbench.errors import SettingsError, StepError
from workbench.fingerprint import value_digest, weights_digest
from workbench.lock import locked
from workbench.nets import devices
from workbench.nets.devices import precision, seed_everything
from workbench.nets.lite import freeze, reset_randomness
from workbench.nets.network import inference, save_network
from workbench.nets.weights import save_weights
from workbench.settings import Settings
from workbench.train import logs
from workbench.train.checkpoints import Checkpoint, Checkpoints, begun
from workbench.train.kept import on_kept_outputs, photos_digest
from workbench.train.losses import average_precisions, label_part
from workbench.train.phases import Phase, phase_parts
from workbench.train.schedule import Progress, make_schedule
from workbench.train.step import TrainingStep, check_loss

if TYPE_CHECKING:
    from workbench.data.pipeline import Kept, TrainingBatches
    from workbench.data.tables import Dataset

logger = logging.getLogger(__name__)

# The images of a phase.


@dataclass(frozen=True)
class Feed:
    """Where the images of a phase come from."""

    training: Callable[..., TrainingBatches]  # (epoch to start at, strategy), see `feed`
    validation: tf.data.Dataset  # elements (views, targets, mask), in order, nothing dropped
    targets: np.ndarray  # [N, C] of the validation images
    mask: np.ndarray  # [N, C]
    classes: tuple[str, ...]
    batch_size: int  # per device
    content: Any = None  # what decides over the images, for the fingerprint
    shown: EpochViews | None = None  # for a frozen network whose outputs are kept
    photos: tuple[str, ...] = ("train",)  # the splits that training images come from


def feed(
    dataset: Dataset, views: tuple[View, ...], settings: Settings,
    *, batch_size: int, augment: Augment | None = None, photos: tuple[str, ...] = ("train",),
    as_long_as: Feed | None = None,
) -> Feed:  # fmt: skip
    """Feed a phase from a dataset; the last view is the one that the trained network sees.

    `photos` are the splits that it learns from: ("train", "unlabeled") where a teacher answers. An
    epoch is at least as long as one of `as_long_as`.
    """
    if not settings.distillation.unlabeled_share:
        photos = ("train",)
    train, validation = dataset.split(*photos), dataset.split("val")
    if photos == ("train",) and (left_out := len(dataset.split("unlabeled"))):
        logger.info("%d photos without labels are not used here: no teacher answers them", left_out)
    shown = EpochViews(
        train, views, settings, augment, as_long_as.shown.length if as_long_as else 0
    )

    def training(
        epoch: int, strategy: tf.distribute.Strategy, kept: Kept | None = None
    ) -> TrainingBatches:
        # On one machine a global batch is split among its devices. Several machines deal out the
        # images instead, and every device takes batches of its own.
        machine, machines = devices.worker(strategy)
        local = strategy.num_replicas_in_sync // machines
        size, turns = (batch_size * local, 1) if machines == 1 else (batch_size, local)
        order = {"first_epoch": epoch, "shard": (machine, machines), "kept": kept}
        order |= {"augment": augment, "least": shown.least}
        batches = training_batches(train, views, size, settings, **order)
        steps = batches.steps_per_epoch
        check_share(shown.length // machines // steps, turns, local)
        return replace(batches, steps_per_epoch=-(-steps // turns))

    content = [views, batch_size, augment, shown.least]
    content += [[s.classes, s.filepaths, s.targets, s.mask] for s in (train, validation)]
    batches = evaluation_batches(validation, views[-1:], batch_size, settings)
    labels = (validation.targets, validation.mask, dataset.classes)
    return Feed(training, batches, *labels, batch_size, content, shown, photos)


def check_share(smallest_batch: int, turns: int, devices: int) -> None:
    """Refuse batches of which a device would get nothing: batch norm cannot average that."""
    if smallest_batch * turns < devices:
        raise SettingsError(
            f"the smallest training batch has {smallest_batch} images for {devices} devices. "
            "Set multi_gpu.enabled: false, or a larger batch_size."
        )


# A phase, from wherever it stands to its end.


@dataclass(frozen=True)
class Fitted:
    """What a phase ends with; the network holds the weights of the best epoch."""

    history: pd.DataFrame
    best: logs.Row
    traces: int  # how often the training step was traced: once, or not at all when finished before


def fit(
    phase: Phase, network: keras.Model, objective: Callable, feed: Feed, run: Any,
    *, bar: bool | None = None,
) -> Fitted:  # fmt: skip
    """Train a phase to its end from wherever it stands; leave the best weights in `network`.

    Writes `<phase>.h5`, checkpoints/ and logs/. `objective` is a loss per image, (logits, targets,
    mask) to [N], or `Distillation`; `run` has a folder and settings. Called again, it begins where
    this phase began.
    """
    settings, folder = phase.adapted(run.settings), Path(run.folder)
    devices.prepare_devices(settings)
    strategy = devices.choose_strategy(settings)
    if run.settings.training.ema_decay > settings.training.ema_decay:
        words = "training.ema_decay has no effect: an average of ranges is no range"
        logger.info("%s: %s", phase.name, words)
    _check_network(network, feed, strategy)
    with locked(folder), _explained(phase, feed), begun(network, phase.name), precision(settings):
        seed_everything(settings)
        freeze(network, phase.fraction)
        parts = phase_parts(phase, settings) | _values(network, objective, feed, folder)
        checkpoints = Checkpoints(folder, phase, parts)
        checkpoints.claim()
        if phase.epochs:
            place = (settings, folder, strategy, bar, checkpoints)
            where = {"settings": settings, "folder": folder, "bar": bar}
            with on_kept_outputs(phase, network, objective, feed, **where) as chosen:
                fitted = _Training(phase, *chosen, *place).to_the_end()
        else:
            logger.info("%s has 0 epochs: it leaves the weights as they are", phase.name)
            fitted = Fitted(logs.history_table([]), {}, traces=0)
        structure = None if phase.quantized else folder / f"{phase.role}_network.json"
        save_network(network, folder / f"{phase.name}.h5", structure)
    return fitted


def _values(network: keras.Model, objective: Callable, feed: Feed, folder: Path) -> dict[str, str]:
    """Fingerprint what a person may hand in."""
    content = photos_digest(folder, feed.photos)
    return {
        "network": value_digest(network),
        "start weights": weights_digest(network),
        "loss": value_digest(objective),
        "data": value_digest([feed.content, content]),
    }


def _check_network(network: keras.Model, feed: Feed, strategy: tf.distribute.Strategy) -> None:
    if network.output_shape != (None, len(feed.classes)):
        raise StepError(
            f"the network gives {network.output_shape}; it must give a logit for each of the "
            f"{len(feed.classes)} classes: (None, {len(feed.classes)})"
        )
    view = feed.validation.element_spec[0][-1].shape
    if not view.is_compatible_with(network.input_shape):
        raise StepError(
            f"the network takes {network.input_shape}, its view gives {tuple(view)}. Give it a "
            "View of its own size, or set the input_size"
        )
    several = strategy.num_replicas_in_sync > 1
    if several and not isinstance(network.weights[0], tf.distribute.DistributedValues):
        raise StepError(
            f"{strategy.num_replicas_in_sync} devices share a batch, the network lies on one. "
            "Build it inside `with choose_strategy(run.settings).scope():`, or set "
            "multi_gpu.enabled: false"
        )


@contextmanager
def _explained(phase: Phase, feed: Feed) -> Iterator[None]:
    """Turn what TensorFlow says into what a person can do about it."""
    try:
        with plain_errors():
            yield
    except tf.errors.ResourceExhaustedError:
        smaller = f"try batch_size {feed.batch_size // 2}"
        advice = smaller if feed.batch_size > 1 else "use a smaller input_size"
        raise StepError(
            f"{phase.name}: a batch of {feed.batch_size} images does not fit in the memory of the "
            f"device; {advice}, or let `python -m workbench find-batch-size` measure what fits."
        ) from None
    except tf.errors.UnimplementedError as error:
        if "determini" not in str(error).lower():
            raise
        raise StepError(
            f"{phase.name}: this device has no deterministic form of an operation "
            f"({str(error).splitlines()[0]}). Set run.deterministic: false."
        ) from None


@dataclass
class _Training:
    """A phase under way."""

    phase: Phase
    network: keras.Model
    objective: Callable
    feed: Feed
    settings: Settings
    folder: Path
    strategy: tf.distribute.Strategy
    bar: bool | None
    checkpoints: Checkpoints
    progress: Progress = field(default_factory=Progress)
    best_weights: list[np.ndarray] = field(default_factory=list)
    step: TrainingStep | None = None

    def __post_init__(self) -> None:
        self.validation = Validation(self.feed, label_part(self.objective), self.settings)

    def to_the_end(self) -> Fitted:
        checkpoint = self._latest()
        if checkpoint:
            self._take_up(checkpoint)
        if not self._finished():
            self._start(checkpoint)
        while not self._finished():
            self._epoch()
            if self._finished():
                self._tell(logs.best_line(self.progress.best, self._monitor, self.progress.epoch))
        self.network.set_weights(self.best_weights)
        traces = self.step.traces if self.step else 0
        return Fitted(logs.history_table(self.progress.rows), self.progress.best, traces)

    def _latest(self) -> Checkpoint | None:
        """Read the newest checkpoint; several machines go back to one that all of them have."""
        checkpoint = self.checkpoints.latest()
        reached = _epoch_of(checkpoint)
        common = devices.earliest(self.strategy, reached)
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
        logs.write_logs(self.folder / "logs", self.phase.name, self.progress.rows)
        epoch = self.progress.epoch
        if self._finished():
            words = "%s was finished after epoch %d; the best is epoch %d"
            logger.info(words, self.phase.name, epoch, self.progress.best["epoch"])
        else:
            self._tell(f"{self.phase.name} goes on after epoch {epoch}")

    def _start(self, checkpoint: Checkpoint | None) -> None:
        """Make everything that trains; the stream starts at the epoch that comes next."""
        phase, training = self.phase, self.settings.training
        first = phase.first_epoch + self.progress.epoch
        self.batches = self.feed.training(first, self.strategy)
        self.iterator = iter(devices.distributed(self.strategy, self.batches.dataset))
        steps = phase.epochs * self.batches.steps_per_epoch
        self.schedule = make_schedule(self.settings.schedule, phase, steps)
        decay = phase.weight_decay
        place = (decay, self.strategy, self.settings.task)
        self.step = TrainingStep(self.network, self.objective, training, *place)
        self.board = logs.TensorBoard(self.folder / "logs/tensorboard" / phase.name, training)
        if checkpoint:
            self.schedule.restore(checkpoint.state["schedule"])
            self.step.restore(checkpoint.arrays)
        self._tell(f"{phase.name} trains on {devices.describe_devices(self.strategy)}")

    def _stream(self, epoch: int) -> None:
        self.batches = self.feed.training(epoch, self.strategy)
        self.iterator = iter(devices.distributed(self.strategy, self.batches.dataset))

    def _finished(self) -> bool:
        return self.progress.epoch >= self.phase.epochs or bool(self.progress.stopped)

    def _epoch(self) -> None:
        started = time.monotonic()
        index = self.phase.first_epoch + self.progress.epoch
        if index >= self.batches.end:  # with kept outputs a stream holds one epoch
            self._stream(index)
        reset_randomness(self.network, self.settings.seed, index)
        figures = self._train()
        with self.step.averaged():
            row = self._row(figures, started)
            improved = self.progress.observe(row, self._monitor)
            weights = self.network.get_weights()
            self.best_weights = weights if improved else self.best_weights
            self._keep(weights)
        self.schedule.observe(improved)
        self._stop_early()
        self._save()  # before anything is said: whoever reads of an epoch has it
        logs.write_logs(self.folder / "logs", self.phase.name, self.progress.rows)
        self.board.write_epoch(row, self.network, self.validation.examples)
        self._tell(logs.epoch_line(row, self.phase.epochs))
        if self.progress.stopped:
            self._tell(f"{self.phase.name} stops: {self.progress.stopped}")

    def _tell(self, line: str) -> None:
        """Say a line on the console and in the log that can be followed."""
        logger.info("%s", line)
        logs.append_line(self.folder / "logs" / logs.FOLLOWED, line)

    @property
    def _monitor(self) -> str:
        return self.settings.training.monitor

    def _train(self) -> dict[str, float]:
        """Train an epoch; return its mean loss, its accuracy and the mean norm of its gradients."""
        steps, epoch = self.batches.steps_per_epoch, self.progress.epoch
        title = f"{self.phase.name} epoch {epoch + 1}/{self.phase.epochs}"
        rates = [self.schedule.rate(epoch * steps + index) for index in range(steps)]
        done: list[tf.Tensor] = []
        for index in logs.paced(steps, title, lambda: logs.recent(done), self.bar):
            self.step.set_rate(rates[index])
            done.append(self.step.run(self.iterator))
        batches = logs.batch_table(done)
        self._refuse_nan(batches["loss"])
        self.board.write_batches(epoch * steps, batches, rates)
        return logs.epoch_figures(batches)

    def _refuse_nan(self, losses: np.ndarray) -> None:
        bad = np.flatnonzero(~np.isfinite(losses))
        if len(bad):
            raise StepError(
                f"{self.phase.name}: the loss became {losses[bad[0]]} in epoch "
                f"{self.progress.epoch + 1}, step {bad[0] + 1}. The checkpoint of the epoch before "
                "is kept. Lower the learning rate or training.clip_norm."
            )

    def _row(self, figures: dict[str, float], started: float) -> logs.Row:
        return {
            "phase": self.phase.name,
            "epoch": self.progress.epoch + 1,
            **figures,
            **devices.agreed(self.strategy, self.validation.figures(self.network)),
            "lr": self.step.rate,
            "seconds": round(time.monotonic() - started, 3),
        }

    def _stop_early(self) -> None:
        patience = self.phase.early_stopping_patience
        if patience is not None and self.progress.wait >= patience:
            self.progress.stopped = f"{patience} epochs without a better {self._monitor}"

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

    def _keep(self, weights: list[np.ndarray]) -> None:
        """Keep every Nth epoch for good, beside the checkpoints that come and go."""
        every, epoch = self.settings.training.keep_every_epochs, self.progress.epoch
        if every and epoch % every == 0:
            path = self.checkpoints.folder / f"kept_{epoch:05d}.h5"
            save_weights(self.network, path, weights)


def _epoch_of(checkpoint: Checkpoint | None) -> int:
    return checkpoint.state["progress"]["epoch"] if checkpoint else 0


# Validation after an epoch. Thresholds are tuned much later, on the INT8 scores; here epochs only
# have to be ranked: decisions at probability 0.5, or the top class.


@dataclass
class Validation:
    """Looks at a network after every epoch: every image once, and a few examples to show."""

    feed: Feed
    loss: Callable
    settings: Settings
    examples: logs.Examples | None = field(default=None, init=False)

    def figures(self, network: keras.Model) -> dict[str, float]:
        """Compute the validation figures of the network as it stands."""
        compiled, batches = inference(network), []
        for views, targets, _mask in self.feed.validation:
            batches.append(compiled(views[-1]).numpy())
            if len(batches) == 1:
                self._keep_examples(views[-1], targets, batches[0])
        logits = np.concatenate(batches)
        targets, mask = self.feed.targets, self.feed.mask
        per_image = self.loss(*map(tf.constant, (logits, targets, mask)))
        check_loss(per_image)
        single_label = self.settings.task == "single_label"
        return {
            "val_loss": float(np.mean(per_image, dtype=np.float64)),
            **validation_figures(logits, targets, mask, single_label=single_label),
        }

    def _keep_examples(self, images: tf.Tensor, targets: tf.Tensor, logits: np.ndarray) -> None:
        count = self.settings.training.tensorboard_images
        if self.settings.training.tensorboard and count and images.shape.rank == 4:
            images, targets = images[:count].numpy(), targets[:count].numpy()
            scores = outcomes.probabilities(logits[:count], self.settings.task)
            self.examples = logs.Examples(images, targets, scores, self.feed.classes)


def validation_figures(
    logits: np.ndarray, targets: np.ndarray, mask: np.ndarray, *, single_label: bool
) -> dict[str, float]:
    """Compute F1 macro, mAP and accuracy, NaN where no class has an example.

    Accuracy is the share of images that are all right: the top class, or every known label.
    """
    top = np.arange(logits.shape[1]) == logits.argmax(axis=1)[:, None]
    said = top if single_label else logits >= 0
    cells = outcomes.outcome_cells(targets, said, mask)
    f1 = outcomes.overall_figures(outcomes.count_outcomes(cells))["f1_macro"]
    precisions = average_precisions(logits, targets, mask)
    defined = precisions[~np.isnan(precisions)]
    right = ((said == (targets >= 0.5)) | (mask == 0)).all(axis=1)[(mask > 0).any(axis=1)]
    return {
        "val_f1_macro": float(f1),
        "val_map": float(np.mean(defined)) if len(defined) else np.nan,
        "val_accuracy": float(np.mean(right)) if len(right) else np.nan,
    }
