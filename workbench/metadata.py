"""run_metadata.json: system, versions and times, from an allow-list without names or paths."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import psutil

from workbench import __version__, status
from workbench.chain import STEPS
from workbench.run import Run

PACKAGES = (
    "tensorflow",
    "tf-keras",
    "tensorflow-model-optimization",
    "ai-edge-litert",
    "numpy",
    "pandas",
    "opencv-python-headless",
    "pillow",
    "papermill",
    "jupyterlab",
)


def write_run_metadata(run: Run) -> None:
    run.write_json("run_metadata.json", describe_run(run))


def describe_run(run: Run) -> dict[str, Any]:
    return {
        "run": run.name,
        "workbench": __version__,
        "system": describe_system(),
        "versions": {name: installed(name) for name in PACKAGES},
        "steps": {step.number: _times(run, step) for step in STEPS},
    }


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


def _times(run: Run, step: Any) -> dict[str, Any]:
    record = status.state_of(run.folder, step)
    kept = ("state", "started", "finished", "seconds")
    return {key: record[key] for key in kept if key in record}
