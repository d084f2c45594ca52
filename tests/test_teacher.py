"""The large networks: every architecture builds, preprocesses as its weights expect, and thaws."""

import numpy as np
import pytest

import workbench  # noqa: F401

# isort: split
import tf_keras as keras

from workbench.nets.lite import backbone_layers, freeze
from workbench.nets.teacher import student_view, teacher_structure, teacher_view
from workbench.nets.weights import load_weights_into, save_weights
from workbench.settings import TEACHER_SIZES, Settings, TeacherSettings

QUICK = {"efficientnet_b0", "mobilenet_v2", "efficientnet_lite0"}


def teacher(arch="efficientnet_b0", **changed) -> keras.Model:
    return teacher_structure(
        Settings(teacher=TeacherSettings(arch=arch, **{"input_size": 32, **changed})), 7
    )


@pytest.fixture(scope="module")
def b0() -> keras.Model:
    """One network for all tests that change nothing, or only what is frozen."""
    return teacher()


def by_speed(arch):
    return pytest.param(arch, marks=() if arch in QUICK else pytest.mark.slow)


@pytest.mark.parametrize("arch", [by_speed(arch) for arch in TEACHER_SIZES])
def test_every_architecture_gives_finite_float32_logits(arch):
    network = teacher(arch)
    assert network.layers[-1].name == "logits"
    assert network.layers[-1].activation is keras.activations.linear
    pixels = np.random.default_rng(0).uniform(0, 255, (2, 32, 32, 3)).astype(np.float32)
    logits = network(pixels, training=False).numpy()
    assert logits.shape == (2, 7)
    assert logits.dtype == np.float32
    assert np.isfinite(logits).all()
    assert np.ptp(logits, axis=0).min() > 0  # what it says depends on what it sees


def test_auto_takes_the_native_size_of_the_architecture():
    assert teacher("efficientnet_lite0", input_size="auto").input_shape == (None, 224, 224, 3)


def first_features(network, pixels):
    """What the first convolution sees of an image of one colour, at its centre."""
    conv = next(layer for layer in network.layers if isinstance(layer, keras.layers.Conv2D))
    look = keras.Model(network.input, conv.input)
    image = np.broadcast_to(np.float32(pixels), (1, 32, 32, 3))
    return look(image).numpy()[0, 16, 16]


@pytest.mark.parametrize("pixels", [(0, 0, 0), (255, 128, 3)])
def test_efficientnet_sees_pixels_standardised_by_imagenet(b0, pixels):
    expected = (np.array(pixels) / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    np.testing.assert_allclose(first_features(b0, pixels), expected, rtol=1e-5)


@pytest.mark.slow
def test_resnet_sees_blue_first_and_centred():
    expected = np.array([3 - 103.939, 128 - 116.779, 255 - 123.68])
    np.testing.assert_allclose(
        first_features(teacher("resnet101"), (255, 128, 3)), expected, rtol=1e-5
    )


def test_mobilenet_sees_minus_one_to_one():
    seen = first_features(teacher("mobilenet_v2"), (255, 0, 127.5))
    np.testing.assert_allclose(seen, [1, -1, 0], atol=1e-6)


@pytest.mark.parametrize(
    ("arch", "normalization"), [("efficientnet_b3", "none"), ("efficientnet_lite0", "lite")]
)
def test_the_view_says_which_numbers_a_teacher_takes(arch, normalization):
    settings = Settings(teacher=TeacherSettings(arch=arch, input_size="auto"))
    view = teacher_view(settings)
    assert (view.size, view.normalization) == (TEACHER_SIZES[arch], normalization)


def test_the_student_sees_its_own_size_in_lite_numbers():
    view = student_view(Settings())
    assert (view.size, view.normalization) == (240, "lite")


def test_a_run_is_continued_with_other_classes_whatever_was_built_before(b0, tmp_path):
    save_weights(b0, tmp_path / "teacher.h5")
    other = teacher_structure(
        Settings(teacher=TeacherSettings(arch="efficientnet_b0", input_size=32)), 3
    )
    assert [layer.name for layer in other.layers] == [layer.name for layer in b0.layers]
    load_weights_into(other, tmp_path / "teacher.h5", backbone_only=True)
    for ours, theirs in zip(other.get_weights()[:-2], b0.get_weights()[:-2], strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_short_runs_choose_the_momentum_of_batch_norm_and_drop_no_branch():
    network = teacher(normalization_momentum=0.5, drop_connect=0.0, dropout=0.0)
    norms = [layer for layer in network.layers if hasattr(layer, "moving_mean")]
    assert {layer.momentum for layer in norms} == {0.5}
    assert not any("Dropout" in type(layer).__name__ for layer in network.layers)


@pytest.mark.parametrize("fraction", [0.0, 0.3, 1.0])
def test_the_top_fraction_of_the_backbone_and_the_head_learn(b0, fraction):
    freeze(b0, fraction)
    flags = [layer.trainable for layer in backbone_layers(b0)]
    assert sum(flags) == round(fraction * len(flags))
    assert flags == sorted(flags)
    assert b0.layers[-1].trainable


def test_thawing_after_a_warmup_lets_everything_learn_again(b0):
    freeze(b0, 0.0)
    assert len(b0.trainable_weights) == 2
    freeze(b0, 1.0)
    assert len(b0.trainable_weights) == len(teacher().trainable_weights)


def test_frozen_batch_norm_keeps_its_statistics_while_the_head_trains(b0):
    freeze(b0, 0.0)
    before = [w.numpy() for w in b0.non_trainable_weights]
    b0(np.random.default_rng(0).uniform(0, 255, (4, 32, 32, 3)), training=True)
    for one, two in zip(before, b0.non_trainable_weights, strict=True):
        np.testing.assert_array_equal(one, two)


def test_batch_norm_below_the_top_that_learns_keeps_its_statistics_too():
    network = teacher()
    freeze(network, 0.3)
    norms = [layer for layer in network.layers if hasattr(layer, "moving_mean")]
    before = [layer.moving_mean.numpy() for layer in norms]
    network(np.random.default_rng(0).uniform(0, 255, (4, 32, 32, 3)), training=True)
    moved = [not np.array_equal(x, y.moving_mean) for x, y in zip(before, norms, strict=True)]
    assert moved == [layer.trainable for layer in norms]
    assert 0 < sum(moved) < len(moved)
