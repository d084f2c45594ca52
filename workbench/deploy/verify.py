"""Derive every number of a bundle again, from the shipped files alone.

Needs LiteRT and NumPy, nothing else of the workbench. One file on purpose: a copy of it lies in
every bundle, so it holds its own letterbox, decisions and metrics, written apart from those it
checks.
Run it as `python verify.py [FOLDER]` or `python -m workbench verify RUN`.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import struct
import sys
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from ai_edge_litert.interpreter import Interpreter

CONFIG = "inference_config.json"
METADATA = "model_metadata.json"
SUMS = "SHA256SUMS"
VECTORS = "golden/vectors.json"
RECOMMENDATION = "threshold_recommendation.json"
METRICS = "metrics.json"
SCORES = "test_scores.npz"
MODEL = "model_qat_int8.tflite"
LABELS = "labels.txt"
SEALED = (  # all that is handed on, and all that figures are derived from
    *(MODEL, "verify.py", "*.txt", "*.json", "*.csv", "*.npz", "*.png", "app/**/*", "golden/**/*"),
    *("html/**/*", "notebooks/*.ipynb", "logs/*.csv", "splits/**/*"),
)
UNSEALED = ("status.json", "threshold_choice.json")  # go on changing: when it ran, what is wished
TOLERANCE = 1e-6  # of figures that were written as decimal text
FAINTEST = 2**-12  # a probability of 0 or 1 has no logit
NEVER = 128  # as a threshold: one above the highest int8
LEVELS = 8  # kernels of other CPUs round sums otherwise; TFLite's own differ by up to 6 levels


# What a file raises that is not of the form we wrote.
MALFORMED = (
    *(ArithmeticError, AttributeError, EOFError, LookupError, OSError, RuntimeError),
    *(SyntaxError, TypeError, ValueError, struct.error, zipfile.BadZipFile, zlib.error),
)


class MismatchError(Exception):
    """A file that differs from what another one says of it."""


@dataclass(frozen=True)
class Check:
    """One check: passed (True), failed (False), or of something that this folder lacks (None)."""

    name: str
    passed: bool | None
    detail: str


@dataclass(frozen=True)
class Verification:
    """What came out, for a person (`text`) and for a script (`figures`)."""

    folder: Path
    checks: tuple[Check, ...]

    @property
    def passed(self) -> bool:
        return all(check.passed is not False for check in self.checks)

    @property
    def text(self) -> str:
        marks = {True: "ok    ", False: "FAILED", None: "-     "}
        lines = [f"{marks[check.passed]}  {check.name}: {check.detail}" for check in self.checks]
        failed = sum(check.passed is False for check in self.checks)
        last = f"{failed} of {len(lines)} checks failed" if failed else "every check passed"
        return "\n".join([*lines, f"{self.folder}: {last}"])

    @property
    def figures(self) -> dict[str, Any]:
        return {"passed": self.passed, "checks": [vars(check) for check in self.checks]}


@dataclass
class Bundle:
    """The files of a folder, read once."""

    folder: Path
    config: dict[str, Any] = field(init=False)

    def __post_init__(self) -> None:
        self.config = self.json(CONFIG)

    def bytes(self, name: str) -> bytes:
        path = (self.folder / name).resolve()
        if not path.is_relative_to(self.folder.resolve()):
            raise MismatchError(f"{name} leads out of the folder")
        if not path.is_file():
            raise MismatchError(f"{name} cannot be read: it is not there or no file")
        return path.read_bytes()

    def json(self, name: str) -> Any:
        try:
            return json.loads(self.bytes(name))
        except ValueError as error:
            raise MismatchError(f"{name} is not valid JSON ({error})") from None

    def has(self, name: str) -> bool:
        return (self.folder / name).exists()

    def sha256(self, name: str) -> str:
        return hashlib.sha256(self.bytes(name)).hexdigest()

    def model(self) -> bytes:
        """Return the model if it is the one described; the runtime trusts what it is given."""
        stated = self.config["model"]
        model = self.bytes(stated["file"])
        found = hashlib.sha256(model).hexdigest()
        if found != stated["sha256"]:
            raise MismatchError(
                f"{stated['file']} has sha256 {found[:12]}…, {CONFIG} says "
                f"{stated['sha256'][:12]}…: the model was changed or damaged"
            )
        return model


def verify(folder: Path, checks: Checks | None = None) -> Verification:
    """Check a run folder or a bundle, in every way or only by some of the checks."""
    folder = Path(folder)
    try:
        bundle = Bundle(folder)
        bundle.config["model"]["sha256"]
    except MismatchError as error:
        return Verification(folder, (Check(CONFIG, False, str(error)),))
    except MALFORMED as error:
        reason = f"{CONFIG} is not of the form we write ({type(error).__name__}: {error})"
        return Verification(folder, (Check(CONFIG, False, reason),))
    made = (_check(name, derive, bundle) for name, derive in checks or CHECKS)
    return Verification(folder, tuple(made))


def _check(name: str, derive: Callable[[Bundle], str], bundle: Bundle) -> Check:
    try:
        detail = derive(bundle)
    except MismatchError as error:
        return Check(name, False, str(error))
    except MALFORMED as error:
        return Check(
            name, False, f"a file has an unexpected form ({type(error).__name__}: {error})"
        )
    return Check(name, None if detail.startswith("not here") else True, detail)


def hashes(bundle: Bundle) -> str:
    """Compare every file with SHA256SUMS, which must list all of them."""
    if not (bundle.has(SUMS) or bundle.has(METRICS)):
        return f"not here: no {SUMS}, a run is sealed when all its steps are up to date"
    lines = [line.partition("  ") for line in bundle.bytes(SUMS).decode("utf-8").splitlines()]
    wrong = [name for stated, _, name in lines if bundle.sha256(name) != stated]
    if wrong:
        raise MismatchError(f"changed since they were written: {', '.join(wrong)}")
    missing = sorted(set(sealed_files(bundle.folder)) - {name for _, _, name in lines})
    if missing:
        raise MismatchError(f"{SUMS} does not list {', '.join(missing)}")
    return f"{len(lines)} files are as they were written; {SUMS} has sha256 {bundle.sha256(SUMS)}"


def sealed_files(folder: Path) -> list[str]:
    """Name the files of a run or bundle that are there and must not change, in order."""
    found = {path for pattern in SEALED for path in folder.glob(pattern) if path.is_file()}
    names = sorted(path.relative_to(folder).as_posix() for path in found)
    return [name for name in names if name not in UNSEALED and not _is_passing(name)]


def _is_passing(name: str) -> bool:
    """Tell what Python, a file system or an unfinished write left."""
    return any(part.startswith(".") or part == "__pycache__" for part in name.split("/"))


def model_file(bundle: Bundle) -> str:
    """Compare the model with the hash and size in the config."""
    stated, model = bundle.config["model"], bundle.model()
    _same("bytes of the model", len(model), stated["bytes"])
    return f"{stated['file']}, {len(model)} bytes, sha256 {stated['sha256'][:12]}…"


def labels(bundle: Bundle) -> str:
    """Compare labels.txt, the config, the labels inside the model, and the number of outputs."""
    stated = bundle.config["labels"]
    name = bundle.config["labels_file"]["file"]
    written = bundle.bytes(name).decode("utf-8").split("\n")
    if written[-1] == "":
        written.pop()
    _same(f"labels of {name}", written, stated)
    with zipfile.ZipFile(io.BytesIO(bundle.model())) as inside:
        carried = inside.read("labels.txt").decode("utf-8").split("\n")[:-1]
    _same("labels inside the model", carried, stated)
    _same(f"sha256 of {name}", bundle.sha256(name), bundle.config["labels_file"]["sha256"])
    outputs = open_model(bundle.model()).get_output_details()[0]["shape"][-1]
    _same("number of outputs", int(outputs), len(stated))
    return f"{len(stated)} labels, the same in {name}, {CONFIG} and the model"


def ports(bundle: Bundle) -> str:
    """Compare shapes, types, scales and zero points of the model with both JSON files."""
    config, metadata = bundle.config, bundle.json(METADATA)
    interpreter = open_model(bundle.model())
    source, target = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
    shape = [1, config["input"]["height"], config["input"]["width"], config["input"]["channels"]]
    _same("input shape", [int(side) for side in source["shape"]], shape)
    for side, details in (("input", source), ("output", target)):
        found = _port(details)
        _same(f"{side} of {CONFIG}", {key: config[side][key] for key in found}, found)
        written = metadata[side]
        _same(
            f"{side} of {METADATA}", {"dtype": written["dtype"], **written["quantization"]}, found
        )
    for side in ("width", "height", "channels"):
        _same(f"{side} in {METADATA}", metadata["input"][side], config["input"][side])
    _same(f"preprocess of {METADATA}", metadata["preprocess"], _preprocess(config))
    _same(f"decision of {METADATA}", metadata["output"]["decision"], _decision(config))
    _same(
        f"is_logits of {METADATA}", metadata["output"]["is_logits"], config["output"]["is_logits"]
    )
    _same(f"files in {METADATA}", metadata["model_file"], config["model"]["file"])
    return f"input {source['shape'].tolist()} {found_type(source)}, output {found_type(target)}"


def _preprocess(config: dict[str, Any]) -> dict[str, Any]:
    stated = config["preprocessing"]
    kept = ("keep_aspect_ratio", "pad_color_rgb", "interpolation", "exif")
    mean, std = ([float(stated["normalisation"][key])] * 3 for key in ("subtract", "divide"))
    normalization = {"pixel_range": [0, 255], "mean_rgb": mean, "std_rgb": std}
    same = {key: stated[key] for key in kept}
    return {"letterbox": stated["letterbox"] == "q8", **same, "normalization": normalization}


def _decision(config: dict[str, Any]) -> dict[str, Any]:
    stated = config["thresholds"]
    if config["task"] == "single_label":
        return {"integers": None, "unknown_below": stated["unknown_below"]}
    return {"integers": [row["integer"] for row in stated["classes"]], "unknown_below": None}


def thresholds(bundle: Bundle) -> str:
    """Derive each threshold's logit and probability from its integer; compare with step 06."""
    config = bundle.config
    tuned = bundle.json(RECOMMENDATION) if bundle.has(RECOMMENDATION) else None
    if config["task"] == "single_label":
        below = config["thresholds"]["unknown_below"]
        if tuned:
            _same(f"confidence of {RECOMMENDATION}", tuned["unknown"]["probability"], below)
        return f"unknown below {below}"
    entries = config["thresholds"]["classes"]
    _same("classes with a threshold", [entry["label"] for entry in entries], config["labels"])
    for entry in entries:
        _check_threshold(entry, config)
    if tuned:
        _compare_with_tuned(entries, tuned)
    return f"{len(entries)} thresholds: probability, logit and integer agree"


