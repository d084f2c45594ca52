"""Parity: runtime by runtime, what changed, and which budget it breaks."""

import json

import numpy as np
import pytest

from tests.deploy_doubles import LADDER, recommendation
from workbench.artifacts import ParityReport
from workbench.deploy import parity, verify
from workbench.deploy.flatbuffer import _last_layer, pack, parse
from workbench.deploy.parity import decide_logits, measure_parity, require_parity
from workbench.errors import RungRefusedError, StepError
from workbench.files import write_bytes, write_text
from workbench.settings import ParitySettings

CLASSES = ("ant", "bee")


def labels(images: int = 100) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 2, (images, 2)).astype(np.float32)


def flipped(y_true: np.ndarray, cells: int) -> np.ndarray:
    """Perfect logits, but the first images are wrong about bees."""
    logits = (y_true * 4 - 2).astype(np.float32)
    logits[:cells, 1] *= -1
    return logits


def compare(
    y_true, budget=None, images=None, start=parity.KERAS, simulated=True, **later
) -> ParityReport:
    """Measure `later` runtimes, given by what is wrong with them, after a perfect one."""
    logits = {start: flipped(y_true, 0)}
    logits |= {name: flipped(y_true, cells) for name, cells in later.items()}
    decisions = {name: decide_logits(values, "multilabel") for name, values in logits.items()}
    names = images or [str(row) for row in range(len(y_true))]
    budget = budget or ParitySettings()
    known = y_true, np.ones_like(y_true), CLASSES, names, budget
    return measure_parity(logits, decisions, *known, simulated=simulated)


def test_equal_runtimes_differ_in_nothing():
    found = compare(labels(), TFLite=0)
    assert (found.rungs[1].flips, found.rungs[1].largest_difference) == (0, 0.0)


def test_flips_are_counted_per_class():
    assert compare(labels(), TFLite=3).rungs[1].flips_by_class == {"ant": 0, "bee": 3}


def test_each_flip_is_shown_with_the_logits_on_both_sides():
    found = compare(labels(3), TFLite=1, images=["a.jpg", "b.jpg", "c.jpg"])
    (flip,) = found.rungs[1].flipped
    assert (flip.image, flip.label, flip.before) == ("a.jpg", "bee", -flip.after)


def test_too_many_flips_refuse_the_file_and_name_the_runtime(tmp_path):
    found = compare(labels(), ParitySettings(max_f1_drop=1.0), **{parity.REFERENCE: 9})
    with pytest.raises(RungRefusedError, match=r'"TFLite reference.*4.50%.*max_flip_fraction'):
        require_parity(found, LADDER, tmp_path)


def test_a_drop_of_f1_refuses_the_file_and_names_the_runtime(tmp_path):
    found = compare(labels(), ParitySettings(max_flip_fraction=1.0), **{parity.REFERENCE: 20})
    with pytest.raises(RungRefusedError, match=r"TFLite reference kernels.*F1 macro drops"):
        require_parity(found, LADDER, tmp_path)


def test_a_file_that_was_refused_ships_when_it_comes_again(tmp_path):
    """05 gives it again where no rung is left, and no run ends without a file."""
    found = compare(labels(), **{parity.REFERENCE: 20})
    with pytest.raises(RungRefusedError):
        require_parity(found, LADDER, tmp_path)
    assert parity.refused_files(tmp_path)[LADDER.rungs[0].sha256].startswith("07 lost parity at")
    require_parity(found, LADDER, tmp_path)


def test_what_quantisation_cost_is_judged_in_05_alone():
    assert compare(labels(), **{parity.FAKE_QUANTIZED: 40}).passed
    assert compare(labels(), simulated=False, **{parity.REFERENCE: 40}).passed
    assert not compare(labels(), simulated=False, **{parity.LITERT: 40}).passed


def test_one_flip_in_the_app_is_one_too_many_for_every_rung(tmp_path):
    with pytest.raises(StepError, match=r"phone harness.*1 decisions flip"):
        require_parity(compare(labels(), **{parity.PHONE: 1}), LADDER, tmp_path)
    assert parity.refused_files(tmp_path) == {}


def test_training_may_change_decisions():
    assert compare(labels(), **{parity.QAT_TWIN: 40}).passed


def test_a_runtime_is_compared_with_the_one_before_not_with_the_first():
    assert [rung.flips for rung in compare(labels(), one=4, two=4).rungs] == [0, 4, 0]


