"""Pack what an app developer receives: descriptions, golden vectors, sources, sums. No TensorFlow.

Everything in a bundle can be derived again from the files beside it: `verify` does so.
"""

from __future__ import annotations

import hashlib
import shutil
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from workbench.artifacts import InferenceConfig
from workbench.data.decode import decode_image
from workbench.data.tables import Split
from workbench.deploy import verify
from workbench.deploy.config import model_metadata
from workbench.deploy.coverage import covering_rows
from workbench.errors import StepError
from workbench.files import sha256, write_bytes, write_json, write_text, writing
from workbench.settings import Settings

FILES = (*verify.MODELS, verify.LABELS, verify.CONFIG, verify.METADATA, verify.RECOMMENDATION)
FOLDERS = ("golden", "app", "verify")
FORMER = "verify.py"  # of a run that was packed before this was a folder
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
    rows = covering_rows(split, settings.tflite_export.golden_images, settings.seed)
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


def write_golden(
    folder: Path, config: InferenceConfig, images: Sequence[GoldenImage]
) -> list[dict[str, Any]]:
    """Record every image under golden/ from pixels to decisions, and return the vectors."""
    shutil.rmtree(folder / "golden", ignore_errors=True)
    values = config.to_json()
    interpreter = verify.open_model((folder / config.model.file).read_bytes())
    vectors = [_record(folder, values, interpreter, image) for image in images]
    # As if all of them were frames of one clip: the proof of the pooling.
    clip = verify.pooled_vector([vector["raw"] for vector in vectors], values)
    write_json(folder / verify.VECTORS, {"schema": 1, "vectors": vectors, "pooled": clip})
    return vectors


def _record(
    folder: Path, config: Mapping[str, Any], interpreter: verify.Interpreter, image: GoldenImage
) -> dict[str, Any]:
    step = -(-max(image.pixels.shape[:2]) // LONGEST)
    pixels = np.ascontiguousarray(image.pixels[::step, ::step])
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
        "source_crc32": zlib.crc32(pixels),
        **{
            part: _write(folder, f"golden/{image.name}.{suffix}", data)
            for part, (suffix, data) in parts.items()
        },
        "raw": raw.tolist(),
        "decisions": verify.decide(raw[None], config)[0],
        "probabilities": verify.shown_probabilities(raw[None], config)[0].tolist(),
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


def write_bundle(
    folder: Path, config: InferenceConfig, sources: Mapping[str, str]
) -> tuple[Path, ...]:
    """Write what `config` says, the sources of the app and of `verify`; return what an app takes.

    An earlier seal goes: the run is sealed anew when all its steps are up to date.
    """
    folder = Path(folder)
    others = (name for name in verify.MODELS if name != config.model.file)
    for name in (verify.SUMS, FORMER, *others):
        (folder / name).unlink(missing_ok=True)
    for name in ("app", "verify"):
        shutil.rmtree(folder / name, ignore_errors=True)
    write_json(folder / verify.CONFIG, config.to_json())
    write_json(folder / verify.METADATA, model_metadata(config).to_json())
    for name, text in sources.items():
        write_text(folder / "app" / name, text)
    for path in Path(verify.__file__).parent.glob("*.py"):
        write_bytes(folder / "verify" / path.name, path.read_bytes())
    there = (folder / name for name in (*FILES, *FOLDERS))
    inside = (path.rglob("*") if path.is_dir() else (path,) for path in there)
    return tuple(sorted(path for group in inside for path in group if path.is_file()))


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
    for name in (*FILES, FORMER, verify.METRICS, verify.SCORES, verify.SUMS):
        if name not in stay:
            (folder / name).unlink(missing_ok=True)
    for name in FOLDERS:
        shutil.rmtree(folder / name, ignore_errors=True)


def seal(folder: Path) -> str:
    """Write SHA256SUMS over all that is handed on, pages included, and return its own sha256."""
    names = verify.sealed_files(folder)
    lines = "".join(f"{sha256(folder / name)}  {name}\n" for name in names)
    write_text(folder / verify.SUMS, lines)
    return sha256(folder / verify.SUMS)


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
