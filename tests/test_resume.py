"""A training that is killed goes on where it was and ends with the same weights, bit for bit."""

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.training_child import settings_with, train
from workbench import files
from workbench.train import loop
from workbench.train.checkpoints import Checkpoint, Checkpoints
from workbench.train.phases import Phase

ROOT = Path(__file__).parents[1]
STEPS_AN_EPOCH = 6


class Killed(BaseException):
    """Ends a training like a kill: nobody catches it, nothing is cleaned up on purpose."""


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    return train(tmp_path_factory.mktemp("uninterrupted"))


def same(one, two) -> bool:
    return all(map(np.array_equal, one, two))


def strike(monkeypatch, owner, name, at_call, error=Killed):
    """Let the given call of a function fail before it does anything."""
    original, calls = getattr(owner, name), []

    def failing(*args, **kwargs):
        calls.append(1)
        if len(calls) == at_call:
            raise error
        return original(*args, **kwargs)

    monkeypatch.setattr(owner, name, failing)


POINTS = {
    "before the first step": (loop._Training, "_train", 1),
    "in the second epoch, before validation": (loop._Training, "_row", 2),
    "while its checkpoint's hash is written": (files, "write_text", 4),
    "between the hash and the checkpoint": (os, "replace", 5),
    "between the checkpoint and the logs": (loop.logs, "write_logs", 2),
    "after the warmup": (loop._Training, "_start", 2),
    "in the last epoch": (loop._Training, "_train", 6),
    "while the last checkpoint is written": (loop.Checkpoints, "save", 6),
}


