"""What a person wants to know of the machine before a long run, and what a run records of it."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil

from workbench import __version__, status
from workbench.run import Run
from workbench.settings import Settings
from workbench.steps import STEPS, Step

GPU_FOLDER = Path("/proc/driver/nvidia/gpus")
PACKAGES = ("tensorflow", "tf-keras", "tensorflow-model-optimization", "ai-edge-litert", "numpy",
            "pandas", "opencv-python-headless", "pillow", "papermill", "jupyterlab")  # fmt: skip

# Seconds a megapixel takes to train on two CPU cores, measured: B3 at 300 px 4.6 images/s,
# Lite1 at 240 px 21.5 images/s. Other sizes of a family scale with their published FLOPs.
TRAIN_SECONDS_PER_MEGAPIXEL = {"efficientnet_b3": 2.4, "lite1": 0.81}
OVERHEAD_SECONDS = {"01": 10, "02": 20, "03": 45, "04": 45, "05": 110, "06": 15, "07": 40,
                    "08": 15, "09": 40}  # fmt: skip
BATCH_ADVICE = {1: (16, 32), 2: (32, 64), 4: (64, 128), 8: (128, 256)}


def startup_lines(run: Run, steps: tuple[Step, ...]) -> list[str]:
    """Name the run, the device and the time to expect."""
    threads = run.settings.run.threads or os.cpu_count()
    memory = psutil.virtual_memory().available / 2**30
    return [
        f"run {run.name} in {run.folder}",
        f"device: {describe_device()}, {threads} threads, {memory:.1f} GiB of memory free",
        f"expected time: {_expected_time(run, steps)}",
    ]


def describe_device() -> str:
    """Name the device without loading TensorFlow, whose import alone takes seconds."""
    cards = len(list(GPU_FOLDER.iterdir())) if GPU_FOLDER.is_dir() else 0
    return f"{cards} GPU" + "s" * (cards > 1) if cards else "CPU"


def _expected_time(run: Run, steps: tuple[Step, ...]) -> str:
    known = [status.state_of(run.folder, step) for step in steps]
    if all("seconds" in record for record in known):
        total = sum(record["seconds"] for record in known)
        return f"{minutes(total)} if every step runs (as last time)"
    if describe_device() != "CPU":
        return "unknown on this GPU; the first epoch of each training tells"
    guess = minutes(_guess(run, {step.number for step in steps}))
    return f"about {guess} if every step runs on this CPU"


def minutes(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} minutes"


def _guess(run: Run, numbers: set[str]) -> float:
    settings, images = run.settings, _count_training_images(run.dataset_folder)
    speed = 2 / (os.cpu_count() or 1)
    student = _epoch_seconds("lite1", settings.student_size, images) * speed
    teacher = _epoch_seconds("efficientnet_b3", settings.teacher_size, images) * speed
    seconds: float = sum(OVERHEAD_SECONDS[number] for number in numbers)
    if "03" in numbers:
        seconds += teacher * (settings.teacher.epochs_head + settings.teacher.epochs_finetune)
    if "04" in numbers:
        seconds += student * (settings.student.epochs_head + settings.student.epochs_finetune)
    if "05" in numbers and settings.qat.enabled:
        seconds += 1.6 * student * settings.qat.epochs
    return seconds


def _epoch_seconds(network: str, size: int, images: int) -> float:
    return TRAIN_SECONDS_PER_MEGAPIXEL[network] * size * size / 1e6 * images


def _count_training_images(folder: Path) -> int:
    table = folder / "train_labels.csv"
    if table.is_file():
        with open(table, "rb") as file:
            return sum(1 for _ in file) - 1
    return sum(1 for path in folder.rglob("*") if path.is_file()) if folder.is_dir() else 0


def batch_advice(settings: Settings) -> list[str]:
    """Print what fits 16 GB cards, beside what the parameters say."""
    lines = ["batch sizes that fit (GPUs: teacher/student):  " + "   ".join(
        f"{gpus}: {teacher}/{student}" for gpus, (teacher, student) in BATCH_ADVICE.items()
    )]  # fmt: skip
    chosen = f"{settings.teacher.batch_size}/{settings.student.batch_size}"
    return [*lines, f"the parameters say: {chosen} per device"]


def write_run_metadata(run: Run) -> None:
    """Write run_metadata.json: system, versions and times, without names or paths."""
    run.write_json("run_metadata.json", {
        "run": run.name,
        "workbench": __version__,
        "system": describe_system(),
        "versions": {name: installed(name) for name in PACKAGES},
        "steps": {step.number: _times(run, step) for step in STEPS},
    })  # fmt: skip


def describe_system() -> dict[str, Any]:
    return {
        "os": platform.system(),
        "machine": platform.machine(),
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
    }


def installed(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def versions() -> dict[str, str]:
    """List the packages that a result depends on, with the versions installed here."""
    return {name: found for name in PACKAGES if (found := installed(name))}


def _times(run: Run, step: Step) -> dict[str, Any]:
    record = status.state_of(run.folder, step)
    kept = ("state", "started", "finished", "seconds", "accepted")
    return {key: record[key] for key in kept if key in record}
