"""Validation after an epoch: every image once, figures, and a few examples to look at."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import tensorflow as tf
import tf_keras as keras

from workbench.decide.outcomes import probabilities
from workbench.settings import Settings
from workbench.train.feeds import Feed
from workbench.train.losses import Loss
from workbench.train.monitors import validation_figures
from workbench.train.predict import inference


@dataclass(frozen=True)
class Examples:
    """Validation images that TensorBoard shows, with what the network says of them."""

    images: np.ndarray
    targets: np.ndarray
    scores: np.ndarray  # probabilities
    classes: tuple[str, ...]


@dataclass
class Validation:
    """Looks at a network after every epoch."""

    feed: Feed
    loss: Loss
    settings: Settings
    examples: Examples | None = field(default=None, init=False)

    def figures(self, network: keras.Model) -> dict[str, float]:
        """Compute the validation figures of the network as it stands."""
        logits = self._logits(network)
        targets, mask = self.feed.targets, self.feed.mask
        per_image = self.loss(*map(tf.constant, (logits, targets, mask)))
        single_label = self.settings.task == "single_label"
        return {
            "val_loss": float(np.mean(per_image, dtype=np.float64)),
            **validation_figures(logits, targets, mask, single_label=single_label),
        }

    def _logits(self, network: keras.Model) -> np.ndarray:
        compiled, logits = inference(network), []
        for views, targets, _mask in self.feed.validation:
            logits.append(compiled(views[-1]).numpy())
            if len(logits) == 1:
                self._keep_examples(views[-1], targets, logits[0])
        return np.concatenate(logits)

    def _keep_examples(self, images: tf.Tensor, targets: tf.Tensor, logits: np.ndarray) -> None:
        count = self.settings.training.tensorboard_images
        if self.settings.training.tensorboard and count:
            images, targets = images[:count].numpy(), targets[:count].numpy()
            scores = probabilities(logits[:count], self.settings.task)
            self.examples = Examples(images, targets, scores, self.feed.classes)
