"""Does a sweep share what runs have in common, and survive kills, with the same bytes?

Real tiny runs with a common teacher: one after the other by hand, as a sweep on two workers, as
one whose workers are killed with SIGKILL twice, and on a scheduler with two workers started by
hand. Then a search with pruning that is stopped with Ctrl-C and taken up by another process.

    python -m tests.prove sweep runs=8 trials=20

Each part says a line on stderr when it is done: by hand, a sweep, killed, a scheduler by hand. With
8 runs and 20 trials all are to take about 20 minutes on two idle cores, by what two runs took. On a
busy machine CPU seconds mislead: a sweep's own processes count all the while that they wait. While
it runs nobody may edit the code, or what runs share is out of date.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from tests.prove.chain import prepare
from workbench.files import read_json, sha256

COMPARED = ("teacher_finetuned.h5", "student_finetuned.h5", "student_scores.npz")
WORKERS = 2
LONGEST_SECONDS = 3600
GRID = """base: parameters/{base}.yaml
grid: {{distillation.alpha: [{alphas}]}}
threads: 1
"""
SEARCH = """base: parameters/tiny.yaml
search:
  trials: {trials}
  pruner_trials: 3
  pruner_epochs: 1
  space:
    student.lr_finetune: {{low: 1.0e-5, high: 1.0e-2, log: true}}
    student.epochs_finetune: {{choices: [4]}}
    distillation.enabled: {{choices: [false]}}
