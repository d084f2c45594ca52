"""One device, two, or two machines: equal global batches give the same curve."""

import json
from pathlib import Path

import numpy as np
import pytest

import workbench  # noqa: F401

# isort: split
import tensorflow as tf
import tf_keras as keras

from tests.prove.machines import draw_squares, result, start, start_two
from tests.training_doubles import CLASSES, even_loss, small_feed, small_network
from workbench.errors import SettingsError
from workbench.nets.devices import (
    _place,
    choose_strategy,
    describe_devices,
    precision,
    prepare_devices,
    say_once,
    seed_everything,
    worker,
)
from workbench.settings import Settings
from workbench.train.loop import check_share
from workbench.train.step import TrainingStep


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    return draw_squares(tmp_path_factory.mktemp("squares") / "pictures")


@pytest.fixture(scope="module")
def on_one_device(pictures, tmp_path_factory):
    return result(start(pictures, tmp_path_factory.mktemp("one"), "one"))


def assert_same_curve(found, expected) -> None:
    np.testing.assert_allclose(found["losses"], expected["losses"], rtol=1e-4)
    np.testing.assert_allclose(found["weights"], expected["weights"], atol=1e-4)


@pytest.mark.slow
def test_two_mirrored_devices_give_the_curve_of_one(pictures, on_one_device, tmp_path):
    found = result(start(pictures, tmp_path, "mirrored"))
    assert found["replicas"] == 2
    assert_same_curve(found, on_one_device)


def on_two_machines(pictures, tmp_path) -> list[dict]:
    processes = start_two(pictures, tmp_path)
    try:
        return [result(process) for process in processes]
    finally:
        for process in processes:
            process.kill()


@pytest.mark.slow
def test_two_machines_give_the_curve_of_one(pictures, on_one_device, tmp_path):
    found = on_two_machines(pictures, tmp_path)
    assert [one["replicas"] for one in found] == [2, 2]
    for one in found:
        assert_same_curve(one, on_one_device)
    # Killed before the second machine had written its last checkpoint: both go back to the first.
    (tmp_path / "1/checkpoints/small_warmup/epoch_00003.npz").unlink()
    for one, two in zip(on_two_machines(pictures, tmp_path), found, strict=True):
        assert one["weights"] == two["weights"]


def test_fewer_images_than_devices_are_refused():
    with pytest.raises(SettingsError, match=r"3 images for 4 devices.*multi_gpu\.enabled: false"):
        check_share(3, turns=1, devices=4)
    check_share(4, turns=1, devices=4)
    check_share(1, turns=4, devices=4)  # machines: each device takes batches of its own


def settings_with(**changed) -> Settings:
    return Settings.model_validate(changed)


def test_several_devices_asked_for_and_one_found_is_said(caplog):
    say_once.cache_clear()  # an earlier test may have asked as well
    with caplog.at_level("INFO"):
        strategy = choose_strategy(Settings())
    assert strategy.num_replicas_in_sync == 1
    assert "no effect" in caplog.text


def test_nothing_is_said_when_nothing_was_asked_for(caplog):
    with caplog.at_level("INFO"):
        choose_strategy(settings_with(multi_gpu={"enabled": False}))
    assert caplog.text == ""


def test_several_machines_asked_for_and_none_named_is_said(caplog, monkeypatch):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    with caplog.at_level("INFO"):
        choose_strategy(settings_with(multi_gpu={"strategy": "multi_worker"}))
    assert "TF_CONFIG names no other machine" in caplog.text


def test_a_chief_counts_as_the_first_machine(monkeypatch):
    cluster = {"chief": ["a:1"], "worker": ["b:1", "c:1"]}
    for task, expected in ((("chief", 0), (0, 3)), (("worker", 1), (2, 3))):
        task = dict(zip(("type", "index"), task, strict=True))
        monkeypatch.setenv("TF_CONFIG", json.dumps({"cluster": cluster, "task": task}))
        assert _place() == expected


def test_a_strategy_of_one_machine_sees_every_image_whatever_the_cluster_says(monkeypatch):
    task = {"cluster": {"worker": ["a:1", "b:1"]}, "task": {"type": "worker", "index": 1}}
    monkeypatch.setenv("TF_CONFIG", json.dumps(task))
    assert worker(tf.distribute.get_strategy()) == (0, 1)
    assert worker(None) == (0, 1)


