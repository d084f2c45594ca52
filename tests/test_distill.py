"""What a student learns from its teacher, against NumPy references in float64."""

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

from workbench.data.tables import Split
from workbench.settings import Settings
from workbench.train.losses import (
    Distillation,
    binary_divergence,
    gate_classes,
    softmax_divergence,
    task_loss,
)

IMAGES, CLASSES = 6, 4


def draw(seed=0):
    rng = np.random.default_rng(seed)
    student, teacher = 2 * rng.standard_normal((2, IMAGES, CLASSES))
    targets = (rng.random((IMAGES, CLASSES)) < 0.4).astype(np.float64)
    return student, teacher, targets, np.ones_like(targets)


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def softmax(z):
    return np.exp(z) / np.exp(z).sum(1, keepdims=True)


def reference(student, teacher, targets, alpha, temperature, single_label=False, gate=1.0):
    t = temperature
    if single_label:
        p, q = softmax(teacher / t), softmax(student / t)
        soft = (p * np.log(p / q)).sum(1) * (gate * targets).sum(1)
        hard = -(targets * np.log(softmax(student))).sum(1)
    else:
        p, q = sigmoid(teacher / t), sigmoid(student / t)
        soft = (gate * (p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q)))).mean(1)
        s = sigmoid(student)
        hard = -(targets * np.log(s) + (1 - targets) * np.log(1 - s)).mean(1)
    return alpha * hard + (1 - alpha) * t**2 * soft


def labels_alone(settings=None):
    everywhere = np.ones((IMAGES, CLASSES), np.float32)
    names = tuple("abcd")
    split = Split("train", ("",) * IMAGES, None, names, everywhere, everywhere)
    return task_loss(settings or Settings(), split)


def objective(teacher, alpha=0.7, temperature=2.0, single_label=False, gate=None):
    settings = Settings.model_validate(
        {
            "task": "single_label" if single_label else "multilabel",
            "distillation": {"alpha": alpha, "temperature": temperature},
        }
    )
    image = keras.Input((1,))
    network = keras.Model(image, keras.layers.Dense(CLASSES)(image))
    goal = Distillation(labels_alone(settings), network, settings, gate)
    goal.teacher = lambda _view: tf.constant(teacher)  # in float64, which no network answers in
    return goal


def value_and_gradient(goal, student, targets, mask):
    logits = tf.constant(student)
    with tf.GradientTape() as tape:
        tape.watch(logits)
        value = goal(logits, (tf.zeros([1]),), tf.constant(targets), tf.constant(mask))
    return value.numpy(), tape.gradient(value, logits).numpy()


def gradient_by_differences(function, logits, step=1e-6):
    gradient = np.zeros_like(logits)
    for index in np.ndindex(logits.shape):
        moved = [logits.copy(), logits.copy()]
        moved[0][index] += step
        moved[1][index] -= step
        gradient[index] = (function(moved[0]).sum() - function(moved[1]).sum()) / (2 * step)
    return gradient


@pytest.mark.parametrize("single_label", [False, True], ids=["multilabel", "single_label"])
@pytest.mark.parametrize(("alpha", "temperature"), [(0.7, 2.0), (0.0, 1.0), (0.3, 5.0)])
def test_the_objective_and_its_gradient_equal_the_reference(alpha, temperature, single_label):
    student, teacher, targets, mask = draw()
    if single_label:
        targets = np.eye(CLASSES)[np.arange(IMAGES) % CLASSES]
    goal = objective(teacher, alpha, temperature, single_label)
    value, gradient = value_and_gradient(goal, student, targets, mask)

    def expected(z):
        return reference(z, teacher, targets, alpha, temperature, single_label)

    np.testing.assert_allclose(value, expected(student), rtol=1e-6)
    np.testing.assert_allclose(gradient, gradient_by_differences(expected, student), atol=1e-6)


