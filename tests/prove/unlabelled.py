"""What do photos without labels give, where few have one?

A tenth of the training labels is kept. A student learns from them alone, from them with a teacher
of twice its input size, from all photos with that teacher, and from all photos with the student
before it as the teacher. All trainings, the teacher's too, have equally many steps of as many
photos:

    WORKBENCH_SHARED=/folder python -m tests.prove unlabelled

The folder holds data/sign_digits, data/blood_cells and weights/lite0_imagenet_approx_notop.h5.
"""

from __future__ import annotations

import os
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from workbench.data.layouts import UNLABELED
from workbench.data.tables import Dataset, read_dataset
from workbench.decide import metrics
from workbench.decide.metrics import Predictions
from workbench.decide.outcomes import probabilities
from workbench.settings import Settings

WEIGHTS = "weights/lite0_imagenet_approx_notop.h5"
# folder, task, most training photos, epochs of warmup and finetune
DATASETS = {"sign_digits": ("single_label", 600, 2, 4), "blood_cells": ("multilabel", 600, 2, 8)}
STUDENT_SIZE, TEACHER_SIZE = 64, 128
KEPT = 0.1
ALONE, LABELLED, ALL, AGAIN = "labels alone", "teacher, labelled", "teacher, all", "second round"
PAIRS = ((ALONE, LABELLED), (ALONE, ALL), (LABELLED, ALL), (ALL, AGAIN), (ALONE, AGAIN))
FIGURES = ("f1_macro", "map", "calibration_error")


def run(*, seeds: int = 3, only: int | None = None) -> dict[str, Any]:
    """Train every arm with every seed; `only` 0 or 1 takes one dataset."""
    shared = os.environ.get("WORKBENCH_SHARED")
    if not shared:
        return {"skipped": "WORKBENCH_SHARED names no folder", "rows": []}
    names = list(DATASETS) if only is None else [list(DATASETS)[only]]
    rows = []
    for name in names:
        started, answers = time.monotonic(), []
        for seed in range(seeds):
            with tempfile.TemporaryDirectory(prefix="workbench_unlabelled_") as folder:
                answers.append(_seed(Path(shared), name, seed, Path(folder)))
        minutes = round((time.monotonic() - started) / 60, 1)
        joined = {arm: together([one[arm] for one in answers]) for arm in answers[0]}
        for pair in PAIRS:
            rows += differences(joined, *pair, {"dataset": name, "minutes": minutes})
    return {"rows": rows, "seeds": seeds, "sizes": [STUDENT_SIZE, TEACHER_SIZE], "kept": KEPT}


def table(figures: dict[str, Any]) -> str:
    if not figures["rows"]:
        return f"skipped: {figures['skipped']}"
    lines = [f"{figures['seeds']} seeds, {figures['kept']:.0%} of the labels, student and teacher "
             f"at {figures['sizes']} pixels; intervals draw test photos"]  # fmt: skip
    for row in figures["rows"]:
        words = f"{row['dataset']}, {row['figure']}: {row['before']} → {row['after']}"
        change = f"{row['first']:.3f} → {row['second']:.3f}"
        spread = f"{row['difference']:+.3f} ({row['low']:+.3f} to {row['high']:+.3f})"
        lines.append(f"{words:<68} {change}  {spread}")
    return "\n".join(lines)


def keep_few_labels(dataset: Dataset, share: float, most: int, seed: int) -> Dataset:
    """Take the labels off all but a share of the training photos; each class keeps at least two."""
    rng, rows = np.random.default_rng(seed), dataset.rows
    train = rng.permutation(np.flatnonzero(rows["split"] == "train"))
    kept = set(train[: round(share * min(most, len(train)))].tolist())
    for name in dataset.classes:
        having = [row for row in train.tolist() if name in rows["labels"].iloc[row]]
        others = [row for row in having if row not in kept]
        kept |= set(others[: max(0, 2 - len(kept.intersection(having)))])
    stripped = [row for row in train.tolist() if row not in kept]
    changed = rows.copy()
    places = changed.index[stripped]
    changed.loc[places, "split"] = UNLABELED
    changed.loc[places, "labels"] = [()] * len(stripped)
    changed.loc[places, "unknown"] = [dataset.classes] * len(stripped)
    return replace(dataset, rows=changed.drop(places[max(0, most - len(kept)) :]))


