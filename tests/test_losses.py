"""Every loss against a NumPy reference in float64, its gradient against finite differences."""

from pathlib import Path

import numpy as np
import pytest

import workbench  # noqa: F401

# isort: split
import tensorflow as tf

from workbench.data.tables import Split
from workbench.settings import Settings
from workbench.train.losses import rarity_weights, task_loss

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
    smoothing, (of_yes, of_no) = own.label_smoothing, weights
    y = targets * (1 - smoothing) + smoothing * (1 / CLASSES if single_label else 0.5)
    if single_label:
        p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        return -(y * np.log(p) * mask * of_yes).sum(1)
    p = sigmoid(logits)
    if own.name == "bce":
        yes, no = np.log(p), np.log(1 - p)
    elif own.name == "focal":
        g = own.focal_gamma
        yes, no = (1 - p) ** g * np.log(p), p**g * np.log(1 - p)
    else:
        m = np.maximum(p - own.asymmetric_clip, 0)
        yes = (1 - p) ** own.asymmetric_gamma_positive * np.log(p)
        no = m**own.asymmetric_gamma_negative * np.log(1 - m)
    return -((y * yes * of_yes + (1 - y) * no * of_no) * mask).mean(1)


def reference_weights(settings, counts, images):
    """What a yes and a no weigh, [2, C]: the mean over the labels given is 1."""
    counts, kind = np.asarray(counts, float), settings.loss.class_weights

    def rarity(n):
        beta = (images - 1) / images
        rare = {"none": 1 + 0 * n, "inverse": 1 / n, "effective": (1 - beta) / (1 - beta**n)}
        return rare[kind]

    if settings.task == "single_label":
        weights = rarity(counts) * counts.sum() / (rarity(counts) * counts).sum()
        return np.stack([weights, np.zeros_like(weights)])
    both = np.stack([counts, images - counts])
    return rarity(both) * images / (rarity(both) * both).sum(0)


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
    weights = reference_weights(settings, COUNTS, 60)
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


def test_weighted_softmax_is_the_weighted_mean_over_a_training_split():
    """By hand: 3 of class a, 1 of b, inverse weights 1/3 and 1, so both classes count alike."""
    loss = loss_with(settings_with("single_label", class_weights="inverse"), [3, 1], 4)
    logits = np.log([[0.5, 0.5], [0.8, 0.2], [0.9, 0.1], [0.6, 0.4]])
    targets = np.array([[1.0, 0], [1, 0], [1, 0], [0, 1]])
    ours = loss(*map(tf.constant, (logits, targets, np.ones_like(targets)))).numpy().mean()
    a, b = -np.log([0.5, 0.8, 0.9]).mean(), -np.log(0.4)
    assert ours == pytest.approx((a + b) / 2, rel=1e-6)


def test_weights_leave_a_loss_as_large_as_it_was_where_every_image_costs_the_same():
    """Else labels weighed by class would lose their say beside a teacher's answers."""
    counts = [1000, 500, 200, 50]
    targets = np.repeat(np.eye(4), counts, axis=0)
    split = Split("train", ("",) * 1750, Path(), tuple("abcd"), targets, np.ones_like(targets))
    for kind in ("none", "inverse", "effective"):
        loss = task_loss(settings_with("single_label", class_weights=kind), split)
        same = loss(tf.zeros([1750, 4]), tf.constant(targets), tf.ones([1750, 4])).numpy()
        assert same.mean() == pytest.approx(np.log(4), rel=1e-5)


@pytest.mark.parametrize("kind", ["inverse", "effective"])
def test_a_rare_class_outweighs_its_own_negatives_where_several_can_be_true(kind):
    """By hand for inverse: 10 yes and 90 no weigh 5 and 5/9; half of the class's loss each."""
    loss = loss_with(settings_with(class_weights=kind), [10, 50], 100)
    of_yes, of_no = loss.of_yes, loss.of_no
    if kind == "inverse":
        np.testing.assert_allclose([of_yes, of_no], [[5, 1], [5 / 9, 1]], rtol=1e-6)
    np.testing.assert_allclose((10 * of_yes[0] + 90 * of_no[0]) / 100, 1, rtol=1e-6)
    assert of_yes[0] > 5 * of_no[0]


def test_a_class_without_examples_weighs_nothing_and_one_in_every_photo_weighs_one():
    loss = loss_with(settings_with(class_weights="inverse"), [0, 8, 4], 8)
    np.testing.assert_array_equal([loss.of_yes, loss.of_no], [[0, 1, 1], [0, 0, 1]])


def test_unknown_labels_are_no_negatives_when_classes_are_weighed():
    targets, mask = np.zeros((10, 1), np.float32), np.ones((10, 1), np.float32)
    targets[:2], mask[4:] = 1, 0  # two yes, two no, six unknown
    split = Split("train", ("",) * 10, Path(), ("a",), targets, mask)
    loss = task_loss(settings_with(class_weights="inverse"), split)
    assert (loss.of_yes[0], loss.of_no[0]) == (1, 1)


def test_effective_weights_are_those_of_the_effective_number_of_samples():
    weights = rarity_weights("effective", [10, 20], 30)
    beta = 29 / 30
    assert weights[0] / weights[1] == pytest.approx((1 - beta**20) / (1 - beta**10))


@pytest.mark.parametrize("kind", ["none", "inverse", "effective"])
def test_without_a_single_label_no_weight_is_infinite(kind):
    assert np.isfinite(rarity_weights(kind, [0, 0], 3)).all()
