"""What do kept answers of a teacher and kept features of a backbone save, and what do they cost?

Answers: one teacher and eight students that share it. The work of a run is its seconds of
processor: against one teacher, one pass of it, and eight students that are taught nothing.
Features: a frozen backbone's features of four views a photo instead of new views every epoch; time
of the warmup, and the test photos' figures after it and after fine-tuning, paired, three seeds.

    WORKBENCH_SHARED=/folder python -m tests.prove kept

The folder holds data/sign_digits, data/blood_cells and weights/lite0_imagenet_approx_notop.h5.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.prove.unlabelled import WEIGHTS, differences, predictions, together
from workbench.data.tables import read_dataset
from workbench.files import write_json
from workbench.settings import Settings

TASKS = {"sign_digits": "single_label", "blood_cells": "multilabel"}
STUDENTS = 8
VIEWS = 4
EPOCHS = 3


def run(*, seeds: int = 3, only: int | None = None) -> dict[str, Any]:
    shared = os.environ.get("WORKBENCH_SHARED")
    if not shared:
        return {"skipped": "WORKBENCH_SHARED names no folder"}
    with tempfile.TemporaryDirectory(prefix="workbench_kept_") as name:
        figures = {"answers": _answers(Path(shared), Path(name))} if only != 1 else {}
        if only != 0 and seeds:
            figures["features"] = _features(Path(shared), Path(name), seeds)
    return figures


def table(figures: dict[str, Any]) -> str:
    if "skipped" in figures:
        return f"skipped: {figures['skipped']}"
    lines = []
    if found := figures.get("answers"):
        spent = ", ".join(f"{name} {found[name]:.1f}" for name in found if name != "ratio")
        lines += [
            f"CPU seconds: {spent}",
            f"{STUDENTS} students with kept answers: {found['ratio']:.3f} times one teacher, one "
            f"pass of it and {STUDENTS} students without it",
        ]
    for row in figures.get("features", []):
        words = f"{row['dataset']}, after {row['phase']}, {row['figure']}"
        change = f"{row['first']:.3f} → {row['second']:.3f}"
        spread = f"{row['difference']:+.3f} ({row['low']:+.3f} to {row['high']:+.3f})"
        lines.append(f"{words:<52} {change}  {spread}; warmup {row['seconds']} CPU s")
    return "\n".join(lines)


def _fit(settings: Settings, role: str, phase_number: int, objective: Any, feed: Any, network: Any,
         folder: Path) -> float:  # fmt: skip
    """Train one phase; return its seconds of processor."""
    from tests.training_doubles import Place
    from workbench.train.loop import fit
    from workbench.train.phases import phases

    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "dataset_manifest.json", {"content_sha256": "of this proof"})
    started = time.process_time()
    fit(phases(settings, role)[phase_number], network, objective, feed, Place(folder, settings))
    return time.process_time() - started


def _answers(shared: Path, folder: Path) -> dict[str, float]:
    """Train a large teacher, and students with and without it; say what each cost."""
    from workbench.nets.teacher import build_student, build_teacher, student_view, teacher_view
    from workbench.train.loop import feed
    from workbench.train.losses import Distillation, task_loss

    def settings_with(*, keep: bool) -> Settings:
        network = {"weights": "none", "epochs_head": 0, "epochs_finetune": EPOCHS, "batch_size": 16}
        return Settings.model_validate(
            {
                "num_classes": "auto", "student": {"variant": "lite1", "input_size": 96, **network},
                "teacher": {"input_size": 160, **network}, "distillation": {"keep_answers": keep},
                "training": {"tensorboard": False}, "run": {"threads": 1},
            }
        )  # fmt: skip

    settings = settings_with(keep=False)
    dataset = read_dataset(shared / "data/blood_cells", settings)
    loss = task_loss(settings, dataset.split("train"))
    large, small = teacher_view(settings), student_view(settings)
    teacher = build_teacher(settings, dataset.classes)

    def student(name: str, *, keep: bool = False, taught: bool = True) -> float:
        changed = settings_with(keep=keep)
        objective = Distillation(loss, teacher, changed) if taught else loss
        views = (large, small) if taught else (small,)
        batches = feed(dataset, views, changed, batch_size=16)
        network = build_student(changed, dataset.classes)
        place = folder / "outputs" / name
        spent = _fit(changed, "student", 1, objective, batches, network, place)
        sys.stderr.write(f"{name}: {spent:.1f} CPU s\n")
        return spent

    student("warming up", taught=False)  # the first training of a process also starts it
    batches = feed(dataset, (large,), settings, batch_size=16)
    spent = {"the teacher": _fit(settings, "teacher", 1, loss, batches, teacher, folder / "large")}
    spent["a student alone"] = student("alone", taught=False)
    spent["with the teacher"] = student("without")
    spent["the first that keeps"] = student("first", keep=True)
    spent["the next"] = student("next", keep=True)
    one_pass = spent["with the teacher"] - spent["a student alone"]
    bound = spent["the teacher"] + one_pass + STUDENTS * spent["a student alone"]
    kept = spent["the teacher"] + spent["the first that keeps"]
    spent["ratio"] = (kept + (STUDENTS - 1) * spent["the next"]) / bound
    return spent


def _features(shared: Path, folder: Path, seeds: int) -> list[dict[str, Any]]:
    """Train heads on new views and on kept features; compare on the test photos, paired."""
    rows = []
    for name in TASKS:
        found: dict[tuple[str, int], list] = {}
        seconds = {0: 0.0, VIEWS: 0.0}
        for seed in range(seeds):
            for views in seconds:
                place = folder / f"{name}_{seed}_{views}"
                answers, spent = _head(shared, name, seed, views, place)
                seconds[views] += spent
                sys.stderr.write(f"{name}, seed {seed}, {views} views: warmup {spent:.1f} CPU s\n")
                for phase, one in answers.items():
                    found.setdefault((phase, views), []).append(one)
        words = f"{seconds[0] / seeds:.1f} → {seconds[VIEWS] / seeds:.1f}"
        for phase in dict.fromkeys(phase for phase, _ in found):
            joined = {str(views): together(found[phase, views]) for views in seconds}
            about = {"dataset": name, "phase": phase, "seconds": words}
            rows += differences(joined, "0", str(VIEWS), about)
    return rows


def _head(shared: Path, name: str, seed: int, views: int, place: Path) -> tuple[dict, float]:
    from workbench.nets.teacher import build_student, student_view
    from workbench.train.loop import feed
    from workbench.train.losses import task_loss

    settings = Settings.model_validate(
        {
            "num_classes": "auto", "seed": seed, "task": TASKS[name],
            "student": {"variant": "lite0", "input_size": 96, "weights": str(shared / WEIGHTS),
                        "epochs_head": 10, "epochs_finetune": EPOCHS, "batch_size": 16},
            "distillation": {"enabled": False},
            "training": {"head_views": views, "tensorboard": False}, "run": {"threads": 1},
        }
    )  # fmt: skip
    dataset = read_dataset(shared / "data" / name, settings)
    network, view = build_student(settings, dataset.classes), student_view(settings)
    loss, test = task_loss(settings, dataset.split("train")), dataset.split("test")
    batches = feed(dataset, (view,), settings, batch_size=16)
    answers, spent = {}, []
    for number, phase in enumerate(("warmup", "fine-tuning")):
        spent.append(_fit(settings, "student", number, loss, batches, network, place))
        answers[phase] = predictions(phase, network, test, view, settings)
    return answers, spent[0]
