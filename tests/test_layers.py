"""Quantisation error per layer, under the names that Keras gave."""

import numpy as np
import pytest

from workbench.errors import StepError

pytestmark = pytest.mark.slow
LAYERS = ["stem_conv", "block_dwconv", "block_project_conv", "top_conv", "logits"]


@pytest.fixture(scope="module")
def layers():
    from workbench.deploy import layers

    return layers


@pytest.fixture(scope="module")
def convert():
    from workbench.deploy import convert

    return convert


@pytest.fixture(scope="module")
def images(doubles):
    return list(doubles.draw(16, seed=5)[0])


def errors_of(layers, convert, doubles, student, images):
    model = convert.convert_full_integer(student, images, doubles.small_settings().tflite_export)
    return layers.layer_errors(student, model, images)


def test_every_weighted_layer_has_a_row_under_its_keras_name(layers, convert, doubles, images):
    errors = errors_of(layers, convert, doubles, doubles.trained_student(), images)
    assert sorted(errors.layer) == sorted(LAYERS)


def test_healthy_layers_keep_more_than_five_bits(layers, convert, doubles, images):
    errors = errors_of(layers, convert, doubles, doubles.trained_student(), images)
    assert errors.sqnr_db.min() > 30


def test_one_huge_constant_channel_costs_its_layer_bits(layers, convert, doubles, images):
    student = doubles.trained_student(epochs=2)
    before = errors_of(layers, convert, doubles, student, images).set_index("layer").sqnr_db
    norm = student.get_layer("block_project_bn")
    gamma, beta, mean, variance = norm.get_weights()
    norm.set_weights([gamma, beta + np.eye(8)[0] * 100, mean, variance])
    after = errors_of(layers, convert, doubles, student, images).set_index("layer").sqnr_db
    assert after["block_project_conv"] < before["block_project_conv"] - 10
    assert after["stem_conv"] == pytest.approx(before["stem_conv"])


def test_the_worst_layers_come_first(layers, convert, doubles, images):
    errors = errors_of(layers, convert, doubles, doubles.trained_student(epochs=2), images)
    assert layers.worst_layers(errors, 1) == ["block_project_conv"]
    assert errors.sqnr_db.is_monotonic_increasing


def test_a_range_that_is_too_narrow_shows_as_saturation(layers, convert, doubles, images):
    from workbench.deploy import quantize

    student = doubles.trained_student()
    quantized = quantize.fake_quantize(student, images)
    wrapper = next(layer for layer in quantized.layers if layer.name == "quant_top_activation")
    (_low, high), *_ = quantize.range_variables(wrapper)
    high.assign(high / 8)
    model = convert.convert_quantized(quantized, doubles.small_settings().tflite_export)
    errors = layers.layer_errors(student, model, images).set_index("layer")
    assert errors.saturated.idxmax() == "top_conv" and errors.saturated["top_conv"] > 0.01


def test_the_names_are_found_in_a_qat_file_as_well(layers, convert, doubles, images):
    from workbench.deploy import quantize

    student = doubles.trained_student(epochs=2)
    quantized = quantize.fake_quantize(student, images)
    model = convert.convert_quantized(quantized, doubles.small_settings().tflite_export)
    errors = layers.layer_errors(quantize.float_twin(student, quantized), model, images)
    assert sorted(errors.layer) == sorted(LAYERS)


def test_a_file_of_another_network_is_refused(layers, doubles, images):
    from tests.deploy_doubles import colour_file

    with pytest.raises(StepError, match="no layer of the student is INT8"):
        layers.quantized_layers(colour_file(), ["stem_conv"])


def test_groups_hold_the_batch_norm_and_activation_behind_each_layer(layers, doubles):
    groups = layers.fused_groups(doubles.student_network())
    assert groups[0] == ("stem_conv", "stem_bn", "stem_activation")
    assert groups[-1] == ("logits",)
