"""TensorBoard: curves by epoch and by batch, a few pictures with their scores, histograms."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import tensorflow as tf
import tf_keras as keras

from workbench.settings import TrainingSettings
from workbench.train.logs import Row
from workbench.train.validation import Examples

CURVES = ("loss", "val_loss", "val_f1_macro", "val_map", "lr")


class TensorBoard:
    """Writes one phase; with `tensorboard: false` it writes nothing."""

    def __init__(self, folder: Path, settings: TrainingSettings) -> None:
        self.settings = settings
        self.writer = tf.summary.create_noop_writer()
        if settings.tensorboard:
            self.writer = tf.summary.create_file_writer(str(folder))

    def write_batches(self, first_step: int, losses: np.ndarray, rates: list[float]) -> None:
        with self.writer.as_default():
            for offset, (loss, rate) in enumerate(zip(losses, rates, strict=True)):
                tf.summary.scalar("batch/loss", loss, step=first_step + offset)
                tf.summary.scalar("batch/lr", rate, step=first_step + offset)

    def write_epoch(self, row: Row, network: keras.Model, examples: Examples | None) -> None:
        with self.writer.as_default(step=row["epoch"]):
            for name in CURVES:
                tf.summary.scalar(f"epoch/{name}", row[name])
            if self.settings.tensorboard_histograms:
                for weight in network.weights:
                    tf.summary.histogram(weight.name, weight)
            if examples:
                self._write_examples(examples, first=row["epoch"] == 1)
        self.writer.flush()

    def _write_examples(self, examples: Examples, first: bool) -> None:
        if first:  # the pictures stay the same, only the scores change
            images = _displayable(examples.images)
            tf.summary.image("examples", images, max_outputs=len(images))
        tf.summary.text("examples/scores", tf.constant(score_table(examples)))


def score_table(examples: Examples) -> str:
    """Write a Markdown table of probabilities, an image a row, its labels in bold."""
    names = ["image", *map(_plain, examples.classes)]
    lines = [_line(names), _line(["---"] * len(names))]
    for index, (truth, scores) in enumerate(zip(examples.targets, examples.scores, strict=True)):
        cells = [_score(y, score) for y, score in zip(truth, scores, strict=True)]
        lines.append(_line([str(index), *cells]))
    return "\n".join(lines)


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _plain(name: str) -> str:
    """Keep letters, digits and spaces as they are; everything else becomes an HTML number."""
    return "".join(c if c.isalnum() or c == " " else f"&#{ord(c)};" for c in name)


def _displayable(images: np.ndarray) -> np.ndarray:
    """Bring [0, 255] or [-1, 1] to what TensorBoard shows, [0, 1]."""
    scaled = images / 255 if images.max() > 1 else (images + 1) / 2
    return np.clip(scaled, 0, 1)


def _score(label: float, score: float) -> str:
    return f"**{score:.2f}**" if label > 0.5 else f"{score:.2f}"
