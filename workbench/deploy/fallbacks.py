"""The rungs of the fallback ladder: try one, score it, step down with the reason in words.

Rungs, best first: QAT, QAT without its worst layers, PTQ, PTQ with a float head, float16. The
first one that holds ships. Rungs below it are not needed and cost nothing; `ladder.force_rung`
ships one whatever it scores.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import numpy as np

from workbench.decide import intervals as bootstrap
from workbench.decide import metrics
from workbench.deploy import tflite
from workbench.errors import StepError
from workbench.settings import LadderSettings

# What a candidate is worth on validation, paired with the float student. NumPy only.


@dataclass(frozen=True)
class Truth:
    """The labels of a split."""

    y_true: np.ndarray  # [N, C]
    mask: np.ndarray  # [N, C], 0 where unknown
    task: str


@dataclass(frozen=True)
class Score:
    """F1 and mAP, and how far F1 lies below the float student's; a negative drop is a gain."""

    f1_macro: float
    map: float | None
    drop: float
    drop_interval: tuple[float | None, float | None]


def decide_neutrally(logits: np.ndarray, task: str) -> np.ndarray:
    """Say yes at probability one half; for a single label, to the highest class. bool [N, C]"""
    if task == "single_label":
        return logits.argmax(axis=1)[:, None] == np.arange(logits.shape[1])
    return logits >= 0


def score_logits(
    logits: np.ndarray, reference: np.ndarray, truth: Truth, *, replicates: int, seed: int
) -> Score:
    """Compare logits [N, C] with the float student's on the same images."""
    ours, theirs = (decide_neutrally(scores, truth.task) for scores in (logits, reference))
    f1 = _f1_macro(ours, truth)
    interval = _drop_interval(ours, theirs, truth, replicates, np.random.default_rng(seed))
    return Score(f1, mean_average_precision(logits, truth), _f1_macro(theirs, truth) - f1, interval)


def f1_macro(logits: np.ndarray, truth: Truth) -> float:
    return _f1_macro(decide_neutrally(logits, truth.task), truth)


def _f1_macro(decisions: np.ndarray, truth: Truth) -> float:
    value = metrics.f1_macro(truth.y_true, decisions, truth.mask)
    return 0.0 if value is None else float(value)


def mean_average_precision(logits: np.ndarray, truth: Truth) -> float | None:
    return metrics.mean_average_precision(truth.y_true, logits, truth.mask)


def _drop_interval(
    ours: np.ndarray, theirs: np.ndarray, truth: Truth, replicates: int, rng: np.random.Generator
) -> tuple[float | None, float | None]:
    """95 % interval of the paired difference: both sides see the same resampled images."""
    differences = [
        _weighted_f1(theirs, truth, weights) - _weighted_f1(ours, truth, weights)
        for weights in bootstrap.image_weights(len(ours), replicates, rng)
    ]
    return bootstrap.interval(np.concatenate(differences)) or (None, None)


def _weighted_f1(decisions: np.ndarray, truth: Truth, weights: np.ndarray) -> np.ndarray:
    """F1 macro of each replicate; weights are [N, B]. Classes without positives are left out."""
    known, positive = truth.mask > 0.5, truth.y_true > 0.5
    hits, said, exist = (
        (flags & known).astype(np.float32).T @ weights
        for flags in (decisions & positive, decisions, positive)
    )
    f1 = np.where(exist > 0, 2 * hits / np.maximum(said + exist, 1), np.nan)
    return np.nanmean(f1, axis=0) if (exist > 0).any() else np.full(weights.shape[1], np.nan)


# The rungs of the fallback ladder: try one, score it, step down with the reason in words.

log = logging.getLogger(__name__)

RUNGS = ("qat", "qat_skip_worst", "ptq", "ptq_float_head", "float16")
TITLES = {
    "qat": "QAT",
    "qat_skip_worst": "QAT without the worst layers",
    "ptq": "PTQ, class-covering calibration",
    "ptq_float_head": "PTQ with float head",
    "float16": "float16",
}
FULL_INTEGER = ("qat", "qat_skip_worst", "ptq")


@dataclass(frozen=True)
class Rung:
    """One rung and what became of it."""

    name: str
    state: str  # shipped | failed | not needed
    reason: str
    score: Score | None = None
    bytes: int | None = None
    sha256: str | None = None
    input_type: str | None = None
    output_type: str | None = None
    float_tensors: int | None = None
    seconds: float | None = None


