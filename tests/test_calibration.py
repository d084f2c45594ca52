"""Probabilities are held against what happened, and corrected without turning a decision."""

import json

import numpy as np
import pytest
from scipy.special import expit, softmax
from sklearn.calibration import calibration_curve

from workbench.decide.calibration import (
    Scores,
    calibrate,
    calibration_error,
    class_errors,
    fit_lines,
    reliability,
)
from workbench.decide.intervals import wilson
from workbench.decide.levels import Quantization, count_levels
from workbench.settings import CalibrationSettings

SCALE, ZERO_POINT = 0.1, 5


def draw(seed=0, images=4000, classes=3, slope=1.0, intercept=0.0):
    """Draw labels from true logits, and int8 scores that show them stretched and shifted."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(-1, 2, (images, classes))
    y_true = rng.random(logits.shape) < expit(logits)
    shown = (logits - intercept) / slope
    raw = np.clip(np.rint(shown / SCALE + ZERO_POINT), -128, 127).astype(np.int8)
    return y_true, raw


def fit(y_true, raw, task="multilabel", mask=None, replicates=0, **options):
    names = [f"class {index}" for index in range(raw.shape[1])]
    settings = CalibrationSettings(bootstrap_replicates=replicates, **options)
    return calibrate(Scores(raw, SCALE, ZERO_POINT, y_true, mask, task), names, settings, 0)


def test_reliability_bins_equal_scikit_learn():
    rng = np.random.default_rng(0)
    probability = rng.random((500, 4))
    y_true = rng.random((500, 4)) < probability
    table = reliability(y_true, probability, bins=10)
    observed, predicted = calibration_curve(y_true.ravel(), probability.ravel(), n_bins=10)
    np.testing.assert_allclose(table.observed, observed, rtol=0, atol=1e-12)
    np.testing.assert_allclose(table.predicted, predicted, rtol=0, atol=1e-12)


def test_calibration_error_is_the_weighted_distance_by_hand():
    probability = np.array([[0.1], [0.1], [0.9], [0.9]])
    y_true = np.array([[0], [1], [1], [1]])
    assert calibration_error(y_true, probability) == pytest.approx((0.4 + 0.1) / 2)


def test_true_probabilities_have_nearly_no_error():
    y_true, raw = draw(images=20_000)
    probability = Quantization(SCALE, ZERO_POINT).probabilities(raw)
    assert calibration_error(y_true, probability) < 0.01


def test_masked_labels_are_left_out():
    y_true, raw = draw()
    probability = Quantization(SCALE, ZERO_POINT).probabilities(raw)
    mask = np.random.default_rng(0).random(raw.shape) < 0.5
    expected = calibration_error(y_true[mask][:, None], probability[mask][:, None])
    assert calibration_error(y_true, probability, mask) == pytest.approx(expected, abs=1e-12)


def test_no_labels_have_no_error():
    assert calibration_error(np.zeros((2, 1)), np.zeros((2, 1)), np.zeros((2, 1))) is None


def test_class_errors_lie_inside_their_intervals():
    y_true, raw = draw(slope=0.5)
    probability = Quantization(SCALE, ZERO_POINT).probabilities(raw)
    table = class_errors(y_true, probability, ["a", "b", "c"], replicates=100, seed=0)
    assert table["class"].tolist() == ["a", "b", "c", "all classes"]
    assert ((table.error_low <= table.error) & (table.error <= table.error_high)).all()
    assert (table.error_high - table.error_low > 0.01).all()  # the bins are not kept as measured


def test_the_noise_of_a_small_sample_is_not_taken_for_an_error():
    y_true, raw = draw(images=80)
    probability = Quantization(SCALE, ZERO_POINT).probabilities(raw)
    table = class_errors(y_true, probability, ["a", "b", "c"], replicates=200, seed=0)
    assert (table.error > 0.05).any() and (table.error_low < 0.02).all()


def test_an_interval_from_too_few_labels_is_withheld_with_the_reason():
    y_true, raw = draw(images=200)
    y_true[:, 1] = np.arange(200) < 9
    found = fit(y_true, raw, replicates=20).to_json()["classes"]
    assert found[1]["error_before_low"] is None and found[0]["error_before_low"] is not None
    assert found[1]["withheld"] == "fewer than 10 labels of a kind"


def test_wilson_stays_inside_the_unit_interval():
    low, high = wilson(np.array([0, 5, 5]), np.array([5, 5, 10]))
    assert low[0] == 0 and high[1] == 1
    assert low[2] == pytest.approx(0.2366, abs=1e-4)  # the textbook value for 5 of 10


def test_platt_finds_the_line_that_was_drawn():
    fitted = fit(*draw(images=20_000, slope=0.5, intercept=-0.7), method="platt")
    np.testing.assert_allclose(fitted.slope, 0.5, atol=0.03)
    np.testing.assert_allclose(fitted.intercept, -0.7, atol=0.07)


def test_temperature_only_stretches():
    fitted = fit(*draw(images=20_000, slope=0.5), method="temperature")
    np.testing.assert_allclose(fitted.slope, 0.5, atol=0.03)
    assert not fitted.intercept.any()


def test_classes_that_need_no_correction_ship_none():
    y_true, raw = draw(images=600)
    found = fit(y_true, raw, method="platt")
    assert found.slope.tolist() == [1.0] * 3 and not found.intercept.any() and not found.ships
    assert found.after.error.tolist() == found.before.error.tolist()
    assert found.table.reason[:3].str.startswith("left as it is").all()


def test_a_class_without_a_mistake_is_not_made_surer_than_its_images_allow():
    y_true = np.arange(800)[:, None] % 2 == 0  # every answer is right, and as sure as the others
    found = fit(y_true, np.where(y_true, 55, -45).astype(np.int8))
    assert found.evidence.loss_after[0] < found.evidence.loss_before[0]
    assert found.slope.tolist() == [1.0] and "may be luck" in found.evidence.reason[0]


def test_the_table_of_a_run_says_class_by_class_what_ships_and_why():
    y_true, raw = draw(slope=0.4)
    raw[:, 1] = np.rint((raw[:, 1].astype(int) - ZERO_POINT) * 0.4) + ZERO_POINT
    rows = fit(y_true, raw).to_json()["classes"]
    assert [row["ships"] for row in rows] == [True, False, True, None]
    assert rows[0]["loss_after"] < rows[0]["loss_before"]
    assert rows[1]["slope"] == 1 and rows[1]["reason"].startswith("left as it is")


def test_the_correction_helps_on_images_it_has_not_seen():
    fitted = fit(*draw(slope=0.4), method="platt")
    assert (fitted.after.error < fitted.before.error / 2).all()


@pytest.mark.parametrize("method", ["temperature", "platt"])
def test_a_correction_turns_no_decision(method):
    y_true, raw = draw(slope=0.4, intercept=1.0)
    y_true = ~y_true  # scores that point the wrong way must not be turned round in silence
    fitted = fit(y_true, raw, method=method)
    assert (fitted.slope > 0).all()


def test_a_class_without_examples_is_left_as_it_is():
    y_true, raw = draw()
    y_true[:, 1] = False
    fitted = fit(y_true, raw, method="platt")
    assert (fitted.slope[1], fitted.intercept[1]) == (1, 0)
    json.dumps(fitted.to_json(), allow_nan=False)


def test_scores_that_separate_perfectly_are_trusted_only_as_far_as_their_number():
    y_true = np.array([[0], [0], [1], [1]])
    raw = np.array([[-90], [-80], [80], [90]], np.int8)
    counts = count_levels(y_true, raw)
    slope, intercept = fit_lines(counts, Quantization(SCALE, ZERO_POINT), "platt")
    predicted = expit(slope * Quantization(SCALE, ZERO_POINT).logits(raw[:, 0]) + intercept)
    np.testing.assert_allclose(predicted, [0.25, 0.25, 0.75, 0.75], atol=0.05)  # 2 + 1 of 2 + 2


def test_the_table_says_null_where_nothing_is_defined():
    y_true, raw = draw(images=6)
    rows = fit(y_true, raw, replicates=5).to_json()["classes"]
    assert rows[-1]["slope"] is None and rows[-1]["class"] == "all classes"


def draw_one_of(classes=4, images=4000, slope=2.0, seed=0):
    """Draw single labels from true logits, and int8 scores that show them `slope` times flatter."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 2, (images, classes))
    chances = softmax(logits, axis=1)
    label = (chances.cumsum(axis=1) > rng.random((images, 1))).argmax(axis=1)
    raw = np.clip(np.rint(logits / slope / SCALE + ZERO_POINT), -128, 127).astype(np.int8)
    return np.eye(classes)[label], raw


