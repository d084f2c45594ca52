"""The budget of a loss: what is measured, what the images show, and how often that is right."""

import numpy as np
import pytest

from workbench.decide.budget import Loss, paired_loss

ALLOWED = 0.02


@pytest.mark.parametrize(
    "loss, verdict",
    [
        (Loss(0.001, (-0.010, 0.012), 1000), "within"),
        (Loss(0.000, (-0.050, 0.050), 1000), "not shown"),  # it holds 0, and says nothing
        (Loss(0.019, (0.010, 0.028), 1000), "not shown"),
        (Loss(0.021, (-0.010, 0.050), 1000), "beyond"),
        (Loss(0.000, (0.000, 0.000), 24), "not shown"),  # nothing differs on few images
        (Loss(0.000, (0.000, 0.000), 150), "within"),
        (Loss(0.000, None, 1000), "not shown"),
    ],
)
def test_an_interval_shows_a_loss_to_be_within_its_budget_or_does_not(loss, verdict):
    assert loss.verdict(ALLOWED) == verdict


def drawn(rng, images: int, wrong: float):
    y_true = (rng.random((images, 4)) < 0.4).astype(np.float32)
    return y_true, (y_true > 0) ^ (rng.random(y_true.shape) < wrong)


def test_a_loss_is_the_difference_of_the_two_f1():
    from sklearn.metrics import f1_score

    rng = np.random.default_rng(0)
    y_true, better = drawn(rng, 200, 0.05)
    worse = better ^ (rng.random(y_true.shape) < 0.1)
    found = paired_loss(better, worse, y_true, None, replicates=50, seed=0)
    scores = [f1_score(y_true, side, average="macro") for side in (better, worse)]
    assert found.value == pytest.approx(scores[0] - scores[1])
    assert found.certain


def test_a_certain_loss_is_seldom_claimed_of_equal_files():
    """Two files that are wrong alike often: the better one is named in about 2.5 % of the draws."""
    rng, claims = np.random.default_rng(1), 0
    for seed in range(200):
        y_true, first = drawn(rng, 150, 0.08)
        second = (y_true > 0) ^ (rng.random(y_true.shape) < 0.08)
        claims += paired_loss(first, second, y_true, None, replicates=200, seed=seed).certain
    assert claims / 200 <= 0.06


def test_a_loss_beyond_the_budget_is_seldom_called_within():
    """The true loss is .03 where .02 is allowed: an end at 97.5 % is below .02 in few draws."""
    rng, called = np.random.default_rng(2), 0
    for seed in range(200):
        y_true, first = drawn(rng, 300, 0.05)
        second = first ^ (rng.random(y_true.shape) < 0.0315)  # costs F1 .03 here
        loss = paired_loss(first, second, y_true, None, replicates=200, seed=seed)
        called += loss.verdict(ALLOWED) == "within"
    assert called / 200 <= 0.05
