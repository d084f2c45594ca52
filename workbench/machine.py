"""What a person wants to know of the machine before a long run, and what a run records of it."""

from __future__ import annotations

import os
import platform
from collections.abc import Collection
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil

from workbench import __version__, status
from workbench.data.decode import count_cores
from workbench.files import read_json
from workbench.run import METADATA, Run
from workbench.settings import STUDENT_SIZES, TEACHER_SIZES, NetworkSettings, Settings
from workbench.steps import STEPS, Step

PACKAGES = ("tensorflow", "tf-keras", "tensorflow-model-optimization", "ai-edge-litert", "numpy",
            "pandas", "opencv-python-headless", "pillow", "papermill", "jupyterlab")  # fmt: skip

# Billions of multiplications an image needs at the native size, as published with each network.
MULTIPLICATIONS = {
    "efficientnet_b0": 0.39, "efficientnet_b1": 0.70, "efficientnet_b2": 1.0,
    "efficientnet_b3": 1.8, "efficientnet_b4": 4.2, "efficientnet_b5": 9.9,
    "efficientnet_b6": 19, "efficientnet_b7": 37, "resnet101": 7.6, "resnet152": 11.3,
    "mobilenet_v2": 0.30, "lite0": 0.41, "lite1": 0.63, "lite2": 0.90, "lite3": 1.44, "lite4": 2.64,
}  # fmt: skip
# Seconds that two CPU cores train on a billion of them, measured: B3 at 300 px 4.6 images/s, Lite1
# at 240 px 21.5 images/s, the others beside these.
TRAIN_SECONDS = {"efficientnet_b": 0.12, "lite": 0.074, "mobilenet": 0.11, "resnet": 0.05}
ANSWER_SHARE = 0.18  # of a training step: B3 answers 25 images/s
OVERHEAD_SECONDS = {"01": 10, "02": 20, "03": 45, "04": 45, "05": 110, "06": 15, "07": 40,
                    "08": 15, "09": 40}  # fmt: skip
BATCH_ADVICE = {1: (16, 32), 2: (32, 64), 4: (64, 128), 8: (128, 256)}  # the manual's totals


def startup_lines(run: Run, steps: tuple[Step, ...]) -> list[str]:
    """Name the run, the machine and the time to expect."""
    threads = run.settings.run.threads or os.cpu_count()
    memory = psutil.virtual_memory().available / 2**30
    return [
        f"run {run.name} in {run.folder}",
        f"{threads} threads, {memory:.1f} GiB of memory free; {_describe_devices(run)}",
        f"expected time: {_expected_time(run, steps)}",
    ]


def recorded_devices(run: Run) -> list[str]:
    """List what TensorFlow listed when the run last computed; loading it alone takes seconds."""
    records = [status.state_of(run.folder, step) for step in STEPS]
    found = [(record["finished"], record["devices"]) for record in records if "devices" in record]
    return max(found)[1] if found else []


def _describe_devices(run: Run) -> str:
    devices = recorded_devices(run)
    if not devices:
        return "TensorFlow names the device when a training starts"
    return f"TensorFlow listed {', '.join(devices)} last time"


def _expected_time(run: Run, steps: tuple[Step, ...]) -> str:
    steps = [step for step in steps if not step.skipped(run.settings)]
    known = [status.state_of(run.folder, step) for step in steps]
    if all("seconds" in record for record in known):
        total = sum(record["seconds"] for record in known)
        return f"{minutes(total)} if every step runs (as last time)"
    images = _count_training_images(run.dataset_folder)
    folder = run.settings.dataset.unlabeled
    unlabeled = _count_files(run.dataset_folder / folder) if folder else 0
    numbers = {step.number for step in steps}
    guess = minutes(guess_seconds(run.settings, images, numbers, unlabeled))
    return f"very roughly {guess} on these CPU cores if every step runs; each epoch says more"


def minutes(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} minutes"


