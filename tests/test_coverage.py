"""Images that stand for a split: every class and frequent pair, alike for the same seed."""

import numpy as np

from tests.deploy_doubles import labels
from workbench.deploy.coverage import covering_rows


def rare_in_many(rare_rows=(17, 55)):
    return labels([[0, 2] if row in rare_rows else [1] for row in range(100)], classes=3)


def test_a_class_of_two_images_among_a_hundred_is_covered():
    split = rare_in_many()
    chosen = covering_rows(split, 5, seed=1)
    assert (split.targets[chosen].sum(0) > 0).all()


def test_a_frequent_pair_is_covered_though_both_classes_are_common_alone():
    rows = [[0]] * 48 + [[1]] * 48 + [[0, 1]] * 4
    split = labels(rows, classes=2)
    chosen = covering_rows(split, 3, seed=2)
    assert (split.targets[chosen].sum(1) == 2).any()


def test_an_image_with_no_class_is_covered_too():
    split = labels([[0]] * 50 + [[]], classes=1)
    assert 50 in covering_rows(split, 3, seed=3)


def test_an_unknown_label_covers_nothing():
    split = labels([[0], [1], [0]], classes=2)
    split.mask[1, 1] = 0
    chosen = covering_rows(split, 1, seed=4)
    assert chosen[0] != 1


def test_the_same_seed_chooses_the_same_images():
    first, again = (covering_rows(rare_in_many(), 20, seed=7) for _ in range(2))
    assert first.tolist() == again.tolist()


def test_another_seed_chooses_other_images():
    first, other = (covering_rows(rare_in_many(), 20, seed=seed) for seed in (7, 8))
    assert first.tolist() != other.tolist()


def test_fewer_images_than_asked_for_are_all_taken_once():
    chosen = covering_rows(labels([[0], [1], []], classes=2), 200, seed=5)
    assert chosen.tolist() == [0, 1, 2]


def test_a_split_without_images_gives_no_row():
    empty = labels([], classes=2)
    assert len(covering_rows(empty, 200, seed=6)) == 0


def test_many_classes_and_images_are_chosen_in_a_moment():
    rng = np.random.default_rng(0)
    split = labels([rng.choice(80, 3, replace=False).tolist() for _ in range(5000)], classes=80)
    chosen = covering_rows(split, 200, seed=1)
    assert (split.targets[chosen].sum(0) > 0).all()
