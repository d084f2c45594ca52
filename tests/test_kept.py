"""What frozen networks say of augmented views: kept on disk, the same bits as computed anew."""

import json
import logging
import threading
from dataclasses import replace

import cv2
import numpy as np
import pytest
import tf_keras as keras

from tests.training_doubles import Place
from workbench.data.pipeline import Kept, training_batches
from workbench.data.tables import Split
from workbench.data.views import View
from workbench.nets.devices import seed_everything
from workbench.nets.lite import copied_head, freeze, restartable_randomness, split_at_features
from workbench.nets.teacher import build_student
from workbench.settings import Settings
from workbench.train import kept, logs
from workbench.train.loop import feed, fit
from workbench.train.losses import Distillation, task_loss
from workbench.train.phases import Phase

CLASSES = ("red", "green")
VIEWS = (View(40, "none"), View(32, "lite"))
PHOTOS = 13


def settings_with(distillation=(), training=(), **changed) -> Settings:
    return Settings.model_validate({
        "teacher": {"input_size": 40}, "student": {"input_size": 32},
        "distillation": {"keep_answers": True, **dict(distillation)},
        "training": {"tensorboard": False, **dict(training)}, **changed,
    })  # fmt: skip


@pytest.fixture(scope="module")
def splits(tmp_path_factory):
    """Noisy photos, redder or greener where that class is there: train and val."""
    folder, rng, made = tmp_path_factory.mktemp("photos"), np.random.default_rng(0), {}
    for name, count in (("train", PHOTOS), ("val", 6)):
        targets = (rng.random((count, 2)) < 0.5).astype(np.float32)
        files = tuple(f"{name}{index}.png" for index in range(count))
        for file, (red, green) in zip(files, targets, strict=True):
            photo = rng.integers(0, 60, (44, 50, 3))
            photo += (150 * np.array([0, green, red])).astype(int)
            cv2.imwrite(str(folder / file), photo)
        made[name] = Split(name, files, folder, CLASSES, targets, np.ones_like(targets))
    nothing = np.zeros((0, 2), np.float32)
    made["unlabeled"] = Split("unlabeled", (), folder, CLASSES, nothing, nothing)
    return made


class Photos:
    """As much of a dataset as a feed needs."""

    classes = CLASSES

    def __init__(self, splits):
        self.split = splits.__getitem__


def network(side, seed=0, dropout=0.25) -> keras.Model:
    keras.utils.set_random_seed(seed)
    with restartable_randomness():
        image = x = keras.Input((side, side, 3))
        x = keras.layers.Conv2D(8, 3, strides=2, name="conv")(x)
        x = keras.layers.BatchNormalization(momentum=0.9, name="bn")(x)
        x = keras.layers.ReLU(6, name="act")(x)
        x = keras.layers.GlobalAveragePooling2D(name="avg_pool")(x)
        x = keras.layers.Dropout(dropout, name="top_dropout")(x)
        return keras.Model(image, keras.layers.Dense(2, name="logits")(x))


def phase(**changed) -> Phase:
    return replace(Phase("student_finetuned", 2, 0.01, 1e-4, 9, 9, 0.5, fraction=1.0), **changed)


WARMUP = {"name": "student_warmup", "fraction": 0.0, "epochs": 3}


def run_folder(outputs, name="one"):
    folder = outputs / "outputs" / name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "dataset_manifest.json").write_text(json.dumps({"content_sha256": "these photos"}))
    return folder


def train(splits, folder, settings=None, batch_size=4, own=None, **changed):
    """Train a student as 04 does; return it with what was fitted."""
    settings = settings or settings_with()
    seed_everything(settings)
    teacher, student = network(40, seed=1), own or network(32)
    goal = Distillation(task_loss(settings, splits["train"]), teacher, settings)
    batches = feed(Photos(splits), VIEWS, settings, batch_size=batch_size)
    fitted = fit(phase(**changed), student, goal, batches, Place(folder, settings))
    return student.get_weights(), fitted


def kept_files(outputs):
    return sorted((outputs / "outputs/.answers").rglob("*.npy"))


def forbid_computing(monkeypatch):
    def refuse(*_args):
        raise AssertionError("the teacher was asked again")

    monkeypatch.setattr(kept.Outputs, "_computed", refuse)


