"""A training in a process of its own, that can be told to kill itself at a given step.

python -m tests.training_child FOLDER [STEP]: trains two phases, then writes final.npz.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import numpy as np
import tensorflow as tf

from tests.training_doubles import Place, even_loss, small_feed, small_network
from workbench.nets.devices import precision, seed_everything
from workbench.settings import Settings
from workbench.train.loop import fit
from workbench.train.phases import Phase
from workbench.train.step import TrainingStep


def settings_with(training=(), **changed) -> Settings:
    training = {"ema_decay": 0.9, "tensorboard": False, **dict(training)}
    schedule = {"name": "reduce_on_plateau"}
    return Settings.model_validate({"schedule": schedule, "training": training, **changed})


SETTINGS = settings_with()


def train(folder: Path, settings: Settings = SETTINGS) -> list[np.ndarray]:
    """Train both phases from wherever they stand; return the final weights."""
    seed_everything(settings)
    with precision(settings):
        network = small_network()
    for name, fraction, first in (("small_warmup", 0.0, 0), ("small_finetuned", 1.0, 3)):
        # So high a rate that the figures swing and the rate drops: that must survive as well.
        phase = Phase(name, 3, 0.3, 1e-4, 10, 1, 0.5, first_epoch=first, fraction=fraction)
        fit(phase, network, even_loss(settings), small_feed(), Place(folder, settings))
    return network.get_weights()


def die_at(step: int) -> None:
    """Kill this process without warning when it has taken so many steps."""
    apply, taken = TrainingStep._replica_step, tf.Variable(0, trainable=False)

    def kill(count) -> np.int32:
        if count >= step:
            os.kill(os.getpid(), signal.SIGKILL)
        return np.int32(0)

    def counted(self, batch):
        loss = apply(self, batch)
        with tf.control_dependencies([loss]):
            count = tf.numpy_function(kill, [taken.assign_add(1)], tf.int32)
        with tf.control_dependencies([count]):
            return tf.identity(loss)

    TrainingStep._replica_step = counted


if __name__ == "__main__":
    if len(sys.argv) > 2:
        die_at(int(sys.argv[2]))
    np.savez(Path(sys.argv[1]) / "final.npz", *train(Path(sys.argv[1])))
