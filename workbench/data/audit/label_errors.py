"""Labels that a trained network disputes: probably wrong ones, and probably forgotten ones.

Confident learning (Northcutt, Jiang, Chuang 2021) through cleanlab, class by class. It needs
probabilities of a network that did not learn from the image in question: those of validation, or
of several fold runs joined by `join_splits`. Suspicions, strongest first, never corrections.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from workbench.data.cells import csv_rows, csv_text, read_text, unguard
from workbench.data.tables import Split
from workbench.errors import InputError
from workbench.files import write_text
from workbench.settings import Settings

log = logging.getLogger(__name__)

LABEL_ERRORS = "label_errors.csv"
COLUMNS = ["image", "split", "class", "given", "suggested", "score"]
FEWEST_EXAMPLES = 5  # of either side; below, the noise of a class cannot be estimated

Filter = Callable[..., np.ndarray]


def suspect_labels(
    images: Split | pd.DataFrame,
    y_true: np.ndarray,
    probabilities: np.ndarray,
    mask: np.ndarray,
    settings: Settings,
    *,
    classes: Sequence[str] | None = None,
) -> pd.DataFrame:
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
        raise InputError(
            f"probabilities are {probabilities.shape}; they must be {shape}: one row an image, one "
            "column a class"
        )
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
    tables = [pd.DataFrame(columns=["row", "class", "given", "suggested", "score"])]
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
        return pd.DataFrame(columns=["row", "class", "given", "suggested", "score"])
    chance = probabilities[rows][:, present].astype(np.float64)
    chance /= np.maximum(chance.sum(axis=1, keepdims=True), 1e-12)
    own = np.searchsorted(present, given[rows])
    doubtful = np.flatnonzero(find(own, chance, n_jobs=1))
    names = np.array(classes, dtype=object)[present]
    own, chance = own[doubtful], chance[doubtful]
    table = {"row": rows[doubtful], "class": names[own], "given": names[own]}
    score = 1 - chance[np.arange(len(own)), own]
    return pd.DataFrame(table | {"suggested": names[chance.argmax(axis=1)], "score": score})
