"""03 and 04: train the teacher, then the student from it, and keep their validation scores."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import tf_keras as keras

from workbench.data.tables import Dataset
from workbench.data.views import View
from workbench.files import read_json, writing
from workbench.nets.teacher import build_teacher, student_view, teacher_view
from workbench.nets.weights import load_weights_into
from workbench.run import Run
from workbench.settings import Settings
from workbench.steps.data import MANIFEST, load_dataset
from workbench.train.devices import meet_other_machines, prepare_devices
from workbench.train.phases import Training
from workbench.train.predict import predict_logits
from workbench.train.student import build_student, train_student
from workbench.train.teacher import train_teacher

TEACHER_WEIGHTS = "teacher_finetuned.h5"
STUDENT_WEIGHTS = "student_finetuned.h5"


def teach(run: Run) -> Training:
    """Train the teacher, or go on where a killed run stopped."""
    with run.step("03"):
        dataset = load_dataset(run)
        training = train_teacher(located(run), dataset, run.folder, fingerprint=_content(run))
        save_scores(run, "teacher_scores.npz", training.model, dataset, teacher_view(run.settings))
    return training


def distill(run: Run) -> Training:
    """Train the student on the labels and on the teacher's answers."""
    with run.step("04"):
        dataset = load_dataset(run)
        prepare_devices(run.settings)
        meet_other_machines(run.settings)
        teacher = load_teacher(run, dataset) if run.settings.distillation.enabled else None
        training = train_student(
            located(run), dataset, teacher, run.folder, fingerprint=_content(run)
        )
        save_scores(run, "student_scores.npz", training.model, dataset, student_view(run.settings))
    return training


def located(run: Run) -> Settings:
    """Return the settings with weights files named from the project, as its dataset is."""
    found = {}
    for role in ("teacher", "student"):
        own = getattr(run.settings, role)
        if own.weights not in ("imagenet", "none"):
            found[role] = own.model_copy(update={"weights": str(run.root / own.weights)})
    return run.settings.model_copy(update=found)


def _content(run: Run) -> str:
    return run.read_json(MANIFEST)["content_sha256"]


def load_teacher(run: Run, dataset: Dataset) -> keras.Model:
    """Build the teacher from the settings and load its weights, as data only."""
    prepare_devices(run.settings)
    network = build_teacher(run.settings.teacher, len(dataset.classes))
    load_weights_into(network, run.need(TEACHER_WEIGHTS), backbone_only=False)
    return network


def load_student(run: Run, dataset: Dataset) -> keras.Model:
    prepare_devices(run.settings)
    network = build_student(run.settings, len(dataset.classes))
    load_weights_into(network, run.need(STUDENT_WEIGHTS), backbone_only=False)
    return network


def save_scores(
    run: Run, name: str, network: keras.Model, dataset: Dataset, view: View, split: str = "val"
) -> np.ndarray:
    """Keep the logits of a split beside their labels: what tables and plots are made from."""
    part = dataset.split(split)
    logits = predict_logits(network, part, view, run.settings.student.batch_size, run.settings)
    write_arrays(run.path(name), logits=logits, y_true=part.targets, mask=part.mask)
    return logits


def write_arrays(path: Path, **arrays: np.ndarray) -> None:
    """Write arrays whole or not at all, the same bytes for the same values."""
    with writing(path) as temporary, open(temporary, "wb") as file:
        np.savez(file, **arrays)


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    with np.load(path, allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files}


def class_table(run: Run, *names: str) -> Any:
    """Compare networks class by class on validation, at the neutral threshold of one half."""
    import pandas as pd

    classes = read_json(run.need(MANIFEST))["classes"]
    columns = {"class": classes}
    for name in names:
        table = evaluate_scores(run, f"{name}_scores.npz", classes).table
        columns[f"{name} F1"] = table["f1"].to_numpy()
        columns[f"{name} AP"] = table["average_precision"].to_numpy()
    return pd.DataFrame(columns)


def evaluate_scores(run: Run, name: str, classes: list[str]) -> Any:
    """Evaluate saved logits at the neutral threshold."""
    from workbench.decide import metrics
    from workbench.decide.outcomes import probabilities

    scores = read_arrays(run.need(name))
    task = run.settings.task
    neutral = 0.5 if task == "multilabel" else 0.0
    return metrics.evaluate(
        scores["y_true"], probabilities(scores["logits"], task),
        np.full(len(classes), neutral) if task == "multilabel" else neutral,
        classes, mask=scores["mask"], task=task,
    )  # fmt: skip
