"""Pipelines: what the networks see, in which order, from which pixels."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from workbench.data.letterbox import letterbox_reference
from workbench.data.pipeline import View, evaluation_batches, letterboxed, training_batches
from workbench.data.tables import Split
from workbench.settings import Settings

VIEWS = (View(48, "none"), View(32, "lite"))


@pytest.fixture
def split(tmp_path: Path) -> Split:
    rng = np.random.default_rng(1)
    names = [f"{number}.png" for number in range(11)]
    for name in names:
        pixels = rng.integers(0, 256, (*rng.integers(20, 90, 2), 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / name)
    targets = rng.integers(0, 2, (len(names), 3)).astype(np.float32)
    mask = np.ones_like(targets)
    return Split("train", tuple(names), tmp_path, ("a", "b", "c"), targets, mask)


def test_evaluation_gives_every_image_once_and_in_order(split):
    batches = list(evaluation_batches(split, VIEWS, 4, Settings()))
    assert [len(targets) for _, targets, _ in batches] == [4, 4, 3]
    assert np.array_equal(np.concatenate([t for _, t, _ in batches]), split.targets)


def test_the_evaluation_view_is_the_reference_letterbox(split):
    ((teacher, student), _, _) = next(iter(evaluation_batches(split, VIEWS, 4, Settings())))
    pixels = np.asarray(Image.open(split.path(2)))
    assert np.array_equal(teacher[2], letterbox_reference(pixels, 48))
    assert np.array_equal(
        student[2], (letterbox_reference(pixels, 32).astype(np.float32) - 127) / 128
    )


def test_letterboxed_images_are_those_of_the_evaluation(split):
    squares = np.stack(list(letterboxed(split, 48, Settings())))
    batches = evaluation_batches(split, VIEWS[:1], 11, Settings())
    assert np.array_equal(squares, next(iter(batches))[0][0])


def test_a_stream_started_at_epoch_two_continues_an_uninterrupted_one(split):
    whole = training_batches(split, VIEWS, 4, Settings())
    later = training_batches(split, VIEWS, 4, Settings(), first_epoch=2)
    expected = list(whole.dataset.skip(2 * whole.steps_per_epoch).take(whole.steps_per_epoch))
    found = list(later.dataset.take(later.steps_per_epoch))
    for (views, targets, _), (other_views, other_targets, _) in zip(expected, found, strict=True):
        assert np.array_equal(targets, other_targets)
        assert all(np.array_equal(a, b) for a, b in zip(views, other_views, strict=True))


def test_an_epoch_holds_every_training_image(split):
    batches = training_batches(split, VIEWS[:1], 4, Settings())
    sizes = [len(targets) for _, targets, _ in batches.dataset.take(batches.steps_per_epoch)]
    assert sum(sizes) == len(split)
    assert max(sizes) - min(sizes) <= 1
