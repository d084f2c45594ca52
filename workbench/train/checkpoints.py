"""Checkpoints that survive a kill: whole or absent, with a hash, the last two of a phase kept."""

from __future__ import annotations

import io
import json
import logging
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from workbench import files

logger = logging.getLogger(__name__)
KEPT = 2
NAME = re.compile(r"epoch_(\d{5})\.npz")


@dataclass(frozen=True)
class Checkpoint:
    """Tensors by group, and the plain state beside them."""

    arrays: dict[str, list[np.ndarray]]
    state: dict[str, Any]


class Checkpoints:
    """The checkpoints of one phase, for one fingerprint of settings and data."""

    def __init__(self, folder: Path, fingerprint: str) -> None:
        self.folder = Path(folder)
        self.fingerprint = fingerprint

    def save(self, epoch: int, checkpoint: Checkpoint) -> None:
        """Write the hash, then the file it belongs to: a kill between the two leaves neither."""
        groups = {name: len(arrays) for name, arrays in checkpoint.arrays.items()}
        state = {"fingerprint": self.fingerprint, "groups": groups, **checkpoint.state}
        path = self.folder / f"epoch_{epoch:05d}.npz"
        with files.writing(path) as temporary:
            text = np.frombuffer(json.dumps(state).encode(), np.uint8)
            with open(temporary, "wb") as file:
                np.savez(file, state=text, **_flat(checkpoint.arrays))
            files.write_text(_hash_file(path), _hash_line(temporary, path.name))
        self._forget_older(epoch)

    def latest(self, until: int | None = None) -> Checkpoint | None:
        """Read the newest checkpoint that is whole; None when there is none of these settings."""
        for path in reversed(self._paths(until)):
            checkpoint = self._read(path)
            if checkpoint is None:
                logger.warning("%s is damaged; the checkpoint before it is used", path)
                continue
            if checkpoint.state["fingerprint"] == self.fingerprint:
                return checkpoint
            self._set_aside()
            return None
        return None

    def sweep(self) -> None:
        """Remove what a kill left half-written."""
        for path in self.folder.glob(".partial_*"):
            path.unlink()

    def _read(self, path: Path) -> Checkpoint | None:
        expected = _hash_file(path)
        if not expected.exists() or expected.read_bytes() != _hash_line(path, path.name).encode():
            return None
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
        state = json.loads(arrays.pop("state").tobytes())
        return Checkpoint(_grouped(arrays, state.pop("groups")), state)

    def _set_aside(self) -> None:
        aside = self.folder.with_name(self.folder.name + ".other_settings")
        shutil.rmtree(aside, ignore_errors=True)
        self.folder.replace(aside)
        logger.warning("checkpoints of other settings or data were set aside in %s", aside)

    def _forget_older(self, epoch: int) -> None:
        for path in self._paths(until=epoch)[:-KEPT]:
            path.unlink()
            _hash_file(path).unlink(missing_ok=True)

    def _paths(self, until: int | None = None) -> list[Path]:
        epochs = {p: int(m[1]) for p in self.folder.glob("*.npz") if (m := NAME.fullmatch(p.name))}
        return sorted(path for path, epoch in epochs.items() if until is None or epoch <= until)


def _hash_file(path: Path) -> Path:
    return path.with_suffix(".npz.sha256")


def _hash_line(path: Path, name: str) -> str:
    """Say what `sha256sum --check` reads."""
    return f"{files.sha256(path)}  {name}\n"


def _flat(groups: dict[str, list[np.ndarray]]) -> dict[str, np.ndarray]:
    return {
        f"{name}_{i}": array for name, arrays in groups.items() for i, array in enumerate(arrays)
    }


def _grouped(arrays: dict[str, np.ndarray], sizes: dict[str, int]) -> dict[str, list[np.ndarray]]:
    return {name: [arrays[f"{name}_{i}"] for i in range(size)] for name, size in sizes.items()}
