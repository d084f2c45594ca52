"""Grad-CAM points at the pixels that a network was built to look at."""

import numpy as np
import pytest

import workbench  # noqa: F401  # legacy Keras, before TensorFlow loads
from workbench.errors import InputError

keras = pytest.importorskip("tf_keras")
pytestmark = pytest.mark.slow


def network():
    """Class 0 is how red an image is anywhere, class 1 how blue."""
    inputs = keras.Input((8, 8, 3))
    features = keras.layers.Conv2D(3, 1, use_bias=False, name="features")(inputs)
    pooled = keras.layers.GlobalAveragePooling2D()(features)
    outputs = keras.layers.Dense(2, use_bias=False, name="logits")(pooled)
    model = keras.Model(inputs, outputs)
    model.get_layer("features").set_weights([np.eye(3, dtype=np.float32)[None, None]])
    model.get_layer("logits").set_weights([np.array([[1, 0], [0, 0], [0, 1]], np.float32)])
    return model


def image():
    pixels = np.zeros((1, 8, 8, 3), np.float32)
    pixels[0, 1, 2, 0] = 1  # a red dot
    pixels[0, 6, 5, 2] = 1  # a blue one
    return pixels


def heat(model, class_index):
    from workbench.deploy.gradcam import gradcam

    return gradcam(model, image(), class_index)[0]


@pytest.mark.parametrize(("class_index", "place"), [(0, (1, 2)), (1, (6, 5))])
def test_the_map_is_highest_where_the_class_is(class_index, place):
    found = heat(network(), class_index)
    assert np.unravel_index(found.argmax(), found.shape) == place
    assert found.max() == 1 and found.min() == 0


def test_a_frozen_network_shows_the_same():
    model = network()
    expected = heat(model, 0)
    model.trainable = False
    np.testing.assert_array_equal(heat(model, 0), expected)


def test_what_speaks_against_the_class_everywhere_is_dark():
    model = network()
    model.get_layer("logits").set_weights([-np.ones((3, 2), np.float32)])
    assert not heat(model, 0).any()


def test_a_class_that_the_network_lacks_is_refused():
    with pytest.raises(InputError, match="class 7"):
        heat(network(), 7)


def test_a_network_without_feature_maps_is_refused():
    inputs = keras.Input((4,))
    model = keras.Model(inputs, keras.layers.Dense(2)(inputs))
    from workbench.deploy.gradcam import gradcam

    with pytest.raises(InputError, match="no layer with feature maps"):
        gradcam(model, np.zeros((1, 4), np.float32), 0)
