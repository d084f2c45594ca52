"""Every loss against a NumPy reference in float64, its gradient against finite differences."""

from pathlib import Path

import numpy as np
import pytest

import workbench  # noqa: F401

# isort: split
import tensorflow as tf

from workbench.data.tables import Split
from workbench.settings import Settings
from workbench.train.losses import class_weights, task_loss

IMAGES, CLASSES = 16, 5
NO_WEIGHTS = np.ones(CLASSES)


def settings_with(task="multilabel", **loss) -> Settings:
    return Settings.model_validate({"task": task, "loss": loss})


def loss_with(settings, positives, images):
    """The loss of a training split with so many positives of each class."""
    counts = np.asarray(positives, int)
    targets = (np.arange(images)[:, None] < counts).astype(np.float32)
    names = tuple(f"class {index}" for index in range(len(counts)))
    mask = np.ones_like(targets)
    return task_loss(settings, Split("train", ("",) * images, Path(), names, targets, mask))


def draw(seed=0, spread=3.0):
    """Logits, targets and a mask with a fifth of the labels unknown."""
    rng = np.random.default_rng(seed)
    logits = spread * rng.standard_normal((IMAGES, CLASSES))
    targets = (rng.random((IMAGES, CLASSES)) < 0.4).astype(np.float64)
    mask = (rng.random((IMAGES, CLASSES)) < 0.8).astype(np.float64)
    return logits, targets, mask


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def reference(settings, logits, targets, mask, weights):
    """The loss of each image, written as in the papers."""
    own, single_label = settings.loss, settings.task == "single_label"
    smoothing = own.label_smoothing
    y = targets * (1 - smoothing) + smoothing * (1 / CLASSES if single_label else 0.5)
    if single_label:
        p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        return -(y * np.log(p) * mask * weights).sum(1)
    p = sigmoid(logits)
    if own.name == "bce":
        cells = -(y * np.log(p) + (1 - y) * np.log(1 - p))
    elif own.name == "focal":
        g = own.focal_gamma
        cells = -(y * (1 - p) ** g * np.log(p) + (1 - y) * p**g * np.log(1 - p))
    else:
        m = np.maximum(p - own.asymmetric_clip, 0)
        positive = y * (1 - p) ** own.asymmetric_gamma_positive * np.log(p)
        negative = (1 - y) * m**own.asymmetric_gamma_negative * np.log(1 - m)
        cells = -(positive + negative)
    return (cells * mask * weights).mean(1)


def gradient_by_differences(function, logits, step=1e-6):
    gradient = np.zeros_like(logits)
    for index in np.ndindex(logits.shape):
        moved = [logits.copy(), logits.copy()]
        moved[0][index] += step
        moved[1][index] -= step
        gradient[index] = (function(moved[0]).sum() - function(moved[1]).sum()) / (2 * step)
    return gradient


