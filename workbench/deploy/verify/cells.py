"""What stands in each table of the pages, column by column."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np

from .agreement import MismatchError, same
from .answers import Answers
from .arithmetic import Tree, count_levels, labels_of, logits_of, sigmoid, softmax
from .evaluation import phone_answers
from .folder import Bundle
from .intervals import LEAST_LABELS
from .metrics import class_figures, macro_means, overall_figures
from .names import CALIBRATION, MANIFEST, METRICS, RECOMMENDATION, RUN, SCORES
from .recommendation import class_thresholds, derive_curve
from .unknown import derive_unknown

COSTS = {"8-bit arithmetic": "float_twin_against_int8",
         "training and arithmetic": "float_against_int8"}  # fmt: skip
PHOTOS = 160  # beside the thresholds of a page
UNKNOWN = object()  # in place of a figure that nothing in the folder tells
ROUNDING = 0.0005 + 1e-6  # of figures in tables
NUMBER = re.compile(r"[-+]?\d+(?:\.\d+)?")
Rows = list[list[str]]  # of a table on a page


def same_cell(what: str, text: str, value: Any) -> None:
    """Compare the text of a cell with a value, or with several that it shows."""
    parts = value if isinstance(value, tuple | list) else [value]
    if all(part is None for part in parts):
        same(what, text, "–")
    elif isinstance(value, str | bool):
        same(what, text, str(value).strip())
    else:
        shown = [float(number) for number in NUMBER.findall(text)]
        same(f"{what}: numbers", len(shown), len(parts))
        for one, other in zip(shown, parts, strict=True):
            if not abs(one - other) <= ROUNDING:
                raise MismatchError(f"{what} shows {text}, derived {other}")


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
        score = softmax(logits_of(arrays))
        searched, used = derive_unknown(bundle, [])["unknown"], found["unknown"]
        bars = 0.5, searched["probability"], used["probability"]
    else:
        score, used = sigmoid(logits_of(arrays)), [row["probability"] for row in found["classes"]]
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
        found[name] = [next(taken)[name] if row[0] == model else None for row in rows]
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
    states = [{"ok": "done"}.get(one["state"], one["state"]) + why + kept
              for one, why, kept in zip(found, reasons, accepted, strict=True)]  # fmt: skip
    times = [f"{one['seconds']:.0f} s" if "seconds" in one else "" for one in found]
    return {"state": states, "time": times}


def about_cells(bundle: Bundle, rows: Rows) -> Tree:
    """Say again what a reviewer asks first, in the order of the page."""
    found, settings = bundle.json(METRICS), bundle.settings
    single = bundle.config["task"] == "single_label"
    kind = "one of them a photo" if single else "several at once"
    latency = [f"{one['p50_ms']:.1f} ms on {one['threads']} thread{'s' * (one['threads'] > 1)}"
               for one in found["host_latency"]]  # fmt: skip
    words = {
        "recognises": f"{len(bundle.config['labels'])} classes, {kind}",
        "size": f"{found['model_bytes'] / 1e6:.1f} MB",
        "time": f"{', '.join(latency)}, an image on the machine that measured",
        "how it was made": _how_made(bundle.config, settings, found),
    }
    if bundle.has(MANIFEST):
        splits = bundle.json(MANIFEST)["images"]
        words["learned from"] = ", ".join(f"{n:,} {split}" for split, n in splits.items())
    for row in found.get("float_twin_against_int8", {}).get("overall", ()):
        if row["figure"] == "f1_macro" and row["difference"] is not None:
            span = "" if row["low"] is None else f" [{row['low']:+.3f}, {row['high']:+.3f}]"
            words["cost of 8 bits"] = (
                f"{row['difference']:+.3f}{span} F1 macro on test, against the same weights in "
                "floats"
            )
    steps = bundle.json(RUN)["steps"].values() if bundle.has(RUN) else ()
    last = max((one.get("finished", "") for one in steps), default="")
    minutes = sum(one.get("seconds", 0.0) for one in steps) / 60
    words["when"] = f"{last[:10]}, {minutes:.1f} minutes in all" if last else ""
    return {"this run": [words[row[0]] for row in rows]}


def _how_made(config: Tree, settings: Tree, found: Tree) -> str:
    side = config["input"]["width"]
    teacher, student = settings["teacher"], settings["student"]
    if student is None:
        return f"{teacher['arch']} at {side} px"
    taught = f", taught by {teacher['arch']}" if settings["distillation"]["enabled"] else ""
    title = found["quantization"]["title"]
    return f"{student['variant']} at {side} px{taught}; {title}"


def surest_cells(bundle: Bundle, rows: Rows) -> Tree:
    """Show each class on the index, with the interval of its F1."""
    classes = bundle.json(METRICS)["test"]["classes"]
    spans = [[row["f1"], *_two(row.get("f1_low"), row.get("f1_high"))] for row in classes]
    counts = {"test photos": "positives", "found": "tp", "missed": "fn", "wrongly said": "fp"}
    return {
        "class": [row["class"] for row in classes],
        **{name: [row[key] for row in classes] for name, key in counts.items()},
        "f1": [span[0] if None in span else span for span in spans],
    }


def _two(low: Any, high: Any) -> list:
    return [] if low is None else [low, high]


def verdict_cells(bundle: Bundle, rows: Rows) -> Tree:
    """Repeat the verdict, which is derived where metrics.json is."""
    found = bundle.json(METRICS)["verdict"]["reasons"]
    return _columns(found, ("rule", "grade", "words"))


def trivial_cells(bundle: Bundle, rows: Rows) -> Tree:
    found = bundle.json(METRICS)["trivial"]["answers"]
    return {"without the photo": list(found), "score": list(found.values())}


def derive_sliders(bundle: Bundle, stated: Tree) -> Tree:
    """Count what the sliders of 06 count, or rate each confidence; find the photos beside them."""
    found: Tree = {"recommendation": bundle.json(RECOMMENDATION)}
    if "photos" in stated:
        found["photos"] = {"classes": derive_photos(bundle)}
    if bundle.config["task"] == "multilabel":
        sides = zip(*(side.tolist() for side in count_levels(bundle.validation)), strict=True)
        integers = bundle.search.apart.tolist()
        total = len(bundle.config["labels"])
        needed = [NormalDist().inv_cdf(1 - 0.05 * n / total) for n in range(1, total + 1)]
        classes = [list(pair) for pair in sides]
        worth = {floor: bundle.search.floor_worth(floor)[:, 0].tolist()
                 for floor in ("precision_floor", "recall_floor")}  # fmt: skip
        found |= {"classes": classes, "integers": integers, "needed": needed}
        return found | {"worth": worth}
    curve = derive_curve(bundle, {})
    rows = zip(*curve.values(), strict=True)
    return found | {"curve": [dict(zip(curve, row, strict=True)) for row in rows]}


def derive_photos(bundle: Bundle) -> list:
    """Take by class, or of the one answer, the photos whose scores lie next to the threshold."""
    arrays, tuned = bundle.validation, bundle.json(RECOMMENDATION)
    known = labels_of(arrays)
    if bundle.config["task"] == "single_label":
        score, starts = softmax(logits_of(arrays)), [tuned["unknown"]["probability"]]
        answers = Answers.at(np.array(0.0), score, known, bundle.config)
        columns = [(score.max(1), answers.right, answers.judged)]
    else:
        starts = [row["integer"] for row in tuned["classes"]]
        columns = zip(arrays["raw"].astype(int).T, known["y_true"].T, known["known"].T, strict=True)
    found, each = [], PHOTOS // (2 * len(starts))
    for (score, there, told), start in zip(columns, starts, strict=True):
        yes, no = np.flatnonzero(told & (score >= start)), np.flatnonzero(told & (score < start))
        beside = (yes[np.argsort(score[yes], kind="stable")][:each],
                  no[np.argsort(-score[no], kind="stable")][:each])  # fmt: skip
        rows = np.concatenate(beside).tolist()
        found.append([[row, score[row].item(), bool(there[row])] for row in rows])
    return found


def derive_mistakes(bundle: Bundle, stated: Tree) -> Tree:
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


def _columns(rows: list[Tree], names: Sequence[str]) -> Tree:
    """Turn rows into columns, those that every row has."""
    return {name: [row[name] for row in rows] for name in names if all(name in row for row in rows)}


Kind = tuple[str, ...]  # the first columns of a table tell what it shows
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
    ("rule", "grade"): verdict_cells,
    ("about", "this run"): about_cells,
    ("class", "f1"): surest_cells,
    ("without the photo", "score"): trivial_cells,
}
