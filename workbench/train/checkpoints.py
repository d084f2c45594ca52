"""Checkpoints that survive a kill: whole or absent, with a hash, the last two of a phase kept.

Beside them lies fingerprint.json: the named parts of what they were trained with. Under the same
parts a training is finished or goes on; under others they are set aside, never deleted. Loads no
TensorFlow.
"""

from __future__ import annotations

import io
import json
import logging
import re
import weakref
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from workbench import files
from workbench.fingerprint import weights_digest
from workbench.train.phases import Phase, epochs_knob, phase_parts

logger = logging.getLogger(__name__)
KEPT = 2
NAME = re.compile(r"epoch_(\d{5})\.npz")
FINGERPRINT = "fingerprint.json"
ANYTHING = "accepted"  # stands for a value that a person vouched for without building it
WORDS = {
    "code": "the code that trains",
    "network": "the network's layers",
    "start weights": "the weights it starts from",
    "loss": "the loss",
    "data": "the images, labels or augmentation",
}
VALUES = {"network", "start weights", "loss", "data"}  # known once everything is built
LONGEST_VALUE = 40


@dataclass(frozen=True)
class Checkpoint:
    """Tensors by group, and the plain state beside them."""

    arrays: dict[str, list[np.ndarray]]
    state: dict[str, Any]


@dataclass(frozen=True)
class Standing:
    """What is kept of a phase, and what would become of it now."""

    epoch: int  # the last one that is kept, 0 without any
    finished: bool
    changed: tuple[str, ...]  # what would make it train anew, in words
    seconds: float  # that the kept training took

    @property
    def words(self) -> str:
        if not self.epoch:
            return "nothing is trained yet"
        if self.changed:
            return f"trained anew: {'; '.join(self.changed)}"
        return f"{'finished' if self.finished else 'goes on'} after epoch {self.epoch}"


def standing(folder: Path, phase: Phase, settings: Any) -> Standing:
    """Say what a training would find, as far as that is known before anything is built."""
    place = _place(folder, phase.name)
    progress = _progress(place)
    if not progress:
        return Standing(0, False, (), 0.0)
    before, now = _stored(place), phase_parts(phase, settings)
    known, _values = _parted(before)
    changed = differences(known, now, phase, progress["epoch"])
    seconds = sum(row["seconds"] for row in progress["rows"])
    finished = bool(progress["stopped"]) or progress["epoch"] >= phase.epochs
    return Standing(progress["epoch"], finished, tuple(changed), seconds)


def set_aside(folder: Path, phase_name: str) -> Path | None:
    """Move checkpoints, weights and log of a phase where nothing overwrites them; say where."""
    folder = Path(folder)
    place, weights = _place(folder, phase_name), folder / f"{phase_name}.h5"
    loose = [weights, *(folder / f"logs/{phase_name}{suffix}" for suffix in (".csv", ".jsonl"))]
    if not place.exists() and not weights.exists():
        return None
    number = 1
    while (aside := place.with_name(f"{place.name}.aside-{number}")).exists():
        number += 1
    place.mkdir(parents=True, exist_ok=True)
    place.replace(aside)
    for path in loose:
        if path.exists():
            path.replace(aside / path.name)
    return aside


def accept(folder: Path, phase: Phase, settings: Any) -> None:
    """Keep a training although code or settings changed: a person vouches for it."""
    place = _place(folder, phase.name)
    before, now = _stored(place), phase_parts(phase, settings)
    if not before:
        return
    known, values = _parted(before)
    if known | {"code": ""} != now | {"code": ""}:  # a changed setting may change values as well
        values = dict.fromkeys(values, ANYTHING)
    files.write_json(place / FINGERPRINT, now | values)


def differences(
    before: dict[str, str], now: dict[str, str], phase: Phase, epoch: int = 0
) -> list[str]:
    """Say in words what makes a training start anew; settings first, and values only without."""
    names = [*before, *(now.keys() - before.keys())]
    names = [name for name in names if before.get(name) not in (now.get(name), ANYTHING)]
    if names and not before:
        return ["it was trained by an earlier version"]
    known = [name for name in names if name not in VALUES]
    words = [_change(name, before, now, phase) for name in known or names]
    if not words and epoch > phase.epochs:
        knob = epochs_knob(phase).removeprefix("setting ")
        words = [f"{knob} is {phase.epochs}, and {epoch} epochs are done"]
    return words


def _change(name: str, before: dict[str, str], now: dict[str, str], phase: Phase) -> str:
    if name in WORDS:
        return f"{WORDS[name]} changed"
    old, new = before.get(name, "absent"), now.get(name, "absent")
    short = name.removeprefix("setting ")
    text = f"{short} {old} → {new}" if len(old + new) < LONGEST_VALUE else f"{short} changed"
    if name == epochs_knob(phase) and name in before and name in now:
        return f"{text}, and cosine runs over all epochs"
    return text


