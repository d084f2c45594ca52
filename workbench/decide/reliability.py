"""Does 80 % mean 80 %? Promised probabilities against what happened, in bins, with intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd

from workbench.decide.bootstrap import count_cells, image_weights, interval_ends
from workbench.decide.levels import check_scores
from workbench.decide.objectives import mean_defined, ratio

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
    """Compare promised and real frequency in bins of equal width, or of equal numbers of labels.

    One row a bin that holds labels, with a 95 % Wilson interval of the real frequency.
    """
    label, promised = _known(y_true, probability, mask)
    edges = bin_edges(promised, bins, binning)
    place = place_in(promised, edges)
    count, hits, total = (
        np.bincount(place, weights=weight, minlength=len(edges) - 1)
        for weight in (None, label, promised)
    )
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


def _known(y_true, probability, mask) -> tuple[np.ndarray, np.ndarray]:
    label, promised = np.asarray(y_true) > 0.5, np.asarray(probability, np.float64)
    if mask is None:
        return label.ravel(), promised.ravel()
    known = np.asarray(mask) > 0.5
    return label[known], promised[known]


def bin_edges(probability: np.ndarray, bins: int, binning: Binning) -> np.ndarray:
    if binning == "width" or not len(probability):
        return np.linspace(0, 1, bins + 1)
    inner = np.quantile(probability, np.arange(1, bins) / bins)
    return np.unique(np.concatenate([[0.0], inner, [1.0]]))


def place_in(probability: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Number the bin of each probability; 1.0 belongs to the last."""
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


def class_errors(
    y_true: np.ndarray,
    probability: np.ndarray,
    classes: Sequence[str],
    mask: np.ndarray | None = None,
    *,
    binning: Binning = "width",
    replicates: int = 0,
    seed: int = 0,
) -> pd.DataFrame:
    """Calibration error of every class and, in the last row, of all labels together.

    The intervals are centred on the error: resampling adds noise of its own, and a distance can
    only grow by noise.
    """
    check_scores(y_true, probability, mask)
    columns = [*range(len(classes)), slice(None)]
    errors = np.array([_error(y_true, probability, mask, column, binning) for column in columns])
    table = pd.DataFrame({"class": [*classes, "all classes"], "error": errors})
    if replicates:
        drawn = _drawn_errors(y_true, probability, mask, binning, replicates, seed)
        low, high = interval_ends(drawn - mean_defined(drawn, 0) + errors)
        table = table.assign(error_low=np.maximum(low, 0), error_high=high)
    return table


def _error(y_true, probability, mask, column: int | slice, binning: Binning) -> float:
    chosen = (array if array is None else array[:, column] for array in (y_true, probability, mask))
    found = calibration_error(*chosen, binning=binning)
    return np.nan if found is None else found


def _drawn_errors(y_true, probability, mask, binning, replicates, seed) -> np.ndarray:
    """Errors on resampled images: [R, C + 1]."""
    each = Bins.of(y_true, probability, mask, binning)
    pooled = Bins.of(y_true, probability, mask, binning, pooled=True)
    rng = np.random.default_rng(seed)
    blocks = image_weights(len(y_true), replicates, rng)
    drawn = [np.concatenate([each.errors(block), pooled.errors(block)], 1) for block in blocks]
    return np.concatenate(drawn)


@dataclass(frozen=True)
class Bins:
    """Labels sorted into bins once; resampling keeps the bins and their mean promises."""

    cells: np.ndarray  # 2 * bin + label, [N, C]
    promised: np.ndarray  # mean probability of each bin, [C, bins]; [1, bins] when pooled
    pooled: bool

    @classmethod
    def of(
        cls,
        y_true: np.ndarray,
        probability: np.ndarray,
        mask: np.ndarray | None,
        binning: Binning = "width",
        *,
        pooled: bool = False,
    ) -> Bins:
        """Sort each class into bins of its own, or all labels into the same."""
        known = np.ones(probability.shape, bool) if mask is None else np.asarray(mask) > 0.5
        columns = [slice(None)] if pooled else range(probability.shape[1])
        place, promised = np.empty(probability.shape, np.int32), []
        for column in columns:
            chosen = probability[:, column][known[:, column]]
            edges = bin_edges(chosen, BINS, binning)
            place[:, column] = place_in(probability[:, column], edges)
            inside = place[:, column][known[:, column]]
            total = np.bincount(inside, weights=chosen, minlength=BINS)
            promised.append(ratio(total, np.bincount(inside, minlength=BINS)))
        cells = np.where(known, 2 * place + (np.asarray(y_true) > 0.5), 2 * BINS)
        return cls(cells.astype(np.int32), np.array(promised), pooled)

    def errors(self, weights: np.ndarray) -> np.ndarray:
        """Calibration errors of a block of replicates: [B, C], or [B, 1] when pooled."""
        counts = count_cells(self.cells, 2 * BINS, weights).astype(np.float64)
        counts = counts.sum(1, keepdims=True) if self.pooled else counts
        without, with_class = counts[..., 0::2], counts[..., 1::2]
        images = without + with_class
        distance = np.abs(images * self.promised - with_class).sum(-1)
        return np.where(images.sum(-1) > 0, ratio(distance, images.sum(-1)), np.nan)
