"""Ready, with care or not ready: the answers that ignore the photo, and every rule again."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np

from .answers import Answers, in_floats
from .arithmetic import NEVER, Tree, draw_weights, ends
from .folder import Bundle
from .intervals import LEAST_IMAGES, paired_loss
from .names import AUDIT, LADDER, PARITY, RECOMMENDATION, RUN, TEACHER

READY, CARE, NOT = "ready", "with care", "not ready"
RANDOM = "at random, as often as it is true"
Reason = tuple[str, str, str]  # rule, grade, words


def derive_trivial(answers: Answers, replicates: int, seed: int) -> Tree:
    """Score always yes, the most frequent class, and luck, on the very same photos."""
    if answers.config["task"] == "single_label":
        return _one_class(answers, replicates, seed)
    known, true = answers.known.sum(0), (answers.y_true & answers.known).sum(0)
    here = true > 0
    yes = 2 * true / np.maximum(true + known, 1)
    alone = np.where(np.arange(len(true)) == true.argmax(), yes, 0)
    scores = {
        "always yes": yes, "the most frequent class alone": alone,
        RANDOM: true / np.maximum(known, 1), "always no": 0 * yes,
    }  # fmt: skip
    scores = {name: float(each[here].mean()) if here.any() else 0.0
              for name, each in scores.items()}  # fmt: skip
    always = Answers(answers.y_true, answers.known, answers.score, np.ones_like(answers.said),
                     answers.config, answers.groups)  # fmt: skip
    loss, span = paired_loss(answers, always, replicates, seed)
    return _trivial("f1_macro", scores, loss, span, len(answers.score))


def _one_class(answers: Answers, replicates: int, seed: int) -> Tree:
    counted = answers.labelled
    best = answers.y_true.argmax(1)
    shares = np.bincount(best[counted]) / max(1, counted.sum())
    if not counted.any():
        return _trivial("accuracy", {"the most frequent class": 0.0}, None, None, 0)
    scores = {"the most frequent class": float(shares.max()),
              RANDOM: float((shares**2).sum())}  # fmt: skip
    gains = np.where(counted, answers.right.astype(float) - (best == shares.argmax()), 0)
    rng = np.random.default_rng(seed)
    drawn = [weights @ gains / np.maximum(weights @ counted, 1)
             for weights in draw_weights(answers.units, replicates, rng)]  # fmt: skip
    span = ends(np.concatenate(drawn)) if drawn else None
    return _trivial("accuracy", scores, gains[counted].mean(), span, int(counted.sum()))


def _trivial(figure: str, scores: Tree, gain: float | None, span, images: int) -> Tree:
    ordered = dict(sorted(scores.items(), key=lambda one: -one[1]))
    told = span is not None and images >= LEAST_IMAGES
    return {"figure": figure, "answers": ordered, "gain": gain,
            "interval": list(span) if told else None}  # fmt: skip


def derive_verdict(bundle: Bundle, stated: Tree) -> Tree:
    """Apply the rules again to the stated figures; the gravest grade is the verdict."""
    rules, trivial, test = bundle.settings["verdict"], stated["trivial"], stated["test"]
    reasons = [
        *_gain(trivial, rules), *_level(test, rules), *_photos(test, rules),
        *_classes(bundle, test, rules), *_coverage(bundle, test), *_audit(bundle, test, rules),
        *_teacher(bundle, rules), *_file(bundle), *_cost(stated, rules), *_openings(bundle, rules),
    ]  # fmt: skip
    reasons.sort(key=lambda one: (NOT, CARE, READY).index(one[1]))
    rows = [dict(zip(("rule", "grade", "words"), one, strict=True)) for one in reasons]
    return {"grade": reasons[0][1], "reasons": rows}


def _gain(trivial: Tree, rules: Tree) -> Iterator[Reason]:
    best, base = next(iter(trivial["answers"].items()))
    gain, span, least = trivial["gain"], trivial["interval"], rules["min_gain"]
    if gain is None:
        return
    title = {"f1_macro": "F1 macro", "accuracy": "accuracy"}[trivial["figure"]]
    words = (
        f"{title} {base + gain:.3f}, where “{best}” scores {base:.3f} on the same photos: "
        f"{gain:+.3f}" + (f" [{span[0]:+.3f}, {span[1]:+.3f}]" if span else "")
    )
    grade = NOT if span is None or span[0] <= 0 or gain < least else READY
    if grade == NOT:
        words += (
            f". It has to be surely above 0 and at least {least:g}: the network has learned next "
            "to nothing. Train it longer, from pretrained weights, or check labels"
        )
    elif span[0] < least:
        grade, words = CARE, (
            f"{words}. That it is at least {least:g} is not sure. Label more photos for test, or "
            "train it longer"
        )  # fmt: skip
    yield "trivial answers", grade, words


def _level(test: Tree, rules: Tree) -> Iterator[Reason]:
    value, least = test["overall"]["f1_macro"]["value"], rules["min_f1"]
    if value is None:
        words = (
            "F1 macro is undefined: no test photo is known to have a class. Label the test photos"
        )
        yield "level", NOT, words
    elif value < least:
        words = (
            f"F1 macro {value:.3f} is below {least:g}: more than two mistakes for every right yes. "
            "Train it longer, on more photos, or leave out what it cannot tell"
        )
        yield "level", NOT, words


def _photos(test: Tree, rules: Tree) -> Iterator[Reason]:
    images, figure = test["images"], test["overall"]["f1_macro"]
    more = ". Label more photos for test"
    if images < rules["min_test_images"]:
        words = (
            f"{images} test photos, fewer than {rules['min_test_images']}: where none goes wrong "
            f"one in {max(1, round(images / 3))} still may{more}"
        )
        yield "test photos", NOT, words
    elif figure["interval"] is None:
        words = f"{images} test photos, and F1 macro has no interval: {figure['withheld']}{more}"
        yield "test photos", CARE, words
    else:
        low, high = figure["interval"]
        wide = high - low > rules["max_interval_width"]
        note = f", wider than {rules['max_interval_width']:g}: too wide to decide much{more}"
        words = f"{images} test photos put F1 macro between {low:.3f} and {high:.3f}" + (
            note if wide else ""
        )
        yield "test photos", CARE if wide else READY, words


def _classes(bundle: Bundle, test: Tree, rules: Tree) -> Iterator[Reason]:
    rows = test["classes"]
    judged = [row for row in rows if row["positives"] and row["f1"] is not None]
    if judged:
        row = min(judged, key=lambda one: one["f1"])
        span = [row.get("f1_low"), row.get("f1_high")]
        words = f"the weakest class is {row['class']}: F1 {row['f1']:.3f} " + (
            "without interval" if None in span else f"[{span[0]:.3f}, {span[1]:.3f}]"
        )
        below = [one["class"] for one in judged if one["f1"] < rules["min_class_f1"]]
        if below:
            words += (
                f"; below {rules['min_class_f1']:g}: {_listed(below)}. Add photos of what they are "
                "confused with, or leave them out"
            )
        yield "weakest class", CARE if below else READY, words
    tuned = []
    if bundle.config["task"] == "multilabel":
        tuned = bundle.json(RECOMMENDATION)["classes"]
    few = rules["min_class_images"]
    untested = [row["class"] for row in rows if not row["positives"]]
    for what, names in (
        ("absent from test, so nobody judged them", untested),
        ("absent from val, so nobody tuned them", [r["name"] for r in tuned if not r["positives"]]),
        (f"judged on fewer than {few} test photos",
         [r["class"] for r in rows if 0 < r["positives"] < few]),
    ):  # fmt: skip
        if names:
            then = "Add photos of them, or leave them out"
            yield "classes without photos", CARE, f"{what}: {_listed(names)}. {then}"
    yield from _constant(rows, tuned, rules)


def _constant(rows: Sequence[Tree], tuned: Sequence[Tree], rules: Tree) -> Iterator[Reason]:
    seen: dict[str, None] = {}
    for word, integer in (("always", -128), ("never", NEVER)):
        names = {row["name"]: None for row in tuned if row["integer"] == integer}
        for row in rows:
            said, known = row["tp"] + row["fp"], row["positives"] + row["negatives"]
            if (known and said == known) if word == "always" else (row["positives"] and not said):
                names[row["class"]] = None
        seen |= names
        if names:
            many = len(seen) >= rules["max_constant_share"] * len(rows)
            words = (
                f"the answer is {word} yes, whatever the photo: {_listed(list(names))}. Set their "
                "thresholds in 06, or add photos and train again"
            )
            yield "constant answers", NOT if many else CARE, words


def _coverage(bundle: Bundle, test: Tree) -> Iterator[Reason]:
    if bundle.config["task"] != "single_label":
        return
    answered = test["overall"]["coverage"]["value"] or 0.0
    wanted = bundle.settings["single_label"]["threshold_min_coverage"]
    words = f"{answered:.1%} of the test photos get an answer that is not unknown"
    if answered >= wanted:
        yield "coverage", READY, words
    else:
        words = (
            f"{words}, fewer than {wanted:.0%} (single_label.threshold_min_coverage). Lower "
            "single_label.threshold_target_accept_accuracy, or train it longer"
        )
        yield "coverage", CARE if answered else NOT, words


def _audit(bundle: Bundle, test: Tree, rules: Tree) -> Iterator[Reason]:
    rows = []
    if bundle.has(AUDIT):
        found = csv.DictReader(io.StringIO(bundle.bytes(AUDIT).decode("utf-8")))
        rows = [row for row in found if row["severity"] == "error"]
    for kind, count in Counter(row["kind"] for row in rows).most_common():
        of_kind = [row for row in rows if row["kind"] == kind]
        first, more = of_kind[0], f" (and {count - 1} more)" if count > 1 else ""
        where = " ".join(part for part in (first["split"], first["image"]) if part)
        words = f"the audit found {kind}: {where}: {first['detail']}{more}"
        if kind == "leak":
            share = len({row["image"] for row in of_kind if row["split"] == "test"})
            share, allowed = share / max(1, test["images"]), rules["max_leaked_share"]
            words = (
                f"{words}; {share:.1%} of the test photos, {allowed:.1%} may leak. Train on "
                "proposed_split/, or remove the copies"
            )
            yield "audit", NOT if share > allowed else CARE, words
        else:
            grade = NOT if kind == "class_missing" else CARE
            yield "audit", grade, f"{words}. Mend what 01 names and run again"
    if not rows:
        yield "audit", READY, "the audit found no error and no leak"


def _teacher(bundle: Bundle, rules: Tree) -> Iterator[Reason]:
    if in_floats(bundle.config) or not bundle.settings["distillation"]["enabled"]:
        return
    found = bundle.json(TEACHER) if bundle.has(TEACHER) else {"interval": None}
    if found["interval"] is None or found["difference"] is None:
        return
    low, high = found["interval"]
    most = rules["max_behind_teacher"]
    words = (
        f"F1 macro on validation {found['other_f1']:.3f}, the teacher's {found['teacher_f1']:.3f}: "
        f"the teacher has {found['difference']:+.3f} [{low:+.3f}, {high:+.3f}]"
    )
    if low > most:
        words += (
            f", surely more than {most:g}. Train the student longer, or take a larger "
            "student.variant"
        )
    yield "teacher", CARE if low > most else READY, words


def _file(bundle: Bundle) -> Iterator[Reason]:
    if bundle.has(LADDER) and not in_floats(bundle.config):
        ladder = bundle.json(LADDER)
        rung = next(row for row in ladder["rungs"] if row["rung"] == ladder["chosen"])
        beyond = ladder["budget"] == "beyond"
        then = ". See 05 for the layers that lose most" if beyond else ""
        words = f"the file is that of {rung['title']}: {rung['reason']}{then}"
        yield "8 bits", CARE if beyond else READY, words
    for row in bundle.json(PARITY)["rungs"] if bundle.has(PARITY) else ():
        if row["verdict"]:
            words = (
                f"parity is lost at “{row['name']}”, and no other file was left: {row['verdict']}. "
                "The phone would not decide as measured: see 07"
            )
            yield "parity", NOT, words


def _cost(stated: Tree, rules: Tree) -> Iterator[Reason]:
    megabytes, most = stated["model_bytes"] / 1e6, rules["max_megabytes"]
    large = megabytes > most
    then = ". Take a smaller student.variant" if large else ""
    words = f"the file has {megabytes:.1f} MB, {most:g} are allowed{then}"
    yield "size", CARE if large else READY, words
    alone = [row["p50_ms"] for row in stated["host_latency"] if row["threads"] == 1]
    for taken in alone[:1]:
        slow = taken > rules["max_milliseconds"]
        then = ". Take a smaller student.variant or student.input_size" if slow else ""
        words = (
            f"an image takes {taken:.1f} ms on one thread of the machine that measured, "
            f"{rules['max_milliseconds']:g} are allowed{then}"
        )
        yield "latency", CARE if slow else READY, words


def _openings(bundle: Bundle, rules: Tree) -> Iterator[Reason]:
    known = bundle.json(RUN) if bundle.has(RUN) else {}
    opened, most = known.get("test_split", {"opened": 0})["opened"], rules["max_test_openings"]
    if opened > 1:
        then = f". More than {most} ask for fresh test photos" if opened > most else ""
        words = (
            f"this run opened its test split {opened} times: what was changed in between may have "
            f"been chosen on it{then}"
        )
        yield "test openings", CARE if opened > most else READY, words


def _listed(names: list[str]) -> str:
    return ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")
