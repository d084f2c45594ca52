"""One training in a process of its own: on one device, on two logical ones, or as one worker.

python -m tests.replica_child FOLDER OUT [one | mirrored | worker]
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import tensorflow as tf

from tests.training_doubles import Place, small_network
from workbench.data.tables import read_dataset
from workbench.data.views import View
from workbench.nets.devices import choose_strategy, meet_other_machines, seed_everything
from workbench.settings import Settings
from workbench.train.loop import feed, fit
from workbench.train.losses import task_loss
from workbench.train.phases import Phase

GLOBAL_BATCH = 8


def settings_for(kind: str) -> Settings:
    return Settings.model_validate(
        {
            "num_classes": 3,
            "multi_gpu": {"strategy": "multi_worker" if kind == "worker" else "mirrored"},
            "training": {"tensorboard": False, "ema_decay": 0.9},
        }
    )


def two_logical_devices() -> None:
    cpu = tf.config.list_physical_devices("CPU")[0]
    halves = [tf.config.LogicalDeviceConfiguration()] * 2
    tf.config.set_logical_device_configuration(cpu, halves)


def train(folder: Path, kind: str, out: Path, norm: bool) -> dict:
    settings = settings_for(kind)
    seed_everything(settings)
    strategy = choose_strategy(settings)
    replicas = strategy.num_replicas_in_sync
    dataset = read_dataset(folder, settings)
    with strategy.scope():
        network = small_network(dropout=0.0, norm=norm)
    batches = feed(dataset, (View(8, "lite"),), settings, batch_size=GLOBAL_BATCH // replicas)
    phase = Phase("small_warmup", 3, 1e-2, 1e-4, 10, 5, 0.5)
    loss = task_loss(settings, dataset.split("train"))
    fitted = fit(phase, network, loss, batches, Place(out, settings))
    weights = np.concatenate([value.ravel() for value in network.get_weights()])
    history = fitted.history[["loss", "val_loss"]].to_numpy().tolist()
    return {"replicas": replicas, "losses": history, "weights": weights.tolist()}


if __name__ == "__main__":
    folder, out, kind = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
    if kind == "mirrored":
        two_logical_devices()
    # A teacher that is loaded computes already; the machines have to meet before that.
    meet_other_machines(settings_for(kind))
    small_network()
    # As a teacher comes before a student: devices that met before must not mix the two up.
    train(folder, kind, out / "before", norm=True)
    # Dropout and batch norm differ by replica, so that their losses may; this one has neither.
    sys.stdout.write(json.dumps(train(folder, kind, out, norm=False)) + "\n")
