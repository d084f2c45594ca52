"""Right and wrong answers, counted: precision, recall and F1 per class and over all classes.

Means over classes take the classes that occur; among them one that is never answered counts as
precision 0, as in scikit-learn. Undefined figures are NaN here and null when written.
"""

from __future__ import annotations

import numpy as np

from workbench.decide.levels import chunks
from workbench.decide.objectives import mean_defined, ratio

TN, FP, FN, TP = range(4)  # cell = 2 * label + answer
OUTCOMES = 4
UNKNOWN = 4  # cell of a masked label


def outcome_cells(y_true: np.ndarray, decisions: np.ndarray, mask: np.ndarray | None) -> np.ndarray:
    """Number each label and answer: [N, C] int8 of TN, FP, FN, TP or UNKNOWN."""
    cells = (np.asarray(y_true) > 0.5).astype(np.int8) * np.int8(2) + decisions.astype(np.int8)
    if mask is not None:
        cells[np.asarray(mask) <= 0.5] = UNKNOWN
    return cells


def count_outcomes(cells: np.ndarray) -> np.ndarray:
    """Count per class: [C, 4] int64."""
    return np.stack([(cells == outcome).sum(0) for outcome in range(OUTCOMES)], axis=-1)


def class_figures(counts: np.ndarray) -> dict[str, np.ndarray]:
    """Precision, recall and F1 from [..., C, 4] counts: [..., C] each, NaN where undefined."""
    _, fp, fn, tp = np.moveaxis(counts, -1, 0)
    occurs = tp + fn > 0
    return {
        "precision": np.where(tp + fp > 0, ratio(tp, tp + fp), np.nan),
        "recall": np.where(occurs, ratio(tp, tp + fn), np.nan),
        "f1": np.where(occurs, ratio(2 * tp, 2 * tp + fp + fn), np.nan),
    }


def overall_figures(counts: np.ndarray) -> dict[str, np.ndarray]:
    """Macro and micro figures from [..., C, 4] counts: [...] each, NaN where undefined."""
    figures = class_figures(counts)
    occurs = ~np.isnan(figures["recall"])
    precision = np.where(occurs, np.nan_to_num(figures["precision"]), np.nan)
    pooled = counts.sum(-2)
    _, fp, fn, tp = np.moveaxis(pooled, -1, 0)
    return {
        "f1_macro": mean_defined(figures["f1"], -1),
        "f1_micro": _where(tp + fp + fn, 2 * tp, 2 * tp + fp + fn),
        "precision_macro": mean_defined(precision, -1),
        "precision_micro": _where(tp + fp, tp, tp + fp),
        "recall_macro": mean_defined(figures["recall"], -1),
        "recall_micro": _where(tp + fn, tp, tp + fn),
        "hamming_loss": _where(pooled.sum(-1), fp + fn, pooled.sum(-1)),
    }


def _where(defined: np.ndarray, above: np.ndarray, below: np.ndarray) -> np.ndarray:
    return np.where(defined > 0, ratio(above, below), np.nan)


def image_figures(cells: np.ndarray) -> dict[str, np.ndarray]:
    """Figures of each image: [N] each; NaN for an image whose labels are all unknown."""
    fp, fn, tp = ((cells == outcome).sum(1) for outcome in (FP, FN, TP))
    known = (cells != UNKNOWN).any(1)
    wrong = fp + fn
    figures = {
        # Nothing to find and nothing said is a right answer: 1, not scikit-learn's default 0.
        "f1_samples": np.where(tp + wrong > 0, ratio(2 * tp, 2 * tp + wrong), 1.0),
        "exact_match": (wrong == 0).astype(np.float64),
        "no_label_rate": (tp + fp == 0).astype(np.float64),
        "true_no_label_rate": (tp + fn == 0).astype(np.float64),
    }
    return {name: np.where(known, values, np.nan) for name, values in figures.items()}


def confused_pairs(cells: np.ndarray) -> np.ndarray:
    """Count images where class i was missed while class j was wrongly said: [C, C]."""
    pairs = np.zeros((cells.shape[1], cells.shape[1]), np.float32)  # whole to 16 million
    for rows in chunks(len(cells)):
        missed, wrongly = (cells[rows] == outcome for outcome in (FN, FP))
        pairs += missed.T.astype(np.float32) @ wrongly.astype(np.float32)
    return pairs.astype(np.int32)
