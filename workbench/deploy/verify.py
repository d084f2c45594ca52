"""Derive the numbers of a run or bundle again, from its sealed files alone; name what is left.

Needs LiteRT and NumPy, nothing else of the workbench. One file on purpose: a copy of it lies in
every bundle, so it holds its own letterbox, decisions and metrics, written apart from those it
checks.
Run it as `python verify.py [FOLDER]` or `python -m workbench verify RUN`.
"""

from __future__ import annotations

import csv
import hashlib
import html
import io
import json
import os
import re
import struct
import sys
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from html.parser import HTMLParser
from pathlib import Path
from statistics import NormalDist
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
LADDER = "quantization_ladder.json"
FULL_INTEGER = ("qat", "qat_skip_worst", "ptq")
RUNTIMES = {
    "Keras float": "start", "Keras float after QAT": "training",
    "QAT fake-quant": "quantisation", "phone harness": "runtime",
}  # fmt: skip
PLAIN = {"TFLite reference kernels": "quantisation"}  # where fake quantisation holds no integers
NETWORKS = {"float": "float student", "float_twin": "float twin"}
COSTS = {"8-bit arithmetic": "float_twin_against_int8",
         "training and arithmetic": "float_against_int8"}  # fmt: skip
VALIDATION = "candidate_scores.npz"
SOURCE = "the answers that were searched"  # `Bundle.source` names their file
STUDENT = "student_scores.npz"
SETTINGS = "training_config.json"
CURVE = "threshold_curve.csv"
CALIBRATION = "calibration.json"
FLOATS = "float_thresholds.json"
REFUSED = "refused_rungs.json"
PARITY = "parity.json"
PARITY_SCORES = "parity_scores.npz"
TEACHER, TEACHER_SCORES = "teacher_comparison.json", "teacher_scores.npz"
RUN, AUDIT = "run_metadata.json", "audit.csv"
UNKNOWN = object()  # in place of a figure that nothing in the folder tells
MODEL, LARGE_MODEL = "model_qat_int8.tflite", "model_float16.tflite"
MODELS = (MODEL, LARGE_MODEL)
LABELS = "labels.txt"
SEALED = (  # all that is handed on, and all that figures are derived from
    *("*.tflite", "*.onnx", "*.pt", "verify.py", "*.txt", "*.json", "*.csv", "*.npz", "*.png"),
    *("app/**/*", "golden/**/*"),
    *("html/**/*", "notebooks/*.ipynb", "logs/*.csv", "splits/**/*"),
)
SEALED_ONLY = ("audit.csv", "audit.json", "logs")
UNSEALED = ("status.json", "threshold_choice.json")  # go on changing: when it ran, what is wished
TOLERANCE = 1e-6  # of figures that were written as decimal text
PAGE_06, PAGE_09 = "html/06_tune_thresholds.html", "html/09_eval_report.html"
INDEX = "html/index.html"
TITLES = {"F1 macro": "f1_macro", "F1 micro": "f1_micro", "Precision": "precision_macro",
          "Recall": "recall_macro", "mAP": "map"}  # fmt: skip
TILE = re.compile("<div class='tile'><b>(.*?)</b><span>(.*?)</span><small>(.*?)</small>")
CAUTIONS, LINE = re.compile("<ul class='cautions'>(.*?)</ul>"), re.compile("<li>(.*?)</li>")
PANEL = re.compile(r'<script type="application/json"[^>]*>(.*?)</script>', re.DOTALL)
ROUNDING = 0.0005 + 1e-6  # of figures in tables
NUMBER = re.compile(r"[-+]?\d+(?:\.\d+)?")
FAINTEST = 2**-12  # a probability of 0 or 1 has no logit
LEVEL = 0.95  # of every interval
NEVER = 128  # as a threshold: one above the highest int8
BLOCK = 64  # resamplings at a time
BINS = 15  # of a calibration error
OBJECTIVE_FIGURES = {
    "fbeta": ("beta",), "precision_floor": ("floor",), "recall_floor": ("floor",),
    "cost": ("cost_false_positive", "cost_false_negative"),
}  # fmt: skip
LOWER_IS_BETTER = ("hamming_loss", "calibration_error")
NEITHER_IS_BETTER = ("no_label_rate", "true_no_label_rate", "coverage")
PAIRS = 50  # of confused classes that are written
LEAST_IMAGES = 5  # that an interval needs
LEAST_LABELS = 10  # of each kind, that the interval of a calibration error needs
GAPS = np.append(0, np.geomspace(0.03, 100, 40))  # as a part of the measured gaps
SLOPES = (0.01, 100.0)  # of a correction
DOUBT, UNSEEN = 0.005, 2.0  # that a correction does not help; labels that nobody saw yet
FOLDS, DEALS, REPEATS = 5, 10, 4  # deals of a floor's folds, and of all others
CUTS = 0.05  # of the images, between two confidences that are tried
RUNGS = {
    "qat": "QAT", "qat_skip_worst": "QAT without the worst layers",
    "ptq": "PTQ, class-covering calibration", "ptq_float_head": "PTQ with float head",
    "float16": "float16",
}  # fmt: skip
FLOAT_STEP = 1e-3  # of a float logit, which counts as a level
FAR = 700.0  # as a float logit: always or never
LEVELS = 8  # kernels of other CPUs round sums otherwise; TFLite's own differ by up to 6 levels


# What a file raises that is not of the form we wrote.
MALFORMED = (
    *(ArithmeticError, AttributeError, EOFError, LookupError, OSError, RuntimeError),
    *(SyntaxError, TypeError, ValueError, struct.error, zipfile.BadZipFile, zlib.error),
)


Tree = dict[str, Any]  # a part of a file, or what was derived in its place
Arrays = dict[str, np.ndarray]
Rows = list[list[str]]  # of a table on a page


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

    @cached_property
    def settings(self) -> Tree:
        return self.json(SETTINGS)

    @cached_property
    def validation(self) -> Arrays:
        """What the product answered on validation, and what is true.

        Float logits are put on 256 levels that cover them and 0.
        """
        arrays = self.arrays(self.source)
        if "raw" in arrays:
            return arrays
        logits = arrays["logits"].astype(np.float64)
        low, high = min(logits.min(), 0.0), max(logits.max(), 0.0)
        scale = np.float64(max(high - low, 1e-3) / 255)
        zero_point = np.rint(-128 - low / scale).astype(int)
        raw = np.clip(np.rint(logits / scale) + zero_point, -128, 127).astype(np.int8)
        return arrays | {"raw": raw, "scale": scale, "zero_point": zero_point}

    @property
    def source(self) -> str:
        """Name the answers to validation images on which thresholds were searched."""
        return TEACHER_SCORES if in_floats(self.config) else VALIDATION

    @cached_property
    def search(self) -> Search:
        return Search.of(self.validation, self.settings["threshold_search"], self.settings["seed"])

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

    def arrays(self, name: str) -> Arrays:
        """Read scores, a row a photo or, where the config says so, a row a clip."""
        arrays = self.frames(name)
        return pooled(arrays) if self.config.get("aggregation") else arrays

    def frames(self, name: str) -> Arrays:
        with np.load(io.BytesIO(self.bytes(name)), allow_pickle=False) as held:
            return {key: held[key] for key in held.files}

    def table(self, name: str) -> Tree:
        """Read a CSV by column; what is empty is None."""
        rows = csv.DictReader(io.StringIO(self.bytes(name).decode("utf-8")))
        words = {"": None, "True": True, "False": False}
        columns: Tree = {key: [] for key in rows.fieldnames or ()}
        for row in rows:
            for key, text in row.items():
                columns[key].append(words[text] if text in words else float(text))
        return columns

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
    return Check(name, None if detail.startswith("not ") else True, detail)


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
        written = {"dtype": metadata[side]["dtype"], **metadata[side]["quantization"]}
        _same(f"{side} of {METADATA}", {key: written[key] for key in found}, found)
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
        return {"integers": None, "logits": None, "unknown_below": stated["unknown_below"]}
    name, other = ("logits", "integers") if in_floats(config) else ("integers", "logits")
    return {name: needed(config), other: None, "unknown_below": None}


def in_floats(config: Tree) -> bool:
    """Tell whether the file gives logits as they are, not on 256 levels."""
    return config["output"]["dtype"] == "float32"


def needed(config: Tree) -> list[float]:
    """Return what raw outputs are compared with, class by class."""
    key = "logit" if in_floats(config) else "integer"
    return [row[key] for row in config["thresholds"]["classes"]]


def thresholds(bundle: Bundle) -> str:
    """Derive each threshold's logit and probability from its integer; compare with step 06."""
    config = bundle.config
    tuned = bundle.json(RECOMMENDATION) if bundle.has(RECOMMENDATION) else None
    if tuned:
        stated = tuned["scores"].get("aggregation")
        _same("aggregation", config.get("aggregation"), stated)
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
    elif in_floats(config):
        _same(f"integer of {entry['label']}", integer, None)
        tuned = entry["tuned"]
        ends = {-NEVER: -FAR, NEVER: FAR}
        logit = ends.get(tuned["integer"], tuned["logit"])
        probability = sigmoid(np.float64(logit))
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
    recorded = bundle.json(VECTORS)
    vectors = recorded["vectors"]
    interpreter = open_model(bundle.model())
    gaps = [_check_vector(bundle, interpreter, vector) for vector in vectors]
    if "pooled" in recorded:
        clip = pooled_vector([vector["raw"] for vector in vectors], bundle.config)
        compare(f"{VECTORS}: pooled", recorded["pooled"], clip)
    return f"{len(vectors)} images from pixels to decisions; outputs differ by {max(gaps)} levels"


def pooled_vector(raws: Sequence[Sequence[int]], config: dict[str, Any]) -> Tree:
    """Return what an app must answer if these outputs are those of one clip's frames."""
    raw = pool(np.array(raws, config["output"]["dtype"]))[None]
    shown = shown_probabilities(raw, config)[0].tolist()
    return {"raw": raw[0].tolist(), "decisions": decide(raw, config)[0], "probabilities": shown}


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
    compare(f"{name}: probabilities to show", vector["probabilities"],
            shown_probabilities(recorded[None], bundle.config)[0].tolist())  # fmt: skip
    return gap


def _gap(raw: np.ndarray, recorded: np.ndarray) -> int:
    step = FLOAT_STEP if raw.dtype == np.float32 else 1
    return int(np.abs(raw.astype(np.float64) - recorded.astype(np.float64)).max() / step)


def test_answers(bundle: Bundle) -> str:
    """Run the model on the few test images whose pixels are there."""
    if not bundle.has(METRICS):
        return f"not here: no {METRICS}, 09_eval_report has not run"
    arrays = bundle.frames(SCORES)
    if "images" not in arrays:
        return f"{SCORES} keeps no pixels to run again"
    interpreter = open_model(bundle.model())
    table = input_table(bundle.config["input"])
    for row, image in zip(arrays["rows"], arrays["images"], strict=True):
        gap = _gap(run_model(interpreter, table[image]), arrays["raw"][row])
        if gap > LEVELS:
            raise MismatchError(f"test image {row}: the model is {gap} levels off {SCORES}")
    return f"{len(arrays['rows'])} of {len(arrays['raw'])} test images run again"


def derive_metrics(bundle: Bundle, stated: Tree) -> Tree:
    """Evaluate the raw test outputs again."""
    arrays = bundle.arrays(SCORES)
    phone = phone_answers(bundle, arrays)
    found: Tree = {"test": evaluate(*phone, stated["test"])}
    if "float_test" in stated:
        student, twin = (float_answers(bundle, arrays, side) for side in ("student", "twin"))
        found["float_test"] = evaluate(*student, stated["float_test"])
        twin_test = evaluate(*twin, stated["float_test"])
        int8 = phone[0], found["test"]
        sides = {"float": (student[0], found["float_test"]), "float_twin": (twin[0], twin_test)}
        for side, answers in sides.items():
            name = f"{side}_against_int8"
            found[name] = derive_differences((answers, int8), stated[name])
            found[name] |= {"first": NETWORKS[side], "second": "phone file"}
    if bundle.has(SETTINGS):
        settings = bundle.json(SETTINGS)
        replicates = settings["evaluation"]["bootstrap_replicates"]
        for part in found.values():
            part |= {"seed": settings["seed"], "bootstrap_replicates": replicates}
    return found | derive_description(bundle, stated)


def derive_description(bundle: Bundle, stated: Tree) -> Tree:
    """Gather what metrics.json repeats of other files."""
    found: Tree = {"schema": 1}
    if "test_scores" in stated:
        found["test_scores"] = {"file": SCORES, "sha256": bundle.sha256(SCORES)}
    if "model_bytes" in stated:
        found["model_bytes"] = len(bundle.model())
    if bundle.has(LADDER) and "quantization" in stated:
        ladder = bundle.json(LADDER)
        kept = ("chosen", "title", "forced", "budget", "allowed_drop", "ptq_against_qat", "rungs")
        found["quantization"] = {key: ladder[key] for key in kept}
        found["validation_float"] = ladder["float"]
    return found


def phone_answers(bundle: Bundle, arrays: Arrays) -> tuple[Answers, np.ndarray | float]:
    """Return what the phone file answered on test, and at which thresholds."""
    config = bundle.config
    score, bars = probabilities(arrays["raw"], config), probability_thresholds(config)
    answers = decide(arrays["raw"], config)
    said = np.array([[name in found for name in config["labels"]] for found in answers])
    return Answers(**labels_of(arrays), score=score, said=said, config=config), bars


def float_answers(bundle: Bundle, arrays: Arrays, side: str) -> tuple[Answers, np.ndarray]:
    """Return what a float network answered, at the thresholds that were searched for it."""
    bars = np.array(bundle.json(FLOATS)[f"float {side}"])
    key = {"student": "float_probability", "twin": "twin_probability"}[side]
    score = arrays[key].astype(np.float64)
    return Answers.at(bars, score, labels_of(arrays), bundle.config), bars


def labels_of(arrays: Arrays) -> Arrays:
    """Return what is known of the images of a scores file."""
    grouped = {"groups": arrays["groups"]} if "groups" in arrays else {}
    return {"y_true": arrays["y_true"] > 0.5, "known": arrays["mask"] > 0.5, **grouped}


def derive_differences(sides: Sequence[tuple[Answers, Tree]], stated: Tree) -> Tree:
    """Compare two evaluations of the same images, drawn alike, second less first."""
    resampling = stated["bootstrap_replicates"], stated["seed"]
    drawn = [resample(answers, measured, *resampling) for answers, measured in sides]
    found = [measured for _, measured in sides]
    overall, classes = [], []
    for row in stated["overall"]:
        name = row["figure"]
        both = [side["overall"][name]["value"] for side in found]
        differences = drawn[1].overall[name] - drawn[0].overall[name]
        overall.append({"figure": name, **_difference(row, *both, differences)})
    places = {row["class"]: i for i, row in enumerate(found[0]["classes"])}
    for row in stated["classes"]:
        name, i = row["figure"], places[row["class"]]
        both = [side["classes"][i][name] for side in found]
        differences = drawn[1].classes[name][:, i] - drawn[0].classes[name][:, i]
        classes.append({"class": row["class"], "figure": name,
                        **_difference(row, *both, differences)})  # fmt: skip
    images = len(sides[0][0].score)
    return {"images": images, "left_out": [0, 0], "overall": overall, "classes": classes}


