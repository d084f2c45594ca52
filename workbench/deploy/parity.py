"""Prove runtime by runtime that the phone computes what the notebook computed. No TensorFlow.

Logits of the same images, from the Keras student to the app's own code, each compared with the one
before it; who computed them is up to the caller.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from workbench.artifacts import (
    Change,
    Flip,
    InferenceConfig,
    ParityReport,
    ParityRung,
    QuantizationLadder,
)
from workbench.data.decode import decode_image
from workbench.data.tables import Split
from workbench.decide import metrics, outcomes
from workbench.decide.levels import LOWEST, NEVER
from workbench.decide.outcomes import Task, probabilities
from workbench.deploy import tflite, verify
from workbench.deploy.flatbuffer import FAR
from workbench.errors import RungRefusedError, StepError
from workbench.files import read_json, write_json, writing
from workbench.settings import ParitySettings, Settings

log = logging.getLogger(__name__)

SHOWN_FLIPS = 50
KERAS, QAT_TWIN, FAKE_QUANTIZED = "Keras float", "Keras float after QAT", "QAT fake-quant"
REFERENCE, LITERT, PHONE = "TFLite reference kernels", "LiteRT with XNNPACK", "phone harness"
# What changes from one runtime to the next. Only arithmetic and runtime have a budget here: what
# training and quantisation cost was judged in 05, once. Arithmetic, unless named: XNNPACK rounds a
# layer's sums differently, after 80 layers a few levels come of it.
CHANGES: dict[str, Change] = {
    KERAS: "start", QAT_TWIN: "training", FAKE_QUANTIZED: "quantisation", PHONE: "runtime",
}  # fmt: skip
REFUSED = "refused_rungs.json"  # files that 07 refused, by sha256; 05 reads it


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
    levels: tuple[float, int],
) -> tuple[np.ndarray, np.ndarray]:
    """Do what the app does, with the bundle's own code: return logits and decisions [N, C].

    `like` are LiteRT's integers for the candidate, `levels` their scale and zero point. A file with
    folded thresholds or an activation inside has other numbers: what it gives is compared with what
    they must become, and the difference, of a logit or a probability, is put on LiteRT's logits.
    """
    values = config.to_json()
    interpreter, table = verify.open_model(model), verify.input_table(values["input"])
    photos = (decode_image(split.path(row), settings.dataset) for row in rows)
    boxes = (verify.letterbox(photo, config.input.width) for photo in photos)
    raw = np.stack([verify.run_model(interpreter, table[box]) for box in boxes])
    answers = verify.decide(raw, values)
    decisions = np.array([[name in found for name in config.labels] for found in answers])
    if config.output.dtype == "float32":
        return raw, decisions
    off = raw.astype(np.int32) - _shipped_integers(like, config, *levels)
    return tflite.logits_of(like, *levels) + off * config.output.scale, decisions


def _shipped_integers(
    raw: np.ndarray, config: InferenceConfig, scale: float, zero_point: int
) -> np.ndarray:
    """Say what the file that ships must give where its candidate gave `raw`, int8 [N, C]."""
    found = raw.astype(np.int32)
    if getattr(config.thresholds, "folded", False):
        integers = np.array([entry.tuned.integer for entry in config.thresholds.classes])
        always, never = (integers <= LOWEST) * FAR, (integers >= NEVER) * FAR
        found, zero_point = np.clip(found - integers + always - never, LOWEST, NEVER - 1), 0
    if config.output.is_logits:
        return found
    probability = probabilities((found - zero_point) * scale, config.task)
    output = config.output
    return np.clip(np.rint(probability / output.scale) + output.zero_point, LOWEST, NEVER - 1)


def keep_scores(
    path: Path, logits: Mapping[str, np.ndarray], said: np.ndarray, split: Split,
    rows: Sequence[int],
) -> None:  # fmt: skip
    """Write what `verify` compares the runtimes by again; `said` is what the phone harness said."""
    grouped = {} if split.groups is None else {"groups": split.groups[rows]}
    with writing(path) as temporary, open(temporary, "wb") as file:
        np.savez_compressed(
            file, runtimes=np.array(list(logits)), logits=np.stack(list(logits.values())),
            said=said, y_true=split.targets[rows], mask=split.mask[rows], **grouped,
            images=np.array([split.filepaths[row] for row in rows], dtype=np.str_),
        )  # fmt: skip


def measure_parity(
    logits: Mapping[str, np.ndarray],
    decisions: Mapping[str, np.ndarray],
    y_true: np.ndarray,
    mask: np.ndarray,
    classes: Sequence[str],
    images: Sequence[str],
    budget: ParitySettings,
    *,
    simulated: bool = True,
) -> ParityReport:
    """Compare each runtime of `logits` with the one before it; `images` names the rows.

    `simulated` tells whether fake quantisation holds every integer of the file. Where it does not,
    as in PTQ, the step to the reference kernels is quantisation.
    """
    rungs: list[ParityRung] = []
    before = None
    for name, values in logits.items():
        answers = decisions[name]
        f1 = metrics.f1_macro(y_true, answers, mask)
        figures = {
            "name": name,
            "change": "quantisation"
            if name == REFERENCE and not simulated
            else CHANGES.get(name, "arithmetic"),
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
    """Arithmetic may change few decisions, another runtime of the same integers none."""
    if change not in ("arithmetic", "runtime"):
        return ""
    flips, fraction = int(changed.sum()), float(changed.mean())
    if change == "runtime" and flips > budget.max_runtime_flips:
        return f"{flips} decisions flip; parity.max_runtime_flips allows {budget.max_runtime_flips}"
    if drop is not None and drop > budget.max_f1_drop:
        return f"F1 macro drops by {drop:.4f}; parity.max_f1_drop allows {budget.max_f1_drop:g}"
    if change == "arithmetic" and fraction > budget.max_flip_fraction:
        allowed = budget.max_flip_fraction
        return f"{fraction:.2%} of decisions flip; parity.max_flip_fraction allows {allowed:.2%}"
    return ""


def require_parity(parity: ParityReport, ladder: QuantizationLadder, folder: Path) -> None:
    """Step down the ladder when a runtime computes something else than the one before it.

    The file is written down as refused; 05 leaves it out and takes the next rung. A file that ships
    although it was refused is the last one there is: the report tells. The app's own code around
    LiteRT is the same for every rung, so nothing ships while it decides otherwise.
    """
    lost = [f'"{rung.name}": {rung.verdict}' for rung in parity.rungs if rung.verdict]
    if not lost:
        return
    if any(rung.verdict and rung.change == "runtime" for rung in parity.rungs):
        raise StepError(f"the app's own code decides otherwise at {'; '.join(lost)}")
    if not ladder.rungs:
        raise StepError(f"{ladder.title} lost parity at {'; '.join(lost)}")
    sha256 = next(rung.sha256 for rung in ladder.rungs if rung.rung == ladder.chosen)
    refused = refused_files(folder)
    if sha256 in refused:
        log.warning("parity is lost at %s, and no rung is left below %s", lost[0], ladder.title)
        return
    reason = f"07 lost parity at {'; '.join(lost)}"
    write_json(folder / REFUSED, {**refused, sha256: reason})
    raise RungRefusedError(
        f"{ladder.title}: {reason}. Run 05, 06 and 07 again: 05 takes the next rung. The command "
        f"line does so by itself; delete {REFUSED} to try this file again"
    )


def refused_files(folder: Path) -> dict[str, str]:
    """Read why 07 refused files, by their sha256."""
    path = Path(folder) / REFUSED
    return read_json(path) if path.exists() else {}
