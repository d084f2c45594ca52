"""Does a killed training end with the same bits?

A teacher and a student train in a process that is killed with SIGKILL at random moments, again and
again, until the same command comes through; then their weights are compared with those of a run
that nobody disturbed:

    python -m tests.prove resume kills=20
"""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pandas as pd

from workbench import files
from workbench.data.demo import draw_demo
from workbench.data.tables import read_dataset
from workbench.settings import Settings

IMAGES = 64
LONGEST_LIFE_SECONDS = 12
READY = "training starts"
WEIGHTS = tuple(
    f"{role}_{phase}.h5" for role in ("teacher", "student") for phase in ("warmup", "finetuned")
)
NETWORK = {
    "weights": "none",
    "input_size": 32,
    "epochs_head": 3,
    "epochs_finetune": 5,
    "reduce_lr_patience": 1,
}
SETTINGS = Settings.model_validate(
    {
        "num_classes": "auto",
        "teacher": {"arch": "efficientnet_lite0", **NETWORK, "unfreeze_fraction": 0.5},
        "student": {"variant": "lite0", **NETWORK},
        "training": {"ema_decay": 0.99, "tensorboard": False},
    }
)


def run(*, kills: int = 20, seed: int = 0) -> dict[str, Any]:
    """Kill trainings until `kills` is reached; compare every one that came through."""
    rng = random.Random(seed)
    with tempfile.TemporaryDirectory(prefix="workbench_resume_") as folder:
        root = Path(folder)
        draw_demo(root / "data", images=IMAGES)
        expected = _hashes(_trained(root, "undisturbed", rng, kills=0)[0])
        places: list[str] = []
        equal: list[bool] = []
        while len(places) < kills:
            out, found = _trained(root, f"killed_{len(equal)}", rng, kills - len(places))
            places += found
            equal.append(_hashes(out) == expected)
    return {"kills": len(places), "places": places, "trainings": len(equal), "equal": sum(equal)}


def table(figures: dict[str, Any]) -> str:
    lines = [f"{figures['kills']} kills with SIGKILL, in or after:"]
    counts = pd.Series(figures["places"]).value_counts(sort=False)
    lines += [f"  {place:<40} {count}" for place, count in counts.items()]
    lines.append(
        f"{figures['equal']} of {figures['trainings']} trainings ended with the bits of the "
        "undisturbed one"
    )
    return "\n".join(lines)


def _trained(root: Path, name: str, rng: random.Random, kills: int) -> tuple[Path, list[str]]:
    """Start the training until it comes through; kill it up to `kills` times on the way."""
    out, places = root / name, []
    out.mkdir()
    while True:
        command = [sys.executable, "-m", "tests.prove.resume", str(root / "data"), str(out)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            while READY not in (line := process.stdout.readline()):
                if not line:
                    raise RuntimeError(f"{' '.join(command)} failed before it trained")
            try:
                life = rng.uniform(0, LONGEST_LIFE_SECONDS) if len(places) < kills else None
                process.wait(timeout=life)
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
                process.wait()
                places.append(_place(out))
        if process.returncode == 0:
            return out, places
        if process.returncode != -signal.SIGKILL:
            raise RuntimeError(f"{' '.join(command)} exited with {process.returncode}")


def _place(out: Path) -> str:
    """Say how far the killed training had come."""
    if list(out.rglob(".partial_*")):
        return "in the middle of writing a file"
    logs = sorted(out.glob("logs/*.csv"), key=lambda path: path.stat().st_mtime)
    return f"{logs[-1].stem} epoch {len(pd.read_csv(logs[-1]))}" if logs else "before an epoch"


def _hashes(out: Path) -> list[str]:
    return [files.sha256(out / name) for name in WEIGHTS]


def train(data: Path, out: Path) -> None:
    """What the disturbed process does."""
    from tests.training_doubles import train_role

    dataset = read_dataset(data, SETTINGS)
    sys.stdout.write(f"{READY}\n")
    sys.stdout.flush()
    started = time.monotonic()
    teacher, _history = train_role("teacher", SETTINGS, dataset, out)
    train_role("student", SETTINGS, dataset, out, teacher)
    sys.stdout.write(f"{time.monotonic() - started:.1f} s\n")


if __name__ == "__main__":
    train(Path(sys.argv[1]), Path(sys.argv[2]))
