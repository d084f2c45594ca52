"""Many runs on the same images: intervals that hold for every pair, and the luck of the best."""

import numpy as np
import pytest

from tests.decision_simulations import ranking
from workbench.decide.metrics import Predictions, evaluate
from workbench.decide.ranking import rank, simultaneous
from workbench.errors import InputError


def runs(count, images=80, seed=0, lift=0.3):
    rng = np.random.default_rng(seed)
    y_true = rng.random((images, 3)) < 0.4
    files = tuple(f"{number}.jpg" for number in range(images))
    return [
        Predictions(f"run {number}", files, ("a", "b", "c"), y_true,
                    np.clip(0.4 + lift * y_true + rng.normal(0, 0.3, y_true.shape), 0, 1), 0.5,
                    "multilabel")
        for number in range(count)
    ]  # fmt: skip


def test_the_order_of_images_and_classes_in_a_run_does_not_matter():
    first, second = runs(2)
    shuffled = second.chosen(np.random.default_rng(1).permutation(80), np.array([2, 0, 1]))
    knobs = {"figure": "f1_macro", "replicates": 50, "seed": 0}
    assert rank([first, shuffled], **knobs).table.equals(rank([first, second], **knobs).table)


def test_a_run_and_its_copy_are_not_told_apart():
    first, *_ = runs(1)
    table = rank([first, first], "f1_macro", replicates=50, seed=0).table
    assert table[["difference", "difference_low", "difference_high"]].to_numpy().any() == 0


def test_one_run_alone_is_the_best_and_has_no_luck():
    found = rank(runs(1), "f1_macro", replicates=50, seed=0)
    assert found.best == "run 0"
    assert found.corrected == pytest.approx(found.table["value"][0])


def test_an_error_is_better_where_it_is_small():
    found = rank([*runs(1, lift=0.1), *runs(1, lift=0.9)], "hamming_loss", replicates=50, seed=0)
    values = found.table["value"]
    assert values[0] < values[1] and found.table["verdict"].tolist() == ["best", "worse"]


def test_runs_of_other_images_are_refused():
    with pytest.raises(InputError, match="answers other images"):
        rank([*runs(1), *runs(1, images=60)], "f1_macro", replicates=50, seed=0)


def test_the_figures_of_a_run_have_the_intervals_of_its_evaluation():
    one, *_ = runs(1)
    expected = evaluate(one.y_true, one.y_score, np.full(3, 0.5), one.classes, task=one.task,
                        replicates=50, seed=0)  # fmt: skip
    assert rank([one], "map", replicates=50, seed=0).figures["run 0"] == expected.overall


def test_the_reach_grows_with_the_number_of_runs():
    rng = np.random.default_rng(0)
    reaches = [simultaneous(np.zeros(k), rng.normal(size=(4000, k)))[1] for k in (2, 5, 20)]
    # 95 % points of the studentised range with many degrees of freedom, by the root of 2
    assert reaches == pytest.approx([2.772 / 2**0.5, 3.858 / 2**0.5, 5.012 / 2**0.5], rel=0.03)


def test_the_intervals_hold_together_and_the_luck_of_the_best_is_taken_off():
    found = ranking(40, images=60, lifts=(1.2,) * 4, replicates=60)
    assert found["intervals hold"] >= 0.85  # 95 % promised; 40 draws cannot say it closer
    assert found["best kept"] >= 0.9
    assert found["corrected too high by"] < 0.4 * found["best too high by"]
