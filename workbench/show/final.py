"""Notebook 09: the tables and figures of the final test, for either task, and metrics.json.

Takes what the networks answered; nothing here decides or opens the test split.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from PIL import Image

from workbench.data.tables import Split
from workbench.data.views import letterboxed
from workbench.decide.calibration import reliability as reliability_table
from workbench.decide.metrics import Comparison, Evaluation, Predictions, compare
from workbench.deploy import verify
from workbench.deploy.bundle import write_test_scores
from workbench.deploy.tflite import time_file
from workbench.files import writing
from workbench.settings import Settings
from workbench.show import plots
from workbench.show.gallery import Picture, mistake_pictures

if TYPE_CHECKING:
    import tf_keras as keras

    from workbench.run import Run

LATENCY_THREADS = (1, 2)
EXAMPLES = "class_examples.jpg"  # for the index: a photo a class on one sheet
EXAMPLES_A_ROW = 10
MOST_EXAMPLES = 200
EXAMPLE_PIXELS = 96
COSTS = ("f1_macro", "map")
COST_COLUMNS = ("cost of", "figure", "in float", "phone file", "difference", "low", "high",
                "verdict")  # fmt: skip
COMPARED_AT = (
    "float networks at thresholds searched on their own validation scores, as 06 does; "
    "the phone file at those that ship"
)
LADDER_KEYS = ("chosen", "title", "forced", "budget", "allowed_drop", "ptq_against_qat", "rungs")
LOGS = ("teacher_warmup", "teacher_finetuned", "student_warmup", "student_finetuned", "student_qat")
FLOAT_NETWORKS = {"float student": "float", "float twin": "twin"}  # and their keys in files
NETWORKS = ("teacher_finetuned.h5", "student_finetuned.h5")


def overall(evaluation: Evaluation) -> pd.DataFrame:
    """One row a figure: its 95 % interval or why there is none, and what a mean is over."""
    macro = {name: evaluation.macro_means for name in evaluation.overall
             if name.endswith("_macro") or name == "map"}  # fmt: skip
    rows = [
        (name, one.value, *(one.interval or (None, None)), one.withheld or macro.get(name, ""))
        for name, one in evaluation.overall.items()
    ]
    return pd.DataFrame(rows, columns=["figure", "value", "from", "to", "note"])


def per_class(evaluation: Evaluation) -> pd.DataFrame:
    """One row a class: what it found and missed, and F1 with its interval."""
    counts = {"tp": "found", "fp": "wrongly said", "fn": "missed"}
    figures = ["precision", "recall", "f1", "f1_low", "f1_high", "average_precision"]
    columns = ["class", "positives", "threshold", *counts, *figures]
    return evaluation.table[columns].rename(columns=counts)


def confusions(evaluation: Evaluation) -> dict[str, Figure]:
    """Draw what was mistaken for what: one matrix, or right and wrong a class and the pairs."""
    if evaluation.task == "single_label":
        matrix = plots.confusion_matrix(evaluation.confusion, evaluation.classes)
        return {"confusion_matrix": matrix}
    pairs = plots.confused_pairs(evaluation.confused_pairs, evaluation.classes)
    return {"confusion_matrix": plots.confusion_bars(evaluation.table), "confused_pairs": pairs}


def curves(
    split: Split, y_score: np.ndarray, thresholds: np.ndarray | float
) -> dict[str, Figure]:  # fmt: skip
    """Draw precision against recall with the points that ship, and found against wrongly said."""
    shown = (split.targets, y_score, split.classes)
    points = thresholds if np.ndim(thresholds) else None  # one confidence is no point on a curve
    return {
        "precision_recall": plots.precision_recall(*shown, mask=split.mask, thresholds=points),
        "roc": plots.roc(*shown, mask=split.mask),
    }


def reliability(split: Split, scores: Mapping[str, np.ndarray | None]) -> Figure:
    """Draw promised against real frequency of several answers to the same images."""
    return plots.reliability_diagram(
        {
            name: reliability_table(split.targets, score, split.mask)
            for name, score in scores.items()
            if score is not None
        }
    )


def corrected(raw: np.ndarray, config: Mapping[str, Any]) -> np.ndarray | None:
    """Return the percentages that the app shows; None where they are those of the model."""
    return None if config["calibration"] is None else verify.shown_probabilities(raw, config)


def host_latency(model: Path, settings: Settings) -> list[dict[str, Any]]:
    """Time a file on this machine: a phone differs, the order of two files rarely does."""
    repeats = settings.evaluation.latency_repeats
    return [
        {"threads": threads, "repeats": repeats} | time_file(model, repeats, threads=threads)
        for threads in LATENCY_THREADS
    ]


def sizes(model: Path, latency: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """List what the networks of a run weigh, and how long one image takes in the phone file."""
    files = [model.with_name(name) for name in NETWORKS]
    rows = [{"file": path.name, "megabytes": path.stat().st_size / 1e6}
            for path in files if path.exists()]  # fmt: skip
    phone = {"file": model.name, "megabytes": model.stat().st_size / 1e6}
    rows += [{**phone, **one} for one in latency]
    return pd.DataFrame(rows).astype({"threads": "Int64", "repeats": "Int64"})


def training_history(folder: Path) -> pd.DataFrame:
    """Join the epochs of every training that ran, in their order; an ensemble has none."""
    logs = [folder / "logs" / f"{name}.csv" for name in LOGS]
    found = [pd.read_csv(log) for log in logs if log.exists()]
    return pd.concat(found, ignore_index=True) if found else pd.DataFrame()


def class_examples(run: Run, split: Split, y_score: np.ndarray) -> Image.Image:
    """Keep the photo of each class that scored highest, on one sheet; black without one."""
    known = split.targets > 0.5
    if split.mask is not None:
        known &= split.mask > 0.5
    best = np.where(known, y_score, -1).argmax(0)[:MOST_EXAMPLES]
    there = np.flatnonzero(known.any(0)[:MOST_EXAMPLES])
    rows = -(-len(best) // EXAMPLES_A_ROW)
    sheet = Image.new("RGB", (EXAMPLES_A_ROW * EXAMPLE_PIXELS, rows * EXAMPLE_PIXELS))
    images = letterboxed(
        split, run.settings.product_size, run.settings, indices=best[there].tolist()
    )
    for place, pixels in zip(there.tolist(), images, strict=True):
        row, column = divmod(place, EXAMPLES_A_ROW)
        small = Image.fromarray(pixels).resize((EXAMPLE_PIXELS, EXAMPLE_PIXELS))
        sheet.paste(small, (column * EXAMPLE_PIXELS, row * EXAMPLE_PIXELS))
    with writing(run.path(EXAMPLES)) as path:
        sheet.save(path, "JPEG", quality=85)
    run.wrote(EXAMPLES)
    return sheet


def pictures_of(
    mistakes: pd.DataFrame, split: Split, settings: Settings, network: keras.Model
) -> list[Picture]:
    """Make the pictures of `worst_mistakes`, with the places where the float network looked."""
    chosen = dict(zip(mistakes["image"], mistakes["filepath"], strict=True))
    images = letterboxed(split, settings.product_size, settings, indices=list(chosen))
    seen = dict(zip(chosen.values(), images, strict=True))
    wanted = settings.evaluation.gradcam
    maps = heatmaps(mistakes, seen, network, settings.product_scaling) if wanted else {}
    return mistake_pictures(mistakes, seen.__getitem__, maps)


def heatmaps(
    mistakes: pd.DataFrame, seen: Mapping[str, np.ndarray], network: keras.Model,
    scaling: tuple[float, float],
) -> dict[tuple[int, int], np.ndarray]:  # fmt: skip
    """Map each mistake (image, class) to where the network looked for that class."""
    from workbench.deploy.gradcam import gradcam  # it loads TensorFlow

    if mistakes.empty:
        return {}
    images = np.stack([seen[path] for path in mistakes["filepath"]]).astype(np.float32)
    shift, size = scaling
    maps = gradcam(network, (images - shift) / size, mistakes["class_index"].to_numpy())
    keys = zip(mistakes["image"], mistakes["class_index"], strict=True)
    return dict(zip(keys, maps, strict=True))


def keep_scores(
    path: Path, raw: np.ndarray, answers: Mapping[str, Predictions], split: Split,
    settings: Settings,
) -> dict[str, str]:  # fmt: skip
    """Write what `verify` derives the figures from again; return its entry in metrics.json."""
    extra = {} if split.groups is None else {"groups": split.groups}
    for name, key in FLOAT_NETWORKS.items():
        if name in answers:
            extra[f"{key}_probability"] = answers[name].y_score
    return write_test_scores(
        path, raw, split.targets, split.mask, split.filepaths,
        lambda rows: letterboxed(split, settings.product_size, settings, rows),
        spot_checks=settings.evaluation.spot_checks, seed=settings.seed, **extra,
    )  # fmt: skip


def costs(
    answers: Mapping[str, Predictions], *, replicates: int, seed: int
) -> dict[str, Comparison]:
    """Compare the phone file with the same weights in float, and with the float student.

    Nothing is compared where the product itself is in floats.
    """
    if not FLOAT_NETWORKS.keys() <= answers.keys():
        return {}
    phone, twin, student = (answers[name] for name in ("phone file", "float twin", "float student"))
    known = {"replicates": replicates, "seed": seed}
    return {
        "8-bit arithmetic": compare(twin, phone, **known),
        "training and arithmetic": compare(student, phone, **known),
    }


def cost_table(found: Mapping[str, Comparison]) -> pd.DataFrame:
    """One row a cost: F1 macro and mAP of both sides, and what lies between them."""
    if not found:
        return pd.DataFrame(columns=COST_COLUMNS)
    rows = []
    for name, one in found.items():
        kept = one.overall[one.overall["figure"].isin(COSTS)]
        rows.append(kept.rename(columns={"first": "in float", "second": "phone file"}))
        rows[-1].insert(0, "cost of", name)
    return pd.concat(rows, ignore_index=True)


def metrics_record(
    evaluation: Evaluation, float_evaluation: Evaluation | None, found: Mapping[str, Comparison],
    ladder: Mapping[str, Any], model: Path, latency: Sequence[Mapping[str, Any]],
    test_scores: Mapping[str, str],
) -> dict[str, Any]:  # fmt: skip
    """Gather what metrics.json holds; what 8 bits cost only where a phone file ships."""
    cost = {} if float_evaluation is None else {
        "float_test": float_evaluation.to_json(),
        "float_against_int8": found["training and arithmetic"].to_json(),
        "float_twin_against_int8": found["8-bit arithmetic"].to_json(),
        "compared_at": COMPARED_AT,
        "quantization": {key: ladder[key] for key in LADDER_KEYS},
        "validation_float": ladder["float"],
    }  # fmt: skip
    return {
        "schema": 1,
        "test": evaluation.to_json(),
        **cost,
        "model_bytes": model.stat().st_size,
        "host_latency": list(latency),
        "test_scores": dict(test_scores),
    }
