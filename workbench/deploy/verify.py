"""Derive the numbers of a run or bundle again, from its sealed files alone; name what is left.

Needs LiteRT and NumPy, nothing else of the workbench. One file on purpose: a copy of it lies in
every bundle, so it holds its own letterbox, decisions and metrics, written apart from those it
checks.
Run it as `python verify.py [FOLDER]` or `python -m workbench verify RUN`.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import re
import struct
import sys
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
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
COSTS = {"8-bit arithmetic": "float_twin_against_int8",
         "training and arithmetic": "float_against_int8"}  # fmt: skip
VALIDATION = "candidate_scores.npz"
STUDENT = "student_scores.npz"
SETTINGS = "training_config.json"
CURVE = "threshold_curve.csv"
MODEL = "model_qat_int8.tflite"
LABELS = "labels.txt"
SEALED = (  # all that is handed on, and all that figures are derived from
    *(MODEL, "verify.py", "*.txt", "*.json", "*.csv", "*.npz", "*.png", "app/**/*", "golden/**/*"),
    *("html/**/*", "notebooks/*.ipynb", "logs/*.csv", "splits/**/*"),
)
SEALED_ONLY = ("calibration.json", "parity.json", "audit.json", "logs")
UNSEALED = ("status.json", "threshold_choice.json")  # go on changing: when it ran, what is wished
TOLERANCE = 1e-6  # of figures that were written as decimal text
PAGE_06, PAGE_09 = "html/06_tune_thresholds.html", "html/09_eval_report.html"
INDEX = "html/index.html"
TITLES = {"F1 macro": "f1_macro", "F1 micro": "f1_micro", "Precision": "precision_macro",
          "Recall": "recall_macro", "mAP": "map"}  # fmt: skip
TILE = re.compile("<div class='tile'><b>(.*?)</b><span>(.*?)</span><small>(.*?)</small>")
PANEL = re.compile(r'<script type="application/json"[^>]*>(.*?)</script>', re.DOTALL)
ROUNDING = 0.0005 + 1e-6  # of figures in tables
NUMBER = re.compile(r"[-+]?\d+(?:\.\d+)?")
FAINTEST = 2**-12  # a probability of 0 or 1 has no logit
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
LEVELS = 8  # kernels of other CPUs round sums otherwise; TFLite's own differ by up to 6 levels


# What a file raises that is not of the form we wrote.
MALFORMED = (
    *(ArithmeticError, AttributeError, EOFError, LookupError, OSError, RuntimeError),
    *(SyntaxError, TypeError, ValueError, struct.error, zipfile.BadZipFile, zlib.error),
)


Tree = dict[str, Any]  # a part of a file, or what was derived in its place
Arrays = dict[str, np.ndarray]


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

    def arrays(self, name: str) -> Arrays:
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
    compare(f"{name}: probabilities to show", vector["probabilities"],
            shown_probabilities(recorded[None], bundle.config)[0].tolist())  # fmt: skip
    return gap


def _gap(raw: np.ndarray, recorded: np.ndarray) -> int:
    return int(np.abs(raw.astype(np.int32) - recorded.astype(np.int32)).max())


def test_answers(bundle: Bundle) -> str:
    """Run the model on the few test images whose pixels are there."""
    if not bundle.has(METRICS):
        return f"not here: no {METRICS}, 09_eval_report has not run"
    arrays = bundle.arrays(SCORES)
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
        student, twin = (float_answers(bundle, arrays, side) for side in ("float", "twin"))
        found["float_test"] = evaluate(*student, stated["float_test"])
        twin_test = evaluate(*twin, stated["float_test"])
        int8 = phone[0], found["test"]
        sides = {"float": (student[0], found["float_test"]), "float_twin": (twin[0], twin_test)}
        for side, answers in sides.items():
            name = f"{side}_against_int8"
            found[name] = derive_differences((answers, int8), stated[name])
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


def float_answers(bundle: Bundle, arrays: Arrays, side: str) -> tuple[Answers, np.ndarray | float]:
    """Return what a float network answered, at the thresholds that were searched for it."""
    config, score = bundle.config, arrays[f"{side}_probability"].astype(np.float64)
    bars = arrays[f"{side}_thresholds"]
    if config["task"] == "single_label":
        bars = float(bars)
        sure = (score.max(1) >= bars)[:, None]
        said = sure & (np.arange(score.shape[1]) == score.argmax(1)[:, None])
    else:
        said = score >= bars
    return Answers(**labels_of(arrays), score=score, said=said, config=config), bars


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

    @property
    def units(self) -> np.ndarray:
        """Number what is drawn together: images, or their groups. [N]"""
        if self.groups is None:
            return np.arange(len(self.score))
        return np.unique(self.groups, return_inverse=True)[1]

    @property
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
    undefined = [row["class"] for row in rows if not row["positives"]]
    over = f"{len(rows) - len(undefined)} of {len(rows)} classes; undefined: {', '.join(undefined)}"
    return {
        "task": config["task"], "images": len(answers.score),
        "macro_means": f"macro over {over if undefined else f'all {len(rows)} classes'}",
        "undefined_classes": undefined, "unknown_labels": int((~answers.known).sum()),
        "overall": {name: found for name, found in overall.items() if name in stated["overall"]},
        "classes": rows, "confusion": confusion(answers), "confused_pairs": confused(answers),
    }  # fmt: skip


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
        "calibration_error": _calibration_error(*to_calibrate(answers)),
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
    """Derive the intervals of areas and of the calibration error into `overall` and `rows`."""
    asked = stated["bootstrap_replicates"], stated["seed"]
    drawn = resample(answers, {"overall": overall, "classes": rows}, *asked)
    for name in ("map", "roc_auc_macro", "calibration_error"):
        told = overall[name]["value"] is not None and len(answers.score) >= LEAST_IMAGES
        given = stated["overall"].get(name, {}).get("interval")
        overall[name]["interval"] = _drawn_span(drawn.overall[name], given) if told else None
    for name in ("average_precision", "roc_auc"):
        for i, (row, given) in enumerate(zip(rows, stated["classes"], strict=True)):
            both = f"{name}_low", f"{name}_high"
            told = row[name] is not None and row["positives"] >= LEAST_IMAGES
            span = _drawn_span(drawn.classes[name][:, i], given[both[0]]) if told else None
            row |= dict(zip(both, span or (None, None), strict=True))


def _drawn_span(drawn: np.ndarray, stated: Any) -> list[float] | None:
    """Return the ends; where nothing ever changes rounding decides whether there are any."""
    span = ends(drawn)
    if span is None or (span[1] - span[0] < TOLERANCE and stated is None):
        return None
    return list(span)


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


def to_calibrate(answers: Answers) -> tuple[np.ndarray, np.ndarray]:
    """Return labels and probabilities whose calibration counts: of all, or of the one answer."""
    if answers.config["task"] == "multilabel":
        return answers.y_true[answers.known], answers.score[answers.known]
    return answers.right[answers.judged], answers.score.max(1)[answers.judged]


def _calibration_error(true: np.ndarray, score: np.ndarray) -> float | None:
    """Mean distance of prediction and reality in 15 bins of equal width."""
    place = np.clip(np.searchsorted(np.linspace(0, 1, BINS + 1), score, "right") - 1, 0, BINS - 1)
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
    drawn = _draw(answers.units, replicates, seed)
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


def _draw(units: np.ndarray, replicates: int, seed: int) -> Iterator[np.ndarray]:
    """Yield how often each image is drawn, [B, N]; images of one unit are drawn together."""
    rng, count = np.random.default_rng(seed), int(units.max()) + 1
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
    true, score, counted = answers.y_true, answers.score, answers.known
    if answers.config["task"] == "single_label":
        true, score, counted = (values[:, None] for values in (
            answers.right, answers.score.max(1), answers.judged))  # fmt: skip
    place = np.clip(np.searchsorted(np.linspace(0, 1, BINS + 1), score, "right") - 1, 0, BINS - 1)
    distance = np.zeros(len(weights))
    for one in range(BINS):
        inside = (place == one) & counted
        predicted = score[inside].mean() if inside.any() else 0.0
        images, hits = weights @ inside.sum(1), weights @ (inside & true).sum(1)
        distance += np.abs(images * predicted - hits)
    return _defined(distance, weights @ counted.sum(1))


def derive_recommendation(bundle: Bundle, stated: Tree) -> Tree:
    """Search the thresholds again on the validation scores, and judge them by resampling."""
    settings, arrays = bundle.json(SETTINGS), bundle.arrays(VALIDATION)
    scores = {"images": len(arrays["raw"]), "source_sha256": bundle.sha256(VALIDATION)}
    replicates = settings["threshold_search"]["bootstrap_replicates"]
    found = {"schema": 1} | {key: settings[key] for key in ("task", "seed")}
    found |= {"scores": scores}
    if settings["task"] == "single_label":
        return found | derive_unknown(settings["single_label"], arrays, stated)
    found |= {"bootstrap_replicates": replicates}
    levels = {name: arrays[name].item() for name in ("scale", "zero_point")}
    scores |= {"unknown_labels": int((arrays["mask"] <= 0).sum()), **levels}
    search = Search.of(arrays, settings["threshold_search"], settings["seed"])
    return found | derive_thresholds(search, stated, bundle.config["labels"])


def derive_thresholds(search: Search, stated: Tree, names: list[str]) -> Tree:
    """Search, search again on resampled images, and say which class keeps its own threshold."""
    found = search.choice
    edits = {name: ends[1] for edit in stated["edits"] for name, ends in edit["changes"].items()}
    drawn = np.where(found.adopted, found.drawn_own, found.drawn_shared[:, None])
    rows = []
    for i, name in enumerate(names):
        integer = int(edits.get(name, found.integers[i]))
        positives, negatives = search.positives[i].sum(), search.negatives[i].sum()
        gain = [None if np.isnan(one[i]) else float(one[i]) for one in found.gain]
        rows.append({
            "name": name, **search.forms(integer, _whole_ends(drawn[:, i])),
            "created_by": "person" if name in edits else "search",
            "adopted": bool(found.adopted[i]) or name in edits,
            "adopted_in": int(found.adopted_in[:, i].sum()),
            "positives": positives, "negatives": negatives,
            "prevalence": _ratio(positives, positives + negatives),
            "gain": gain[0], "gain_interval": None if None in gain[1:] else gain[1:],
        })  # fmt: skip
    knobs = search.knobs
    figures = {name: knobs[name] for name in OBJECTIVE_FIGURES.get(knobs["objective"], ())}
    return {
        "method": knobs["method"], "objective": {"name": knobs["objective"], **figures},
        "created_by": "person" if edits else "search", "classes": rows, "expected": found.expected,
        "global": search.forms(found.shared, _whole_ends(found.drawn_shared)),
    }  # fmt: skip


def _whole_ends(drawn: np.ndarray) -> list[int]:
    low, high = ends(drawn.astype(np.float64)) or (0, 0)
    return [int(np.floor(low)), int(np.ceil(high))]


@dataclass(frozen=True)
class Choice:
    """What a search chose, and what the same search chose on resampled images."""

    shared: int
    integers: np.ndarray  # [C], shared or own
    adopted: np.ndarray  # bool [C]: who keeps a threshold of its own
    adopted_in: np.ndarray  # bool [R, C]
    gain: np.ndarray  # [3, C]: without the luck of choosing, and its ends
    expected: Tree
    drawn_shared: np.ndarray  # [R]
    drawn_own: np.ndarray  # [R, C]


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
        true, known = arrays["y_true"] > 0.5, arrays["mask"] > 0.5
        sides = [
            np.stack([np.bincount(raw[chosen].astype(int) + 128, minlength=256)
                      for raw, chosen in zip(arrays["raw"].T, (side & known).T, strict=True)])
            for side in (true, ~true)
        ]  # fmt: skip
        levels = arrays["scale"].item(), arrays["zero_point"].item()
        return cls(*sides, *levels, knobs, arrays, seed)

    def forms(self, integer: int, ends: Sequence[int]) -> Tree:
        """Derive logit and probabilities of a threshold: halfway between two levels."""
        logits = (np.array([integer, *ends]) - 0.5 - self.zero_point) * self.scale
        probability, *both = sigmoid(logits).tolist()
        return {"integer": integer, "logit": logits[0], "probability": probability,
                "probability_interval": both, "integer_interval": list(ends)}  # fmt: skip

    @cached_property
    def yes(self) -> tuple[np.ndarray, np.ndarray]:
        """True and false positives of every threshold, -128 to 128: [C, 257] each."""
        return _from_above(self.positives), _from_above(self.negatives)

    @cached_property
    def integers(self) -> np.ndarray:
        """Thresholds that may be chosen: their probability decides as they do."""
        every = np.arange(-128, 129)
        between = sigmoid((every - 0.5 - self.zero_point) * self.scale)
        below, here = (sigmoid((every - one - self.zero_point) * self.scale) for one in (1, 0))
        margin = 8 * np.finfo(float).eps * np.maximum(here, np.finfo(float).tiny)
        apart = (between - below > margin) & ((here - between > margin) | (every == 128))
        apart[0] = True
        if self.knobs["method"] == "exact":
            return every[apart]
        low, high, step = (self.knobs[f"grid_{name}"] for name in ("min", "max", "step"))
        grid = low + step * np.arange(int(np.floor((high - low) / step + 1e-9)) + 1)
        chosen = np.unique(np.searchsorted(here[:-1], grid - 1e-12)) - 128
        return chosen[np.isin(chosen, every[apart])]

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
            worth[i] = _worth(residual, self.arrays["groups"][rows])
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

    def _resampled(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Count levels on drawn images again: [B, C, 256] with and without the class."""
        known = labels_of(self.arrays)
        units = Answers(**known, score=self.arrays["raw"], said=known["known"], config={}).units
        cells = self.arrays["raw"].astype(int) + 128 + 256 * known["y_true"]
        cells[~known["known"]] = 512
        for weights in _draw(units, self.knobs["bootstrap_replicates"], self.seed):
            counts = [weights @ (column[:, None] == np.arange(512)) for column in cells.T]
            found = np.stack(counts, axis=1)
            yield found[..., 256:], found[..., :256]

    @cached_property
    def choice(self) -> Choice:
        """Choose, and take off what choosing on the same images makes of it."""
        shared, own, truth = self.tune(self.positives, self.negatives)
        blocks = []
        for counts in self._resampled():
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
            shared=int(shared), integers=np.where(adopted, own, shared), adopted=adopted,
            adopted_in=again, gain=np.stack([gain, gain - half, gain + half]),
            expected=_expected(apparent, optimism), drawn_shared=drawn_shared, drawn_own=drawn_own,
        )  # fmt: skip

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


