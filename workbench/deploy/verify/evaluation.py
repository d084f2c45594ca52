"""metrics.json: evaluate the sealed test answers again, and compare with the float networks."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .answers import Answers, decide, probabilities, probability_thresholds
from .arithmetic import Arrays, Tree, ends, labels_of
from .folder import Bundle
from .intervals import LEAST_IMAGES, errors_apart, resample, resampled_intervals, share_intervals
from .metrics import class_figures, confused, confusion, macro_means, overall_figures
from .names import FLOATS, LADDER, SCORES, SETTINGS
from .verdict import derive_trivial, derive_verdict

NETWORKS = {"float": "float student", "float_twin": "float twin"}
LOWER_IS_BETTER = ("hamming_loss", "calibration_error")
NEITHER_IS_BETTER = ("no_label_rate", "true_no_label_rate", "coverage")


def derive(bundle: Bundle, stated: Tree) -> Tree:
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
    if "verdict" in stated:
        drawn = stated["test"]["bootstrap_replicates"], stated["test"]["seed"]
        found["trivial"] = derive_trivial(phone_answers(bundle, bundle.arrays(SCORES))[0], *drawn)
        found["verdict"] = derive_verdict(bundle, stated)
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


def derive_differences(sides: Sequence[tuple[Answers, Tree]], stated: Tree) -> Tree:
    """Compare two evaluations of the same images, drawn alike, second less first."""
    resampling = stated["bootstrap_replicates"], stated["seed"]
    drawn = [resample(answers, measured, *resampling) for answers, measured in sides]
    found = [measured for _, measured in sides]
    overall, classes = [], []
    for row in stated["overall"]:
        name = row["figure"]
        both = [side["overall"][name]["value"] for side in found]
        if name == "calibration_error":
            span = errors_apart([answers for answers, _ in sides], both, *resampling)
        else:
            span = ends(drawn[1][0][name] - drawn[0][0][name])
        overall.append({"figure": name, **_difference(row, *both, span)})
    places = {row["class"]: i for i, row in enumerate(found[0]["classes"])}
    for row in stated["classes"]:
        name, i = row["figure"], places[row["class"]]
        both = [side["classes"][i][name] for side in found]
        span = ends((drawn[1][1][name] - drawn[0][1][name])[:, i])
        classes.append({"class": row["class"], "figure": name, **_difference(row, *both, span)})
    images = len(sides[0][0].score)
    return {"images": images, "left_out": [0, 0], "overall": overall, "classes": classes}


def _difference(
    row: Tree, first: float | None, second: float | None, span: tuple[float, float] | None
) -> Tree:
    """The verdict follows from the stated ends: one may lie a rounding away from 0."""
    low, high = span or (None, None)
    verdict = "open"
    if low is not None and (row["low"] > 0 or row["high"] < 0):
        better = (row["low"] > 0) != (row["figure"] in LOWER_IS_BETTER)
        verdict = "better" if better else "worse"
        verdict = "differs" if row["figure"] in NEITHER_IS_BETTER else verdict
    both = first is not None and second is not None
    difference = second - first if both else None
    return {"first": first, "second": second, "difference": difference, "low": low, "high": high,
            "verdict": verdict}  # fmt: skip


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
