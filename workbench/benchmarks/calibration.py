"""How much do size and choice of the calibration set matter? INT8 score against both.

Post-training quantisation of a run's student, again and again: class-covering and drawn at random,
for several sizes and seeds, scored on validation.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from workbench.errors import MissingInputError
from workbench.settings import Settings

SIZES = (1, 10, 50, 200)
SEEDS = 3
WEIGHTS_FILE = "student_finetuned.h5"


def run(*, run_folder: Path | None = None, count: int = SEEDS) -> dict[str, Any]:
    """Quantise the student of a finished run with `count` seeds for each size and choice."""
    if run_folder is None or not (Path(run_folder) / WEIGHTS_FILE).exists():
        raise MissingInputError(
            f"The calibration benchmark needs a run with a {WEIGHTS_FILE}. Give it with --run"
        )
    return study(*_load(Path(run_folder)), seeds=count) | {"run": str(run_folder)}


def study(settings: Settings, dataset: Any, student: Any, *, seeds: int) -> dict[str, Any]:
    """Score every size, choice and seed against the float student on validation."""
    from workbench.data.views import letterboxed
    from workbench.deploy.convert import keras_logits

    validation = dataset.split("val")
    images = list(letterboxed(validation, settings.student_size, settings))
    reference = keras_logits(student, images)
    rows = [
        {"size": size, "choice": choice, "seed": seed, **figures}
        for size in SIZES
        for choice in ("class-covering", "random")
        for seed in range(seeds)
        for figures in [_score(settings, dataset, student, images, size, choice, seed)]
    ]
    float_figures = _figures(reference, validation, settings.task)
    return {
        **{f"float_{name}": value for name, value in float_figures.items()},
        "validation_images": len(images),
        "rows": rows,
    }


def _score(settings, dataset, student, images, size, choice, seed) -> dict[str, Any]:
    from workbench.data.views import letterboxed
    from workbench.deploy.convert import convert_full_integer
    from workbench.deploy.tflite import tflite_logits

    train = dataset.split("train")
    rows = _rows(train, size, choice, seed)
    calibration = list(letterboxed(train, settings.student_size, settings, indices=rows))
    model = convert_full_integer(student, calibration, settings.tflite_export)
    logits = tflite_logits(model, images, threads=settings.run.threads)
    return {
        "classes_covered": int((train.targets[rows] > 0.5).any(axis=0).sum()),
        **_figures(logits, dataset.split("val"), settings.task),
    }


def _figures(logits: np.ndarray, split: Any, task: str) -> dict[str, float | None]:
    from workbench.decide.metrics import f1_macro, mean_average_precision
    from workbench.deploy.parity import decide_logits

    decisions = decide_logits(logits, task)
    return {
        "f1_macro": f1_macro(split.targets, decisions, split.mask) or 0.0,
        "map": mean_average_precision(split.targets, logits, split.mask),
    }


def _rows(train: Any, size: int, choice: str, seed: int) -> np.ndarray:
    from workbench.deploy.coverage import covering_rows

    if choice == "class-covering":
        return covering_rows(train, size, seed)
    return np.sort(np.random.default_rng(seed).permutation(len(train))[:size])


def table(figures: dict[str, Any]) -> str:
    """Write mean and spread over the seeds for a terminal."""
    lines = [
        f"INT8 (PTQ) on {figures['validation_images']} validation images; float student: "
        f"F1 macro {figures['float_f1_macro']:.4f}, mAP {figures['float_map']:.4f}",
        f"  {'size':>5}  {'choice':<15} {'F1 macro':>9} {'lowest':>8} {'highest':>8} {'mAP':>8}",
    ]
    groups: dict[tuple[int, str], list[dict[str, Any]]] = {}
    for row in figures["rows"]:
        groups.setdefault((row["size"], row["choice"]), []).append(row)
    for (size, choice), rows in groups.items():
        f1 = [row["f1_macro"] for row in rows]
        precision = np.mean([row["map"] for row in rows])
        lines.append(
            f"  {size:>5}  {choice:<15} {np.mean(f1):>9.4f} {min(f1):>8.4f} {max(f1):>8.4f} "
            f"{precision:>8.4f}"
        )
    return "\n".join(lines)


def _load(folder: Path) -> tuple[Settings, Any, Any]:
    from workbench.nets.network import load_network
    from workbench.run import existing_run

    run = existing_run(folder)
    return run.settings, run.dataset(), load_network(run.folder, "student", run.settings)
