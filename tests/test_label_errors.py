"""Scores that did not learn from a label can say which labels to look at again."""

import sys

import numpy as np
import pandas as pd
import pytest

from workbench.data.audit.label_errors import audit_labels, suspect_labels
from workbench.data.tables import Dataset
from workbench.errors import InputError

CLASSES = ("cat", "dog", "fox")


def rows_of(given: np.ndarray, unknown: np.ndarray | None = None) -> pd.DataFrame:
    names = np.array(CLASSES, dtype=object)
    unknown = np.zeros_like(given) if unknown is None else unknown
    return pd.DataFrame(
        {
            "split": "val",
            "filepath": [f"{number}.jpg" for number in range(len(given))],
            "labels": [tuple(names[row]) for row in given & ~unknown],
            "unknown": [tuple(names[row]) for row in unknown],
        }
    )


def good_scores(truth: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Scores of a network that is right nine times in ten, and unsure when wrong."""
    return np.clip(np.where(truth, 0.85, 0.12) + rng.normal(0, 0.16, truth.shape), 0, 1)


@pytest.fixture
def rng():
    return np.random.default_rng(5)


@pytest.fixture
def truth(rng):
    return rng.random((600, 3)) < 0.3


def found(suspects: pd.DataFrame) -> set[tuple[int, str]]:
    return set(zip(suspects["row"], suspects["class"], strict=True))


def test_most_flipped_labels_are_named_and_most_named_are_flipped(rng, truth):
    flips = rng.random(truth.shape) < 0.05
    suspects = suspect_labels(
        rows_of(truth ^ flips), CLASSES, good_scores(truth, rng), "multilabel"
    )
    planted = {(int(row), CLASSES[column]) for row, column in np.argwhere(flips)}
    right = planted & found(suspects)
    assert len(right) >= 0.6 * len(planted)
    assert len(right) >= 0.5 * len(suspects)


def test_wrong_and_missing_labels_are_told_apart(rng, truth):
    given = truth.copy()
    given[0], given[1] = [True, False, False], [False, False, False]
    scores = good_scores(given, rng)
    scores[0, 0], scores[1, 2] = 0.01, 0.99
    suspects = suspect_labels(rows_of(given), CLASSES, scores, "multilabel").set_index("row")
    assert bool(suspects.loc[0, "given"]) and not bool(suspects.loc[1, "given"])


def test_the_strongest_suspicion_comes_first(rng, truth):
    given = truth.copy()
    given[7] = [True, False, False]
    scores = good_scores(given, rng)
    scores[7, 0] = 0.0
    suspects = suspect_labels(rows_of(given), CLASSES, scores, "multilabel")
    assert suspects["row"].iloc[0] == 7


def test_unknown_labels_are_not_suspected(rng, truth):
    unknown = np.zeros_like(truth)
    unknown[:300, 1] = True
    scores = good_scores(truth, rng)
    scores[:300, 1] = 1 - scores[:300, 1]
    suspects = suspect_labels(rows_of(truth, unknown), CLASSES, scores, "multilabel")
    assert not {(row, name) for row, name in found(suspects) if row < 300 and name == "dog"}


def test_rows_without_an_honest_score_are_left_out(rng, truth):
    given = truth ^ (rng.random(truth.shape) < 0.05)
    scores = good_scores(truth, rng)
    scores[:400] = np.nan
    suspects = suspect_labels(rows_of(given), CLASSES, scores, "multilabel")
    assert len(suspects) and suspects["row"].min() >= 400


def test_a_class_with_too_few_examples_is_not_judged(rng, truth):
    truth[:, 2] = False
    truth[:3, 2] = True
    scores = good_scores(truth, rng)
    suspects = suspect_labels(rows_of(truth), CLASSES, scores, "multilabel")
    assert "fox" not in set(suspects["class"])


def test_a_single_label_is_disputed_by_the_likelier_class(rng):
    truth = rng.integers(0, 3, 300)
    scores = np.full((300, 3), 0.05)
    scores[np.arange(300), truth] = 0.9
    labels = truth.copy()
    labels[:12] = (labels[:12] + 1) % 3
    given = np.eye(3, dtype=bool)[labels]
    suspects = suspect_labels(rows_of(given), CLASSES, scores, "single_label")
    assert set(suspects["row"]) == set(range(12))
    assert list(suspects["instead"]) == [CLASSES[truth[row]] for row in suspects["row"]]


def test_one_split_can_be_judged_alone(rng, truth, tmp_path):
    flips = rng.random(truth.shape) < 0.05
    rows = rows_of(truth ^ flips)
    rows.loc[::2, "split"] = "train"
    scores = good_scores(truth, rng)[1::2]
    findings = audit_labels(Dataset(tmp_path, CLASSES, rows), "val", scores, "multilabel")
    flipped = {f"{row}.jpg" for row in np.flatnonzero(flips.any(axis=1)) if row % 2}
    assert set(findings["split"]) == {"val"}
    assert len(flipped & set(findings["image"])) >= 0.6 * len(flipped)


def test_scores_of_another_shape_are_refused(truth):
    with pytest.raises(InputError, match=r"scores are \(600, 2\); they must be \(600, 3\)"):
        suspect_labels(rows_of(truth), CLASSES, np.zeros((600, 2)), "multilabel")


def test_logits_are_refused(truth):
    with pytest.raises(InputError, match="must be probabilities"):
        suspect_labels(rows_of(truth), CLASSES, np.full(truth.shape, 3.0), "multilabel")


def test_without_cleanlab_nothing_is_suspected_and_the_log_says_so(truth, rng, monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "cleanlab.filter", None)
    suspects = suspect_labels(rows_of(truth), CLASSES, good_scores(truth, rng), "multilabel")
    assert suspects.empty and "pip install cleanlab" in caplog.text
