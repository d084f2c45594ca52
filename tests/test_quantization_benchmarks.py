"""The benchmarks of phone files: latency, and what size and choice of calibration are worth."""

import json

import pytest

from workbench.benchmarks import latency
from workbench.errors import MissingInputError


def test_a_folder_that_is_no_finished_run_is_refused(tmp_path):
    with pytest.raises(MissingInputError, match=r"No model_qat_int8.tflite in"):
        latency.run(run_folder=tmp_path)


@pytest.mark.slow
def test_every_format_is_timed_on_one_and_two_threads(monkeypatch):
    from tests.quantization_doubles import SIDE, draw, student_network
    from workbench.deploy.convert import convert_full_integer
    from workbench.settings import TfliteExportSettings

    def small(settings):
        student = student_network()
        model = convert_full_integer(student, list(draw(4, seed=1)[0]), TfliteExportSettings())
        return {"size": SIDE, "INT8 TFLite": model, **latency._float_files(student)}

    monkeypatch.setattr(latency, "_random_files", small)
    figures = latency.run(count=5)
    assert [row["threads"] for row in figures["rows"]] == [1, 2] * 4
    assert json.dumps(figures, allow_nan=False)
    assert len(latency.table(figures).splitlines()) == 2 + len(figures["rows"])


@pytest.mark.slow
def test_the_study_scores_every_size_choice_and_seed(tmp_path, monkeypatch):
    from tests.quantization_doubles import small_settings, trained_student, write_dataset
    from workbench.benchmarks import calibration

    monkeypatch.setattr(calibration, "SIZES", (1, 8))
    dataset, student = write_dataset(tmp_path), trained_student(epochs=10)
    figures = calibration.study(small_settings(), dataset, student, seeds=2)
    assert [(row["size"], row["choice"], row["seed"]) for row in figures["rows"]] == [
        (size, choice, seed)
        for size in (1, 8)
        for choice in ("class-covering", "random")
        for seed in (0, 1)
    ]
    assert len(calibration.table(figures).splitlines()) == 2 + 4


def test_the_study_needs_a_run(tmp_path):
    from workbench.benchmarks import calibration
    from workbench.errors import MissingInputError

    with pytest.raises(MissingInputError, match=r"needs a run with a student_finetuned.h5"):
        calibration.run(run_folder=tmp_path)
