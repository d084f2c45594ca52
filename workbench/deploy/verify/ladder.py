"""quantization_ladder.json: which file ships, and what it lacks beside the float student."""

from __future__ import annotations

import numpy as np

from .agreement import same
from .answers import Answers
from .arithmetic import Tree, labels_of
from .folder import Bundle
from .intervals import paired_loss
from .metrics import rated
from .model import open_model
from .names import REFUSED, STUDENT, TEACHER_SCORES

FULL_INTEGER = ("qat", "qat_skip_worst", "ptq")
RUNGS = {
    "qat": "QAT", "qat_skip_worst": "QAT without the worst layers",
    "ptq": "PTQ, class-covering calibration", "ptq_float_head": "PTQ with float head",
    "float16": "float16",
}  # fmt: skip


def derive(bundle: Bundle, stated: Tree) -> Tree:
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
    same("the rung that ships", chosen, bundle.config["shipped"]["rung"])
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


def _at_one_half(logits: np.ndarray, known: Tree) -> Answers:
    """Answer before any threshold is tuned."""
    said = logits >= 0
    if known["config"]["task"] == "single_label":
        said = np.arange(logits.shape[1]) == logits.argmax(1)[:, None]
    return Answers(score=logits, said=said, **known)


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
