"""Intervals of the figures: Wilson's for shares, images drawn again for all others."""

from __future__ import annotations

from typing import Any

import numpy as np

from .answers import Answers
from .arithmetic import (
    Arrays,
    Tree,
    draw_weights,
    ends,
    from_above,
    mean_of_defined,
    share_or_0,
    share_or_nan,
    sigmoid,
    wilson,
    worth_of,
)
from .metrics import BINS, bins_of, per_image, to_calibrate, weighted_figures

LEVEL = 0.95  # of every interval
LEAST_IMAGES = 5  # that an interval needs
LEAST_LABELS = 10  # of each kind, that the interval of a calibration error needs
GAPS = np.append(0, np.geomspace(0.03, 100, 40))  # as a part of the measured gaps


def share_intervals(answers: Answers, rows: list[Tree]) -> dict[str, list[float] | None]:
    """Derive the intervals of all that is hits among trials; those of classes go into `rows`."""
    tn, fp, fn, tp = (cell.astype(np.float64) for cell in answers.outcomes)
    shares = {
        "precision": (tp, tp + fp), "recall": (tp, tp + fn), "f1": (2 * tp, 2 * tp + fp + fn),
        "hamming_loss": (fp + fn, tn + fp + fn + tp),
    }  # fmt: skip
    found = {}
    for name, (hits, trials) in shares.items():
        columns = list(zip(hits.T, trials.T, strict=True))
        for row, column in zip(rows, columns, strict=True) if name in rows[0] else ():
            span = None if row[name] is None else _share_interval([column], answers.units)
            row |= dict(zip((f"{name}_low", f"{name}_high"), span or (None, None), strict=True))
        occurring = [one for one, row in zip(columns, rows, strict=True) if row["positives"]]
        found[f"{name}_macro"] = _share_interval(occurring, answers.units)
        found[f"{name}_micro"] = _share_interval([(hits.sum(1), trials.sum(1))], answers.units)
    found["hamming_loss"] = found.pop("hamming_loss_micro")
    del found["hamming_loss_macro"]
    for name, values in per_image(answers).items():
        told = ~np.isnan(values)
        column = np.where(told, values, 0), told.astype(np.float64)
        found[name] = _share_interval([column], answers.units)
    few = len(answers.score) < LEAST_IMAGES
    return {name: None if few else span for name, span in found.items()}


def resampled_intervals(answers: Answers, overall: Tree, rows: list[Tree], stated: Tree) -> None:
    """Derive the intervals that take drawing into `overall` and `rows`."""
    asked = stated["bootstrap_replicates"], stated["seed"]
    drawn, drawn_classes = resample(answers, {"overall": overall, "classes": rows}, *asked)
    for name in ("map", "roc_auc_macro"):
        told = overall[name]["value"] is not None and len(answers.score) >= LEAST_IMAGES
        value = overall[name]["value"]
        overall[name]["interval"] = _area_span(drawn[name], value) if told else None
    rng = np.random.default_rng(stated["seed"])
    span = error_interval(*to_calibrate(answers), answers.groups, asked[0], rng)
    overall["calibration_error"]["interval"] = span if len(answers.score) >= LEAST_IMAGES else None
    for name in ("average_precision", "roc_auc"):
        for i, row in enumerate(rows):
            both = f"{name}_low", f"{name}_high"
            told = row[name] is not None and row["positives"] >= LEAST_IMAGES
            span = _area_span(drawn_classes[name][:, i], row[name]) if told else None
            row |= dict(zip(both, span or (None, None), strict=True))


def _area_span(drawn: np.ndarray, value: float) -> list[float] | None:
    """Return what lies 1.96 deviations of the drawn areas to either side, counted in logits."""
    deviation, slope = np.std(drawn[~np.isnan(drawn)]), value * (1 - value)
    if not (deviation > 1e-9 and slope > 1e-9):
        return None
    both = np.array([-1, 1]) * 1.959963984540054 * deviation / slope
    return sigmoid(np.log(value / (1 - value)) + both).tolist()


def _share_interval(columns: list[tuple], units: np.ndarray) -> list[float] | None:
    """Wilson's interval of a mean of shares, with as many trials as its variance is worth."""
    sums = [[np.bincount(units, side) for side in column] for column in columns]
    if not sums or (np.sum([trials for _, trials in sums], 0) > 0).sum() < LEAST_IMAGES:
        return None
    totals = [max(trials.sum(), 1.0) for _, trials in sums]
    means = [hits.sum() / total for (hits, _), total in zip(sums, totals, strict=True)]
    parts = list(zip(sums, totals, means, strict=True))
    mistakes = sum(min(hits.sum(), trials.sum() - hits.sum()) for hits, trials in sums)
    trials = len(sums) ** 2 / sum((one[1] ** 2).sum() / total**2 for one, total, _ in parts)
    spread = sum((one[0] - mean * one[1]) / total for one, total, mean in parts) / len(sums)
    share = float(np.mean(means))
    expected = share * (1 - share) / trials
    if expected > 0:
        trials /= (mistakes * (spread**2).sum() / expected + 1) / (mistakes + 1)
    return [float(end) for end in wilson(share * trials, np.array(trials))]