def same(one, two):
    return all(map(np.array_equal, one, two))


def test_a_sibling_reads_what_the_first_run_computed_and_ends_with_the_same_bits(
    splits, tmp_path, monkeypatch
):
    first, _fitted = train(splits, run_folder(tmp_path))
    assert len(kept_files(tmp_path)) == 2  # one an epoch
    anew, _fitted = train(splits, run_folder(tmp_path / "elsewhere"))
    forbid_computing(monkeypatch)
    again, fitted = train(splits, run_folder(tmp_path, "two"))
    assert same(first, anew) and same(first, again)
    assert fitted.traces == 1
    train(splits, run_folder(tmp_path, "three"), batch_size=7)  # other batches, the same answers


def test_another_teacher_seed_augmentation_or_photo_is_computed_anew(splits, tmp_path):
    views = feed(Photos(splits), VIEWS, settings_with(), batch_size=4).shown
    teacher = network(40, seed=1)
    known = {kept.fingerprint(teacher, 0, views, "these photos")}

    def is_new(**changed):
        found = kept.fingerprint(
            changed.get("teacher", teacher), changed.get("place", 0),
            replace(views, **changed.get("views", {})), changed.get("content", "these photos"),
        )  # fmt: skip
        new = found not in known
        known.add(found)
        return new

    assert not is_new()
    assert not is_new(teacher=network(40, seed=1))
    assert is_new(teacher=network(40, seed=2))
    assert is_new(content="other photos")
    assert is_new(views={"settings": settings_with(seed=5)})
    assert is_new(views={"settings": settings_with(augmentation={"random_zoom_factor": 0.3})})
    assert is_new(views={"settings": settings_with(dataset={"exif": "ignore"})})
    assert is_new(views={"augment": lambda image, _rng: image[::-1]})
    assert is_new(views={"views": (VIEWS[0], View(48, "lite"))})  # views are drawn for the largest
    assert not is_new(views={"settings": settings_with({"alpha": 0.2, "temperature": 4.0})})
    assert not is_new(views={"settings": settings_with(student={"lr_finetune": 0.5})})


@pytest.mark.parametrize("sampling", ["all", "balanced"])
def test_answers_are_those_of_the_teacher_to_the_very_views_rounded_once(
    sampling, splits, tmp_path
):
    """Half a unit in the last of float16's 11 bits: 2^-11 of the answer."""
    settings, teacher = settings_with(training={"sampling": sampling}), network(40, seed=1)
    shown = feed(Photos(splits), VIEWS, settings, batch_size=4).shown
    outputs = kept.Outputs("answers", teacher, shown, 0, tmp_path / "answers")
    answers = outputs.of(3, bar=False)
    stream = training_batches(splits["train"], VIEWS, 4, settings, first_epoch=3)
    values = Kept(3, shown.places(3), (answers, None))
    told = training_batches(splits["train"], VIEWS, 4, settings, first_epoch=3, kept=values)
    pairs = list(zip(stream.dataset.take(stream.steps_per_epoch), told.dataset, strict=True))
    assert told.end == 4 and len(list(told.dataset)) == stream.steps_per_epoch
    for ((image, own), *labels), ((answer, same_own), *same_labels) in pairs:
        exact = teacher(image, training=False).numpy()
        assert np.abs(answer - exact).max() <= np.abs(exact).max() * 2**-11 + 1e-6
        assert np.array_equal(own, same_own)
        assert all(map(np.array_equal, labels, same_labels))


@pytest.mark.parametrize("sampling", ["all", "balanced"])
def test_what_is_kept_stays_with_its_image_in_another_epoch(sampling, splits):
    train, settings = splits["train"], settings_with(training={"sampling": sampling})
    views = feed(Photos(splits), VIEWS, settings, batch_size=4).shown
    places = views.places(0)
    images = places % PHOTOS
    values = Kept(0, places, (train.targets[images], images[:, None]))
    orders = []
    for epoch in (2, 3):
        stream = training_batches(train, VIEWS, 4, settings, first_epoch=epoch, kept=values)
        for (answer, image), targets, _mask in stream.dataset:
            assert np.array_equal(answer, targets)
            orders.append(image[:, 0].numpy())
    shown = np.split(np.concatenate(orders), 2)
    assert np.array_equal(*map(np.sort, shown)) and not np.array_equal(*shown)