def derive_unknown(knobs: Tree, arrays: Arrays, stated: Tree) -> Tree:
    """Derive what the confidence under which the answer is "unknown" gives on validation."""
    score, right, worth = _one_answer(arrays)
    found = _rate(score, right, worth, stated["unknown"]["probability"], knobs)
    ends = [found.pop(name) for name in ("accuracy_low", "accuracy_high")]
    target, least = knobs["threshold_target_accept_accuracy"], knobs["threshold_min_coverage"]
    found["coverage_interval"] = [found.pop("coverage_low"), found.pop("coverage_high")]
    found["accepted_accuracy_interval"] = None if ends[0] is None else ends
    return {
        "scores": {"images": len(score)},
        "objective": {
            "target_accept_accuracy": target, "min_coverage": least,
            "penalty_incorrect": knobs["threshold_penalty_incorrect"],
        },
        "unknown": found,
    }  # fmt: skip


def _one_answer(arrays: Arrays) -> tuple[np.ndarray, np.ndarray, float]:
    """Return how sure each judged image's answer is, if it is right, and what an image is worth."""
    logits = (arrays["raw"].astype(np.float64) - arrays["zero_point"]) * arrays["scale"]
    true, known = arrays["y_true"] > 0.5, arrays["mask"] > 0.5
    judged = known.all(1) | (true & known).any(1)
    score, true = softmax(logits)[judged], true[judged]
    right = (score.argmax(1) == true.argmax(1)) & true.any(1)
    groups = arrays["groups"][judged] if "groups" in arrays else None
    return score.max(1), right, _worth(right - right.mean(), groups)


