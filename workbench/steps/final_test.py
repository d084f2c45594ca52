"""09: open the test split, once everything is chosen, with the file that ships."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import tf_keras as keras

from workbench.data.tables import Split
from workbench.data.views import letterboxed
from workbench.decide import metrics
from workbench.decide.calibration import correct
from workbench.decide.comparison import Comparison, Predictions, compare
from workbench.decide.metrics import worst_mistakes
from workbench.decide.outcomes import probabilities
from workbench.decide.recommendation import RECOMMENDATION, read
from workbench.deploy import verify
from workbench.deploy.bundle import seal, write_test_scores
from workbench.deploy.gradcam import gradcam
from workbench.deploy.tflite import input_port, run_tflite, time_file
from workbench.nets.teacher import student_view
from workbench.run import Run
from workbench.settings import Settings
from workbench.steps.data import load_dataset
from workbench.steps.export import MODEL
from workbench.steps.learning import STUDENT_WEIGHTS, TEACHER_WEIGHTS, load_student
from workbench.steps.quantization import LADDER
from workbench.train.predict import predict_logits

LATENCY_THREADS = (1, 2)
PHASES = (
    "teacher_warmup",
    "teacher_finetuned",
    "student_warmup",
    "student_finetuned",
    "student_qat",
)


@dataclass(frozen=True)
class Tested:
    """The final figures of the phone file, and of the float student beside it."""

    evaluation: metrics.Evaluation
    float_evaluation: metrics.Evaluation
    split: Split
    probability: np.ndarray  # [N, C] of the phone file
    float_probability: np.ndarray
    corrected: np.ndarray | None  # of the phone file, as an app may show them
    cost: Comparison  # the float student against the phone file, image by image
    thresholds: Any  # one a class, or the confidence of a single label
    mistakes: pd.DataFrame
    heatmaps: dict[tuple[int, int], np.ndarray]  # by image and class, where the student looked
    load: Callable[[str], np.ndarray] = field(repr=False)  # a filepath to its letterboxed image

    def against_float(self) -> pd.DataFrame:
        """What 8-bit arithmetic changed, with the intervals of the paired differences."""
        return self.cost.overall.rename(columns={"first": "float", "second": "INT8"})


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
    # A file with folded thresholds or a sigmoid inside has numbers and thresholds of its own.
    config = run.read_json(verify.CONFIG)
    tuned = read(run.need(RECOMMENDATION)).probability
    phone = _predictions(
        "INT8",
        split,
        verify.probabilities(raw, config),
        verify.probability_thresholds(config),
        task,
    )
    float_student = _predictions("float", split, probabilities(float_logits, task), tuned, task)
    mistakes = _mistakes(settings, phone)
    seen = _letterboxed(run, split, mistakes)
    return Tested(
        evaluation=_figures(settings, phone),
        float_evaluation=_figures(settings, float_student),
        split=split,
        probability=phone.y_score,
        float_probability=float_student.y_score,
        corrected=_corrected(phone.y_score, config),
        cost=compare(
            float_student, phone,
            replicates=settings.evaluation.bootstrap_replicates, seed=settings.seed,
        ),
        thresholds=phone.thresholds,
        mistakes=mistakes,
        heatmaps=_heatmaps(student, seen, mistakes) if settings.evaluation.gradcam else {},
        load=seen.__getitem__,
    )  # fmt: skip


def _predictions(name: str, split: Split, y_score, thresholds, task) -> Predictions:
    return Predictions(
        name, split.filepaths, split.classes, split.targets, y_score, thresholds, task, split.mask
    )


def _figures(settings: Settings, answers: Predictions) -> metrics.Evaluation:
    return metrics.evaluate(
        answers.y_true, answers.y_score, answers.thresholds, answers.classes, mask=answers.mask,
        task=answers.task, replicates=settings.evaluation.bootstrap_replicates, seed=settings.seed,
    )  # fmt: skip


def _mistakes(settings: Settings, answers: Predictions) -> pd.DataFrame:
    return worst_mistakes(
        answers.y_true, answers.y_score, answers.thresholds, answers.classes, answers.filepaths,
        limit=settings.evaluation.gallery_size, per_class=settings.evaluation.gallery_per_class,
        mask=answers.mask, task=answers.task,
    )  # fmt: skip


def _corrected(probability: np.ndarray, config: dict[str, Any]) -> np.ndarray | None:
    """Correct the probabilities by the lines that ship; None where none do."""
    calibration = config["calibration"]
    if calibration is None:
        return None
    lines = {row["label"]: row for row in calibration["classes"] if row["slope"] is not None}
    slope = np.array(
        [lines[label]["slope"] if label in lines else 1.0 for label in config["labels"]]
    )
    intercept = np.array(
        [lines[label]["intercept"] if label in lines else 0.0 for label in config["labels"]]
    )
    return correct(probability, slope, intercept, config["task"])


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
        "float_against_int8": tested.cost.to_json(),
        "quantization": {key: ladder[key] for key in ("chosen", "title", "forced", "rungs")},
        "validation_float": ladder["float"],
        "model_bytes": run.path(MODEL).stat().st_size,
        "host_latency": _latencies(run),
    }


def _latencies(run: Run) -> list[dict[str, Any]]:
    """Time the phone file here: a phone differs, the order of two files rarely does."""
    repeats = run.settings.evaluation.latency_repeats
    return [
        {"threads": threads, "repeats": repeats}
        | time_file(run.need(MODEL), repeats, threads=threads)
        for threads in LATENCY_THREADS
    ]


def sizes(run: Run) -> pd.DataFrame:
    """List what the networks weigh, and how long one image takes in the file that ships."""
    rows = [
        {"file": name, "megabytes": run.path(name).stat().st_size / 1e6}
        for name in (TEACHER_WEIGHTS, STUDENT_WEIGHTS)
        if run.path(name).exists()
    ]
    metrics = run.read_json("metrics.json")
    phone = {"file": MODEL, "megabytes": metrics["model_bytes"] / 1e6}
    rows += [{**phone, **latency} for latency in metrics["host_latency"]]
    return pd.DataFrame(rows).astype({"threads": "Int64", "repeats": "Int64"})


def training_history(run: Run) -> pd.DataFrame:
    """Join the epochs of every phase that ran, in their order."""
    logs = [run.path("logs") / f"{phase}.csv" for phase in PHASES]
    return pd.concat([pd.read_csv(log) for log in logs if log.exists()], ignore_index=True)
