"""One image through a file, timed on this machine."""

import numpy as np
import pytest

from tests.deploy_doubles import colour_file
from workbench.deploy.tflite import percentiles, time_calls, time_file
from workbench.files import write_bytes


def test_a_file_is_timed_on_this_machine(tmp_path):
    write_bytes(tmp_path / "model.tflite", colour_file())
    found = time_file(tmp_path / "model.tflite", 20)
    assert 0 < found["p50_ms"] <= found["p95_ms"]


def test_percentiles_are_in_milliseconds():
    assert percentiles(np.array([0.001, 0.002, 0.003]))["p50_ms"] == pytest.approx(2)


def test_the_first_calls_are_not_counted():
    calls = []
    seconds = time_calls(lambda: calls.append(1), 3)
    assert len(seconds) == 3 and len(calls) > 3
