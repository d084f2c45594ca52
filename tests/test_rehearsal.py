"""The rehearsal: the same images on every rung between the Keras student and the phone."""

import numpy as np
import pytest

from tests.deploy_doubles import LADDER
from workbench.files import write_bytes, write_text

pytestmark = pytest.mark.slow
NEUTRAL = np.zeros(3)


@pytest.fixture(scope="module")
def student(doubles):
    return doubles.trained_student()


@pytest.fixture(scope="module")
def dataset(doubles, tmp_path_factory):
    return doubles.write_dataset(tmp_path_factory.mktemp("data"))


@pytest.fixture
def rehearse(doubles, student, dataset, tmp_path):
    from workbench.deploy import convert, qat
    from workbench.deploy.config import MODEL_FILE, inference_config
    from workbench.deploy.export import export_model
    from workbench.deploy.parity import Networks, rehearse
    from workbench.deploy.quantize import calibration_images
    from workbench.deploy.tflite import output_quantization

    def run(*, with_qat: bool, spoil=lambda model: model, integer: int | None = None, **groups):
        settings = doubles.small_settings(**groups)
        images = calibration_images(settings, dataset)
        quantized = qat.quantize(student, images) if with_qat else None
        export = settings.tflite_export
        model = (
            convert.convert_quantized(quantized, export)
            if with_qat
            else convert.convert_full_integer(student, images, export)
        )
        scale, zero_point = output_quantization(model)
        known = thresholds(scale, zero_point, zero_point if integer is None else integer)
        shipped = export_model(spoil(model), doubles.CLASSES, {"name": "x"}, settings, known)
        write_bytes(tmp_path / "candidate.tflite", model)
        write_bytes(tmp_path / MODEL_FILE, shipped)
        write_text(tmp_path / "labels.txt", "\n".join(doubles.CLASSES))
        config = inference_config(tmp_path, settings, doubles.CLASSES, known, LADDER, {})
        networks = Networks(
            student, quantized, tmp_path / "candidate.tflite", tmp_path / MODEL_FILE, config
        )
        logits = np.array([entry["logit"] for entry in known["classes"]])
        return rehearse(settings, dataset.split("val"), networks, logits)

    def thresholds(scale: float, zero_point: int, integer: int) -> dict:
        logit = (integer - 0.5 - zero_point) * scale
        entry = {"integer": integer, "logit": logit, "probability": float(1 / (1 + np.exp(-logit)))}
        classes = [{"name": name, **entry} for name in doubles.CLASSES]
        return {"scores": {"scale": scale, "zero_point": zero_point}, "classes": classes}

    return run


def test_a_qat_rung_is_rehearsed_on_all_six_stations(rehearse):
    parity = rehearse(with_qat=True)
    assert [rung.name for rung in parity.rungs] == [
        "Keras float", "Keras float after QAT", "QAT fake-quant", "TFLite reference kernels",
        "LiteRT with XNNPACK", "phone harness",
    ]  # fmt: skip


def test_a_ptq_rung_has_no_qat_stations(rehearse):
    parity = rehearse(with_qat=False)
    assert [rung.change for rung in parity.rungs] == [
        "start",
        "arithmetic",
        "arithmetic",
        "runtime",
    ]


def test_a_healthy_file_is_within_every_budget(rehearse):
    parity = rehearse(with_qat=True, parity={"max_flip_fraction": 0.06, "max_f1_drop": 0.06})
    assert not parity.broken, parity.table().to_string()


def test_the_phone_harness_decides_as_litert(rehearse):
    phone = rehearse(with_qat=False).rungs[-1]
    assert (phone.flips, phone.largest_difference) == (0, 0.0)


@pytest.mark.parametrize(
    "export",
    [
        {"input_type": "int8"},
        {"fold_thresholds": True},
        {"sigmoid_in_model": True},
        {"fold_thresholds": True, "sigmoid_in_model": True},
    ],
)
def test_the_phone_harness_decides_alike_whatever_the_file_holds(rehearse, export):
    phone = rehearse(with_qat=False, integer=5, tflite_export=export).rungs[-1]
    assert phone.flips == 0


def test_a_shipped_file_that_decides_otherwise_is_found_at_the_phone(rehearse):
    from workbench.deploy.parity import require_parity
    from workbench.deploy.tflite import with_folded_thresholds
    from workbench.errors import StepError

    def spoil(model: bytes) -> bytes:
        return with_folded_thresholds(model, np.array([40, 40, 40]))

    with pytest.raises(StepError, match='lost at "phone harness"'):
        require_parity(rehearse(with_qat=False, spoil=spoil))


def test_only_so_many_images_are_rehearsed(rehearse):
    assert rehearse(with_qat=False, parity={"images": 7}).images == 7
