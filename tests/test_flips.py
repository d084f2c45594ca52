"""Photos beside a threshold: which they are, and what is said where they cannot be shown."""

import logging
from types import SimpleNamespace

import numpy as np
import pytest

from tests.decision_doubles import SCALE, ZERO_POINT, draw, flips, tuned, tuned_unknown
from workbench.decide.calibration import Scores
from workbench.errors import MissingInputError
from workbench.show import flips as module
from workbench.show.flips import Flips


def test_beside_a_threshold_lie_the_next_scores_of_both_answers(tmp_path):
    _, raw = draw()
    found, thresholds = flips(tmp_path), tuned()[1]
    near = found.near(thresholds)
    each = module.IN_PAGE // (2 * 7)
    for index, entries in enumerate(near["classes"]):
        start, score = thresholds.integer[index], raw[:, index].astype(int)
        above = sorted(one for one in score if one >= start)[:each]
        below = sorted((one for one in score if one < start), reverse=True)[:each]
        assert [level for _, level, _ in entries] == [*above, *below]
    assert len(near["pictures"]) <= module.IN_PAGE
    assert set(near["pictures"]) == {
        str(row) for entries in near["classes"] for row, _, _ in entries
    }


def test_between_two_thresholds_lie_the_photos_whose_answer_turns(tmp_path):
    y_true, raw = draw()
    turned = flips(tmp_path).between(2, start=0, now=-9)
    rows = [row for row, _, _ in turned["entries"]]
    assert set(rows) == set(np.flatnonzero((raw[:, 2] >= -9) & (raw[:, 2] < 0)))
    assert [there for *_, there in turned["entries"]] == y_true[rows, 2].tolist()


def test_many_that_turn_are_cut_to_those_next_to_the_threshold(tmp_path):
    _, raw = draw()
    turned = flips(tmp_path).between(0, start=-128, now=100)
    levels = [level for _, level, _ in turned["entries"]]
    assert levels == sorted(raw[:, 0].tolist(), reverse=True)[: module.AT_ONCE]


def test_unknown_labels_are_no_photos_of_a_class(tmp_path):
    y_true, raw = draw()
    mask = np.ones(raw.shape, np.float32)
    mask[:100, 0] = 0
    part = flips(tmp_path)
    scores = Scores(raw, SCALE, ZERO_POINT, y_true, mask, "multilabel")
    rows = [
        row for row, _, _ in Flips(scores, part.split, part.settings).near(tuned()[1])["classes"][0]
    ]
    assert rows and min(rows) >= 100


def test_of_a_single_label_it_is_the_confidence_that_turns(tmp_path):
    threshold, (y_true, raw) = tuned_unknown(), draw(classes=4)
    part = flips(tmp_path, classes=4)
    y_true = np.eye(4)[np.random.default_rng(0).integers(0, 4, len(raw))]
    scores = Scores(raw, SCALE, ZERO_POINT, y_true, None, "single_label")
    (entries,) = Flips(scores, part.split, part.settings).near(threshold)["classes"]
    assert len(entries) <= module.IN_PAGE
    for row, confidence, right in entries:
        assert confidence == pytest.approx(scores.probability[row].max())
        assert right == (raw[row].argmax() == y_true[row].argmax())


def test_photos_that_are_gone_are_named_and_stop_nothing(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("workbench"), "propagate", True)
    found = flips(tmp_path)
    (tmp_path / "photo.png").unlink()
    near = found.near(tuned()[1])
    assert near["pictures"] == {} and near["classes"][0]
    assert "cannot be shown in the explorer" in caplog.text

    def nowhere():
        raise MissingInputError("no dataset_manifest.json")

    run = SimpleNamespace(dataset=nowhere, settings=None)
    assert Flips.of(run, found.scores) is None
