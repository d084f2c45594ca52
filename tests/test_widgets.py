"""Sliders change what they say they change, say what they did, and hand over a plain record."""

import os

import numpy as np
import pytest

from tests.decision_doubles import NAUGHTY, draw, tuned, tuned_unknown
from tests.prove import slider
from workbench.decide.recommendation import from_json
from workbench.show.gallery import Picture
from workbench.show.sliders import Tuning
from workbench.show.tuner_charts import curve_chart, score_chart
from workbench.show.widgets import picture_gallery, threshold_tuner


@pytest.fixture
def saved():
    return []


@pytest.fixture
def tuner(saved):
    return threshold_tuner(*tuned(), on_save=saved.append)


def test_moving_the_slider_changes_the_threshold_and_the_words(tuner):
    before = tuner.words.value
    tuner.slider.value = 40
    assert tuner.tuning.integers[0] == 40
    assert tuner.words.value != before and "integer 40" in tuner.words.value


def test_the_words_count_as_the_answers_do(tuner):
    y_true, raw = draw()
    tuner.slider.value = 12
    yes = raw[:, 0] >= 12
    assert f"finds {(yes & y_true[:, 0]).sum()} and misses" in tuner.words.value
    assert f"and {(yes & ~y_true[:, 0]).sum()} wrongly" in tuner.words.value


def test_choosing_a_class_shows_its_own_threshold(tuner):
    tuner.classes.value = 4
    assert tuner.slider.value == tuner.tuning.thresholds.integer[4]


def test_moves_of_one_slider_are_one_step_of_undo(tuner):
    start = tuner.slider.value
    for value in (30, 31, 32):
        tuner.slider.value = value
    tuner.undo.click()
    assert tuner.slider.value == start
    assert tuner.undo.disabled


def test_moves_of_two_sliders_are_two_steps(tuner):
    tuner.slider.value = 30
    tuner.classes.value = 1
    tuner.slider.value = 31
    tuner.undo.click()
    assert tuner.tuning.integers[0] == 30
    assert tuner.tuning.integers[1] == tuner.tuning.thresholds.integer[1]


def test_a_locked_class_is_moved_by_nothing(tuner):
    tuner.lock.value = True
    before = tuner.tuning.integers[0]
    tuner.rule.value = "recall_floor"
    tuner.use_all.click()
    assert tuner.tuning.integers[0] == before
    assert (tuner.tuning.integers[1:] != tuner.tuning.thresholds.integer[1:]).any()


def test_reset_goes_back_to_the_start(tuner):
    tuner.slider.value = 30
    tuner.reset.click()
    assert not tuner.tuning.changed


def test_a_rule_keeps_what_it_promises(tuner):
    tuner.rule.value, tuner.knobs["floor"].value = "recall_floor", 0.8
    tuner.use_all.click()
    recall = tuner.tuning.figures()["recall"]
    assert (recall[tuner.tuning.positives > 0] >= 0.8).all()


def test_a_class_without_images_follows_no_rule(tuner):
    tuner.rule.value = "recall_floor"
    tuner.use_all.click()
    assert 3 not in tuner.tuning.changed


def test_only_the_knobs_of_the_chosen_rule_are_shown(tuner):
    tuner.rule.value = "cost"
    shown = {key for key, knob in tuner.knobs.items() if knob.layout.display != "none"}
    assert shown == {"cost_false_positive", "cost_false_negative"}


def test_saving_hands_over_thresholds_with_who_when_and_why(tuner, saved):
    tuner.slider.value = 30
    tuner.who.value, tuner.why.value = "Ada", "fewer false alarms"
    tuner.save.click()
    (edited,) = saved
    assert edited.integer[0] == 30
    assert (edited.edits[0].who, edited.edits[0].why) == ("Ada", "fewer false alarms")
    assert from_json(edited.model_dump(mode="json")) == edited


def test_saving_without_a_name_saves_nothing(tuner, saved):
    tuner.slider.value = 30
    tuner.save.click()
    assert saved == [] and "name" in tuner.saved.value


def test_class_names_are_text_wherever_html_is_shown(tuner):
    for index in range(len(NAUGHTY)):
        tuner.classes.value = index
        for part in (tuner.words, tuner.charts, tuner.total):
            assert "<script" not in part.value and "<img" not in part.value


def test_an_answer_of_on_save_is_text(saved):
    tuner = threshold_tuner(*tuned(), on_save=lambda _: "<b>written</b>")
    tuner.who.value = "Ada"
    tuner.save.click()
    assert "&lt;b&gt;" in tuner.saved.value


@pytest.mark.slow
def test_the_proof_of_the_slider_times_what_there_is():
    found = slider.run(images=500, classes=3, moves=4)
    assert found["kernel"]["p50"] > 0
    assert (found["page"] is None) == (not os.path.exists(slider.CHROMIUM))


def test_pictures_say_in_words_what_they_show():
    tuning = Tuning(*tuned())
    assert "found" in curve_chart(tuning, 0) and "aria-label" in score_chart(tuning, 0)
    assert "No image" in curve_chart(tuning, 3)


def test_the_unknown_slider_moves_over_the_curve_and_saves(saved):
    tuner = threshold_tuner(None, tuned_unknown(), on_save=saved.append)
    tuner.slider.value = 150
    tuner.who.value = "Ada"
    tuner.save.click()
    assert saved[0].probability == tuner.threshold.curve.threshold[150]
    assert f"{saved[0].probability:.3f}" in tuner.words.value


def test_the_unknown_slider_goes_back_to_the_start(saved):
    tuner = threshold_tuner(None, tuned_unknown(), on_save=saved.append)
    tuner.slider.value = 3
    tuner.reset.click()
    assert tuner.slider.value == tuner.start


def picture(name, kind):
    return Picture(np.zeros((4, 4, 3), np.uint8), name, "seen", kind, (name,))


def test_the_gallery_filters_by_class_and_kind():
    gallery = picture_gallery([picture("cat", "missed"), picture("dog", "wrong")])
    (by_class, by_kind), shown = gallery.children[0].children, gallery.children[1]
    assert shown.value.count("<img") == 2
    by_class.value = "dog"
    assert shown.value.count("<img") == 1 and "dog" in shown.value
    by_kind.value = "missed"
    assert "No picture" in shown.value


def test_the_gallery_shows_names_as_text():
    gallery = picture_gallery([picture(NAUGHTY[1], "<b>")])
    assert "<img src=x" not in gallery.children[1].value
    assert "<b>&" not in gallery.children[1].value.replace("<b>&lt;img", "")
