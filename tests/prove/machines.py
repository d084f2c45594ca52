"""Does a training on two machines survive the loss of one? Two processes on loopback, one killed.

Both train undisturbed. Then the second is killed with SIGKILL once it has written a checkpoint, the
first is ended, and the same two commands are given again: the weights must be those of before.

    python -m tests.prove machines kills=2
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np

import workbench  # noqa: F401, the machines inherit the Keras that it chooses

ROOT = Path(__file__).parents[2]
LONGEST_SECONDS = 900
ALONE_SECONDS = 60  # in which a machine may notice that the other is gone


def run(*, kills: int = 1) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="workbench_machines_") as name:
        pictures = draw_squares(Path(name, "pictures"))
        undisturbed = [result(one) for one in start_two(pictures, Path(name, "undisturbed"))]
        ends = [_kill(pictures, Path(name, "killed"), epoch + 1) for epoch in range(kills)]
        after = [result(one) for one in start_two(pictures, Path(name, "killed"))]
    apart = [np.abs(np.subtract(one["weights"], two["weights"])).max()
             for one, two in zip(undisturbed, after, strict=True)]  # fmt: skip
    return {"kills": kills, "first_machine": ends, "largest_difference": float(max(apart))}


def table(figures: dict[str, Any]) -> str:
    return (
        f"second machine killed {figures['kills']} times; the first {figures['first_machine']}; "
        f"started again, the weights differ by at most {figures['largest_difference']:.3g}"
    )


def _kill(pictures: Path, out: Path, epoch: int) -> str:
    """Kill the second machine behind an epoch; say what became of the first by itself."""
    first, second = start_two(pictures, out)
    written = out / f"1/checkpoints/small_warmup/epoch_{epoch:05d}.npz"
    end = time.monotonic() + LONGEST_SECONDS
    while not written.exists() and second.poll() is None and time.monotonic() < end:
        time.sleep(0.005)
    second.kill()
    second.communicate()
    begin = time.monotonic()
    try:
        first.communicate(timeout=ALONE_SECONDS)
        return f"ended with {first.returncode} after {time.monotonic() - begin:.0f} s"
    except subprocess.TimeoutExpired:
        first.kill()
        first.communicate()
        return f"waited for over {ALONE_SECONDS} s and was killed"


def start_two(pictures: Path, out: Path) -> list[subprocess.Popen]:
    """Start two machines, each in a folder of its own."""
    workers = [f"127.0.0.1:{port}" for port in free_ports(2)]
    cluster = {"cluster": {"worker": workers}}
    tasks = [cluster | {"task": {"type": "worker", "index": index}} for index in range(2)]
    return [start(pictures, out / str(index), "worker", TF_CONFIG=json.dumps(task))
            for index, task in enumerate(tasks)]  # fmt: skip


def start(pictures: Path, out: Path, kind: str, **environment: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "tests.replica_child", str(pictures), str(out), kind]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, cwd=ROOT, env=os.environ | environment, **pipes)


def result(process: subprocess.Popen) -> dict[str, Any]:
    out, errors = process.communicate(timeout=LONGEST_SECONDS)
    assert process.returncode == 0, errors[-2000:]
    return json.loads(out.splitlines()[-1])


def draw_squares(folder: Path) -> Path:
    """Coloured squares: 24 to train on, three global batches of 8 however they are dealt out."""
    rng = np.random.default_rng(0)
    (folder / "images").mkdir(parents=True)
    for split, count in (("train", 24), ("val", 9), ("test", 9)):
        lines = ["filepath,labels"]
        for index in range(count):
            labels = rng.random(3) < 0.5
            image = rng.integers(0, 60, (12, 12, 3)) + 160 * labels
            cv2.imwrite(str(folder / f"images/{split}{index}.png"), image.astype(np.uint8))
            names = "|".join(name for name, there in zip("abc", labels, strict=True) if there)
            lines.append(f"{split}{index}.png,{names}")
        (folder / f"{split}_labels.csv").write_text("\n".join(lines) + "\n")
    return folder


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports
