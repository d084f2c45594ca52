"""Does a killed quantization-aware training end with the same phone file?

The student of the rungs' tests trains under fake quantisation in a process that is killed with
SIGKILL at random moments, again and again; then the bytes of its INT8 file, which hold every weight
and every quantiser range, are compared with those of a run that nobody disturbed:

    python -m tests.prove resume_qat kills=6
"""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from workbench.files import sha256, write_bytes

EPOCHS = 40
LONGEST_LIFE_SECONDS = 8.0
READY = "training starts"
FILE = "qat.tflite"


def run(*, kills: int = 6, seed: int = 0) -> dict[str, Any]:
    """Kill QAT until `kills` is reached; compare every training that came through."""
    rng = random.Random(seed)
    with tempfile.TemporaryDirectory(prefix="workbench_qat_") as folder:
        root = Path(folder)
        expected, _ = _trained(root / "undisturbed", rng, kills=0)
        epochs: list[int] = []
        equal: list[bool] = []
        while len(epochs) < kills:
            found, places = _trained(root / f"killed_{len(equal)}", rng, kills - len(epochs))
            epochs += places
            equal.append(found == expected)
    return {"kills": len(epochs), "epochs": epochs, "trainings": len(equal), "equal": sum(equal)}


def table(figures: dict[str, Any]) -> str:
    places = ", ".join(map(str, figures["epochs"]))
    return (
        f"{figures['kills']} kills with SIGKILL, after epochs {places}; {figures['equal']} of "
        f"{figures['trainings']} trainings ended with the bytes of the undisturbed phone file"
    )


def _trained(out: Path, rng: random.Random, kills: int) -> tuple[str, list[int]]:
    """Start the training until it comes through; kill it up to `kills` times on the way."""
    out.mkdir()
    epochs: list[int] = []
    while True:
        life = rng.uniform(0, LONGEST_LIFE_SECONDS) if len(epochs) < kills else None
        code = _lived(out, life)
        if code == 0:
            return sha256(out / FILE), epochs
        if code != -signal.SIGKILL:
            raise RuntimeError(f"the training in {out} exited with {code}")
        epochs.append(_epochs(out))


def _lived(out: Path, life: float | None) -> int:
    """Let the training live for so many seconds; return how it ended."""
    command = [sys.executable, "-m", "tests.prove.resume_qat", str(out)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        while (line := process.stdout.readline()) and READY not in line:
            pass
        try:
            process.wait(timeout=life)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
    return process.returncode


def _epochs(out: Path) -> int:
    """Say how many epochs the killed training had logged."""
    logs = list(out.glob("logs/*.csv"))
    return len(logs[0].read_text().splitlines()) - 1 if logs else 0


def train(out: Path) -> None:
    """What the disturbed process does."""
    from tests import quantization_doubles as doubles
    from workbench.deploy.convert import convert_quantized
    from workbench.deploy.ladder import fit, qat_phase
    from workbench.deploy.quantize import fake_quantize

    settings = doubles.small_settings(qat={"epochs": EPOCHS, "early_stopping_patience": EPOCHS})
    student, dataset = doubles.trained_student(), _dataset(out)
    quantized = fake_quantize(student, list(doubles.draw(32, seed=5)[0]))
    batches, objective = doubles.feed_and_loss(dataset, settings)
    sys.stdout.write(f"{READY}\n")
    sys.stdout.flush()
    fit(
        qat_phase(settings),
        quantized,
        objective,
        batches,
        SimpleNamespace(folder=out, settings=settings),
    )
    write_bytes(out / FILE, convert_quantized(quantized, settings.tflite_export))


def _dataset(out: Path) -> Any:
    """Draw the photos anew in a folder of this process's own: drawing is a function of a seed."""
    from tests import quantization_doubles as doubles

    return doubles.write_dataset(Path(tempfile.mkdtemp(dir=out)))


if __name__ == "__main__":
    train(Path(sys.argv[1]))
