"""Labels that a trained network disputes: probably wrong ones, and probably forgotten ones.

Confident learning (Northcutt, Jiang, Chuang 2021) through cleanlab, class by class. It needs
scores of a network that did not learn from the row in question; rows without are left out. What
comes back are suspicions, strongest first, never corrections.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from workbench.data.audit.findings import Findings
from workbench.data.audit.label_statistics import label_matrix
from workbench.errors import InputError

if TYPE_CHECKING:
    from workbench.data.tables import Dataset

log = logging.getLogger(__name__)

COLUMNS = ("row", "class", "given", "probability", "instead")
FEWEST_EXAMPLES = 5  # of either side; below, the noise of a class cannot be estimated

Filter = Callable[..., np.ndarray]


def audit_labels(dataset: Dataset, split: str, scores: np.ndarray, task: str) -> pd.DataFrame:
    """Give the findings about the labels of one split from its probabilities [images, classes].

    What notebook 03 can add to the audit without opening an image again.
    """
    rows = dataset.rows[dataset.rows["split"] == split].rename(columns={"filepath": "image"})
    findings = Findings()
    judge_suspects(suspect_labels(rows, dataset.classes, scores, task), rows, findings)
    return findings.table()


def suspect_labels(
    rows: pd.DataFrame, classes: tuple[str, ...], scores: np.ndarray, task: str
) -> pd.DataFrame:
    """Name doubtful labels: row number, class, given or not, probability, likelier class.

    `scores`: probabilities float [rows, classes], a row of NaN where there is no honest score.
    """
    _check(scores, len(rows), len(classes))
    find = _load_filter()
    scored = np.flatnonzero(~np.isnan(scores).any(axis=1))
    if find is None or len(scored) == 0:
        return pd.DataFrame(columns=list(COLUMNS))
    suspects = _suspects_multilabel if task == "multilabel" else _suspects_single
    table = suspects(rows.iloc[scored], classes, scores[scored], find)
    table["row"] = scored[table["row"].to_numpy(np.int64)]
    return table


def _check(scores: np.ndarray, rows: int, classes: int) -> None:
    if scores.shape != (rows, classes):
        raise InputError(
            f"scores are {scores.shape}; they must be {(rows, classes)}: one row an image, one "
            "column a class"
        )
    if np.nanmin(scores, initial=0) < 0 or np.nanmax(scores, initial=0) > 1:
        raise InputError("scores must be probabilities, 0 to 1: apply the sigmoid or softmax first")


def _load_filter() -> Filter | None:
    """Import cleanlab only here: it is optional, and takes a second."""
    try:
        from cleanlab.filter import find_label_issues
    except ImportError:
        log.warning("cleanlab is not installed, so labels are not checked: pip install cleanlab")
        return None
    return find_label_issues


def _suspects_multilabel(
    rows: pd.DataFrame, classes: tuple[str, ...], scores: np.ndarray, find: Filter
) -> pd.DataFrame:
    """Ask class by class, on the rows where the label is known."""
    labels = label_matrix(rows["labels"], classes).tocsc()
    unknown = label_matrix(rows["unknown"], classes).tocsc()
    tables = [pd.DataFrame(columns=list(COLUMNS))]
    for number, name in enumerate(classes):
        known = np.flatnonzero(unknown[:, [number]].toarray().ravel() == 0)
        given = labels[:, [number]].toarray().ravel()[known]
        if min(given.sum(), len(given) - given.sum()) < FEWEST_EXAMPLES:
            log.info("Labels of class %r are not checked: too few examples with scores", name)
            continue
        probability = scores[known, number].astype(np.float64)
        doubtful = find(given, np.stack([1 - probability, probability], axis=1), n_jobs=1)
        table = {"row": known, "class": name, "given": given == 1, "probability": probability}
        tables.append(pd.DataFrame(table | {"instead": ""})[doubtful])
    table = pd.concat([part for part in tables if len(part)] or tables, ignore_index=True)
    probability = table["probability"].astype(float)
    return _strongest_first(table, probability.where(~table["given"].astype(bool), 1 - probability))


def _suspects_single(
    rows: pd.DataFrame, classes: tuple[str, ...], scores: np.ndarray, find: Filter
) -> pd.DataFrame:
    """Ask over all classes that have examples; a row has exactly one."""
    given = pd.Index(classes).get_indexer([labels[0] for labels in rows["labels"]])
    present = np.flatnonzero(np.bincount(given, minlength=len(classes)) >= FEWEST_EXAMPLES)
    row = np.flatnonzero(np.isin(given, present))
    if len(present) < 2:
        return pd.DataFrame(columns=list(COLUMNS))
    probability = scores[row][:, present].astype(np.float64)
    probability /= np.maximum(probability.sum(axis=1, keepdims=True), 1e-12)
    own = np.searchsorted(present, given[row])
    doubtful = np.flatnonzero(find(own, probability, n_jobs=1))
    names = np.array(classes, dtype=object)[present]
    table = pd.DataFrame(
        {
            "row": row[doubtful],
            "class": names[own[doubtful]],
            "given": True,
            "probability": probability[doubtful, own[doubtful]],
            "instead": names[probability[doubtful].argmax(axis=1)],
        }
    )
    return _strongest_first(table, 1 - table["probability"])


def _strongest_first(table: pd.DataFrame, doubt: pd.Series) -> pd.DataFrame:
    order = np.argsort(-np.asarray(doubt, dtype=float), kind="stable")
    return table.iloc[order].reset_index(drop=True)


def judge_suspects(suspects: pd.DataFrame, rows: pd.DataFrame, findings: Findings) -> None:
    """Add suspected wrong and missing labels; `rows` has image and split."""
    given = suspects["given"].to_numpy(bool)
    chance = suspects["probability"].map("{:.0%}".format)
    instead = suspects["instead"].map(lambda name: f", more likely {name!r}" if name else "")
    name = suspects["class"].map(repr)
    wrong = name + " is given, the scores say " + chance + instead
    missing = name + " is not given, the scores say " + chance
    for kind, which, detail in (("label_error", given, wrong), ("missing_label", ~given, missing)):
        chosen = rows.iloc[suspects["row"].to_numpy(np.int64)[which]]
        findings.add(kind, chosen, detail[which], order=np.flatnonzero(which))