def resample(answers: Answers, measured: Tree, replicates: int, seed: int) -> tuple[Arrays, Arrays]:
    """Draw the images again by seed: every figure, [R], and of the classes, [R, C].

    Areas lie around the measured: those of scores finer than 256 steps are drawn on steps.
    """
    ranks = _ranks(answers)
    drawn = draw_weights(answers.units, replicates, np.random.default_rng(seed))
    blocks = [
        (*weighted_figures(answers, weights), areas(ranks, weights))
        for weights in (np.ones((1, len(ranks))), *drawn)
    ]
    overall, classes, curves = (
        {name: np.concatenate([part[name] for part in side]) for name in side[0]}
        for side in zip(*blocks, strict=True)
    )
    for name, mean in (("average_precision", "map"), ("roc_auc", "roc_auc_macro")):
        stated = np.array([row[name] for row in measured["classes"]], np.float64)
        once, means = curves[name][0], mean_of_defined(curves[name].T)
        classes[name] = curves[name] + stated - once
        overall[mean] = means + mean_of_defined(stated[:, None])[0] - means[0]
    overall = {name: drawn[1:] for name, drawn in overall.items()}
    return overall, {name: drawn[1:] for name, drawn in classes.items()}


def errors_apart(
    sides: list[Answers], errors: list[float | None], replicates: int, seed: int
) -> tuple[float, float] | None:
    """Ends of a difference of calibration errors, from either's own (Zou and Donner 2008)."""
    spans = [
        error_interval(*to_calibrate(one), one.groups, replicates, np.random.default_rng(seed))
        for one in sides
    ]
    if None in spans:
        return None
    below, above = np.abs(np.array(spans, np.float64).T - np.array(errors, np.float64))
    difference = errors[1] - errors[0]
    return (float(difference - np.sqrt(below[1] ** 2 + above[0] ** 2)),
            float(difference + np.sqrt(above[1] ** 2 + below[0] ** 2)))  # fmt: skip


def _ranks(answers: Answers) -> np.ndarray:
    """Number scores and labels on at most 256 steps, [N, C]; 512 where the label is unknown."""
    ranks = np.empty(answers.score.shape, int)
    for i, column in enumerate(answers.score.T):
        known, true = answers.known[:, i], answers.y_true[:, i]
        starts = np.unique(column[known])[1:]
        if len(starts) >= 256:
            found = np.unique(column[true & known])
            starts = found[np.linspace(0, len(found) - 1, min(len(found), 255)).astype(int)]
        steps = np.searchsorted(starts, column, side="right")
        ranks[:, i] = np.where(known, steps + 256 * true, 512)
    return ranks


def areas(ranks: np.ndarray, weights: np.ndarray) -> Arrays:
    """Areas under the precision-recall and the ROC curve of every class, [B, C] each."""
    found: dict[str, list] = {"average_precision": [], "roc_auc": []}
    for column in ranks.T:
        counts = weights @ (column[:, None] == np.arange(512))
        negatives, positives = counts[:, :256], counts[:, 256:]
        tp, fp = from_above(positives), from_above(negatives)
        total, rest = positives.sum(1), negatives.sum(1)
        steps = (positives * share_or_0(tp, tp + fp)[:, :-1]).sum(1)
        above = (negatives * (tp[:, 1:] + tp[:, :-1])).sum(1) / 2
        found["average_precision"].append(share_or_nan(steps, total))
        found["roc_auc"].append(share_or_nan(above, total * rest))
    return {name: np.stack(columns, axis=1) for name, columns in found.items()}


def paired_loss(first: Answers, second: Answers, replicates: int, seed: int) -> tuple[float, Any]:
    """F1 macro that the second answers lack beside the first, and its ends on drawn images."""
    once = np.ones((1, len(first.score)))
    before, after = (float(np.nan_to_num(_f1_macro(side, once)[0])) for side in (first, second))
    blocks = draw_weights(first.units, replicates, np.random.default_rng(seed))
    drawn = [_f1_macro(first, weights) - _f1_macro(second, weights) for weights in blocks]
    return before - after, ends(np.concatenate(drawn))


def _f1_macro(answers: Answers, weights: np.ndarray) -> np.ndarray:
    _, fp, fn, tp = (weights @ cell for cell in answers.outcomes)
    return mean_of_defined(np.where(tp + fn > 0, share_or_0(2 * tp, 2 * tp + fp + fn), np.nan).T)


def error_interval(
    true: np.ndarray, score: np.ndarray, known: np.ndarray, groups: np.ndarray | None,
    replicates: int, rng: np.random.Generator,
) -> list[float] | None:  # fmt: skip
    """Derive which errors, if all images had them, make the measured one no surprise.

    Labels are drawn anew around the predictions, with none, some or much more of the measured gaps.
    """
    true = true & known
    if min(true.sum(), (known & ~true).sum()) < LEAST_LABELS:
        return None
    place = bins_of(score[known])
    images, predicted, hits = (np.bincount(place, weights=one, minlength=BINS)
                               for one in (None, score[known], true[known]))  # fmt: skip
    there = images > 0
    images, predicted, hits = images[there], predicted[there] / images[there], hits[there]
    measured = np.abs(images * predicted - hits).sum() / images.sum()
    gap = (hits + 2 * predicted) / (images + 2) - predicted
    worth = worth_of(true - np.where(known, score, 0), groups)
    labels, share = max(int(images.sum() * worth), 1), images / images.sum()
    drawn, found = rng.multinomial(labels, share, size=replicates), []
    for side in (1, -1):
        rate = np.clip(predicted + side * GAPS[:, None] * gap, 0, 1)
        noise = np.abs(drawn * predicted - rng.binomial(drawn, rate[:, None])).sum(-1) / labels
        true_error = np.abs(rate - predicted) @ share
        above = np.maximum.accumulate((noise >= measured - 1e-12).mean(1))
        below = np.minimum.accumulate((noise <= measured + 1e-12).mean(1))
        tail = (1 - LEVEL) / 2  # written so: shares of draws often meet it to the last digit
        found.append([np.interp(tail, above, true_error), np.interp(-tail, -below, true_error)])
    lows, highs = zip(*found, strict=True)
    return [float(min(lows)), float(max(*highs, measured))]
