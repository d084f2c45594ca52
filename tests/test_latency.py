"""The latency benchmark: every row timed, every figure printed and JSON-able."""

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
