"""What do pretrained weights and a teacher give on real photos?

A student from random weights, from an ImageNet backbone, and from that backbone with a teacher of
the same kind; three seeds each, scored on the test split:

    WORKBENCH_SHARED=/folder python -m tests.prove transfer

The folder holds data/sign_digits, data/blood_cells and weights/lite0_imagenet_approx_notop.h5.
"""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from workbench.data.tables import Dataset, read_dataset
from workbench.settings import Settings

WEIGHTS = "weights/lite0_imagenet_approx_notop.h5"
# folder, task, epochs of warmup and finetune
DATASETS = {"sign_digits": ("single_label", 2, 4), "blood_cells": ("multilabel", 4, 16)}
PAIRS = (("scratch", "transfer"), ("transfer", "transfer + distillation"))
STUDENT_SIZE, TEACHER_SIZE = 96, 128


def run(*, seeds: int = 3, only: int | None = None) -> dict[str, Any]:
    """Train every arm with every seed; `only` 0 or 1 takes one dataset."""
    shared = os.environ.get("WORKBENCH_SHARED")
    if not shared:
        return {"skipped": "WORKBENCH_SHARED names no folder", "rows": []}
    names = list(DATASETS) if only is None else [list(DATASETS)[only]]
    rows = []
    for name in names:
        for seed in range(seeds):
            with tempfile.TemporaryDirectory(prefix="workbench_transfer_") as folder:
                rows += _seed(Path(shared), name, seed, Path(folder))
    return {"rows": rows, "student_size": STUDENT_SIZE, "teacher_size": TEACHER_SIZE}


def table(figures: dict[str, Any]) -> str:
    if not figures["rows"]:
        return f"skipped: {figures['skipped']}"
    rows = pd.DataFrame(figures["rows"])
    lines = [f"{'dataset':<12} {'network':<26} {'F1 macro':>9} {'95 % interval':>16} {'mAP':>6}"]
    for (dataset, arm), group in rows.groupby(["dataset", "arm"], sort=False):
        f1, (low, high) = group["f1_macro"].mean(), interval(group["f1_macro"])
        ends = f"{low:.3f} to {high:.3f}"
        lines.append(f"{dataset:<12} {arm:<26} {f1:9.3f} {ends:>16} {group['map'].mean():6.3f}")
    for dataset, group in rows.groupby("dataset", sort=False):
        for figure in ("f1_macro", "map"):
            scores = group.pivot(index="seed", columns="arm", values=figure)
            lines += [_gain(dataset, figure, scores, *pair) for pair in PAIRS]
    return "\n".join(lines)


def _gain(dataset: str, figure: str, scores: pd.DataFrame, before: str, after: str) -> str:
    """Differences are paired: the same seed splits, draws and shuffles alike in every arm."""
    gain = scores[after] - scores[before]
    low, high = interval(gain)
    words = f"{dataset}, {figure}: {before} → {after}"
    return f"{words:<66} {gain.mean():+.3f} ({low:+.3f} to {high:+.3f})"


def interval(values: pd.Series) -> tuple[float, float]:
    """Student's t over the seeds."""
    if len(values) < 2:
        return np.nan, np.nan
    half = stats.t.ppf(0.975, len(values) - 1) * values.std() / np.sqrt(len(values))
    return values.mean() - half, values.mean() + half


def _seed(shared: Path, name: str, seed: int, folder: Path) -> list[dict[str, Any]]:
    rows, teacher = [], None
    for arm in ("scratch", "transfer", "teacher", "transfer + distillation"):
        settings = _settings(shared, name, seed, arm)
        dataset = read_dataset(shared / "data" / name, settings)
        out = folder / arm.replace(" ", "")
        out.mkdir()
        started = time.monotonic()
        model, row = _trained(settings, dataset, teacher, arm, out)
        teacher = model if arm == "teacher" else teacher
        seconds = round(time.monotonic() - started, 1)
        rows.append({"dataset": name, "seed": seed, "arm": arm, **row, "seconds": seconds})
    return rows


def _trained(settings: Settings, dataset: Dataset, teacher, arm: str, out: Path) -> tuple:
    from tests.training_doubles import train_role
    from workbench.nets.network import predict_logits
    from workbench.nets.teacher import student_view, teacher_view
    from workbench.train.loop import validation_figures

    if arm == "teacher":
        model, view = train_role("teacher", settings, dataset, out)[0], teacher_view(settings)
    else:
        taught = teacher if "distillation" in arm else None
        model, view = (
            train_role("student", settings, dataset, out, taught)[0],
            student_view(settings),
        )
    test = dataset.split("test")
    logits = predict_logits(model, test, view or student_view(settings), settings)
    single_label = settings.task == "single_label"
    figures = validation_figures(logits, test.targets, test.mask, single_label=single_label)
    return model, {"f1_macro": figures["val_f1_macro"], "map": figures["val_map"]}


def _settings(shared: Path, name: str, seed: int, arm: str) -> Settings:
    task, head, finetune = DATASETS[name]
    scratch = arm == "scratch"
    network = {
        "weights": "none" if scratch else str(shared / WEIGHTS),
        "batch_size": 32,
        # Without a backbone there is nothing to warm up a head on; the epochs go to all layers.
        "epochs_head": 0 if scratch else head,
        "epochs_finetune": head + finetune if scratch else finetune,
        "lr_finetune": 3e-3 if scratch else 1e-3,
        "unfreeze_fraction": 1.0,
        "drop_connect": 0.0,
        "normalization_momentum": 0.9,
    }
    return Settings.model_validate(
        {
            "seed": seed,
            "task": task,
            "num_classes": "auto",
            "student": {"variant": "lite0", "input_size": STUDENT_SIZE, **network},
            "teacher": {"arch": "efficientnet_lite0", "input_size": TEACHER_SIZE, **network},
            "schedule": {"name": "cosine"},
            "training": {"tensorboard": False},
        }
    )