def _check_threshold(entry: dict[str, Any], config: dict[str, Any]) -> None:
    output, integer = config["output"], entry["integer"]
    if config["thresholds"]["folded"]:
        logit, probability = 0.0, 0.5
        _same(f"folded threshold of {entry['label']}", integer, 0)
    elif output["is_logits"]:
        logit = (integer - 0.5 - output["zero_point"]) * output["scale"]
        probability = 1 / (1 + np.exp(-logit))
    else:
        probability = level_probability(integer)
        logit = np.log(probability / (1 - probability))
    _near(f"threshold of {entry['label']}: logit", entry["logit"], logit)
    _near(f"threshold of {entry['label']}: probability", entry["probability"], probability)


def _compare_with_tuned(entries: list[dict[str, Any]], tuned: dict[str, Any]) -> None:
    by_name = {entry["name"]: entry for entry in tuned["classes"]}
    for entry in entries:
        stated = entry.get("tuned", entry)
        for key in ("integer", "logit", "probability"):
            what = f"{key} of {entry['label']}: {RECOMMENDATION} against {CONFIG}"
            _near(what, by_name[entry["label"]][key], stated[key])


def level_probability(integer: int) -> float:
    """Return what a threshold on an output of probabilities means: halfway between two levels."""
    return float(np.clip((integer + 127.5) / 256, FAINTEST, 1 - FAINTEST))