def _worth(residual: np.ndarray, groups: np.ndarray | None) -> float:
    """Derive the share of the images that counts where those of a group err together."""
    if groups is None:
        return 1.0
    place = np.unique(groups, return_inverse=True)[1]
    size = float(np.square(np.bincount(place)).sum()) / len(place)
    together = np.square(np.bincount(place, weights=residual)).sum() + size**2
    return min(1.0, float((np.square(residual).sum() + size) / together))


def _rate(
    score: np.ndarray, right: np.ndarray, worth: float, confidence: float, knobs: Tree
) -> Tree:
    """Rate the answers of at least a confidence; intervals are Wilson's."""
    answered = score >= confidence
    hits, wrong = int((answered & right).sum()), int((answered & ~right).sum())
    trials = np.array([hits + wrong, len(right)])
    shares = wilson(worth * np.array([hits, hits + wrong]), worth * trials)
    (low, high), ends = np.transpose(shares).tolist()
    low, high = (low, high) if hits + wrong else (None, None)
    coverage = float(answered.mean())
    meets = low is not None and low >= knobs["threshold_target_accept_accuracy"]
    return {
        "coverage": coverage, "coverage_low": ends[0], "coverage_high": ends[1],
        "accepted_accuracy": _ratio(hits, hits + wrong), "accuracy_low": low, "accuracy_high": high,
        "utility": (hits - knobs["threshold_penalty_incorrect"] * wrong) / len(right),
        "meets_target": meets and coverage >= knobs["threshold_min_coverage"],
    }  # fmt: skip


