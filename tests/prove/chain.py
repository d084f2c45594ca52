"""Does a run survive a kill in every one of its nine steps? On the real notebooks, small networks.

One run is killed once in each step, its runner and its kernel in turn, at a moment drawn at
random. Each time the status has to say so, and the same command has to go on from there. In the
end the phone file must have the bytes of a run that nobody disturbed.
"""

from __future__ import annotations

import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

from workbench.data.demo import draw_demo
from workbench.files import read_json, sha256
from workbench.steps import STEPS

ROOT = Path(__file__).parent.parent.parent
TINY = """
teacher: {arch: efficientnet_lite0, weights: none, input_size: 32, batch_size: 16,
          epochs_head: 1, epochs_finetune: 1}
student: {variant: lite0, weights: none, input_size: 32, batch_size: 16,
          epochs_head: 1, epochs_finetune: 1}
qat: {epochs: 1}
training: {beta_2: 0.99}
ladder: {max_drop: 1.0}            # one epoch learns nothing; what is tested is the way
parity: {max_f1_drop: 1.0, max_flip_fraction: 1.0}
tflite_export: {representative_dataset_size: 16}
evaluation: {bootstrap_replicates: 50, latency_repeats: 3, gallery_size: 4}
threshold_search: {bootstrap_replicates: 50}
"""
IMAGES = 80
VICTIMS = ("runner", "kernel")
LONGEST_WAIT_SECONDS = 120
TRAINING_STEPS = ("03", "04", "05")  # long enough to be killed late


def run(*, seed: int = 0) -> dict[str, Any]:
    """Kill a run in each step, then let it end, and compare it with one left alone."""
    rng = random.Random(seed)
    with tempfile.TemporaryDirectory(prefix="workbench_chain_") as name:
        project = Path(name)
        prepare(project)
        left_alone = _run_to_the_end(project, "alone")
        rows = [
            _kill(project, step.number, VICTIMS[place % 2], rng) for place, step in enumerate(STEPS)
        ]
        disturbed = _run_to_the_end(project, "killed")
    return {"rows": rows, "same_bytes": left_alone == disturbed}


def table(figures: dict[str, Any]) -> str:
    lines = [f"{'killed in':<11}{'what':<8}{'after s':>8}{'exit':>6}  {'status':<13}went on with"]
    for row in figures["rows"]:
        lines.append(
            f"{row['step']:<11}{row['victim']:<8}{row['seconds']:>8.2f}{row['exit']:>6}  "
            f"{row['status']:<13}{row['went_on_with']}"
        )
    same = "the same bytes as" if figures["same_bytes"] else "OTHER BYTES THAN"
    return "\n".join([*lines, f"in the end the phone file has {same} that of a run left alone"])


def prepare(project: Path) -> None:
    """Make a project of the real notebooks, a few drawn photos and small networks."""
    for folder in ("notebooks", "parameters"):
        shutil.copytree(ROOT / folder, project / folder)
    draw_demo(project / "data", images=IMAGES)
    text = f"task: multilabel\ndataset: {{dir: data}}{TINY}"
    (project / "parameters/tiny.yaml").write_text(text, "utf-8")


def _command(name: str) -> list[str]:
    return [sys.executable, "-m", "workbench", "run", "parameters/tiny.yaml", "--run", name]


def _run_to_the_end(project: Path, name: str) -> str:
    subprocess.run(_command(name), cwd=project, check=True, capture_output=True)
    return sha256(project / "outputs" / name / "model_qat_int8.tflite")


def _kill(project: Path, number: str, victim: str, rng: random.Random) -> dict[str, Any]:
    """Start the run, kill it in step `number`, and tell what it had begun with."""
    log = project / f"{number}.log"
    with open(log, "wb") as file:
        runner = subprocess.Popen(_command("killed"), cwd=project, stdout=file, stderr=file)
    _wait(lambda: f"{number} " in _running(log), runner)
    kernel = _wait(lambda: _kernel_of(runner.pid), runner)
    _wait(lambda: _state(project, number) in ("running", "ok"), runner)
    seconds = rng.uniform(0, 6 if number in TRAINING_STEPS else 0.3)
    time.sleep(seconds)
    if victim == "kernel" and not kernel.is_running():
        victim = "runner"  # the step was over
    (runner if victim == "runner" else kernel).kill()
    code = runner.wait(timeout=LONGEST_WAIT_SECONDS)
    psutil.wait_procs([kernel], timeout=LONGEST_WAIT_SECONDS)
    begun = _running(log).split()
    return {
        "step": number, "victim": victim, "seconds": seconds, "exit": code,
        "status": _state(project, number),
        "went_on_with": begun[0] if begun else "",
    }  # fmt: skip


def _state(project: Path, number: str) -> str:
    """Read what the run folder says of a step; its notebook writes that once it runs."""
    status = project / "outputs/killed/status.json"
    steps = read_json(status)["steps"] if status.exists() else {}
    return steps.get(number, {}).get("state", "pending")


def _running(log: Path) -> str:
    """Return the numbers of the steps that this start has begun to run, as text."""
    lines = log.read_text("utf-8", errors="replace").splitlines()
    return " ".join(line.split()[0] + " " for line in lines if " runs: " in line)


def _kernel_of(pid: int) -> psutil.Process | None:
    children = psutil.Process(pid).children(recursive=True)
    return next((c for c in children if "ipykernel_launcher" in " ".join(c.cmdline())), None)


def _wait(ready, runner: subprocess.Popen):
    end = time.monotonic() + LONGEST_WAIT_SECONDS
    while time.monotonic() < end:
        if found := ready():
            return found
        if runner.poll() is not None:
            raise RuntimeError(f"the run ended with {runner.returncode} before it could be killed")
        time.sleep(0.02)
    raise TimeoutError("the step did not begin")
