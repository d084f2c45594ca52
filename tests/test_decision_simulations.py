"""A small sample of the simulations that `tests.prove coverage` runs long."""

import pytest

from tests import decision_simulations as simulations

pytestmark = pytest.mark.slow


def test_the_accuracy_of_the_answers_is_covered_and_a_promise_is_kept():
    found = simulations.unknown(48, images=(196,), strengths=(2.2, 2.6, 3.0))
    assert found["accuracy of the answers, 196 images"] > 0.85  # 95 % less three deviations
    assert found["said to be 95 % right, 196 images"] > 0.2
    assert found["and right, 196 images"] > 0.9


def test_the_calibration_error_is_covered():
    kinds = ("calibrated", "too sure", "shifted")
    assert simulations.calibration_intervals(48, images=(400,), kinds=kinds).popitem()[1] > 0.85


def test_the_difference_of_two_calibration_errors_is_covered():
    assert simulations.calibration_differences(20).popitem()[1] >= 0.9


def test_no_correction_harms_and_those_that_are_needed_ship():
    found = simulations.corrections(6, images=(1000,))
    assert found["temperature: harm done"] == found["platt: harm done"] == 0
    assert found["temperature: mistaken classes corrected"] > 0.9
    assert found["platt: mistaken classes corrected"] > 0.9
