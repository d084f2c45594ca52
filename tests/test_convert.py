"""Conversions: integers throughout, the same bytes twice, and quiet."""

import numpy as np
import pytest

from workbench.deploy import tflite
from workbench.errors import StepError
from workbench.settings import TfliteExportSettings

pytestmark = pytest.mark.slow
EXPORT = TfliteExportSettings()


@pytest.fixture(scope="module")
def student():
    from tests.quantization_doubles import trained_student

    return trained_student()


@pytest.fixture(scope="module")
def images():
    from tests.quantization_doubles import draw

    return list(draw(24, seed=5)[0])


@pytest.fixture(scope="module")
def convert():
    from workbench.deploy import convert

    return convert


def logits(model: bytes, images) -> np.ndarray:
    return tflite.logits_of(tflite.run_tflite(model, images), *tflite.output_quantization(model))


def test_a_full_integer_file_has_integers_only(convert, student, images):
    model = convert.convert_full_integer(student, images, EXPORT)
    assert tflite.require_full_integer(model).operators == {
        "ADD": 1, "CONV_2D": 3, "DEPTHWISE_CONV_2D": 1, "FULLY_CONNECTED": 1, "MEAN": 1,
        "QUANTIZE": 1,
    }  # fmt: skip


def test_two_exports_of_the_same_weights_are_the_same_bytes(convert, student, images):
    makers = (convert.convert_full_integer, convert.convert_float_head, convert.convert_float16)
    for maker in makers:
        assert maker(student, images, EXPORT) == maker(student, images, EXPORT), maker.__name__


def test_two_float_exports_of_the_same_weights_are_the_same_bytes(convert, student):
    for maker in (convert.convert_dynamic_range, convert.convert_float16, convert.convert_float32):
        assert maker(student) == maker(student), maker.__name__


@pytest.mark.parametrize("kind", ["uint8", "int8"])
def test_image_bytes_go_in_as_they_are_though_no_image_holds_black_or_white(
    convert, student, images, kind
):
    grey = [np.clip(image, 60, 180) for image in images]
    export = TfliteExportSettings(input_type=kind)
    model = convert.convert_full_integer(student, grey, export)
    table = tflite.input_table(tflite.input_port(model)).astype(int)
    assert table.tolist() == list(range(table[0], table[0] + 256))


@pytest.mark.parametrize("name", ["convert_full_integer", "convert_float_head", "convert_float16"])
def test_every_rung_takes_image_bytes_and_gives_int8(convert, student, images, name):
    model = getattr(convert, name)(student, images, EXPORT)
    ports = tflite.input_port(model), tflite.output_port(model)
    assert [port.dtype for port in ports] == ["uint8", "int8"]
    assert tflite.input_table(ports[0]).tolist() == list(range(256))


@pytest.mark.parametrize("name", ["convert_full_integer", "convert_float_head", "convert_float16"])
def test_every_rung_computes_nearly_what_keras_does(convert, student, images, name):
    model = getattr(convert, name)(student, images, EXPORT)
    wanted = convert.keras_logits(student, images)
    assert np.abs(logits(model, images) - wanted).max() < 0.06 * np.ptp(wanted)


def test_float_formats_compute_what_keras_does(convert, student, images):
    wanted = convert.keras_logits(student, images)
    for maker, tolerance in (
        (convert.convert_float32, 1e-4),
        (convert.convert_float16, 0.05),
        (convert.convert_dynamic_range, 0.5),
    ):
        assert np.abs(logits(maker(student), images) - wanted).max() < tolerance, maker.__name__


def test_a_hidden_layer_in_the_head_is_integers_as_well_with_and_without_qat(
    convert, student, images
):
    from workbench.deploy.quantize import fake_quantize
    from workbench.nets.lite import head, keras

    features = student.get_layer("avg_pool").output
    student = keras.Model(student.input, head(features, 3, 0.1, hidden_units=16))
    quantized = fake_quantize(student, images)
    files = [convert.convert_full_integer(student, images, EXPORT),
             convert.convert_quantized(quantized, EXPORT)]  # fmt: skip
    for model in files:
        assert tflite.require_full_integer(model).operators["FULLY_CONNECTED"] == 2
    assert np.abs(logits(files[1], images) - convert.keras_logits(quantized, images)).max() < 0.01


def test_a_float_head_leaves_floats_in_the_head_only(convert, student, images):
    scan = tflite.scan_tensors(convert.convert_float_head(student, images, EXPORT))
    assert 0 < len(scan.float_tensors) <= 5


def test_no_calibration_image_is_refused_in_words(convert, student):
    with pytest.raises(StepError, match="no image to calibrate on"):
        convert.convert_full_integer(student, [], EXPORT)


def test_float16_without_calibration_still_has_integer_ports(convert, student):
    model = convert.convert_float16(student, [], EXPORT)
    assert tflite.output_port(model).dtype == "int8"


def test_black_images_calibrate_without_a_scale_of_zero(convert, student):
    black = [np.zeros((32, 32, 3), np.uint8)]
    model = convert.convert_full_integer(student, black, EXPORT)
    assert tflite.output_port(model).scale > 0


def test_what_the_converter_refuses_is_said_in_one_line(convert, student, images, monkeypatch):
    def refuse(self):
        raise ValueError("first line\nthen a page of MLIR")

    kind = type(convert.tf.lite.TFLiteConverter.from_concrete_functions([], None))
    monkeypatch.setattr(kind, "convert", refuse)
    with pytest.raises(StepError, match=r"refused the network: first line$"):
        convert.convert_full_integer(student, images, EXPORT)


def test_an_operation_that_no_phone_knows_is_refused_by_its_name(convert, images):
    from tests.quantization_doubles import student_network, unknown_to_phones

    network = student_network(unknown_to_phones())
    refusal = r"^the TFLite converter refused the network: 'tf.Betainc' op is neither .*flex op$"
    makers = (convert.convert_full_integer, convert.convert_float_head, convert.convert_float16)
    for maker in makers:
        with pytest.raises(StepError, match=refusal):
            maker(network, images, EXPORT)


def test_a_conversion_prints_nothing(convert, student, images, capfd):
    convert.convert_full_integer(student, images, EXPORT)
    convert.convert_float_head(student, images, EXPORT)
    assert capfd.readouterr() == ("", "")
