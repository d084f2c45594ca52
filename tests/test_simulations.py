"""A small sample of the simulations of `python -m tests.prove coverage`, with wide bounds."""

import numpy as np

from tests.prove.coverage import run, whole_kind


def test_the_whole_kind_is_a_distribution():
    counts = whole_kind(np.array([0.0, 30.0]), 0.2)
    assert np.allclose(counts.positives.sum(1), 0.2) and np.allclose(counts.negatives.sum(1), 0.8)


def test_intervals_of_nearly_perfect_answers_hold_the_truth():
    (found,) = run(repeats=25, only="answers, F1 .987, 46").values()
    assert found["f1_of_a_class"] > 0.9 and found["f1_macro"] >= 0.8


def test_identical_classes_rarely_get_a_threshold_of_their_own_and_their_gains_are_no_boast():
    (found,) = run(repeats=15, only="adoption, 7 identical").values()
    assert found["any_adopted"] <= 0.2 and found["gains_covered"] > 0.85


def test_most_thresholds_that_gain_are_still_adopted_and_few_that_lose():
    (found,) = run(repeats=15, only="adoption, 3 of 7 differ, 1500").values()
    assert found["adopted_and_better"] > 0.8 * found["before_and_better"] > 1
    assert found["adopted_and_worse"] < 0.3


def test_a_floor_that_is_claimed_is_kept():
    (found,) = run(repeats=8, only="precision floor .80, 400 images").values()
    assert found["claimed"] > 0.5 and found["kept_where_claimed"] > 0.9
