"""Does 80 % mean 80 %? Compare promised probabilities with what happened, and correct them.

The correction is a line per class on the logits. It keeps the order of the scores, so decisions
stay the same, and it folds into the last layer or into the app's sigmoid.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import pandas as pd

from workbench.decide.objectives import ratio

BINS = 15
Binning = Literal["width", "mass"]


def reliability(
    y_true: np.ndarray,
    probability: np.ndarray,
    mask: np.ndarray | None = None,
    *,
    bins: int = BINS,
    binning: Binning = "width",
) -> pd.DataFrame:
    """Compare promised and real frequency in bins of equal width, or of equal numbers of images.

    One row a bin that holds images, with a 95 % Wilson interval of the real frequency.
    """
    known = np.ones(probability.shape, bool) if mask is None else np.asarray(mask) > 0.5
    label, promised = (np.asarray(y_true) > 0.5)[known], np.asarray(probability)[known]
    edges = bin_edges(promised, bins, binning)
    place = _place(promised, edges)
    count = np.bincount(place, minlength=len(edges) - 1)
    hits = np.bincount(place, weights=label, minlength=len(edges) - 1)
    total = np.bincount(place, weights=promised, minlength=len(edges) - 1)
    low, high = wilson(hits, count)
    table = pd.DataFrame(
        {
            "from": edges[:-1],
            "to": edges[1:],
            "count": count,
            "predicted": ratio(total, count),
            "observed": ratio(hits, count),
            "observed_low": low,
            "observed_high": high,
        }
    )
    return table[table["count"] > 0].reset_index(drop=True)


def bin_edges(probability: np.ndarray, bins: int, binning: Binning) -> np.ndarray:
    if binning == "width" or not len(probability):
        return np.linspace(0, 1, bins + 1)
    inner = np.quantile(probability, np.arange(1, bins) / bins)
    return np.unique(np.concatenate([[0.0], inner, [1.0]]))


def _place(probability: np.ndarray, edges: np.ndarray) -> np.ndarray:
    return np.clip(np.searchsorted(edges, probability, side="right") - 1, 0, len(edges) - 2)


def wilson(hits: np.ndarray, count: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """95 % interval of a frequency; honest near 0 and 1, where the usual one leaves [0, 1]."""
    z = 1.959963984540054
    count = np.maximum(np.asarray(count, np.float64), 1e-9)
    share = np.asarray(hits) / count
    centre = (share + z**2 / (2 * count)) / (1 + z**2 / count)
    half = z * np.sqrt(share * (1 - share) / count + (z / (2 * count)) ** 2) / (1 + z**2 / count)
    return np.clip(centre - half, 0, 1), np.clip(centre + half, 0, 1)


def calibration_error(
    y_true: np.ndarray,
    probability: np.ndarray,
    mask: np.ndarray | None = None,
    *,
    bins: int = BINS,
    binning: Binning = "width",
) -> float | None:
    """Mean distance of promise and reality over all labels (ECE); None without labels."""
    table = reliability(y_true, probability, mask, bins=bins, binning=binning)
    if not len(table):
        return None
    distance = (table.predicted - table.observed).abs()
    return float((distance * table["count"]).sum() / table["count"].sum())
