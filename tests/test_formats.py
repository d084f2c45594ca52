"""Other formats of a network: each opened by its own runtime and compared with Keras."""

import importlib.util
import sys

import numpy as np
import pytest

from workbench.errors import InputError, StepError
from workbench.settings import TfliteExportSettings

pytestmark = pytest.mark.slow
EXPORT = TfliteExportSettings()


@pytest.fixture(scope="module")
def formats():
    from workbench.deploy import formats

    return formats


@pytest.fixture(scope="module")
def student(doubles):
    return doubles.trained_student(epochs=5)


@pytest.fixture(scope="module")
def sample(doubles, formats):
    return formats.Sample(list(doubles.draw(8, seed=5)[0]), "lite")


@pytest.fixture(scope="module")
def gated():
    """A small network with a swish and a gate, for inputs in [0, 255]."""
    import tf_keras as keras
    from tf_keras import layers

    keras.utils.set_random_seed(1)
    image = keras.Input((32, 32, 3), name="image")
    x = layers.Rescaling(1 / 255, name="rescaling")(image)
    x = layers.Conv2D(8, 3, strides=2, padding="same", name="conv")(x)
    x = layers.Activation("swish", name="swish")(x)
    gate = layers.Reshape((1, 1, 8), name="reshape")(layers.GlobalAveragePooling2D()(x))
    x = layers.Multiply(name="gate")([x, layers.Conv2D(8, 1, activation="sigmoid")(gate)])
    x = layers.GlobalAveragePooling2D(name="avg_pool")(x)
    return keras.Model(image, layers.Dense(3, name="logits")(x), name="gated")


@pytest.mark.parametrize(
    ("wanted", "tolerance"),
    [("float16", 0.02), ("dynamic_range", 0.2), ("int8", 0.5), ("onnx", 1e-4)],
)
def test_a_student_is_written_in_every_format(
    formats, student, sample, tmp_path, wanted, tolerance
):
    (found,) = formats.export_formats(student, [wanted], tmp_path, "student", sample, EXPORT)
    path = tmp_path / found.file
    assert path.name == f"student{formats.SUFFIXES[wanted]}" and path.stat().st_size == found.bytes
    assert found.largest_difference < tolerance


@pytest.mark.parametrize("wanted", ["float16", "dynamic_range", "onnx"])
def test_a_teacher_keeps_its_own_input(formats, gated, doubles, tmp_path, wanted):
    sample = formats.Sample(list(doubles.draw(8, seed=5)[0]), "none")
    (found,) = formats.export_formats(gated, [wanted], tmp_path, "teacher", sample, EXPORT)
    assert found.largest_difference < 0.02


def test_int8_of_swish_and_gates_is_refused_with_the_reason(formats, gated, sample, tmp_path):
    with pytest.raises(InputError, match=r"1 swish activations .*1 squeeze-and-excite gates .*256"):
        formats.export_formats(gated, ["int8"], tmp_path, "teacher", sample, EXPORT)


def test_int8_of_swish_and_gates_can_be_insisted_on(formats, gated, doubles, tmp_path):
    sample = formats.Sample(list(doubles.draw(8, seed=5)[0]), "none")
    (found,) = formats.export_formats(
        gated, ["int8"], tmp_path, "teacher", sample, EXPORT, force=True
    )
    assert (tmp_path / found.file).exists()


def test_an_unknown_format_is_refused_with_those_that_exist(formats, student, sample, tmp_path):
    with pytest.raises(InputError, match=r'"coreml" is not known; formats are float16'):
        formats.export_formats(student, ["coreml"], tmp_path, "student", sample, EXPORT)


def test_an_onnx_file_that_computes_something_else_is_not_written(
    formats, student, sample, tmp_path, monkeypatch
):
    monkeypatch.setattr(formats, "run_onnx", lambda model, inputs: np.zeros((len(inputs), 3)))
    with pytest.raises(StepError, match="ONNX file differs from Keras"):
        formats.export_formats(student, ["onnx"], tmp_path, "student", sample, EXPORT)
    assert not list(tmp_path.iterdir())


def test_two_onnx_exports_are_the_same_bytes(formats, student):
    assert formats.to_onnx(student) == formats.to_onnx(student)


def test_torchscript_without_torch_says_how_to_get_it(
    formats, student, sample, tmp_path, monkeypatch
):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(InputError, match=r"optional extra: pip install"):
        formats.export_formats(student, ["torchscript"], tmp_path, "student", sample, EXPORT)


@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="torch is not installed")
def test_torchscript_computes_what_keras_does(formats, student, sample, tmp_path):
    (found,) = formats.export_formats(student, ["torchscript"], tmp_path, "student", sample, EXPORT)
    assert found.largest_difference < 1e-4


@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="torch is not installed")
def test_torchscript_of_a_gated_teacher_computes_what_keras_does(formats, gated, doubles, tmp_path):
    sample = formats.Sample(list(doubles.draw(8, seed=5)[0]), "none")
    (found,) = formats.export_formats(gated, ["torchscript"], tmp_path, "t", sample, EXPORT)
    assert found.largest_difference < 1e-4
