"""What frozen networks say of augmented views: computed once, kept on disk, read by every run.

A view is a function of (seed, epoch, image), and so is a teacher's answer to it, or the features
that a frozen backbone gives. All of it passes through float16, read or computed a moment ago, and
is computed in batches of its own: a training ends with the same bits whoever has computed it.
"""

from __future__ import annotations

import fcntl
import hashlib
import io
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import tensorflow as tf
import tf_keras as keras

from workbench import files
from workbench.data.pipeline import Kept
from workbench.fingerprint import code_digest, value_digest
from workbench.nets import devices
from workbench.nets.lite import copied_head, split_at_features
from workbench.nets.network import Inference, inference
from workbench.settings import Settings
from workbench.train.logs import paced
from workbench.train.losses import Distillation

if TYPE_CHECKING:
    from workbench.data.pipeline import EpochViews, TrainingBatches
    from workbench.train.loop import Feed
    from workbench.train.phases import Phase

logger = logging.getLogger(__name__)
FOLDER = ".answers"
BATCH = 32  # images at a time, whatever batches the student learns in
LARGEST = float(np.finfo(np.float16).max)
MANIFESTS = {"train": "dataset_manifest.json", "unlabeled": "unlabeled_manifest.json"}
HASH_BYTES = hashlib.sha256().digest_size
CODE = ("data.decode", "data.letterbox", "data.views", "nets")  # what outputs depend on


