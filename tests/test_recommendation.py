"""threshold_recommendation.json goes out and comes back whole, and nothing else comes back."""

import copy
import json

import numpy as np
import pytest

from workbench.decide.recommendation import from_json, read
from workbench.decide.thresholds import search
from workbench.decide.unknown import search_unknown
from workbench.errors import InputError
from workbench.settings import SingleLabelSettings, ThresholdSearchSettings

NAMES = ("NA", "</script>", "caf\u00e9 \U0001f408")
WHEN = "2026-11-20T10:00:00+00:00"


@pytest.fixture(scope="module")
def found():
    rng = np.random.default_rng(0)
    y_true = rng.random((200, 3)) < 0.3
    y_true[:, 2] = False
    raw = np.clip(rng.normal(0, 30, (200, 3)) + 40 * y_true, -128, 127).astype(np.int8)
    settings = ThresholdSearchSettings(bootstrap_replicates=50)
    return search(y_true, raw, 0.07, -3, settings, NAMES, 1, source_sha256="ab" * 32)


@pytest.fixture(scope="module")
def unknown():
    rng = np.random.default_rng(0)
    y_true = np.eye(3)[rng.integers(0, 3, 200)]
    logits = rng.normal(0, 1, (200, 3)) + 2 * y_true
    return search_unknown(y_true, logits, SingleLabelSettings(), NAMES, 1)


def written(thresholds):
    return json.loads(json.dumps(thresholds.model_dump(mode="json"), allow_nan=False))


def test_what_is_written_is_read_back_equal(found):
    assert from_json(written(found)) == found


def test_an_edited_one_is_read_back_with_its_author(found):
    edited = found.edited({"NA": 20}, "Ada", WHEN, "too many false alarms")
    back = from_json(written(edited))
    assert back == edited
    assert back.classes[0].reason == "set by Ada: too many false alarms"
    assert back.edits[0].changes == {"NA": (found.integer[0], 20)}


def test_a_single_label_one_is_read_back_equal(unknown):
    assert from_json(written(unknown)) == unknown
    edited = unknown.edited(0.9, "Ada", WHEN, "safer")
    assert from_json(written(edited)) == edited


def test_a_choice_saved_by_an_older_version_is_still_read(unknown):
    older = written(unknown.edited(0.9, "Ada", WHEN, "safer")) | {"bootstrap_replicates": 1000}
    del older["unknown"]["held_out_accuracy"]
    older["unknown"]["accepted_accuracy_interval"] = None
    assert unknown.with_edits_of(from_json(older)).probability == pytest.approx(0.9, abs=0.005)
    assert "bootstrap_replicates" not in written(from_json(older))


def test_a_file_is_read(found, tmp_path):
    path = tmp_path / "threshold_recommendation.json"
    path.write_text(json.dumps(found.model_dump(mode="json")), encoding="utf-8")
    assert read(path) == found


def test_the_file_holds_what_the_manual_says(found):
    value = written(found)
    assert value["created_by"] == "search"
    assert value["scores"]["source_sha256"] == "ab" * 32
    assert value["classes"][2]["note"] and value["classes"][2]["gain"] is None
    for entry in [value["global"], *value["classes"]]:
        logit = (entry["integer"] - 0.5 + 3) * 0.07
        assert entry["logit"] == pytest.approx(logit, abs=1e-12)
        assert entry["probability"] == pytest.approx(1 / (1 + np.exp(-logit)), abs=1e-12)


def test_no_change_is_no_edit(found):
    assert found.edited({"NA": int(found.integer[0])}, "Ada", WHEN, "") is found


@pytest.mark.parametrize(
    ("changes", "words"), [({"cat": 3}, "not a class"), ({"NA": 129}, "cannot be a threshold")]
)
def test_impossible_edits_are_refused(found, changes, words):
    with pytest.raises(InputError, match=words):
        found.edited(changes, "Ada", WHEN, "")


def change(value, path, new):
    *parents, last = path
    for key in parents:
        value = value[key]
    if new is KeyError:
        del value[last]
    else:
        value[last] = new


@pytest.mark.parametrize(
    ("path", "new", "words"),
    [
        (["schema"], 2, "run 06"),
        (["schema"], True, "must be int"),
        (["task"], "both", "multilabel or single_label"),
        (["extra"], 1, "unknown key 'extra'"),
        (["classes", 0, "extra"], 1, "class 0 .'NA'.: unknown key"),
        (["classes", 0, "integer"], KeyError, "integer is missing"),
        (["classes", 0, "integer"], 3.0, "must be int"),
        (["classes", 0, "integer"], 500, "cannot be a threshold"),
        (["classes", 0, "integer"], 99, "the app compares the integer"),
        (["classes", 0, "probability"], 0.999, "the app compares the integer"),
        (["classes", 0, "probability"], "0.5", "must be int or float"),
        (["classes", 0, "adopted"], 1, "must be bool"),
        (["classes", 0, "created_by"], "person", "do not agree"),
        (["classes", 0, "name"], "</script>", "only once"),
        (["classes"], [], "must be there"),
        (["classes", 0, "gain_interval"], [1], "two ends"),
        (["created_by"], "person", "needs an entry in edits"),
        (["scores", "scale"], 0, "must be above 0"),
        (["scores", "scale"], float("inf"), "must be finite"),
        (["edits"], [{"who": "A", "when": "now", "why": "", "changes": {}}], "must be a date"),
        (["edits"], [{"who": "A", "when": WHEN, "why": "", "changes": {"cat": [1, 2]}}], "edits"),
    ],
)
def test_a_file_that_was_not_written_so_is_refused(found, path, new, words):
    value = copy.deepcopy(written(found))
    change(value, path, new)
    with pytest.raises(InputError, match=words):
        from_json(value)


@pytest.mark.parametrize(
    "text", ["", "[]", "null", "{" * 100_000, '{"schema": 1, "schema": 1}', "\ufeff{}"]
)
def test_a_file_that_is_no_json_object_is_refused(tmp_path, text):
    path = tmp_path / "threshold_recommendation.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InputError):
        read(path)


def test_a_key_that_is_there_twice_is_refused(found, tmp_path):
    path = tmp_path / "threshold_recommendation.json"
    text = json.dumps(found.model_dump(mode="json"))
    path.write_text(text.replace('"seed": 1,', '"seed": 1, "seed": 2,', 1), encoding="utf-8")
    with pytest.raises(InputError, match="'seed' is there twice"):
        read(path)