threads: 1
"""


def run(*, runs: int = 8, trials: int = 20, kills: int = 2, seed: int = 0) -> dict[str, Any]:
    rng = random.Random(seed)
    with tempfile.TemporaryDirectory(prefix="workbench_sweep_") as folder:
        project = Path(folder)
        prepare(project)
        alphas = [round((number + 1) / (runs + 1), 3) for number in range(runs)]
        tiny = (project / "parameters/tiny.yaml").read_text()
        kept = tiny + "distillation: {keep_answers: true}\n"
        (project / "parameters/tiny_kept.yaml").write_text(kept)
        for name, base in (("grid", "tiny"), ("kept", "tiny_kept")):
            grid = GRID.format(base=base, alphas=", ".join(map(str, alphas)))
            (project / f"parameters/{name}.yaml").write_text(grid)
        search = SEARCH.format(trials=trials)
        (project / "parameters/search.yaml").write_text(search)
        figures = _grid(project, alphas, kills, rng)
        return figures | ({"search": _search(project, trials)} if trials else {})


def table(figures: dict[str, Any]) -> str:
    lines = [
        f"{figures['runs']} runs by hand: {figures['alone']:.0f} CPU s, a sweep on "
        f"{WORKERS} workers: {figures['together']:.0f} CPU s, {figures['ratio']:.3f} times",
        f"with the teacher's answers kept: {figures['kept']:.0f} CPU s, "
        f"{figures['kept'] / figures['alone']:.3f} times",
        f"teachers trained: {figures['teachers']}",
    ]
    lines += [f"{words}: {equal} of {figures['runs']} runs have the same bytes"
              for words, equal in figures["equal"].items()]  # fmt: skip
    if found := figures.get("search"):
        lines.append(
            f"search: stopped after {found['before']} of {found['trials']} trials; in the end "
            f"{found['states']}, {found['taken_up']} taken up with the knobs that they had"
        )
        lines += [f"  pruned: {reason}" for reason in found["reasons"]]
    return "\n".join(lines)


# One after the other, together, killed, and on a scheduler.


def _grid(project: Path, alphas: list[float], kills: int, rng: random.Random) -> dict[str, Any]:
    names = [f"distillation.alpha-{alpha}" for alpha in alphas]
    alone = _one_after_the_other(project, dict(zip(names, alphas, strict=True)))
    _say(f"by hand: {alone:.0f} CPU s")
    together = _cpu_seconds(_sweep("grid", "--run", "together"), project)
    expected = _hashes(project / "outputs/alone", names)
    equal = {"a sweep": _equal(project, "together", expected)}
    _say(f"a sweep: {together:.0f} CPU s, {equal}")
    kept = _cpu_seconds(_sweep("kept"), project)
    _say(f"answers kept: {kept:.0f} CPU s")
    places = _killed(project, kills, rng)
    equal[f"workers killed {len(places)} times"] = _equal(project, "killed", expected)
    _say(f"killed: {equal}")
    with _cluster(project) as address:
        subprocess.run(_sweep("grid", "--run", "by_hand", scheduler=address), cwd=project,
                       check=True, capture_output=True)  # fmt: skip
    equal["a scheduler and workers by hand"] = _equal(project, "by_hand", expected)
    _say(f"by hand: {equal}")
    return {
        "runs": len(names), "alone": alone, "together": together, "ratio": together / alone,
        "kept": kept,
        "equal": equal, "killed_in": places,
        "teachers": _teachers(project / "outputs/together", names),
    }  # fmt: skip


def _say(words: str) -> None:
    """Tell how far it has come: all of it takes many minutes."""
    sys.stderr.write(f"{words}\n")


def _one_after_the_other(project: Path, alphas: dict[str, float]) -> float:
    """Train the teacher once and each student beside a copy of it, as a person would."""
    words = [sys.executable, "-m", "workbench", "run", "parameters/tiny.yaml",
             "--set", "run.threads=1"]  # fmt: skip
    teacher = project / "outputs/alone/teacher"
    spent = _cpu_seconds([*words, "--out", str(teacher), "--to", "03"], project)
    for name, alpha in alphas.items():
        folder = teacher.with_name(name)
        shutil.copytree(teacher, folder)
        words_04 = ["--out", str(folder), "--from", "04", "--to", "04"]
        spent += _cpu_seconds([*words, *words_04, "--set", f"distillation.alpha={alpha}"], project)
    return spent


def _sweep(name: str, *words: str, scheduler: str = "") -> list[str]:
    where = ["--scheduler", scheduler] if scheduler else ["--workers", str(WORKERS)]
    return [sys.executable, "-m", "workbench", "sweep", f"parameters/{name}.yaml", *where, *words]


def _cpu_seconds(command: list[str], project: Path) -> float:
    """Run a command; count what it and all processes below it computed."""
    log = project / "command.log"
    with open(log, "wb") as file:
        process = subprocess.Popen(command, cwd=project, stdout=file, stderr=file)
        _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)} failed: {log.read_text()[-2000:]}")
    return used.ru_utime + used.ru_stime


def _hashes(folder: Path, names: list[str]) -> dict[str, list[str]]:
    return {name: [sha256(folder / name / file) for file in COMPARED] for name in names}


def _equal(project: Path, sweep: str, expected: dict[str, list[str]]) -> int:
    found = _hashes(project / "outputs" / sweep, list(expected))
    return sum(found[name] == expected[name] for name in expected)


def _teachers(folder: Path, names: list[str]) -> int:
    """Count the runs of which the teacher was trained in their own process."""
    logs = [(folder / f"{name}.log").read_text() for name in names]
    return sum("03 train_teacher" in log and "03 train_teacher       runs" in log for log in logs)


def _killed(project: Path, kills: int, rng: random.Random) -> list[str]:
    """Kill workers at moments drawn at random; tell in which runs they were."""
    places = []
    with open(project / "killed.log", "wb") as log:
        command = _sweep("grid", "--run", "killed")
        with subprocess.Popen(command, cwd=project, stdout=log, stderr=log) as process:
            for _ in range(kills):
                time.sleep(rng.uniform(1, 10))
                worker, run = _busy_worker(process, rng)
                worker.kill()
                places.append(run)
    if process.returncode:
        raise RuntimeError(f"the sweep ended with {process.returncode}: "
                           f"{(project / 'killed.log').read_text()[-2000:]}")  # fmt: skip
    return places


def _busy_worker(process: subprocess.Popen, rng: random.Random) -> tuple[psutil.Process, str]:
    """Wait for workers whose run has a kernel, choose one; name its run."""
    while process.poll() is None:
        busy = []
        for worker in psutil.Process(process.pid).children():
            try:
                for run in worker.children():
                    if "--out" in run.cmdline() and run.children():
                        words = run.cmdline()
                        busy.append((worker, Path(words[words.index("--out") + 1]).name))
            except psutil.NoSuchProcess:
                continue
        if busy:
            return rng.choice(busy)
        time.sleep(0.05)
    raise RuntimeError("the sweep ended before its workers were killed")


@contextmanager
def _cluster(project: Path) -> Iterator[str]:
    """Start a scheduler and two workers, each by its own command."""
    dask = [sys.executable, "-m", "dask"]
    file = project / "scheduler.json"
    quiet = {"cwd": project, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    commands = [[*dask, "scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard",
                 "--scheduler-file", str(file)]]  # fmt: skip
    commands += [[*dask, "worker", "--scheduler-file", str(file), "--nthreads", "1",
                  "--no-dashboard", "--memory-limit", "0"]] * WORKERS  # fmt: skip
    started = []
    try:
        for command in commands:
            started.append(subprocess.Popen(command, **quiet))
            while not file.exists():
                time.sleep(0.1)
        yield json.loads(file.read_text())["address"]
    finally:
        for process in reversed(started):
            process.terminate()
            process.wait(timeout=60)


# A search, stopped and taken up.


def _search(project: Path, trials: int) -> dict[str, Any]:
    folder = project / "outputs/search"
    with open(project / "search.log", "wb") as log:
        process = subprocess.Popen(_sweep("search"), cwd=project, stdout=log, stderr=log)
        while _ended(folder) < trials // 2:
            if process.poll() is not None:
                raise RuntimeError((project / "search.log").read_text()[-2000:])
            time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        process.wait(timeout=LONGEST_SECONDS)
    before = read_json(folder / "sweep.json")["trials"]
    done = subprocess.run(_sweep("search"), cwd=project, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    after = {one["name"]: one for one in read_json(folder / "sweep.json")["trials"]}
    open_ones = [one for one in before if one["state"] in ("running", "waiting")]
    return {
        "trials": len(after), "before": _count(before),
        "exit": process.returncode, "open": len(open_ones),
        "states": dict(Counter(one["state"] for one in after.values())),
        "taken_up": sum(after[one["name"]]["differences"] == one["differences"]
                        for one in open_ones),
        "reasons": [one["reason"] for one in after.values() if one["state"] == "pruned"],
    }  # fmt: skip


def _ended(folder: Path) -> int:
    path = folder / "sweep.json"
    return _count(read_json(path)["trials"]) if path.exists() else 0


def _count(trials: list[dict[str, Any]]) -> int:
    return sum(one["state"] in ("done", "pruned", "failed") for one in trials)
