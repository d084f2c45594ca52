"""Unlike and different: what is claimed with a probability holds that often on drawn photos."""

import numpy as np
import pytest

from workbench.decide.drift import (
    FALSE_ALARMS,
    chance_interval,
    drift,
    p_values,
    share_difference,
    unlike,
)

ROUNDS = 600


@pytest.mark.parametrize("odd", [0, 30])
def test_of_the_photos_called_unlike_few_are_false_alarms(odd):
    rng, wrong, caught = np.random.default_rng(1), [], []
    for _ in range(ROUNDS):
        usual = rng.gamma(2, size=300)
        here = np.concatenate([rng.gamma(2, size=170), rng.normal(25, 2, odd)])
        found = unlike(p_values(here, usual))
        wrong.append(found[:170].sum() / max(found.sum(), 1))
        caught.append(found[170:].mean() if odd else 1)
    assert np.mean(wrong) <= FALSE_ALARMS + 2 * np.std(wrong) / np.sqrt(ROUNDS)
    assert np.mean(caught) > 0.9


def test_few_validation_photos_cannot_tell_one_photo_among_thousands():
    here = np.append(np.linspace(0, 1, 5000), 99.0)
    assert not unlike(p_values(here, np.linspace(0, 1, 100))).any()
    assert unlike(p_values(here[-3:], np.linspace(0, 0.9, 100))).any()


@pytest.mark.parametrize(("here", "usual"), [(0.3, 0.2), (0.03, 0.05), (0.5, 0.95)])
def test_the_interval_of_a_difference_of_shares_covers(here, usual):
    rng, held = np.random.default_rng(2), 0
    for _ in range(ROUNDS):
        low, high = share_difference(rng.binomial(400, here), 400, rng.binomial(150, usual), 150)
        held += low <= here - usual <= high
    assert 0.92 <= held / ROUNDS <= 0.985


@pytest.mark.parametrize(("shift", "chance"), [(0.0, 0.5), (1.0, 0.760), (2.0, 0.921)])
def test_the_interval_of_the_chance_to_lie_farther_covers(shift, chance):
    rng, held = np.random.default_rng(3), 0
    for _ in range(ROUNDS):
        _, low, high = chance_interval(rng.normal(shift, 1, 200), rng.normal(0, 1, 120))
        held += low <= chance <= high
    assert 0.92 <= held / ROUNDS <= 0.98


def test_a_folder_like_validation_is_rarely_said_to_differ_in_anything():
    rng, shares, alarms = np.random.default_rng(4), np.array([0.2, 0.05, 0.4, 0.1, 0.3]), 0
    for _ in range(ROUNDS):
        said, usual_said = (rng.random((count, 5)) < shares for count in (300, 150))
        far, usual = rng.gamma(2, size=300), rng.gamma(2, size=150)
        alarms += any(one.moved for one in drift(list("abcde"), said, usual_said, far, usual))
    assert alarms / ROUNDS <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / ROUNDS)


def test_a_folder_that_differs_is_said_to():
    rng = np.random.default_rng(5)
    said, usual_said = (rng.random((300, 2)) < [share, 0.2] for share in (0.5, 0.2))
    far, usual = rng.gamma(4, size=300), rng.gamma(2, size=300)
    found = drift(["cat", "dog"], said, usual_said, far, usual)
    assert [one.moved for one in found] == [True, False, True]
    assert found[0].low < 0.3 < found[0].high and found[-1].here > 0.6


def test_one_photo_far_away_has_an_interval_within_its_bounds():
    chance, low, high = chance_interval(np.array([5.0, 6.0]), np.array([1.0, 2.0]))
    assert 0.5 < low <= chance <= high < 1