def golden(bundle: Bundle) -> str:
    """Run letterbox, model and decisions again on the recorded images."""
    vectors = bundle.json(VECTORS)["vectors"]
    interpreter = open_model(bundle.model())
    gaps = [_check_vector(bundle, interpreter, vector) for vector in vectors]
    return f"{len(vectors)} images from pixels to decisions; outputs differ by {max(gaps)} levels"


def _check_vector(bundle: Bundle, interpreter: Interpreter, vector: dict[str, Any]) -> int:
    """Return by how many levels the output differs from the recorded one."""
    name = vector["name"]
    for part in ("source", "picture", "letterbox", "input", "output"):
        stated = vector[part]
        _same(f"sha256 of {stated['file']}", bundle.sha256(stated["file"]), stated["sha256"])
    pixels = read_ppm(bundle.bytes(vector["source"]["file"]))
    _same(f"{name}: CRC-32 of the source", vector["source_crc32"], zlib.crc32(pixels))
    _same(f"{name}: size", [vector["height"], vector["width"]], list(pixels.shape[:2]))
    boxed = letterbox(pixels, bundle.config["input"]["width"])
    _same_array(f"{name}: letterbox", boxed, read_ppm(bundle.bytes(vector["letterbox"]["file"])))
    tensor = input_table(bundle.config["input"])[boxed]
    _same(f"{name}: input tensor", tensor.tobytes(), bundle.bytes(vector["input"]["file"]))
    raw = run_model(interpreter, tensor)
    recorded = np.frombuffer(bundle.bytes(vector["output"]["file"]), dtype=raw.dtype)
    _same(f"{name}: raw answers", vector["raw"], recorded.tolist())
    gap = _gap(raw, recorded)
    if gap > LEVELS:
        raise MismatchError(f"{name}: the output is {gap} levels off the recorded one")
    for values, what in ((recorded, "recorded"), (raw, "computed")):
        found = decide(values[None], bundle.config)[0]
        _same(f"{name}: decisions of the {what} output", found, vector["decisions"])
    return gap


