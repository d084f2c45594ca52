"""What a training writes down and shows: log lines, CSV and JSONL, a bar, TensorBoard."""

from __future__ import annotations

import json
import logging
import math
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import tensorflow as tf
import tf_keras as keras
from tqdm import tqdm

from workbench import files
from workbench.settings import TrainingSettings
from workbench.train.step import FIGURES as STEP_FIGURES

logger = logging.getLogger(__name__)
Row = dict[str, Any]
FIGURES = ["loss", "accuracy", "gradient_norm", "val_loss", "val_f1_macro", "val_map"]
FIGURES += ["val_accuracy", "lr", "seconds"]
TYPES = {"phase": "str", "epoch": "int64", **dict.fromkeys(FIGURES, "float64")}


def history_table(rows: list[Row]) -> pd.DataFrame:
    """Tabulate epochs; without a row the columns have their types all the same."""
    return pd.DataFrame(rows, columns=list(TYPES)).astype(TYPES)


def write_logs(folder: Path, phase: str, rows: list[Row]) -> None:
    """Write the whole history anew, so that a resumed phase never lists an epoch twice."""
    files.write_text(folder / f"{phase}.csv", history_table(rows).to_csv(index=False))
    # strict JSON knows no NaN
    strict = [{key: None if _undefined(x) else x for key, x in row.items()} for row in rows]
    lines = [json.dumps(row, allow_nan=False) + "\n" for row in strict]
    files.write_text(folder / f"{phase}.jsonl", "".join(lines))


def epoch_line(row: Row, epochs: int) -> str:
    """Describe a finished epoch, with the time that is left at this pace."""
    return (
        f"{row['phase']} epoch {row['epoch']}/{epochs}: loss {row['loss']:.4f}, accuracy "
        f"{row['accuracy']:.4f}, val_loss {row['val_loss']:.4f}, F1 {row['val_f1_macro']:.4f}, "
        f"mAP {row['val_map']:.4f}, val_accuracy {row['val_accuracy']:.4f}, "
        f"gradient {row['gradient_norm']:.2f}, lr {row['lr']:.2e}, {row['seconds']:.1f} s, "
        f"{duration((epochs - row['epoch']) * row['seconds'])} left"
    )


def best_line(best: Row, monitor: str, epochs: int) -> str:
    """Name the epoch whose weights are kept."""
    value = best[f"val_{monitor}"]
    return (
        f"{best['phase']} is finished: the best of {epochs} epochs is {best['epoch']}, "
        f"val_{monitor} {value:.4f}"
    )


# `tail -f` follows a file that grows; one that is written anew under its name it would lose.
FOLLOWED = "training.log"


