"""Pipelines: what the networks see, in which order, from which pixels."""

import errno
import hashlib
import os
import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from tests.test_augment import OFF as NO_AUGMENTATION
from workbench.benchmarks import pipeline as benchmark
from workbench.data import pipeline
from workbench.data.letterbox import letterbox_reference
from workbench.data.pipeline import (
    TrainingBatches,
    balanced_places,
    default_folder,
    evaluation_batches,
    mix_up,
    plain_errors,
    training_batches,
)
from workbench.data.tables import Split
from workbench.data.views import View, augmented, letterboxed
from workbench.errors import DatasetError, StepError
from workbench.settings import DatasetSettings, Mixup, Settings, TrainingSettings

VIEWS = (View(48, "none"), View(32, "lite"))
OFF = Settings(augmentation=NO_AUGMENTATION)
MIXUP = Settings(augmentation=NO_AUGMENTATION.model_copy(update={"mixup": Mixup(enabled=True)}))


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


def squares(split: Split, size: int) -> list[np.ndarray]:
    """Every image as the reference letterbox, in the numbers that a teacher sees."""
    pixels = (np.asarray(Image.open(split.path(index))) for index in range(len(split)))
    return [letterbox_reference(image, size).astype(np.float32) for image in pixels]


def epoch_of(batches: TrainingBatches, skip: int = 0) -> tuple:
    """One epoch of a stream, its batches joined: (views, targets, mask)."""
    steps = batches.steps_per_epoch
    elements = list(batches.dataset.skip(skip * steps).take(steps))
    views = [np.concatenate(parts) for parts in zip(*(e[0] for e in elements), strict=True)]
    return views, *(np.concatenate([e[place] for e in elements]) for place in (1, 2))


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
    batches = training_batches(split, VIEWS[:1], 4, OFF)
    views, _, _ = epoch_of(batches)
    assert sorted(map(bytes, views[0])) == sorted(map(bytes, squares(split, 48)))


def test_no_batch_of_an_epoch_is_tiny(split):
    batches = training_batches(split, VIEWS[:1], 5, Settings())
    sizes = [len(t) for _, t, _ in batches.dataset.take(batches.steps_per_epoch)]
    assert sorted(sizes) == [3, 4, 4]


def test_every_epoch_has_another_order(split):
    batches = training_batches(split, VIEWS[:1], 4, OFF)
    first, second = epoch_of(batches), epoch_of(batches, skip=1)
    assert not np.array_equal(first[0][0], second[0][0])


def test_targets_and_masks_follow_their_images(split):
    (views,), targets, mask = epoch_of(training_batches(split, VIEWS[:1], 4, OFF))
    known = {bytes(square): row for row, square in enumerate(squares(split, 48))}
    rows = [known[bytes(view)] for view in views]
    assert np.array_equal(targets, split.targets[rows])
    assert np.array_equal(mask, split.mask[rows])


def test_without_augmentation_training_sees_what_evaluation_sees(split):
    training = training_batches(split, VIEWS, 11, OFF)
    ((teacher, student), _, _) = next(iter(training.dataset))
    ((wanted_teacher, wanted_student), _, _) = next(iter(evaluation_batches(split, VIEWS, 11, OFF)))
    assert sorted(map(bytes, teacher.numpy())) == sorted(map(bytes, wanted_teacher.numpy()))
    assert sorted(map(bytes, student.numpy())) == sorted(map(bytes, wanted_student.numpy()))


def test_both_networks_see_the_same_augmented_view(split):
    views = (View(48, "none"), View(48, "lite"))
    for (teacher, student), _, _ in training_batches(split, views, 4, Settings()).dataset.take(3):
        assert np.array_equal((teacher - 127) / 128, student)


def test_batches_keep_their_values_while_later_ones_are_made(split):
    batches = training_batches(split, VIEWS, 4, Settings())
    kept = list(batches.dataset.take(12))
    for number, (views, _, _) in enumerate(batches.dataset.take(12)):
        assert all(np.array_equal(a, b) for a, b in zip(kept[number][0], views, strict=True))


def test_opencv_starts_no_threads_beside_those_of_the_batches(split):
    """They queue up for the same cores: a fifth of the images a second was lost to it."""
    cv2.setNumThreads(4)
    training_batches(split, VIEWS, 2, OFF)
    assert cv2.getNumThreads() == 1