@dataclass(frozen=True)
class Outputs:
    """What one frozen network gives for the views of all training images, a file an epoch."""

    what: str
    network: keras.Model
    views: EpochViews
    place: int  # of its view among them
    folder: Path

    def of(self, epoch: int, bar: bool | None) -> np.ndarray:
        """Read float16 [N, …] of an epoch, or compute and keep them."""
        places = self.views.places(epoch)
        path = self.path(epoch, places)
        with _alone(path):
            values = _read(path, (len(places), *self.network.output_shape[1:]))
            if values is None:
                values = self._computed(epoch, len(places), bar)
                _write(path, values)
        return values

    def path(self, epoch: int, places: np.ndarray) -> Path:
        """Name the file of an epoch; which images it shows depends on how they are drawn."""
        digest = hashlib.sha256(places.astype("<i8").tobytes()).hexdigest()[:8]
        return self.folder / f"epoch_{epoch:05d}_{digest}.npy"

    def announce(self, epochs: int) -> None:
        """Say beforehand how much there will be, and where."""
        count, shape = len(self.views.places(0)), self.network.output_shape[1:]
        size = 2 * count * int(np.prod(shape))
        devices.say_once(
            f"{self.what}: {count} images x {' x '.join(map(str, shape))} in float16 are "
            f"{_bytes(size)} for each of {epochs} epochs, {_bytes(epochs * size)} at most, in "
            f"{self.folder}; delete the folder whenever you like"
        )

    def _computed(self, epoch: int, count: int, bar: bool | None) -> np.ndarray:
        batches = iter(self.views.batches(self.place, epoch, BATCH))
        compiled, steps = inference(self.network), -(-count // BATCH)
        title = f"{self.what} for views of epoch {epoch + 1}"
        turns = paced(steps, title, lambda: "training waits", bar)
        parts = [compiled(next(batches)[0][0]).numpy() for _step in turns]
        return np.concatenate(parts).clip(-LARGEST, LARGEST).astype(np.float16)


@dataclass(frozen=True)
class Features:
    """Validation images as features, computed when they are first asked for."""

    backbone: keras.Model
    batches: tf.data.Dataset

    @cached_property
    def _computed(self) -> list[tuple]:
        compiled = inference(self.backbone)
        return [((compiled(views[-1]),), *rest) for views, *rest in self.batches]

    def __iter__(self) -> Iterator[tuple]:
        return iter(self._computed)


@contextmanager
def on_kept_outputs(
    phase: Phase, network: keras.Model, objective: Any, feed: Feed,
    *, settings: Settings, folder: Path, bar: bool | None,
) -> Iterator[tuple[keras.Model, Any, Feed]]:  # fmt: skip
    """Give the network, the objective and the feed to train with, in place of those handed in.

    `distillation.keep_answers` puts a teacher's answers in the place of its view. A frozen backbone
    under `training.head_views` is put aside altogether: the head alone learns, from its features.
    """
    keeping = _Keeping(phase, feed, settings, folder, bar)
    if not keeping.is_possible(network, objective):
        yield network, objective, feed
        return
    if isinstance(objective, Distillation):
        keeping.put(0, "the teacher's answers", objective.teacher.network)
        objective = objective.on_answers()
    if not keeping.turns:
        yield network, objective, replace(feed, training=keeping.training)
        return
    backbone, layers = split_at_features(network)
    keeping.put(-1, "the backbone's features", backbone)
    with devices.choose_strategy(settings).scope():
        head = copied_head(backbone, layers)
    validation = Features(backbone, feed.validation)
    yield head, objective, replace(feed, training=keeping.training, validation=validation)
    for own, learned in zip(layers, head.layers[1:], strict=True):
        own.set_weights(learned.get_weights())


@dataclass(frozen=True)
class _Keeping:
    """What stands in the places of the views while a phase trains."""

    phase: Phase
    feed: Feed
    settings: Settings
    folder: Path  # of the run
    bar: bool | None
    outputs: dict[int, Outputs] = field(default_factory=dict)  # by the place of the view

    @property
    def turns(self) -> int:
        """Of how many epochs the views are shown in turn; 0: each epoch has its own."""
        return self.settings.training.head_views if self.phase.fraction == 0 else 0

    def is_possible(self, network: keras.Model, objective: Any) -> bool:
        """Tell whether outputs are to be kept; say so where they are, and cannot be."""
        taught = isinstance(objective, Distillation)
        if not self.turns and not (taught and self.settings.distillation.keep_answers):
            return False
        obstacle = self._obstacle(network, objective)
        knob = "training.head_views" if self.turns else "distillation.keep_answers"
        if obstacle:
            logger.info("%s: %s has no effect: %s", self.phase.name, knob, obstacle)
        return not obstacle

    def _obstacle(self, network: keras.Model, objective: Any) -> str:
        settings, shown = self.settings, self.feed.shown
        taught = isinstance(objective, Distillation)
        if settings.augmentation.mixup.enabled:
            return "augmentation.mixup blends the images of a batch, and a blend comes only once"
        if devices.worker(devices.choose_strategy(settings))[1] > 1:
            return "several machines share the images"
        if shown is None or len(shown.views) != 1 + taught:
            return "this feed does not say which view of an epoch each network has"
        if not photos_digest(self.folder, self.feed.photos):
            return "no audit has told what is in the photos (01_dataset_audit)"
        if taught and not isinstance(objective.teacher, Inference):
            return "the teacher is no network"
        if self.turns and not split_at_features(network):
            return "the network is no frozen backbone with a head on pooled features"
        return ""

    def put(self, place: int, what: str, network: keras.Model) -> None:
        views = self.feed.shown
        name = fingerprint(network, place, views, photos_digest(self.folder, self.feed.photos))
        folder = shared_folder(self.folder) / name
        self.outputs[place % len(views.views)] = Outputs(what, network, views, place, folder)

    def training(self, epoch: int, strategy: tf.distribute.Strategy) -> TrainingBatches:
        """Stream one epoch, in its own order also where the views are of an earlier one."""
        first, seen = self.phase.first_epoch, epoch
        if self.turns:
            seen = first + (epoch - first) % self.turns
        for one in self.outputs.values():
            one.announce(min(self.turns or self.phase.epochs, self.phase.epochs))
        found = {place: one.of(seen, self.bar) for place, one in self.outputs.items()}
        shown = self.feed.shown
        values = tuple(found.get(place) for place in range(len(shown.views)))
        return self.feed.training(epoch, strategy, Kept(seen, shown.places(seen), values))


def photos_digest(folder: Path, splits: tuple[str, ...]) -> str:
    """Read what tells a photo that changed under its name; empty where no audit has looked."""
    manifests = [Path(folder) / MANIFESTS[split] for split in splits]
    found = (files.read_json(path)["content_sha256"] for path in manifests if path.exists())
    return " ".join(found)


def fingerprint(network: keras.Model, place: int, views: EpochViews, content: str) -> str:
    """Name everything that outputs depend on, the content of the photos included."""
    settings = views.settings
    parts = [[network], code_digest(*CODE), BATCH, tf.__version__, devices.device_names()]
    parts += [settings.seed, settings.augmentation, settings.dataset.exif, views.augment]
    parts += [views.views, views.views[place], views.split.filepaths, content]
    return value_digest(parts)[:32]


def shared_folder(run_folder: Path) -> Path:
    """Find the folder that all runs of a project share, wherever below outputs/ a run lies."""
    parents = Path(run_folder).resolve().parents
    return next((one for one in parents if one.name == "outputs"), parents[0]) / FOLDER


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Let one process at a time compute a file; the kernel ends the wait if that one is killed."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = open(path.with_suffix(".lock"), "w")  # noqa: SIM115
    except OSError:  # not ours to write in: then everybody computes
        yield
        return
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            logger.info("%s is being computed by another process, whose work is waited for", path)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _write(path: Path, values: np.ndarray) -> None:
    buffer = io.BytesIO()
    np.save(buffer, values)
    try:
        files.write_bytes(path, _hash(path, buffer.getvalue()) + buffer.getvalue())
    except OSError as error:
        logger.warning("%s cannot be kept (%s); training goes on", path, error.strerror)


def _read(path: Path, shape: tuple[int, ...]) -> np.ndarray | None:
    """Read a file that is whole and this one; None where there is none."""
    try:
        content = path.read_bytes()
    except OSError:
        return None
    found, data = content[:HASH_BYTES], content[HASH_BYTES:]
    if found == _hash(path, data):
        values = np.load(io.BytesIO(data), allow_pickle=False)
        if values.shape == shape:
            return values
    logger.warning("%s is damaged or belongs elsewhere; it is computed anew", path)
    return None


def _hash(path: Path, data: bytes) -> bytes:
    """Hash a file with its place, so that one which was copied to another name is noticed."""
    return hashlib.sha256(f"{path.parent.name}/{path.name}\0".encode() + data).digest()


def _bytes(size: float) -> str:
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} GB"