def test_a_single_label_flips_when_the_answer_becomes_unknown():
    sure, unsure = np.array([[3.0, 0.0]]), np.array([[0.1, 0.0]])
    answers = [decide_logits(logits, "single_label", 0.8).tolist() for logits in (sure, unsure)]
    assert answers == [[[True, False]], [[False, False]]]


def test_without_thresholds_the_answer_is_that_of_one_half_or_the_highest_class():
    assert decide_logits(np.array([[0.1, -0.1]]), "multilabel").tolist() == [[True, False]]
    highest = decide_logits(np.array([[-3.0, -1.0, -2.0]]), "single_label")
    assert highest.tolist() == [[False, True, False]]


def test_the_report_is_read_back_as_it_was_written(tmp_path):
    found = compare(labels(), TFLite=3)
    write_text(tmp_path / found.file, json.dumps(found.to_json(), allow_nan=False))
    assert ParityReport.read(tmp_path) == found


@pytest.fixture(scope="module")
def student(doubles):
    return doubles.trained_student()


@pytest.fixture
def harness(doubles, student, tmp_path):
    """Answer validation with the app's code and with LiteRT, for a file of some kind."""
    from workbench.data.views import letterboxed
    from workbench.deploy import convert, tflite
    from workbench.deploy.config import inference_config, logit_thresholds
    from workbench.deploy.flatbuffer import export_model
    from workbench.deploy.quantize import calibration_images

    def run(spoil=lambda model: model, integer: int = 5, **export):
        dataset = doubles.write_dataset(tmp_path / "data")
        settings = doubles.small_settings(tflite_export=export)
        calibration = calibration_images(dataset, settings)
        model = convert.convert_full_integer(student, calibration, settings.tflite_export)
        scale, zero_point = tflite.output_quantization(model)
        levels = {"scale": scale, "zero_point": zero_point}
        known = recommendation(doubles.CLASSES, (integer,) * 3, levels)
        shipped = export_model(spoil(model), doubles.CLASSES, {"name": "x"}, settings, known)
        write_bytes(tmp_path / verify.MODEL, shipped)
        write_text(tmp_path / "labels.txt", "\n".join(doubles.CLASSES))
        config = inference_config(tmp_path, settings, doubles.CLASSES, known, LADDER, {})
        split = dataset.split("val")
        raw = tflite.run_tflite(model, letterboxed(split, settings.student_size, settings))
        before = tflite.logits_of(raw, scale, zero_point)
        logits, answers = parity.phone_harness(
            shipped, config, split, range(len(split)), settings,
            like=raw, levels=(scale, zero_point),
        )  # fmt: skip
        cut = logit_thresholds(known, "multilabel")
        return logits - before, answers != decide_logits(before, "multilabel", cut)

    return run


@pytest.mark.slow
def test_the_app_computes_the_numbers_of_litert(harness):
    difference, flips = harness()
    assert not difference.any() and not flips.any()


@pytest.mark.slow
@pytest.mark.parametrize(
    "export",
    [
        {"input_type": "int8"},
        {"fold_thresholds": True},
        {"sigmoid_in_model": True},
        {"fold_thresholds": True, "sigmoid_in_model": True},
    ],
)
def test_the_app_decides_and_computes_alike_whatever_the_file_holds(harness, export):
    difference, flips = harness(**export)
    assert not flips.any()
    assert np.abs(difference).max() <= (0.005 if export.get("sigmoid_in_model") else 1e-6)


@pytest.mark.slow
def test_a_shipped_file_that_decides_otherwise_is_found(harness):
    from workbench.deploy.flatbuffer import with_folded_thresholds

    difference, flips = harness(lambda model: with_folded_thresholds(model, np.array([40] * 3)))
    assert flips.any() and np.abs(difference).max() > 1


@pytest.mark.slow
def test_a_file_with_other_weights_differs_whatever_is_folded_into_it(harness):
    """The logits of such a file used to be taken from the one that it was compared with."""

    def spoiled(model: bytes) -> bytes:
        tree = parse(model)
        dense = _last_layer(tree)
        bias = tree.buffers[tree.subgraphs[0].tensors[dense.inputs[2]].buffer]
        values = np.frombuffer(bytes(bias.data), np.int32) + 1500
        bias.data = np.frombuffer(values.astype(np.int32).tobytes(), np.uint8)
        return pack(tree)

    for export in ({"fold_thresholds": True}, {"sigmoid_in_model": True}):
        assert np.abs(harness(spoiled, **export)[0]).max() > 0.01
