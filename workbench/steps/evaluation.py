"""09: open the test split, once everything is chosen, with the file that ships."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from workbench.data.pipeline import letterboxed
from workbench.data.tables import Split
from workbench.decide import metrics, reading
from workbench.decide.mistakes import worst_mistakes
from workbench.decide.probabilities import probabilities
from workbench.deploy.tflite import input_port, logits_of, output_port, run_tflite
from workbench.nets.teacher import student_view
from workbench.run import Run
from workbench.steps.data import load_dataset
from workbench.steps.export import MODEL
from workbench.steps.quantization import LADDER
from workbench.steps.thresholds import RECOMMENDATION
from workbench.steps.training import load_student, write_arrays
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
        raw, logits = _phone_scores(run, test)
        tested = _evaluate(run, test, logits, _float_logits(run, dataset, test))
        write_arrays(
            run.path("test_scores.npz"), raw=raw, y_true=test.targets, mask=test.mask,
            float_probability=tested.float_probability,
        )  # fmt: skip
        run.write_json("metrics.json", _metrics(run, tested))
    return tested


def _phone_scores(run: Run, split: Split) -> tuple[np.ndarray, np.ndarray]:
    model = run.need(MODEL)
    images = letterboxed(split, input_port(model).shape[1], run.settings)
    raw = run_tflite(model, images, threads=run.settings.run.threads)
    port = output_port(model)
    return raw, logits_of(raw, port.scale, port.zero_point)


def _float_logits(run: Run, dataset: Any, split: Split) -> np.ndarray:
    student, settings = load_student(run, dataset), run.settings
    size = settings.student.batch_size
    return predict_logits(student, split, student_view(settings), size, settings)


def _evaluate(run: Run, split: Split, logits: np.ndarray, float_logits: np.ndarray) -> Tested:
    settings, task = run.settings, run.settings.task
    chosen = reading.read(run.need(RECOMMENDATION))
    thresholds = chosen.probability
    ours, theirs = probabilities(logits, task), probabilities(float_logits, task)

    def figures(scores: np.ndarray) -> metrics.Evaluation:
        return metrics.evaluate(
            split.targets, scores, thresholds, split.classes, mask=split.mask, task=task,
            replicates=settings.evaluation.bootstrap_replicates, seed=settings.seed,
        )  # fmt: skip

    mistakes = worst_mistakes(
        split.targets, ours, thresholds, split.classes, split.filepaths,
        limit=settings.evaluation.gallery_size, mask=split.mask, task=task,
    )  # fmt: skip
    return Tested(figures(ours), figures(theirs), split, ours, theirs, thresholds, mistakes)


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