def train(
    settings: Settings, classes: tuple[str, ...], role: str, objective: Any, batches: Any, out: Path
) -> Any:
    """Build a teacher or student and train it through its phases, kept in a folder of its own."""
    from tests.training_doubles import Place
    from workbench.nets.teacher import build_student, build_teacher
    from workbench.train.loop import fit
    from workbench.train.phases import phases

    network = (build_teacher if role == "teacher" else build_student)(settings, classes)
    out.mkdir()
    for phase in phases(settings, role):
        fit(phase, network, objective, batches, Place(out, settings))
    return network


def predictions(
    arm: str, network: Any, test: Dataset, view: Any, settings: Settings
) -> Predictions:
    """Answer the test photos at the cut that training itself uses."""
    from workbench.nets.network import predict_logits

    scores = probabilities(predict_logits(network, test, view, settings), settings.task)
    threshold = 0.5 if settings.task == "multilabel" else 0.0
    return Predictions(
        arm, test.filepaths, test.classes, test.targets, scores, threshold, settings.task,
        test.mask, None,
    )  # fmt: skip


def _seed(shared: Path, name: str, seed: int, folder: Path) -> dict[str, Predictions]:
    from workbench.nets.teacher import student_view, teacher_view
    from workbench.train.loop import feed
    from workbench.train.losses import Distillation, task_loss

    settings = transfer_settings(shared, name, seed)
    dataset = read_dataset(shared / "data" / name, settings)
    dataset = keep_few_labels(dataset, KEPT, DATASETS[name][1], seed)
    few, test = dataset.split("train"), dataset.split("test")
    large, small = teacher_view(settings), student_view(settings)
    size, both, loss = settings.student.batch_size, ("train", UNLABELED), task_loss(settings, few)
    everything = feed(dataset, (large, small), settings, batch_size=size, photos=both)
    as_long = {"batch_size": size, "as_long_as": everything}

    def trained(arm: str, objective: Any, batches: Any, role: str = "student") -> Any:
        place = folder / arm.replace(" ", "_")
        return train(settings, dataset.classes, role, objective, batches, place)

    teacher = trained("teacher", loss, feed(dataset, (large,), settings, **as_long), "teacher")
    taught, pair = Distillation(loss, teacher, settings), (large, small)
    found = {
        ALONE: trained(ALONE, loss, feed(dataset, (small,), settings, **as_long)),
        LABELLED: trained(LABELLED, taught, feed(dataset, pair, settings, **as_long)),
        ALL: trained(ALL, taught, everything),
    }
    again = feed(dataset, (small,), settings, batch_size=size, photos=both)
    found[AGAIN] = trained(AGAIN, Distillation(loss, found[ALL], settings), again)
    return {arm: predictions(arm, one, test, small, settings) for arm, one in found.items()}


def together(answers: list[Predictions]) -> Predictions:
    """Put the answers of several seeds together; a photo that comes in more than one is a group."""
    paths = [path for one in answers for path in one.filepaths]
    number = {path: place for place, path in enumerate(dict.fromkeys(paths))}
    names = [f"{seed}/{path}" for seed, one in enumerate(answers) for path in one.filepaths]
    joined = {key: np.concatenate([getattr(one, key) for one in answers])
              for key in ("y_true", "y_score", "mask")}  # fmt: skip
    groups = np.array([number[path] for path in paths])
    return replace(answers[0], filepaths=tuple(names), groups=groups, **joined)


def differences(
    answers: dict[str, Predictions], before: str, after: str, about: dict[str, Any]
) -> list[dict[str, Any]]:
    found = metrics.compare(answers[before], answers[after], replicates=1000, seed=0).overall
    rows = found[found["figure"].isin(FIGURES)].to_dict("records")
    return [about | {"before": before, "after": after} | row for row in rows]


def transfer_settings(shared: Path, name: str, seed: int) -> Settings:
    task, _most, head, finetune = DATASETS[name]
    network = {
        "weights": str(shared / WEIGHTS), "batch_size": 32,
        "epochs_head": head, "epochs_finetune": finetune, "lr_finetune": 1e-3,
        "unfreeze_fraction": 1.0, "drop_connect": 0.0, "normalization_momentum": 0.9,
    }  # fmt: skip
    return Settings.model_validate(
        {
            "seed": seed, "task": task, "num_classes": "auto",
            "student": {"variant": "lite0", "input_size": STUDENT_SIZE, **network},
            "teacher": {"arch": "efficientnet_lite0", "input_size": TEACHER_SIZE, **network},
            "schedule": {"name": "cosine"},
            "training": {"tensorboard": False},
        }
    )  # fmt: skip
