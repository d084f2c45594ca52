"""Pack what an app developer receives. Needs no TensorFlow.

Everything in a bundle can be derived again from the files beside it: `verify` does so.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from workbench import data
from workbench.data.decode import decode_image
from workbench.data.tables import Split
from workbench.deploy import verify
from workbench.deploy.config import inference_config, model_metadata
from workbench.deploy.export import LABELS_FILE, labels_text
from workbench.deploy.quantize import choose_calibration
from workbench.errors import StepError
from workbench.files import sha256, write_bytes, write_json, write_text, writing
from workbench.settings import Settings

# Golden vectors: a few images recorded from pixels to decisions, to check others by.

LONGEST = 640  # pixels; larger photos are thinned out: this is a test vector, not the photo
RIM = {  # sizes where implementations of a resize part ways: (height, width)
    "dot": (1, 1),
    "sliver": (1, 97),
    "tower": (101, 1),
    "tie": (3, 480),
}


@dataclass(frozen=True)
class GoldenImage:
    """A decoded image and what is true of it."""

    name: str
    pixels: np.ndarray  # uint8 [H, W, 3]
    labels: tuple[str, ...]


def choose_golden(split: Split, settings: Settings) -> list[GoldenImage]:
    """Choose validation images that cover the classes, and add drawn ones of odd sizes."""
    rows = choose_calibration(split, settings.tflite_export.golden_images, settings.seed)
    photos = [
        GoldenImage(
            f"{row:04d}_{_plain(Path(split.filepaths[row]).stem)}",
            decode_image(split.path(row), settings.dataset),
            tuple(np.array(split.classes)[split.targets[row] > 0.5].tolist()),
        )
        for row in map(int, rows)
    ]
    rng = np.random.default_rng(settings.seed)
    drawn = [
        GoldenImage(name, rng.integers(0, 256, (*size, 3), dtype=np.uint8), ())
        for name, size in RIM.items()
    ]
    return [*photos, *drawn]


def _plain(name: str) -> str:
    """Keep a file name to what every file system and C string holds."""
    kept = "".join(c if c.isascii() and (c.isalnum() or c in "-_") else "_" for c in name)
    return kept[:40]


def _thinned(pixels: np.ndarray) -> np.ndarray:
    step = -(-max(pixels.shape[:2]) // LONGEST)
    return np.ascontiguousarray(pixels[::step, ::step])


def write_golden(
    folder: Path, config: Mapping[str, Any], images: Sequence[GoldenImage]
) -> list[dict[str, Any]]:
    """Record every image under golden/ and return the vectors."""
    shutil.rmtree(folder / "golden", ignore_errors=True)
    interpreter = verify.open_model((folder / config["model"]["file"]).read_bytes())
    vectors = [_record(folder, config, interpreter, image) for image in images]
    write_json(folder / verify.VECTORS, {"schema": 1, "vectors": vectors})
    return vectors


def _record(folder: Path, config, interpreter, image: GoldenImage) -> dict[str, Any]:
    pixels = _thinned(image.pixels)
    boxed = verify.letterbox(pixels, config["input"]["width"])
    tensor = verify.input_table(config["input"])[boxed]
    raw = verify.run_model(interpreter, tensor)
    parts = {
        "source": ("source.ppm", ppm(pixels)),
        "letterbox": ("letterbox.ppm", ppm(boxed)),
        "input": ("input.bin", tensor.tobytes()),
        "output": ("output.bin", raw.tobytes()),
        "picture": ("png", _png(pixels)),
    }
    return {
        "name": image.name,
        "width": pixels.shape[1],
        "height": pixels.shape[0],
        **{
            part: _write(folder, f"golden/{image.name}.{suffix}", data)
            for part, (suffix, data) in parts.items()
        },
        "raw": raw.tolist(),
        "decisions": verify.decide(raw[None], config)[0],
        "true_labels": list(image.labels),
    }


def _write(folder: Path, name: str, data: bytes) -> dict[str, str]:
    write_bytes(folder / name, data)
    return {"file": name, "sha256": hashlib.sha256(data).hexdigest()}


def ppm(pixels: np.ndarray) -> bytes:
    """Write uint8 [H, W, 3] as a binary PPM, which C reads in ten lines."""
    height, width = pixels.shape[:2]
    return b"P6 %d %d 255\n" % (width, height) + pixels.tobytes()


def _png(pixels: np.ndarray) -> bytes:
    """Write the same pixels as PNG, which phones and people can open."""
    return cv2.imencode(".png", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR))[1].tobytes()


# Write the sources an app takes in: C, Kotlin, Swift and Python, generated from the config.

TEMPLATES = Path(__file__).parent / "templates"
C_SOURCES = ("classifier.c", "classifier.h", "self_test.c")
LETTERBOX = ("letterbox.c", "letterbox.h")
PLACE = re.compile(r"@([A-Z0-9_]+)@")
TABLE_COLUMNS = 16


def write_sources(
    folder: Path, config: Mapping[str, Any], vectors: Sequence[Mapping[str, Any]]
) -> list[Path]:
    """Write `app/` into a bundle and return its files."""
    files = {
        **{f"c/{name}": _read(TEMPLATES / name) for name in C_SOURCES},
        **{f"c/{name}": _read(Path(data.__path__[0]) / name) for name in LETTERBOX},
        **_generated_c(config, vectors),
        "kotlin/Classifier.kt": render("Classifier.kt.tmpl", _kotlin(config)),
        "swift/Classifier.swift": render("Classifier.swift.tmpl", _swift(config)),
        "python/classify.py": _read(TEMPLATES / "classify.py"),
    }
    for name, text in files.items():
        write_text(folder / "app" / name, text)
    return [folder / "app" / name for name in sorted(files)]


def render(template: str, values: Mapping[str, Any]) -> str:
    """Fill a template; a place without a value is a mistake of ours and refused."""

    def fill(place: re.Match[str]) -> str:
        if place[1] not in values:
            raise StepError(f"{template}: nothing to put at @{place[1]}@")
        return str(values[place[1]])

    return PLACE.sub(fill, _read(TEMPLATES / template))


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def _shared(config: Mapping[str, Any]) -> dict[str, Any]:
    """What every language writes alike."""
    output = config["output"]
    return {
        "MODEL_FILE": config["model"]["file"],
        "MODEL_SHA256": config["model"]["sha256"],
        "INPUT_SIZE": config["input"]["width"],
        "CLASSES": len(config["labels"]),
        "OUTPUT_SCALE": repr(output["scale"]),
        "OUTPUT_ZERO_POINT": output["zero_point"],
        "THRESHOLDS": ", ".join(str(integer) for integer in _integers(config)),
        "VALUE_IS": "a logit" if output["is_logits"] else "a probability",
        "UNKNOWN_NOTE": ", or unknown" if _single(config) else "",
    }


def _single(config: Mapping[str, Any]) -> bool:
    return config["task"] == "single_label"


def _integers(config: Mapping[str, Any]) -> list[int]:
    if _single(config):
        return [verify.NEVER] * len(config["labels"])
    return [entry["integer"] for entry in config["thresholds"]["classes"]]


def _generated_c(config: Mapping[str, Any], vectors: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    table = verify.input_table(config["input"]).view(np.uint8)
    values = {
        **_shared(config),
        "OUTPUT_ZERO_POINT": config["output"]["zero_point"],
        "IS_LOGITS": int(config["output"]["is_logits"]),
        "SINGLE_LABEL": int(_single(config)),
        "UNKNOWN_BELOW": repr(float(config["thresholds"].get("unknown_below", 0))),
        "LABELS": _lines(c_string(label) for label in config["labels"]),
        "INPUT_TABLE": _lines(", ".join(map(str, row)) for row in table.reshape(-1, TABLE_COLUMNS)),
        "VECTORS": _lines(_c_vector(vector, config["labels"]) for vector in vectors),
    }
    return {
        f"c/{name}": render(f"{name}.tmpl", values)
        for name in ("model_config.h", "model_config.c", "golden.h")
    }


def _lines(items: Iterable[str], indent: int = 4) -> str:
    """Write one item a line, without a comma after the last: older compilers refuse it."""
    return ",\n".join(" " * indent + item for item in items)


def _c_vector(vector: Mapping[str, Any], labels: Sequence[str]) -> str:
    shown = [labels.index(label) for label in vector["decisions"]]
    return f"{{{c_string(vector['name'])}, {len(shown)}, {{{', '.join(map(str, shown or [0]))}}}}}"


def c_string(text: str) -> str:
    """Quote for C99: bytes beyond ASCII in octal, and no `??` that could be a trigraph."""
    plain = set(range(32, 127)) - set(b'"\\?')
    return (
        '"'
        + "".join(chr(byte) if byte in plain else f"\\{byte:03o}" for byte in text.encode("utf-8"))
        + '"'
    )


def kotlin_string(text: str) -> str:
    """Quote for Kotlin, where `$` would start an expression."""
    return json.dumps(text).replace("$", "\\u0024")


def swift_string(text: str) -> str:
    """Quote for Swift: code points beyond printable ASCII, quotes and backslashes in braces."""
    plain = set(map(chr, range(32, 127))) - set('"\\')
    return '"' + "".join(c if c in plain else f"\\u{{{ord(c):x}}}" for c in text) + '"'


def _kotlin(config: Mapping[str, Any]) -> dict[str, Any]:
    signed = config["input"]["dtype"] == "int8"
    single, unknown = _single(config), config["thresholds"].get("unknown_below")
    several = "raw.indices.filter { raw[it] >= THRESHOLDS[it] }"
    one = f"raw.indices.filter {{ it == highest(raw) && probability(raw, it) >= {unknown} }}"
    return {
        **_shared(config),
        "LABELS": _lines((kotlin_string(label) for label in config["labels"]), 12),
        "INPUT_BYTE": "(value - 128).toByte()" if signed else "value.toByte()",
        "DECIDE": one if single else several,
        "PROBABILITY": _kotlin_probability(config),
    }


def _kotlin_probability(config: Mapping[str, Any]) -> str:
    if not config["output"]["is_logits"]:
        return "value(raw[index])"
    if not _single(config):
        return "1 / (1 + exp(-value(raw[index])))"
    return "exp(value(raw[index])) / raw.map { exp(value(it)) }.sum()"


def _swift(config: Mapping[str, Any]) -> dict[str, Any]:
    signed = config["input"]["dtype"] == "int8"
    single, unknown = _single(config), config["thresholds"].get("unknown_below")
    several = "raw.indices.filter { Int(raw[$0]) >= thresholds[$0] }"
    one = (
        "let best = raw.indices.max { raw[$0] < raw[$1] || (raw[$0] == raw[$1] && $0 > $1) }!\n"
        f"        return probability(raw, best) >= {unknown} ? [best] : []"
    )
    return {
        **_shared(config),
        "LABELS": _lines((swift_string(label) for label in config["labels"]), 8),
        "INPUT_BYTE": "UInt8(bitPattern: Int8(Int(value) - 128))" if signed else "value",
        "DECIDE": " " * 8 + (one if single else several),
        "PROBABILITY": " " * 8 + _swift_probability(config),
    }


def _swift_probability(config: Mapping[str, Any]) -> str:
    if not config["output"]["is_logits"]:
        return "value(raw[index])"
    if not _single(config):
        return "1 / (1 + exp(-value(raw[index])))"
    return "exp(value(raw[index])) / raw.reduce(0) { $0 + exp(value($1)) }"


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
    quantization_ladder.json, `images` come from `golden.choose_golden`.
    """
    folder = Path(folder)
    write_text(folder / LABELS_FILE, labels_text(labels))
    config = inference_config(folder, settings, labels, thresholds, ladder, versions, calibration)
    write_json(folder / verify.CONFIG, config)
    write_json(folder / verify.METADATA, model_metadata(config))
    vectors = write_golden(folder, config, images)
    write_sources(folder, config, vectors)
    write_bytes(folder / "verify.py", Path(verify.__file__).read_bytes())
    return Bundle(config, seal(folder))