def derive_curve(bundle: Bundle, stated: Tree) -> Tree:
    """Derive what each shared threshold would give, or each confidence."""
    settings, arrays = bundle.json(SETTINGS), bundle.arrays(VALIDATION)
    if settings["task"] == "single_label":
        return derive_unknown_curve(stated["threshold"], settings["single_label"], arrays)
    return derive_shared_curve(Search.of(arrays, settings["threshold_search"]))


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


def derive_unknown_curve(thresholds: list[float], knobs: Tree, arrays: Arrays) -> Tree:
    """Rate the answers to validation above each confidence."""
    found = [_rate(*_one_answer(arrays), one, knobs) for one in thresholds]
    return {name: [row[name] for row in found] for name in found[0]} if found else {}


def derive_ladder(bundle: Bundle, stated: Tree) -> Tree:
    """Score the rung that ships, and the float student beside it, again on validation."""
    arrays = bundle.arrays(VALIDATION)
    levels = (arrays["raw"].astype(np.float64) - arrays["zero_point"]) * arrays["scale"]
    names = labels_of(arrays) | {"config": bundle.config}
    ours, theirs = (
        _at_one_half(logits, names) for logits in (levels, bundle.arrays(STUDENT)["logits"])
    )
    ours |= {"state": "shipped", "drop": theirs["f1_macro"] - ours["f1_macro"]}
    rungs = [ours if row["rung"] == stated["chosen"] else {} for row in stated["rungs"]]
    shipped = bundle.config["shipped"]
    about = {"chosen": shipped["rung"], "title": shipped["title"], "forced": shipped["forced"]}
    return {**about, "float": theirs, "rungs": rungs}


