"""09: open the test split, once everything is chosen, with the file that ships."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import tf_keras as keras

from workbench.data.pipeline import letterboxed
from workbench.data.tables import Split
from workbench.decide import metrics, reading
from workbench.decide.mistakes import worst_mistakes
from workbench.decide.probabilities import probabilities
from workbench.deploy import verify
from workbench.deploy.bundle import seal
from workbench.deploy.evidence import write_test_scores
from workbench.deploy.gradcam import gradcam
from workbench.deploy.tflite import input_port, run_tflite
from workbench.nets.teacher import student_view
from workbench.run import Run
from workbench.steps.data import load_dataset
from workbench.steps.export import MODEL
from workbench.steps.learning import load_student
from workbench.steps.quantization import LADDER
from workbench.steps.thresholds import RECOMMENDATION
from workbench.train.predict import predict_logits


@dataclass(frozen=True)
class Tested:
    """The final figures of the phone file, and of the float student beside it."""

    evaluation: metrics.Evaluation
    float_evaluation: metrics.Evaluation
    split: Split
    probability: np.ndarray  # [N, C] of the phone file
    float_probability: np.ndarray
    thresholds: Any  # one a class, or the confidence of a single label
    mistakes: pd.DataFrame
    heatmaps: dict[tuple[int, int], np.ndarray]  # by image and class, where the student looked
    load: Callable[[str], np.ndarray] = field(repr=False)  # a filepath to its letterboxed image

    def against_float(self) -> pd.DataFrame:
        """What 8-bit arithmetic changed on images nobody has tuned on."""
        names = ("f1_macro", "f1_micro", "precision_macro", "recall_macro", "map")
        rows = [
            {"figure": name, "float": self.float_evaluation.value(name),
             "INT8": self.evaluation.value(name)}
            for name in names
        ]  # fmt: skip
        return pd.DataFrame(rows)


def evaluate_test(run: Run) -> Tested:
    """Score the test split with the shipped file and with the float student."""
    with run.step("09"):
        dataset = load_dataset(run)
        test = dataset.split("test")
        raw = _phone_scores(run, test)
        tested = _evaluate(run, test, raw, load_student(run, dataset))
        kept = _keep_scores(run, test, raw, tested)
        run.write_json("metrics.json", _metrics(run, tested) | {"test_scores": kept})
        seal(run.folder)
    return tested


def _phone_scores(run: Run, split: Split) -> np.ndarray:
    model = run.need(MODEL)
    images = letterboxed(split, input_port(model).shape[1], run.settings)
    return run_tflite(model, images, threads=run.settings.run.threads)


def _keep_scores(run: Run, split: Split, raw: np.ndarray, tested: Tested) -> dict[str, str]:
    """Keep what verify derives the figures from, with the pixels of a few images."""
    settings = run.settings
    return write_test_scores(
        run.path("test_scores.npz"), raw, split.targets, split.mask, split.filepaths,
        lambda rows: letterboxed(split, settings.student_size, settings, rows),
        spot_checks=settings.evaluation.spot_checks, seed=settings.seed,
        float_probability=tested.float_probability,
    )  # fmt: skip


def _evaluate(run: Run, split: Split, raw: np.ndarray, student: keras.Model) -> Tested:
    settings, task = run.settings, run.settings.task
    size = settings.student.batch_size
    float_logits = predict_logits(student, split, student_view(settings), size, settings)
    chosen = reading.read(run.need(RECOMMENDATION))
    # A file with folded thresholds or a sigmoid inside has numbers and thresholds of its own.
    config = run.read_json(verify.CONFIG)
    thresholds = verify.probability_thresholds(config)
    ours, theirs = verify.probabilities(raw, config), probabilities(float_logits, task)

    def figures(scores: np.ndarray, thresholds: np.ndarray | float) -> metrics.Evaluation:
        return metrics.evaluate(
            split.targets, scores, thresholds, split.classes, mask=split.mask, task=task,
            replicates=settings.evaluation.bootstrap_replicates, seed=settings.seed,
        )  # fmt: skip

    mistakes = worst_mistakes(
        split.targets, ours, thresholds, split.classes, split.filepaths,
        limit=settings.evaluation.gallery_size, mask=split.mask, task=task,
    )  # fmt: skip
    seen = _letterboxed(run, split, mistakes)
    heat = _heatmaps(student, seen, mistakes) if settings.evaluation.gradcam else {}
    return Tested(
        figures(ours, thresholds), figures(theirs, chosen.probability), split, ours, theirs,
        thresholds, mistakes, heat,
        load=seen.__getitem__,
    )  # fmt: skip


def _letterboxed(run: Run, split: Split, mistakes: pd.DataFrame) -> dict[str, np.ndarray]:
    """Read the images of the gallery as the student sees them, by filepath."""
    chosen = dict(zip(mistakes["image"], mistakes["filepath"], strict=True))
    images = letterboxed(split, run.settings.student_size, run.settings, indices=list(chosen))
    return dict(zip(chosen.values(), images, strict=True))


def _heatmaps(
    student: keras.Model, seen: dict[str, np.ndarray], mistakes: pd.DataFrame
) -> dict[tuple[int, int], np.ndarray]:
    if mistakes.empty:
        return {}
    images = np.stack([seen[path] for path in mistakes["filepath"]]).astype(np.float32)
    maps = gradcam(student, (images - 127) / 128, mistakes["class_index"].to_numpy())
    keys = zip(mistakes["image"], mistakes["class_index"], strict=True)
    return dict(zip(keys, maps, strict=True))


def _metrics(run: Run, tested: Tested) -> dict[str, Any]:
    ladder = run.read_json(LADDER)
    return {
        "schema": 1,
        "test": tested.evaluation.to_json(),
        "float_test": tested.float_evaluation.to_json(),
        "quantization": {key: ladder[key] for key in ("chosen", "title", "forced", "rungs")},
        "validation_float": ladder["float"],
        "model_bytes": run.path(MODEL).stat().st_size,
    }