class Checkpoints:
    """The checkpoints of one phase, for one fingerprint."""

    def __init__(self, folder: Path, phase: Phase, parts: dict[str, str]) -> None:
        self.root, self.phase, self.parts = Path(folder), phase, parts
        self.folder = _place(folder, phase.name)

    def claim(self) -> None:
        """Set aside what was trained with something else; note what is trained with now."""
        for path in self.folder.glob(f"{files.PARTIAL}*"):  # what a kill left half-written
            path.unlink()
        before, progress = _stored(self.folder), _progress(self.folder)
        changed = differences(before, self.parts, self.phase, progress["epoch"]) if progress else []
        if changed:
            aside = set_aside(self.root, self.phase.name).relative_to(self.root)
            words = "%s is trained anew: %s. The earlier one is kept in %s"
            logger.warning(words, self.phase.name, "; ".join(changed), aside)
        if _stored(self.folder) != self.parts:
            files.write_json(self.folder / FINGERPRINT, self.parts)

    def save(self, epoch: int, checkpoint: Checkpoint) -> None:
        """Write the hash, then the file it belongs to: a kill between the two leaves neither."""
        groups = {name: len(arrays) for name, arrays in checkpoint.arrays.items()}
        flat = {
            f"{n}_{i}": one for n, group in checkpoint.arrays.items() for i, one in enumerate(group)
        }
        state = json.dumps({"groups": groups, **checkpoint.state}).encode()
        path = self.folder / f"epoch_{epoch:05d}.npz"
        with files.writing(path) as temporary:
            with open(temporary, "wb") as file:
                np.savez(file, state=np.frombuffer(state, np.uint8), **flat)
            files.write_text(_hash_file(path), _hash_line(temporary, path.name))
        for older in _paths(self.folder, until=epoch)[:-KEPT]:
            older.unlink()
            _hash_file(older).unlink(missing_ok=True)

    def latest(self, until: int | None = None) -> Checkpoint | None:
        """Read the newest checkpoint that is whole; None when there is none."""
        for path in reversed(_paths(self.folder, until)):
            checkpoint = _read(path)
            if checkpoint:
                return checkpoint
            logger.warning("%s is damaged; the checkpoint before it is used", path)
        return None


def _parted(parts: dict[str, str]) -> tuple[dict[str, str], dict[str, str]]:
    """Part what is known before anything is built from the values that a person hands in."""
    values = {name: value for name, value in parts.items() if name in VALUES}
    return {name: value for name, value in parts.items() if name not in VALUES}, values


def _place(folder: Path, name: str) -> Path:
    return Path(folder) / "checkpoints" / name


def _stored(place: Path) -> dict[str, str]:
    path = place / FINGERPRINT
    return files.read_json(path) if path.exists() else {}


def _progress(place: Path) -> dict[str, Any] | None:
    """Read how far the newest checkpoint came, without its tensors."""
    for path in reversed(_paths(place)):
        try:
            with np.load(path, allow_pickle=False) as archive:
                return json.loads(archive["state"].tobytes())["progress"]
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            continue
    return None


def _read(path: Path) -> Checkpoint | None:
    expected = _hash_file(path)
    if not expected.exists() or expected.read_bytes() != _hash_line(path, path.name).encode():
        return None
    with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as archive:
        state = json.loads(archive["state"].tobytes())
        sizes = state.pop("groups").items()
        arrays = {name: [archive[f"{name}_{i}"] for i in range(size)] for name, size in sizes}
    return Checkpoint(arrays, state)


def _paths(place: Path, until: int | None = None) -> list[Path]:
    epochs = {p: int(m[1]) for p in place.glob("*.npz") if (m := NAME.fullmatch(p.name))}
    return sorted(path for path, epoch in epochs.items() if until is None or epoch <= until)


def _hash_file(path: Path) -> Path:
    return path.with_suffix(".npz.sha256")


def _hash_line(path: Path, name: str) -> str:
    """Say what `sha256sum --check` reads."""
    return f"{files.sha256(path)}  {name}\n"


# Where phases began that a network went through in this kernel, in order, and the digest of the
# weights that the last one left. Keyed weakly: it must not keep a network alive.
_starts: weakref.WeakKeyDictionary[Any, tuple[dict[str, list], str]] = weakref.WeakKeyDictionary()


@contextmanager
def begun(network: Any, phase_name: str) -> Iterator[None]:
    """Put a network back to where a phase began, if that is what its weights come from.

    A cell that is run again finds its training this way, finished or interrupted.
    """
    starts, left = _starts.get(network, ({}, ""))
    names = list(starts) if left == weights_digest(network) else []  # else others set the weights
    if phase_name in names:
        network.set_weights(starts[phase_name])
        names = names[: names.index(phase_name)]
    starts, start = {name: starts[name] for name in names}, network.get_weights()
    try:
        yield
        starts[phase_name] = start
    except BaseException:  # half-trained weights are no beginning; the checkpoints have them
        network.set_weights(start)
        raise
    finally:
        _starts[network] = starts, weights_digest(network)