def test_a_single_label_gets_one_temperature_for_all_classes():
    found = fit(*draw_one_of(slope=2.0), task="single_label")
    assert found.slope == pytest.approx(np.full(4, 2.0), abs=0.1)
    assert not found.intercept.any()


def test_a_single_label_is_better_calibrated_with_its_temperature():
    found = fit(*draw_one_of(slope=3.0), task="single_label")
    pooled = found.table.iloc[-1]
    assert pooled.error_after < 0.4 * pooled.error_before
    np.testing.assert_allclose(found.held_out.sum(axis=1), 1)


def test_a_perfect_single_label_record_keeps_a_finite_temperature():
    raw = np.full((6, 3), -100, np.int8)
    raw[np.arange(6), np.arange(6) % 3] = 100
    found = fit(np.eye(3)[np.arange(6) % 3], raw, task="single_label")
    assert np.isfinite(found.slope).all()


def test_unknown_labels_do_not_move_the_temperature():
    y_true, raw = draw_one_of(images=400)
    wrong, mask = np.roll(y_true, 1, axis=1), np.ones_like(y_true)
    mask[200:] = 0
    mixed = np.concatenate([y_true[:200], wrong[200:]])
    with_mask = fit(mixed, raw, task="single_label", mask=mask)
    alone = fit(y_true[:200], raw[:200], task="single_label")
    np.testing.assert_array_equal(with_mask.slope, alone.slope)


@pytest.mark.parametrize("task", ["multilabel", "single_label"])
def test_the_method_none_measures_and_changes_nothing(task):
    y_true, raw = draw_one_of()
    found = fit(y_true, raw, task=task, method="none")
    assert found.slope.tolist() == [1.0] * 4 and found.intercept.tolist() == [0.0] * 4
    pooled = found.table.iloc[-1]
    assert pooled.error_after == pooled.error_before
