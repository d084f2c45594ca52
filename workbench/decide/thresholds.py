"""When should the app say yes? Search the thresholds of several classes on validation scores.

One threshold for all classes, one for each, and who may keep its own: all of it works on counts,
so it takes milliseconds whatever the number of images, and is done again on a thousand resamplings
of them to see how much is luck. `unknown` is for exactly one class or none.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from workbench.decide.adoption import Choice, Trials, choose, expected
from workbench.decide.intervals import (
    Groups,
    assign_folds,
    independent_share,
    interval_ends,
    or_none,
    resampled_levels,
    wilson,
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
from workbench.decide.objectives import FLOORS, Objective
from workbench.decide.recommendation import (
    SCHEMA,
    AnyThresholds,
    ClassThreshold,
    Level,
    LevelScores,
    Thresholds,
    forms,
)
from workbench.decide.tuning import Rules, rules_of, tune
from workbench.decide.unknown import search_unknown

if TYPE_CHECKING:
    from workbench.decide.calibration import Scores
    from workbench.settings import Settings, ThresholdSearchSettings

log = logging.getLogger(__name__)
FOLDS = 5  # of the cross-fitting of a floor; more change little
REPEATS = 10  # of the folds, dealt anew


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
    if groups is not None and rules.objective.has_floor:
        worth = _worth(y_true, raw, mask, groups, rules.objective.name)
        rules = replace(rules, objective=replace(rules.objective, worth=worth))
    rng = np.random.default_rng(seed)
    counts = count_levels(y_true, raw, mask)
    blocks = resampled_levels(y_true, raw, mask, settings.bootstrap_replicates, rng, groups)
    tried = Trials.of(counts, blocks, rules)
    choice = choose(counts, tried, rules)
    kept, shared = choice.adopted.sum(), choice.shared
    log.info("Threshold %d for all classes; %d of %d keep their own.", shared, kept, len(classes))
    drawn = np.where(choice.adopted, tried.own, tried.shared[:, None])
    scored = y_true, raw, mask
    held_out = _held_out(scored, groups, rules, rng) if rules.objective.has_floor else None
    return Thresholds(
        schema_version=SCHEMA, task="multilabel", created_by="search",
        objective=rules.objective.described, method=settings.method,
        scores=LevelScores(
            split=split, images=len(raw), source_sha256=source_sha256,
            unknown_labels=int((~known_labels(mask, raw.shape)).sum()),
            scale=quantization.scale, zero_point=quantization.zero_point,
        ),
        seed=seed, bootstrap_replicates=settings.bootstrap_replicates,
        expected=expected(counts, choice, tried, rules),
        shared=Level(**forms(quantization, shared, _integer_interval(tried.shared))),
        classes=tuple(_describe(classes, counts, choice, drawn, held_out, rules, quantization)),
        edits=(),
    ).with_curve(shared_curve(counts, quantization, rules.objective, shared))  # fmt: skip


def search_scores(scores: Scores, classes: tuple[str, ...], settings: Settings) -> AnyThresholds:
    """Search a threshold for every class, or the confidence under which it is "unknown"."""
    known = {"mask": scores.mask, "source_sha256": scores.source_sha256, "groups": scores.groups}
    knobs, seed, labels = settings.threshold_search, settings.seed, scores.y_true
    if scores.task == "single_label":
        own = settings.single_label
        found = search_unknown(labels, scores.logits, own, classes, seed, **known)
    else:
        answers = scores.raw, scores.scale, scores.zero_point
        found = search(labels, *answers, knobs, classes, seed, **known)
    return found.pooled_over(scores.clips.usual_frames) if scores.clips.pools else found


def floor_worth(scores: Scores) -> dict[str, list[float]]:
    """Share of the images of each class that counts, for either floor."""
    known = scores.y_true, scores.raw, scores.mask, scores.groups
    return {name: _worth(*known, name)[:, 0].tolist() for name in FLOORS}


def _worth(
    y_true: np.ndarray, raw: np.ndarray, mask: Mask, groups: Groups, floor: str
) -> np.ndarray:
    """Share of the images that counts for a floor, where those of a group err together: [C, 1].

    Seen at the threshold that says yes as often as the class occurs.
    """
    known, shares = known_labels(mask, raw.shape), []
    for rows, label, score in zip(known.T, np.asarray(y_true).T > 0.5, raw.T, strict=True):
        label, score = label[rows], score[rows]
        often = np.sort(score)[::-1][: max(label.sum(), 1)]
        yes = score >= often.min(initial=score.max(initial=LOWEST))
        hit, tried = label & yes, yes if floor == "precision_floor" else label
        residual = np.where(tried, hit - hit.sum() / max(tried.sum(), 1), 0)
        own = None if groups is None else groups[rows]
        shares.append(independent_share(residual[:, None], own))
    return np.array(shares)[:, None]


def _held_out(
    scored: tuple[np.ndarray, np.ndarray, Mask],
    groups: Groups,
    rules: Rules,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """Count what is kept of a floor on images that did not choose: hits and trials, [C] each.

    Means over repeated folds, so that no single deal decides.
    """
    hits, trials = [], []
    for _ in range(REPEATS):
        assigned = assign_folds(scored[0], min(FOLDS, len(scored[0])), rng, groups)
        for fold in range(assigned.max() + 1):
            inside, outside = (
                count_levels(*part(rows, *scored)) for rows in (assigned == fold, assigned != fold)
            )
            place = (tune(outside, rules).own - LOWEST)[:, None]
            tp, fp = (np.take_along_axis(one, place, -1)[:, 0] for one in inside.at_least())
            hits.append(tp)
            floor_on_yes = rules.objective.name == "precision_floor"
            trials.append(tp + fp if floor_on_yes else inside.totals[0])
    return np.sum(hits, axis=0) / REPEATS, np.sum(trials, axis=0) / REPEATS


def _describe(
    classes: Sequence[str], counts: LevelCounts, choice: Choice, drawn: np.ndarray,
    held_out: tuple[np.ndarray, np.ndarray] | None, rules: Rules, quantization: Quantization,
) -> Iterator[ClassThreshold]:  # fmt: skip
    totals = (total.tolist() for total in counts.totals)
    for index, (name, positives, negatives) in enumerate(zip(classes, *totals, strict=True)):
        ends = _integer_interval(drawn[:, index])
        images = positives + negatives
        gain, low, high = map(or_none, choice.gain[:, index])
        if positives and not negatives:
            reason = "global threshold: without negatives there is nothing to tune on"
        elif held_out is None:
            reason = _reason(choice, index, rules)
        else:
            reason = _floor_reason(choice, index, rules, *(side[index] for side in held_out))
        yield ClassThreshold(
            name=name, **forms(quantization, choice.integers[index], ends),
            adopted=bool(choice.adopted[index]), created_by="search",
            reason=reason, note=_note(positives, negatives),
            positives=positives, negatives=negatives,
            prevalence=positives / images if images else None, gain=gain,
            gain_interval=None if low is None or high is None else (low, high),
            adopted_in=int(choice.adopted_in[:, index].sum()),
        )  # fmt: skip


def _reason(choice: Choice, index: int, rules: Rules) -> str:
    gain, low, high = choice.gain[:, index]
    times, of = choice.adopted_in[:, index].sum(), len(choice.adopted_in)
    found = f"{gain:+.3f} ({low:+.3f} to {high:+.3f}), adopted in {times} of {of} resamplings"
    if choice.adopted[index]:
        return f"own threshold: gains {found}"
    if not rules.knobs.per_class_enabled:
        return "global threshold: per_class_enabled is false"
    if np.isnan(gain):
        return "global threshold: there is nothing to tune on"
    if choice.own[index] == choice.shared:
        return "global threshold: it is also the best for this class"
    if np.isnan(low):
        return "global threshold: one of its own changes no answer that could tell them apart"
    least_gain = rules.knobs.per_class_improvement_threshold
    if gain < least_gain:
        return f"global threshold: its own would gain {found}, less than {least_gain:g}"
    return f"global threshold: its own would gain {found}, which may be luck"


def _floor_reason(choice: Choice, index: int, rules: Rules, hits: float, trials: float) -> str:
    """Say what was aimed at and what was kept on other images, or that nothing is promised."""
    floor, value = rules.objective.floor, choice.value[index]
    if np.isnan(value):
        return "global threshold: there is nothing to tune on"
    if value < 0:
        best = max(floor + value, 0)
        return (
            f"global threshold: {floor:.0%} cannot be promised with these images; "
            f"at best {best:.1%} is sure"
        )
    if not rules.knobs.per_class_enabled:
        return "global threshold: per_class_enabled is false"
    which = "own threshold" if choice.adopted[index] else "global threshold, also its own"
    if not trials:
        return f"{which}: aimed at {floor:.0%}, chosen on all images; too few to hold some out"
    worth = np.broadcast_to(rules.objective.worth, (len(choice.value), 1))[index, 0]
    low, high = wilson(worth * hits, worth * trials)
    return f"{which}: aimed at {floor:.0%}, held-out {hits / trials:.1%} [{low:.1%}, {high:.1%}]"


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
