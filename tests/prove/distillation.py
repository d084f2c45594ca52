"""Where should a teacher help, and with which weight and temperature?

A teacher of twice the student's input size, all labels kept; the same student from labels alone
and with each setting of `distillation`, then both for twice as long, three seeds each:

    WORKBENCH_SHARED=/folder python -m tests.prove distillation

The folder holds data/sign_digits, data/blood_cells and weights/lite0_imagenet_approx_notop.h5.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from tests.prove.unlabelled import (
    DATASETS,
    STUDENT_SIZE,
    TEACHER_SIZE,
    differences,
    predictions,
    together,
    train,
    transfer_settings,
)
from workbench.data.tables import Dataset, read_dataset
from workbench.decide.metrics import Predictions
from workbench.settings import Settings

ALONE, TEACHER, LONGER = "labels alone", "teacher", "twice as long"
TAUGHT = ((0.7, 2.0), (0.3, 2.0), (0.0, 1.0))  # weight of the labels, temperature
PATIENT = (0.0, 1.0)
TIMES = 2


def run(*, seeds: int = 3, only: int | None = None, photos: int = 0) -> dict[str, Any]:
    """Train every arm with every seed; `only` 0 or 1 takes one dataset, `photos` fewer of them."""
    shared = os.environ.get("WORKBENCH_SHARED")
    if not shared:
        return {"skipped": "WORKBENCH_SHARED names no folder", "rows": []}
    rows = []
    for name in list(DATASETS) if only is None else [list(DATASETS)[only]]:
        started, answers = time.monotonic(), []
        for seed in range(seeds):
            with tempfile.TemporaryDirectory(prefix="workbench_distillation_") as folder:
                answers.append(_seed(Path(shared), name, seed, photos, Path(folder)))
        about = {"dataset": name, "minutes": round((time.monotonic() - started) / 60, 1)}
        joined = {arm: together([one[arm] for one in answers]) for arm in answers[0]}
        longer = f"{ALONE}, {LONGER}"
        for arm in joined:
            start = longer if arm.endswith(LONGER) else ALONE
            if arm != start:
                rows += differences(joined, start, arm, about)
        rows += differences(joined, ALONE, longer, about)
    return {"rows": rows, "seeds": seeds, "sizes": [STUDENT_SIZE, TEACHER_SIZE]}


def table(figures: dict[str, Any]) -> str:
    if not figures["rows"]:
        return f"skipped: {figures['skipped']}"
    lines = [f"{figures['seeds']} seeds, all labels, student and teacher at {figures['sizes']} "
             "pixels; intervals draw test photos"]  # fmt: skip
    for row in figures["rows"]:
        words = f"{row['dataset']}, {row['figure']}: {row['before']} → {row['after']}"
        change = f"{row['first']:.3f} → {row['second']:.3f}"
        spread = f"{row['difference']:+.3f} ({row['low']:+.3f} to {row['high']:+.3f})"
        lines.append(f"{words:<86} {change}  {spread}")
    return "\n".join(lines)


def _arm(alpha: float, temperature: float) -> str:
    return f"alpha {alpha}, T {temperature:g}"


def _changed(settings: Settings, alpha: float, temperature: float) -> Settings:
    wanted = {"alpha": alpha, "temperature": temperature}
    return settings.model_copy(
        update={"distillation": settings.distillation.model_copy(update=wanted)}
    )


def _for_longer(settings: Settings) -> Settings:
    student = settings.student
    wanted = {"epochs_head": TIMES * student.epochs_head,
              "epochs_finetune": TIMES * student.epochs_finetune}  # fmt: skip
    return settings.model_copy(update={"student": student.model_copy(update=wanted)})


def _fewer(dataset: Dataset, photos: int, seed: int) -> Dataset:
    """Leave out training photos, drawn by seed: rows may come class by class."""
    train = dataset.rows.index[dataset.rows["split"] == "train"]
    drawn = np.random.default_rng(seed).permutation(train)
    return replace(dataset, rows=dataset.rows.drop(drawn[photos:])) if photos else dataset


def _seed(shared: Path, name: str, seed: int, photos: int, folder: Path) -> dict[str, Predictions]:
    from workbench.nets.teacher import student_view, teacher_view
    from workbench.train.loop import feed
    from workbench.train.losses import Distillation, task_loss

    settings = transfer_settings(shared, name, seed)
    dataset = _fewer(read_dataset(shared / "data" / name, settings), photos, seed)
    test, loss = dataset.split("test"), task_loss(settings, dataset.split("train"))
    large, small = teacher_view(settings), student_view(settings)
    size, found = settings.student.batch_size, {}

    def trained(arm: str, settings: Settings, objective: Any, views: Any, role="student") -> Any:
        batches = feed(dataset, views, settings, batch_size=size)
        place = folder / f"arm_{len(found)}"
        network = train(settings, dataset.classes, role, objective, batches, place)
        found[arm] = predictions(arm, network, test, views[-1], settings)
        said = f"{name}, seed {seed}: {arm}, {time.process_time():.0f} s of processor\n"
        sys.stderr.write(said)
        return network

    teacher = trained(TEACHER, settings, loss, (large,), "teacher")
    trained(ALONE, settings, loss, (small,))
    for alpha, temperature in TAUGHT:
        changed = _changed(settings, alpha, temperature)
        taught = Distillation(loss, teacher, changed)
        trained(_arm(alpha, temperature), changed, taught, (large, small))
    patient = _for_longer(_changed(settings, *PATIENT))
    trained(f"{ALONE}, {LONGER}", patient, loss, (small,))
    taught = Distillation(loss, teacher, patient)
    trained(f"{_arm(*PATIENT)}, {LONGER}", patient, taught, (large, small))
    return found