CASES = {
    "bce": {"name": "bce"},
    "weighted bce": {"name": "bce", "class_weights": "inverse"},
    "effective weights": {"name": "bce", "class_weights": "effective"},
    "smoothed bce": {"name": "bce", "label_smoothing": 0.1},
    "focal": {"name": "focal", "focal_gamma": 2.0},
    "focal with a fractional gamma": {"name": "focal", "focal_gamma": 0.5},
    "asymmetric": {"name": "asymmetric"},
    "asymmetric, fractional gammas": {
        "name": "asymmetric",
        "asymmetric_gamma_positive": 0.5,
        "asymmetric_gamma_negative": 1.5,
    },
    "asymmetric, a gamma below one": {"name": "asymmetric", "asymmetric_gamma_negative": 0.5},
    "asymmetric, clipped only": {"name": "asymmetric", "asymmetric_gamma_negative": 0.0},
    "softmax": {"task": "single_label"},
    "softmax, weighted and smoothed": {
        "task": "single_label",
        "class_weights": "inverse",
        "label_smoothing": 0.1,
    },
}
COUNTS = np.array([40, 5, 1, 12, 3])


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_a_loss_and_its_gradient_equal_the_reference(case):
    settings = settings_with(**case)
    logits, targets, mask = draw()
    weights = class_weights(settings.loss.class_weights, COUNTS, 60)
    loss = loss_with(settings, COUNTS, 60)

    variable = tf.constant(logits)
    with tf.GradientTape() as tape:
        tape.watch(variable)
        ours = loss(variable, tf.constant(targets), tf.constant(mask))
    expected = reference(settings, logits, targets, mask, weights)
    np.testing.assert_allclose(ours, expected, rtol=1e-6, atol=1e-12)

    expected_gradient = gradient_by_differences(
        lambda z: reference(settings, z, targets, mask, weights), logits
    )
    np.testing.assert_allclose(tape.gradient(ours, variable), expected_gradient, atol=1e-6)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_a_loss_in_float32_stays_within_a_millionth_of_float64(case):
    settings = settings_with(**case)
    loss = loss_with(settings, COUNTS, 60)
    logits, targets, mask = draw()
    full = loss(*map(tf.constant, (logits, targets, mask)))
    half = loss(*(tf.constant(array, tf.float32) for array in (logits, targets, mask)))
    np.testing.assert_allclose(half, full, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_extreme_logits_give_finite_losses_and_gradients(case):
    loss = loss_with(settings_with(**case), COUNTS, 60)
    logits = tf.constant([[-200.0, -1e4, 0.0, 200.0, 1e4]])
    targets, mask = tf.constant([[1.0, 0.0, 1.0, 0.0, 1.0]]), tf.ones([1, CLASSES])
    with tf.GradientTape() as tape:
        tape.watch(logits)
        value = loss(logits, targets, mask)
    assert np.isfinite(value).all()
    assert np.isfinite(tape.gradient(value, logits)).all()


def losses(**loss):
    logits, targets, mask = draw()
    function = loss_with(settings_with(**loss), NO_WEIGHTS, IMAGES)
    return function(*map(tf.constant, (logits, targets, mask))).numpy()


def test_asymmetric_loss_without_margins_equals_bce():
    zeros = {f"asymmetric_{name}": 0.0 for name in ("gamma_positive", "gamma_negative", "clip")}
    np.testing.assert_allclose(losses(name="asymmetric", **zeros), losses(name="bce"), rtol=1e-12)


def test_focal_loss_with_gamma_zero_equals_bce():
    np.testing.assert_array_equal(losses(name="focal", focal_gamma=0.0), losses(name="bce"))


def test_negatives_below_the_clip_cost_nothing():
    loss = loss_with(settings_with(name="asymmetric"), NO_WEIGHTS, IMAGES)
    logits = tf.fill([1, CLASSES], -4.0)  # probability 0.018, under the clip of 0.05
    assert loss(logits, tf.zeros_like(logits), tf.ones_like(logits)).numpy() == 0


@pytest.mark.parametrize("task", ["multilabel", "single_label"])
def test_an_unknown_label_contributes_nothing_whatever_it_says(task):
    loss = loss_with(settings_with(task=task), NO_WEIGHTS, IMAGES)
    logits, targets, mask = draw()
    mask[:, 2] = 0
    other = targets.copy()
    other[:, 2] = 1 - other[:, 2]
    one, two = (loss(*map(tf.constant, (logits, y, mask))).numpy() for y in (targets, other))
    np.testing.assert_array_equal(one, two)


def test_an_unknown_label_gives_the_known_ones_no_more_weight():
    loss = loss_with(settings_with(), NO_WEIGHTS, IMAGES)
    logits, targets, mask = draw()
    everything = loss(*map(tf.constant, (logits, targets, np.ones_like(mask))))
    parts = [loss(*map(tf.constant, (logits, targets, part))) for part in (mask, 1 - mask)]
    np.testing.assert_allclose(parts[0] + parts[1], everything, rtol=1e-12)


@pytest.mark.parametrize("kind", ["inverse", "effective"])
def test_class_weights_have_mean_one_over_the_classes_that_occur(kind):
    weights = class_weights(kind, [100, 10, 0, 1], 120)
    assert weights[2] == 0
    assert weights[[0, 1, 3]].mean() == pytest.approx(1)
    assert weights[0] < weights[1] < weights[3]


def test_inverse_weights_are_inverse_to_the_counts():
    weights = class_weights("inverse", [10, 20], 30)
    assert weights[0] == pytest.approx(2 * weights[1])


def test_effective_weights_are_those_of_the_effective_number_of_samples():
    weights = class_weights("effective", [10, 20], 30)
    beta = 29 / 30
    assert weights[0] / weights[1] == pytest.approx((1 - beta**20) / (1 - beta**10))


@pytest.mark.parametrize("kind", ["none", "inverse", "effective"])
def test_without_a_single_label_every_class_weighs_one(kind):
    np.testing.assert_array_equal(class_weights(kind, [0, 0], 3), [1, 1])
