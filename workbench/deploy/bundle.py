"""Pack what an app developer receives: configuration, golden vectors and sources. No TensorFlow."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from workbench.deploy import tflite, verify
from workbench.deploy.export import labels_text
from workbench.files import sha256, write_bytes, write_json, write_text
from workbench.settings import Settings

MODEL_FILE = "model_qat_int8.tflite"
LABELS_FILE = "labels.txt"
SCHEMA = 1
GOLDEN_SIDE = 640  # pixels; larger photos are thinned out, a golden image is a test vector


@dataclass(frozen=True)
class GoldenImage:
    """A decoded image that the bundle carries from pixels to decisions."""

    name: str
    pixels: np.ndarray  # uint8 [H, W, 3]
    labels: tuple[str, ...]  # what is true of it


@dataclass(frozen=True)
class Bundle:
    """What was written."""

    config: dict[str, Any]
    files: tuple[Path, ...]


def write_bundle(
    folder: Path,
    settings: Settings,
    labels: Sequence[str],
    thresholds: Mapping[str, Any],
    ladder: Mapping[str, Any],
    images: Sequence[GoldenImage],
    *,
    versions: Mapping[str, str],
    calibration: Mapping[str, Any] | None = None,
) -> Bundle:
    """Describe `model_qat_int8.tflite` in `folder` and write everything an app needs beside it.

    `thresholds` is the content of threshold_recommendation.json, `ladder` that of
    quantization_ladder.json.
    """
    folder = Path(folder)
    write_text(folder / LABELS_FILE, labels_text(labels))
    config = inference_config(folder, settings, labels, thresholds, ladder, versions, calibration)
    write_json(folder / verify.CONFIG, config)
    write_json(folder / verify.METADATA, model_metadata(config))
    write_golden(folder, config, images)
    write_bytes(folder / "verify.py", Path(verify.__file__).read_bytes())
    return Bundle(config, _write_sums(folder))


def inference_config(
    folder: Path,
    settings: Settings,
    labels: Sequence[str],
    thresholds: Mapping[str, Any],
    ladder: Mapping[str, Any],
    versions: Mapping[str, str],
    calibration: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """Return the content of inference_config.json."""
    model = folder / MODEL_FILE
    source, target = tflite.input_port(model), tflite.output_port(model)
    _, height, width, channels = source.shape
    return {
        "schema": SCHEMA,
        "task": settings.task,
        "model": {
            "file": MODEL_FILE,
            "sha256": sha256(model),
            "bytes": model.stat().st_size,
        },
        "labels_file": {"file": LABELS_FILE, "sha256": sha256(folder / LABELS_FILE)},
        "labels": list(labels),
        "input": {"width": width, "height": height, "channels": channels, **_port(source)},
        "preprocessing": {
            "letterbox": "q8",
            "keep_aspect_ratio": True,
            "pad_color_rgb": [0, 0, 0],
            "interpolation": "bilinear",
            "normalisation": {"subtract": 127, "divide": 128, "inside_the_input_scale": True},
            "bytes_as_they_are": bool((tflite.input_table(source) == np.arange(256)).all()),
            "color": "RGB",
            "exif": settings.dataset.exif,
        },
        "output": {**_port(target), **_activation(settings)},
        "thresholds": _thresholds(settings, thresholds),
        "calibration": calibration,
        "shipped": {key: ladder[key] for key in ("chosen", "title", "forced")}
        | {"full_integer": tflite.scan_tensors(model).full_integer},
        "versions": dict(versions),
    }


def _port(port: tflite.Port) -> dict[str, Any]:
    return {"dtype": port.dtype, "scale": port.scale, "zero_point": port.zero_point}


def _activation(settings: Settings) -> dict[str, Any]:
    activation = "softmax" if settings.task == "single_label" else "sigmoid"
    inside = settings.tflite_export.sigmoid_in_model
    return {"is_logits": not inside, "activation": "none" if inside else activation}


def _thresholds(settings: Settings, recommendation: Mapping[str, Any]) -> dict[str, Any]:
    if settings.task == "single_label":
        return {
            "rule": "the highest softmax probability, unknown below unknown_below",
            "unknown_below": recommendation["probability"],
        }
    return {
        "rule": "yes when raw output >= integer",
        "folded": settings.tflite_export.fold_thresholds,
        "classes": [
            {
                "label": entry["name"],
                **{key: entry[key] for key in ("probability", "logit", "integer")},
            }
            for entry in recommendation["classes"]
        ],
    }


def model_metadata(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the content of model_metadata.json: the part that apps of the manual read."""
    source, target, preprocessing = config["input"], config["output"], config["preprocessing"]
    kept = ("keep_aspect_ratio", "pad_color_rgb", "interpolation")
    return {
        "model_file": config["model"]["file"],
        "labels_file": config["labels_file"]["file"],
        "input": {
            **{key: source[key] for key in ("width", "height", "channels", "dtype")},
            "quantization": {key: source[key] for key in ("scale", "zero_point")},
        },
        "preprocess": {"letterbox": True, **{key: preprocessing[key] for key in kept}},
        "output": {
            "dtype": target["dtype"],
            "quantization": {key: target[key] for key in ("scale", "zero_point")},
            "is_logits": target["is_logits"],
            "softmax_in_model": config["task"] == "single_label" and not target["is_logits"],
        },
    }


