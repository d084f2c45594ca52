"""The validation figures that pick an epoch: decisions at probability 0.5, or the top class.

Thresholds are tuned much later, on the INT8 scores; here epochs only have to be ranked.
"""

from __future__ import annotations

import numpy as np

from workbench.decide import metrics


def validation_figures(
    logits: np.ndarray, targets: np.ndarray, mask: np.ndarray, *, single_label: bool
) -> dict[str, float]:
    """Compute F1 macro and mAP, NaN where no class has an example."""
    f1 = metrics.f1_macro(targets, decisions(logits, single_label), mask)
    mean_precision = metrics.mean_average_precision(targets, logits, mask)
    return {"val_f1_macro": _number(f1), "val_map": _number(mean_precision)}


def decisions(logits: np.ndarray, single_label: bool) -> np.ndarray:
    if not single_label:
        return logits >= 0
    return np.arange(logits.shape[1]) == logits.argmax(axis=1)[:, None]


def class_scores(logits: np.ndarray, targets: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Compute the average precision of each class [C], NaN without an example."""
    columns = zip(targets.T, logits.T, mask.T, strict=True)
    return np.array([_number(metrics.average_precision(*column)) for column in columns])


def _number(value: float | None) -> float:
    return np.nan if value is None else value
