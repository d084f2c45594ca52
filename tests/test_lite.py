"""The student network against the golden tables and features of efficientnet-lite-keras."""

import json
import zlib
from pathlib import Path

import numpy as np
import pytest

import workbench  # noqa: F401
from workbench.nets.lite import VARIANTS, build_lite

DATA = Path(__file__).parent / "data"
GOLDEN = json.loads((DATA / "lite_layers.json").read_text())


def golden_weight(weight) -> np.ndarray:
    """The rule the reference features were made with; a function of the weight's name."""
    rng = np.random.default_rng(zlib.crc32(weight.name.encode()))
    if "gamma" in weight.name or "moving_variance" in weight.name:
        return rng.uniform(0.5, 1.5, weight.shape).astype(np.float32)
    if "beta" in weight.name or "moving_mean" in weight.name:
        return (0.1 * rng.standard_normal(weight.shape)).astype(np.float32)
    fan = np.prod(weight.shape[:2] if "depthwise" in weight.name else weight.shape[:-1])
    return (rng.standard_normal(weight.shape) * np.sqrt(2 / fan)).astype(np.float32)


def by_speed(variant):
    return pytest.param(variant, marks=() if variant == "lite0" else pytest.mark.slow)


EACH_VARIANT = pytest.mark.parametrize("variant", [by_speed(variant) for variant in VARIANTS])


@EACH_VARIANT
def test_every_layer_has_the_name_type_and_shapes_of_the_original(variant):
    network = build_lite(variant, None)
    ours = [
        [layer.name, type(layer).__name__, [[w.name, list(w.shape)] for w in layer.weights]]
        for layer in network.layers
    ]
    assert ours == GOLDEN[variant]["layers"]


@EACH_VARIANT
def test_parameter_count_and_input_size_are_those_of_the_original(variant):
    network = build_lite(variant, None)
    assert network.count_params() == GOLDEN[variant]["params"]
    assert network.input_shape[1] == GOLDEN[variant]["input_size"]


@EACH_VARIANT
def test_features_agree_with_the_original(variant):
    network = build_lite(variant, None)
    for layer in network.layers:
        layer.set_weights([golden_weight(weight) for weight in layer.weights])
    size = network.input_shape[1]
    image = np.random.default_rng(7).uniform(-1, 1, (1, size, size, 3)).astype(np.float32)
    expected = np.load(DATA / "lite_features.npz")[variant]
    difference = np.abs(network(image, training=False).numpy() - expected).max()
    assert difference <= 1e-4 * np.abs(expected).max()


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
def test_quantisation_accepts_the_network(variant):
    import tensorflow_model_optimization as tfmot

    student = build_lite(variant, 7, input_size=32, dropout=0.3)
    quantized = tfmot.quantization.keras.quantize_model(student)
    assert quantized.output_shape == (None, 7)


def test_the_direct_comparison_with_the_original_package():
    # It reaches into parts of TensorFlow that newer ones have not.
    original = pytest.importorskip("efficientnet_lite", exc_type=ImportError)
    for number in range(5):
        theirs = getattr(original, f"EfficientNetLiteB{number}")(
            weights=None, include_top=False, pooling="avg"
        )
        ours = build_lite(f"lite{number}", None)
        ours.set_weights(theirs.get_weights())
        image = np.random.default_rng(7).uniform(-1, 1, (1, *ours.input_shape[1:]))
        np.testing.assert_allclose(
            ours(image.astype(np.float32)), theirs(image.astype(np.float32)), rtol=1e-4, atol=1e-5
        )


def test_a_logit_starts_near_zero_whatever_the_number_of_classes():
    image = np.random.default_rng(0).uniform(-1, 1, (2, 64, 64, 3)).astype(np.float32)
    for classes in (2, 100):
        network = build_lite("lite0", classes, input_size=64)
        assert np.abs(network(image, training=True)).max() < 1


def test_branches_are_dropped_more_often_towards_the_top():
    network = build_lite("lite0", None)
    blocks = [layer.name[:7] for layer in network.layers if layer.name.endswith("dwconv")]
    rates = {layer.name[:7]: layer.rate for layer in network.layers if "drop" in layer.name}
    assert rates == {name: 0.2 * blocks.index(name) / 16 for name in rates}
    assert len(rates) == 9


@pytest.mark.parametrize("variant", ["lite0", "lite4"])
def test_every_rate_that_the_settings_allow_builds_a_network(variant):
    network = build_lite(variant, 3, input_size=32, drop_connect=0.99)
    rates = [layer.rate for layer in network.layers if layer.name.endswith("_drop")]
    assert max(rates) <= 0.99
    assert rates == sorted(rates)