def _difference(row: Tree, first: float | None, second: float | None, drawn: np.ndarray) -> Tree:
    """The verdict follows from the stated ends: one may lie a rounding away from 0."""
    low, high = ends(drawn) or (None, None)
    verdict = "open"
    if low is not None and (row["low"] > 0 or row["high"] < 0):
        better = (row["low"] > 0) != (row["figure"] in LOWER_IS_BETTER)
        verdict = "better" if better else "worse"
        verdict = "differs" if row["figure"] in NEITHER_IS_BETTER else verdict
    both = first is not None and second is not None
    difference = second - first if both else None
    return {"first": first, "second": second, "difference": difference, "low": low, "high": high,
            "verdict": verdict}  # fmt: skip


@dataclass(frozen=True)
class Answers:
    """Labels, which of them are known, probabilities and answers, all [N, C]."""

    y_true: np.ndarray
    known: np.ndarray
    score: np.ndarray
    said: np.ndarray
    config: dict[str, Any]
    groups: np.ndarray | None = None  # [N], where photos come in clips or bursts

    @classmethod
    def at(cls, bars: np.ndarray, score: np.ndarray, known: Tree, config: Tree) -> Answers:
        """Answer at thresholds, or with the one best class if it is sure enough."""
        said = score >= bars
        if config["task"] == "single_label":
            best = np.arange(score.shape[1]) == score.argmax(1)[:, None]
            said = best & (score.max(1) >= bars)[:, None]
        return cls(score=score, said=said, config=config, **known)

    @property
    def units(self) -> np.ndarray:
        return _units(len(self.score), self.groups)

    @cached_property
    def outcomes(self) -> tuple[np.ndarray, ...]:
        """Return which known labels are true negatives, false positives, missed and found."""
        true, said = self.y_true, self.said
        cells = (~said & ~true, said & ~true, ~said & true, said & true)
        return tuple(cell & self.known for cell in cells)

    @property
    def labelled(self) -> np.ndarray:
        return (self.y_true & self.known).any(1)

    @property
    def judged(self) -> np.ndarray:
        """Images whose one answer is right or wrong."""
        return self.labelled | self.known.all(1)

    @property
    def right(self) -> np.ndarray:
        return (self.score.argmax(1) == self.y_true.argmax(1)) & self.labelled


def evaluate(answers: Answers, bars: np.ndarray | float, stated: Tree) -> Tree:
    """Derive an evaluation; from what is stated only the size of the resampling is taken."""
    config = answers.config
    rows = class_figures(answers, np.broadcast_to(bars, len(config["labels"])))
    overall = {name: {"value": value} for name, value in overall_figures(answers, rows).items()}
    if stated["bootstrap_replicates"]:
        for name, span in share_intervals(answers, rows).items():
            overall[name]["interval"] = span
        resampled_intervals(answers, overall, rows, stated)
    means, undefined = macro_means(rows)
    withhold(answers, overall, bool(stated["bootstrap_replicates"]))
    return {
        "task": config["task"], "images": len(answers.score),
        "macro_means": means, "undefined_classes": undefined,
        "unknown_labels": int((~answers.known).sum()),
        "overall": {name: found for name, found in overall.items() if name in stated["overall"]},
        "classes": rows, "confusion": confusion(answers), "confused_pairs": confused(answers),
    }  # fmt: skip


def macro_means(rows: list[Tree]) -> tuple[str, list[str]]:
    """Say which classes the macro means are over, and which no image is known to have."""
    undefined = [row["class"] for row in rows if not row["positives"]]
    over = f"{len(rows) - len(undefined)} of {len(rows)} classes; undefined: {', '.join(undefined)}"
    return f"macro over {over if undefined else f'all {len(rows)} classes'}", undefined


def withhold(answers: Answers, overall: Tree, asked: bool) -> None:
    """Say why a figure has no interval, where one was asked for."""
    images = len(answers.score)
    for figure in overall.values():
        why = "" if figure.setdefault("interval", None) else "too few images tell"
        if images < LEAST_IMAGES:
            why = f"{images} images; an interval needs {LEAST_IMAGES}"
        if figure["value"] is None:
            why, figure["interval"] = "undefined", None
        figure["withheld"] = why if asked else ""


def class_figures(answers: Answers, bars: np.ndarray) -> list[Tree]:
    """Count and rate the answers to each class."""
    tn, fp, fn, tp = (cell.sum(0) for cell in answers.outcomes)
    rows = []
    for i, name in enumerate(answers.config["labels"]):
        column = answers.y_true[:, i], answers.score[:, i], answers.known[:, i]
        rows.append({
            "class": name, "positives": tp[i] + fn[i], "negatives": tn[i] + fp[i],
            "threshold": bars[i], "tp": tp[i], "fp": fp[i], "fn": fn[i], "tn": tn[i],
            "precision": _ratio(tp[i], tp[i] + fp[i]),
            "recall": _ratio(tp[i], tp[i] + fn[i]),
            "f1": _ratio(2 * tp[i], 2 * tp[i] + fp[i] + fn[i]) if tp[i] + fn[i] else None,
            "average_precision": _average_precision(*column), "roc_auc": _roc_area(*column),
        })  # fmt: skip
    return rows


def overall_figures(answers: Answers, rows: list[Tree]) -> dict[str, float | None]:
    """Derive the figures over all classes: means of the classes that occur, sums, images."""
    tn, fp, fn, tp = (int(cell.sum()) for cell in answers.outcomes)
    occurring = [row for row in rows if row["positives"]]
    areas = [row["roc_auc"] for row in rows if row["roc_auc"] is not None]
    true, score, counted = to_calibrate(answers)
    return {
        "f1_macro": _mean([row["f1"] for row in occurring]),
        "f1_micro": _ratio(2 * tp, 2 * tp + fp + fn),
        "precision_macro": _mean([row["precision"] or 0.0 for row in occurring]),
        "precision_micro": _ratio(tp, tp + fp),
        "recall_macro": _mean([row["recall"] for row in occurring]),
        "recall_micro": _ratio(tp, tp + fn),
        "hamming_loss": _ratio(fp + fn, tn + fp + fn + tp),
        "map": _mean([row["average_precision"] for row in occurring]),
        "roc_auc_macro": _mean(areas),
        **{
            name: _mean(list(values[~np.isnan(values)]))
            for name, values in per_image(answers).items()
        },
        "calibration_error": _calibration_error(true[counted], score[counted]),
    }


def share_intervals(answers: Answers, rows: list[Tree]) -> dict[str, list[float] | None]:
    """Derive the intervals of all that is hits among trials; those of classes go into `rows`."""
    tn, fp, fn, tp = (cell.astype(np.float64) for cell in answers.outcomes)
    shares = {
        "precision": (tp, tp + fp), "recall": (tp, tp + fn), "f1": (2 * tp, 2 * tp + fp + fn),
        "hamming_loss": (fp + fn, tn + fp + fn + tp),
    }  # fmt: skip
    found = {}
    for name, (hits, trials) in shares.items():
        columns = list(zip(hits.T, trials.T, strict=True))
        for row, column in zip(rows, columns, strict=True) if name in rows[0] else ():
            span = None if row[name] is None else _share_interval([column], answers.units)
            row |= dict(zip((f"{name}_low", f"{name}_high"), span or (None, None), strict=True))
        occurring = [one for one, row in zip(columns, rows, strict=True) if row["positives"]]
        found[f"{name}_macro"] = _share_interval(occurring, answers.units)
        found[f"{name}_micro"] = _share_interval([(hits.sum(1), trials.sum(1))], answers.units)
    found["hamming_loss"] = found.pop("hamming_loss_micro")
    del found["hamming_loss_macro"]
    for name, values in per_image(answers).items():
        told = ~np.isnan(values)
        column = np.where(told, values, 0), told.astype(np.float64)
        found[name] = _share_interval([column], answers.units)
    few = len(answers.score) < LEAST_IMAGES
    return {name: None if few else span for name, span in found.items()}


def resampled_intervals(answers: Answers, overall: Tree, rows: list[Tree], stated: Tree) -> None:
    """Derive the intervals that take drawing into `overall` and `rows`."""
    asked = stated["bootstrap_replicates"], stated["seed"]
    drawn = resample(answers, {"overall": overall, "classes": rows}, *asked)
    for name in ("map", "roc_auc_macro"):
        told = overall[name]["value"] is not None and len(answers.score) >= LEAST_IMAGES
        value = overall[name]["value"]
        overall[name]["interval"] = _area_span(drawn.overall[name], value) if told else None
    rng = np.random.default_rng(stated["seed"])
    span = error_interval(*to_calibrate(answers), answers.groups, asked[0], rng)
    overall["calibration_error"]["interval"] = span if len(answers.score) >= LEAST_IMAGES else None
    for name in ("average_precision", "roc_auc"):
        for i, row in enumerate(rows):
            both = f"{name}_low", f"{name}_high"
            told = row[name] is not None and row["positives"] >= LEAST_IMAGES
            span = _area_span(drawn.classes[name][:, i], row[name]) if told else None
            row |= dict(zip(both, span or (None, None), strict=True))


def _area_span(drawn: np.ndarray, value: float) -> list[float] | None:
    """Return what lies 1.96 deviations of the drawn areas to either side, counted in logits."""
    deviation, slope = np.std(drawn[~np.isnan(drawn)]), value * (1 - value)
    if not (deviation > 1e-9 and slope > 1e-9):
        return None
    both = np.array([-1, 1]) * 1.959963984540054 * deviation / slope
    return sigmoid(np.log(value / (1 - value)) + both).tolist()


def _share_interval(columns: list[tuple], units: np.ndarray) -> list[float] | None:
    """Wilson's interval of a mean of shares, with as many trials as its variance is worth."""
    sums = [[np.bincount(units, side) for side in column] for column in columns]
    if not sums or (np.sum([trials for _, trials in sums], 0) > 0).sum() < LEAST_IMAGES:
        return None
    totals = [max(trials.sum(), 1.0) for _, trials in sums]
    means = [hits.sum() / total for (hits, _), total in zip(sums, totals, strict=True)]
    parts = list(zip(sums, totals, means, strict=True))
    mistakes = sum(min(hits.sum(), trials.sum() - hits.sum()) for hits, trials in sums)
    trials = len(sums) ** 2 / sum((one[1] ** 2).sum() / total**2 for one, total, _ in parts)
    spread = sum((one[0] - mean * one[1]) / total for one, total, mean in parts) / len(sums)
    share = float(np.mean(means))
    expected = share * (1 - share) / trials
    if expected > 0:
        trials /= (mistakes * (spread**2).sum() / expected + 1) / (mistakes + 1)
    return [float(end) for end in wilson(share * trials, np.array(trials))]


def per_image(answers: Answers) -> dict[str, np.ndarray]:
    """Derive the figures whose mean over the images counts: [N] each, NaN where undefined."""
    _, fp, fn, tp = (cell.sum(1) for cell in answers.outcomes)
    told = answers.known.any(1)
    alike = np.where(tp + fp + fn > 0, 2 * tp / np.maximum(2 * tp + fp + fn, 1), 1.0)
    found = {
        "f1_samples": alike, "exact_match": fp + fn == 0, "no_label_rate": tp + fp == 0,
        "true_no_label_rate": tp + fn == 0,
    }  # fmt: skip
    found = {name: np.where(told, values, np.nan) for name, values in found.items()}
    found["top5"] = _top_five(answers)
    if answers.config["task"] == "single_label":
        given = answers.said.any(1)
        found["accuracy"] = np.where(answers.labelled, answers.right, np.nan)
        found["coverage"] = given.astype(np.float64)
        found["accepted_accuracy"] = np.where(given & answers.judged, answers.right, np.nan)
    return found


def _top_five(answers: Answers) -> np.ndarray:
    """Is a true label among the five best? Of equal scores the later class is better."""
    if answers.score.shape[1] <= 5:
        return np.full(len(answers.score), np.nan)
    score = np.where(answers.known, answers.score, -1)
    place = np.arange(score.shape[1])
    hits = []
    for row in score:
        better = (row[None] > row[:, None]) | (
            (row[None] == row[:, None]) & (place[None] > place[:, None])
        )
        hits.append(better.sum(1) < 5)
    true = answers.y_true & answers.known
    return np.where(true.any(1), (np.array(hits) & true).any(1), np.nan)


def to_calibrate(answers: Answers) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return labels, probabilities and which count: all, or those of the one answer. [N, K]"""
    if answers.config["task"] == "multilabel":
        return answers.y_true, answers.score, answers.known
    return answers.right[:, None], answers.score.max(1)[:, None], answers.judged[:, None]


def _bin(score: np.ndarray) -> np.ndarray:
    """Number the bin of each probability; 1 belongs to the last."""
    return np.clip(np.searchsorted(np.linspace(0, 1, BINS + 1), score, "right") - 1, 0, BINS - 1)


def _calibration_error(true: np.ndarray, score: np.ndarray) -> float | None:
    """Mean distance of prediction and reality in 15 bins of equal width."""
    place = _bin(score)
    gaps = [abs(float((score - true)[place == one].sum())) for one in range(BINS)]
    return _ratio(sum(gaps), len(score))


def confusion(answers: Answers) -> list:
    """Count right and wrong a class, or what was said instead of what, unknown last."""
    if answers.config["task"] == "multilabel":
        counts = np.stack([cell.sum(0) for cell in answers.outcomes], axis=-1)
        return counts.reshape(-1, 2, 2).tolist()
    classes = answers.score.shape[1]
    said = np.where(answers.said.any(1), answers.said.argmax(1), classes)
    true, counted = answers.y_true.argmax(1), answers.labelled
    return [[int((counted & (true == i) & (said == j)).sum()) for j in range(classes + 1)]
            for i in range(classes)]  # fmt: skip


def confused(answers: Answers) -> list[Tree]:
    """List which class was missed while which was wrongly said, most frequent first."""
    names, (_, wrong, missed, _) = answers.config["labels"], answers.outcomes
    pairs = missed.T.astype(int) @ wrong.astype(int)
    places = np.argsort(-pairs, axis=None, kind="stable")[:PAIRS]
    found = [(*divmod(int(place), len(names)), int(pairs.flat[place])) for place in places]
    return [{"missed": names[i], "said": names[j], "images": n} for i, j, n in found if n]


@dataclass(frozen=True)
class Resampled:
    """Every figure on images drawn again, [R], or [R, C] of the classes; NaN where undefined."""

    overall: Arrays
    classes: Arrays


def resample(answers: Answers, measured: Tree, replicates: int, seed: int) -> Resampled:
    """Draw the images again by seed, as often as stated; areas and errors lie around the measured.

    Areas of scores finer than 256 steps are drawn on steps, and an error can only grow by noise.
    """
    ranks = _ranks(answers)
    drawn = _draw(answers.units, replicates, np.random.default_rng(seed))
    blocks = [_drawn(answers, ranks, weights) for weights in drawn]
    once = _drawn(answers, ranks, np.ones((1, len(ranks))))
    sides = zip(*((block.overall, block.classes) for block in blocks), strict=True)
    found = Resampled(*(
        {name: np.concatenate([part[name] for part in side]) for name in side[0]} for side in sides
    ))  # fmt: skip
    for name, mean in (("average_precision", "map"), ("roc_auc", "roc_auc_macro")):
        stated = np.array([row[name] for row in measured["classes"]], np.float64)
        found.classes[name] += stated - once.classes[name][0]
        found.overall[mean] += _mean_of_defined(stated[:, None])[0] - once.overall[mean][0]
    errors, error = found.overall["calibration_error"], measured["overall"]["calibration_error"]
    if error["value"] is not None:
        found.overall["calibration_error"] = np.maximum(
            errors + error["value"] - _mean_of_defined(errors[:, None])[0], 0
        )
    return found


def _draw(units: np.ndarray, replicates: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Yield how often each image is drawn, [B, N]; images of one unit are drawn together."""
    count = int(units.max()) + 1
    for start in range(0, replicates, BLOCK):
        rows = [np.bincount(rng.integers(0, count, count), minlength=count)[units]
                for _ in range(min(BLOCK, replicates - start))]  # fmt: skip
        yield np.array(rows, np.float64)


