"""Resampling draws whole images, repeats with its seed, and covers as often as it says."""

import numpy as np
import pytest
from scipy.stats import binom

from workbench.decide.intervals import (
    area_ends,
    count_cells,
    even_ends,
    image_weights,
    interval,
    interval_ends,
    resampled_levels,
    share_interval,
    wilson,
)
from workbench.decide.levels import count_levels
from workbench.decide.metrics import Predictions, compare, evaluate
from workbench.errors import InputError


def rng(seed=0):
    return np.random.default_rng(seed)


def draw(seed=0, images=300, classes=4, noise=0.3):
    y_true = rng(seed).random((images, classes)) < 0.3
    scores = np.clip(rng(seed + 1).normal(0.35 + 0.3 * y_true, noise), 0, 1)
    return y_true.astype(np.float32), scores


def predictions(name, y_true, scores, thresholds=0.5, **options):
    files = tuple(f"{number}.jpg" for number in range(len(y_true)))
    classes = tuple(f"class {number}" for number in range(y_true.shape[1]))
    return Predictions(name, files, classes, y_true, scores, thresholds, "multilabel", **options)


def test_every_replicate_draws_as_many_images_as_there_are():
    blocks = list(image_weights(50, 130, rng()))
    weights = np.concatenate(blocks, axis=1)
    assert weights.shape == (50, 130)
    assert (weights.sum(0) == 50).all()


def test_counting_with_weights_equals_counting_the_drawn_images():
    cells = rng().integers(0, 6, (40, 3)).astype(np.int32)  # cell 5 stands for unknown
    weights = next(image_weights(40, 7, rng(1)))
    counts = count_cells(cells, 5, weights)
    for replicate in range(7):
        drawn = np.repeat(cells, weights[:, replicate].astype(int), axis=0)
        for column in range(3):
            expected = np.bincount(drawn[:, column], minlength=6)[:5]
            np.testing.assert_array_equal(counts[replicate, column], expected)


def test_all_classes_of_an_image_are_drawn_together():
    y_true = np.zeros((30, 2), bool)
    y_true[:10] = True
    raw = np.zeros((30, 2), np.int8)
    for block in resampled_levels(y_true, raw, None, 20, rng()):
        positives, _ = block.totals
        np.testing.assert_array_equal(positives[:, 0], positives[:, 1])


def test_resampling_repeats_with_its_seed_and_not_with_another():
    y_true, raw = rng().random((20, 2)) < 0.5, rng(1).integers(-128, 128, (20, 2)).astype(np.int8)
    draws = [
        next(resampled_levels(y_true, raw, None, 5, rng(seed))).positives for seed in (3, 3, 4)
    ]
    np.testing.assert_array_equal(draws[0], draws[1])
    assert (draws[0] != draws[2]).any()


def test_the_size_of_the_blocks_changes_no_draw():
    few = np.concatenate(list(image_weights(9, 70, rng())), axis=1)
    many = np.concatenate(list(image_weights(9, 70, rng(), classes=5000)), axis=1)
    np.testing.assert_array_equal(few, many)


def test_a_weight_of_one_each_counts_the_images_as_they_are():
    y_true, raw = rng().random((20, 2)) < 0.5, rng(1).integers(-128, 128, (20, 2)).astype(np.int8)
    blocks = resampled_levels(y_true, raw, None, 400, rng())
    mean = np.mean([block.positives.mean(0) for block in blocks], axis=0)
    np.testing.assert_allclose(mean, count_levels(y_true, raw).positives, atol=0.5)


@pytest.mark.parametrize("values", [np.arange(101.0), np.append(np.arange(101.0), np.nan)])
def test_an_interval_is_the_middle_95_percent_of_what_is_defined(values):
    assert interval(values) == pytest.approx([2.5, 97.5])


def test_interval_ends_equal_numpy_column_by_column():
    values = rng().normal(size=(200, 3, 2))
    low, high = interval_ends(values)
    np.testing.assert_allclose(low, np.quantile(values, 0.025, axis=0), rtol=0, atol=1e-12)
    np.testing.assert_allclose(high, np.quantile(values, 0.975, axis=0), rtol=0, atol=1e-12)


@pytest.mark.slow
def test_the_interval_of_a_difference_covers_the_truth_about_as_often_as_it_says():
    """Two runs of equal quality: the interval should hold 0 in about 95 of 100 cases."""
    covered = 0
    for seed in range(100):
        y_true, scores = draw(3 * seed)
        other = np.clip(rng(3 * seed + 2).normal(0.35 + 0.3 * y_true, 0.3), 0, 1)
        found = compare(
            predictions("a", y_true, scores), predictions("b", y_true, other),
            replicates=100, seed=seed,
        )  # fmt: skip
        row = found.overall.set_index("figure").loc["f1_macro"]
        covered += row.low <= 0 <= row.high
    assert 88 <= covered <= 100


def test_a_run_against_itself_differs_in_nothing():
    y_true, scores = draw()
    run = predictions("a", y_true, scores)
    found = compare(run, run, replicates=50, seed=0)
    error = found.overall.figure == "calibration_error"  # its interval knows of no pairs
    assert (found.overall[~error].dropna()[["difference", "low", "high"]] == 0).all(axis=None)
    assert (found.overall.low[error] == -found.overall.high[error]).all()
    assert (found.overall.verdict == "open").all()


def test_a_clearly_better_run_is_called_better_and_its_errors_too():
    y_true, scores = draw(noise=0.5)
    better = np.where(y_true > 0.5, np.maximum(scores, 0.8), np.minimum(scores, 0.2))
    found = compare(
        predictions("a", y_true, scores), predictions("b", y_true, better), replicates=100, seed=0
    )
    verdicts = found.overall.set_index("figure").verdict
    assert verdicts["f1_macro"] == verdicts["hamming_loss"] == "better"