def row(rung: Rung) -> dict[str, Any]:
    """Flatten a rung for tables and JSON."""
    score = rung.score
    return {
        "rung": rung.name,
        "title": TITLES[rung.name],
        "state": rung.state,
        "f1_macro": score.f1_macro if score else None,
        "map": score.map if score else None,
        "drop": score.drop if score else None,
        "drop_interval": list(score.drop_interval) if score else None,
        "bytes": rung.bytes,
        "sha256": rung.sha256,
        "input_type": rung.input_type,
        "output_type": rung.output_type,
        "float_tensors": rung.float_tensors,
        "seconds": rung.seconds,
        "reason": rung.reason,
    }


Maker = Callable[[], bytes]
Made = tuple[bytes, np.ndarray]  # a file and its raw output on validation


def climb_down(
    makers: Mapping[str, Maker],
    run: Callable[[bytes], np.ndarray],
    judge: Callable[[np.ndarray], Score],
    settings: LadderSettings,
) -> tuple[list[Rung], Made]:
    """Try rung after rung until one holds; return what became of each, and the one that ships.

    A maker gives the file of its rung, `run` the raw output on validation, `judge` the worth of
    its logits.
    """
    rungs: list[Rung] = []
    chosen: Made | None = None
    for name in RUNGS:
        skipped = _not_needed(name, chosen is not None, settings)
        if skipped:
            rungs.append(skipped)
            continue
        rung, made = _try_rung(name, makers, run, judge, settings)
        log.info("%s %s: %s", TITLES[name], rung.state, rung.reason)
        rungs.append(rung)
        chosen = made if rung.state == "shipped" else None
    if chosen is None:
        raise StepError(_nothing_holds(rungs))
    return rungs, chosen


def _not_needed(name: str, holds: bool, settings: LadderSettings) -> Rung | None:
    if settings.force_rung and settings.force_rung != name:
        return Rung(name, "not needed", f"ladder.force_rung asks for {settings.force_rung}")
    return Rung(name, "not needed", "a rung above holds") if holds else None


def _try_rung(
    name: str,
    makers: Mapping[str, Maker],
    run: Callable[[bytes], np.ndarray],
    judge: Callable[[np.ndarray], Score],
    settings: LadderSettings,
) -> tuple[Rung, Made | None]:
    """Make, run and score one rung; every failure that a lower rung may survive is a reason."""
    started = time.monotonic()
    if name not in makers:
        return Rung(name, "failed", "qat.enabled is off"), None
    try:
        model = makers[name]()
        if name in FULL_INTEGER:
            tflite.require_full_integer(model)
        raw = run(model)
        logits = tflite.logits_of(raw, *tflite.output_quantization(model))
        score = judge(_finite(logits))
    except StepError as error:
        return Rung(name, "failed", str(error), seconds=time.monotonic() - started), None
    state, reason = _verdict(score, settings)
    rung = Rung(
        name,
        state,
        reason,
        score,
        bytes=len(model),
        sha256=sha256(model).hexdigest(),
        input_type=tflite.input_port(model).dtype,
        output_type=tflite.output_port(model).dtype,
        float_tensors=len(tflite.scan_tensors(model).float_tensors),
        seconds=time.monotonic() - started,
    )
    return rung, (model, raw)


def _finite(logits: np.ndarray) -> np.ndarray:
    if not np.isfinite(logits).all():
        raise StepError(f"{int((~np.isfinite(logits)).sum())} logits are NaN or infinite")
    return logits


def _verdict(score: Score, settings: LadderSettings) -> tuple[str, str]:
    side = "below" if score.drop >= 0 else "above"
    drop = f"F1 macro {score.f1_macro:.4f}, {abs(score.drop):.4f} {side} the float student"
    if settings.force_rung:
        return "shipped", f"forced by ladder.force_rung; {drop}"
    if score.drop > settings.max_drop:
        return "failed", f"{drop}; ladder.max_drop allows {settings.max_drop:g}"
    return "shipped", f"{drop}; ladder.max_drop allows {settings.max_drop:g}"


def _nothing_holds(rungs: list[Rung]) -> str:
    failed = (rung for rung in rungs if rung.state == "failed")
    tried = "; ".join(f"{TITLES[rung.name]}: {rung.reason}" for rung in failed)
    return (
        f"no rung of the ladder holds, so nothing ships ({tried}). Train the student longer, raise "
        "ladder.max_drop, or ship a rung knowingly with ladder.force_rung."
    )
