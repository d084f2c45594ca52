"""What an app must know of a file: `inference_config.json` and `model_metadata.json`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from workbench.artifacts import InferenceConfig, ModelMetadata, QuantizationLadder
from workbench.decide.levels import LOWEST, NEVER
from workbench.decide.recommendation import ClassThreshold, Thresholds, UnknownThreshold
from workbench.deploy import tflite, verify
from workbench.deploy.flatbuffer import LABELS_FILE, activation_of
from workbench.errors import StepError
from workbench.files import sha256
from workbench.settings import Settings

Recommended = Thresholds | UnknownThreshold  # of 06
# The large network ships as it is but for half the bytes; no score of a quantisation is known.
LARGE = QuantizationLadder.model_construct(
    chosen="float16", title="float16", forced=False, qat_weights=None, skipped_layers=(), rungs=()
)
FAR = 700.0  # as a logit: beyond all others, and its probability is still a number


def ladder_of(folder: Path, settings: Settings) -> QuantizationLadder:
    """Say how what ships was made small: what 05 chose, or nothing but float16."""
    return QuantizationLadder.read(folder) if settings.product.quantized else LARGE


def describe_model(settings: Settings, ladder: QuantizationLadder) -> dict[str, Any]:
    """Say inside the file what it is; nothing here may change from one export to the next."""
    return {
        "name": f"{_network_name(settings)} {settings.task} classifier",
        "description": f"input letterbox q8 {settings.product_size}px, RGB; output logits",
        "task": settings.task,
        "rung": ladder.chosen,
        "is_logits": not settings.tflite_export.sigmoid_in_model,
    }


def _network_name(settings: Settings) -> str:
    if settings.student:
        return settings.student.variant
    return "ensemble" if settings.teacher.members else settings.teacher.arch


def logit_thresholds(thresholds: Recommended, task: str) -> np.ndarray | float:
    """Return what logits are compared with: one a class, or the confidence of a single label."""
    if task == "single_label":
        return thresholds.unknown.probability
    return np.array([entry.logit for entry in thresholds.classes])


def inference_config(
    folder: Path,
    settings: Settings,
    labels: Sequence[str],
    thresholds: Recommended,
    ladder: QuantizationLadder,
    versions: Mapping[str, str],
    calibration: Mapping[str, Any] | None = None,
) -> InferenceConfig:
    """Describe the model and labels in `folder`; `calibration` is what calibration.json holds."""
    model, labels_file = folder / settings.product.model, folder / LABELS_FILE
    source, target = tflite.input_port(model), tflite.output_port(model)
    if target.shape[-1] != len(labels):
        raise StepError(
            f"{model.name} has {target.shape[-1]} outputs but {labels_file.name} has "
            f"{len(labels)} labels: they are not of one run. Run 07_export_tflite again."
        )
    inside = settings.tflite_export.sigmoid_in_model
    activation = "none" if inside else activation_of(settings.task)
    shipped = {"network": settings.product.network, "rung": ladder.chosen,
               "title": ladder.title, "forced": ladder.forced}  # fmt: skip
    return InferenceConfig.model_validate(
        {
            "task": settings.task,
            "model": {"file": model.name, "sha256": sha256(model), "bytes": model.stat().st_size},
            "labels_file": {"file": labels_file.name, "sha256": sha256(labels_file)},
            "labels": labels,
            "input": _input(source, settings),
            "preprocessing": _preprocessing(settings),
            "output": {**_port(target), "is_logits": not inside, "activation": activation},
            "thresholds": _thresholds(settings, thresholds, labels),
            "calibration": _calibration(settings, calibration, thresholds),
            "aggregation": _aggregation(thresholds),
            "shipped": {**shipped, "full_integer": tflite.scan_tensors(model).full_integer},
            "versions": versions,
        }
    )


def _input(port: tflite.Port, settings: Settings) -> dict[str, Any]:
    _, height, width, channels = port.shape
    size = {"width": width, "height": height, "channels": channels}
    if port.dtype == "float32":
        subtract, divide = settings.product_scaling
        return {**size, "dtype": port.dtype, "scale": 1 / divide, "zero_point": subtract}
    shift = np.iinfo(port.dtype).min
    if (tflite.input_table(port).astype(int) != np.arange(256) + shift).any():
        raise StepError(
            f"the input scale is {port.scale} with zero point {port.zero_point}: the app could not "
            "feed the bytes of an image as they are. Quantise again with 05_quantize_student."
        )
    return {**size, **_port(port)}


def _port(port: tflite.Port) -> dict[str, Any]:
    if port.dtype == "float32":
        return {"dtype": port.dtype, "scale": 1.0, "zero_point": 0}
    return {"dtype": port.dtype, "scale": port.scale, "zero_point": port.zero_point}


def _preprocessing(settings: Settings) -> dict[str, Any]:
    return {
        "color": "RGB",
        "exif": settings.dataset.exif,
        "letterbox": "q8",
        "keep_aspect_ratio": True,
        "pad_color_rgb": (0, 0, 0),
        "interpolation": "bilinear",
        "normalisation": {
            **dict(zip(("subtract", "divide"), settings.product_scaling, strict=True)),
            "inside_the_input_scale": settings.product.quantized,
        },
    }


def _thresholds(
    settings: Settings, thresholds: Recommended, labels: Sequence[str]
) -> dict[str, Any]:
    if settings.task == "single_label":
        return {
            "rule": "the class of the highest probability; unknown below unknown_below",
            "unknown_below": thresholds.unknown.probability,
        }
    by_name = {entry.name: entry for entry in thresholds.classes}
    missing = [label for label in labels if label not in by_name]
    if missing:
        raise StepError(
            f"threshold_recommendation.json has no threshold for {missing[0]!r}. "
            "Run 06_tune_thresholds again."
        )
    return {
        "rule": f"yes when raw output >= {'integer' if settings.product.quantized else 'logit'}",
        "folded": settings.tflite_export.fold_thresholds,
        "classes": [
            {"label": label, **_shipped(settings, by_name[label], thresholds.scores)}
            for label in labels
        ],
    }


def _shipped(settings: Settings, tuned: ClassThreshold, scores: Any) -> dict[str, Any]:
    """Translate a tuned threshold into the output that ships; keep the tuned one beside it."""
    written = {key: getattr(tuned, key) for key in ("probability", "logit", "integer")}
    if not settings.product.quantized:
        return {**_in_logits(tuned), "integer": None, "tuned": written}
    if settings.tflite_export.fold_thresholds:
        return {"probability": 0.5, "logit": 0.0, "integer": 0, "tuned": written}
    if settings.tflite_export.sigmoid_in_model:
        return {**_in_probabilities(tuned.integer, scores), "tuned": written}
    return written


def _in_logits(tuned: ClassThreshold) -> dict[str, float]:
    """Return what a float logit is compared with: always and never mean it beyond every level."""
    if LOWEST < tuned.integer < NEVER:
        return {"probability": tuned.probability, "logit": tuned.logit}
    logit = -FAR if tuned.integer <= LOWEST else FAR
    return {"probability": float(verify.sigmoid(np.float64(logit))), "logit": logit}


def _in_probabilities(integer: int, scores: Any) -> dict[str, Any]:
    """Follow a threshold on raw logits through the sigmoid inside the model."""
    if LOWEST < integer < NEVER:
        logit = (integer - scores.zero_point) * scores.scale
        integer = int(np.rint(256 / (1 + np.exp(-logit)))) - 128
    probability = verify.level_probability(integer)
    logit = float(np.log(probability / (1 - probability)))
    return {"probability": probability, "logit": logit, "integer": integer}


def _calibration(
    settings: Settings, fitted: Mapping[str, Any] | None, thresholds: Recommended
) -> dict[str, Any] | None:
    """Give the lines that correct a percentage, in terms of the output that ships."""
    lines = [row for row in fitted["classes"] if row["slope"] is not None] if fitted else []
    if not any(row["ships"] for row in lines):
        return None
    if settings.task == "multilabel" and settings.tflite_export.fold_thresholds:
        lines = [_folded_line(row, thresholds) for row in lines]
    kept = ("slope", "intercept", "error_before", "error_after")
    return {
        "rule": f"probability = {activation_of(settings.task)}(slope * logit + intercept); "
        "to show, not to decide",
        "method": fitted["method"],
        "classes": [{"label": row["class"], **{key: row[key] for key in kept}} for row in lines],
    }


def _aggregation(thresholds: Recommended) -> dict[str, Any] | None:
    pooled = thresholds.scores.aggregation
    return None if pooled is None else pooled.model_dump()


def _folded_line(row: Mapping[str, Any], thresholds: Recommended) -> dict[str, Any]:
    """Folding moved the logits of this class by its threshold; its line moves back."""
    (tuned,) = [entry for entry in thresholds.classes if entry.name == row["class"]]
    if not LOWEST < tuned.integer < NEVER:  # its scores were pushed off the scale
        return {**row, "slope": None, "intercept": None}
    moved = (tuned.integer - thresholds.scores.zero_point) * thresholds.scores.scale
    return {**row, "intercept": row["intercept"] + row["slope"] * moved}


def _compared(classes: Sequence[Any]) -> list[float]:
    """Return what raw outputs are compared with, class by class."""
    return [one.logit if one.integer is None else one.integer for one in classes]


def model_metadata(config: InferenceConfig) -> ModelMetadata:
    """Return the fields of the manual that apps read."""
    source, target = config.input.model_dump(), config.output.model_dump()
    kept = {"keep_aspect_ratio", "pad_color_rgb", "interpolation", "exif"}
    single, decided = config.single_label, config.thresholds
    compared = "logits" if target["dtype"] == "float32" else "integers"
    return ModelMetadata.model_validate(
        {
            "model_file": config.model.file,
            "labels_file": config.labels_file.file,
            "input": {
                **{key: source[key] for key in ("width", "height", "channels", "dtype")},
                "quantization": {key: source[key] for key in ("scale", "zero_point")},
            },
            "preprocess": {
                "letterbox": True,
                **config.preprocessing.model_dump(include=kept),
                "normalization": {
                    "pixel_range": (0, 255),
                    "mean_rgb": [config.preprocessing.normalisation.subtract] * 3,
                    "std_rgb": [config.preprocessing.normalisation.divide] * 3,
                },
            },
            "output": {
                "dtype": target["dtype"],
                "quantization": {key: target[key] for key in ("scale", "zero_point")},
                "is_logits": target["is_logits"],
                "softmax_in_model": single and not target["is_logits"],
                "decision": {
                    "integers": None,
                    **({} if single else {compared: _compared(decided.classes)}),
                    "unknown_below": decided.unknown_below if single else None,
                },
            },
        }
    )