def _at_one_half(logits: np.ndarray, known: dict[str, Any]) -> Tree:
    """Rate logits before any threshold is tuned."""
    said = logits >= 0
    if known["config"]["task"] == "single_label":
        said = np.arange(logits.shape[1]) == logits.argmax(1)[:, None]
    answers = Answers(score=logits, said=said, **known)
    rows = class_figures(answers, np.full(logits.shape[1], np.nan))
    occurring = [row for row in rows if row["positives"]]
    return {"f1_macro": _mean([row["f1"] for row in occurring]) or 0.0,
            "map": _mean([row["average_precision"] for row in occurring])}  # fmt: skip


def pages(bundle: Bundle) -> str:
    """Compare the tables of 06, 09 and the index with the files whose figures they show."""
    shown = {name: derive for name, derive in PAGES.items() if bundle.has(name)}
    if not shown:
        return "not here: the pages of 06 and 09"
    figures, left = 0, set()
    for name, derive in shown.items():
        tables = page_tables(bundle.bytes(name).decode("utf-8"))
        expected = derive(bundle)
        for head, rows in tables:
            columns = next((one for one in expected if set(list(one)[:2]) <= set(head)), None)
            if columns is None:
                left.add(" and ".join(head[:2]))
                continue
            figures += _compare_table(name, head, rows, columns)
            left |= {one for one in head if one not in columns}
            expected.remove(columns)
    if not figures:
        raise MismatchError(f"{', '.join(shown)} show none of the tables that they are to show")
    return f"{figures} cells of {len(shown)} pages; not compared: {', '.join(sorted(left))}"