@contextmanager
def withdrawn_on_failure(folder: Path) -> Iterator[None]:
    """Leave nothing that an app could take for this run's when what ships could not be made."""
    try:
        yield
    except StepError:
        withdraw(folder)
        raise


def withdraw(folder: Path) -> None:
    """Remove a bundle and the figures about it; labels and thresholds stay, others wrote them."""
    stay = (verify.LABELS, verify.RECOMMENDATION)
    for name in (*verify.SINGLE_FILES, verify.SUMS):
        if name not in stay:
            (folder / name).unlink(missing_ok=True)
    for name in verify.FOLDERS:
        shutil.rmtree(folder / name, ignore_errors=True)


def seal(folder: Path) -> tuple[Path, ...]:
    """Write SHA256SUMS over what is there; 09 seals again with its metrics and test scores."""
    names = verify.sealed_files(folder)
    lines = "".join(f"{sha256(folder / name)}  {name}\n" for name in names)
    write_text(folder / verify.SUMS, lines)
    return tuple(folder / name for name in (*names, verify.SUMS))


# What 09 leaves so that its figures can be derived again: raw test outputs and a spot check.


def write_test_scores(
    path: Path,
    raw: np.ndarray,
    y_true: np.ndarray,
    mask: np.ndarray,
    filepaths: Sequence[str],
    letterboxed: Callable[[np.ndarray], Iterable[np.ndarray]],
    *,
    spot_checks: int,
    seed: int,
    **extra: np.ndarray,
) -> dict[str, str]:
    """Write raw outputs [N, C] with labels, and the pixels of a few rows to run the model on again.

    `letterboxed(rows)` gives uint8 [S, S, 3] of those rows; `extra` arrays are kept beside them.
    Returns the entry `test_scores` that metrics.json carries.
    """
    rows = np.random.default_rng(seed).permutation(len(raw))[:spot_checks]
    rows.sort()
    with writing(path) as temporary, open(temporary, "wb") as file:
        np.savez_compressed(
            file,
            raw=raw,
            y_true=(np.asarray(y_true) > 0.5).astype(np.uint8),
            mask=(np.asarray(mask) > 0.5).astype(np.uint8),
            filepaths=np.array(list(filepaths), dtype=np.str_),
            rows=rows,
            images=np.stack(list(letterboxed(rows))),
            **extra,
        )
    return {"file": path.name, "sha256": sha256(path)}
