"""One live process at a time in a run folder."""

import json
import subprocess
import sys
import textwrap

import psutil
import pytest

from workbench.errors import RunLockedError
from workbench.lock import LOCK_NAME, describe_process, is_alive, locked


@pytest.fixture
def holder(tmp_path):
    """A live process that holds the folder until its input closes."""
    code = textwrap.dedent(
        f"""
        import sys
        from pathlib import Path
        from workbench.lock import locked
        with locked(Path({str(tmp_path)!r})):
            print("held", flush=True)
            sys.stdin.read()
        """
    )
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", code], **pipes) as process:
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_a_second_process_is_refused_with_the_owners_pid(tmp_path, holder):
    with pytest.raises(RunLockedError, match=f"process {holder.pid} on"), locked(tmp_path):
        pass


def test_a_killed_owner_leaves_no_lock_behind(tmp_path, holder):
    holder.kill()
    holder.wait()
    with locked(tmp_path):
        assert json.loads((tmp_path / LOCK_NAME).read_text())["pid"] != holder.pid


def test_a_reused_pid_is_not_taken_for_the_owner(tmp_path, holder):
    owner = json.loads((tmp_path / LOCK_NAME).read_text())
    holder.kill()
    holder.wait()
    mine = describe_process()
    (tmp_path / LOCK_NAME).write_text(json.dumps(owner | {"pid": mine["pid"]}))
    with locked(tmp_path):
        pass


def test_another_machine_is_believed(tmp_path):
    owner = describe_process() | {"host": "elsewhere", "boot": "another"}
    (tmp_path / LOCK_NAME).write_text(json.dumps(owner))
    with pytest.raises(RunLockedError, match="on elsewhere"), locked(tmp_path):
        pass
    assert is_alive(owner)


def test_a_container_that_is_gone_leaves_no_lock_behind(tmp_path, holder):
    """The next container has another host name; it is the same kernel's."""
    owner = json.loads((tmp_path / LOCK_NAME).read_text())
    holder.kill()
    holder.wait()
    (tmp_path / LOCK_NAME).write_text(json.dumps(owner | {"host": "f00f00f00f00"}))
    assert not is_alive(owner | {"host": "f00f00f00f00"})
    with locked(tmp_path):
        pass


def test_a_container_that_lives_keeps_its_lock(tmp_path, holder):
    owner = json.loads((tmp_path / LOCK_NAME).read_text())
    (tmp_path / LOCK_NAME).write_text(json.dumps(owner | {"host": "f00f00f00f00"}))
    with pytest.raises(RunLockedError, match="on f00f00f00f00"), locked(tmp_path):
        pass


def test_a_clock_that_is_put_right_frees_no_live_lock(tmp_path, holder, monkeypatch):
    """psutil adds a birth to the time of boot, which the wall clock moves."""
    owner = json.loads((tmp_path / LOCK_NAME).read_text())
    born = psutil.Process.create_time
    monkeypatch.setattr(psutil.Process, "create_time", lambda self: born(self) + 3600)
    with pytest.raises(RunLockedError, match=f"process {holder.pid} on"), locked(tmp_path):
        pass
    assert is_alive(owner)


def test_a_child_of_the_owner_passes_and_does_not_release(tmp_path):
    code = "from pathlib import Path; from workbench.lock import locked\n"
    code += f"with locked(Path({str(tmp_path)!r})): pass"
    with locked(tmp_path):
        subprocess.run([sys.executable, "-c", code], check=True)
        assert (tmp_path / LOCK_NAME).read_text() != ""
    assert (tmp_path / LOCK_NAME).read_text() == ""


def test_a_torn_lock_file_counts_as_free(tmp_path):
    (tmp_path / LOCK_NAME).write_text('{"pid": 1')
    with locked(tmp_path):
        pass


def test_a_lock_whose_machine_is_gone_says_which_file_to_delete(tmp_path):
    """As a machine leaves it that shared the folder over a network."""
    owner = describe_process() | {"host": "elsewhere", "boot": "another"}
    (tmp_path / LOCK_NAME).write_text(json.dumps(owner))
    with pytest.raises(RunLockedError, match=rf"delete .*{LOCK_NAME}$"), locked(tmp_path):
        pass