def write_golden(folder: Path, config: dict[str, Any], images: Sequence[GoldenImage]) -> None:
    """Record every image from pixels to decisions under golden/."""
    shutil.rmtree(folder / "golden", ignore_errors=True)
    interpreter = verify.open_model((folder / MODEL_FILE).read_bytes())
    table = verify.input_table(config["input"])
    vectors = []
    for image in images:
        pixels = _thinned(image.pixels)
        boxed = verify.letterbox(pixels, config["input"]["width"])
        tensor = table[boxed]
        raw = verify.run_model(interpreter, tensor)
        parts = {
            "source": ("source.ppm", ppm(pixels)),
            "letterbox": ("letterbox.ppm", ppm(boxed)),
            "input": ("input.bin", tensor.tobytes()),
            "output": ("output.bin", raw.tobytes()),
        }
        vectors.append(
            {
                "name": image.name,
                **{
                    part: _write_part(folder, f"golden/{image.name}.{suffix}", data)
                    for part, (suffix, data) in parts.items()
                },
                "width": pixels.shape[1],
                "height": pixels.shape[0],
                "raw": raw.tolist(),
                "decisions": verify.decide(raw[None], config)[0],
                "true_labels": list(image.labels),
            }
        )
    write_json(folder / verify.VECTORS, {"schema": SCHEMA, "vectors": vectors})


def _write_part(folder: Path, name: str, data: bytes) -> dict[str, str]:
    write_bytes(folder / name, data)
    return {"file": name, "sha256": hashlib.sha256(data).hexdigest()}


def _thinned(pixels: np.ndarray) -> np.ndarray:
    step = -(-max(pixels.shape[:2]) // GOLDEN_SIDE)
    return np.ascontiguousarray(pixels[::step, ::step])


def ppm(pixels: np.ndarray) -> bytes:
    """Write uint8 [H, W, 3] as a binary PPM, which C reads in ten lines."""
    height, width = pixels.shape[:2]
    return b"P6 %d %d 255\n" % (width, height) + pixels.tobytes()


def _write_sums(folder: Path) -> tuple[Path, ...]:
    """Write SHA256SUMS as `sha256sum --check` reads it."""
    names = [MODEL_FILE, LABELS_FILE, verify.CONFIG, verify.METADATA, "verify.py"]
    names += sorted(f"golden/{path.name}" for path in (folder / "golden").iterdir())
    lines = "".join(f"{sha256(folder / name)}  {name}\n" for name in names)
    write_text(folder / verify.SUMS, lines)
    return tuple(folder / name for name in (*names, verify.SUMS))