@pytest.fixture
def pretend_gpu(monkeypatch) -> dict:
    """A GPU that notes whether its memory may grow."""
    grows = {"GPU:0": False}
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda _kind: list(grows))
    monkeypatch.setattr(tf.config.experimental, "get_memory_growth", grows.get)
    monkeypatch.setattr(tf.config.experimental, "set_memory_growth", grows.__setitem__)
    return grows


def test_the_memory_of_a_gpu_may_grow(pretend_gpu):
    prepare_devices(Settings())
    assert pretend_gpu == {"GPU:0": True}


def test_a_second_preparation_finds_nothing_to_do(pretend_gpu, monkeypatch, caplog):
    prepare_devices(Settings())
    monkeypatch.setattr(tf.config.experimental, "set_memory_growth", in_use_already)
    with caplog.at_level("INFO"):
        prepare_devices(Settings())
    assert caplog.text == ""


def in_use_already(*_args):
    raise RuntimeError("Physical devices cannot be modified after being initialized")


def test_a_preparation_that_comes_too_late_is_said(pretend_gpu, monkeypatch, caplog):
    monkeypatch.setattr(tf.config.experimental, "set_memory_growth", in_use_already)
    with caplog.at_level("INFO"):
        prepare_devices(Settings())
    assert "stay as they are" in caplog.text


def test_devices_are_described():
    assert "float32" in describe_devices(tf.distribute.get_strategy())


def test_auto_precision_is_float32_without_a_gpu():
    if tf.config.list_physical_devices("GPU"):
        pytest.skip("there is a GPU")
    with precision(Settings()) as name:
        assert name == "float32"


def test_the_number_format_of_others_is_given_back():
    with precision(settings_with(precision="mixed_bfloat16")) as name:
        assert name == keras.mixed_precision.global_policy().name == "mixed_bfloat16"
    assert keras.mixed_precision.global_policy().name == "float32"


@pytest.mark.parametrize("name", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision_computes_in_half_and_keeps_weights_and_logits_whole(name):
    settings = settings_with(precision=name)
    with precision(settings):
        from workbench.nets.lite import build_lite

        network = build_lite("lite0", CLASSES, input_size=32)
        assert network.layers[2].compute_dtype == name.removeprefix("mixed_")
        assert {weight.dtype for weight in network.weights} == {tf.float32}
        assert network.output.dtype == tf.float32


@pytest.mark.parametrize("name", ["mixed_float16", "mixed_bfloat16"])
def test_a_step_in_mixed_precision_learns(name):
    settings = settings_with(precision=name)
    seed_everything(settings)
    with precision(settings):
        network = small_network(dropout=0.0)
        goal = even_loss(settings)
        step = TrainingStep(network, goal, settings.training, 0.0, tf.distribute.get_strategy())
        step.set_rate(1e-2)
        stream = iter(small_feed().training(0, None).dataset)
        losses = [float(step.run(stream)[0]) for _ in range(40)]
    assert np.isfinite(losses).all()
    assert np.mean(losses[-6:]) < 0.8 * np.mean(losses[:6])


def test_the_loss_scale_of_half_precision_is_resumed():
    settings = settings_with(precision="mixed_float16")
    goal = even_loss(settings)
    with precision(settings):
        one, two = (
            TrainingStep(small_network(), goal, settings.training, 0.0, choose_strategy(settings))
            for _ in range(2)
        )
    for _epoch in range(2):
        one.optimizer._loss_scale.update([tf.constant(np.inf)])  # too large: it is halved
    assert float(one.optimizer.loss_scale) != float(two.optimizer.loss_scale)
    two.restore(one.arrays())
    assert float(one.optimizer.loss_scale) == float(two.optimizer.loss_scale)


def test_the_same_seed_builds_the_same_network():
    seed_everything(Settings())
    one = small_network()
    small_network()  # what was built before does not matter
    seed_everything(Settings())
    for ours, theirs in zip(small_network().get_weights(), one.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