def _compare_table(page: str, head: list[str], rows: list[list[str]], columns: Tree) -> int:
    """Compare the cells of a table with its columns as far as they are known."""
    compared = 0
    for name, values in columns.items():
        if name not in head:
            continue
        _same(f"{page}: rows under {name}", len(rows), len(values))
        for row, value in zip(rows, values, strict=True):
            _same_cell(f"{page}: {name} of {row[0]}", row[head.index(name)], value)
            compared += 1
    return compared


def _same_cell(what: str, text: str, value: Any) -> None:
    """Compare the text of a cell with a value, or with several that it shows."""
    parts = value if isinstance(value, tuple | list) else [value]
    if all(part is None for part in parts):
        _same(what, text, "–")
    elif isinstance(value, str | bool):
        _same(what, text, str(value))
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


def page_tables(page: str) -> list[tuple[list[str], list[list[str]]]]:
    """Return the tables of a page: names of the columns, and rows of cells, all text."""
    parser = _Tables()
    parser.feed(page)
    return [(rows[0], rows[1:]) for rows in parser.tables if rows]


def shown_in_06(bundle: Bundle) -> list[Tree]:
    """Gather the tables of 06 by column; after a person's edits they show the search before."""
    found = bundle.json(RECOMMENDATION)
    if found["edits"] or bundle.config["task"] == "single_label":
        return []
    names = ("probability", "logit", "integer", "adopted", "positives", "gain", "reason", "note")
    rows = [{"class": row["name"], **row} for row in found["classes"]]
    tables = [_columns(rows, ("class", *names))]
    if bundle.has(VALIDATION):
        chosen = np.array([row["probability"] for row in rows])
        choices = {"one half": np.full(len(rows), 0.5), "searched": chosen, "in use": chosen}
        tables.append(_side_by_side(bundle, choices))
    return tables


def _side_by_side(bundle: Bundle, choices: Arrays) -> Tree:
    """Rate the answers on validation at different thresholds."""
    arrays = bundle.arrays(VALIDATION)
    score = sigmoid((arrays["raw"].astype(np.float64) - arrays["zero_point"]) * arrays["scale"])
    rows = []
    for name, bars in choices.items():
        about = {"config": bundle.config, **labels_of(arrays)}
        answers = Answers(score=score, said=score >= bars, **about)
        overall = overall_figures(answers, class_figures(answers, bars))
        rows.append({"thresholds": name, **overall})
    names = ("f1_macro", "precision_macro", "recall_macro", "exact_match", "no_label_rate")
    return _columns(rows, ("thresholds", *names))


def explorer(bundle: Bundle) -> str:
    """Compare what the sliders of 06 hold with the recommendation and the validation scores."""
    if not (bundle.has(PAGE_06) and bundle.has(VALIDATION)):
        return "not here: the page of 06, or the scores that its sliders count"
    page, found = bundle.bytes(PAGE_06).decode("utf-8"), bundle.json(RECOMMENDATION)
    held = (json.loads(data) for data in PANEL.findall(page))
    panel = next((one for one in held if "recommendation" in one), None)
    if panel is None:
        raise MismatchError(f"{PAGE_06} has no sliders")
    derived: Tree = {"recommendation": found}
    if bundle.config["task"] == "multilabel":
        search = Search.of(bundle.arrays(VALIDATION), {})
        sides = zip(search.positives.tolist(), search.negatives.tolist(), strict=True)
        derived["classes"] = [list(pair) for pair in sides]
    return f"{compare(PAGE_06, panel, derived)[0]} figures of the sliders of 06"