def guess_seconds(
    settings: Settings, images: int, numbers: Collection[str] = tuple(OVERHEAD_SECONDS),
    unlabeled: int = 0,
) -> float:  # fmt: skip
    """Guess what the steps take on the cores that this process may use, for so many photos."""
    scale = images * 2 / count_cores(settings.run.threads)
    views = settings.training.head_views
    seconds: float = sum(OVERHEAD_SECONDS[number] for number in numbers)

    def trained(network: NetworkSettings, epoch: float) -> float:
        head = ANSWER_SHARE * min(network.epochs_head, views or network.epochs_head)
        return epoch * (head + network.epochs_finetune)

    teacher = scale * image_seconds(settings.teacher.arch, settings.teacher_size)
    if settings.teacher.members:
        teacher *= len(settings.teacher.members)
    elif "03" in numbers:
        seconds += trained(settings.teacher, teacher)
    if not settings.student:
        return seconds
    student = scale * image_seconds(settings.student.variant, settings.student_size)
    distillation = settings.distillation
    distilled = student + ANSWER_SHARE * teacher * distillation.enabled
    if distillation.enabled:  # an epoch shows every photo that the teacher answers
        more = _draws(images, unlabeled, distillation.unlabeled_share) / max(images, 1)
        student, distilled = student * more, distilled * more
    if "04" in numbers:
        seconds += trained(settings.student, distilled)
        again = (distillation.rounds - 1) * distilled + distillation.control * student
        seconds += trained(settings.student, again * distillation.enabled)
    if "05" in numbers and settings.qat.enabled:
        seconds += 1.6 * distilled * settings.qat.epochs
    return seconds


def _draws(labelled: int, unlabeled: int, share: float) -> float:
    """Count the draws of an epoch, of which photos without labels are `share`."""
    if not (unlabeled and share):
        return labelled
    return max(labelled / (1 - share), unlabeled / share)


def image_seconds(network: str, size: int) -> float:
    """Estimate how long two CPU cores train on an image; the work grows with the area."""
    network = network.replace("efficientnet_lite", "lite")
    native = (TEACHER_SIZES | STUDENT_SIZES)[network]
    family = next(name for name in TRAIN_SECONDS if network.startswith(name))
    return TRAIN_SECONDS[family] * MULTIPLICATIONS[network] * (size / native) ** 2


def _count_training_images(folder: Path) -> int:
    table = folder / "train_labels.csv"
    if table.is_file():
        with open(table, "rb") as file:
            return sum(1 for _ in file) - 1
    return _count_files(folder)


def _count_files(folder: Path) -> int:
    return sum(1 for path in folder.rglob("*") if path.is_file()) if folder.is_dir() else 0


def batch_advice(run: Run) -> list[str]:
    """Print the manual's totals beside what the parameters say; neither knows what fits."""
    totals = "   ".join(
        f"{gpus}: {teacher}/{student}" for gpus, (teacher, student) in BATCH_ADVICE.items()
    )
    settings, gpus = run.settings, [name for name in recorded_devices(run) if name != "CPU"]
    networks = [one for one in (settings.teacher, settings.student) if one]
    sizes = [network.batch_size for network in networks]
    chosen = f"the parameters say {'/'.join(map(str, sizes))} per device"
    if len(gpus) > 1 and settings.multi_gpu.enabled:
        shared = "/".join(str(size * len(gpus)) for size in sizes)
        chosen += f", {shared} in all over the {len(gpus)} GPUs that TensorFlow listed"
    return [
        f"the manual's batch sizes, in all over so many GPUs (teacher/student):  {totals}",
        f"{chosen}; what fits depends on network and input: python -m workbench find-batch-size",
    ]


def write_run_metadata(run: Run) -> None:
    """Write run_metadata.json: system, devices, versions and times, without names or paths."""
    before = read_json(run.path(METADATA)) if run.path(METADATA).exists() else {}
    kept = {key: before[key] for key in ("test_split",) if key in before}
    run.write_json(METADATA, kept | {
        "run": run.name,
        "workbench": __version__,
        "system": describe_system(),
        "devices": recorded_devices(run),
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
    kept = ("state", "reason", "started", "finished", "seconds", "devices", "accepted")
    return {key: record[key] for key in kept if key in record}