def _gap(raw: np.ndarray, recorded: np.ndarray) -> int:
    return int(np.abs(raw.astype(np.int32) - recorded.astype(np.int32)).max())


def test_metrics(bundle: Bundle) -> str:
    """Compute the figures of metrics.json again from the raw test outputs."""
    if not bundle.has(METRICS):
        return f"not here: no {METRICS}, 09_eval_report has not run"
    stated = bundle.json(METRICS)
    if "test_scores" in stated:
        _same(f"sha256 of {SCORES}", bundle.sha256(SCORES), stated["test_scores"]["sha256"])
    with np.load(io.BytesIO(bundle.bytes(SCORES)), allow_pickle=False) as scores:
        arrays = {name: scores[name] for name in scores.files}
    rerun = _rerun(bundle, arrays)
    overall, by_class = evaluate(arrays["raw"], arrays["y_true"], arrays["mask"], bundle.config)
    compared = 0
    for name, figure in stated["test"]["overall"].items():
        if name in overall:
            _near_or_null(f"{METRICS}, {name}", figure["value"], overall[name])
            compared += 1
    for row in stated["test"]["classes"]:
        for name, value in by_class[row["class"]].items():
            _near_or_null(f"{METRICS}, {name} of {row['class']}", row[name], value)
            compared += 1
    return f"{compared} figures derived from {len(arrays['raw'])} test images; {rerun}"


def _rerun(bundle: Bundle, arrays: dict[str, np.ndarray]) -> str:
    """Run the model on the few test images whose pixels are there."""
    if "images" not in arrays:
        return f"{SCORES} keeps no pixels to run again"
    interpreter = open_model(bundle.model())
    table = input_table(bundle.config["input"])
    for row, image in zip(arrays["rows"], arrays["images"], strict=True):
        gap = _gap(run_model(interpreter, table[image]), arrays["raw"][row])
        if gap > LEVELS:
            raise MismatchError(f"test image {row}: the model is {gap} levels off {SCORES}")
    return f"{len(arrays['rows'])} of them run again"


