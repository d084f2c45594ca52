"""When should the app say yes? Search the thresholds of several classes on validation scores.

One threshold for all classes, one for each, and who may keep its own: all of it works on counts
per fold, so it takes milliseconds whatever the number of images, and can be repeated inside a
cross-validation to see how much is luck. `unknown` is for exactly one class or none.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd

from workbench.decide.intervals import (
    Groups,
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
    Mask,
    Quantization,
    check_names,
    check_raw,
    count_levels,
    known_labels,
    mean_defined,
    part,
    ratio,
)
from workbench.decide.recommendation import (
    SCHEMA,
    AnyThresholds,
    ClassThreshold,
    Expected,
    Level,
    LevelScores,
    Thresholds,
    forms,
)
from workbench.decide.unknown import search_unknown
from workbench.errors import InputError

if TYPE_CHECKING:
    from workbench.decide.calibration import Scores
    from workbench.settings import Settings, ThresholdSearchSettings

log = logging.getLogger(__name__)
FOLDS = 5  # of the cross-fitting; more change little and cost positives in none
Name = Literal["f1_macro", "fbeta", "precision_floor", "recall_floor", "cost", "prevalence"]
NEVER_ANSWERS = -1.0  # below every other value of a floor objective: never a yes meets no floor
TIE = 1e-12  # values this close are one value; means of floats differ in the last places


def search(
    y_true: np.ndarray, raw: np.ndarray, scale: float, zero_point: int,
    settings: ThresholdSearchSettings, classes: Sequence[str], seed: int, *,
    mask: Mask = None, split: str = "val", source_sha256: str | None = None, groups: Groups = None,
) -> Thresholds:  # fmt: skip
    """Search thresholds on int8 scores [N, C] and say how far each can be trusted."""
    check_raw(y_true, raw, mask)
    check_names(classes, raw)
    quantization = Quantization(float(scale), int(zero_point))
    rules = rules_of(settings, quantization)
    rng = np.random.default_rng(seed)
    folds = _count_folds(y_true, raw, mask, min(FOLDS, len(raw)), rng)
    counts = folds.total
    choice = choose(folds, rules, rng)
    blocks = resampled_levels(y_true, raw, mask, settings.bootstrap_replicates, rng, groups)
    found = (
        (*tune(block, rules), _value_at(block, choice.integers, rules.objective))
        for block in blocks
    )  # what the same search finds on resampled images: [R], [R, C] and [R]
    drawn_shared, drawn_own, drawn_value = map(np.concatenate, zip(*found, strict=True))
    drawn = np.where(choice.adopted, drawn_own, drawn_shared[:, None])
    kept, shared = choice.adopted.sum(), choice.shared
    log.info("Threshold %d for all classes; %d of %d keep their own.", shared, kept, len(classes))
    apparent = or_none(_value_at(counts, choice.integers, rules.objective))
    cross_fitted = or_none(_held_out_value(folds, rules, rng))
    optimism = None if apparent is None or cross_fitted is None else apparent - cross_fitted
    return Thresholds(
        schema_version=SCHEMA, task="multilabel", created_by="search",
        objective=rules.objective.described, method=settings.method,
        scores=LevelScores(
            split=split, images=len(raw), source_sha256=source_sha256,
            unknown_labels=int((~known_labels(mask, raw.shape)).sum()),
            scale=quantization.scale, zero_point=quantization.zero_point,
        ),
        seed=seed, bootstrap_replicates=settings.bootstrap_replicates,
        expected=Expected(
            apparent=apparent, apparent_interval=interval(drawn_value),
            cross_fitted=cross_fitted, optimism=optimism,
        ),
        shared=Level(**forms(quantization, shared, _integer_interval(drawn_shared))),
        classes=tuple(_describe(classes, counts, choice, drawn, rules, quantization)), edits=(),
    ).with_curve(shared_curve(counts, quantization, rules.objective, shared))  # fmt: skip


def search_scores(scores: Scores, classes: tuple[str, ...], settings: Settings) -> AnyThresholds:
    """Search a threshold for every class, or the confidence under which it is "unknown"."""
    known = {"mask": scores.mask, "source_sha256": scores.source_sha256}
    knobs, seed, labels = settings.threshold_search, settings.seed, scores.y_true
    if scores.task == "single_label":
        known["replicates"] = knobs.bootstrap_replicates
        return search_unknown(labels, scores.logits, settings.single_label, classes, seed, **known)
    answers = scores.raw, scores.scale, scores.zero_point
    return search(labels, *answers, knobs, classes, seed, groups=scores.groups, **known)


def best_thresholds(
    y_true: np.ndarray, raw: np.ndarray, settings: ThresholdSearchSettings,
    quantization: Quantization, mask: Mask = None,
) -> np.ndarray:  # fmt: skip
    """Only the optimum of every class, without smoothing or doubt: int [C]."""
    rules = rules_of(settings.model_copy(update={"smoothing_positives": 0.0}), quantization)
    return tune(count_levels(y_true, raw, mask), rules)[1]


@dataclass(frozen=True)
class Objective:
    """A rule for good thresholds, with the figures that belong to it."""

    name: Name
    beta: float
    floor: float
    cost_false_positive: float
    cost_false_negative: float

    @classmethod
    def of(cls, knobs: ThresholdSearchSettings) -> Objective:
        names = ("objective", "beta", "floor", "cost_false_positive", "cost_false_negative")
        return cls(*(getattr(knobs, name) for name in names))

    def values(
        self, tp: np.ndarray, fp: np.ndarray, positives: np.ndarray, negatives: np.ndarray
    ) -> np.ndarray:
        """Value of saying yes to `tp` of `positives` and to `fp` of `negatives` images."""
        tp, fp, positives, negatives = np.broadcast_arrays(tp, fp, positives, negatives)
        match self.name:
            case "f1_macro" | "fbeta":
                weight = 1.0 if self.name == "f1_macro" else self.beta**2
                values = ratio((1 + weight) * tp, weight * positives + tp + fp)
            case "precision_floor":
                values = self._above_floor(tp, fp, ratio(tp, tp + fp), ratio(tp, positives))
            case "recall_floor":
                values = self._above_floor(tp, fp, ratio(tp, positives), ratio(tp, tp + fp))
            case "cost":
                cost = self.cost_false_positive * fp + self.cost_false_negative * (positives - tp)
                values = -ratio(cost, positives + negatives)
            case "prevalence":
                values = -ratio(np.abs(tp + fp - positives), positives + negatives)
        return np.where(positives > 0, values, np.nan)

    def _above_floor(self, tp, fp, kept: np.ndarray, wanted: np.ndarray) -> np.ndarray:
        values = np.where(kept >= self.floor, wanted, kept - self.floor)
        return np.where(tp + fp > 0, values, NEVER_ANSWERS)

    def shared_values(self, counts: LevelCounts, values: np.ndarray) -> np.ndarray:
        """Value of one threshold for all classes, [..., 257], given the values of each class.

        The floors are kept on the answers of all classes together; the others are class means.
        """
        if self.name in ("precision_floor", "recall_floor"):
            sides = counts.positives, counts.negatives
            pooled = LevelCounts(*(side.sum(-2, keepdims=True) for side in sides))
            return self.class_values(pooled)[..., 0, :]
        return mean_defined(values, axis=-2)

    def class_values(self, counts: LevelCounts) -> np.ndarray:
        """Value of every integer threshold for every class: [..., C, 257]."""
        tp, fp = counts.at_least()
        positives, negatives = counts.totals
        return self.values(tp, fp, positives[..., None], negatives[..., None])

    @property
    def described(self) -> dict[str, str | float]:
        """Name the rule, the figures that belong to it, and what it means in plain words."""
        chosen = {name: getattr(self, name) for name in FIGURES.get(self.name, ())}
        return {"name": self.name, **chosen, "meaning": SENTENCES[self.name].format(self)}


FIGURES = {
    "fbeta": ("beta",), "precision_floor": ("floor",), "recall_floor": ("floor",),
    "cost": ("cost_false_positive", "cost_false_negative"),
}  # fmt: skip
SENTENCES = {
    "f1_macro": "the best balance of finding the class and being right about it (F1)",
    "fbeta": "the best balance where finding counts {0.beta:g} times as much as being right",
    "precision_floor": "find as many as possible while at least {0.floor:.0%} of the yes are right",
    "recall_floor": "be right as often as possible while finding at least {0.floor:.0%}",
    "cost": (
        "the lowest cost: a wrong yes costs {0.cost_false_positive:g},"
        " a missed one {0.cost_false_negative:g}"
    ),
    "prevalence": "say yes as often as the class really occurs",
}


def candidates(knobs: ThresholdSearchSettings, quantization: Quantization) -> np.ndarray:
    """The integers a search may choose from, ascending."""
    separable = quantization.separable()
    if knobs.method == "exact":
        return separable
    steps = np.floor((knobs.grid_max - knobs.grid_min) / knobs.grid_step + 1e-9) + 1
    grid = knobs.grid_min + knobs.grid_step * np.arange(int(steps))
    levels = quantization.probabilities(np.arange(LOWEST, NEVER))
    chosen = np.unique(np.searchsorted(levels, grid - 1e-12)) + LOWEST
    allowed = chosen[np.isin(chosen, separable)]
    if not len(allowed):
        raise InputError(
            f"threshold_search: no INT8 level lies between grid_min {knobs.grid_min:g} and "
            f"grid_max {knobs.grid_max:g}; widen the grid or use method: exact"
        )
    return allowed


def best(values: np.ndarray, integers: np.ndarray) -> np.ndarray:
    """Pick the best candidate: of equals the middle of the longest run, farthest from a change.

    `values` is [..., 257] over all integers, `integers` the candidates. Where every value is NaN
    the answer is the lowest candidate, for the caller to replace.
    """
    values = values[..., integers - LOWEST]
    values = np.where(np.isnan(values), -np.inf, values)
    equal = values >= values.max(-1, keepdims=True) - TIE
    position = np.arange(len(integers))
    last_worse = np.maximum.accumulate(np.where(equal, -1, position), axis=-1)
    run = np.where(equal, position - last_worse, 0)
    end = run.argmax(-1)
    length = np.take_along_axis(run, end[..., None], -1)[..., 0]
    return integers[end - length // 2]


@dataclass(frozen=True)
class Rules:
    """Everything a choice depends on beside the counts."""

    knobs: ThresholdSearchSettings
    objective: Objective
    integers: np.ndarray  # the candidates, ascending
    fallback: int  # the candidate nearest to probability one half, where nothing can be tuned


def rules_of(settings: ThresholdSearchSettings, quantization: Quantization) -> Rules:
    integers = candidates(settings, quantization)
    fallback = int(_nearest(np.array(quantization.zero_point), integers))
    return Rules(settings, Objective.of(settings), integers, fallback)


def _count_folds(y_true, raw, mask, folds: int, rng: np.random.Generator) -> LevelCounts:
    """Count levels apart for every fold: leading axis of folds."""
    assigned = assign_folds(y_true, folds, rng)
    counted = [count_levels(*part(assigned == fold, y_true, raw, mask)) for fold in range(folds)]
    sides = zip(*((one.positives, one.negatives) for one in counted), strict=True)
    return LevelCounts(*map(np.stack, sides))


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
    if rules.knobs.smoothing_positives == 0:
        return own
    trust = positives / (positives + rules.knobs.smoothing_positives)
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
    gain: np.ndarray  # [3, C], on images that did not choose, and its ends; NaN where undefined

    @property
    def integers(self) -> np.ndarray:
        return np.where(self.adopted, self.own, self.shared)


def choose(folds: LevelCounts, rules: Rules, rng: np.random.Generator) -> Choice:
    """Tune on all folds; a class keeps its own threshold only where held-out images gain by it."""
    shared, own = tune(folds.total, rules)
    outcomes = _held_out_outcomes(folds, rules)
    gain = _gains(outcomes, rules.objective)
    drawn = _resample(outcomes, rules.knobs.bootstrap_replicates, rng)
    low, high = interval_ends(_gains(drawn, rules.objective))
    both_labels = np.all([total > 0 for total in folds.total.totals], axis=0)
    least_gain = rules.knobs.per_class_improvement_threshold
    adopted = both_labels & (own != shared) & (low > 0) & (gain >= least_gain)
    adopted &= rules.knobs.per_class_enabled
    return Choice(int(shared), own, adopted, np.stack([gain, low, high]))


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


def _describe(
    classes: Sequence[str], counts: LevelCounts, choice: Choice, drawn: np.ndarray, rules: Rules,
    quantization: Quantization,
) -> Iterator[ClassThreshold]:  # fmt: skip
    totals = (total.tolist() for total in counts.totals)
    for index, (name, positives, negatives) in enumerate(zip(classes, *totals, strict=True)):
        ends = _integer_interval(drawn[:, index])
        images = positives + negatives
        gain, low, high = map(or_none, choice.gain[:, index])
        yield ClassThreshold(
            name=name, **forms(quantization, choice.integers[index], ends),
            adopted=bool(choice.adopted[index]), created_by="search",
            reason=_reason(choice, index, rules), note=_note(positives, negatives),
            positives=positives, negatives=negatives,
            prevalence=positives / images if images else None, gain=gain,
            gain_interval=None if low is None or high is None else (low, high),
        )  # fmt: skip


def _reason(choice: Choice, index: int, rules: Rules) -> str:
    gain, low, high = choice.gain[:, index]
    found = f"{gain:+.3f} ({low:+.3f} to {high:+.3f}) on images that did not choose it"
    if choice.adopted[index]:
        return f"own threshold: gains {found}"
    if not rules.knobs.per_class_enabled:
        return "global threshold: per_class_enabled is false"
    if np.isnan(gain):
        return "global threshold: there is nothing to tune on"
    if choice.own[index] == choice.shared:
        return "global threshold: it is also the best for this class"
    if gain == low == high == 0:
        return "global threshold: one of its own would change no answer on other images"
    least_gain = rules.knobs.per_class_improvement_threshold
    if gain < least_gain:
        return f"global threshold: its own would gain {found}, less than {least_gain:g}"
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
    columns = {
        "integer": integers, "logit": quantization.threshold_logits(integers),
        "probability": quantization.threshold_probabilities(integers),
        "f1_macro": mean_defined(f1, axis=0),
        "precision_macro": precision.mean(0) if known.any() else nothing,
        "recall_macro": recall.mean(0) if known.any() else nothing,
        "f1_micro": ratio(2 * tp.sum(0), (tp + fp + positives).sum(0)),
        "precision_micro": ratio(tp.sum(0), (tp + fp).sum(0)),
        "recall_micro": ratio(tp.sum(0), positives.sum(0)), "yes_answers": (tp + fp).sum(0),
        "objective": objective.shared_values(counts, objective.class_values(counts)),
        "chosen": integers == chosen,
    }  # fmt: skip
    return pd.DataFrame(columns)
