"""One live process at a time in a run folder: the kernel's lock, and a name for whoever holds it.

The kernel releases the lock with its process, whatever the clock or a container's host name say.
"""

from __future__ import annotations

import fcntl
import json
import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import psutil

from workbench.errors import RunLockedError

LOCK_NAME = ".lock"
BOOT = Path("/proc/sys/kernel/random/boot_id")
START_FIELD = 19  # of /proc/PID/stat, behind the name: clock ticks from boot to birth


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the folder; a kernel started by the owner passes, anybody else is refused."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / LOCK_NAME, "a+", encoding="utf-8") as file:
        mine = _take(file, folder)
        try:
            yield
        finally:
            if mine:
                file.truncate(0)


def held_by_parent(folder: Path) -> bool:
    """Tell whether a process that started this one holds the folder: the chain, for its kernels."""
    owner = owner_of(folder)
    return bool(owner) and owner["pid"] != os.getpid() and _is_mine_or_my_parents(owner)


def owner_of(folder: Path) -> dict[str, Any] | None:
    """Return the live process that holds the folder, if there is one."""
    path = folder / LOCK_NAME
    if not path.exists():
        return None
    with open(path, encoding="utf-8") as file:
        owner = _read(file)
    return owner if owner and is_alive(owner) else None


def _take(file: IO[str], folder: Path) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        owner = _read(file)
        if owner and _is_mine_or_my_parents(owner):
            return False
        raise _refusal(folder, owner) from None
    owner = _read(file)
    if owner and _is_elsewhere(owner):  # a network file system may not tell us of its lock
        raise _refusal(folder, owner)
    _write(file, describe_process())
    return True


def _refusal(folder: Path, owner: dict[str, Any] | None) -> RunLockedError:
    by = f" by process {owner['pid']} on {owner['host']} since {owner['since']}" if owner else ""
    gone = f"; where that machine is gone, delete {folder / LOCK_NAME}"
    return RunLockedError(
        f"{folder} is in use{by}. Wait for it, or take another name with --run"
        f"{gone if owner and _is_elsewhere(owner) else ''}"
    )


def _read(file: IO[str]) -> dict[str, Any] | None:
    file.seek(0)
    try:
        owner = json.loads(file.read())
    except ValueError:
        return None  # empty: nobody holds it; torn by a crash: its writer is gone
    return owner if isinstance(owner, dict) and {"pid", "host", "born"} <= set(owner) else None


def _write(file: IO[str], owner: dict[str, Any]) -> None:
    file.seek(0)
    file.truncate(0)
    json.dump(owner, file)
    file.flush()
    os.fsync(file.fileno())


def describe_process() -> dict[str, Any]:
    """Name this process so that a later one can tell whether it still lives."""
    return {
        "pid": os.getpid(),
        "host": platform.node(),
        "boot": _boot(),
        "born": _born(psutil.Process()),
        "since": time.strftime("%Y-%m-%d %H:%M:%S"),
    }


def is_alive(owner: dict[str, Any]) -> bool:
    """Tell whether that very process lives: a reused pid was born at another moment."""
    if owner["host"] != platform.node():
        return _is_elsewhere(owner)  # cannot be seen from here; of this kernel's containers it left
    with suppress(psutil.NoSuchProcess):
        process = psutil.Process(owner["pid"])
        return process.status() != psutil.STATUS_ZOMBIE and _born(process) == owner["born"]
    return False


def _is_elsewhere(owner: dict[str, Any]) -> bool:
    """Tell another machine from another container of this one, which has another host name."""
    return owner["host"] != platform.node() and owner.get("boot") != _boot()


def _boot() -> str:
    """Return what names this start of this machine, containers included; macOS has no such file."""
    return BOOT.read_text("ascii").strip() if BOOT.exists() else platform.node()


def _born(process: psutil.Process) -> str:
    """Count from boot where the system does: wall clocks are put right now and then."""
    stat = Path(f"/proc/{process.pid}/stat")
    with suppress(OSError):
        return stat.read_text("ascii", errors="replace").rpartition(")")[2].split()[START_FIELD]
    return repr(process.create_time())


def _is_mine_or_my_parents(owner: dict[str, Any]) -> bool:
    if owner["host"] != platform.node():
        return False
    line = [psutil.Process(), *psutil.Process().parents()]
    return any(one.pid == owner["pid"] and _born(one) == owner["born"] for one in line)
