"""The figures of metrics.json: counts, shares and areas, by class and over all of them."""

from __future__ import annotations

import numpy as np

from .answers import Answers
from .arithmetic import (
    Arrays,
    Tree,
    mean_of_defined,
    mean_or_none,
    nan_as_none,
    share_or_0,
    share_or_nan,
    share_or_none,
)

BINS = 15  # of a calibration error
PAIRS = 50  # of confused classes that are written


def macro_means(rows: list[Tree]) -> tuple[str, list[str]]:
    """Say which classes the macro means are over, and which no image is known to have."""
    undefined = [row["class"] for row in rows if not row["positives"]]
    over = f"{len(rows) - len(undefined)} of {len(rows)} classes; undefined: {', '.join(undefined)}"
    return f"macro over {over if undefined else f'all {len(rows)} classes'}", undefined


def class_figures(answers: Answers, bars: np.ndarray) -> list[Tree]:
    """Count and rate the answers to each class."""
    tn, fp, fn, tp = (cell.sum(0) for cell in answers.outcomes)
    rows = []
    for i, name in enumerate(answers.config["labels"]):
        column = answers.y_true[:, i], answers.score[:, i], answers.known[:, i]
        rows.append({
            "class": name, "positives": tp[i] + fn[i], "negatives": tn[i] + fp[i],
            "threshold": bars[i], "tp": tp[i], "fp": fp[i], "fn": fn[i], "tn": tn[i],
            "precision": share_or_none(tp[i], tp[i] + fp[i]),
            "recall": share_or_none(tp[i], tp[i] + fn[i]),
            "f1": share_or_none(2 * tp[i], 2 * tp[i] + fp[i] + fn[i]) if tp[i] + fn[i] else None,
            "average_precision": _average_precision(*column), "roc_auc": _roc_area(*column),
        })  # fmt: skip
    return rows


def overall_figures(answers: Answers, rows: list[Tree]) -> dict[str, float | None]:
    """Derive the figures over all classes: means of the classes that occur, sums, images."""
    found = weighted_figures(answers, np.ones((1, len(answers.score))))[0]
    areas = [row["roc_auc"] for row in rows if row["roc_auc"] is not None]
    precise = [row["average_precision"] for row in rows if row["positives"]]
    return {
        **{name: nan_as_none(values)[0] for name, values in found.items()},
        "map": mean_or_none(precise), "roc_auc_macro": mean_or_none(areas),
    }  # fmt: skip


def weighted_figures(answers: Answers, weights: np.ndarray) -> tuple[Arrays, Arrays]:
    """Derive every figure but areas for weights [B, N] of the images: [B], and [B, C] by class."""
    tn, fp, fn, tp = (weights @ cell for cell in answers.outcomes)
    classes = {
        "precision": share_or_nan(tp, tp + fp), "recall": share_or_nan(tp, tp + fn),
        "f1": np.where(tp + fn > 0, share_or_0(2 * tp, 2 * tp + fp + fn), np.nan),
    }  # fmt: skip
    precision = np.where(tp + fn > 0, np.nan_to_num(classes["precision"]), np.nan)
    tn, fp, fn, tp = (count.sum(1) for count in (tn, fp, fn, tp))
    overall = {
        "f1_macro": mean_of_defined(classes["f1"].T),
        "f1_micro": share_or_nan(2 * tp, 2 * tp + fp + fn),
        "precision_macro": mean_of_defined(precision.T),
        "precision_micro": share_or_nan(tp, tp + fp),
        "recall_macro": mean_of_defined(classes["recall"].T),
        "recall_micro": share_or_nan(tp, tp + fn),
        "hamming_loss": share_or_nan(fp + fn, tn + fp + fn + tp),
        "calibration_error": calibration_errors(*to_calibrate(answers), weights),
    }
    for name, values in per_image(answers).items():
        told = ~np.isnan(values)
        overall[name] = share_or_nan(weights @ np.where(told, values, 0), weights @ told)
    return overall, classes


def per_image(answers: Answers) -> dict[str, np.ndarray]:
    """Derive the figures whose mean over the images counts: [N] each, NaN where undefined."""
    _, fp, fn, tp = (cell.sum(1) for cell in answers.outcomes)
    told = answers.known.any(1)
    alike = np.where(tp + fp + fn > 0, 2 * tp / np.maximum(2 * tp + fp + fn, 1), 1.0)
    found = {
        "f1_samples": alike, "exact_match": fp + fn == 0, "no_label_rate": tp + fp == 0,
        "true_no_label_rate": tp + fn == 0,
    }  # fmt: skip
    found = {name: np.where(told, values, np.nan) for name, values in found.items()}
    found["top5"] = _top_five(answers)
    if answers.config["task"] == "single_label":
        given = answers.said.any(1)
        found["accuracy"] = np.where(answers.labelled, answers.right, np.nan)
        found["coverage"] = given.astype(np.float64)
        found["accepted_accuracy"] = np.where(given & answers.judged, answers.right, np.nan)
    return found