def append_line(path: Path, line: str) -> None:
    """Add a line to a log in one write; what a kill may have left of another ends before it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "ab+", buffering=0) as file:
        torn = file.seek(0, 2) and (file.seek(-1, 2), file.read(1))[1] != b"\n"
        moment = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime())
        file.write(f"{chr(10) * torn}{moment} {line}\n".encode())


def batch_table(done: list[tf.Tensor]) -> dict[str, np.ndarray]:
    """Bring what the steps of an epoch told from the device, a column a figure."""
    return dict(zip(STEP_FIGURES, np.stack([one.numpy() for one in done], axis=1), strict=True))


def epoch_figures(batches: dict[str, np.ndarray]) -> dict[str, float]:
    """Take the means over an epoch; NaN where nothing is known."""
    norms = batches["gradient_norm"]
    norms = norms[np.isfinite(norms)]  # half precision leaves a step out whose gradients overflow
    right, judged = (batches[name].sum(dtype=np.float64) for name in ("right", "judged"))
    return {
        "loss": float(np.mean(batches["loss"], dtype=np.float64)),
        "accuracy": float(right / judged) if judged else np.nan,
        "gradient_norm": float(np.mean(norms, dtype=np.float64)) if len(norms) else np.nan,
    }


def recent(done: list[tf.Tensor]) -> str:
    """Describe the last steps; reading all of them would hold the device up."""
    figures = epoch_figures(batch_table(done[-STEPS_SHOWN:]))
    return f"loss {figures['loss']:.4f}, accuracy {figures['accuracy']:.3f}"


def duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {seconds:02d} s"


def _undefined(value: Any) -> bool:
    return isinstance(value, float) and not math.isfinite(value)


# While an epoch lasts: a bar for a person, a line a minute for a log.

SECONDS_BETWEEN_LINES = 60
SECONDS_BETWEEN_FIGURES = 1
STEPS_SHOWN = 20


def paced(
    steps: int, title: str, figures: Callable[[], str], bar: bool | None = None
) -> Iterator[int]:
    """Count the steps of an epoch; `bar` None shows a bar where a person looks on.

    `figures` says how the last steps went.
    """
    watched = _watched() if bar is None else bar
    pause = SECONDS_BETWEEN_FIGURES if watched else SECONDS_BETWEEN_LINES
    started = told = time.monotonic()
    shown = tqdm(total=steps, desc=title, leave=False, mininterval=1, disable=not watched)
    with shown:
        for step in range(steps):
            yield step
            shown.update()
            now = time.monotonic()
            if now - told < pause:
                continue
            told, left = now, duration((now - started) / (step + 1) * (steps - step - 1))
            if watched:
                shown.set_postfix_str(figures())
            else:
                words = (title, step + 1, steps, figures(), left)
                logger.info("%s: step %d/%d, %s, %s left", *words)


def _watched() -> bool:
    """Tell a terminal or a live notebook from a batch: only a live one may ask for input."""
    if sys.stderr.isatty():
        return True
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    # The kernel keeps what its client said with the cell, but offers no public name for it.
    return getattr(getattr(shell, "kernel", None), "_allow_stdin", False)


# TensorBoard: curves by epoch and by batch, a few pictures with their scores, histograms.

CURVES = tuple(name for name in FIGURES if name != "seconds")


@dataclass(frozen=True)
class Examples:
    """Validation images that TensorBoard shows, with what the network says of them."""

    images: np.ndarray
    targets: np.ndarray
    scores: np.ndarray  # probabilities
    classes: tuple[str, ...]


class TensorBoard:
    """Writes one phase; with `tensorboard: false` it writes nothing."""

    def __init__(self, folder: Path, settings: TrainingSettings) -> None:
        self.settings = settings
        self.writer = tf.summary.create_noop_writer()
        if settings.tensorboard:
            self.writer = tf.summary.create_file_writer(str(folder))

    def write_batches(
        self, first_step: int, batches: dict[str, np.ndarray], rates: list[float]
    ) -> None:
        curves = {name: batches[name] for name in ("loss", "gradient_norm")} | {"lr": rates}
        with self.writer.as_default():
            for name, values in curves.items():
                for offset, value in enumerate(values):
                    tf.summary.scalar(f"batch/{name}", value, step=first_step + offset)

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
            images = displayable(examples.images)
            tf.summary.image("examples", images, max_outputs=len(images))
        tf.summary.text("examples/scores", tf.constant(score_table(examples)))


def score_table(examples: Examples) -> str:
    """Write a Markdown table of probabilities, an image a row, its labels in bold."""
    names = ["image", *map(_plain, examples.classes)]
    rows = [names, ["---"] * len(names)]
    for index, (truth, scores) in enumerate(zip(examples.targets, examples.scores, strict=True)):
        cells = [f"{score:.2f}" for score in scores]
        bold = [f"**{cell}**" if y > 0.5 else cell for y, cell in zip(truth, cells, strict=True)]
        rows.append([str(index), *bold])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _plain(name: str) -> str:
    """Keep letters, digits and spaces as they are; everything else becomes an HTML number."""
    return "".join(c if c.isalnum() or c == " " else f"&#{ord(c)};" for c in name)


def displayable(images: np.ndarray) -> np.ndarray:
    """Bring [0, 255] or [-1, 1] to what TensorBoard shows, [0, 1]."""
    scaled = images / 255 if images.max() > 1 else (images + 1) / 2
    return np.clip(scaled, 0, 1)
