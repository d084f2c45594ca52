"""A person's own thresholds outlive a new search where they fit, and stop nothing where not."""

import json
import logging

import pytest

from tests.decision_doubles import draw, names, tuned, tuned_unknown
from workbench.decide.choice import (
    CHOICE,
    accept,
    apply_choice,
    keep_choice,
    own_thresholds,
    with_saved_choice,
)
from workbench.decide.recommendation import RECOMMENDATION, from_json, read
from workbench.decide.thresholds import search
from workbench.errors import InputError, MissingInputError
from workbench.files import write_json
from workbench.settings import ThresholdSearchSettings

WHEN = "2026-11-20T10:00:00+00:00"
FIRST = names(1)[0]


@pytest.fixture
def found():
    return tuned()[1]


def search_again(**changes):
    settings = ThresholdSearchSettings(**({"bootstrap_replicates": 20} | changes))
    return search(*draw(), 0.06, -10, settings, names(7), 0)


def edit(thresholds, integer=20, why="fewer false alarms"):
    return thresholds.edited({FIRST: integer}, "Ada", WHEN, why)


def written(thresholds):
    return json.loads(json.dumps(thresholds.model_dump(mode="json"), allow_nan=False))


def other_run(thresholds):
    value = written(edit(thresholds))
    value["scores"]["source_sha256"] = "cd" * 32
    return value


def test_an_edit_made_in_a_browser_becomes_the_edit_made_here(found):
    value = written(edit(found))
    value["classes"][0]["probability"] += 1e-12  # the last places of another sigmoid
    taken = accept(found, from_json(value))
    assert taken == edit(found) and taken.curve is found.curve


def test_an_edit_of_another_run_is_refused(found):
    with pytest.raises(InputError, match="belongs to another run: its source_sha256 is 'cdcd"):
        accept(found, from_json(other_run(found)))


def test_an_edit_of_the_other_task_is_refused(found):
    with pytest.raises(InputError, match="other task"):
        accept(found, tuned_unknown())


def test_a_new_search_keeps_the_edited_class_and_renews_the_others(found):
    renewed = search_again(objective="recall_floor", floor=0.99)
    assert renewed.integer[1] != found.integer[1]
    taken = accept(renewed, edit(found))
    assert taken.integer.tolist() == [20, *renewed.integer[1:].tolist()]
    assert taken.objective["name"] == "recall_floor" and taken.created_by == "person"
    assert from_json(written(taken)) == taken


def test_an_edited_confidence_is_judged_by_the_targets_of_the_new_search():
    threshold = tuned_unknown()
    edited = threshold.edited(0.9, "Ada", WHEN, "safer")
    assert accept(threshold, from_json(written(edited))) == edited


def test_without_a_saved_choice_the_search_stands(found, tmp_path):
    assert with_saved_choice(found, tmp_path) is found


def test_a_saved_choice_is_put_on_top(found, tmp_path):
    keep_choice(tmp_path, edit(found))
    assert with_saved_choice(found, tmp_path) == edit(found)


@pytest.mark.parametrize("what", ["another run", "damaged"])
def test_a_saved_choice_that_does_not_fit_is_named_kept_and_not_applied(
    found, tmp_path, what, caplog, monkeypatch
):
    monkeypatch.setattr(logging.getLogger("workbench"), "propagate", True)
    text = json.dumps(other_run(found)) if what == "another run" else "{"
    (tmp_path / CHOICE).write_text(text, "utf-8")
    assert with_saved_choice(found, tmp_path) is found
    assert "threshold_choice.json was not applied: " in caplog.text
    assert "The searched thresholds are used" in caplog.text
    assert (tmp_path / CHOICE).read_text("utf-8") == text


@pytest.mark.parametrize(
    ("place", "named"),
    [("outputs/night", "--run night"), ("outputs/sweep/night", "--out {folder}")],
)
def test_applying_a_downloaded_file_keeps_it_and_names_the_next_command(
    found, tmp_path, place, named
):
    folder, downloaded = tmp_path / place, tmp_path / "downloaded.json"
    write_json(folder / RECOMMENDATION, written(found))
    write_json(downloaded, written(edit(found)))
    said = apply_choice(folder, downloaded)
    assert said.endswith(f"python -m workbench run {named.format(folder=folder)} --from 06")
    assert read(folder / CHOICE) == edit(found)


def test_what_is_saved_is_what_the_next_steps_read(found, tmp_path):
    write_json(tmp_path / RECOMMENDATION, written(found))
    assert keep_choice(tmp_path, edit(found)).startswith("Saved and applied")
    assert read(tmp_path / RECOMMENDATION) == edit(found)
    assert with_saved_choice(found, tmp_path) == read(tmp_path / RECOMMENDATION)


def test_applying_a_file_without_an_edit_is_refused(found, tmp_path):
    write_json(tmp_path / RECOMMENDATION, written(found))
    with pytest.raises(InputError, match="changes no threshold"):
        apply_choice(tmp_path, tmp_path / RECOMMENDATION)


def test_applying_before_a_search_names_the_notebook(found, tmp_path):
    write_json(tmp_path / "downloaded.json", written(edit(found)))
    with pytest.raises(MissingInputError, match="Run 06_tune_thresholds first"):
        apply_choice(tmp_path, tmp_path / "downloaded.json")


def test_own_thresholds_are_given_as_probabilities_by_class(found):
    taken = own_thresholds(found, {FIRST: 0.7}, who="me")
    assert taken.probability[0] == pytest.approx(0.7, abs=0.01)
    assert taken.integer[1:].tolist() == found.integer[1:].tolist()
    assert (taken.edits[0].who, taken.created_by) == ("me", "person")
    assert from_json(written(taken)) == taken


def test_an_own_threshold_of_a_single_label_is_called_unknown():
    threshold = tuned_unknown()
    assert own_thresholds(threshold, {"unknown": 0.8}, who="me").probability == pytest.approx(0.8)
    with pytest.raises(InputError, match="a single label has one"):
        own_thresholds(threshold, {"cat": 0.8}, who="me")


def test_no_own_thresholds_change_nothing(found):
    assert own_thresholds(found, {}, who="me") is found


@pytest.mark.parametrize(
    ("name", "value", "words"), [("cat", 0.5, "not a class"), (FIRST, 7, "0 to 1")]
)
def test_impossible_own_thresholds_are_refused(found, name, value, words):
    with pytest.raises(InputError, match=words):
        own_thresholds(found, {name: value}, who="me")