def _top_five(answers: Answers) -> np.ndarray:
    """Is a true label among the five best? Of equal scores the later class is better."""
    if answers.score.shape[1] <= 5:
        return np.full(len(answers.score), np.nan)
    score, true = np.where(answers.known, answers.score, -1), answers.y_true & answers.known
    best = np.argsort(score, axis=1, kind="stable")[:, -5:]
    return np.where(true.any(1), np.take_along_axis(true, best, axis=1).any(1), np.nan)


def to_calibrate(answers: Answers) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return labels, probabilities and which count: all, or those of the one answer. [N, K]"""
    if answers.config["task"] == "multilabel":
        return answers.y_true, answers.score, answers.known
    return answers.right[:, None], answers.score.max(1)[:, None], answers.judged[:, None]


def bins_of(score: np.ndarray) -> np.ndarray:
    """Number the bin of each probability; 1 belongs to the last."""
    return np.clip(np.searchsorted(np.linspace(0, 1, BINS + 1), score, "right") - 1, 0, BINS - 1)


def calibration_errors(true, score, counted, weights: np.ndarray) -> np.ndarray:
    """Mean distance of prediction and reality in 15 bins, whose mean predictions stay. [B]"""
    place, distance = bins_of(score), np.zeros(len(weights))
    for one in range(BINS):
        inside = (place == one) & counted
        predicted = score[inside].mean() if inside.any() else 0.0
        images, hits = weights @ inside.sum(1), weights @ (inside & true).sum(1)
        distance += np.abs(images * predicted - hits)
    return share_or_nan(distance, weights @ counted.sum(1))


def confusion(answers: Answers) -> list:
    """Count right and wrong a class, or what was said instead of what, unknown last."""
    if answers.config["task"] == "multilabel":
        counts = np.stack([cell.sum(0) for cell in answers.outcomes], axis=-1)
        return counts.reshape(-1, 2, 2).tolist()
    classes = answers.score.shape[1]
    said = np.where(answers.said.any(1), answers.said.argmax(1), classes)
    true, counted = answers.y_true.argmax(1), answers.labelled
    return [[int((counted & (true == i) & (said == j)).sum()) for j in range(classes + 1)]
            for i in range(classes)]  # fmt: skip


def confused(answers: Answers) -> list[Tree]:
    """List which class was missed while which was wrongly said, most frequent first."""
    names, (_, wrong, missed, _) = answers.config["labels"], answers.outcomes
    pairs = missed.T.astype(int) @ wrong.astype(int)
    places = np.argsort(-pairs, axis=None, kind="stable")[:PAIRS]
    found = [(*divmod(int(place), len(names)), int(pairs.flat[place])) for place in places]
    return [{"missed": names[i], "said": names[j], "images": n} for i, j, n in found if n]


def rated(answers: Answers) -> Tree:
    """Rate the answers, and how well the scores behind them sort the images."""
    rows = class_figures(answers, np.full(answers.score.shape[1], np.nan))
    occurring = [row for row in rows if row["positives"]]
    return {"f1_macro": mean_or_none([row["f1"] for row in occurring]) or 0.0,
            "map": mean_or_none([row["average_precision"] for row in occurring])}  # fmt: skip


def _average_precision(true: np.ndarray, score: np.ndarray, known: np.ndarray) -> float | None:
    true, score = true[known], score[known]
    if not true.any():
        return None
    levels = np.unique(score)[::-1]
    found = np.array([true[score >= level].sum() for level in levels])
    shown = np.array([(score >= level).sum() for level in levels])
    return float((np.diff(found, prepend=0) * found / shown).sum() / true.sum())


def _roc_area(true: np.ndarray, score: np.ndarray, known: np.ndarray) -> float | None:
    """Chance that an image with the class scores above one without, ties half."""
    there, rest = score[known & true], np.sort(score[known & ~true])
    below, upto = (np.searchsorted(rest, there, side) for side in ("left", "right"))
    return share_or_none((below + upto).sum() / 2, len(there) * len(rest))