def index(bundle: Bundle) -> str:
    """Compare the first figures of the index with metrics.json."""
    if not (bundle.has(INDEX) and bundle.has(METRICS)):
        return f"not here: {INDEX}"
    overall = bundle.json(METRICS)["test"]["overall"]
    tiles = TILE.findall(bundle.bytes(INDEX).decode("utf-8"))
    _same(f"{INDEX}: figures", {title for _, title, _ in tiles}, set(TITLES))
    for value, title, span in tiles:
        stated = overall[TITLES[title]]
        _same_cell(f"{INDEX}: {title}", value, stated["value"])
        if stated["interval"]:
            _same_cell(f"{INDEX}: interval of {title}", span, stated["interval"])
    return f"{len(tiles)} figures on the index"


def shown_in_09(bundle: Bundle) -> list[Tree]:
    """Gather the tables of 09 from metrics.json, by column."""
    found = bundle.json(METRICS)
    test = found["test"]
    spans = [one["interval"] or (None, None) for one in test["overall"].values()]
    overall = {
        "figure": list(test["overall"]),
        "value": [one["value"] for one in test["overall"].values()],
        "from": [low for low, _ in spans], "to": [high for _, high in spans],
    }  # fmt: skip
    words = {"found": "tp", "wrongly said": "fp", "missed": "fn"}
    kept = ("class", "positives", "threshold", *words, "precision", "recall", "f1", "f1_low",
            "f1_high", "average_precision")  # fmt: skip
    rows = [{name: row.get(words.get(name, name)) for name in kept} for row in test["classes"]]
    costs = [{"cost of": what, **row, "in float": row["first"], "phone file": row["second"]}
             for what, name in COSTS.items() for row in found[name]["overall"]
             if row["figure"] in ("f1_macro", "map")]  # fmt: skip
    shown = ("cost of", "figure", "in float", "phone file", "difference", "low", "high", "verdict")
    return [overall, _columns(rows, kept), _columns(costs, shown)]


def sealed_only(bundle: Bundle) -> str:
    """Name what is shown and cannot be derived here: its bytes are sealed, no more."""
    names = [name for name in SEALED_ONLY if bundle.has(name)]
    return f"not derived: {', '.join((*names, 'what is drawn as a picture'))}"


def _columns(rows: list[Tree], names: Sequence[str]) -> Tree:
    """Turn rows into columns, those that every row has."""
    return {name: [row[name] for row in rows] for name in names if all(name in row for row in rows)}


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


def agree(name: str, bundle: Bundle) -> str:
    """Compare a file with what was derived, figure by figure; name what nobody derives."""
    derive, needed = FIGURES[name]
    if missing := [file for file in (name, *needed) if not bundle.has(file)]:
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
    RECOMMENDATION: (derive_recommendation, (VALIDATION, SETTINGS)),
    CURVE: (derive_curve, (VALIDATION, SETTINGS)),
    LADDER: (derive_ladder, (VALIDATION, STUDENT)),
    METRICS: (derive_metrics, (SCORES,)),
}  # by file: what derives its figures, and from which files
PAGES: dict[str, Callable[[Bundle], list[Tree]]] = {PAGE_06: shown_in_06, PAGE_09: shown_in_09}
CHECKS: Checks = (
    ("hashes", hashes),
    *BUNDLE_CHECKS,
    ("test answers", test_answers),
    *((name, partial(agree, name)) for name in FIGURES),
    ("pages", pages),
    ("sliders", explorer),
    ("index", index),
    ("the rest", sealed_only),
)

if __name__ == "__main__":
    outcome = verify(Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parent))
    sys.stdout.write(outcome.text + "\n")
    sys.exit(0 if outcome.passed else 1)