def evaluate(
    raw: np.ndarray, y_true: np.ndarray, mask: np.ndarray, config: dict[str, Any]
) -> tuple[dict[str, float | None], dict[str, dict[str, float | None]]]:
    """Compute overall figures and figures per class from raw outputs [N, C]."""
    answers = decide(raw, config)
    said = np.array([[name in found for name in config["labels"]] for found in answers])
    known, true = mask > 0, y_true > 0
    hits, wrong, missed = ((part & known) for part in (said & true, said & ~true, ~said & true))
    tp, fp, fn = (part.sum(0) for part in (hits, wrong, missed))
    score = probabilities(raw, config)
    by_class = {
        name: {
            "precision": _ratio(tp[i], tp[i] + fp[i]),
            "recall": _ratio(tp[i], tp[i] + fn[i]),
            "f1": _ratio(2 * tp[i], 2 * tp[i] + fp[i] + fn[i]) if tp[i] + fn[i] else None,
            "average_precision": _average_precision(true[:, i], score[:, i], known[:, i]),
        }
        for i, name in enumerate(config["labels"])
    }
    occurring = [figures for figures in by_class.values() if figures["recall"] is not None]
    images = known.any(1)
    overall = {
        "f1_macro": _mean([figures["f1"] for figures in occurring]),
        "f1_micro": _ratio(2 * tp.sum(), 2 * tp.sum() + fp.sum() + fn.sum()),
        "precision_macro": _mean([figures["precision"] or 0.0 for figures in occurring]),
        "precision_micro": _ratio(tp.sum(), tp.sum() + fp.sum()),
        "recall_macro": _mean([figures["recall"] for figures in occurring]),
        "recall_micro": _ratio(tp.sum(), tp.sum() + fn.sum()),
        "hamming_loss": _ratio(fp.sum() + fn.sum(), known.sum()),
        "exact_match": _mean(list(~(wrong | missed).any(1)[images])),
        "no_label_rate": _mean(list(~(said & known).any(1)[images])),
        "map": _mean([row["average_precision"] for row in occurring]),
    }
    return overall, by_class


def probabilities(raw: np.ndarray, config: dict[str, Any]) -> np.ndarray:
    output = config["output"]
    values = (raw.astype(np.float64) - output["zero_point"]) * output["scale"]
    if not output["is_logits"]:
        return values
    if config["task"] == "single_label":
        powers = np.exp(values - values.max(axis=1, keepdims=True))
        return powers / powers.sum(axis=1, keepdims=True)
    return 1 / (1 + np.exp(-values))


def probability_thresholds(config: dict[str, Any]) -> np.ndarray | float:
    """Return what `probabilities` are compared with: one a class, or one for a single label."""
    if config["task"] == "single_label":
        return float(config["thresholds"]["unknown_below"])
    return np.array([entry["probability"] for entry in config["thresholds"]["classes"]])


def _average_precision(true: np.ndarray, score: np.ndarray, known: np.ndarray) -> float | None:
    true, score = true[known], score[known]
    if not true.any():
        return None
    levels = np.unique(score)[::-1]
    found = np.array([true[score >= level].sum() for level in levels])
    shown = np.array([(score >= level).sum() for level in levels])
    return float((np.diff(found, prepend=0) * found / shown).sum() / true.sum())


def _ratio(above: float, below: float) -> float | None:
    return float(above / below) if below else None


def _mean(values: list[float | None]) -> float | None:
    return float(np.mean(values)) if values else None


def open_model(model: bytes) -> Interpreter:
    try:
        with _hushed():
            interpreter = Interpreter(model_content=model, num_threads=1)
            interpreter.allocate_tensors()
    except (ValueError, RuntimeError) as error:
        raise MismatchError(f"LiteRT cannot open the model ({error})") from None
    return interpreter


@contextmanager
def _hushed() -> Iterator[None]:
    """Keep the runtime's greeting, which it writes to the descriptor, out of the answer."""
    saved, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(nowhere)


def run_model(interpreter: Interpreter, tensor: np.ndarray) -> np.ndarray:
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], tensor[None])
    interpreter.invoke()
    return interpreter.get_tensor(interpreter.get_output_details()[0]["index"])[0].copy()


def input_table(port: dict[str, Any]) -> np.ndarray:
    """Return the input value of each byte 0…255, which means (x - 127) / 128."""
    limits = np.iinfo(port["dtype"])
    levels = np.floor((np.arange(256) - 127) / 128 / port["scale"] + 0.5) + port["zero_point"]
    return np.clip(levels, limits.min, limits.max).astype(port["dtype"])


