"""One live process at a time in a run folder: pid and host in a file, stale owners recognised."""

from __future__ import annotations

import fcntl
import json
import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import psutil

from workbench.errors import RunLockedError

LOCK_NAME = ".lock"


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
            with open(folder / LOCK_NAME, "a+", encoding="utf-8") as file:
                _release(file)


def held_by_parent(folder: Path) -> bool:
    """Tell whether a process that started this one holds the folder: the chain, for its kernels."""
    path = folder / LOCK_NAME
    if not path.exists():
        return False
    with open(path, encoding="utf-8") as file:
        owner = _read(file)
    return bool(owner) and owner["pid"] != os.getpid() and _is_mine_or_my_parents(owner)


def _take(file: IO[str], folder: Path) -> bool:
    # The kernel-side lock is held for these lines only: it makes read-decide-write one act.
    fcntl.flock(file, fcntl.LOCK_EX)
    owner = _read(file)
    if owner and _is_mine_or_my_parents(owner):
        return False
    if owner and is_alive(owner):
        raise RunLockedError(
            f"{folder} is in use by process {owner['pid']} on {owner['host']} since "
            f"{owner['since']}. Wait for it, or take another name with --run; where that machine "
            f"is gone, delete {folder / LOCK_NAME}"
        )
    _write(file, describe_process())
    return True


def _release(file: IO[str]) -> None:
    fcntl.flock(file, fcntl.LOCK_EX)
    owner = _read(file)
    if owner and owner["pid"] == os.getpid():
        file.truncate(0)


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
        "born": psutil.Process().create_time(),
        "since": time.strftime("%Y-%m-%d %H:%M:%S"),
    }


def is_alive(owner: dict[str, Any]) -> bool:
    """Tell whether that very process lives: a reused pid was born at another moment."""
    if owner["host"] != platform.node():
        return True  # cannot be seen from here, so it is believed
    try:
        process = psutil.Process(owner["pid"])
        return process.status() != psutil.STATUS_ZOMBIE and _same_birth(process, owner)
    except psutil.NoSuchProcess:
        return False


def _same_birth(process: psutil.Process, owner: dict[str, Any]) -> bool:
    return abs(process.create_time() - owner["born"]) < 1


def _is_mine_or_my_parents(owner: dict[str, Any]) -> bool:
    if owner["host"] != platform.node():
        return False
    line = [psutil.Process(), *psutil.Process().parents()]
    return any(one.pid == owner["pid"] and _same_birth(one, owner) for one in line)
