"""What a checkpoint belongs to: a hash of the settings and data that shape a training."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import tf_keras as keras

from workbench import files
from workbench.data.tables import Dataset
from workbench.settings import Settings

COMMON = ("seed", "task", "precision", "dataset", "run", "multi_gpu", "loss", "schedule")
SHAPING = {
    "teacher": (*COMMON, "augmentation", "training", "teacher"),
    "student": (*COMMON, "augmentation", "training", "student", "distillation"),
}
# These decide what is written down, not what is learned.
SILENT = {
    "dataset": {"dir", "cache", "layout"},
    "run": {"cell_timeout_minutes"},
    "training": {
        "checkpoint_every_epochs",
        "keep_every_epochs",
        "tensorboard",
        "tensorboard_images",
        "tensorboard_histograms",
    },
}


def training_fingerprint(settings: Settings, dataset: Dataset, role: str, extra: str) -> str:
    """Hash the settings that matter to `role`, the images and labels, and what the caller adds."""
    digest = hashlib.sha256(extra.encode())
    chosen = settings.model_dump(include=set(SHAPING[role]), exclude=SILENT)
    start = Path(getattr(settings, role).weights)
    if start.is_file():  # its content counts: it may change under its name, or move
        chosen[role]["weights"] = files.sha256(start)
    digest.update(json.dumps(chosen, sort_keys=True).encode())
    for name in ("train", "val"):
        split = dataset.split(name)
        digest.update(json.dumps([split.classes, split.filepaths]).encode())
        digest.update(np.ascontiguousarray(split.targets).tobytes())
        digest.update(np.ascontiguousarray(split.mask).tobytes())
    return digest.hexdigest()


def weights_hash(network: keras.Model) -> str:
    digest = hashlib.sha256()
    for array in network.get_weights():
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
