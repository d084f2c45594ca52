"""What a worker does: one stretch of one run, in a process of its own and in the run's folder.

The process ends by itself when its worker does (its standard input ends), so that the worker who
takes the run up finds the folder free; the run then goes on from its checkpoints.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import psutil

from workbench import batch, status
from workbench.artifacts import SweepRank
from workbench.lock import locked, owner_of
from workbench.run import Run, resolve_run
from workbench.settings import SearchSettings
from workbench.steps import find_step
from workbench.sweep.progress import epochs
from workbench.sweep.sharing import Stretch, take_over
from workbench.sweep.spec import assignments

if TYPE_CHECKING:
    from workbench.sweep.study import Pruning

POLL_SECONDS = 0.5
LONGEST_END_SECONDS = 120  # for a process that was told to end, to write down that it did


@dataclass(frozen=True)
class Job:
    """A stretch and all that a worker on any machine needs to know of it."""

    root: Path
    folder: Path  # of the sweep
    stretch: Stretch
    base: str
    differences: dict[str, Any]
    rank: SweepRank
    threads: int = 0  # 0 leaves the parameter file its say
    memory: float = 0  # bytes; 0 is no limit
    retries: int = 2
    search: SearchSettings | None = None
    number: int = 0  # of the trial in the study

    def open(self) -> Run:
        folder = self.folder / self.stretch.run
        return resolve_run(folder, self.root, self.root / self.base, self.words)[0]

    @property
    def words(self) -> list[str]:
        threads = {"run.threads": self.threads} if self.threads else {}
        return assignments(self.differences | threads)


@dataclass(frozen=True)
class Outcome:
    """What became of a stretch."""

    state: str  # done, pruned, failed, or waiting where the sweep was stopped
    reason: str | None = None
    seconds: float = 0.0
    shared: dict[str, str] = field(default_factory=dict)


def run_stretch(job: Job) -> Outcome:
    """Do a stretch of a run; what is up to date is left alone."""
    started = time.monotonic()
    _wait_until_free(job.folder / job.stretch.run)
    run = job.open()
    problem = _take_over(job, run)
    steps = [find_step(number) for number in job.stretch.steps]
    outcome, pruning = Outcome("failed" if problem else "done", problem), _pruning(job)
    if not problem and not all(batch.judge(run, step).fresh for step in steps):
        outcome = _Process(job, run, pruning).to_the_end()
    if pruning and outcome.state == "done":  # also what came after the last look
        list(pruning.report(epochs(run, job.rank)))
    seconds = round(time.monotonic() - started, 1)
    return Outcome(outcome.state, outcome.reason, seconds, job.stretch.taken)


def _wait_until_free(folder: Path) -> None:
    """Let a process whose worker died come to its end."""
    end = time.monotonic() + LONGEST_END_SECONDS
    while owner_of(folder) and time.monotonic() < end:
        time.sleep(POLL_SECONDS)


def _take_over(job: Job, run: Run) -> str | None:
    """Take over what other runs have computed; return what is wrong with it, if anything is."""
    with locked(run.folder):
        for number, owner in job.stretch.taken.items():
            step = find_step(number)
            if batch.judge(run, step).fresh:
                continue
            take_over(Run(job.folder / owner, run.settings, job.root), run, step)
            verdict = batch.judge(run, step)
            if not verdict.fresh:
                return f"{step.title} of {owner} cannot be taken over: {verdict.reason}"
    return None


def _pruning(job: Job) -> Pruning | None:
    if not job.search:
        return None
    from workbench.sweep.study import Pruning, Search

    return Pruning(Search(job.folder, job.search, job.rank), job.number)


class _Process:
    """The process of a run, watched from outside: its epochs, its memory, and its end."""

    def __init__(self, job: Job, run: Run, pruning: Pruning | None) -> None:
        self.job, self.run, self.pruning = job, run, pruning
        self.sweep = owner_of(job.folder)  # the process that asked for this
        self.log = job.folder / f"{run.name}.log"

    def to_the_end(self) -> Outcome:
        """Start the process, again where it was killed; it goes on from its checkpoints."""
        for left in reversed(range(self.job.retries + 1)):
            outcome, killed = self._once()
            if not killed or not left:
                break
        return outcome

    def _once(self) -> tuple[Outcome, bool]:
        with open(self.log, "ab") as log:
            begin = log.tell()
            process = start(self.job, self.run, log)
            try:
                stopped = self._watch(process)
            finally:
                _end(process)
        if stopped:
            self._say_why(stopped)
            return stopped, False
        if process.returncode == 0:
            return Outcome("done"), False
        return Outcome("failed", self._reason(process.returncode, begin)), process.returncode < 0

    def _watch(self, process: subprocess.Popen) -> Outcome | None:
        """Wait for the end; return why it has to end now, if it has to."""
        while process.poll() is None:
            if owner_of(self.job.folder) != self.sweep:
                return Outcome("waiting", "the sweep was stopped")
            if self.pruning and (words := self.pruning.judge(epochs(self.run, self.job.rank))):
                return Outcome("pruned", words)
            if self.job.memory and (used := _memory(process.pid)) > self.job.memory:
                return Outcome(
                    "failed",
                    f"it took {used / 2**30:.1f} GiB of memory, its worker has "
                    f"{self.job.memory / 2**30:.1f}. Take fewer workers, or a larger memory_gib",
                )
            try:
                process.wait(POLL_SECONDS)
            except subprocess.TimeoutExpired:
                continue
        return None

    def _say_why(self, outcome: Outcome) -> None:
        """Let the run's own status say why it was stopped, in place of a person."""
        for step in map(find_step, self.job.stretch.steps):
            if status.state_of(self.run.folder, step)["state"] == "interrupted":
                words = f"{outcome.state}: {outcome.reason}"
                status.record_failure(self.run.folder, step, words, "interrupted")

    def _reason(self, code: int, begin: int) -> str:
        if code < 0:
            name = signal.Signals(-code).name
            return f"its process was killed ({name}), most often because memory ran out"
        text = self.log.read_bytes()[begin:].decode("utf-8", errors="replace")
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        errors = [line for line in lines if line.startswith("error: ")]
        last = (errors or lines or ["it said nothing"])[-1].removeprefix("error: ")
        return f"{last} (exit code {code}, see {self.log.name})"


def start(job: Job, run: Run, log: IO[bytes]) -> subprocess.Popen:
    """Start the process of a run; Ctrl-C at a terminal reaches the sweep alone."""
    threads = str(run.settings.run.threads or os.cpu_count())
    pools = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    return subprocess.Popen(
        command(job, run), cwd=job.root, env=os.environ | dict.fromkeys(pools, threads),
        stdin=subprocess.PIPE, stdout=log, stderr=log, start_new_session=True,
    )  # fmt: skip


def command(job: Job, run: Run) -> list[str]:
    """Write the command that computes a stretch: the one that a person would type."""
    first, last = job.stretch.steps[0], job.stretch.steps[-1]
    words = [sys.executable, "-m", "workbench", "run", job.base, "--out", str(run.folder)]
    words += ["--from", first, "--to", last, "--stop-at-eof"]
    return words + [part for text in job.words for part in ("--set", text)]


def _end(process: subprocess.Popen) -> None:
    """End a process as if its worker were gone: it ends its kernel and writes its status first."""
    process.stdin.close()
    try:
        process.wait(LONGEST_END_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _memory(pid: int) -> float:
    """Add up what a process and its children hold."""
    total = 0
    try:
        main = psutil.Process(pid)
        for one in (main, *main.children(recursive=True)):
            total += one.memory_info().rss
    except psutil.NoSuchProcess:
        pass
    return total