def _drawn(answers: Answers, ranks: np.ndarray, weights: np.ndarray) -> Resampled:
    """Derive every figure for weights [B, N] of the images."""
    tn, fp, fn, tp = (weights @ cell for cell in answers.outcomes)
    occurs = tp + fn > 0
    classes = {
        "precision": _defined(tp, tp + fp), "recall": _defined(tp, tp + fn),
        "f1": np.where(occurs, _share(2 * tp, 2 * tp + fp + fn), np.nan), **_areas(ranks, weights),
    }  # fmt: skip
    precision = np.where(occurs, np.nan_to_num(classes["precision"]), np.nan)
    sums = [count.sum(1) for count in (tn, fp, fn, tp)]
    tn, fp, fn, tp = sums
    overall = {
        "f1_macro": _mean_of_defined(classes["f1"].T),
        "f1_micro": _defined(2 * tp, 2 * tp + fp + fn),
        "precision_macro": _mean_of_defined(precision.T),
        "precision_micro": _defined(tp, tp + fp),
        "recall_macro": _mean_of_defined(classes["recall"].T),
        "recall_micro": _defined(tp, tp + fn),
        "hamming_loss": _defined(fp + fn, sum(sums)),
        "map": _mean_of_defined(classes["average_precision"].T),
        "roc_auc_macro": _mean_of_defined(classes["roc_auc"].T),
        "calibration_error": _drawn_error(answers, weights),
    }
    for name, values in per_image(answers).items():
        told = ~np.isnan(values)
        overall[name] = _defined(weights @ np.where(told, values, 0), weights @ told)
    return Resampled(overall, classes)


def _ranks(answers: Answers) -> np.ndarray:
    """Number scores and labels on at most 256 steps, [N, C]; 512 where the label is unknown."""
    ranks = np.empty(answers.score.shape, int)
    for i, column in enumerate(answers.score.T):
        known, true = answers.known[:, i], answers.y_true[:, i]
        starts = np.unique(column[known])[1:]
        if len(starts) >= 256:
            found = np.unique(column[true & known])
            starts = found[np.linspace(0, len(found) - 1, min(len(found), 255)).astype(int)]
        steps = np.searchsorted(starts, column, side="right")
        ranks[:, i] = np.where(known, steps + 256 * true, 512)
    return ranks


def _areas(ranks: np.ndarray, weights: np.ndarray) -> Arrays:
    """Areas under the precision-recall and the ROC curve of every class, [B, C] each."""
    found: dict[str, list] = {"average_precision": [], "roc_auc": []}
    for column in ranks.T:
        counts = weights @ (column[:, None] == np.arange(512))
        negatives, positives = counts[:, :256], counts[:, 256:]
        tp, fp = _from_above(positives), _from_above(negatives)
        total, rest = positives.sum(1), negatives.sum(1)
        steps = (positives * _share(tp, tp + fp)[:, :-1]).sum(1)
        above = (negatives * (tp[:, 1:] + tp[:, :-1])).sum(1) / 2
        found["average_precision"].append(_defined(steps, total))
        found["roc_auc"].append(_defined(above, total * rest))
    return {name: np.stack(columns, axis=1) for name, columns in found.items()}


def _drawn_error(answers: Answers, weights: np.ndarray) -> np.ndarray:
    """Calibration error of drawn images, [B]; bins and their mean predictions stay."""
    true, score, counted = to_calibrate(answers)
    place = _bin(score)
    distance = np.zeros(len(weights))
    for one in range(BINS):
        inside = (place == one) & counted
        predicted = score[inside].mean() if inside.any() else 0.0
        images, hits = weights @ inside.sum(1), weights @ (inside & true).sum(1)
        distance += np.abs(images * predicted - hits)
    return _defined(distance, weights @ counted.sum(1))


def derive_recommendation(bundle: Bundle, stated: Tree) -> Tree:
    """Search the thresholds again on the validation scores, and judge them by resampling."""
    settings, arrays = bundle.settings, bundle.validation
    scores = {"images": len(arrays["raw"]), "source_sha256": bundle.sha256(bundle.source)}
    if bundle.config.get("aggregation"):
        scores |= {"aggregation": {"method": "mean_logits", "frames": usual_frames(bundle)}}
    found = {"schema": 1, "scores": scores, "created_by": "person" if stated["edits"] else "search"}
    found |= {key: settings[key] for key in ("task", "seed")}
    if settings["task"] == "single_label":
        return found | derive_unknown(bundle, stated["edits"])
    knobs, levels = settings["threshold_search"], ("scale", "zero_point")
    scores |= {"unknown_labels": int((arrays["mask"] <= 0).sum())}
    scores |= {name: arrays[name].item() for name in levels}
    figures = {name: knobs[name] for name in OBJECTIVE_FIGURES.get(knobs["objective"], ())}
    choice, search = bundle.search.choice, bundle.search
    return found | {
        "bootstrap_replicates": knobs["bootstrap_replicates"], "method": knobs["method"],
        "objective": {"name": knobs["objective"], **figures}, "expected": choice.expected,
        "classes": class_thresholds(search, stated["edits"], bundle.config["labels"]),
        "global": search.forms(choice.shared, _whole_ends(choice.drawn_shared)),
    }  # fmt: skip


def usual_frames(bundle: Bundle) -> int:
    """Count the frames that most clips have on validation."""
    groups = bundle.frames(bundle.source).get("groups")
    return (
        1 if groups is None else int(np.bincount(np.unique(groups, return_counts=True)[1]).argmax())
    )


def class_thresholds(search: Search, edits: list[Tree], names: list[str]) -> list[Tree]:
    """Say which class keeps a threshold of its own and why; a person's edits come on top."""
    found = search.choice
    moved = {name: (int(ends[1]), edit) for edit in edits for name, ends in edit["changes"].items()}
    drawn = np.where(found.adopted, found.drawn_own, found.drawn_shared[:, None])
    rows = []
    for i, name in enumerate(names):
        integer, edit = moved.get(name, (int(found.integers[i]), None))
        positives, negatives = search.positives[i].sum(), search.negatives[i].sum()
        gain = [None if np.isnan(one[i]) else float(one[i]) for one in found.gain]
        rows.append({
            "name": name, **search.forms(integer, _whole_ends(drawn[:, i])),
            "created_by": "person" if edit else "search",
            "adopted": bool(found.adopted[i]) or bool(edit),
            "adopted_in": int(found.adopted_in[:, i].sum()),
            "positives": positives, "negatives": negatives,
            "prevalence": _ratio(positives, positives + negatives),
            "gain": gain[0], "gain_interval": None if None in gain[1:] else gain[1:],
            "reason": set_by(edit) if edit else search.reason(i), "note": NOTES[
                "absent" if not positives else "everywhere" if not negatives else ""
            ],
        })  # fmt: skip
    return rows


NOTES = {
    "absent": "no image with this class in the split: its threshold is the global one, unchecked",
    "everywhere": "every image of the split has this class: its threshold is the global one",
    "": "",
}


def set_by(edit: Tree) -> str:
    return f"set by {edit['who']}" + (f": {edit['why']}" if edit["why"] else "")


def _whole_ends(drawn: np.ndarray) -> list[int]:
    low, high = ends(drawn.astype(np.float64)) or (0, 0)
    return [int(np.floor(low)), int(np.ceil(high))]


@dataclass(frozen=True)
class Choice:
    """What a search chose, and what the same search chose on resampled images."""

    shared: int
    own: np.ndarray  # [C]
    value: np.ndarray  # [C], of the own thresholds on the images that chose
    adopted: np.ndarray  # bool [C]: who keeps a threshold of its own
    adopted_in: np.ndarray  # bool [R, C]
    gain: np.ndarray  # [3, C]: without the luck of choosing, and its ends
    expected: Tree
    drawn_shared: np.ndarray  # [R]
    drawn_own: np.ndarray  # [R, C]
    held_out: tuple[np.ndarray, np.ndarray] | None  # hits and trials [C], where there is a floor

    @property
    def integers(self) -> np.ndarray:
        return np.where(self.adopted, self.own, self.shared)