def test_shards_share_the_images_and_have_equally_many_steps(split):
    shards = [training_batches(split, VIEWS[:1], 2, OFF, shard=(worker, 3)) for worker in range(3)]
    assert len({shard.steps_per_epoch for shard in shards}) == 1
    seen = [bytes(square) for shard in shards for square in epoch_of(shard)[0][0]]
    assert len(seen) == 12
    assert set(seen) == set(map(bytes, squares(split, 48)))


def test_a_split_smaller_than_a_batch_is_one_step(split):
    batches = training_batches(split, VIEWS[:1], 64, Settings())
    assert batches.steps_per_epoch == 1
    assert len(next(iter(batches.dataset))[1]) == 11


def test_an_empty_training_split_is_refused(split):
    empty = replace(split, filepaths=(), targets=split.targets[:0], mask=split.mask[:0])
    with pytest.raises(DatasetError, match="train split has no images"):
        training_batches(empty, VIEWS, 4, Settings())


def test_an_empty_evaluation_split_gives_no_batch(split):
    empty = replace(split, filepaths=(), targets=split.targets[:0], mask=split.mask[:0])
    assert list(evaluation_batches(empty, VIEWS, 4, Settings())) == []


def test_tensorflow_knows_the_shapes(split):
    (teacher, student), targets, mask = training_batches(
        split, VIEWS, 4, Settings()
    ).dataset.element_spec
    assert teacher.shape.as_list() == [None, 48, 48, 3]
    assert student.shape.as_list() == [None, 32, 32, 3]
    assert targets.shape.as_list() == mask.shape.as_list() == [None, 3]


# MixUp


BALANCED = Settings(training=TrainingSettings(sampling="balanced"))


def rare_and_common(split: Split, count: int = 200) -> Split:
    """Two photos of "a", the others of "b", one in ten of nothing."""
    targets = np.zeros((count, 3), np.float32)
    targets[:2, 0], targets[2:-20, 1] = 1, 1
    return replace(split, filepaths=split.filepaths[:1] * count, targets=targets,
                   mask=np.ones_like(targets))  # fmt: skip


def test_balanced_sampling_draws_every_class_and_none_of_them_alike(split):
    uneven = rare_and_common(split)
    places = balanced_places(uneven, np.arange(len(uneven)), np.random.default_rng(1))
    rows = places % len(uneven)
    none = 1 - uneven.targets.max(axis=1)
    shares = [uneven.targets[rows, 0].mean(), uneven.targets[rows, 1].mean(), none[rows].mean()]
    assert shares == pytest.approx([1 / 3] * 3, abs=0.02)
    assert len(places) == len(uneven) == len(set(places))  # no photo twice under one number


def test_a_photo_that_is_drawn_again_in_an_epoch_is_another_view(split):
    views = [augmented(split, 3, 1, Settings(), copy=copy) for copy in (0, 1, 1)]
    assert not np.array_equal(views[0], views[1])
    np.testing.assert_array_equal(views[1], views[2])


def test_a_balanced_stream_that_goes_on_is_the_uninterrupted_one(split):
    targets = np.zeros_like(split.targets)
    targets[0, 0], targets[1:, 1] = 1, 1
    uneven = replace(split, targets=targets)
    whole = training_batches(uneven, VIEWS, 4, BALANCED)
    late = training_batches(uneven, VIEWS, 4, BALANCED, first_epoch=2)
    for one, two in zip(epoch_of(whole, skip=2), epoch_of(late), strict=True):
        np.testing.assert_equal(one, two)
    assert epoch_of(late)[1][:, 0].sum() > 3  # the one photo of its class comes again and again


def test_mixup_blends_both_views_and_the_targets_alike(split):
    mixed = epoch_of(training_batches(split, VIEWS, 11, MIXUP))
    plain = epoch_of(training_batches(split, VIEWS, 11, OFF))
    (teacher, student), targets, _ = mixed
    (plain_teacher, plain_student), plain_targets, _ = plain
    for row in range(len(targets)):
        share, partner = blend_of(teacher[row], plain_teacher, row)
        for found, parts in ((student, plain_student), (targets, plain_targets)):
            expected = share * parts[row] + (1 - share) * parts[partner]
            assert np.allclose(found[row], expected, atol=1e-3)


def test_mixup_is_the_same_on_a_rerun(split):
    first, second = (epoch_of(training_batches(split, VIEWS, 4, MIXUP)) for _ in range(2))
    assert np.array_equal(first[0][0], second[0][0])


