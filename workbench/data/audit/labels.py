"""The labels: how they are spread, and which of them a trained network disputes.

Statistics are tables from the rows of a dataset, sparse, so that a million rows or ten thousand
classes stay small. Disputes are confident learning (Northcutt, Jiang, Chuang 2021) through
cleanlab, class by class. It needs probabilities of a network that did not learn from the image in
question: those of validation, or of all folds together (`folds.OutOfFold`). Suspicions,
strongest first, never corrections.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import sparse

from workbench.data.cells import csv_rows, csv_text, read_text, unguard
from workbench.data.layouts import SPLITS, UNLABELED
from workbench.data.tables import Dataset, Split
from workbench.decide.intervals import wilson
from workbench.errors import InputError
from workbench.files import write_text
from workbench.settings import Settings

log = logging.getLogger(__name__)

CONFIDENCE = 0.95
LABEL_ERRORS = "label_errors.csv"
COLUMNS = ["image", "split", "class", "given", "suggested", "score"]
FEWEST_EXAMPLES = 5  # of either side; below, the noise of a class cannot be estimated

Filter = Callable[..., np.ndarray]


@dataclass(frozen=True)
class LabelStatistics:
    """What notebook 01 shows about labels, as tables."""

    counts: pd.DataFrame  # class, split, images, positives, unknown, share, low, high
    labels_per_image: pd.DataFrame  # split, labels, images
    pairs: pd.DataFrame  # first, second, images, expected, lift; only pairs that occur
    drift: pd.DataFrame  # class, split, train_share, share, difference, low, high, drifted


def label_statistics(dataset: Dataset) -> LabelStatistics:
    """Count everything about the labels of `dataset`; photos without any are no part of it."""
    rows = dataset.rows[dataset.rows["split"] != UNLABELED]
    labels = label_matrix(rows["labels"], dataset.classes)
    unknown = label_matrix(rows["unknown"], dataset.classes)
    counts = _counts(rows["split"].to_numpy(), labels, unknown, dataset.classes)
    per_image = pd.DataFrame({"split": rows["split"].to_numpy(), "labels": np.diff(labels.indptr)})
    per_image = per_image.groupby(["split", "labels"]).size().rename("images").reset_index()
    return LabelStatistics(counts, per_image, _pairs(labels, dataset.classes), _drift(counts))


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


def _counts(
    split_of_row: np.ndarray, labels: sparse.csr_matrix, unknown: sparse.csr_matrix,
    classes: tuple[str, ...],
) -> pd.DataFrame:  # fmt: skip
    tables = []
    for split in SPLITS:
        here = np.flatnonzero(split_of_row == split)
        positives, missing = (np.asarray(m[here].sum(axis=0)).ravel() for m in (labels, unknown))
        columns = {"images": len(here) - missing, "positives": positives, "unknown": missing}
        tables.append(pd.DataFrame({"class": list(classes), "split": split} | columns))
    counts = pd.concat(tables, ignore_index=True)
    images = counts["images"].where(counts["images"] > 0)
    counts["share"] = counts["positives"] / images
    counts["low"], counts["high"] = wilson(counts["positives"].to_numpy(), images.to_numpy())
    return counts


def _pairs(labels: sparse.csr_matrix, classes: tuple[str, ...]) -> pd.DataFrame:
    together = sparse.triu(labels.T @ labels, k=1).tocoo()
    positives = np.asarray(labels.sum(axis=0)).ravel()
    expected = positives[together.row] * positives[together.col] / max(1, labels.shape[0])
    names = np.array(classes, dtype=object)
    columns = {"first": names[together.row], "second": names[together.col]}
    columns |= {"images": together.data.astype(np.int64), "expected": expected}
    pairs = pd.DataFrame(columns | {"lift": together.data / expected})
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
        (table["share"].to_numpy(),
         *wilson(table["positives"].to_numpy(), table["images"].to_numpy(), confidence))
        for table in (first, second)
    ]  # fmt: skip
    (share_a, low_a, high_a), (share_b, low_b, high_b) = bounds
    difference = share_a - share_b
    low = difference - np.sqrt((share_a - low_a) ** 2 + (high_b - share_b) ** 2)
    high = difference + np.sqrt((high_a - share_a) ** 2 + (share_b - low_b) ** 2)
    return low, high


def suspect_labels(
    images: Split | pd.DataFrame, y_true: np.ndarray, probabilities: np.ndarray, mask: np.ndarray,
    settings: Settings, *, classes: Sequence[str] | None = None,
) -> pd.DataFrame:  # fmt: skip
    """Name doubtful labels: image, split, class, given, suggested, score (1 is surely wrong).

    `given` and `suggested` name a class or, for none, nothing. Arrays are [images, classes]; a row
    of NaN has no honest probabilities and is left out. A frame has the columns image and split, and
    needs `classes`.
    """
    if isinstance(images, Split):
        classes, frame = images.classes, {"image": images.filepaths, "split": images.name}
        images = pd.DataFrame(frame)
    y_true, mask, probabilities = (np.asarray(array) for array in (y_true, mask, probabilities))
    _check(probabilities, (len(images), len(classes)))
    find = _load_filter() if settings.audit.label_errors else None
    scored = np.flatnonzero(~np.isnan(probabilities).any(axis=1))
    if find is None or len(scored) == 0:
        return pd.DataFrame(columns=COLUMNS)
    suspects = _multilabel if settings.task == "multilabel" else _single_label
    table = suspects(y_true[scored], probabilities[scored], mask[scored] > 0, list(classes), find)
    names = images.iloc[scored[table.pop("row").to_numpy(np.int64)]].reset_index(drop=True)
    table = pd.concat([names[["image", "split"]], table], axis=1)[COLUMNS]
    return table.sort_values("score", ascending=False, kind="stable", ignore_index=True)


def write_label_errors(suspects: pd.DataFrame, folder: Path) -> Path:
    """Write the suspicions as CSV; no cell can run as a formula."""
    path = folder / LABEL_ERRORS
    write_text(path, csv_text(suspects.columns, suspects.itertuples(index=False)))
    return path


def read_label_errors(folder: Path) -> pd.DataFrame:
    """Read back what `write_label_errors` wrote; nothing where it has not been written yet."""
    if not (folder / LABEL_ERRORS).exists():
        return pd.DataFrame(columns=COLUMNS)
    _, *rows = (fields for _, fields in csv_rows(read_text(folder / LABEL_ERRORS), LABEL_ERRORS))
    table = pd.DataFrame([map(unguard, fields) for fields in rows], columns=COLUMNS)
    return table.astype({"score": float})


def _check(probabilities: np.ndarray, shape: tuple[int, int]) -> None:
    if probabilities.shape != shape:
        raise InputError(f"probabilities are {probabilities.shape}; they must be {shape}: one row "
                         "an image, one column a class")  # fmt: skip
    if np.nanmin(probabilities, initial=0) < 0 or np.nanmax(probabilities, initial=0) > 1:
        raise InputError("probabilities must be 0 to 1: apply the sigmoid or softmax first")


def _load_filter() -> Filter | None:
    """Import cleanlab only here: it is optional, and takes a second."""
    try:
        from cleanlab.filter import find_label_issues
    except ImportError:
        log.warning("cleanlab is not installed, so labels are not checked: pip install cleanlab")
        return None
    return find_label_issues


def _multilabel(
    y_true: np.ndarray, probabilities: np.ndarray, known: np.ndarray, classes: list, find: Filter
) -> pd.DataFrame:
    """Ask class by class, on the rows where the label is known."""
    tables = [pd.DataFrame(columns=["row", *COLUMNS[2:]])]
    for number, name in enumerate(classes):
        rows = np.flatnonzero(known[:, number])
        given = (y_true[rows, number] > 0).astype(np.int64)
        if min(given.sum(), len(given) - given.sum()) < FEWEST_EXAMPLES:
            log.info("Labels of class %r are not checked: too few examples with scores", name)
            continue
        chance = probabilities[rows, number].astype(np.float64)
        doubtful = find(given, np.stack([1 - chance, chance], axis=1), n_jobs=1)
        rows, given, chance = rows[doubtful], given[doubtful] > 0, chance[doubtful]
        words = {"given": np.where(given, name, ""), "suggested": np.where(given, "", name)}
        score = np.where(given, 1 - chance, chance)
        tables.append(pd.DataFrame({"row": rows, "class": name, **words, "score": score}))
    return pd.concat([part for part in tables if len(part)] or tables, ignore_index=True)


def _single_label(
    y_true: np.ndarray, probabilities: np.ndarray, known: np.ndarray, classes: list, find: Filter
) -> pd.DataFrame:
    """Ask over all classes that have examples; a row has exactly one."""
    given = y_true.argmax(axis=1)
    present = np.flatnonzero(np.bincount(given, minlength=len(classes)) >= FEWEST_EXAMPLES)
    rows = np.flatnonzero(np.isin(given, present) & known.all(axis=1))
    if len(present) < 2:
        return pd.DataFrame(columns=["row", *COLUMNS[2:]])
    chance = probabilities[rows][:, present].astype(np.float64)
    chance /= np.maximum(chance.sum(axis=1, keepdims=True), 1e-12)
    own = np.searchsorted(present, given[rows])
    doubtful = np.flatnonzero(find(own, chance, n_jobs=1))
    names = np.array(classes, dtype=object)[present]
    own, chance = own[doubtful], chance[doubtful]
    table = {"row": rows[doubtful], "class": names[own], "given": names[own]}
    score = 1 - chance[np.arange(len(own)), own]
    return pd.DataFrame(table | {"suggested": names[chance.argmax(axis=1)], "score": score})