def test_a_long_pass_says_how_far_it_is(splits, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(logging.getLogger("workbench"), "propagate", True)
    caplog.set_level(logging.INFO, "workbench")
    monkeypatch.setattr(kept, "BATCH", 4)
    monkeypatch.setattr(logs, "SECONDS_BETWEEN_LINES", 0)
    shown = feed(Photos(splits), VIEWS, settings_with(), batch_size=4).shown
    kept.Outputs("answers", network(40), shown, 0, tmp_path / "long").of(0, bar=False)
    assert "answers for views of epoch 1: step 2/4, training waits," in caplog.text


def test_an_answer_too_large_for_float16_is_its_largest_number(splits, tmp_path):
    loud = network(40)
    loud.get_layer("logits").set_weights([np.full((8, 2), 1e7), np.zeros(2)])
    shown = feed(Photos(splits), VIEWS, settings_with(), batch_size=4).shown
    answers = kept.Outputs("answers", loud, shown, 0, tmp_path / "loud").of(0, bar=False)
    assert answers.max() == np.finfo(np.float16).max


def tear(path):
    path.write_bytes(path.read_bytes()[:-3])


def swap(path):
    (other,) = path.parent.glob("epoch_00001*.npy")
    path.write_bytes(other.read_bytes())


@pytest.mark.parametrize("harm", [tear, swap, lambda path: path.write_bytes(b"")])
def test_a_damaged_or_foreign_file_is_computed_anew_with_a_line(
    harm, splits, tmp_path, monkeypatch, caplog
):
    monkeypatch.setattr(logging.getLogger("workbench"), "propagate", True)
    shown = feed(Photos(splits), VIEWS, settings_with(), batch_size=4).shown
    outputs = kept.Outputs("answers", network(40, seed=1), shown, 0, tmp_path / "answers")
    answers, path = (
        [outputs.of(epoch, bar=False) for epoch in (0, 1)],
        outputs.path(0, shown.places(0)),
    )
    whole = path.read_bytes()
    harm(path)
    assert np.array_equal(outputs.of(0, bar=False), answers[0])
    assert "damaged or belongs elsewhere" in caplog.text
    assert path.read_bytes() == whole


def test_a_full_disk_costs_the_file_and_not_the_training(splits, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(logging.getLogger("workbench"), "propagate", True)

    def full(*_args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(kept.files, "write_bytes", full)
    shown = feed(Photos(splits), VIEWS, settings_with(), batch_size=4).shown
    outputs = kept.Outputs("answers", network(40), shown, 0, tmp_path / "answers")
    assert outputs.of(0, bar=False).shape == (PHOTOS, 2)
    assert "cannot be kept (No space left on device)" in caplog.text


def test_mixup_and_a_feed_of_ones_own_keep_nothing_and_say_so(
    splits, tmp_path, monkeypatch, caplog
):
    monkeypatch.setattr(logging.getLogger("workbench"), "propagate", True)
    caplog.set_level(logging.INFO, "workbench")
    mixed = settings_with(augmentation={"mixup": {"enabled": True}})
    train(splits, run_folder(tmp_path), mixed, epochs=1)
    assert "keep_answers has no effect: augmentation.mixup blends" in caplog.text
    unaudited = tmp_path / "outputs/unaudited"
    train(splits, unaudited, epochs=1)
    assert "keep_answers has no effect: no audit" in caplog.text
    assert kept_files(tmp_path) == []


def test_the_size_is_told_beforehand_in_one_line(splits, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(logging.getLogger("workbench"), "propagate", True)
    caplog.set_level(logging.INFO, "workbench")
    train(splits, run_folder(tmp_path))
    (line,) = {r.getMessage() for r in caplog.records if "float16" in r.getMessage()}
    assert f"{PHOTOS} images x 2 in float16 are 52 B for each of 2 epochs, 104 B at most" in line
    assert "delete the folder whenever you like" in line


# a frozen backbone


def few_views(views=2, **changed):
    return settings_with({"keep_answers": False}, {"head_views": views}, **changed)


def test_features_of_a_few_views_stand_for_the_images_of_a_frozen_backbone(
    splits, tmp_path, monkeypatch
):
    own = network(32)
    before = own.get_weights()
    after, fitted = train(splits, run_folder(tmp_path), few_views(), own=own, **WARMUP)
    assert len(kept_files(tmp_path)) == 4  # two views each: answers of the teacher, features
    assert same(before[:-2], after[:-2]) and not same(before[-2:], after[-2:])
    assert fitted.history["val_loss"].iloc[-1] < fitted.history["val_loss"].iloc[0]
    anew, _fitted = train(splits, run_folder(tmp_path / "elsewhere"), few_views(), **WARMUP)
    forbid_computing(monkeypatch)
    again, _fitted = train(splits, run_folder(tmp_path, "two"), few_views(), **WARMUP)
    assert same(after, anew) and same(after, again)


def test_a_head_on_kept_features_learns_what_it_learns_on_the_whole_network(splits, tmp_path):
    """Without dropout, and with a view of its own for every epoch, only the rounding differs."""
    whole, slow = train(splits, run_folder(tmp_path), few_views(0), own=network(32, dropout=0.0),
                        **WARMUP)  # fmt: skip
    head, fast = train(splits, run_folder(tmp_path, "two"), few_views(3),
                       own=network(32, dropout=0.0), **WARMUP)  # fmt: skip
    for one, two in zip(whole, head, strict=True):
        np.testing.assert_allclose(one, two, atol=2e-3)
    np.testing.assert_allclose(slow.history["val_loss"], fast.history["val_loss"], atol=2e-3)


def test_a_head_with_a_hidden_layer_is_parted_and_one_without_pooling_is_not():
    image = keras.Input((32, 32, 3))
    flat = keras.layers.Conv2D(2, 32)(image)
    assert split_at_features(keras.Model(image, keras.layers.Reshape((2,))(flat))) is None
    assert split_at_features(network(32)) is None  # its backbone learns
    settings = settings_with(student={"input_size": 32, "weights": "none", "hidden_units": 7})
    student = build_student(settings, 2)
    freeze(student, 0.0)
    backbone, chain = split_at_features(student)
    photos = np.random.default_rng(0).uniform(-1, 1, (2, 32, 32, 3)).astype(np.float32)
    parted = copied_head(backbone, chain)(backbone(photos))
    np.testing.assert_allclose(parted, student(photos), atol=1e-6)


# killed, and several at once


class Killed(BaseException):
    pass


@pytest.mark.parametrize("keep", [True, False], ids=["answers", "features"])
def test_a_killed_training_ends_with_the_same_bits(keep, splits, tmp_path, monkeypatch):
    changed = {"epochs": 3} if keep else WARMUP
    settings = settings_with() if keep else few_views()
    expected, _fitted = train(splits, run_folder(tmp_path / "whole"), settings, **changed)
    computed, calls = kept.Outputs._computed, []

    def die_once(outputs, *args):
        calls.append(outputs)
        if len(calls) == 2:
            raise Killed
        return computed(outputs, *args)

    monkeypatch.setattr(kept.Outputs, "_computed", die_once)
    with pytest.raises(Killed):
        train(splits, run_folder(tmp_path), settings, **changed)
    found, _fitted = train(splits, run_folder(tmp_path), settings, **changed)
    assert same(expected, found)


def test_who_comes_second_waits_for_the_first_and_reads(splits, tmp_path, monkeypatch):
    shown = feed(Photos(splits), VIEWS, settings_with(), batch_size=4).shown
    outputs = kept.Outputs("answers", network(40), shown, 0, tmp_path / "answers")
    waits, computed, found = threading.Event(), [], []
    compute = kept.Outputs._computed
    second = threading.Thread(target=lambda: found.append(outputs.of(0, bar=False)))
    monkeypatch.setattr(kept.logger, "info", lambda *_line: waits.set())  # said before it waits

    def slowly(*args):
        computed.append(args)
        if len(computed) == 1:
            second.start()
            assert waits.wait(20)
        return compute(*args)

    monkeypatch.setattr(kept.Outputs, "_computed", slowly)
    first = outputs.of(0, bar=False)
    second.join(20)
    assert len(computed) == 1 and np.array_equal(found[0], first)
