"""Quantization-aware training: seeded ranges, groups, exact restoring."""

from types import SimpleNamespace

import numpy as np
import pytest

from workbench.errors import StepError

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def qat():
    from workbench.deploy import quantize

    return quantize


@pytest.fixture(scope="module")
def keras_logits():
    from workbench.deploy.convert import keras_logits

    return keras_logits


@pytest.fixture(scope="module")
def student(doubles):
    return doubles.trained_student()


@pytest.fixture(scope="module")
def images(doubles):
    return list(doubles.draw(32, seed=5)[0])


def test_seeded_ranges_compute_nearly_what_the_student_does(qat, keras_logits, student, images):
    wanted = keras_logits(student, images)
    seeded = keras_logits(qat.fake_quantize(student, images), images)
    blind = keras_logits(qat.fake_quantize(student), images)
    error, blind_error = (np.abs(found - wanted).mean() for found in (seeded, blind))
    assert error < blind_error / 3


def test_quantising_leaves_the_student_as_it_was(qat, student, images):
    before = student.get_weights()
    qat.fake_quantize(student, images)
    assert all((a == b).all() for a, b in zip(before, student.get_weights(), strict=True))


def test_the_input_range_is_exactly_the_bytes(qat, student, images):
    layer = qat.fake_quantize(student, images).layers[1]
    found = [layer.quantizer_vars[name].numpy() for name in ("min_var", "max_var")]
    assert found == [np.float32(-127 / 128), 1.0]


def test_restored_weights_give_the_same_bytes(qat, doubles, student, images, tmp_path):
    from workbench.deploy.convert import convert_quantized
    from workbench.nets.weights import save_weights

    quantized = qat.fake_quantize(student, images)
    save_weights(quantized, tmp_path / "student_qat.h5")
    export = doubles.small_settings().tflite_export
    again = qat.restore(doubles.student_network(), tmp_path / "student_qat.h5")
    assert convert_quantized(again, export) == convert_quantized(quantized, export)


def test_a_float_twin_has_the_weights_that_qat_ended_with(qat, keras_logits, student, images):
    twin = qat.float_twin(student, qat.fake_quantize(student, images))
    assert (keras_logits(twin, images) == keras_logits(student, images)).all()


def test_the_weights_of_the_phone_file_are_read_without_quantising(
    qat, keras_logits, student, images, tmp_path
):
    from tests.deploy_doubles import LADDER
    from workbench.nets.weights import save_weights

    quantized = qat.fake_quantize(student, images, skip_layers=["top_conv"])
    quantized.layers[-1].layer.bias.assign_add([1.0, 2.0, 3.0])  # as if training had moved it
    save_weights(quantized, tmp_path / "student_qat.h5")
    ladder = LADDER.model_copy(update={"chosen": "qat", "qat_weights": "student_qat.h5"})
    twin = qat.shipped_weights(tmp_path, student, ladder)
    moved = keras_logits(twin, images) - keras_logits(student, images)
    assert moved == pytest.approx(np.tile([1.0, 2.0, 3.0], (len(images), 1)), abs=1e-5)
    assert qat.shipped_weights(tmp_path, student, LADDER) is student


def test_a_skipped_layer_trains_in_float_with_its_batch_norm(qat, student, images):
    quantized = qat.fake_quantize(student, images, skip_layers=["top_conv"])
    names = {layer.name for layer in quantized.layers}
    assert {"top_conv", "top_bn", "quant_stem_conv"} <= names


def test_a_skipped_layer_is_an_integer_in_the_file_all_the_same(qat, student, images):
    from workbench.deploy import tflite
    from workbench.deploy.convert import convert_quantized
    from workbench.settings import TfliteExportSettings

    quantized = qat.fake_quantize(student, images, skip_layers=["block_project_conv"])
    model = convert_quantized(quantized, TfliteExportSettings(), images)
    assert tflite.require_full_integer(model).full_integer


def test_a_mistyped_layer_is_refused_with_names_that_exist(qat, student):
    with pytest.raises(StepError, match=r'no layer "stem_konv".*stem_conv, block_dwconv'):
        qat.fake_quantize(student, skip_layers=["stem_konv"])


def test_the_skipped_layers_are_read_from_the_network(qat, student, images):
    quantized = qat.fake_quantize(student, images, skip_layers=["top_bn", "block_dwconv"])
    assert qat.skipped_layers(student, quantized) == ["block_dwconv", "top_conv"]


def test_calibration_images_are_no_harm_where_every_layer_brings_its_ranges(qat, student, images):
    from workbench.deploy.convert import convert_quantized
    from workbench.settings import TfliteExportSettings

    quantized, export = qat.fake_quantize(student, images), TfliteExportSettings()
    assert convert_quantized(quantized, export, images) == convert_quantized(quantized, export)


def test_a_layer_that_the_toolkit_does_not_know_is_named(qat, doubles):
    from tf_keras import layers

    student = doubles.student_network(layers.UnitNormalization(name="fancy"))
    with pytest.raises(StepError, match="QAT does not support fancy"):
        qat.fake_quantize(student)


def train(quantize, doubles, student, settings, folder, teacher=None):
    """Train under fake quantisation; return the network and how it got there."""
    from workbench.deploy.ladder import fit, qat_phase

    batches, objective = doubles.feed_and_loss(doubles.write_dataset(folder), settings, teacher)
    quantized = quantize.fake_quantize(student, list(doubles.draw(32, seed=5)[0]))
    run = SimpleNamespace(folder=folder, settings=settings)
    return quantized, fit(qat_phase(settings), quantized, objective, batches, run)


def test_training_keeps_the_best_epoch(qat, doubles, student, tmp_path):
    settings = doubles.small_settings(qat={"epochs": 2})
    _, fitted = train(qat, doubles, student, settings, tmp_path)
    assert fitted.history["phase"].tolist() == ["student_qat"] * 2
    assert fitted.best["val_f1_macro"] == fitted.history["val_f1_macro"].max()


def test_a_killed_qat_ends_with_the_same_bits(qat, doubles, student, tmp_path):
    from workbench.deploy.convert import convert_quantized
    from workbench.train.checkpoints import Checkpoints

    settings = doubles.small_settings(qat={"epochs": 3})

    def run(folder) -> bytes:
        quantized, _ = train(qat, doubles, student, settings, folder)
        return convert_quantized(quantized, settings.tflite_export)

    whole = run(tmp_path / "whole")
    saved = Checkpoints.save

    def killed(self, epoch, checkpoint):
        saved(self, epoch, checkpoint)
        if epoch == 2:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Checkpoints, "save", killed)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "killed")
    assert run(tmp_path / "killed") == whole


def test_the_teacher_goes_on_helping_through_the_fake_quantisation(qat, doubles, student, tmp_path):
    import tf_keras as keras

    image = keras.Input((doubles.SIDE, doubles.SIDE, 3), name="image")
    sure = keras.initializers.Constant(4.0)  # of everything, and always wrong
    x = keras.layers.GlobalAveragePooling2D(name="avg_pool")(image)
    head = keras.layers.Dense(3, "linear", True, "zeros", sure, name="logits")
    settings = doubles.small_settings(
        teacher={"input_size": doubles.SIDE}, distillation={"enabled": True}
    )
    _, alone = train(qat, doubles, student, settings, tmp_path / "alone")
    teacher = keras.Model(image, head(x))
    _, helped = train(qat, doubles, student, settings, tmp_path / "helped", teacher)
    assert helped.history["loss"][0] > alone.history["loss"][0] * 1.5
