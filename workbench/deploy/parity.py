"""Prove runtime by runtime that the phone computes what the notebook computed. No TensorFlow.

Logits of the same images, from the Keras student to the app's own code, each compared with the one
before it; who computed them is up to the caller.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

import numpy as np

from workbench.artifacts import Change, Flip, InferenceConfig, ParityReport, ParityRung
from workbench.data.decode import decode_image
from workbench.data.tables import Split
from workbench.decide import metrics, outcomes
from workbench.decide.outcomes import Task, probabilities
from workbench.deploy import tflite, verify
from workbench.errors import StepError
from workbench.settings import ParitySettings, Settings

log = logging.getLogger(__name__)

SHOWN_FLIPS = 50
KERAS, QAT_TWIN, FAKE_QUANTIZED = "Keras float", "Keras float after QAT", "QAT fake-quant"
REFERENCE, LITERT, PHONE = "TFLite reference kernels", "LiteRT with XNNPACK", "phone harness"
# What changes from one runtime to the next decides which budget holds. Arithmetic, unless named:
# XNNPACK rounds a layer's sums differently, after 80 layers a few levels come of it.
CHANGES: dict[str, Change] = {KERAS: "start", QAT_TWIN: "training", PHONE: "runtime"}


def decide_logits(logits: np.ndarray, task: Task, thresholds: np.ndarray | float = 0.0):
    """Answer from logits [N, C], bool [N, C]: every class at its logit threshold, or the one best
    class whose probability reaches `thresholds`. The default is the neutral one half, or none.
    """
    scores = logits if task == "multilabel" else probabilities(logits, task)
    return outcomes.decide(scores, thresholds, task)


def phone_harness(
    model: bytes,
    config: InferenceConfig,
    split: Split,
    rows: Sequence[int],
    settings: Settings,
    *,
    like: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Do what the app does, with the bundle's own code: return logits and decisions [N, C].

    A file with folded thresholds or an activation inside has other numbers, but must decide alike:
    its logits are those of `like`.
    """
    values = config.to_json()
    interpreter, table = verify.open_model(model), verify.input_table(values["input"])
    photos = (decode_image(split.path(row), settings.dataset) for row in rows)
    boxes = (verify.letterbox(photo, config.input.width) for photo in photos)
    raw = np.stack([verify.run_model(interpreter, table[box]) for box in boxes])
    answers = verify.decide(raw, values)
    decisions = np.array([[name in found for name in config.labels] for found in answers])
    plain = config.output.is_logits and not getattr(config.thresholds, "folded", False)
    output = config.output.scale, config.output.zero_point
    return tflite.logits_of(raw, *output) if plain else like, decisions


def measure_parity(
    logits: Mapping[str, np.ndarray],
    decisions: Mapping[str, np.ndarray],
    y_true: np.ndarray,
    mask: np.ndarray,
    classes: Sequence[str],
    images: Sequence[str],
    budget: ParitySettings,
) -> ParityReport:
    """Compare each runtime of `logits` with the one before it; `images` names the rows."""
    rungs: list[ParityRung] = []
    before = None
    for name, values in logits.items():
        answers = decisions[name]
        f1 = metrics.f1_macro(y_true, answers, mask)
        figures = {
            "name": name,
            "change": CHANGES.get(name, "arithmetic"),
            "f1_macro": f1,
            "map": metrics.mean_average_precision(y_true, values, mask),
        }
        changed = _changes(figures, before, values, answers, classes, images, budget)
        rungs.append(ParityRung(**figures, **changed))
        log.info("parity, %s: %d decisions differ %s", name, rungs[-1].flips, rungs[-1].verdict)
        before = f1, values, answers
    passed = not any(rung.verdict for rung in rungs)
    return ParityReport(passed=passed, images=len(y_true), rungs=tuple(rungs))


def _changes(figures, before, values, answers, classes, images, budget) -> dict:
    """Say what changed since the runtime before, and which budget that breaks."""
    if before is None:
        none = dict.fromkeys(("f1_drop", "largest_difference"))
        flips = {"flips": 0, "flip_fraction": 0.0, "flips_by_class": dict.fromkeys(classes, 0)}
        return {**none, **flips, "verdict": ""}
    before_f1, before_values, before_answers = before
    changed, f1 = answers != before_answers, figures["f1_macro"]
    drop = None if f1 is None or before_f1 is None else before_f1 - f1
    flipped = [
        Flip(image=images[row], label=classes[column], before=before_values[row, column],
             after=values[row, column])
        for row, column in np.argwhere(changed)[:SHOWN_FLIPS]
    ]  # fmt: skip
    return {
        "f1_drop": drop,
        "largest_difference": float(np.abs(values - before_values).max()),
        "flips": int(changed.sum()),
        "flip_fraction": float(changed.mean()),
        "flips_by_class": dict(zip(classes, changed.sum(0).tolist(), strict=True)),
        "verdict": _verdict(figures["change"], drop, changed, budget),
        "flipped": tuple(flipped),
    }


def _verdict(
    change: Change, drop: float | None, changed: np.ndarray, budget: ParitySettings
) -> str:
    """Training may change decisions as long as F1 holds, arithmetic few, another runtime none."""
    flips, fraction = int(changed.sum()), float(changed.mean())
    if drop is not None and drop > budget.max_f1_drop:
        return f"F1 macro drops by {drop:.4f}; parity.max_f1_drop allows {budget.max_f1_drop:g}"
    if change == "runtime" and flips > budget.max_runtime_flips:
        return f"{flips} decisions flip; parity.max_runtime_flips allows {budget.max_runtime_flips}"
    if change == "arithmetic" and fraction > budget.max_flip_fraction:
        allowed = budget.max_flip_fraction
        return f"{fraction:.2%} of decisions flip; parity.max_flip_fraction allows {allowed:.2%}"
    return ""


def require_parity(parity: ParityReport) -> None:
    """Fail the run when a runtime exceeds its budget, naming it."""
    for rung in parity.rungs:
        if rung.verdict:
            raise StepError(
                f'parity is lost at "{rung.name}": {rung.verdict}. Look at the layers in '
                "05_quantize_student, or widen the budget under parity knowingly."
            )