def decide(raw: np.ndarray, config: dict[str, Any]) -> list[list[str]]:
    """Return the labels that the app shows for raw outputs [N, C]."""
    names = config["labels"]
    if config["task"] == "single_label":
        return [_single(row, config) for row in raw]
    needed = np.array([entry["integer"] for entry in config["thresholds"]["classes"]])
    return [[names[i] for i in np.flatnonzero(row >= needed)] for row in raw.astype(np.int32)]


def _single(row: np.ndarray, config: dict[str, Any]) -> list[str]:
    output = config["output"]
    values = (row.astype(np.float64) - output["zero_point"]) * output["scale"]
    if output["is_logits"]:
        values = np.exp(values - values.max())
        values /= values.sum()
    best = int(values.argmax())
    sure = values[best] >= config["thresholds"]["unknown_below"]
    return [config["labels"][best]] if sure else []


def letterbox(image: np.ndarray, size: int) -> np.ndarray:
    """Letterbox uint8 [H, W, 3] by the formula `q8`, in integers."""
    height, width = image.shape[:2]
    longest = max(width, height)
    new_width, new_height = (
        max(1, (2 * side * size + longest) // (2 * longest)) for side in (width, height)
    )
    x0, x1, fx = _taps(width, new_width)
    y0, y1, fy = _taps(height, new_height)
    pixels = image.astype(np.int64)
    fx, fy = fx[None, :, None], fy[:, None, None]
    upper = pixels[y0][:, x0] * (256 - fx) + pixels[y0][:, x1] * fx
    lower = pixels[y1][:, x0] * (256 - fx) + pixels[y1][:, x1] * fx
    square = np.zeros((size, size, 3), dtype=np.uint8)
    left, top = (size - new_width) // 2, (size - new_height) // 2
    mixed = (upper * (256 - fy) + lower * fy + 32768) >> 16
    square[top : top + new_height, left : left + new_width] = mixed
    return square


def _taps(old: int, new: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    x = np.arange(new, dtype=np.int64)
    place = (2 * ((2 * x + 1) * old - new) * 128 + new) // (2 * new)
    place = place.clip(0, (old - 1) * 256)
    return place >> 8, np.minimum((place >> 8) + 1, old - 1), place & 255


def read_ppm(data: bytes) -> np.ndarray:
    """Read a binary PPM as this workbench writes it: `P6 width height 255` and the pixels."""
    header, pixels = data.split(b"\n", 1)
    _magic, width, height, _deepest = header.split()
    return np.frombuffer(pixels, dtype=np.uint8).reshape(int(height), int(width), 3)


def _port(details: dict[str, Any]) -> dict[str, Any]:
    scale, zero_point = details["quantization"]
    name = np.dtype(details["dtype"]).name
    return {"dtype": name, "scale": float(scale), "zero_point": int(zero_point)}


def found_type(details: dict[str, Any]) -> str:
    port = _port(details)
    return f"{port['dtype']} (scale {port['scale']:g}, zero point {port['zero_point']})"


def _same(what: str, found: Any, stated: Any) -> None:
    if found != stated:
        shown = "" if isinstance(found, bytes) else f": {_short(found)} instead of {_short(stated)}"
        raise MismatchError(f"{what} differ{shown}")


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 120 else text[:117] + "…"


def _same_array(what: str, found: np.ndarray, stated: np.ndarray) -> None:
    if found.shape != stated.shape or (found != stated).any():
        raise MismatchError(f"{what} differs from the recorded bytes")


def _near_or_null(what: str, found: float | None, derived: float | None) -> None:
    if found is None or derived is None:
        _same(what, found, derived)
    else:
        _near(what, found, derived)


def _near(what: str, found: float, expected: float) -> None:
    if not abs(found - expected) <= TOLERANCE * max(1.0, abs(expected)):
        raise MismatchError(f"{what} is {found}, derived {expected}")


Checks = tuple[tuple[str, Callable[[Bundle], str]], ...]
BUNDLE_CHECKS: Checks = (
    ("model", model_file),
    ("labels", labels),
    ("ports", ports),
    ("thresholds", thresholds),
    ("golden", golden),
)
CHECKS: Checks = (("hashes", hashes), *BUNDLE_CHECKS, ("test metrics", test_metrics))

if __name__ == "__main__":
    outcome = verify(Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parent))
    sys.stdout.write(outcome.text + "\n")
    sys.exit(0 if outcome.passed else 1)
