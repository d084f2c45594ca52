"""Dropout that can be restarted: its state is a function of (seed, epoch), not of history.

Legacy Keras hides dropout's state in graph kernels, where no checkpoint can reach it. Layers built
here hold a generator instead, and the training loop resets it at the start of every epoch.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

import workbench  # noqa: F401

# isort: split
import tf_keras as keras


@contextmanager
def restartable_randomness() -> Iterator[None]:
    """Build layers whose random state can be reset."""
    random = keras.backend.experimental
    before = random.is_tf_random_generator_enabled()
    random.enable_tf_random_generator()
    try:
        yield
    finally:
        if not before:
            random.disable_tf_random_generator()


def reset_randomness(model: keras.Model, seed: int, epoch: int) -> None:
    """Give every dropout layer of `model` the random state of that epoch."""
    for index, generator in enumerate(_generators(model)):
        state = np.random.SeedSequence((seed, epoch, index)).generate_state(1)[0]
        generator.reset_from_seed(int(state))


def _generators(model: keras.Model) -> list:
    # Keras keeps the generator in private attributes and offers no way to reset it.
    sources = [getattr(layer, "_random_generator", None) for layer in model.submodules]
    generators = [getattr(source, "_generator", None) for source in sources]
    return [generator for generator in generators if generator is not None]