def test_a_label_unknown_for_either_partner_is_unknown_for_the_blend(split):
    mask = split.mask.copy()
    mask[0, 1] = 0
    rng, settings = np.random.default_rng(0), MIXUP.augmentation.mixup
    _, _, blended = mix_up([split.targets, split.targets, mask], rng, settings)
    assert (blended[:, 1] == 0).sum() == 2


def blend_of(square, plain, row) -> tuple[float, int]:
    """Find the partner and the share that explain a blended square."""
    for partner in range(len(plain)):
        difference = plain[row] - plain[partner]
        if not difference.any():
            share = 1.0
        else:
            share = float(((square - plain[partner]) * difference).sum() / (difference**2).sum())
        if np.abs(share * plain[row] + (1 - share) * plain[partner] - square).max() < 0.01:
            return share, partner
    raise AssertionError("no pair explains this blend")


# Damage between the audit and training


def test_a_file_deleted_after_the_audit_is_named(split):
    split.path(3).unlink()
    with (
        pytest.raises(DatasetError, match=r"3\.png does not exist.*run 01_dataset_audit"),
        plain_errors(),
    ):
        list(evaluation_batches(split, VIEWS, 4, Settings()))


def test_a_file_damaged_after_the_audit_is_named(split):
    split.path(3).write_bytes(split.path(3).read_bytes()[:500])
    batches = training_batches(split, VIEWS, 11, Settings())
    with pytest.raises(DatasetError, match=r"3\.png cannot be decoded"), plain_errors():
        next(iter(batches.dataset))


def test_other_errors_of_tensorflow_pass_unchanged():
    with pytest.raises(tf.errors.InvalidArgumentError), plain_errors():
        raise tf.errors.InvalidArgumentError(None, None, "shapes do not match")


# A person's own augmentation


def darken(image, rng):
    return (image * rng.uniform(0.2, 0.6)).astype(np.uint8)


def fail(image, rng):
    raise ValueError(f"no good:\n{image.ndim} sides")


def test_a_function_of_ones_own_takes_the_place_of_the_augmentation(split):
    batches = training_batches(split, VIEWS[:1], 11, Settings(), augment=darken)
    (views,), _, _ = epoch_of(batches)
    plain = [square.mean() for square in squares(split, 48)]
    assert all(0.15 * min(plain) < view.mean() < 0.65 * max(plain) for view in views)


def test_ones_own_augmentation_gets_the_same_random_numbers_again(split):
    first, second = (
        epoch_of(training_batches(split, VIEWS, 4, Settings(), augment=darken)) for _ in range(2)
    )
    assert np.array_equal(first[0][0], second[0][0])


def test_an_error_in_ones_own_augmentation_names_function_and_photo(split):
    batches = training_batches(split, VIEWS, 11, Settings(), augment=fail)
    words = r"^augment=fail failed on \d+\.png: ValueError: no good: 3 sides$"
    with pytest.raises(StepError, match=words), plain_errors():
        next(iter(batches.dataset))


@pytest.mark.parametrize(
    ("own", "found"),
    [
        (lambda image, rng: None, "returned None"),
        (lambda image, rng: image / 255, r"returned float64 \[\d+, \d+, 3\]"),
        (lambda image, rng: image[:, :, 0], r"returned uint8 \[\d+, \d+\]"),
    ],
)
def test_what_is_no_image_is_refused_with_what_it_is(split, own, found):
    with pytest.raises(StepError, match=rf"augment=<lambda>.*{found}.* must return an image"):
        augmented(split, 0, 0, Settings(), own=own)


@pytest.mark.parametrize("change", [{"settings": Settings(seed=2)}, {"epoch": 1}, {"index": 1}])
def test_another_seed_epoch_or_image_gives_another_view(split, change):
    place = {"index": 0, "epoch": 0, "settings": Settings()}
    assert not np.array_equal(augmented(split, **place), augmented(split, **(place | change)))


# The cache


@pytest.fixture(params=["memory", "disk"])
def cache(request, tmp_path, monkeypatch) -> Settings:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    return Settings(dataset=DatasetSettings(cache=request.param))


def values(dataset) -> list[np.ndarray]:
    return [view.numpy() for views, _, _ in dataset for view in views]


