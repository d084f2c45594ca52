"""What a teacher gives on photos that nobody labelled: loss, rounds, control, time and page."""

from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from tests.training_doubles import small_network
from workbench.artifacts import ControlComparison
from workbench.compare import control_record
from workbench.data.tables import Split
from workbench.decide.metrics import Predictions, compare
from workbench.machine import guess_seconds
from workbench.settings import Settings
from workbench.show.figures import alt_text
from workbench.show.teacher_answers import answer_bars, answer_photos, some_photos
from workbench.train.losses import Distillation
from workbench.train.phases import all_phases, control_phases, earlier_rounds, phase_parts, phases

CLASSES = ("cat", "<b>dog</b>", "owl")


def settings(task: str = "multilabel", **groups) -> Settings:
    return Settings.model_validate({"task": task, "num_classes": "auto", **groups})


def logits(rows: int = 5, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 3, (rows, 3)).astype(np.float32)


def softmax(values: np.ndarray) -> np.ndarray:
    raised = np.exp(values - values.max(axis=1, keepdims=True))
    return raised / raised.sum(axis=1, keepdims=True)


# The loss.


def objective(task: str, gate: np.ndarray) -> Distillation:
    """Distillation that counts the known labels in place of a loss, on answers themselves."""
    distillation = {"alpha": 0.25, "temperature": 2.0}
    labels = lambda logits, targets, mask: tf.reduce_sum(mask, axis=-1)  # noqa: E731
    made = Distillation(labels, small_network(), settings(task, distillation=distillation), gate)
    return made.on_answers()


def test_one_label_follows_the_teacher_by_what_it_sees_where_nobody_labelled():
    """A photo that is half of a class which is not distilled costs half."""
    student, teacher, gate = logits(seed=1), logits(seed=2), np.array([1, 0, 1], np.float32)
    nothing = np.zeros_like(student)
    found = objective("single_label", gate)(student, (teacher,), nothing, nothing).numpy()
    soft, learned = softmax(teacher / 2), softmax(student / 2)
    divergence = (soft * np.log(soft / learned)).sum(axis=1)
    share = (softmax(teacher) * gate).sum(axis=1)
    np.testing.assert_allclose(found, 0.75 * 4 * share * divergence, rtol=1e-4)
    assert share.min() < 0.9  # the gate has a say here


def test_where_there_is_a_label_its_class_decides_over_the_gate():
    student, teacher, gate = logits(seed=1), logits(seed=2), np.array([1, 0, 1], np.float32)
    known, shut = np.ones_like(student), np.zeros_like(student)
    shut[:, 1] = 1
    found = objective("single_label", gate)(student, (teacher,), shut, known).numpy()
    np.testing.assert_allclose(found, 0.25 * 3, rtol=1e-6)


# Rounds and control.


def test_the_students_of_earlier_rounds_train_first_and_the_control_last():
    asked = settings(distillation={"rounds": 3, "control": True})
    stems = ("student_round1", "student_round2", "student", "student_control")
    expected = [f"{stem}_{kind}" for stem in stems for kind in ("warmup", "finetuned")]
    assert [phase.name for phase in all_phases(asked, "student")] == expected
    assert len({phase.name for phase in all_phases(asked, "student")}) == 8


def test_without_a_teacher_there_is_neither():
    asked = settings(distillation={"enabled": False, "rounds": 3, "control": True})
    assert earlier_rounds(asked) == []
    names = [phase.name for phase in all_phases(asked, "student")]
    assert names == ["student_warmup", "student_finetuned"]


def test_rounds_and_control_do_not_train_the_student_of_before_anew():
    more = settings(distillation={"rounds": 2, "control": True})
    for one, other in zip(phases(settings(), "student"), phases(more, "student"), strict=True):
        assert phase_parts(one, settings()) == phase_parts(other, more)


def test_the_control_depends_on_no_knob_of_distillation():
    softer = settings(distillation={"temperature": 4.0})
    for before, after in zip(control_phases(settings()), control_phases(softer), strict=True):
        assert phase_parts(before, settings()) == phase_parts(after, softer)
    (_first, finetune), (_other, changed) = phases(settings(), "student"), phases(softer, "student")
    assert phase_parts(finetune, settings()) != phase_parts(changed, softer)


