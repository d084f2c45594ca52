"""parity.json: does every runtime decide what the one before it decided?"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from .answers import Answers, in_floats
from .arithmetic import Tree, labels_of, softmax
from .folder import Bundle
from .metrics import rated
from .names import LADDER, PARITY_SCORES, RECOMMENDATION

RUNTIMES = {
    "Keras float": "start", "Keras float after QAT": "training",
    "QAT fake-quant": "quantisation", "phone harness": "runtime",
}  # fmt: skip
PLAIN = {"TFLite reference kernels": "quantisation"}  # where fake quantisation holds no integers


def derive(bundle: Bundle, stated: Tree) -> Tree:
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
