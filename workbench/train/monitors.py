"""The validation figures that pick an epoch. Decisions at probability 0.5, or the top class."""

from __future__ import annotations

import warnings

import numpy as np
from sklearn.metrics import average_precision_score

EPSILON = 1e-12


def validation_figures(
    logits: np.ndarray, targets: np.ndarray, mask: np.ndarray, *, single_label: bool
) -> dict[str, float]:
    """Compute F1 macro and mAP over the classes for which they are defined."""
    yes = _decisions(logits, single_label)
    known = mask > 0
    truth = (targets > 0.5) & known
    hits = (yes & truth).sum(axis=0)
    wrong = (yes & known & ~truth).sum(axis=0) + (~yes & truth).sum(axis=0)
    occurs = 2 * hits + wrong > 0
    f1 = 2 * hits[occurs] / (2 * hits + wrong)[occurs]
    precisions = [
        average_precision_score(truth[known[:, c], c], logits[known[:, c], c])
        for c in range(logits.shape[1])
        if truth[:, c].any()
    ]
    return {"val_f1_macro": _mean(f1), "val_map": _mean(precisions)}


def _decisions(logits: np.ndarray, single_label: bool) -> np.ndarray:
    if not single_label:
        return logits >= 0
    return np.arange(logits.shape[1]) == logits.argmax(axis=1)[:, None]


def _mean(values) -> float:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        return float(np.mean(values))