def test_the_cache_changes_no_pixel(split, cache):
    plain = values(evaluation_batches(split, VIEWS, 4, Settings()))
    batches = evaluation_batches(split, VIEWS, 4, cache)
    for _ in range(2):
        assert all(np.array_equal(a, b) for a, b in zip(plain, values(batches), strict=True))


def test_the_second_round_decodes_nothing(split, cache, monkeypatch):
    batches = evaluation_batches(split, VIEWS, 4, cache)
    values(batches)
    monkeypatch.setattr(pipeline, "decode_image", None)
    assert len(values(batches)) == 6


def test_a_changed_file_is_not_served_from_the_cache(split, cache):
    Image.new("RGB", (40, 40), "blue").save(split.path(0), "BMP")
    batches = evaluation_batches(split, VIEWS, 4, cache)
    values(batches)
    before = split.path(0).stat()
    Image.new("RGB", (40, 40), "red").save(split.path(0), "BMP")
    os.utime(split.path(0), ns=(before.st_atime_ns, before.st_mtime_ns))
    assert split.path(0).stat().st_size == before.st_size
    assert values(batches)[0][0, 24, 24].tolist() == [255, 0, 0]


def test_other_sizes_have_their_own_places_in_the_cache(split, cache):
    values(evaluation_batches(split, VIEWS, 4, cache))
    other = evaluation_batches(split, (View(20, "none"),), 4, cache)
    assert values(other)[0].shape == (4, 20, 20, 3)


def test_a_torn_cache_file_is_made_again(split, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    settings = Settings(dataset=DatasetSettings(cache="disk"))
    plain = values(evaluation_batches(split, VIEWS, 4, settings))
    for path in default_folder().rglob("*"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[:-7])
    again = values(evaluation_batches(split, VIEWS, 4, settings))
    assert all(np.array_equal(a, b) for a, b in zip(plain, again, strict=True))


def test_a_full_disk_under_the_cache_is_named_with_the_way_out(split, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    def refuse(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "replace", refuse)
    batches = evaluation_batches(split, VIEWS, 4, Settings(dataset=DatasetSettings(cache="disk")))
    with (
        pytest.raises(StepError, match=r"device\. Make room there, or set dataset\.cache: none$"),
        plain_errors(),
    ):
        values(batches)
    assert [path for path in default_folder().rglob("*") if path.is_file()] == []


def test_training_images_are_not_cached(split, cache, monkeypatch):
    batches = training_batches(split, VIEWS, 11, cache)
    epoch_of(batches)
    split.path(0).unlink()
    with pytest.raises(DatasetError), plain_errors():
        epoch_of(batches)


# Several devices and processes


def test_a_mirrored_strategy_splits_the_batches_and_loses_nothing(split):
    devices = tf.config.list_logical_devices("CPU")
    strategy = tf.distribute.MirroredStrategy([device.name for device in devices])
    batches = training_batches(split, VIEWS, 4, OFF)
    distributed = iter(strategy.experimental_distribute_dataset(batches.dataset))
    seen = 0
    for _ in range(batches.steps_per_epoch):
        targets = strategy.experimental_local_results(next(distributed)[1])
        seen += sum(len(part) for part in targets)
    assert seen == len(split)


@pytest.mark.slow
def test_another_process_sees_the_same_pixels(split):
    code = (
        "import sys, pickle\n"
        "import workbench\n"
        "from tests.test_pipeline import digest\n"
        "print(digest(pickle.load(sys.stdin.buffer)))"
    )
    command = [sys.executable, "-c", code]
    other = subprocess.run(command, input=pickle.dumps(split), capture_output=True, check=True)
    assert other.stdout.decode().strip() == digest(split)


def digest(split: Split) -> str:
    """Hash two epochs of augmented batches."""
    batches = training_batches(split, VIEWS, 4, Settings())
    content = hashlib.sha256()
    for views, targets, mask in batches.dataset.take(2 * batches.steps_per_epoch):
        for tensor in (*views, targets, mask):
            content.update(tensor.numpy().tobytes())
    return content.hexdigest()


@pytest.mark.slow
def test_the_benchmark_compares_every_stage_with_decoding():
    figures = benchmark.run(count=16, repeats=1, threads=2)
    assert figures["ratio"][benchmark.DECODING] == 1
    assert all(speed > 0 for speed in figures["images_per_second"].values())
    assert all(name in benchmark.table(figures) for name in figures["ratio"])