@pytest.mark.slow
@pytest.mark.parametrize("point", POINTS.values(), ids=POINTS)
def test_a_killed_training_ends_with_the_same_bits(point, uninterrupted, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        strike(patch, *point)
        with pytest.raises(Killed):
            train(tmp_path)
    assert same(train(tmp_path), uninterrupted)


@pytest.mark.slow
def test_a_training_killed_again_and_again_ends_with_the_same_bits(
    uninterrupted, tmp_path, monkeypatch
):
    for call in (1, 2, 2, 2):  # each time an epoch further
        with monkeypatch.context() as patch:
            strike(patch, loop._Training, "_train", call)
            with pytest.raises(Killed):
                train(tmp_path)
    assert same(train(tmp_path), uninterrupted)


@pytest.mark.slow
@pytest.mark.parametrize(
    "changed",
    [{"precision": "mixed_float16"}, {"training": {"checkpoint_every_epochs": 2}}],
    ids=["in half precision", "with a checkpoint every other epoch"],
)
def test_other_settings_resume_to_the_bit_as_well(changed, tmp_path, monkeypatch):
    settings = settings_with(**changed)
    expected = train(tmp_path / "uninterrupted", settings=settings)
    with monkeypatch.context() as patch:
        strike(patch, loop._Training, "_train", 6)
        with pytest.raises(Killed):
            train(tmp_path / "killed", settings=settings)
    assert same(train(tmp_path / "killed", settings=settings), expected)


@pytest.mark.slow
def test_sigkill_in_another_process_loses_nothing(uninterrupted, tmp_path):
    command = [sys.executable, "-m", "tests.training_child", str(tmp_path)]
    for step in (STEPS_AN_EPOCH + 3, 2 * STEPS_AN_EPOCH + 1):
        killed = subprocess.run([*command, str(step)], cwd=ROOT, capture_output=True)
        assert killed.returncode == -signal.SIGKILL
    subprocess.run(command, cwd=ROOT, capture_output=True, check=True)
    with np.load(tmp_path / "final.npz") as final:
        assert same([final[name] for name in final.files], uninterrupted)


@pytest.mark.slow
def test_a_finished_training_is_loaded_without_a_step(uninterrupted, tmp_path, monkeypatch):
    train(tmp_path)
    strike(monkeypatch, loop._Training, "_start", 1)
    assert same(train(tmp_path), uninterrupted)


def killed_after_three_epochs(folder, monkeypatch) -> Path:
    with monkeypatch.context() as patch:
        strike(patch, loop._Training, "_train", 3)
        with pytest.raises(Killed):
            train(folder)
    return folder / "checkpoints/small_warmup"


def damage(path: Path) -> None:
    """Flip one bit in the middle of a file."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.slow
def test_a_damaged_checkpoint_is_recognised_and_the_one_before_is_used(
    uninterrupted, tmp_path, monkeypatch, caplog
):
    folder = killed_after_three_epochs(tmp_path, monkeypatch)
    damage(folder / "epoch_00002.npz")
    assert same(train(tmp_path), uninterrupted)
    assert "epoch_00002.npz is damaged" in caplog.text


@pytest.mark.slow
@pytest.mark.parametrize("harm", ["truncated", "hash gone", "hash empty", "both damaged"])
def test_no_damage_makes_a_training_end_differently(harm, uninterrupted, tmp_path, monkeypatch):
    folder = killed_after_three_epochs(tmp_path, monkeypatch)
    last = folder / "epoch_00002.npz"
    if harm == "truncated":
        last.write_bytes(last.read_bytes()[:1000])
    elif harm == "hash gone":
        last.with_name(last.name + ".sha256").unlink()
    elif harm == "hash empty":
        last.with_name(last.name + ".sha256").write_text("")
    else:
        damage(last)
        damage(folder / "epoch_00001.npz")
    assert same(train(tmp_path), uninterrupted)


@pytest.mark.slow
def test_the_log_of_a_resumed_training_lists_each_epoch_once(tmp_path, monkeypatch):
    killed_after_three_epochs(tmp_path, monkeypatch)
    train(tmp_path)
    lines = (tmp_path / "logs/small_warmup.csv").read_text().splitlines()
    assert [line.split(",")[1] for line in lines] == ["epoch", "1", "2", "3"]


@pytest.mark.slow
def test_a_full_disk_keeps_the_checkpoint_before(uninterrupted, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        full = OSError(errno.ENOSPC, "No space left on device")
        strike(patch, os, "replace", 5, error=full)
        with pytest.raises(OSError, match="No space left"):
            train(tmp_path)
    assert (tmp_path / "checkpoints/small_warmup/epoch_00001.npz").exists()
    assert not list(tmp_path.rglob(".partial_*"))
    assert same(train(tmp_path), uninterrupted)


# the files


PHASE = Phase("small_warmup", 3, 0.3, 1e-4, 10, 1, 0.5)
ONE = {"code": "one"}


def checkpoint(number: float) -> Checkpoint:
    arrays = {"weights": [np.full(4, number, np.float32)], "best": []}
    return Checkpoint(arrays, {"progress": {"epoch": number}})


def test_a_checkpoint_comes_back_as_it_went_out(tmp_path):
    Checkpoints(tmp_path, PHASE, ONE).save(1, checkpoint(1))
    found = Checkpoints(tmp_path, PHASE, ONE).latest()
    np.testing.assert_array_equal(found.arrays["weights"], checkpoint(1).arrays["weights"])
    assert found.arrays["best"] == []
    assert found.state["progress"] == {"epoch": 1}


def test_only_the_last_two_stay(tmp_path):
    checkpoints = Checkpoints(tmp_path, PHASE, ONE)
    for number in range(1, 5):
        checkpoints.save(number, checkpoint(number))
    names = sorted(path.name for path in (tmp_path / "checkpoints/small_warmup").iterdir())
    kept = ["epoch_00003.npz", "epoch_00004.npz"]
    assert names == sorted([*kept, *(f"{name}.sha256" for name in kept)])


def test_the_hash_file_is_what_sha256sum_checks(tmp_path):
    Checkpoints(tmp_path, PHASE, ONE).save(1, checkpoint(1))
    path = tmp_path / "checkpoints/small_warmup/epoch_00001.npz"
    text = path.with_name(path.name + ".sha256").read_text()
    assert text == f"{files.sha256(path)}  epoch_00001.npz\n"


def test_a_machine_that_is_ahead_goes_back_to_an_epoch_that_all_have(tmp_path):
    checkpoints = Checkpoints(tmp_path, PHASE, ONE)
    for number in (1, 2):
        checkpoints.save(number, checkpoint(number))
    assert checkpoints.latest(until=1).state["progress"] == {"epoch": 1}
    assert checkpoints.latest(until=0) is None


def test_what_a_kill_left_half_written_is_removed(tmp_path):
    place = tmp_path / "checkpoints/small_warmup"
    place.mkdir(parents=True)
    (place / ".partial_abc.npz").write_bytes(b"half")
    Checkpoints(tmp_path, PHASE, ONE).claim()
    assert [path.name for path in place.iterdir()] == ["fingerprint.json"]


def test_a_folder_without_checkpoints_starts_a_training_anew(tmp_path):
    assert Checkpoints(tmp_path, PHASE, ONE).latest() is None
