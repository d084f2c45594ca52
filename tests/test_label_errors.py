"""Scores that did not learn from a label can say which labels to look at again."""

import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from workbench.data.audit.labels import (
    COLUMNS,
    read_label_errors,
    suspect_labels,
    write_label_errors,
)
from workbench.data.tables import Split
from workbench.errors import InputError
from workbench.settings import AuditSettings, Settings

CLASSES = ("cat", "dog", "fox")


MULTI = Settings(num_classes="auto")
SINGLE = Settings(num_classes="auto", task="single_label")


def split_of(given: np.ndarray, unknown: np.ndarray | None = None) -> Split:
    names = tuple(f"{number}.jpg" for number in range(len(given)))
    unknown = np.zeros_like(given) if unknown is None else unknown
    targets = (given & ~unknown).astype(np.float32)
    return Split("val", names, Path("images"), CLASSES, targets, 1 - unknown.astype(np.float32))


def suspects_of(split: Split, scores: np.ndarray, settings: Settings = MULTI) -> pd.DataFrame:
    """The suspicions, with the number of each image as a column."""
    table = suspect_labels(split, split.targets, scores, split.mask, settings)
    return table.assign(row=table["image"].str.removesuffix(".jpg").astype(int))


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
    suspects = suspects_of(split_of(truth ^ flips), good_scores(truth, rng))
    planted = {(int(row), CLASSES[column]) for row, column in np.argwhere(flips)}
    right = planted & found(suspects)
    assert len(right) >= 0.6 * len(planted)
    assert len(right) >= 0.5 * len(suspects)


def test_wrong_and_missing_labels_are_told_apart(rng, truth):
    given = truth.copy()
    given[0], given[1] = [True, False, False], [False, False, False]
    scores = good_scores(given, rng)
    scores[0, 0], scores[1, 2] = 0.01, 0.99
    suspects = suspects_of(split_of(given), scores).set_index("row")
    assert suspects.loc[0, ["given", "suggested"]].tolist() == ["cat", ""]
    assert suspects.loc[1, ["given", "suggested"]].tolist() == ["", "fox"]


def test_the_strongest_suspicion_comes_first(rng, truth):
    given = truth.copy()
    given[7] = [True, False, False]
    scores = good_scores(given, rng)
    scores[7, 0] = 0.0
    suspects = suspects_of(split_of(given), scores)
    assert suspects["row"].iloc[0] == 7


def test_unknown_labels_are_not_suspected(rng, truth):
    unknown = np.zeros_like(truth)
    unknown[:300, 1] = True
    scores = good_scores(truth, rng)
    scores[:300, 1] = 1 - scores[:300, 1]
    suspects = suspects_of(split_of(truth, unknown), scores)
    assert not {(row, name) for row, name in found(suspects) if row < 300 and name == "dog"}


def test_rows_without_an_honest_score_are_left_out(rng, truth):
    given = truth ^ (rng.random(truth.shape) < 0.05)
    scores = good_scores(truth, rng)
    scores[:400] = np.nan
    suspects = suspects_of(split_of(given), scores)
    assert len(suspects) and suspects["row"].min() >= 400


def test_a_class_with_too_few_examples_is_not_judged(rng, truth):
    truth[:, 2] = False
    truth[:3, 2] = True
    scores = good_scores(truth, rng)
    suspects = suspects_of(split_of(truth), scores)
    assert "fox" not in set(suspects["class"])


def test_a_single_label_is_disputed_by_the_likelier_class(rng):
    truth = rng.integers(0, 3, 300)
    scores = np.full((300, 3), 0.05)
    scores[np.arange(300), truth] = 0.9
    labels = truth.copy()
    labels[:12] = (labels[:12] + 1) % 3
    given = np.eye(3, dtype=bool)[labels]
    suspects = suspects_of(split_of(given), scores, SINGLE)
    assert set(suspects["row"]) == set(range(12))
    assert list(suspects["suggested"]) == [CLASSES[truth[row]] for row in suspects["row"]]


def test_a_frame_of_images_serves_as_well(rng, truth):
    flips = rng.random(truth.shape) < 0.05
    split, scores = split_of(truth ^ flips), good_scores(truth, rng)
    frame = pd.DataFrame({"image": split.filepaths, "split": "val"})
    table = suspect_labels(frame, split.targets, scores, split.mask, MULTI, classes=CLASSES)
    pd.testing.assert_frame_equal(table, suspects_of(split, scores).drop(columns="row"))


def test_the_setting_turns_the_search_off(rng, truth):
    off = MULTI.model_copy(update={"audit": AuditSettings(label_errors=False)})
    flips = rng.random(truth.shape) < 0.05
    assert suspects_of(split_of(truth ^ flips), good_scores(truth, rng), off).empty


def test_the_table_is_written_without_formulas(tmp_path):
    row = ["=1+1.jpg", "val", "cat", "cat", "", 0.9]
    table = pd.DataFrame([row], columns=COLUMNS)
    path = write_label_errors(table, tmp_path)
    assert path.read_text().splitlines()[1] == "'=1+1.jpg,val,cat,cat,,0.9"
    assert read_label_errors(tmp_path).to_dict("records") == table.to_dict("records")


def test_scores_of_another_shape_are_refused(truth):
    with pytest.raises(InputError, match=r"probabilities are \(600, 2\); they must be \(600, 3\)"):
        suspects_of(split_of(truth), np.zeros((600, 2)))


def test_logits_are_refused(truth):
    with pytest.raises(InputError, match="probabilities must be 0 to 1"):
        suspects_of(split_of(truth), np.full(truth.shape, 3.0))


def test_without_cleanlab_nothing_is_suspected_and_the_log_says_so(truth, rng, monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "cleanlab.filter", None)
    suspects = suspects_of(split_of(truth), good_scores(truth, rng))
    assert suspects.empty and "pip install cleanlab" in caplog.text
