"""When should the app say yes? Search the thresholds on validation scores of the phone file.

For several classes at once; `unknown` is for exactly one class or none.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from workbench.decide.intervals import interval, interval_ends, resampled_levels
from workbench.decide.levels import (
    LOWEST,
    NEVER,
    LevelCounts,
    Objective,
    Quantization,
    candidates,
    check_raw,
    check_scores,
    count_levels,
    mean_defined,
    ratio,
)
from workbench.decide.recommendation import (
    SCHEMA,
    ClassThreshold,
    Expected,
    Level,
    LevelScores,
    Thresholds,
    forms,
)
from workbench.decide.selection import (
    Choice,
    Rules,
    assign_folds,
    choose,
    held_out_value,
    nearest,
    tune,
    value_at,
)
from workbench.errors import InputError

if TYPE_CHECKING:
    from workbench.settings import ThresholdSearchSettings

log = logging.getLogger(__name__)
FOLDS = 5  # of the cross-fitting; more change little and cost positives in none


def search(
    y_true: np.ndarray,
    raw: np.ndarray,
    scale: float,
    zero_point: int,
    settings: ThresholdSearchSettings,
    classes: Sequence[str],
    seed: int,
    *,
    mask: np.ndarray | None = None,
    split: str = "val",
    source_sha256: str | None = None,
) -> Thresholds:
    """Search thresholds on int8 scores [N, C] and say how far each can be trusted."""
    check_scores(y_true, raw, mask)
    check_raw(raw)
    _check_classes(classes, raw)
    quantization = Quantization(float(scale), int(zero_point))
    rules = rules_of(settings, quantization)
    rng = np.random.default_rng(seed)
    folds = count_folds(y_true, raw, mask, min(FOLDS, len(raw)), rng)
    counts = LevelCounts(folds.positives.sum(0), folds.negatives.sum(0))
    choice = choose(folds, rules, rng)
    replicates = _Replicates.draw(y_true, raw, mask, rules, choice, rng)
    log.info(
        "Threshold %d for all classes; %d of %d classes keep one of their own.",
        choice.shared,
        choice.adopted.sum(),
        len(classes),
    )
    apparent = _or_none(value_at(counts, choice.integers, rules.objective))
    cross_fitted = _or_none(held_out_value(folds, rules, rng))
    known = apparent is not None and cross_fitted is not None
    return Thresholds(
        schema_version=SCHEMA,
        task="multilabel",
        created_by="search",
        objective=objective_json(rules.objective),
        method=settings.method,
        scores=LevelScores(
            split=split,
            images=len(raw),
            unknown_labels=0 if mask is None else int((np.asarray(mask) <= 0.5).sum()),
            source_sha256=source_sha256,
            scale=quantization.scale,
            zero_point=quantization.zero_point,
        ),
        seed=seed,
        bootstrap_replicates=settings.bootstrap_replicates,
        expected=Expected(
            apparent=apparent,
            apparent_interval=interval(replicates.value),
            cross_fitted=cross_fitted,
            optimism=apparent - cross_fitted if known else None,
        ),
        shared=Level(**forms(quantization, choice.shared, _integer_interval(replicates.shared))),
        classes=tuple(_describe(classes, counts, choice, replicates, rules, quantization)),
        edits=(),
    ).with_curve(shared_curve(counts, quantization, rules.objective, choice.shared))


def best_thresholds(
    y_true: np.ndarray,
    raw: np.ndarray,
    settings: ThresholdSearchSettings,
    quantization: Quantization,
    mask: np.ndarray | None = None,
) -> np.ndarray:
    """Only the optimum of every class, without smoothing or doubt: int [C]."""
    rules = rules_of(settings.model_copy(update={"smoothing_positives": 0.0}), quantization)
    return tune(count_levels(y_true, raw, mask), rules)[1]


def rules_of(settings: ThresholdSearchSettings, quantization: Quantization) -> Rules:
    integers = candidates(settings, quantization)
    return Rules(
        objective=Objective.of(settings),
        integers=integers,
        fallback=int(nearest(np.array(quantization.zero_point), integers)),
        smoothing_positives=settings.smoothing_positives,
        per_class=settings.per_class_enabled,
        least_gain=settings.per_class_improvement_threshold,
        replicates=settings.bootstrap_replicates,
    )


def count_folds(
    y_true: np.ndarray,
    raw: np.ndarray,
    mask: np.ndarray | None,
    folds: int,
    rng: np.random.Generator,
) -> LevelCounts:
    """Count levels apart for every fold: leading axis of folds."""
    assigned = assign_folds(y_true, folds, rng)
    parts = [np.flatnonzero(assigned == fold) for fold in range(folds)]
    counted = [
        count_levels(y_true[rows], raw[rows], None if mask is None else mask[rows])
        for rows in parts
    ]
    return LevelCounts(
        np.stack([part.positives for part in counted]),
        np.stack([part.negatives for part in counted]),
    )


class _Replicates:
    """What the search would have said on resampled images."""

    def __init__(self, shared: np.ndarray, own: np.ndarray, value: np.ndarray) -> None:
        self.shared, self.own, self.value = shared, own, value

    @classmethod
    def draw(
        cls,
        y_true: np.ndarray,
        raw: np.ndarray,
        mask: np.ndarray | None,
        rules: Rules,
        choice: Choice,
        rng: np.random.Generator,
    ) -> _Replicates:
        shared, own, value = [], [], []
        for block in resampled_levels(y_true, raw, mask, rules.replicates, rng):
            tuned = tune(block, rules)
            shared.append(tuned[0])
            own.append(tuned[1])
            value.append(_values_at(block, choice.integers, rules.objective))
        return cls(np.concatenate(shared), np.concatenate(own), np.concatenate(value))


def _values_at(counts: LevelCounts, integers: np.ndarray, objective: Objective) -> np.ndarray:
    place = np.broadcast_to(integers - LOWEST, counts.positives.shape[:-1])[..., None]
    tp, fp = (np.take_along_axis(above, place, -1)[..., 0] for above in counts.at_least())
    return mean_defined(objective.values(tp, fp, *counts.totals), axis=-1)


def _describe(
    classes: Sequence[str],
    counts: LevelCounts,
    choice: Choice,
    replicates: _Replicates,
    rules: Rules,
    quantization: Quantization,
) -> Iterator[ClassThreshold]:
    positives, negatives = (total.tolist() for total in counts.totals)
    for index, name in enumerate(classes):
        adopted = bool(choice.adopted[index])
        drawn = _integer_interval(replicates.own[:, index] if adopted else replicates.shared)
        images = positives[index] + negatives[index]
        gain, low, high = (
            _or_none(values[index]) for values in (choice.gain, choice.gain_low, choice.gain_high)
        )
        yield ClassThreshold(
            name=name,
            **forms(quantization, choice.integers[index], drawn),
            adopted=adopted,
            created_by="search",
            reason=_reason(choice, index, rules),
            note=_note(positives[index], negatives[index]),
            positives=positives[index],
            negatives=negatives[index],
            prevalence=positives[index] / images if images else None,
            gain=gain,
            gain_interval=None if low is None or high is None else (low, high),
        )


def _reason(choice: Choice, index: int, rules: Rules) -> str:
    gain, low, high = (a[index] for a in (choice.gain, choice.gain_low, choice.gain_high))
    found = f"{gain:+.3f} ({low:+.3f} to {high:+.3f}) on images that did not choose it"
    if choice.adopted[index]:
        return f"own threshold: gains {found}"
    if not rules.per_class:
        return "global threshold: per_class_enabled is false"
    if np.isnan(gain):
        return "global threshold: there is nothing to tune on"
    if choice.own[index] == choice.shared:
        return "global threshold: it is also the best for this class"
    if gain == low == high == 0:
        return "global threshold: one of its own would change no answer on other images"
    if gain < rules.least_gain:
        return f"global threshold: its own would gain {found}, less than {rules.least_gain:g}"
    return f"global threshold: its own would gain {found}, which may be luck"


def _note(positives: int, negatives: int) -> str:
    if not positives:
        return "no image with this class in the split: its threshold is the global one, unchecked"
    if not negatives:
        return "every image of the split has this class: its threshold is the global one"
    return ""


def _integer_interval(drawn: np.ndarray) -> tuple[int, int]:
    low, high = interval_ends(drawn.astype(np.float64)[:, None])
    return int(np.floor(low[0])), int(np.ceil(high[0]))


def _or_none(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def objective_json(objective: Objective) -> dict[str, object]:
    """Name the objective, the figures that belong to it and what it means."""
    figures = {
        "fbeta": ("beta",),
        "precision_floor": ("floor",),
        "recall_floor": ("floor",),
        "cost": ("cost_false_positive", "cost_false_negative"),
    }
    chosen = {name: getattr(objective, name) for name in figures.get(objective.name, ())}
    return {"name": objective.name, **chosen, "meaning": objective.sentence}


def shared_curve(
    counts: LevelCounts, quantization: Quantization, objective: Objective, chosen: int
) -> pd.DataFrame:
    """One row per integer: what one threshold for all classes would do. (threshold_curve.csv)"""
    integers = np.arange(LOWEST, NEVER + 1)
    tp, fp = counts.at_least()
    positives, negatives = (total[:, None] for total in counts.totals)
    known = positives[:, 0] > 0
    f1 = Objective("f1_macro", 1.0, 0.0, 1.0, 1.0).values(tp, fp, positives, negatives)
    precision, recall = ratio(tp, tp + fp)[known], ratio(tp, positives)[known]
    nothing = np.full(len(integers), np.nan)
    return pd.DataFrame(
        {
            "integer": integers,
            "logit": quantization.threshold_logits(integers),
            "probability": quantization.threshold_probabilities(integers),
            "f1_macro": mean_defined(f1, axis=0),
            "precision_macro": precision.mean(0) if known.any() else nothing,
            "recall_macro": recall.mean(0) if known.any() else nothing,
            "f1_micro": ratio(2 * tp.sum(0), (tp + fp + positives).sum(0)),
            "precision_micro": ratio(tp.sum(0), (tp + fp).sum(0)),
            "recall_micro": ratio(tp.sum(0), positives.sum(0)),
            "yes_answers": (tp + fp).sum(0),
            "objective": objective.shared_values(counts, objective.class_values(counts)),
            "chosen": integers == chosen,
        }
    )


def _check_classes(classes: Sequence[str], raw: np.ndarray) -> None:
    if len(classes) != raw.shape[1]:
        raise InputError(f"{len(classes)} class names for {raw.shape[1]} columns of scores")
