"""How the labels are spread: counts, pairs, labels per image, drift between splits.

Tables only, from the rows of a dataset; no image is opened. Everything is sparse, so a million
rows or ten thousand classes stay small.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy import sparse
from scipy.stats import norm

from workbench.data.layouts import SPLITS

if TYPE_CHECKING:
    from workbench.data.tables import Dataset

CONFIDENCE = 0.95


@dataclass(frozen=True)
class LabelStatistics:
    """What notebook 01 shows about labels, as tables."""

    counts: pd.DataFrame  # class, split, images, positives, unknown, share, low, high
    labels_per_image: pd.DataFrame  # split, labels, images
    pairs: pd.DataFrame  # first, second, images, expected, lift; only pairs that occur
    drift: pd.DataFrame  # class, split, train_share, share, difference, low, high, drifted


def label_statistics(dataset: Dataset) -> LabelStatistics:
    """Count everything about the labels of `dataset`."""
    rows = dataset.rows
    labels = label_matrix(rows["labels"], dataset.classes)
    unknown = label_matrix(rows["unknown"], dataset.classes)
    counts = _counts(rows["split"].to_numpy(), labels, unknown, dataset.classes)
    return LabelStatistics(
        counts=counts,
        labels_per_image=_labels_per_image(rows["split"].to_numpy(), labels),
        pairs=_pairs(labels, dataset.classes),
        drift=_drift(counts),
    )


def label_matrix(labels: pd.Series, classes: tuple[str, ...]) -> sparse.csr_matrix:
    """Turn a column of label tuples into a sparse 0/1 matrix [rows, classes]."""
    lengths = labels.map(len).to_numpy(dtype=np.int64)
    names = [name for names in labels for name in names]
    columns = pd.Index(classes).get_indexer(names)
    known = columns >= 0
    starts = np.repeat(np.arange(len(labels)), lengths)
    ones = np.ones(int(known.sum()), dtype=np.int64)
    shape = (len(labels), len(classes))
    matrix = sparse.csr_matrix((ones, (starts[known], columns[known])), shape=shape)
    matrix.data[:] = 1  # `a|a` names one class, not two
    return matrix


def wilson_interval(
    positives: np.ndarray, total: np.ndarray, confidence: float = CONFIDENCE
) -> tuple[np.ndarray, np.ndarray]:
    """Give the Wilson score interval of a share; it stays inside 0..1 for small counts."""
    z = norm.ppf((1 + confidence) / 2)
    total = np.asarray(total, dtype=float)
    with np.errstate(invalid="ignore", divide="ignore"):
        share = positives / total
        centre = (share + z**2 / (2 * total)) / (1 + z**2 / total)
        spread = z * np.sqrt(share * (1 - share) / total + z**2 / (4 * total**2))
    spread = spread / (1 + z**2 / total)
    return np.clip(centre - spread, 0, 1), np.clip(centre + spread, 0, 1)


def _counts(
    split_of_row: np.ndarray,
    labels: sparse.csr_matrix,
    unknown: sparse.csr_matrix,
    classes: tuple[str, ...],
) -> pd.DataFrame:
    tables = []
    for split in SPLITS:
        here = np.flatnonzero(split_of_row == split)
        missing = np.asarray(unknown[here].sum(axis=0)).ravel()
        table = pd.DataFrame(
            {
                "class": list(classes),
                "split": split,
                "images": len(here) - missing,
                "positives": np.asarray(labels[here].sum(axis=0)).ravel(),
                "unknown": missing,
            }
        )
        tables.append(table)
    counts = pd.concat(tables, ignore_index=True)
    with np.errstate(invalid="ignore"):
        counts["share"] = counts["positives"] / counts["images"].where(counts["images"] > 0)
    counts["low"], counts["high"] = wilson_interval(
        counts["positives"].to_numpy(), counts["images"].where(counts["images"] > 0).to_numpy()
    )
    return counts


def _labels_per_image(split_of_row: np.ndarray, labels: sparse.csr_matrix) -> pd.DataFrame:
    table = pd.DataFrame({"split": split_of_row, "labels": np.diff(labels.indptr)})
    return table.groupby(["split", "labels"]).size().rename("images").reset_index()


def _pairs(labels: sparse.csr_matrix, classes: tuple[str, ...]) -> pd.DataFrame:
    together = sparse.triu(labels.T @ labels, k=1).tocoo()
    positives = np.asarray(labels.sum(axis=0)).ravel()
    expected = positives[together.row] * positives[together.col] / max(1, labels.shape[0])
    names = np.array(classes, dtype=object)
    pairs = pd.DataFrame(
        {
            "first": names[together.row],
            "second": names[together.col],
            "images": together.data.astype(np.int64),
            "expected": expected,
            "lift": together.data / expected,
        }
    )
    return pairs.sort_values("images", ascending=False, kind="stable", ignore_index=True)


def _drift(counts: pd.DataFrame) -> pd.DataFrame:
    """Compare each class's share with train; `drifted` is corrected for the number of looks."""
    train = counts[counts["split"] == "train"].set_index("class")
    other = counts[(counts["split"] != "train") & (counts["images"] > 0)].copy()
    other = other[other["class"].map(train["images"]).gt(0)]
    reference = train.loc[other["class"]]
    looks = max(1, len(other))
    low, high = _difference_interval(other, reference, CONFIDENCE)
    strict_low, strict_high = _difference_interval(other, reference, 1 - (1 - CONFIDENCE) / looks)
    table = other[["class", "split", "share"]].reset_index(drop=True)
    table.insert(2, "train_share", reference["share"].to_numpy())
    table["difference"] = table["share"] - table["train_share"]
    table["low"], table["high"] = low, high
    table["drifted"] = (strict_low > 0) | (strict_high < 0)
    return table


def _difference_interval(
    first: pd.DataFrame, second: pd.DataFrame, confidence: float
) -> tuple[np.ndarray, np.ndarray]:
    """Newcombe's interval (method 10) of a difference between two shares."""
    bounds = [
        (
            table["share"].to_numpy(),
            *wilson_interval(table["positives"].to_numpy(), table["images"].to_numpy(), confidence),
        )
        for table in (first, second)
    ]
    (share_a, low_a, high_a), (share_b, low_b, high_b) = bounds
    difference = share_a - share_b
    low = difference - np.sqrt((share_a - low_a) ** 2 + (high_b - share_b) ** 2)
    high = difference + np.sqrt((high_a - share_a) ** 2 + (share_b - low_b) ** 2)
    return low, high
