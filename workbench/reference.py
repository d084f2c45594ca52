"""A run's own photos as its shipped file sees them: what is a new photo like, and how unlike?

Features are what the last layer reads, taken from the file that ships: no other network is loaded.
They are computed when first asked for and kept in the run folder, for that file and those photos.
"""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from workbench.data.cells import join_labels
from workbench.data.layouts import check_paths
from workbench.data.tables import Split
from workbench.decide.intervals import independent_share
from workbench.errors import InputError
from workbench.files import writing
from workbench.predict import Answers, Classifier, Photos
from workbench.run import Run, existing_run

log = logging.getLogger(__name__)

KEPT = "features/reference.npz"  # apart from what is sealed: it can be made again
MOST = {"train": 20_000, "val": 5_000}  # photos, evenly; 50 MB
NEAREST = 3
BLOCK = 256  # photos compared at a time: 20 MB of likenesses


@dataclass(frozen=True)
class Reference:
    """Training and validation photos by their features."""

    split: Split  # of training, the photos that are looked at
    train: np.ndarray  # float32 unit vectors [N, F]
    validation: Answers
    usual: np.ndarray  # distances of validation photos to the nearest of training [M]
    positives: np.ndarray  # photos a class in all of training [C]
    worth: float  # share of the validation photos that counts

    def nearest(self, features: np.ndarray, count: int = NEAREST) -> tuple[np.ndarray, np.ndarray]:
        """Return the nearest training photos and how far they are, [N, count] each."""
        return nearest(self.train, unit(features), count)

    def labels(self, row: int) -> str:
        classes = np.array(self.split.classes)
        return join_labels(classes[self.split.targets[row] > 0.5], ()) or "none of the classes"


def unit(features: np.ndarray) -> np.ndarray:
    """Scale to length 1: the distance is 1 less the cosine."""
    values = features.astype(np.float32)
    return values / np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-9)


def nearest(train: np.ndarray, queries: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    count = min(count, len(train))
    places, distances = [], []
    for start in range(0, len(queries), BLOCK):
        far = 1 - queries[start : start + BLOCK] @ train.T
        some = np.argpartition(far, count - 1, axis=1)[:, :count]
        found = np.take_along_axis(far, some, 1)
        order = np.argsort(found, axis=1, kind="stable")
        places.append(np.take_along_axis(some, order, 1))
        distances.append(np.take_along_axis(found, order, 1).clip(0))
    shape = (0, count)
    return (np.concatenate(places) if places else np.zeros(shape, int),
            np.concatenate(distances) if distances else np.zeros(shape))  # fmt: skip


def reference(run: Run, classifier: Classifier) -> Reference:
    """Read the features of a run's photos, or compute and keep them."""
    dataset = run.dataset()
    splits = {name: _some(dataset.split(name), most) for name, most in MOST.items()}
    for split in splits.values():
        unsafe, _ = check_paths(split.images, split.filepaths)
        if unsafe:
            raise InputError(next(iter(unsafe.values())))
    key = _key(classifier, splits)
    kept = _read(run.path(KEPT), key)
    if kept is None:
        log.info("the training photos are looked at once: %d", len(splits["train"]))
        kept = _compute(classifier, splits)
        with run.locked(), writing(run.path(KEPT)) as partial:
            np.savez_compressed(partial, key=np.array(key), **kept)
    train, val = (_rows(splits[name], kept[f"{name}_rows"]) for name in MOST)
    seen = unit(kept["train_features"])
    usual = nearest(seen, unit(kept["val_features"]), 1)[1][:, 0]
    answers = Answers(classifier.config, val.images, val.filepaths, kept["val_raw"])
    spread = (usual - usual.mean())[:, None]
    worth = independent_share(spread, val.groups) if len(usual) > 1 else 1.0
    positives = dataset.split("train").targets.sum(0)
    return Reference(train, seen, answers, usual, positives, worth)


def reference_if_there(folder: Path, classifier: Classifier) -> Reference | None:
    """Return it, or None with the reason in the log: a bundle alone has no photos."""
    try:
        return reference(existing_run(folder), classifier)
    except (InputError, OSError) as error:
        log.info("no training photos stand beside the answers: %s", error)
        return None


def _some(split: Split, most: int) -> Split:
    rows = np.linspace(0, len(split) - 1, min(most, len(split))).astype(int)
    return _rows(split, rows)


def _rows(split: Split, rows: np.ndarray) -> Split:
    groups = None if split.groups is None else split.groups[rows]
    names = tuple(split.filepaths[row] for row in rows)
    return replace(split, filepaths=names, targets=split.targets[rows], mask=split.mask[rows],
                   groups=groups)  # fmt: skip


def _key(classifier: Classifier, splits: dict[str, Split]) -> str:
    """Name the file and the photos, by their sizes and times: what changes is looked at again."""
    digest = hashlib.sha256(classifier.config["model"]["sha256"].encode())
    for split in splits.values():
        for row, name in enumerate(split.filepaths):
            path = split.path(row)
            stamp = path.stat() if path.is_file() else None
            size = f"{stamp.st_size} {stamp.st_mtime_ns}" if stamp else "gone"
            digest.update(f"{split.name}\0{name}\0{size}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def _read(path: Path, key: str) -> dict[str, np.ndarray] | None:
    """Read what is kept for this file and these photos; anything else is computed anew."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            found = {name: arrays[name] for name in arrays.files}
    except (OSError, ValueError, EOFError, KeyError):
        return None
    return found if str(found.pop("key", "")) == key else None


def _compute(classifier: Classifier, splits: dict[str, Split]) -> dict[str, np.ndarray]:
    found = {}
    for name, split in splits.items():
        place = {path: row for row, path in enumerate(split.filepaths)}
        answers = classifier.answers(Photos(split.images, split.filepaths), f"{name} photos")
        if answers.features is None or not len(answers.names):
            raise InputError(f"no photo of {name} can be read in {split.images}. Put them back")
        found[f"{name}_rows"] = np.array([place[path] for path in answers.names])
        found[f"{name}_features"], found[f"{name}_raw"] = answers.features, answers.raw
    return found
