"""Run folders as a sweep leaves them, of drawn answers: nothing is trained, figures are real."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pandas as pd

from workbench.data.tables import TABLES, Dataset, write_tables
from workbench.decide.intervals import assign_folds
from workbench.files import write_json
from workbench.parameters import merge, nested
from workbench.settings import Settings
from workbench.steps import STEPS

IMAGES, CLASSES = 120, ("ball", "<b>&cat", "cup")
LABELS = np.random.default_rng(0).random((IMAGES, len(CLASSES))) < 0.35
NETWORKS = {"teacher": "03", "student": "04"}


def settings(**knobs) -> Settings:
    """Make settings from dotted knobs, `teacher__dropout=0.2`, with few resamples."""
    dotted = {key.replace("__", "."): value for key, value in knobs.items()}
    given = {"num_classes": "auto", "evaluation": {"bootstrap_replicates": 100},
             "threshold_search": {"bootstrap_replicates": 20}}  # fmt: skip
    return Settings.model_validate(merge(merge(Settings().model_dump(), given), nested(dotted)))


def draw_run(
    folder: Path, lift: float, *, network: str = "student", noise: int = 1, numbers: int = 100,
    **knobs,
) -> Path:  # fmt: skip
    """Write what 01 to 03 or 04 leave of a run whose answers are the better the larger `lift`."""
    folder.mkdir(parents=True)
    found = settings(**knobs)
    write_json(folder / "training_config.json", found.model_dump())
    fold = assign_folds(LABELS, found.dataset.folds or 1, np.random.default_rng(0))
    validates = fold == found.dataset.fold
    _write_tables(folder, np.where(validates, "val", "train"))
    logits = lift * (2.0 * LABELS - 1) + np.random.default_rng(noise).normal(0, 1, LABELS.shape)
    np.savez(folder / f"{network}_scores.npz", logits=logits[validates].astype(np.float32))
    with h5py.File(folder / f"{network}_finetuned.h5", "w") as file:
        file["head/kernel"] = np.zeros(numbers, np.float32)
    done = {step.number: _record(step) for step in STEPS if step.number <= NETWORKS[network]}
    write_json(folder / "status.json", {"schema": 1, "steps": done})
    return folder


def _write_tables(folder: Path, splits: np.ndarray) -> None:
    labels = [tuple(np.array(CLASSES)[row]) for row in LABELS]
    names = [f"{number}.jpg" for number in range(IMAGES)]
    columns = {"filepath": names, "split": splits, "labels": labels, "unknown": [()] * IMAGES}
    write_tables(Dataset(folder, CLASSES, pd.DataFrame(columns)), folder / TABLES)


def _record(step) -> dict:
    when = "2026-01-01T00:00:00.000+00:00"
    return {"name": step.name, "state": "ok", "started": when, "finished": when, "seconds": 2.5,
            "fingerprint": {}, "outputs": {}}  # fmt: skip


def fail(folder: Path, number: str, reason: str, state: str = "failed") -> None:
    """Let a step of a drawn run have failed."""
    held = pd.read_json(folder / "status.json", typ="series").to_dict()
    when = "2026-01-01T00:00:00.000+00:00"
    name = next(step.name for step in STEPS if step.number == number)
    held["steps"][number] = {"name": name, "state": state, "started": when, "finished": when,
                             "reason": reason}  # fmt: skip
    write_json(folder / "status.json", held)


def draw_folds(root: Path, folds: int, lift: float = 1.5, **knobs) -> list[Path]:
    return [
        draw_run(root / f"fold-{fold}", lift, noise=fold, dataset__folds=folds,
                 dataset__fold=fold, **knobs)
        for fold in range(folds)
    ]  # fmt: skip
