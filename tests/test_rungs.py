"""The real ladder on a small student: each rung made, and each failing on purpose."""

import numpy as np
import pytest

from workbench.deploy import tflite
from workbench.errors import StepError

pytestmark = pytest.mark.slow
RUNGS = ("qat", "qat_skip_worst", "ptq", "ptq_float_head", "float16")


@pytest.fixture(scope="module")
def ladder():
    from workbench.deploy import quantize as ladder

    return ladder


@pytest.fixture(scope="module")
def student(doubles):
    return doubles.trained_student()


@pytest.fixture(scope="module")
def dataset(doubles, tmp_path_factory):
    return doubles.write_dataset(tmp_path_factory.mktemp("data"))


@pytest.fixture
def climb(ladder, doubles, student, dataset, tmp_path):
    def climb(network=None, mentor=None, **groups):
        settings = doubles.small_settings(**groups)
        return ladder.quantize_student(settings, dataset, network or student, mentor, tmp_path)

    return climb


def states(found) -> list[str]:
    return [rung.state for rung in found.rungs]


def reason(found, name: str) -> str:
    return next(rung.reason for rung in found.rungs if rung.name == name)


def test_qat_ships_when_it_holds(climb, tmp_path):
    found = climb()
    assert (found.chosen, states(found)) == ("qat", ["shipped", *["not needed"] * 4])
    assert (tmp_path / "student_qat.h5").exists()
    tflite.require_full_integer(found.candidate)


def test_the_scores_are_those_of_the_candidate_on_validation(climb, doubles):
    found = climb(ladder={"force_rung": "ptq"})
    images, _ = doubles.draw(doubles.SHARES["val"], seed=11)
    assert (tflite.run_tflite(found.candidate, images) == found.scores).all()


def test_the_same_settings_give_the_same_file(climb):
    first, second = (climb().candidate.read_bytes() for _ in range(2))
    assert first == second


@pytest.mark.parametrize("name", RUNGS)
def test_every_rung_can_be_forced_and_runs(climb, name):
    found = climb(ladder={"force_rung": name}, qat={"epochs": 1})
    assert found.chosen == name and found.forced
    assert tflite.output_port(found.candidate).dtype == "int8"
    assert found.table().set_index("rung").f1_macro[name] > 0.5


def test_an_unsupported_layer_is_left_out_by_the_second_rung(climb, doubles):
    from tf_keras import layers

    network = doubles.trained_student(layers.GaussianNoise(0.1, name="odd"))
    from workbench.deploy import qat

    assert qat.unsupported_layers(network) == ["odd"]
    found = climb(network)
    assert "QAT does not support odd" in reason(found, "qat")
    assert found.chosen == "qat_skip_worst" and "odd" in found.skipped_layers


def test_a_loss_that_is_not_a_number_steps_down_with_its_reason(climb, doubles):
    import tf_keras as keras

    image = keras.Input((doubles.SIDE, doubles.SIDE, 3))
    pooled = keras.layers.GlobalAveragePooling2D()(image)
    nan = keras.initializers.Constant(np.nan)
    broken = keras.Model(image, keras.layers.Dense(3, bias_initializer=nan)(pooled))
    distilled = {"distillation": {"enabled": True}, "teacher": {"input_size": doubles.SIDE}}
    found = climb(mentor=broken, **distilled)
    assert found.chosen == "ptq" and "the loss became nan" in reason(found, "qat")


def test_a_training_that_really_diverges_steps_down(climb):
    found = climb(qat={"lr": 10.0, "epochs": 1}, ladder={"max_drop": 0.05})
    assert found.chosen == "ptq"
    assert "below the float student" in reason(found, "qat") or "nan" in reason(found, "qat")


def test_a_converter_that_refuses_qat_steps_down_to_ptq(climb, ladder, monkeypatch):
    def refuse(*_):
        raise StepError("the TFLite converter refused the network: no")

    monkeypatch.setattr(ladder.convert, "convert_quantized", refuse)
    found = climb()
    assert found.chosen == "ptq" and "refused the network" in reason(found, "qat_skip_worst")


def test_a_converter_that_refuses_integers_steps_down_to_float16(climb, ladder, monkeypatch):
    def refuse(*_, **__):
        raise StepError("the TFLite converter refused the network: no")

    for name in ("convert_quantized", "convert_full_integer", "convert_float_head"):
        monkeypatch.setattr(ladder.convert, name, refuse)
    found = climb()
    assert (found.chosen, states(found)) == ("float16", [*["failed"] * 4, "shipped"])


def test_a_layer_that_no_phone_knows_fails_every_rung_and_names_it(climb, doubles, tmp_path):
    network = doubles.student_network(doubles.unknown_to_phones())
    with pytest.raises(StepError, match=r"nothing ships .*QAT does not support beta") as refused:
        climb(network)
    assert str(refused.value).count("'tf.Betainc' op is neither") == 4
    assert not (tmp_path / "candidates").exists()


def test_an_empty_calibration_set_leaves_qat_standing(climb, ladder, monkeypatch):
    monkeypatch.setattr(ladder, "calibration_images", lambda *_: [])
    assert climb(ladder={"max_drop": 1.0}).chosen == "qat"


def test_without_qat_an_empty_calibration_set_ends_on_float16(climb, ladder, monkeypatch):
    monkeypatch.setattr(ladder, "calibration_images", lambda *_: [])
    found = climb(qat={"enabled": False})
    assert found.chosen == "float16" and "no image to calibrate on" in reason(found, "ptq")


def test_with_all_rungs_failing_nothing_ships(climb, ladder, monkeypatch, tmp_path):
    nothing = np.full((24, 3), -128, np.int8)
    monkeypatch.setattr(ladder.tflite, "run_tflite", lambda *_, **__: nothing)
    with pytest.raises(StepError, match="no rung of the ladder holds, so nothing ships"):
        climb()
    assert not (tmp_path / "candidates").exists()


def test_skipped_layers_of_the_settings_are_remembered_for_whoever_rebuilds(climb):
    found = climb(qat={"skip_layers": ["block_project_conv"]})
    assert found.summary()["skipped_layers"] == ["block_project_conv"]


def test_the_second_rung_leaves_out_the_layers_that_lose_most(climb):
    found = climb(ladder={"force_rung": "qat_skip_worst", "worst_layers": 2})
    assert len(found.skipped_layers) == 2


def test_a_single_label_climbs_the_same_ladder(climb):
    assert climb(task="single_label", ladder={"max_drop": 1.0}).chosen == "qat"
