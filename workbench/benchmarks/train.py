"""Does training waste anything? Our step and our epoch against a bare Keras loop in the same run.

The bare loop calls `train_on_batch` on tensors that lie in memory: no decoding, no augmentation,
no clipping, nothing that makes it a training. Measurements alternate, so that a busy neighbour
slows both sides.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import tensorflow as tf
import tf_keras as keras

from workbench.data.pipeline import training_batches
from workbench.data.tables import Split
from workbench.nets.devices import seed_everything
from workbench.nets.network import inference
from workbench.nets.teacher import student_structure, student_view, teacher_structure, teacher_view
from workbench.settings import Settings
from workbench.train.batch_size import made_up_batches
from workbench.train.losses import Distillation, task_loss
from workbench.train.step import TrainingStep

CLASSES = 7
STEPS = 12  # of each kind
WARMUP_STEPS = 2
PHOTO_SIDES = (480, 640)  # pixels, what `prepare` leaves of a phone's photo

Step = Callable[[], Any]


def run(*, count: int = STEPS, settings: Settings | None = None) -> dict[str, Any]:
    """Time `count` steps of each kind, by default of the default networks, on random weights."""
    settings = settings or Settings()
    batch_size = settings.student.batch_size
    seed_everything(settings)
    with tempfile.TemporaryDirectory(prefix="workbench_train_") as folder:
        photos = _draw_photos(Path(folder), 4 * batch_size)
        steps = dict(_steps(settings, photos, batch_size))
        seconds = _alternating({name: step for name, (step, _traces) in steps.items()}, count)
        traces = {name: traces() for name, (_step, traces) in steps.items() if traces}
    speeds = {name: batch_size / median for name, median in seconds.items()}
    both = seconds["teacher inference"] + seconds["our step"]
    return {
        "student": f"{settings.student.variant} at {settings.student_size} px",
        "teacher": f"{settings.teacher.arch} at {settings.teacher_size} px",
        "batch_size": batch_size,
        "steps": count,
        "images_per_second": speeds,
        "step_to_bare": speeds["our step"] / speeds["bare train_on_batch"],
        "epoch_to_bare": speeds["our epoch from files"] / speeds["bare train_on_batch"],
        "distillation_to_parts": seconds["distillation step"] / both,
        "traces": traces,
    }


def table(figures: dict[str, Any]) -> str:
    """Write the figures for a terminal."""
    lines = [
        f"Training {figures['student']}, teacher {figures['teacher']}, "
        f"batches of {figures['batch_size']}, median of {figures['steps']} steps"
    ]
    speeds = figures["images_per_second"].items()
    lines += [f"  {name:<24} {speed:8.1f} images/s" for name, speed in speeds]
    lines += [
        f"  our step / bare loop                 {figures['step_to_bare']:.3f}",
        f"  our epoch from files / bare loop     {figures['epoch_to_bare']:.3f}   (at least 0.95)",
        f"  distillation / teacher + student     {figures['distillation_to_parts']:.3f}   "
        "(at most 1.05)",
        f"  traces of each compiled step         {max(figures['traces'].values())}       (1)",
    ]
    return "\n".join(lines)


def _steps(
    settings: Settings, photos: Split, batch_size: int
) -> Iterator[tuple[str, tuple[Step, Callable[[], int] | None]]]:
    """Yield every kind of step, with how to count its traces."""
    own, large = student_view(settings), teacher_view(settings)
    loss = task_loss(settings, photos)
    memory = made_up_batches((own,), batch_size, CLASSES)
    teacher = teacher_structure(settings, CLASSES)
    yield "bare train_on_batch", (_bare(settings, memory), None)

    ours = _training(settings, loss)
    yield "our step", (_on(ours, memory), lambda: ours.traces)

    files = _training(settings, loss)
    stream = training_batches(photos, (own,), batch_size, settings).dataset
    yield "our epoch from files", (_on(files, stream), lambda: files.traces)

    compiled = inference(teacher)
    images = next(iter(made_up_batches((large,), batch_size, CLASSES)))[0][0]
    count = compiled.experimental_get_tracing_count
    yield "teacher inference", (lambda: compiled(images).numpy(), count)

    distilled = _training(settings, Distillation(loss, teacher, settings))
    both = made_up_batches((large, own), batch_size, CLASSES)
    yield "distillation step", (_on(distilled, both), lambda: distilled.traces)


def _bare(settings: Settings, batches: tf.data.Dataset) -> Step:
    """Keras as it comes, with the optimizer and the loss that we use."""
    network = student_structure(settings, CLASSES)
    optimizer = keras.optimizers.AdamW(1e-6, weight_decay=settings.student.weight_decay)
    network.compile(optimizer, keras.losses.BinaryCrossentropy(from_logits=True))
    images, targets, _mask = next(iter(batches))
    return lambda: network.train_on_batch(images[0], targets)


def _training(settings: Settings, goal: Callable) -> TrainingStep:
    strategy = tf.distribute.get_strategy()
    network = student_structure(settings, CLASSES)
    step = TrainingStep(network, goal, settings.training, settings.student.weight_decay, strategy)
    step.set_rate(1e-6)
    return step


def _on(step: TrainingStep, batches: tf.data.Dataset) -> Step:
    stream = iter(batches)
    return lambda: step.run(stream).numpy()


def _alternating(steps: dict[str, Step], count: int) -> dict[str, float]:
    """Time the steps in turn; return the median seconds of each."""
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for _round in range(WARMUP_STEPS + count):
        for name, step in steps.items():
            started = time.perf_counter()
            step()
            seconds[name].append(time.perf_counter() - started)
    return {name: float(np.median(times[WARMUP_STEPS:])) for name, times in seconds.items()}


def _draw_photos(folder: Path, count: int) -> Split:
    rng = np.random.default_rng(np.random.SeedSequence(0))
    names = tuple(f"{index}.jpg" for index in range(count))
    for name in names:
        coarse = rng.integers(0, 256, (12, 16, 3), dtype=np.uint8)
        cv2.imwrite(str(folder / name), cv2.resize(coarse, PHOTO_SIDES[::-1]))
    targets = (rng.random((count, CLASSES)) < 0.3).astype(np.float32)
    classes = tuple("abcdefg"[:CLASSES])
    return Split("train", names, folder, classes, targets, np.ones_like(targets))