def test_pairing_makes_the_interval_of_a_small_change_narrower_than_that_of_either_run():
    y_true, scores = draw(images=1000)
    nudged = predictions("b", y_true, np.clip(scores + 0.01, 0, 1))
    found = compare(predictions("a", y_true, scores), nudged, replicates=200, seed=0)
    row = found.overall.set_index("figure").loc["f1_macro"]
    alone = evaluate(
        y_true, scores, 0.5, nudged.classes, task="multilabel", replicates=200, seed=0
    ).overall["f1_macro"]
    assert row.high - row.low < (alone.interval[1] - alone.interval[0]) / 3


def test_runs_are_matched_by_file_and_class_name():
    y_true, scores = draw(images=50)
    first = predictions("a", y_true, scores)
    second = first.chosen(np.arange(50)[::-1][:40], np.array([2, 0, 1, 3]))
    found = compare(first, second, replicates=10, seed=0)
    assert found.images == 40 and found.left_out == (10, 0)
    assert (found.overall.difference.dropna() == 0).all()


def test_runs_whose_labels_differ_are_refused_with_the_file():
    y_true, scores = draw(images=10)
    other = y_true.copy()
    other[3, 1] = 1 - other[3, 1]
    with pytest.raises(InputError, match=r"3\.jpg has other labels"):
        compare(
            predictions("a", y_true, scores), predictions("b", other, scores),
            replicates=10, seed=0,
        )  # fmt: skip


def test_runs_without_a_common_image_are_refused():
    y_true, scores = draw(images=4)
    first = predictions("a", y_true, scores)
    with pytest.raises(InputError, match="no images in common"):
        compare(
            first.chosen(np.array([0, 1]), np.arange(4)),
            first.chosen(np.array([2, 3]), np.arange(4)),
            replicates=10, seed=0,
        )  # fmt: skip


def ends_of_f1(right, wrong):
    """The interval of the F1 of one class with so many hits and missed photos."""
    y_true = np.ones((right + wrong + 300, 1))
    y_true[right + wrong :] = 0
    scores = np.zeros_like(y_true)
    scores[:right] = 1
    found = evaluate(y_true, scores, 0.5, ["a"], task="multilabel", replicates=5)
    return found.table.f1_low[0], found.table.f1_high[0]


def test_46_of_46_is_no_certainty():
    low, high = ends_of_f1(46, 0)
    assert (low, high) == pytest.approx((0.923, 1.0), abs=0.001)  # as Wilson says of 46 of 46


def test_a_share_of_independent_answers_has_the_interval_of_wilson():
    hits = np.repeat([1.0, 0.0], [9, 31])
    low, high = share_interval([(hits, np.ones(40))])
    assert (low, high) == pytest.approx(np.ravel(wilson(9, 40)), abs=1e-12)


def test_the_ends_of_a_share_near_1_miss_it_equally_often():
    share, hits = np.linspace(0.9, 0.99, 100)[:, None], np.arange(76)
    low, high = even_ends(hits, 75)
    chance = binom.pmf(hits, 75, share)
    above, below = ((chance * misses).sum(1).mean() for misses in (share < low, share > high))
    assert above == pytest.approx(0.025, abs=0.006) and below == pytest.approx(0.025, abs=0.006)
    assert (chance * (share < wilson(hits, 75)[0])).sum(1).mean() < 0.01


def test_answers_that_come_in_clumps_widen_the_interval():
    alone = share_interval([(np.repeat([1.0, 0.0], [40, 60]), np.ones(100))])
    clumps = share_interval([(np.repeat([10.0, 0.0], [4, 6]), np.full(10, 10.0))])
    assert clumps[1] - clumps[0] > 2.5 * (alone[1] - alone[0])


def test_four_images_are_too_few_for_an_interval():
    assert share_interval([(np.ones(4), np.ones(4))]) is None
    assert share_interval([(np.ones(5), np.ones(5))]) is not None
    assert share_interval([]) is None


def test_a_class_of_four_photos_has_no_interval_and_the_run_says_why():
    y_true = np.eye(2)[[0, 0, 0]]
    found = evaluate(y_true, y_true, 0.5, ["a", "b"], task="multilabel", replicates=5)
    assert found.overall["f1_macro"].withheld == "3 images; an interval needs 5"
    assert np.isnan(found.table.f1_low).all()
    assert found.to_json()["macro_means"] == "macro over 1 of 2 classes; undefined: b"


@pytest.mark.parametrize("area", [0.9, 0.99])
def test_the_ends_of_an_area_lie_unevenly_and_inside(area):
    drawn = area + np.random.default_rng(0).normal(0, 0.006, 4000)
    low, high = area_ends(np.array(area), drawn)
    assert 0 < low < area < high < 1 and area - low > high - area
    assert high - low == pytest.approx(2 * 1.96 * 0.006, rel=0.25)


def test_an_area_that_no_resampling_moves_has_no_ends():
    assert np.isnan(area_ends(np.array([1.0, 0.5]), np.tile([1.0, 0.5], (9, 1)))).all()


@pytest.mark.parametrize("trials", [15, 40, 200])
def test_the_interval_of_a_share_covers_as_often_as_it_says_over_all_shares(trials):
    rng = np.random.default_rng(3)
    share = rng.uniform(0.02, 0.98, 40_000)
    low, high = wilson(rng.binomial(trials, share), np.full(len(share), trials))
    assert 0.945 <= ((low <= share) & (share <= high)).mean() <= 0.96