@dataclass(frozen=True)
class Search:
    """Validation images by class and level, [C, 256] each, and the rule that chooses."""

    positives: np.ndarray
    negatives: np.ndarray
    scale: float
    zero_point: int
    knobs: dict[str, Any]
    arrays: Arrays
    seed: int

    @classmethod
    def of(cls, arrays: Arrays, knobs: dict[str, Any], seed: int = 0) -> Search:
        levels = arrays["scale"].item(), arrays["zero_point"].item()
        return cls(*count_levels(arrays), *levels, knobs, arrays, seed)

    def forms(self, integer: int, ends: Sequence[int]) -> Tree:
        """Derive logit and probabilities of a threshold: halfway between two levels."""
        logits = (np.array([integer, *ends]) - 0.5 - self.zero_point) * self.scale
        probability, *both = sigmoid(logits).tolist()
        return {"integer": integer, "logit": logits[0], "probability": probability,
                "probability_interval": both, "integer_interval": list(ends)}  # fmt: skip

    def reason(self, i: int) -> str:
        """Say why a class has the threshold that it has."""
        choice, knobs = self.choice, self.knobs
        if self.positives[i].any() and not self.negatives[i].any():
            return "global threshold: without negatives there is nothing to tune on"
        if choice.held_out:
            return self._floor_reason(i, *(side[i] for side in choice.held_out))
        gain, low, high = choice.gain[:, i]
        times = (
            f"adopted in {choice.adopted_in[:, i].sum()} of {len(choice.adopted_in)} resamplings"
        )
        found = f"{gain:+.3f} ({low:+.3f} to {high:+.3f}), {times}"
        least = knobs["per_class_improvement_threshold"]
        if choice.adopted[i]:
            return f"own threshold: gains {found}"
        if not knobs["per_class_enabled"]:
            why = "per_class_enabled is false"
        elif np.isnan(gain):
            why = "there is nothing to tune on"
        elif choice.own[i] == choice.shared:
            why = "it is also the best for this class"
        elif np.isnan(low):
            why = "one of its own changes no answer that could tell them apart"
        else:
            few = f"less than {least:g}" if gain < least else "which may be luck"
            why = f"its own would gain {found}, {few}"
        return f"global threshold: {why}"

    def _floor_reason(self, i: int, hits: float, trials: float) -> str:
        floor, value = self.knobs["floor"], self.choice.value[i]
        if np.isnan(value):
            return "global threshold: there is nothing to tune on"
        if value < 0:
            return (f"global threshold: {floor:.0%} cannot be promised with these images; "
                    f"at best {max(floor + value, 0):.1%} is sure")  # fmt: skip
        if not self.knobs["per_class_enabled"]:
            return "global threshold: per_class_enabled is false"
        which = "own threshold" if self.choice.adopted[i] else "global threshold, also its own"
        if not trials:
            return f"{which}: aimed at {floor:.0%}, chosen on all images; too few to hold some out"
        low, high = wilson(self.worth[i, 0] * hits, self.worth[i, 0] * trials)
        kept = f"held-out {hits / trials:.1%} [{low:.1%}, {high:.1%}]"
        return f"{which}: aimed at {floor:.0%}, {kept}"

    @property
    def probabilities(self) -> list[float]:
        """What the chosen thresholds mean."""
        return sigmoid((self.choice.integers - 0.5 - self.zero_point) * self.scale).tolist()

    @cached_property
    def yes(self) -> tuple[np.ndarray, np.ndarray]:
        """True and false positives of every threshold, -128 to 128: [C, 257] each."""
        return _from_above(self.positives), _from_above(self.negatives)

    @cached_property
    def apart(self) -> np.ndarray:
        """Thresholds whose probability decides as they do."""
        every = np.arange(-128, 129)
        between = sigmoid((every - 0.5 - self.zero_point) * self.scale)
        below, here = (sigmoid((every - one - self.zero_point) * self.scale) for one in (1, 0))
        margin = 8 * np.finfo(float).eps * np.maximum(here, np.finfo(float).tiny)
        apart = (between - below > margin) & ((here - between > margin) | (every == 128))
        apart[0] = True
        return every[apart]

    @cached_property
    def integers(self) -> np.ndarray:
        """Thresholds that the method may choose."""
        if self.knobs["method"] == "exact":
            return self.apart
        low, high, step = (self.knobs[f"grid_{name}"] for name in ("min", "max", "step"))
        grid = low + step * np.arange(int(np.floor((high - low) / step + 1e-9)) + 1)
        levels = sigmoid((np.arange(-128, 128) - self.zero_point) * self.scale)
        chosen = np.unique(np.searchsorted(levels, grid - 1e-12)) - 128
        return chosen[np.isin(chosen, self.apart)]

    def values(self, tp, fp, positives, negatives, worth=1.0) -> np.ndarray:
        """Rate thresholds by the objective; NaN where a class does not occur."""
        knobs, name = self.knobs, self.knobs["objective"]
        if name in ("f1_macro", "fbeta"):
            weight = 1.0 if name == "f1_macro" else knobs["beta"] ** 2
            found = _share((1 + weight) * tp, weight * positives + tp + fp)
        elif name in ("precision_floor", "recall_floor"):
            trials, wanted = tp + fp, _share(tp, positives)
            if name == "recall_floor":
                trials, wanted = positives, _share(tp, tp + fp)
            least = self._surely(worth * tp, worth * trials)
            found = np.where(least >= knobs["floor"], wanted, least - knobs["floor"])
            found = np.where(tp + fp > 0, found, -1.0)
        elif name == "cost":
            costs = knobs["cost_false_positive"] * fp
            costs = costs + knobs["cost_false_negative"] * (positives - tp)
            found = -_share(costs, positives + negatives)
        else:
            found = -_share(np.abs(tp + fp - positives), positives + negatives)
        return np.where(positives > 0, found, np.nan)

    def _surely(self, hits: np.ndarray, trials: np.ndarray) -> np.ndarray:
        """Lower ends of what is kept of a floor; the fewer classes claim it, the farther out."""
        floor = self.knobs["floor"]
        above = _share(hits - floor * trials, np.sqrt(floor * (1 - floor) * trials)).max(-1)
        classes, tail = above.shape[-1], np.zeros((*above.shape[:-1], 1, 1))
        for number in range(classes, 0, -1):
            share = 0.025 * number / classes
            together = (above >= NormalDist().inv_cdf(1 - share)).sum(-1) >= number
            tail = np.where((tail == 0) & (together | (number == 1))[..., None, None], share, tail)
        shares, which = np.unique(tail, return_inverse=True)
        z = np.array([NormalDist().inv_cdf(1 - share) for share in shares])
        return wilson(hits, trials, z[which].reshape(tail.shape))[0]

    @cached_property
    def worth(self) -> np.ndarray:
        """Share of the images that a floor counts, where groups err together: [C, 1].

        At the threshold that says yes as often as the class occurs.
        """
        worth = np.ones((len(self.positives), 1))
        known = labels_of(self.arrays)
        for i in range(len(worth) if self.has_floor and "groups" in self.arrays else 0):
            rows = known["known"][:, i]
            true, raw = known["y_true"][rows, i] > 0, self.arrays["raw"][rows, i]
            often = np.sort(raw)[::-1][: max(int(true.sum()), 1)]
            yes = raw >= often[-1] if len(raw) else true
            tried = yes if self.knobs["objective"] == "precision_floor" else true
            hit = true & yes
            residual = np.where(tried, hit - _ratio(hit.sum(), max(tried.sum(), 1)), 0.0)
            worth[i] = _worth(residual[:, None], self.arrays["groups"][rows])
        return worth

    @property
    def has_floor(self) -> bool:
        return self.knobs["objective"].endswith("floor")

    def tune(self, positives: np.ndarray, negatives: np.ndarray) -> tuple[np.ndarray, ...]:
        """Tune on counts [..., C, 256]: the best for all, for each class, and all values."""
        sides = _from_above(positives), _from_above(negatives)
        totals = positives.sum(-1), negatives.sum(-1)
        values = self.values(*sides, *(total[..., None] for total in totals), self.worth)
        pooled = _mean_of_defined(np.moveaxis(values, -2, 0))
        if self.has_floor:
            pooled = self.together(*sides, *totals)
        neutral = self._nearest(np.array(self.zero_point))
        shared = np.where(np.isnan(pooled[..., 0]), neutral, self._optimum(pooled))
        every = np.broadcast_to(shared[..., None], totals[0].shape)
        own = np.where(np.isnan(values[..., 0]), every, self._optimum(values))
        pull = 0.0 if self.has_floor else self.knobs["smoothing_positives"]
        if pull:
            trust = totals[0] / (totals[0] + pull)
            own = self._nearest(trust * own + (1 - trust) * every)
        return shared, own, values

    def together(self, tp, fp, positives, negatives) -> np.ndarray:
        """Rate thresholds for the answers of all classes as if they were those of one."""
        sides = (side.sum(-2, keepdims=True) for side in (tp, fp))
        totals = (total.sum(-1)[..., None, None] for total in (positives, negatives))
        return self.values(*sides, *totals, self.worth.min())[..., 0, :]

    def _optimum(self, values: np.ndarray) -> np.ndarray:
        """Pick the middle of the longest run of equally good thresholds."""
        values = np.nan_to_num(values[..., self.integers + 128], nan=-np.inf)
        good = values >= values.max(-1, keepdims=True) - 1e-12
        longest = end = length = np.zeros(values.shape[:-1], int)
        for place in range(values.shape[-1]):
            length = np.where(good[..., place], length + 1, 0)
            end = np.where(length > longest, place, end)
            longest = np.maximum(length, longest)
        return self.integers[end - longest // 2]

    def _nearest(self, wanted: np.ndarray) -> np.ndarray:
        return self.integers[np.abs(self.integers - wanted[..., None]).argmin(-1)]

    def _resampled(self, rng: np.random.Generator) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Count levels on drawn images again: [B, C, 256] with and without the class."""
        known = labels_of(self.arrays)
        units = _units(len(self.arrays["raw"]), known.get("groups"))
        cells = self.arrays["raw"].astype(int) + 128 + 256 * known["y_true"]
        cells[~known["known"]] = 512
        for weights in _draw(units, self.knobs["bootstrap_replicates"], rng):
            counts = [weights @ (column[:, None] == np.arange(512)) for column in cells.T]
            found = np.stack(counts, axis=1)
            yield found[..., 256:], found[..., :256]

    @cached_property
    def choice(self) -> Choice:
        """Choose, and take off what choosing on the same images makes of it."""
        shared, own, truth = self.tune(self.positives, self.negatives)
        blocks, rng = [], np.random.default_rng(self.seed)
        for counts in self._resampled(rng):
            both = self.tune(*counts)
            blocks.append((*both[:2], *_looked_up(*both), *_looked_up(*both[:2], truth)))
        drawn_shared, drawn_own, seems, seems_shared, is_own, is_shared = map(
            np.concatenate, zip(*blocks, strict=True)
        )
        value, other = (one[0] for one in _looked_up(shared[None], own[None], truth))
        luck = (seems - seems_shared) - (is_own - is_shared)
        mean = _mean_of_defined(luck)
        spread = np.sqrt(_mean_of_defined((luck - mean) ** 2) * (1 + 1 / len(luck)))
        about = mean, spread, len(luck)
        adopted = self._adopts(value, value - other, own != shared, *about)
        adopted &= (self.positives.sum(1) > 0) & (self.negatives.sum(1) > 0)
        again = self._adopts(
            seems, seems - seems_shared, drawn_own != drawn_shared[:, None], *about
        )
        tail = np.where(adopted, adopted.mean(), 1.0) * 0.025
        half = student_quantile(1 - tail, max(len(luck) - 1, 1)) * spread
        half = np.where((half > 0) & (own != shared), half, np.nan)  # nothing that could vary
        gain = value - other - mean
        gain = np.where((own == shared) & ~np.isnan(gain), 0.0, gain)
        gain = np.full(gain.shape, np.nan) if self.has_floor else gain
        optimism = _mean_of_defined(np.where(again, seems, seems_shared).T) - _mean_of_defined(
            np.where(again, is_own, is_shared).T
        )
        apparent = _mean_of_defined(np.where(adopted, value, other))
        return Choice(
            shared=int(shared), own=own, value=value, adopted=adopted, adopted_in=again,
            held_out=self._held_out(rng) if self.has_floor else None,
            gain=np.stack([gain, gain - half, gain + half]),
            expected=_expected(apparent, optimism), drawn_shared=drawn_shared, drawn_own=drawn_own,
        )  # fmt: skip

    def _held_out(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Count what is kept of a floor on images that did not choose: hits and trials, [C]."""
        hits, trials, known = [], [], labels_of(self.arrays)
        for _ in range(DEALS):
            folds = deal(known["y_true"], rng, known.get("groups"))
            for fold in range(folds.max() + 1):
                positives, negatives = count_levels(self.arrays, folds == fold)
                own = self.tune(*count_levels(self.arrays, folds != fold))[1][:, None] + 128
                tp, fp = (np.take_along_axis(_from_above(side), own, -1)[:, 0]
                          for side in (positives, negatives))  # fmt: skip
                precise = self.knobs["objective"] == "precision_floor"
                hits.append(tp)
                trials.append(tp + fp if precise else positives.sum(1))
        return np.sum(hits, axis=0) / DEALS, np.sum(trials, axis=0) / DEALS

    def _adopts(self, value, gain, differs, mean, spread, replicates) -> np.ndarray:
        """Tell which classes [..., C] keep their own threshold: no more than 1 in 20 by luck."""
        if not self.knobs["per_class_enabled"]:
            return np.zeros(gain.shape, bool)
        if self.has_floor:
            return differs & (value >= 0)
        doubted = np.broadcast_to((spread > 0) & (replicates > 1), gain.shape)
        surprise = np.where(doubted, (gain - mean) / np.where(spread > 0, spread, 1), -np.inf)
        luck = 1 - student_share(surprise, max(replicates - 1, 1))
        luck = np.where(differs & ~np.isnan(luck), luck, 1.0)
        classes, allowed = luck.shape[-1], 0.05 / 1.05
        first = _step_up(luck, np.full(luck.shape[:-1], allowed)).sum(-1)
        second = _step_up(luck, allowed * classes / np.maximum(classes - first, 1))
        enough = gain - mean >= self.knobs["per_class_improvement_threshold"]
        return second & (luck <= 0.05) & enough


def count_levels(arrays: Arrays, rows: Any = slice(None)) -> list[np.ndarray]:
    """Count images by class and level, those with the class and those without: [C, 256] each."""
    true, known = arrays["y_true"][rows] > 0.5, arrays["mask"][rows] > 0.5
    levels = arrays["raw"][rows].astype(int) + 128
    return [
        np.stack([np.bincount(level[chosen], minlength=256)
                  for level, chosen in zip(levels.T, (side & known).T, strict=True)])
        for side in (true, ~true)
    ]  # fmt: skip


def deal(y_true: np.ndarray, rng: np.random.Generator, groups: np.ndarray | None) -> np.ndarray:
    """Deal images, or their groups, out to folds, rarest label first. [N]"""
    place = _units(len(y_true), groups)
    labels = np.zeros((place.max() + 1, y_true.shape[1]), bool)
    np.logical_or.at(labels, place, y_true)
    rarity = np.argsort(np.argsort(labels.sum(0), kind="stable"))
    rarest = np.where(labels, rarity, labels.shape[1]).min(1)
    folds = np.empty(len(labels), int)
    order = np.lexsort((rng.permutation(len(labels)), rarest))
    folds[order] = np.arange(len(labels)) % min(FOLDS, len(y_true))
    return folds[place]


def _units(images: int, groups: np.ndarray | None) -> np.ndarray:
    """Number what is drawn together: images, or their groups. [N]"""
    return np.arange(images) if groups is None else np.unique(groups, return_inverse=True)[1]


def _looked_up(shared: np.ndarray, own: np.ndarray, values: np.ndarray) -> tuple:
    """Return what own and shared thresholds give in values [..., C, 257]: [B, C] each."""
    values = np.broadcast_to(values, (*own.shape, 257))
    both = own, np.broadcast_to(shared[..., None], own.shape)
    return tuple(np.take_along_axis(values, one[..., None] + 128, -1)[..., 0] for one in both)


def _step_up(luck: np.ndarray, allowed: np.ndarray) -> np.ndarray:
    """Accept all up to the last p-value that lies below its share of what is allowed."""
    ordered, place = np.sort(luck, axis=-1), np.arange(1, luck.shape[-1] + 1) / luck.shape[-1]
    last = np.where(ordered <= allowed[..., None] * place, ordered, -1).max(-1)
    return luck <= last[..., None]


def _expected(apparent: np.ndarray, optimism: np.ndarray) -> Tree:
    mean, span = _mean_of_defined(optimism), ends(optimism)
    values = {"apparent": apparent, "optimism": mean, "corrected": apparent - mean}
    found = {name: None if np.isnan(one) else float(one) for name, one in values.items()}
    told = span is not None and found["apparent"] is not None
    found["corrected_interval"] = [apparent - span[1], apparent - span[0]] if told else None
    return found


def _student(freedom: int) -> tuple[np.ndarray, np.ndarray]:
    """Tabulate Student's t: values, and the share below each; by t = sqrt(freedom) tan(angle)."""
    angle = np.linspace(-np.pi / 2, np.pi / 2, 200_003)[1:-1]
    density = np.cos(angle) ** (freedom - 1)
    below = np.cumsum(density) - density / 2
    return np.sqrt(freedom) * np.tan(angle), below / density.sum()


def student_share(values: np.ndarray, freedom: int) -> np.ndarray:
    return np.interp(values, *_student(freedom))


def student_quantile(shares: np.ndarray, freedom: int) -> np.ndarray:
    values, below = _student(freedom)
    return np.interp(shares, below, values)


def derive_unknown(bundle: Bundle, edits: list[Tree]) -> Tree:
    """Search the confidence under which the answer is "unknown" again, or take a person's."""
    knobs = bundle.settings["single_label"]
    sure = Sure.of(bundle.validation)
    target, least = knobs["threshold_target_accept_accuracy"], knobs["threshold_min_coverage"]
    confidence, held_out = sure.choose(knobs), None
    if edits:
        confidence = edits[-1]["changes"]["unknown"][1]
    else:
        held_out = sure.held_out(knobs, bundle.settings["seed"])
    row = {name: values[0] for name, values in sure.rates(np.array([confidence]), knobs).items()}
    accuracy, low, high = (row[name] for name in ("accepted_accuracy", "low", "high"))
    promise = f"at least {target:.0%} of the answers are right"
    if not row["meets_target"]:
        promise = (f"{target:.0%} cannot be promised from {len(sure.score)} images while "
                   f"{least:.0%} of them get an answer; promised instead: at least "
                   f"{np.floor(100 * low):.0f}% are right")  # fmt: skip
    other = "" if held_out is None else f"held out {held_out:.1%}, "
    reason = (f"aimed at {target:.0%}, {other}here {accuracy:.1%} [{low:.1%}, {high:.1%}]: "
              f"{promise}; {row['coverage']:.0%} of the images get one")  # fmt: skip
    undefined = np.isnan(accuracy)
    return {
        "scores": {"images": len(sure.score), "source_sha256": bundle.sha256(bundle.source)},
        "objective": {
            "target_accept_accuracy": target, "min_coverage": least,
            "penalty_incorrect": knobs["threshold_penalty_incorrect"],
        },
        "classes": bundle.config["labels"],
        "unknown": {
            "probability": confidence, "coverage": row["coverage"],
            "coverage_interval": [row["coverage_low"], row["coverage_high"]],
            "accepted_accuracy": None if undefined else accuracy,
            "accepted_accuracy_interval": None if undefined else [low, high],
            "held_out_accuracy": held_out, "utility": row["utility"],
            "meets_target": bool(row["meets_target"]),
            "reason": set_by(edits[-1]) if edits else reason,
        },
    }  # fmt: skip


@dataclass(frozen=True)
class Sure:
    """How sure the one answer to each judged image is, and whether it is right: [N] each."""

    score: np.ndarray
    right: np.ndarray
    groups: np.ndarray | None

    @classmethod
    def of(cls, arrays: Arrays) -> Sure:
        true, known = arrays["y_true"] > 0.5, arrays["mask"] > 0.5
        judged = known.all(1) | (true & known).any(1)
        score, true = softmax(_dequantized(arrays))[judged], true[judged]
        right = (score.argmax(1) == true.argmax(1)) & true.any(1)
        return cls(score.max(1), right, arrays["groups"][judged] if "groups" in arrays else None)

    def part(self, rows: np.ndarray) -> Sure:
        groups = None if self.groups is None else self.groups[rows]
        return Sure(self.score[rows], self.right[rows], groups)

    @cached_property
    def worth(self) -> float:
        return _worth((self.right - self.right.mean())[:, None], self.groups)

    def rates(self, cuts: np.ndarray, knobs: Tree) -> Arrays:
        """Rate the answers of at least each confidence; intervals are Wilson's."""
        order, images = np.argsort(self.score), len(self.score)
        below = np.searchsorted(self.score[order], cuts)
        answered, hits = images - below, _from_above(self.right[order].astype(int))[below]
        coverage = wilson(self.worth * answered, np.array(self.worth * images))
        low, high = (np.where(answered > 0, end, np.nan)
                     for end in wilson(self.worth * hits, self.worth * answered))  # fmt: skip
        utility = (hits - knobs["threshold_penalty_incorrect"] * (answered - hits)) / images
        meets = low >= knobs["threshold_target_accept_accuracy"]
        return {
            "threshold": cuts, "coverage": answered / images, "coverage_low": coverage[0],
            "coverage_high": coverage[1], "accepted_accuracy": _defined(hits, answered),
            "low": low, "high": high, "answered": answered, "correct": hits,
            "incorrect": answered - hits, "unknown": below, "utility": utility,
            "meets_target": meets & (answered / images >= knobs["threshold_min_coverage"]),
        }  # fmt: skip

    def choose(self, knobs: Tree) -> float:
        """Take the most useful of the cuts that keep the target, tried from the surest on."""
        values = np.unique(np.round(self.score, 6))
        between = np.append(0.0, (values[1:] + values[:-1]) / 2)
        below = np.searchsorted(np.sort(self.score), between)
        shares = np.append(np.arange(knobs["threshold_min_coverage"], 1, CUTS), 1.0)
        unknown = np.floor(len(self.score) * (1 - shares) + 1e-9)
        cuts = np.unique(between[np.searchsorted(below, unknown, side="right") - 1])
        found, target = self.rates(cuts, knobs), knobs["threshold_target_accept_accuracy"]
        most = self.worth * found["answered"]
        tested = np.flatnonzero(wilson(most, most)[0] >= target)[::-1]
        kept = tested[np.logical_and.accumulate(found["low"][tested] >= target)]
        if len(kept):
            return float(cuts[max(kept, key=lambda one: (found["utility"][one], -one))])
        return float(cuts[::-1][np.nanargmax(found["low"][::-1])])

    def held_out(self, knobs: Tree, seed: int) -> float | None:
        """Accuracy of the answers to images that did not choose."""
        rng, place = np.random.default_rng(seed), _units(len(self.score), self.groups)
        units, answered, right = int(place.max()) + 1, 0, 0
        for _ in range(REPEATS if units > 1 else 0):
            folds = (rng.permutation(units) % min(FOLDS, units))[place]
            for fold in range(folds.max() + 1):
                confidence = self.part(folds != fold).choose(knobs)
                accepted = (folds == fold) & (self.score >= confidence)
                answered, right = answered + accepted.sum(), right + self.right[accepted].sum()
        return _ratio(right, answered)


def _worth(residuals: np.ndarray, groups: np.ndarray | None = None) -> float:
    """Derive the share of labels [N, K] that counts where those of an image or group err alike."""
    place = _units(len(residuals), groups)
    together, alone = np.bincount(place, weights=residuals.sum(1)), np.square(residuals).sum()
    if groups is not None:  # one more that errs as a whole
        size = float(np.square(np.bincount(place)).sum()) / len(place)
        together, alone = np.append(together, size), alone + size
    together = np.square(together).sum()
    return min(1.0, float(alone / together)) if together else 1.0


def derive_curve(bundle: Bundle, stated: Tree) -> Tree:
    """Derive what each shared threshold would give, or each confidence."""
    if bundle.settings["task"] == "multilabel":
        return derive_shared_curve(bundle.search)
    sure, knobs = Sure.of(bundle.validation), bundle.settings["single_label"]
    cuts = np.union1d(np.linspace(0, 1, 201), sure.choose(knobs))
    found = sure.rates(cuts, knobs)
    chosen = bundle.json(RECOMMENDATION)["unknown"]["probability"]
    found |= {"accuracy_low": found.pop("low"), "accuracy_high": found.pop("high")}
    found["chosen"] = np.abs(cuts - chosen) < TOLERANCE
    return {name: _or_none(values) for name, values in found.items()}


def derive_shared_curve(search: Search) -> Tree:
    """Rate every threshold that all classes could share: a list of 257 a column."""
    tp, fp = search.yes
    positives, negatives = (side.sum(1)[:, None] for side in (search.positives, search.negatives))
    integers, occurs = np.arange(-128, 129), positives[:, 0] > 0
    logits = (integers - 0.5 - search.zero_point) * search.scale
    shared, _, _ = search.tune(search.positives, search.negatives)
    macro = {
        "f1_macro": _share(2 * tp, tp + fp + positives), "precision_macro": _share(tp, tp + fp),
        "recall_macro": _share(tp, positives),
    }  # fmt: skip
    every = {name: values[occurs].mean(0) if occurs.any() else np.full(257, np.nan)
             for name, values in macro.items()}  # fmt: skip
    if search.has_floor:
        values = search.together(tp, fp, positives[:, 0], negatives[:, 0])
    else:
        values = _mean_of_defined(search.values(tp, fp, positives, negatives))
    tp, fp, total = tp.sum(0), fp.sum(0), positives.sum()
    columns = {
        "integer": integers, "logit": logits, "probability": sigmoid(logits), **every,
        "f1_micro": _share(2 * tp, tp + fp + total), "precision_micro": _share(tp, tp + fp),
        "recall_micro": _share(tp, total), "yes_answers": tp + fp,
        "objective": values, "chosen": integers == shared,
    }  # fmt: skip
    return {name: _or_none(values) for name, values in columns.items()}


def derive_floats(bundle: Bundle, stated: Tree) -> Tree:
    """Search the thresholds of the float networks, on their answers rounded to the same levels."""
    arrays, found = bundle.validation, {}
    logits = {
        "float student": bundle.arrays(STUDENT)["logits"],
        "float twin": arrays["twin_logits"],
    }
    for name, values in logits.items():
        levels = np.rint(values / float(arrays["scale"])) + int(arrays["zero_point"])
        rounded = arrays | {"raw": np.clip(levels, -128, 127).astype(np.int8)}
        if bundle.settings["task"] == "single_label":
            found[name] = Sure.of(rounded).choose(bundle.settings["single_label"])
        else:
            knobs, seed = bundle.settings["threshold_search"], bundle.settings["seed"]
            found[name] = Search.of(rounded, knobs, seed).probabilities
    return found


def derive_ladder(bundle: Bundle, stated: Tree) -> Tree:
    """Judge every file that was scored on validation, and choose among them again."""
    settings, arrays = bundle.settings, bundle.frames(bundle.source)  # photo by photo
    forced, allowed = settings["ladder"]["force_rung"], settings["ladder"]["max_drop"]
    drawn = settings["evaluation"]["bootstrap_replicates"], settings["seed"]
    refused = bundle.json(REFUSED) if bundle.has(REFUSED) else {}
    files = {row["rung"]: row.get("sha256") for row in stated["rungs"]}
    known = labels_of(arrays) | {"config": bundle.config}
    sides = {name.removesuffix("_logits"): _at_one_half(logits, known)
             for name, logits in arrays.items() if name.endswith("_logits")}  # fmt: skip
    tried = {name: side for name, side in sides.items() if name in RUNGS}
    rows = {name: judge_rung(sides["float"], side, allowed, drawn) for name, side in tried.items()}
    for name, row in rows.items():
        refusal = refused.get(files[name])
        row["holds"] = name == forced or (row["budget"] != "beyond" and not refusal)
        row["last"] = bool(refusal), row["drop"]
        row["reason"] = (f"{refusal}; " if refusal else "") + row["reason"]
        if name == forced:
            row["reason"] = f"forced by ladder.force_rung; {row['reason']}"
    chosen, rival = choose_rung(tried, rows, forced, drawn)
    _same("the rung that ships", chosen, bundle.config["shipped"]["rung"])
    nothing = dict.fromkeys(("f1_macro", "map", "drop", "drop_interval", "budget"))
    return {
        "chosen": chosen, "title": RUNGS[chosen], "forced": forced is not None,
        "budget": rows[chosen]["budget"], "allowed_drop": allowed, "ptq_against_qat": rival,
        "candidate": f"candidates/{chosen}.tflite", "float": rated(sides["float"]),
        "rungs": [
            {"rung": name, "title": RUNGS[name], **rows.get(name, nothing), **made(bundle, name)}
            for name in files
        ],
    }  # fmt: skip


def judge_rung(before: Answers, after: Answers, allowed: float, drawn: tuple[int, int]) -> Tree:
    """Judge what a file lacks beside the float student by the budget, in figures and words."""
    found, loss, ends = rated(after), *paired_loss(before, after, *drawn)
    few, side = 3 / len(after.score), "below" if loss >= 0 else "above"
    words = f"ladder.max_drop allows {allowed:g}"
    if loss > allowed:
        budget = "beyond"
    elif ends and max(ends[1], few) <= allowed:
        budget = "within"
    else:
        budget, why = "not shown", "no interval"
        if ends:
            why = f"the interval reaches {ends[1]:.4f}"
        if ends and ends[1] <= allowed:
            why = f"{len(after.score)} images leave {few:.4f} open"
        words = f"not shown to be within the budget: {words}, {why}"
    reason = f"F1 macro {found['f1_macro']:.4f}, {abs(loss):.4f} {side} the float student; {words}"
    ends = ends or (None, None)
    return found | {"drop": loss, "drop_interval": [*ends], "budget": budget, "reason": reason}


def choose_rung(
    tried: dict[str, Answers], rows: dict[str, Tree], forced: str | None, drawn: tuple[int, int]
) -> tuple[str, Tree | None]:
    """Choose the first rung that holds, or a PTQ that beats it; put state and reason into rows."""
    held = [name for name in RUNGS if name in rows and rows[name]["holds"]]
    least = min(rows, key=lambda name: rows[name]["last"])
    chosen = first = forced or next(iter(held), least)
    words, rival = {}, None
    if not held:
        words[chosen] = "no rung holds, and this one loses least"
    elif first.startswith("qat") and "ptq" in rows:
        loss, ends = paired_loss(tried["ptq"], tried[first], *drawn)
        rival = {"difference": loss, "interval": ends and list(ends)}
        if ends:
            gain = f"{loss:+.4f} F1 [{ends[0]:+.4f}, {ends[1]:+.4f}] on the same images"
            beats = "better than" if ends[0] > 0 else "not better beyond chance than"
            words["ptq"] = f"{beats} {RUNGS[first]}: {gain}"
            if ends[0] > 0 and "ptq" in held and not forced:
                chosen, words = "ptq", dict.fromkeys(held, f"PTQ is better by {gain}")
                words["ptq"] = f"better than {RUNGS[first]} by {gain}"
    for name, row in rows.items():
        row["state"] = "shipped" if name == chosen else "not needed" if name in held else "failed"
        front = words.get(name) if row["state"] != "failed" else None
        if row["state"] == "not needed":
            front = front or "a rung above holds"
        row["reason"] = f"{front}; {row['reason']}" if front else row["reason"]
        del row["holds"], row["last"]
    return chosen, rival


def paired_loss(first: Answers, second: Answers, replicates: int, seed: int) -> tuple[float, Any]:
    """F1 macro that the second answers lack beside the first, and its ends on drawn images."""
    once = np.ones((1, len(first.score)))
    before, after = (float(np.nan_to_num(_f1_macro(side, once)[0])) for side in (first, second))
    blocks = _draw(first.units, replicates, np.random.default_rng(seed))
    drawn = [_f1_macro(first, weights) - _f1_macro(second, weights) for weights in blocks]
    return before - after, ends(np.concatenate(drawn))


def _f1_macro(answers: Answers, weights: np.ndarray) -> np.ndarray:
    _, fp, fn, tp = (weights @ cell for cell in answers.outcomes)
    f1 = np.where(tp + fn > 0, _share(2 * tp, 2 * tp + fp + fn), np.nan)
    return _mean_of_defined(f1.T)


def _at_one_half(logits: np.ndarray, known: Tree) -> Answers:
    """Answer before any threshold is tuned."""
    said = logits >= 0
    if known["config"]["task"] == "single_label":
        said = np.arange(logits.shape[1]) == logits.argmax(1)[:, None]
    return Answers(score=logits, said=said, **known)


def rated(answers: Answers) -> Tree:
    """Rate the answers, and how well the scores behind them sort the images."""
    rows = class_figures(answers, np.full(answers.score.shape[1], np.nan))
    occurring = [row for row in rows if row["positives"]]
    return {"f1_macro": _mean([row["f1"] for row in occurring]) or 0.0,
            "map": _mean([row["average_precision"] for row in occurring])}  # fmt: skip


def made(bundle: Bundle, rung: str) -> Tree:
    """Look at the file that a rung gave, where it is still there."""
    name = f"candidates/{rung}.tflite"
    if not bundle.has(name):
        return {}
    model = open_model(bundle.bytes(name))
    ports = model.get_input_details()[0], model.get_output_details()[0]
    types = (np.dtype(port["dtype"]).name for port in ports)
    found = {"bytes": len(bundle.bytes(name)), "sha256": bundle.sha256(name),
             **dict(zip(("input_type", "output_type"), types, strict=True))}  # fmt: skip
    if rung in FULL_INTEGER:
        kinds = (np.dtype(one["dtype"]) for one in model.get_tensor_details())
        found["float_tensors"] = sum(np.issubdtype(kind, np.floating) for kind in kinds)
    return found


def derive_calibration(bundle: Bundle, stated: Tree) -> Tree:
    """Fit the lines again, and judge them on images that did not fit them."""
    knobs, seed = bundle.settings["calibration"], bundle.settings["seed"]
    known, rng = labels_of(bundle.validation), np.random.default_rng(seed)
    fits = Correction(bundle.validation, bundle.settings["task"], knobs["method"])
    tried = [fits.held_out(rng) for _ in range(REPEATS)]
    rows, names = fits.verdicts(tried), bundle.config["labels"]
    lines = zip(*fits.lines(), strict=True)
    for row, line in zip(rows, lines, strict=True):
        row["slope"], row["intercept"] = line if row["ships"] else (1.0, 0.0)
    rows.append(dict.fromkeys(rows[0]))
    ships = np.array([row["ships"] for row in rows[:-1]])
    activate = softmax if fits.task == "single_label" else sigmoid
    for when, logits in {
        "before": fits.logits,
        "after": np.where(ships, tried[0], fits.logits),
    }.items():
        errors = class_errors(activate(logits), known, knobs["bootstrap_replicates"], seed)
        for row, (error, span) in zip(rows, errors, strict=True):
            row[f"error_{when}"] = error
            if knobs["bootstrap_replicates"]:
                row[f"error_{when}_low"], row[f"error_{when}_high"] = span or (None, None)
                row["withheld"] = None if span else f"fewer than {LEAST_LABELS} labels of a kind"
    rows = [{"class": name, **row} for name, row in zip((*names, "all classes"), rows, strict=True)]
    return {"method": knobs["method"], "classes": rows}


def class_errors(score: np.ndarray, known: Arrays, replicates: int, seed: int) -> list[tuple]:
    """Derive calibration errors and their intervals: of every class, then of all labels."""
    rng, found = np.random.default_rng(seed), []
    for column in (*(np.s_[:, [i]] for i in range(score.shape[1])), np.s_[:, :]):
        true, told = known["y_true"][column], known["known"][column]
        part = true, score[column], told
        span = error_interval(*part, known.get("groups"), replicates, rng) if replicates else None
        found.append((_calibration_error(true[told], score[column][told]), span))
    return found


def error_interval(
    true: np.ndarray, score: np.ndarray, known: np.ndarray, groups: np.ndarray | None,
    replicates: int, rng: np.random.Generator,
) -> list[float] | None:  # fmt: skip
    """Derive which errors, if all images had them, make the measured one no surprise.

    Labels are drawn anew around the predictions, with none, some or much more of the measured gaps.
    """
    true = true & known
    if min(true.sum(), (known & ~true).sum()) < LEAST_LABELS:
        return None
    place = _bin(score[known])
    images, predicted, hits = (np.bincount(place, weights=one, minlength=BINS)
                               for one in (None, score[known], true[known]))  # fmt: skip
    there = images > 0
    images, predicted, hits = images[there], predicted[there] / images[there], hits[there]
    measured = np.abs(images * predicted - hits).sum() / images.sum()
    gap = (hits + 2 * predicted) / (images + 2) - predicted
    worth = _worth(true - np.where(known, score, 0), groups)
    labels, share = max(int(images.sum() * worth), 1), images / images.sum()
    drawn, found = rng.multinomial(labels, share, size=replicates), []
    for side in (1, -1):
        rate = np.clip(predicted + side * GAPS[:, None] * gap, 0, 1)
        noise = np.abs(drawn * predicted - rng.binomial(drawn, rate[:, None])).sum(-1) / labels
        true_error = np.abs(rate - predicted) @ share
        above = np.maximum.accumulate((noise >= measured - 1e-12).mean(1))
        below = np.minimum.accumulate((noise <= measured + 1e-12).mean(1))
        tail = (1 - LEVEL) / 2  # written so: shares of draws often meet it to the last digit
        found.append([np.interp(tail, above, true_error), np.interp(-tail, -below, true_error)])
    lows, highs = zip(*found, strict=True)
    return [float(min(lows)), float(max(*highs, measured))]


@dataclass(frozen=True)
class Correction:
    """Lines on the logits of validation answers, one a class, or one slope under softmax."""

    arrays: Arrays
    task: str
    method: str

    @cached_property
    def logits(self) -> np.ndarray:
        return _dequantized(self.arrays)

    @cached_property
    def one_label(self) -> np.ndarray:
        true, known = self.arrays["y_true"] > 0.5, self.arrays["mask"] > 0.5
        return (true.sum(1) == 1) & known.all(1)

    def lines(self, rows: Any = slice(None)) -> tuple[np.ndarray, np.ndarray]:
        """Fit slopes and intercepts [C] on some of the images."""
        classes = self.logits.shape[1]
        if self.method == "none":
            return np.ones(classes), np.zeros(classes)
        if self.task == "multilabel":
            inputs = np.stack([np.arange(-128, 128) - self.arrays["zero_point"], np.ones(256)])
            inputs[0] *= self.arrays["scale"]
            return fit_lines(*count_levels(self.arrays, rows), inputs, self.method == "platt")
        chosen = self.one_label[rows]
        labels = self.arrays["y_true"][rows][chosen] > 0.5
        slope = fit_slope(self.logits[rows][chosen], labels) if chosen.any() else 1.0
        return np.full(classes, slope), np.zeros(classes)

    def held_out(self, rng: np.random.Generator) -> np.ndarray:
        """Correct each image by lines that never saw it. [N, C]"""
        found = self.logits.copy()
        folds = deal(self.arrays["y_true"] > 0.5, rng, self.arrays.get("groups"))
        for fold in range(folds.max() + 1):
            if (folds != fold).any():
                slope, intercept = self.lines(folds != fold)
                found[folds == fold] = found[folds == fold] * slope + intercept
        return found

    def losses(self, logits: np.ndarray) -> tuple[np.ndarray, ...]:
        """Log loss of the labels, and of the contrary ones: [N, C], or [N, 1] of the one answer."""
        true = self.arrays["y_true"] > 0.5
        if self.task == "multilabel":
            signed = np.where(true, logits, -logits)
            return np.logaddexp(0, -signed), np.logaddexp(0, signed)
        above = logits - logits.max(1, keepdims=True)
        surprise = np.log(np.exp(above).sum(1, keepdims=True)) - above
        own = np.where(true, surprise, 0).sum(1, keepdims=True)
        rest = surprise.sum(1, keepdims=True) - own
        return own, rest / max(logits.shape[1] - 1, 1)

    def verdicts(self, tried: list[np.ndarray]) -> list[Tree]:
        """Say class by class whether held-out labels surely cost less when corrected."""
        single = self.task == "single_label"
        known = self.one_label[:, None] if single else self.arrays["mask"] > 0.5
        before, contrary = self.losses(self.logits)
        after, contrary_after = np.mean([self.losses(logits) for logits in tried], axis=0)
        sure = NormalDist().inv_cdf(1 - DOUBT / before.shape[1])
        sides, units = (
            (before, after, contrary - contrary_after),
            _units(len(before), self.arrays.get("groups")),
        )
        rows = [self._verdict(*(side[told, i] for side in sides), units[told], sure)
                for i, told in enumerate(known.T)]  # fmt: skip
        return [dict(row) for row in rows * (self.logits.shape[1] // len(rows))]

    def _verdict(self, before, after, unseen, units: np.ndarray, sure: float) -> Tree:
        if not len(before):
            return {"loss_before": None, "loss_after": None, "ships": False,
                    "reason": "left as it is: no label is known"}  # fmt: skip
        gain = before - after
        total = len(gain) + UNSEEN
        mean = (gain.sum() + UNSEEN * unseen.mean()) / total
        squares = np.square(np.bincount(units, weights=gain - mean)).sum()
        doubt = np.sqrt(squares + UNSEEN * np.square(unseen - mean).mean()) / total
        reason = "left as it is: worse on images that did not fit it"
        if self.method == "none" or not gain.any():
            reason = "left as it is: nothing to correct"
        elif mean > sure * doubt:
            reason = "corrected: surely better on images that did not fit it"
        elif gain.mean() > 0:
            reason = "left as it is: better on images that did not fit it, but that may be luck"
        return {"loss_before": before.mean(), "loss_after": after.mean(),
                "ships": reason.startswith("corrected"), "reason": reason}  # fmt: skip


def fit_slope(logits: np.ndarray, labels: np.ndarray) -> float:
    """Find the slope of a softmax with the least log loss, half an image of every answer added."""
    low, high = np.log(SLOPES)
    for _ in range(50):
        middle = (low + high) / 2
        mean = (softmax(logits * np.exp(middle)) * logits).sum(1)
        pull = (mean - logits[labels]).sum() + 0.5 * (mean - logits.mean(1)).mean()
        low, high = (low, middle) if pull > 0 else (middle, high)
    return float(np.exp(middle))


def fit_lines(
    positives: np.ndarray, negatives: np.ndarray, inputs: np.ndarray, offset: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Find the line of each class with the least log loss of softened labels, by level."""
    yes, no = (side.sum(1, keepdims=True) for side in (positives, negatives))
    wanted = positives * (yes + 1) / (yes + 2) + negatives / (no + 2)
    free = ((yes > 0) & (no > 0)) & np.array([True, offset])
    asked = inputs, wanted, positives + negatives
    line = _least_loss(np.tile([1.0, 0.0], (len(yes), 1)), free, *asked)
    slope = np.clip(line[:, :1], *SLOPES)
    again = free & [False, True] & (slope != line[:, :1])
    return tuple(_least_loss(np.hstack([slope, line[:, 1:]]), again, *asked).T)


def _least_loss(line, free, inputs, wanted, total) -> np.ndarray:
    """Newton's method with halved steps, for all lines [C, 2] at once, where they are `free`."""

    def loss(line):
        logits = line @ inputs
        rest = total - wanted
        return (wanted * np.logaddexp(0, -logits) + rest * np.logaddexp(0, logits)).sum(1)

    for _ in range(100):
        chance = (1 + np.tanh(line @ inputs / 2)) / 2
        pull = (total * chance - wanted) @ inputs.T * free
        bend = np.einsum("cl,il,jl->cij", total * chance * (1 - chance), inputs, inputs)
        bend = np.where(free[:, :, None] & free[:, None, :], bend, np.eye(2)) + 1e-12 * np.eye(2)
        step = np.linalg.solve(bend, pull[..., None])[..., 0]
        for _ in range(40):
            step = np.where((loss(line - step) > loss(line))[:, None], step / 2, step)
        line = line - step
        if np.abs(step).max() < 1e-10:
            break
    return line


def pages(bundle: Bundle, names: Sequence[str] = (PAGE_06, PAGE_09, INDEX)) -> str:
    """Derive the tables of 06, 09 and the index, and compare cell by cell."""
    shown = [name for name in names if bundle.has(name)]
    if not shown:
        return "not here: the pages of 06 and 09"
    figures, left = 0, set()
    for name in shown:
        missing = set(PAGES[name])
        for head, rows in page_tables(bundle.bytes(name).decode("utf-8")):
            head = [text.lower() for text in head]
            kind = tuple(head[:2])
            missing.discard(kind)
            columns = TABLES[kind](bundle, rows) if kind in TABLES else {}
            figures += _compare_table(name, head, rows, columns)
            left |= {one for one in head if one not in columns}
        if missing:
            raise MismatchError(f"{name} lacks the table of {' and '.join(missing.pop())}")
    return f"{figures} cells of {len(shown)} pages; not compared: {', '.join(sorted(left))}"


def _compare_table(page: str, head: list[str], rows: list[list[str]], columns: Tree) -> int:
    """Compare the cells of a table with its columns as far as they are known."""
    compared = 0
    for name, values in columns.items():
        _same(f"{page}: columns named {name}", head.count(name), 1)
        _same(f"{page}: rows under {name}", len(rows), len(values))
        for row, value in zip(rows, values, strict=True):
            if value is not UNKNOWN:
                _same_cell(f"{page}: {name} of {row[0]}", row[head.index(name)], value)
                compared += 1
    return compared


def _same_cell(what: str, text: str, value: Any) -> None:
    """Compare the text of a cell with a value, or with several that it shows."""
    parts = value if isinstance(value, tuple | list) else [value]
    if all(part is None for part in parts):
        _same(what, text, "–")
    elif isinstance(value, str | bool):
        _same(what, text, str(value).strip())
    else:
        shown = [float(number) for number in NUMBER.findall(text)]
        _same(f"{what}: numbers", len(shown), len(parts))
        for one, other in zip(shown, parts, strict=True):
            if not abs(one - other) <= ROUNDING:
                raise MismatchError(f"{what} shows {text}, derived {other}")


class _Tables(HTMLParser):
    """Collects the text of every table, row by row."""

    def __init__(self) -> None:
        super().__init__()
        self.tables: list[list[list[str]]] = []
        self.inside = False

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        if tag == "table":
            self.tables.append([])
        elif tag == "tr" and self.tables:
            self.tables[-1].append([])
        elif tag in ("td", "th") and self.tables and self.tables[-1]:
            self.tables[-1][-1].append("")
            self.inside = True

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th"):
            self.inside = False

    def handle_data(self, data: str) -> None:
        if self.inside:
            self.tables[-1][-1][-1] += data.strip()


def page_tables(page: str) -> list[tuple[list[str], Rows]]:
    """Return the tables of a page: names of the columns, and rows of cells, all text."""
    parser = _Tables()
    parser.feed(page)
    return [(rows[0], rows[1:]) for rows in parser.tables if rows]


def knob_cells(bundle: Bundle, rows: Rows) -> Tree:
    """Look the knobs of a table up; what the package itself chose stands in no sealed file."""
    values = []
    for knob, *_ in rows:
        value: Any = bundle.settings
        for part in knob.split("."):
            value = value[part]
        values.append(str(value))
    return {"value": values}


def score_cells(bundle: Bundle, rows: Rows) -> Tree:
    """Describe the integers that 06 begins with."""
    arrays = bundle.validation
    levels = f"(raw {-arrays['zero_point']:+d}) * {arrays['scale']:.4f}"
    return {"value": [str(arrays["raw"].shape), levels, str((arrays["mask"] > 0).sum())]}


def class_cells(bundle: Bundle, rows: Rows) -> Tree:
    """Give each class the threshold that the search found, before a person's edits."""
    names = ("probability", "logit", "integer", "adopted", "adopted_in", "positives", "gain",
             "reason", "note")  # fmt: skip
    found = class_thresholds(bundle.search, [], bundle.config["labels"])
    return _columns([{"class": row["name"], **row} for row in found], ("class", *names))


def target_cells(bundle: Bundle, rows: Rows) -> Tree:
    """Say what a single label was asked and what it keeps: first as searched, then as in use."""
    shown = float(rows[0][6])
    found = derive_unknown(bundle, [])
    if abs(shown - found["unknown"]["probability"]) > ROUNDING:
        found = derive_unknown(bundle, bundle.json(RECOMMENDATION)["edits"])
    asked, found = found["objective"], found["unknown"]
    spans = found["accepted_accuracy_interval"] or (None, None), found["coverage_interval"]
    return {
        "target": ["right among the answers", "images that get an answer"],
        "wanted": [asked["target_accept_accuracy"], asked["min_coverage"]],
        "reached": [found["accepted_accuracy"], found["coverage"]],
        "held out": [found["held_out_accuracy"], None],
        "from": [low for low, _ in spans], "to": [high for _, high in spans],
        "unknown below": [found["probability"]] * 2, "reason": [found["reason"]] * 2,
    }  # fmt: skip


def choice_cells(bundle: Bundle, rows: Rows) -> Tree:
    """Rate the answers on validation at one half, and at the thresholds found and in use."""
    config, arrays, found = bundle.config, bundle.validation, bundle.json(RECOMMENDATION)
    if config["task"] == "single_label":
        score = softmax(_dequantized(arrays))
        searched, used = derive_unknown(bundle, [])["unknown"], found["unknown"]
        bars = 0.5, searched["probability"], used["probability"]
    else:
        score, used = (
            sigmoid(_dequantized(arrays)),
            [one["probability"] for one in found["classes"]],
        )
        bars = 0.5, bundle.search.probabilities, used
    names = ("f1_macro", "precision_macro", "recall_macro", "exact_match", "no_label_rate")
    shown = []
    for name, bar in zip(("one half", "searched", "in use"), bars, strict=True):
        answers = Answers.at(np.array(bar), score, labels_of(arrays), config)
        of_classes = class_figures(answers, np.broadcast_to(bar, score.shape[1]))
        figures = overall_figures(answers, of_classes)
        shown.append({"thresholds": name, **figures, "means": macro_means(of_classes)[0]})
    return _columns(shown, ("thresholds", *names, "means"))


def expected_cells(bundle: Bundle, rows: Rows) -> Tree:
    """Say what the choice reaches on the images that chose, and on others."""
    found = bundle.search.choice.expected
    low, high = found["corrected_interval"] or (None, None)
    words = {"apparent": "the images that chose", "optimism": "of that the luck of choosing",
             "corrected": "other images"}  # fmt: skip
    values = [found[name] for name in words]
    ends = {"from": [None, None, low], "to": [None, None, high]}
    return {"on": list(words.values()), "value": values, **ends}


def calibration_cells(bundle: Bundle, rows: Rows) -> Tree:
    """Show errors with their intervals, and what ships of the corrections."""
    found = bundle.json(CALIBRATION)["classes"]
    cells = [
        {"class": row["class"], "slope": row["slope"], "intercept": row["intercept"],
         "correction": row["reason"]}
        | {f"error {when}": _spanned(row, f"error_{when}") for when in ("before", "after")}
        | {f"log loss {when}, held out": row[f"loss_{when}"] for when in ("before", "after")}
        for row in found
    ]  # fmt: skip
    return _columns(cells, tuple(cells[0]))


def _spanned(row: Tree, name: str) -> list:
    error, low, high = (row.get(f"{name}{end}") for end in ("", "_low", "_high"))
    if error is None or low is None:
        return [error] if error is None or not row.get("withheld") else [error, LEAST_LABELS]
    return [error, low, high]


def overall_cells(bundle: Bundle, rows: Rows) -> Tree:
    """Show the figures over all classes, their intervals, or why there are none."""
    test = bundle.json(METRICS)["test"]
    figures = test["overall"]
    spans = [one["interval"] or (None, None) for one in figures.values()]
    macro = [test["macro_means"] if name.endswith("_macro") or name == "map" else ""
             for name in figures]  # fmt: skip
    return {
        "figure": list(figures), "value": [one["value"] for one in figures.values()],
        "from": [low for low, _ in spans], "to": [high for _, high in spans],
        "note": [one["withheld"] or note
                 for one, note in zip(figures.values(), macro, strict=True)],
    }  # fmt: skip


def test_cells(bundle: Bundle, rows: Rows) -> Tree:
    """Show what each class found and missed on test."""
    words = {"found": "tp", "wrongly said": "fp", "missed": "fn"}
    kept = ("class", "positives", "threshold", *words, "precision", "recall", "f1", "f1_low",
            "f1_high", "average_precision")  # fmt: skip
    classes = bundle.json(METRICS)["test"]["classes"]
    return _columns([{name: row.get(words.get(name, name)) for name in kept}
                     for row in classes], kept)  # fmt: skip


def cost_cells(bundle: Bundle, rows: Rows) -> Tree:
    """Show what lies between the float networks and the phone file."""
    found = bundle.json(METRICS)
    costs = [{"cost of": what, **row, "in float": row["first"], "phone file": row["second"]}
             for what, name in COSTS.items() if name in found for row in found[name]["overall"]
             if row["figure"] in ("f1_macro", "map")]  # fmt: skip
    shown = ("cost of", "figure", "in float", "phone file", "difference", "low", "high", "verdict")
    return _columns(costs, shown)


def size_cells(bundle: Bundle, rows: Rows) -> Tree:
    """Weigh the files, as far as they are here; how long an image took stands in metrics.json."""
    found: Tree = {"megabytes": [_size(bundle, row[0], 1e6) for row in rows]}
    latency, model = bundle.json(METRICS)["host_latency"], bundle.config["model"]["file"]
    for name in ("threads", "repeats", "p50_ms", "p95_ms"):
        taken = iter(latency)
        nothing = "<NA>" if name in ("threads", "repeats") else None
        found[name] = [next(taken)[name] if row[0] == model else nothing for row in rows]
    return found


def _size(bundle: Bundle, name: str, unit: float) -> Any:
    path = bundle.folder / name
    return path.stat().st_size / unit if path.is_file() else UNKNOWN


def file_cells(bundle: Bundle, rows: Rows) -> Tree:
    """Weigh and hash the files that a page lists, as far as they are here."""
    sizes = [_size(bundle, row[0], 1024) for row in rows]
    shown = [size if size is UNKNOWN else f"{size:,.1f} KiB" for size in sizes]
    hashes = [one if one is UNKNOWN else bundle.sha256(row[0])[: len(row[2])]
              for one, row in zip(sizes, rows, strict=True)]  # fmt: skip
    return {"size": shown, "sha256": hashes} if rows and "Ki" in rows[0][1] else {}


def step_cells(bundle: Bundle, rows: Rows) -> Tree:
    """Repeat how the steps ended and what they took, as it was recorded."""
    steps = bundle.json(RUN)["steps"]
    found = [steps[row[0][:2]] for row in rows]
    reasons = [f": {one['reason']}" if "reason" in one else "" for one in found]
    accepted = [f"; accepted {one['accepted']}" if "accepted" in one else "" for one in found]
    states = [one["state"] + why + kept
              for one, why, kept in zip(found, reasons, accepted, strict=True)]  # fmt: skip
    times = [f"{one['seconds']:.0f} s" if "seconds" in one else "" for one in found]
    return {"state": states, "time": times}


def caution_cells(bundle: Bundle, rows: Rows) -> Tree:
    return {"mind": cautions(bundle)}


def cautions(bundle: Bundle) -> list[str]:
    """Say again what a reader must know beside the figures."""
    lines, test = [], bundle.json(METRICS)["test"]["classes"]
    tuned = bundle.json(RECOMMENDATION) if bundle.config["task"] == "multilabel" else {}
    if bundle.has(AUDIT):
        lines += _audit_errors(csv.DictReader(io.StringIO(bundle.bytes(AUDIT).decode("utf-8"))))
    quantized = not in_floats(bundle.config)
    if quantized and bundle.has(TEACHER) and bundle.settings["distillation"]["enabled"]:
        lines += _teacher(bundle.json(TEACHER))
    if quantized and bundle.has(LADDER):
        ladder = bundle.json(LADDER)
        shipped = next(row for row in ladder["rungs"] if row["rung"] == ladder["chosen"])
        if ladder["chosen"] != "qat" or ladder["budget"] != "within":
            lines.append(f"the phone file is {shipped['title']}: {shipped['reason']}")
    lost = bundle.json(PARITY)["rungs"] if bundle.has(PARITY) else ()
    lines += [f'parity is lost at "{row["name"]}", and no other file was left: {row["verdict"]}'
              for row in lost if row["verdict"]]  # fmt: skip
    tuned = tuned.get("classes", ())
    lines += _named("absent from val, so nobody tuned them",
                    [row["name"] for row in tuned if not row["positives"]])  # fmt: skip
    lines += _named("absent from test, so nobody judged them",
                    [row["class"] for row in test if not row["positives"]])  # fmt: skip
    for word, integer in (("always", -128), ("never", NEVER)):
        names = {row["name"]: None for row in tuned if row["integer"] == integer}
        for row in test:
            said, known = row["tp"] + row["fp"], row["positives"] + row["negatives"]
            every = known and said == known
            if every if word == "always" else row["positives"] and not said:
                names[row["class"]] = None
        lines += _named(f"the answer is {word} yes", list(names))
    opened = bundle.json(RUN).get("test_split", {"opened": 0})["opened"] if bundle.has(RUN) else 0
    if opened > 1:
        lines.append(f"the test split was opened {opened} times by this run: what was changed in "
                     "between may have been chosen on it")  # fmt: skip
    return lines


def _named(what: str, names: list[str]) -> list[str]:
    more = f" and {len(names) - 10} more" if len(names) > 10 else ""
    return [f"{what}: {', '.join(names[:10])}{more}"] if names else []


def _audit_errors(rows: Any) -> Iterator[str]:
    errors = [row for row in rows if row["severity"] == "error"]
    kinds = Counter(row["kind"] for row in errors).most_common()
    for kind, count in kinds[:3]:
        first = next(row for row in errors if row["kind"] == kind)
        where = " ".join(part for part in (first["split"], first["image"]) if part)
        more = f" (and {count - 1} more)" if count > 1 else ""
        yield f"the audit found {kind}: {where}: {first['detail']}{more}"
    if len(kinds) > 3:
        yield f"the audit found {sum(n for _, n in kinds[3:])} more errors, see audit.csv"


def _teacher(found: Tree) -> Iterator[str]:
    ends, other = found["interval"], found["other"]
    if ends is None or found["difference"] is None:
        yield f"teacher against {other}: F1 macro cannot be compared on these images"
    elif ends[0] <= 0:
        yield (
            f"teacher against {other}: F1 macro {found['teacher_f1']:.3f} against "
            f"{found['other_f1']:.3f}, {found['difference']:+.3f} ({ends[0]:+.3f} to "
            f"{ends[1]:+.3f}) on {found['images']} validation images: it is not clearly better, so "
            "it cannot teach. Train it longer or on larger images, or set "
            "distillation.enabled: false"
        )


def derive_parity(bundle: Bundle, stated: Tree) -> Tree:
    """Compare the runtimes again, each with the one before it, at the thresholds that ship."""
    held, config = bundle.frames(PARITY_SCORES), bundle.config
    ladder = {} if in_floats(config) else bundle.json(LADDER)
    tuned, known = bundle.json(RECOMMENDATION), labels_of(held)
    simulated = not ladder or (ladder["chosen"].startswith("qat") and ladder["qat_weights"])
    changes = RUNTIMES | ({} if simulated and not ladder.get("skipped_layers") else PLAIN)
    single, budget = config["task"] == "single_label", bundle.settings["parity"]
    bars = tuned["unknown"]["probability"] if single else [row["logit"] for row in tuned["classes"]]
    rungs: list[Tree] = []
    before: Answers | None = None
    for name, logits in zip(held["runtimes"].tolist(), held["logits"], strict=True):
        score = softmax(logits.astype(np.float64)) if single else logits
        now = replace(Answers.at(np.array(bars), score, known, config), score=logits)
        change = changes.get(name, "arithmetic")
        if change == "runtime":  # the app's own code decides
            now = replace(now, said=held["said"])
        figures = {"name": name, "change": change, **rated(now)}
        if figures["map"] is None:  # no class occurs
            figures["f1_macro"] = None
        told = rungs and figures["f1_macro"] is not None
        drop = rungs[-1]["f1_macro"] - figures["f1_macro"] if told else None
        rungs.append(figures | _changes(before, now, held["images"], drop, change, budget))
        before = now
    passed = not any(row["verdict"] for row in rungs)
    return {"passed": passed, "images": len(held["y_true"]), "rungs": rungs}


def _changes(before, now, images, drop: float | None, change: str, budget: Tree) -> Tree:
    """Count the decisions that changed, and say which budget that breaks."""
    names, changed = now.config["labels"], np.zeros_like(now.said)
    if before is not None:
        changed = before.said != now.said
    flips, share, verdict = int(changed.sum()), float(changed.mean()), ""
    if change == "runtime" and flips > budget["max_runtime_flips"]:
        allowed = budget["max_runtime_flips"]
        verdict = f"{flips} decisions flip; parity.max_runtime_flips allows {allowed}"
    elif change in ("runtime", "arithmetic") and drop is not None and drop > budget["max_f1_drop"]:
        verdict = (
            f"F1 macro drops by {drop:.4f}; parity.max_f1_drop allows {budget['max_f1_drop']:g}"
        )
    elif change == "arithmetic" and share > budget["max_flip_fraction"]:
        allowed = budget["max_flip_fraction"]
        verdict = f"{share:.2%} of decisions flip; parity.max_flip_fraction allows {allowed:.2%}"
    return {
        "f1_drop": drop, "flips": flips, "flip_fraction": share, "verdict": verdict,
        "largest_difference": float(np.abs(now.score - before.score).max()) if before else None,
        "flips_by_class": dict(zip(names, changed.sum(0).tolist(), strict=True)),
        "flipped": [
            {"image": str(images[row]), "label": names[i], "before": before.score[row, i],
             "after": now.score[row, i]}
            for row, i in np.argwhere(changed)[:50]
        ],
    }  # fmt: skip


def derive_teacher(bundle: Bundle, stated: Tree) -> Tree:
    """Hold the teacher against its student again, both at one half."""
    if stated["other"] != "the student":
        return {}
    known = labels_of(bundle.frames(bundle.source)) | {"config": bundle.config}  # photo by photo
    student, teacher = (_at_one_half(bundle.frames(name)["logits"], known)
                        for name in (STUDENT, TEACHER_SCORES))  # fmt: skip
    drawn = bundle.settings["evaluation"]["bootstrap_replicates"], bundle.settings["seed"]
    difference, interval = paired_loss(teacher, student, *drawn)
    return {
        "images": len(teacher.score), "teacher_f1": rated(teacher)["f1_macro"],
        "other_f1": rated(student)["f1_macro"], "difference": difference,
        "interval": interval and list(interval),
    }  # fmt: skip


def panels(bundle: Bundle) -> str:
    """Compare what sliders and gallery hold as data with what is derived."""
    shown = {page: asked for page, asked in PANELS.items() if bundle.has(page)}
    figures = 0
    for page, (key, derive) in shown.items():
        figures += compare(page, panel(bundle, page, key), derive(bundle))[0]
    return f"{figures} figures of sliders and gallery" if shown else "not here: 06 and 09"


def panel(bundle: Bundle, page: str, key: str) -> Tree:
    """Return the data of a panel, which is told from others by a key in it."""
    held = (json.loads(data) for data in PANEL.findall(bundle.bytes(page).decode("utf-8")))
    found = next((one for one in held if key in one), None)
    if found is None:
        raise MismatchError(f"{page} holds no {key}")
    return found


def derive_sliders(bundle: Bundle) -> Tree:
    """Count what the sliders of 06 count, or rate each confidence."""
    found: Tree = {"recommendation": bundle.json(RECOMMENDATION)}
    if bundle.config["task"] == "multilabel":
        sides = zip(*(side.tolist() for side in count_levels(bundle.validation)), strict=True)
        integers = bundle.search.apart.tolist()
        total = len(bundle.config["labels"])
        needed = [NormalDist().inv_cdf(1 - 0.025 * n / total) for n in range(1, total + 1)]
        classes = [list(pair) for pair in sides]
        return found | {"classes": classes, "integers": integers, "needed": needed}
    curve = derive_curve(bundle, {})
    rows = zip(*curve.values(), strict=True)
    return found | {"curve": [dict(zip(curve, row, strict=True)) for row in rows]}


def derive_mistakes(bundle: Bundle) -> Tree:
    """Search the worst mistakes on test again, and say what stands below their pictures."""
    knobs = bundle.settings["evaluation"]
    arrays = bundle.arrays(SCORES)
    answers, bars = phone_answers(bundle, arrays)
    _, wrong, missed, _ = answers.outcomes
    bars, names = np.broadcast_to(bars, answers.score.shape), bundle.config["labels"]
    found, verbs = [], {"false positive": "said, not there", "false negative": "there, not said"}
    for (kind, verb), cells in zip(verbs.items(), (wrong, missed), strict=True):
        places, seen = np.argwhere(cells), Counter()
        far = np.argsort(-np.abs(answers.score - bars)[cells], kind="stable")
        kept = [seen.update([i]) or (row, i) for row, i in places[far].tolist()
                if seen[i] < knobs["gallery_per_class"]]  # fmt: skip
        for row, i in kept[: knobs["gallery_size"]]:
            really = ", ".join(names[j] for j in np.flatnonzero(answers.y_true[row]))
            caption = (
                f"{verb}: {answers.score[row, i]:.2f} against {bars[row, i]:.2f}. "
                f"Really: {really or 'none of the classes'}. {Path(arrays['filepaths'][row]).name}"
            )
            marks = [{"class": names[i], "kind": kind, "wrong": 0}]
            found.append({"title": names[i], "kind": kind, "caption": caption, "marks": marks})
    return {"pictures": found}


def index(bundle: Bundle) -> str:
    """Compare the first figures of the index, and what it says to mind."""
    if not (bundle.has(INDEX) and bundle.has(METRICS)):
        return f"not here: {INDEX}"
    page, test = bundle.bytes(INDEX).decode("utf-8"), bundle.json(METRICS)["test"]
    tiles = TILE.findall(page)
    _same(f"{INDEX}: figures", {title for _, title, _ in tiles}, set(TITLES))
    for value, title, span in tiles:
        stated = test["overall"][TITLES[title]]
        _same_cell(f"{INDEX}: {title}", value, stated["value"])
        ends = stated["interval"] or html.escape(stated["withheld"])
        _same_cell(f"{INDEX}: interval of {title}", span, ends)
    _same(f"{INDEX}: note", html.escape(test["macro_means"]) in page, True)
    said = [html.unescape(line) for line in LINE.findall("".join(CAUTIONS.findall(page)))]
    _same(f"{INDEX}: what to mind", said, cautions(bundle))
    return f"{len(tiles)} figures on the index, and {len(said)} lines to mind"


def sealed_only(bundle: Bundle) -> str:
    """Name what is shown and cannot be derived here: its bytes are sealed, no more."""
    names = [name for name in SEALED_ONLY if bundle.has(name)]
    return f"not derived: {', '.join((*names, 'what is drawn as a picture'))}"


def _columns(rows: list[Tree], names: Sequence[str]) -> Tree:
    """Turn rows into columns, those that every row has."""
    return {name: [row[name] for row in rows] for name in names if all(name in row for row in rows)}


def _dequantized(arrays: Arrays) -> np.ndarray:
    return (arrays["raw"].astype(np.float64) - arrays["zero_point"]) * arrays["scale"]


def pool(raw: np.ndarray) -> np.ndarray:
    """Return one answer [C] for the raw outputs [N, C] of a clip: their mean, rounded down.

    It reaches a threshold exactly where the mean does.
    """
    if raw.dtype == np.float32:
        return raw.mean(0)
    return (raw.astype(np.int64).sum(0) // len(raw)).astype(raw.dtype)


def pooled(arrays: Arrays) -> Arrays:
    """Turn scores of frames into scores of clips; a clip knows what one of its frames knows."""
    if "groups" not in arrays:
        return arrays
    _, first, place, frames = np.unique(arrays["groups"], True, True, True)
    known = arrays["mask"] > 0.5

    def total(values: np.ndarray) -> np.ndarray:
        found = np.zeros((len(frames), values.shape[1]), values.dtype)
        np.add.at(found, place, values)
        return found

    clips = {key: array for key, array in arrays.items() if key != "groups"}
    clips["y_true"] = total((arrays["y_true"] > 0.5) & known)
    clips["mask"] = total(known).astype(np.uint8)
    for name in {"logits", "twin_logits"} & clips.keys():
        clips[name] = total(arrays[name].astype(np.float64)) / frames[:, None]
    if "filepaths" in clips:
        clips["filepaths"] = arrays["filepaths"][first]
    if "raw" in clips:
        whole = total(arrays["raw"].astype(np.int64)) // frames[:, None]
        clips["raw"] = whole.astype(arrays["raw"].dtype)
    return clips


def probabilities(raw: np.ndarray, config: dict[str, Any]) -> np.ndarray:
    output = config["output"]
    values = (raw.astype(np.float64) - output["zero_point"]) * output["scale"]
    if not output["is_logits"]:
        return values
    return softmax(values) if config["task"] == "single_label" else sigmoid(values)


def shown_probabilities(raw: np.ndarray, config: dict[str, Any]) -> np.ndarray:
    """Return the percentages that the app shows for raw outputs [N, C]; decisions never change."""
    if config["calibration"] is None:
        return probabilities(raw, config)
    lines = {row["label"]: row for row in config["calibration"]["classes"]}
    none = {"slope": None, "intercept": None}  # of a class whose scores were pushed off the scale
    own = [lines.get(label, none) for label in config["labels"]]
    slope = np.array([1.0 if row["slope"] is None else row["slope"] for row in own])
    intercept = np.array([0.0 if row["slope"] is None else row["intercept"] for row in own])
    logits = slope * _logits(raw, config) + intercept
    return softmax(logits) if config["task"] == "single_label" else sigmoid(logits)


def _logits(raw: np.ndarray, config: dict[str, Any]) -> np.ndarray:
    """Return logits, also where the model gives probabilities; 0 and 1 have none."""
    output = config["output"]
    values = (raw.astype(np.float64) - output["zero_point"]) * output["scale"]
    if output["is_logits"]:
        return values
    values = np.clip(values, FAINTEST, 1 - FAINTEST)
    return np.log(values) - (0 if config["task"] == "single_label" else np.log1p(-values))


def probability_thresholds(config: dict[str, Any]) -> np.ndarray | float:
    """Return what `probabilities` are compared with: one a class, or one for a single label."""
    if config["task"] == "single_label":
        return float(config["thresholds"]["unknown_below"])
    return np.array([entry["probability"] for entry in config["thresholds"]["classes"]])


def sigmoid(logits: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-logits))


def softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def _from_above(counts: np.ndarray) -> np.ndarray:
    sums = np.cumsum(counts[..., ::-1], axis=-1)[..., ::-1]
    return np.concatenate([sums, np.zeros((*counts.shape[:-1], 1), sums.dtype)], axis=-1)


def _share(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """Divide; 0 where there is nothing to divide by."""
    return np.where(below > 0, above / np.maximum(below, 1e-300), 0.0)


def _defined(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """Divide; NaN where there is nothing to divide by."""
    return np.where(below > 0, _share(above, below), np.nan)


def wilson(
    hits: np.ndarray, trials: np.ndarray, z: np.ndarray | float = 1.959963984540054
) -> tuple[np.ndarray, np.ndarray]:
    """Return the interval of a share, 95 % by default, by the formula of Wilson (1927)."""
    trials = np.maximum(trials, 1e-9)
    share, rest = hits / trials, 1 + z**2 / trials
    half = z * np.sqrt(share * (1 - share) / trials + z**2 / (4 * trials**2)) / rest
    centre = (share + z**2 / (2 * trials)) / rest
    low, high = np.clip(centre - half, 0, 1), np.clip(centre + half, 0, 1)
    return np.where(share <= 0, 0.0, low), np.where(share >= 1, 1.0, high)


def ends(drawn: np.ndarray) -> tuple[float, float] | None:
    """Return the ends of the 95 % that lie in the middle of what is defined."""
    defined = drawn[~np.isnan(drawn)]
    if not len(defined):
        return None
    low, high = np.quantile(defined, [0.025, 0.975])
    return float(low), float(high)


def _mean_of_defined(values: np.ndarray) -> np.ndarray:
    """Mean over the first axis of what is not NaN."""
    defined = ~np.isnan(values)
    total = np.where(defined, values, 0).sum(0)
    return np.where(defined.any(0), total / np.maximum(defined.sum(0), 1), np.nan)


def _or_none(values: np.ndarray) -> list:
    return [None if value != value else value for value in values.tolist()]


def _average_precision(true: np.ndarray, score: np.ndarray, known: np.ndarray) -> float | None:
    true, score = true[known], score[known]
    if not true.any():
        return None
    levels = np.unique(score)[::-1]
    found = np.array([true[score >= level].sum() for level in levels])
    shown = np.array([(score >= level).sum() for level in levels])
    return float((np.diff(found, prepend=0) * found / shown).sum() / true.sum())


def _roc_area(true: np.ndarray, score: np.ndarray, known: np.ndarray) -> float | None:
    """Chance that an image with the class scores above one without, ties half."""
    there, rest = score[known & true], np.sort(score[known & ~true])
    below, upto = (np.searchsorted(rest, there, side) for side in ("left", "right"))
    return _ratio((below + upto).sum() / 2, len(there) * len(rest))


def _ratio(above: float, below: float) -> float | None:
    return float(above / below) if below else None


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if len(values) else None


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
    """Return the input value of each byte 0…255: (x - 127) / 128 as integers, or a float."""
    if port["dtype"] == "float32":
        return ((np.arange(256) - port["zero_point"]) * port["scale"]).astype(np.float32)
    limits = np.iinfo(port["dtype"])
    levels = np.floor((np.arange(256) - 127) / 128 / port["scale"] + 0.5) + port["zero_point"]
    return np.clip(levels, limits.min, limits.max).astype(port["dtype"])


def decide(raw: np.ndarray, config: dict[str, Any]) -> list[list[str]]:
    """Return the labels that the app shows for raw outputs [N, C]."""
    names = config["labels"]
    if config["task"] == "single_label":
        return [_single(row, config) for row in raw]
    bars = np.array(needed(config))
    return [[names[i] for i in np.flatnonzero(row >= bars)] for row in raw.astype(np.float64)]


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
    if name == "float32":  # has no levels
        return {"dtype": name}
    return {"dtype": name, "scale": float(scale), "zero_point": int(zero_point)}


def found_type(details: dict[str, Any]) -> str:
    port = _port(details)
    if "scale" not in port:
        return port["dtype"]
    return f"{port['dtype']} (scale {port['scale']:g}, zero point {port['zero_point']})"


def agree(name: str, bundle: Bundle) -> str:
    """Compare a file with what was derived, figure by figure; name what nobody derives."""
    derive, sources = FIGURES[name]
    if VALIDATION in sources and in_floats(bundle.config):
        return "not here: no phone file ships"
    files = [name, *(bundle.source if one == SOURCE else one for one in sources)]
    if in_floats(bundle.config) and LADDER in files:
        files.remove(LADDER)
    if missing := [file for file in files if not bundle.has(file)]:
        return f"not here: {', '.join(missing)}"
    stated = bundle.table(name) if name.endswith(".csv") else bundle.json(name)
    figures, left = compare(name, stated, derive(bundle, stated))
    last = sorted({place.split(", ")[-1] for place in left})
    return f"{figures} figures derived" + (f"; not derived: {', '.join(last)}" if last else "")


def compare(what: str, stated: Any, derived: Any) -> tuple[int, set[str]]:
    """Return how many figures agree, and the places of those that nobody derives."""
    if isinstance(derived, dict):
        _same(f"{what}: keys that are missing", sorted(derived.keys() - stated.keys()), [])
        parts = [compare(f"{what}, {key}", stated[key], derived[key]) for key in derived]
        left = {f"{what}, {key}" for key in stated if key not in derived}
    elif isinstance(derived, list):
        _same(f"{what}: number of entries", len(stated), len(derived))
        rows = enumerate(zip(stated, derived, strict=True))
        parts = [compare(f"{what}, {_row_name(one, n)}", one, two) for n, (one, two) in rows]
        left = set()
    else:
        _same_or_near(what, stated, derived)
        return 1, set()
    return sum(part[0] for part in parts), left.union(*(part[1] for part in parts))


def _row_name(row: Any, number: int) -> str:
    keys = ("class", "name", "figure", "rung")
    named = [str(row[key]) for key in keys if isinstance(row, dict) and key in row]
    return " ".join(named) or str(number)


def _same_or_near(what: str, stated: Any, derived: Any) -> None:
    """Compare counts exactly, other numbers to the last digits."""
    both = stated, derived
    numbers = all(isinstance(one, int | float | np.number) and not isinstance(one, bool)
                  for one in both)  # fmt: skip
    if numbers and all(isinstance(one, int | np.integer) for one in both):
        _same(f"{what} is {stated}, derived {derived}: they", stated, derived)
    elif numbers:
        _near(what, stated, derived)
    else:
        _same(what, stated, derived)


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
FIGURES: dict[str, tuple[Callable[[Bundle, Tree], Tree], tuple[str, ...]]] = {
    RECOMMENDATION: (derive_recommendation, (SOURCE, SETTINGS)),
    CURVE: (derive_curve, (SOURCE, SETTINGS)),
    CALIBRATION: (derive_calibration, (SOURCE, SETTINGS)),
    FLOATS: (derive_floats, (VALIDATION, STUDENT, SETTINGS)),
    LADDER: (derive_ladder, (VALIDATION, SETTINGS)),
    METRICS: (derive_metrics, (SCORES,)),
    PARITY: (derive_parity, (PARITY_SCORES, RECOMMENDATION, LADDER, SETTINGS)),
    TEACHER: (derive_teacher, (VALIDATION, STUDENT, TEACHER_SCORES, SETTINGS)),
}  # by file: what derives its figures, and from which files
Kind = tuple[str, ...]  # the first columns of a table tell what it shows
PAGES: dict[str, tuple[Kind, ...]] = {
    PAGE_06: (("thresholds", "f1_macro"), ("class", "error before")),
    PAGE_09: (("figure", "value"), ("class", "positives"), ("cost of", "figure")),
    INDEX: (),
}  # and the tables that must be there
PANELS: dict[str, tuple[str, Callable[[Bundle], Tree]]] = {
    PAGE_06: ("recommendation", derive_sliders),
    PAGE_09: ("pictures", derive_mistakes),
}
TABLES: dict[Kind, Callable[[Bundle, Rows], Tree]] = {
    ("knob", "value"): knob_cells,
    ("name", "value"): score_cells,
    ("class", "probability"): class_cells,
    ("target", "wanted"): target_cells,
    ("thresholds", "f1_macro"): choice_cells,
    ("on", "value"): expected_cells,
    ("class", "error before"): calibration_cells,
    ("figure", "value"): overall_cells,
    ("class", "positives"): test_cells,
    ("cost of", "figure"): cost_cells,
    ("file", "megabytes"): size_cells,
    ("file", "size"): file_cells,
    ("step", "question"): step_cells,
    ("mind",): caution_cells,
}
CHECKS: Checks = (
    ("hashes", hashes),
    *BUNDLE_CHECKS,
    ("test answers", test_answers),
    *((name, partial(agree, name)) for name in FIGURES),
    ("pages", pages),
    ("panels", panels),
    ("index", index),
    ("the rest", sealed_only),
)

if __name__ == "__main__":
    outcome = verify(Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parent))
    sys.stdout.write(outcome.text + "\n")
    sys.exit(0 if outcome.passed else 1)