def test_alpha_one_is_training_on_the_labels_alone():
    student, teacher, targets, mask = draw()
    value, _ = value_and_gradient(objective(teacher, alpha=1.0), student, targets, mask)
    labels = labels_alone()
    np.testing.assert_allclose(value, labels(*map(tf.constant, (student, targets, mask))))


def test_a_student_that_agrees_with_its_teacher_has_nothing_to_learn_from_it():
    student, _, targets, mask = draw()
    value, gradient = value_and_gradient(objective(student, alpha=0.0), student, targets, mask)
    np.testing.assert_allclose(value, 0, atol=1e-12)
    np.testing.assert_allclose(gradient, 0, atol=1e-12)


def test_softmax_over_classes_would_teach_several_labels_something_else():
    """Two classes that are both there: the teacher is sure of both, and so is the student.

    The softmax only sees which of them is surer and pulls one of them down; the binary divergence
    is content. Toolkits that distill several labels with a softmax make this mistake.
    """
    teacher = tf.constant([[8.0, 4.0, -6.0, -6.0]], tf.float64)
    student = tf.constant([[6.0, 6.0, -6.0, -6.0]], tf.float64)
    gradients = []
    for divergence in (binary_divergence, softmax_divergence):
        with tf.GradientTape() as tape:
            tape.watch(student)
            value = tf.reduce_sum(divergence(student, teacher, 2.0))
        gradients.append(tape.gradient(value, student).numpy()[0])
    binary, wrong = gradients
    assert abs(binary[1]) < 0.05
    assert wrong[1] > 0.15  # descent lowers the logit of a class that is there
    assert wrong.sum() == pytest.approx(0, abs=1e-12)  # what one class gains another must lose
    assert binary.sum() != pytest.approx(0, abs=1e-3)


def test_the_gradient_keeps_its_size_when_the_temperature_rises():
    """This is what the factor T² is for (Hinton et al. 2015)."""
    student, teacher, targets, mask = draw()
    sizes = [
        np.abs(value_and_gradient(objective(teacher, 0.0, t), student, targets, mask)[1]).mean()
        for t in (20.0, 40.0)
    ]
    assert sizes[1] == pytest.approx(sizes[0], rel=0.05)


def test_extreme_logits_give_finite_divergences_and_gradients():
    student = tf.constant([[1e4, -1e4, 200.0, -200.0]])
    teacher = -student
    for divergence in (binary_divergence, softmax_divergence):
        with tf.GradientTape() as tape:
            tape.watch(student)
            value = divergence(student, teacher, 2.0)
        assert np.isfinite(value).all()
        assert np.isfinite(tape.gradient(value, student)).all()


@pytest.mark.parametrize("single_label", [False, True], ids=["multilabel", "single_label"])
def test_a_class_behind_the_gate_is_not_distilled(single_label):
    student, teacher, _, mask = draw()
    targets = np.eye(CLASSES)[np.arange(IMAGES) % CLASSES]
    gate = np.array([1.0, 0.0, 1.0, 1.0])
    goal = objective(teacher, 0.5, 2.0, single_label, gate)
    value, _ = value_and_gradient(goal, student, targets, mask)
    expected = reference(student, teacher, targets, 0.5, 2.0, single_label, gate)
    np.testing.assert_allclose(value, expected, rtol=1e-6)


def test_the_teacher_also_speaks_where_a_label_is_unknown():
    student, teacher, targets, mask = draw()
    goal = objective(teacher, alpha=0.0)
    known, _ = value_and_gradient(goal, student, targets, mask)
    unknown, _ = value_and_gradient(goal, student, targets, 0 * mask)
    np.testing.assert_array_equal(known, unknown)


def test_the_gate_shuts_on_worse_teachers_rare_classes_and_missing_scores():
    gate = gate_classes(
        positives=np.array([50, 50, 2, 50, 50]),
        min_positives=5,
        teacher=np.array([0.9, 0.2, 0.9, np.nan, 0.5]),
        student=np.array([0.3, 0.3, 0.3, 0.3, np.nan]),
    )
    np.testing.assert_array_equal(gate, [1, 0, 0, 0, 1])