def test_what_the_teacher_gave_is_written_with_null_where_a_figure_is_undefined(tmp_path):
    y_true = np.array([[1, 0, 0], [0, 1, 0], [1, 1, 0], [0, 0, 0]] * 5, float)
    paths = tuple(f"{number}.jpg" for number in range(20))
    sides = [Predictions(name, paths, CLASSES, y_true, score, 0.5, "multilabel")
             for name, score in (("labels alone", 1 - y_true), ("student", y_true))]  # fmt: skip
    record = control_record(compare(*sides, replicates=20, seed=0))
    (tmp_path / record.file).write_text(record.model_dump_json())
    assert ControlComparison.read(tmp_path) == record
    figures = {one.figure: one for one in record.figures}
    assert figures["f1_macro"].difference == pytest.approx(1) and record.images == 20


# The time that is expected.


def student_seconds(unlabeled: int = 0, **distillation) -> float:
    asked = settings(distillation=distillation)
    alone = settings(student=None)  # what loading and starting takes
    return guess_seconds(asked, 100, {"04"}, unlabeled) - guess_seconds(alone, 100, {"04"})


def test_photos_without_labels_rounds_and_control_take_their_time():
    more = student_seconds(unlabeled=300)
    assert more == pytest.approx(6 * student_seconds())  # 300 and 300 draws in place of 100
    assert student_seconds(unlabeled=300, rounds=2) == pytest.approx(2 * more)
    assert more < student_seconds(unlabeled=300, control=True) < 2 * more
    off = student_seconds(unlabeled=300, enabled=False, rounds=2, control=True)
    assert off == pytest.approx(student_seconds(enabled=False)) and off < student_seconds()


# The page.


@pytest.fixture(scope="module")
def split(tmp_path_factory) -> Split:
    folder, rng = tmp_path_factory.mktemp("roll"), np.random.default_rng(0)
    for number in range(10):
        pixels = rng.integers(0, 256, (9, 9, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    paths, nothing = tuple(f"{number}.png" for number in range(10)), np.zeros((10, 3), np.float32)
    return Split("unlabeled", paths, folder, CLASSES, nothing, nothing, np.arange(10))


def test_few_of_many_photos_are_asked_evenly(split):
    few = some_photos(split, most=4)
    assert few.filepaths == ("0.png", "3.png", "6.png", "9.png")
    assert few.groups.tolist() == [0, 3, 6, 9] and few.targets.shape == (4, 3)
    assert some_photos(split, most=99).filepaths == split.filepaths


SAID = np.array([[9, -9, -9]] * 6 + [[-9, 9, 0.1]] * 3 + [[-9, -9, -9]], np.float32)


@pytest.mark.parametrize(
    ("task", "counts", "unsure"),
    [("multilabel", (6, 3, 3), "30%"), ("single_label", (7, 3, 0), "10%")],
)
def test_bars_count_what_the_teacher_says_and_how_surely(split, task, counts, unsure):
    figure = answer_bars(SAID, split, settings(task))
    bars = figure.axes[0].patches
    order = np.argsort(counts, kind="stable")
    total = [
        low.get_width() + high.get_width() for low, high in zip(bars[:3], bars[3:], strict=True)
    ]
    assert total == [counts[place] for place in order]
    assert f"{unsure} of the photos have an answer below 90%" in alt_text(figure)


@pytest.mark.parametrize("task", ["multilabel", "single_label"])
def test_photos_of_both_ends_are_shown_with_the_answer(split, task):
    figure = answer_photos(SAID, split, settings(task))
    assert alt_text(figure).endswith("4 least sure, 4 surest.")
    captions = [ax.get_xlabel() for ax in figure.axes]
    least = "none of the classes" if task == "multilabel" else "cat 33%"
    assert sum(least in words for words in captions) == 1
    assert any("surest: cat 100%" in words for words in captions[4:])
    assert all(Path(ax.get_title().split("\n")[0]).suffix == ".png" for ax in figure.axes)
