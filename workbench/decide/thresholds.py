"""When should the app say yes? Search the thresholds of several classes on validation scores.

One threshold for all classes, one for each, and who may keep its own: all of it works on counts
per fold, so it takes milliseconds whatever the number of images, and can be repeated inside a
cross-validation to see how much is luck. `unknown` is for exactly one class or none.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from workbench.decide.intervals import (
    assign_folds,
    interval,
    interval_ends,
    or_none,
    resampled_levels,
)
from workbench.decide.levels import (
    LOWEST,
    NEVER,
    LevelCounts,
    Quantization,
    check_names,
    check_raw,
    check_scores,
    count_levels,
    mean_defined,
    ratio,
)
from workbench.decide.objectives import Objective, best, candidates
from workbench.decide.recommendation import (
    SCHEMA,
    ClassThreshold,
    Expected,
    Level,
    LevelScores,
    Thresholds,
    forms,
)

if TYPE_CHECKING:
    from workbench.settings import ThresholdSearchSettings

log = logging.getLogger(__name__)
FOLDS = 5  # of the cross-fitting; more change little and cost positives in none


def search(
    y_true: np.ndarray, raw: np.ndarray, scale: float, zero_point: int,
    settings: ThresholdSearchSettings, classes: Sequence[str], seed: int, *,
    mask: np.ndarray | None = None, split: str = "val", source_sha256: str | None = None,
) -> Thresholds:  # fmt: skip
    """Search thresholds on int8 scores [N, C] and say how far each can be trusted."""
    check_scores(y_true, raw, mask)
    check_raw(raw)
    check_names(classes, raw)
    quantization = Quantization(float(scale), int(zero_point))
    rules = rules_of(settings, quantization)
    rng = np.random.default_rng(seed)
    folds = _count_folds(y_true, raw, mask, min(FOLDS, len(raw)), rng)
    counts = folds.total
    choice = choose(folds, rules, rng)
    drawn = _draw(resampled_levels(y_true, raw, mask, rules.replicates, rng), choice, rules)
    kept, shared = choice.adopted.sum(), choice.shared
    log.info("Threshold %d for all classes; %d of %d keep their own.", shared, kept, len(classes))
    apparent = or_none(_value_at(counts, choice.integers, rules.objective))
    cross_fitted = or_none(_held_out_value(folds, rules, rng))
    optimism = None if apparent is None or cross_fitted is None else apparent - cross_fitted
    return Thresholds(
        schema_version=SCHEMA,
        task="multilabel",
        created_by="search",
        objective=rules.objective.described,
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
            apparent_interval=interval(drawn.value),
            cross_fitted=cross_fitted,
            optimism=optimism,
        ),
        shared=Level(**forms(quantization, shared, _integer_interval(drawn.shared))),
        classes=tuple(_describe(classes, counts, choice, drawn, rules, quantization)),
        edits=(),
    ).with_curve(shared_curve(counts, quantization, rules.objective, shared))


def best_thresholds(
    y_true: np.ndarray, raw: np.ndarray, settings: ThresholdSearchSettings,
    quantization: Quantization, mask: np.ndarray | None = None,
) -> np.ndarray:  # fmt: skip
    """Only the optimum of every class, without smoothing or doubt: int [C]."""
    rules = rules_of(settings.model_copy(update={"smoothing_positives": 0.0}), quantization)
    return tune(count_levels(y_true, raw, mask), rules)[1]


@dataclass(frozen=True)
class Rules:
    """Everything a choice depends on beside the counts."""

    objective: Objective
    integers: np.ndarray  # the candidates, ascending
    fallback: int  # the candidate nearest to probability one half, where nothing can be tuned
    smoothing_positives: float
    per_class: bool
    least_gain: float
    replicates: int


def rules_of(settings: ThresholdSearchSettings, quantization: Quantization) -> Rules:
    integers = candidates(settings, quantization)
    return Rules(
        objective=Objective.of(settings),
        integers=integers,
        fallback=int(_nearest(np.array(quantization.zero_point), integers)),
        smoothing_positives=settings.smoothing_positives,
        per_class=settings.per_class_enabled,
        least_gain=settings.per_class_improvement_threshold,
        replicates=settings.bootstrap_replicates,
    )


def _count_folds(y_true, raw, mask, folds: int, rng: np.random.Generator) -> LevelCounts:
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


def tune(counts: LevelCounts, rules: Rules) -> tuple[np.ndarray, np.ndarray]:
    """Return the best shared integer [...] and the best one of each class, smoothed [..., C]."""
    values = rules.objective.class_values(counts)
    pooled = rules.objective.shared_values(counts, values)
    shared = np.where(np.isnan(pooled[..., 0]), rules.fallback, best(pooled, rules.integers))
    own = best(values, rules.integers)
    defined = ~np.isnan(values[..., 0])
    own = np.where(defined, own, shared[..., None])
    return shared, smooth(own, shared[..., None], counts.totals[0], rules)


def smooth(own: np.ndarray, shared: np.ndarray, positives: np.ndarray, rules: Rules) -> np.ndarray:
    """Pull thresholds of rare classes to the shared one, as if it had been seen that many times."""
    if rules.smoothing_positives == 0:
        return own
    trust = positives / (positives + rules.smoothing_positives)
    return _nearest(trust * own + (1 - trust) * shared, rules.integers)


def _nearest(wanted: np.ndarray, integers: np.ndarray) -> np.ndarray:
    """Return the nearest candidate; the lower of two equally near."""
    middles = (integers[1:] + integers[:-1]) / 2
    return integers[np.searchsorted(middles, wanted, side="left")]


@dataclass(frozen=True)
class Choice:
    """One shared threshold, one of its own for every class, and which of the two is used."""

    shared: int
    own: np.ndarray  # int [C], smoothed
    adopted: np.ndarray  # bool [C]
    gain: np.ndarray  # float [C], on images that did not choose; NaN where undefined
    gain_low: np.ndarray
    gain_high: np.ndarray

    @property
    def integers(self) -> np.ndarray:
        return np.where(self.adopted, self.own, self.shared)


def choose(folds: LevelCounts, rules: Rules, rng: np.random.Generator) -> Choice:
    """Tune on all folds; a class keeps its own threshold only where held-out images gain by it."""
    shared, own = tune(folds.total, rules)
    outcomes = _held_out_outcomes(folds, rules)
    gain = _gains(outcomes, rules.objective)
    low, high = interval_ends(_gains(_resample(outcomes, rules.replicates, rng), rules.objective))
    both_labels = np.all([total > 0 for total in folds.total.totals], axis=0)
    adopted = both_labels & (own != shared) & (low > 0) & (gain >= rules.least_gain)
    return Choice(int(shared), own, adopted & rules.per_class, gain, low, high)


def _held_out_outcomes(folds: LevelCounts, rules: Rules) -> np.ndarray:
    """Judge every fold by thresholds tuned on the others: counts [C, 2, 4].

    Axis 1 is without or with the class; axis 2 is who said yes: both thresholds, only the shared
    one, only the class's own, neither.
    """
    total = folds.total
    others = LevelCounts(total.positives - folds.positives, total.negatives - folds.negatives)
    shared, own = tune(others, rules)
    shared = np.broadcast_to(shared[:, None], own.shape)
    sides = [_who_says_yes(counts, shared, own) for counts in (folds.negatives, folds.positives)]
    return np.stack(sides, axis=1)


def _who_says_yes(counts: np.ndarray, shared: np.ndarray, own: np.ndarray) -> np.ndarray:
    levels = np.arange(LOWEST, LOWEST + counts.shape[-1])
    by_shared, by_own = levels >= shared[..., None], levels >= own[..., None]
    groups = (by_shared & by_own, by_shared & ~by_own, ~by_shared & by_own, ~by_shared & ~by_own)
    return np.stack([(counts * group).sum((0, -1)) for group in groups], axis=-1)


def _gains(outcomes: np.ndarray, objective: Objective) -> np.ndarray:
    """Value of the own threshold less value of the shared one, from [..., 2, 4] outcomes."""
    both, shared, own, _ = np.moveaxis(outcomes, -1, 0)
    negatives, positives = np.moveaxis(outcomes.sum(-1), -1, 0)
    of_own, of_shared = (
        objective.values(yes[..., 1], yes[..., 0], positives, negatives)
        for yes in (both + own, both + shared)
    )
    return of_own - of_shared


def _resample(outcomes: np.ndarray, replicates: int, rng: np.random.Generator) -> np.ndarray:
    """Draw the images of each class again: a multinomial over its eight outcomes. [R, C, 2, 4]"""
    classes = len(outcomes)
    cells = outcomes.reshape(classes, 8)
    images = cells.sum(-1)
    shares = np.where(images[:, None] > 0, cells / np.maximum(images, 1)[:, None], 1 / 8)
    drawn = rng.multinomial(images, shares, size=(replicates, classes))
    return drawn.reshape(replicates, classes, 2, 4)


def _held_out_value(folds: LevelCounts, rules: Rules, rng: np.random.Generator) -> float:
    """Value of the whole procedure, adoption included, on images that took no part in it."""
    held_out = []
    for fold in range(len(folds.positives)):
        others = np.delete(np.arange(len(folds.positives)), fold)
        held_out.append(_yes_at(folds[fold], choose(folds[others], rules, rng).integers))
    tp, fp = np.sum(held_out, axis=0)
    return mean_defined(rules.objective.values(tp, fp, *folds.total.totals), axis=-1)


def _value_at(counts: LevelCounts, integers: np.ndarray, objective: Objective) -> np.ndarray:
    """Mean value over the classes of the given thresholds [C]: [...]"""
    return mean_defined(objective.values(*_yes_at(counts, integers), *counts.totals), axis=-1)


def _yes_at(counts: LevelCounts, integers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    place = np.broadcast_to(integers - LOWEST, counts.positives.shape[:-1])[..., None]
    tp, fp = (np.take_along_axis(above, place, -1)[..., 0] for above in counts.at_least())
    return tp, fp


@dataclass(frozen=True)
class Drawn:
    """What the search would have said on resampled images."""

    shared: np.ndarray  # [R]
    own: np.ndarray  # [R, C]
    value: np.ndarray  # [R], of the thresholds that were chosen


def _draw(blocks: Iterator[LevelCounts], choice: Choice, rules: Rules) -> Drawn:
    found = [
        (*tune(block, rules), _value_at(block, choice.integers, rules.objective))
        for block in blocks
    ]
    return Drawn(*(np.concatenate(part) for part in zip(*found, strict=True)))


def _describe(
    classes: Sequence[str], counts: LevelCounts, choice: Choice, drawn: Drawn, rules: Rules,
    quantization: Quantization,
) -> Iterator[ClassThreshold]:  # fmt: skip
    positives, negatives = (total.tolist() for total in counts.totals)
    for index, name in enumerate(classes):
        adopted = bool(choice.adopted[index])
        ends = _integer_interval(drawn.own[:, index] if adopted else drawn.shared)
        images = positives[index] + negatives[index]
        gain, low, high = (
            or_none(values[index]) for values in (choice.gain, choice.gain_low, choice.gain_high)
        )
        yield ClassThreshold(
            name=name,
            **forms(quantization, choice.integers[index], ends),
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
    low, high = interval_ends(drawn.astype(np.float64))
    return int(np.floor(low)), int(np.ceil(high))


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
