"""threshold_recommendation.json: who keeps a threshold of its own, and why."""

from __future__ import annotations

from typing import Any

import numpy as np

from .agreement import TOLERANCE, near, same
from .answers import in_floats, level_probability
from .arithmetic import (
    NEVER,
    Tree,
    ends,
    mean_of_defined,
    nan_as_none,
    share_or_0,
    share_or_none,
    sigmoid,
)
from .folder import Bundle
from .names import CONFIG, RECOMMENDATION, STUDENT
from .search import Search
from .unknown import Sure, derive_unknown, set_by

OBJECTIVE_FIGURES = {
    "fbeta": ("beta",), "precision_floor": ("floor",), "recall_floor": ("floor",),
    "cost": ("cost_false_positive", "cost_false_negative"),
}  # fmt: skip
FAR = 700.0  # as a float logit: always or never


def thresholds(bundle: Bundle) -> str:
    """Derive each threshold's logit and probability from its integer; compare with step 06."""
    config = bundle.config
    tuned = bundle.json(RECOMMENDATION) if bundle.has(RECOMMENDATION) else None
    if tuned:
        stated = tuned["scores"].get("aggregation")
        same("aggregation", config.get("aggregation"), stated)
    if config["task"] == "single_label":
        below = config["thresholds"]["unknown_below"]
        if tuned:
            same(f"confidence of {RECOMMENDATION}", tuned["unknown"]["probability"], below)
        return f"unknown below {below}"
    entries = config["thresholds"]["classes"]
    same("classes with a threshold", [entry["label"] for entry in entries], config["labels"])
    for entry in entries:
        _check_threshold(entry, config)
    if tuned:
        _compare_with_tuned(entries, tuned)
    return f"{len(entries)} thresholds: probability, logit and integer agree"


def _check_threshold(entry: dict[str, Any], config: dict[str, Any]) -> None:
    output, integer = config["output"], entry["integer"]
    if config["thresholds"]["folded"]:
        logit, probability = 0.0, 0.5
        same(f"folded threshold of {entry['label']}", integer, 0)
    elif in_floats(config):
        same(f"integer of {entry['label']}", integer, None)
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
    near(f"threshold of {entry['label']}: logit", entry["logit"], logit)
    near(f"threshold of {entry['label']}: probability", entry["probability"], probability)


def _compare_with_tuned(entries: list[dict[str, Any]], tuned: dict[str, Any]) -> None:
    by_name = {entry["name"]: entry for entry in tuned["classes"]}
    for entry in entries:
        stated = entry.get("tuned", entry)
        for key in ("integer", "logit", "probability"):
            what = f"{key} of {entry['label']}: {RECOMMENDATION} against {CONFIG}"
            near(what, by_name[entry["label"]][key], stated[key])


def derive(bundle: Bundle, stated: Tree) -> Tree:
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
            "prevalence": share_or_none(positives, positives + negatives),
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


def _whole_ends(drawn: np.ndarray) -> list[int]:
    low, high = ends(drawn.astype(np.float64)) or (0, 0)
    return [int(np.floor(low)), int(np.ceil(high))]


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
    return {name: nan_as_none(values) for name, values in found.items()}


def derive_shared_curve(search: Search) -> Tree:
    """Rate every threshold that all classes could share: a list of 257 a column."""
    tp, fp = search.yes
    positives, negatives = (side.sum(1)[:, None] for side in (search.positives, search.negatives))
    integers, occurs = np.arange(-128, 129), positives[:, 0] > 0
    logits = (integers - 0.5 - search.zero_point) * search.scale
    shared, _, _ = search.tune(search.positives, search.negatives)
    macro = {
        "f1_macro": share_or_0(2 * tp, tp + fp + positives),
        "precision_macro": share_or_0(tp, tp + fp),
        "recall_macro": share_or_0(tp, positives),
    }  # fmt: skip
    every = {name: values[occurs].mean(0) if occurs.any() else np.full(257, np.nan)
             for name, values in macro.items()}  # fmt: skip
    if search.has_floor:
        values = search.together(tp, fp, positives[:, 0], negatives[:, 0])
    else:
        values = mean_of_defined(search.values(tp, fp, positives, negatives))
    tp, fp, total = tp.sum(0), fp.sum(0), positives.sum()
    columns = {
        "integer": integers, "logit": logits, "probability": sigmoid(logits), **every,
        "f1_micro": share_or_0(2 * tp, tp + fp + total), "precision_micro": share_or_0(tp, tp + fp),
        "recall_micro": share_or_0(tp, total), "yes_answers": tp + fp,
        "objective": values, "chosen": integers == shared,
    }  # fmt: skip
    return {name: nan_as_none(values) for name, values in columns.items()}


def derive_floats(bundle: Bundle, stated: Tree) -> Tree:
    """Search the thresholds of the float networks, on their answers rounded to the same levels."""
    arrays, found = bundle.validation, {}
    student = bundle.arrays(STUDENT)["logits"]
    logits = {"float student": student, "float twin": arrays["twin_logits"]}
    for name, values in logits.items():
        levels = np.rint(values / float(arrays["scale"])) + int(arrays["zero_point"])
        rounded = arrays | {"raw": np.clip(levels, -128, 127).astype(np.int8)}
        if bundle.settings["task"] == "single_label":
            found[name] = Sure.of(rounded).choose(bundle.settings["single_label"])
        else:
            knobs, seed = bundle.settings["threshold_search"], bundle.settings["seed"]
            found[name] = Search.of(rounded, knobs, seed).probabilities
    return found
