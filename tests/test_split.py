"""Splitting: every label keeps its share, duplicates stay together, a seed decides."""

import sys

import numpy as np
import pytest

from workbench.data.splits import assign_splits

SHARES = (0.8, 0.1, 0.1)


def labels_of(count: int, classes: int, seed: int = 0) -> list[tuple[str, ...]]:
    """Draw label sets with a long tail: class 0 is common, the last is rare."""
    rng = np.random.default_rng(seed)
    chances = 0.6 / np.arange(1, classes + 1)
    return [
        tuple(f"k{c:03d}" for c in np.flatnonzero(row))
        for row in rng.random((count, classes)) < chances
    ]


def split(labels, groups=None, shares=SHARES, seed=0) -> np.ndarray:
    groups = range(len(labels)) if groups is None else groups
    return assign_splits(labels, groups, shares, np.random.default_rng(seed))


def share_of(label: str, labels, splits) -> np.ndarray:
    held = np.array([label in names for names in labels])
    return np.bincount(splits[held], minlength=3) / held.sum()


def test_every_label_keeps_its_share_in_every_split():
    labels = labels_of(3000, 20)
    splits = split(labels)
    for number in range(20):
        assert np.allclose(share_of(f"k{number:03d}", labels, splits), SHARES, atol=0.02)


def test_a_random_split_would_not_do_as_well():
    labels = labels_of(3000, 20)
    random = np.random.default_rng(0).choice(3, size=3000, p=SHARES)
    rare = "k019"
    ours = np.abs(share_of(rare, labels, split(labels)) - SHARES).max()
    assert ours < np.abs(share_of(rare, labels, random) - SHARES).max()


@pytest.mark.parametrize("seed", range(5))
def test_pairs_of_labels_keep_their_share_as_well(seed):
    labels = [("a",)] * 400 + [("b",)] * 400 + [("a", "b")] * 40
    splits = split(labels, seed=seed)
    assert np.bincount(splits[800:], minlength=3).tolist() == [32, 4, 4]


def test_the_splits_have_the_sizes_asked_for():
    counts = np.bincount(split(labels_of(3000, 20)))
    assert np.allclose(counts / 3000, SHARES, atol=0.01)


def test_images_without_labels_are_shared_out_too():
    assert np.bincount(split([()] * 100)).tolist() == [80, 10, 10]


def test_one_class_an_image_is_split_class_by_class():
    labels = [(f"k{number % 5}",) for number in range(500)]
    splits = split(labels)
    for number in range(5):
        assert np.bincount(splits[number::5]).tolist() == [80, 10, 10]


def test_a_group_is_never_torn():
    groups = np.random.default_rng(1).integers(0, 300, 1000)
    splits = split(labels_of(1000, 5), groups)
    assert all(len(set(splits[groups == group])) == 1 for group in set(groups))


@pytest.mark.parametrize("seed", range(18))
def test_a_large_group_goes_where_there_is_room(seed):
    labels = [("cat",) if number % 2 else ("cat", "dog") for number in range(60)]
    groups = [0] * 12 + list(range(1, 49))
    splits = split(labels, groups, seed=seed)
    assert splits[0] == 0
    assert np.bincount(splits).tolist() == [48, 6, 6]


def test_labels_keep_their_share_with_groups():
    labels = labels_of(3000, 6)
    groups = np.arange(3000) // 3
    splits = split(labels, groups)
    for number in range(6):
        assert np.allclose(share_of(f"k{number:03d}", labels, splits), SHARES, atol=0.03)


def test_the_same_seed_gives_the_same_split():
    labels = labels_of(400, 6)
    assert np.array_equal(split(labels, seed=5), split(labels, seed=5))


def test_another_seed_gives_another_split():
    labels = labels_of(400, 6)
    assert not np.array_equal(split(labels, seed=5), split(labels, seed=6))


@pytest.mark.parametrize("seed", range(5))
def test_a_share_of_zero_stays_empty(seed):
    splits = split(labels_of(301, 30, seed), shares=(0.5, 0.5, 0), seed=seed)
    assert set(splits.tolist()) == {0, 1}


def test_a_class_with_one_image_goes_to_training():
    labels = [("common",)] * 99 + [("single", "common")]
    assert split(labels)[99] == 0


def test_nothing_to_split_is_an_empty_answer():
    assert split([]).tolist() == []


def steps_of(count: int) -> int:
    """Count the lines of Python that one split runs: a measure of work that no load disturbs."""
    labels, steps = labels_of(count, 10), 0

    def trace(_frame, event, _value):
        nonlocal steps
        steps += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        split(labels)
    finally:
        sys.settrace(before)
    return steps


def test_work_grows_with_the_images_not_with_their_square():
    assert steps_of(8_000) < 5 * steps_of(2_000)
