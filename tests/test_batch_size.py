"""The search for a batch size stops in time, and an epoch shows that it is alive."""

import logging
import sys
from types import SimpleNamespace

import numpy as np
import pytest

import workbench  # noqa: F401

# isort: split
import tensorflow as tf

from workbench.nets.teacher import student_view
from workbench.settings import Settings
from workbench.train import batch_size, logs
from workbench.train.batch_size import find_batch_size

SMALL = {"weights": "none", "input_size": 32}
SETTINGS = Settings.model_validate(
    {"teacher": {"arch": "efficientnet_lite0", **SMALL}, "student": {"variant": "lite0", **SMALL}}
)


def row(size, speed, memory=0):
    return {"batch_size": size, "images_per_second": speed, "memory_bytes": memory}


class PretendStep:
    """A device with room for four images, where a larger batch is faster."""

    def run(self, stream):
        images = len(next(stream)[1])
        if images > 4:
            raise tf.errors.ResourceExhaustedError(None, None, "OOM")
        return tf.constant(0.0)


@pytest.fixture
def small_device(monkeypatch):
    views = (student_view(SETTINGS),)
    monkeypatch.setattr(batch_size, "_training", lambda *_args: (PretendStep(), views, 3))


def test_the_search_ends_where_the_device_is_full(small_device):
    found = find_batch_size(SETTINGS, "student")
    assert [row["batch_size"] for row in found["rows"]] == [1, 2, 4]
    assert found["largest"] == 4
    assert "student.batch_size: " in found["advice"]


def test_a_device_without_room_for_one_image_is_said(small_device, monkeypatch):
    monkeypatch.setattr(PretendStep, "run", exhausted)
    found = find_batch_size(SETTINGS, "student")
    assert (found["largest"], found["recommended"]) == (0, 0)
    assert "lower student.input_size" in found["advice"]


def exhausted(*_args):
    raise tf.errors.ResourceExhaustedError(None, None, "OOM")


def test_the_smallest_batch_that_is_nearly_fastest_is_recommended():
    advice = batch_size._advice("teacher", [row(1, 10), row(2, 19), row(4, 29.5), row(8, 30)])
    assert (advice["recommended"], advice["largest"]) == (4, 8)


def test_on_a_cpu_the_search_ends_when_two_doublings_gain_nothing():
    assert batch_size._worth_trying([row(1, 10), row(2, 20), row(4, 20.5)])
    assert not batch_size._worth_trying([row(1, 20), row(2, 20.1), row(4, 20.2)])


def test_on_a_cpu_the_search_ends_before_memory_does():
    huge = 1 << 60
    assert not batch_size._worth_trying([row(1, 1), row(2, 2), row(4, 4, memory=huge)])


def test_made_up_batches_say_nothing_of_their_size():
    view = student_view(SETTINGS)
    batches = batch_size.made_up_batches((view,), 3, classes=2)
    assert batches.element_spec[1].shape.as_list() == [None, 2]
    (images,), targets, mask = next(iter(batches))
    assert images.shape == (3, 32, 32, 3)
    assert targets.shape == mask.shape == (3, 2)


@pytest.mark.slow
@pytest.mark.parametrize("network", ["teacher", "student"])
def test_a_real_network_is_measured(network):
    found = find_batch_size(SETTINGS, network, largest=2)
    assert [row["batch_size"] for row in found["rows"]] == [1, 2]
    assert all(np.isfinite(row["images_per_second"]) for row in found["rows"])


def figures() -> str:
    return "loss 0.5"


def ticking(monkeypatch, seconds_a_step):
    now = iter(np.arange(0, 1e6, seconds_a_step))
    monkeypatch.setattr(logs.time, "monotonic", lambda: next(now))


def test_a_long_epoch_says_a_line_a_minute(monkeypatch, caplog):
    ticking(monkeypatch, 25)
    with caplog.at_level(logging.INFO):
        steps = list(logs.paced(10, "teacher epoch 1/3", figures, bar=False))
    assert steps == list(range(10))
    lines = [record.getMessage() for record in caplog.records]
    assert lines[0] == "teacher epoch 1/3: step 3/10, loss 0.5, 2 min 55 s left"
    assert len(lines) == 3


def test_a_short_epoch_says_nothing(monkeypatch, caplog):
    ticking(monkeypatch, 1)
    with caplog.at_level(logging.INFO):
        list(logs.paced(10, "teacher epoch 1/3", figures, bar=False))
    assert caplog.text == ""


@pytest.fixture
def notebook(monkeypatch):
    """A Jupyter kernel; its client says with every cell whether input may be asked for."""
    kernel = SimpleNamespace(_allow_stdin=True)
    jupyter = SimpleNamespace(get_ipython=lambda: SimpleNamespace(kernel=kernel))
    monkeypatch.setitem(sys.modules, "IPython", jupyter)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: False)
    return kernel


def test_a_live_notebook_gets_a_bar(notebook, capsys):
    list(logs.paced(3, "teacher epoch 1/3", figures))
    assert "teacher epoch 1/3" in capsys.readouterr().err


def test_a_notebook_in_a_batch_gets_no_bar(notebook, capsys):
    notebook._allow_stdin = False
    list(logs.paced(3, "teacher epoch 1/3", figures))
    assert capsys.readouterr().err == ""


def test_a_live_session_gets_a_bar(capsys):
    list(logs.paced(3, "teacher epoch 1/3", figures, bar=True))
    assert "teacher epoch 1/3" in capsys.readouterr().err
