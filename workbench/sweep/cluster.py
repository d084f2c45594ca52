"""Who computes: Dask workers on this machine, one run each at a time, or a cluster that is there.

A cluster sees the project under the same path on every machine, and runs whatever it is sent: keep
its ports inside a network that you trust.
"""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from urllib.parse import urlparse

import dask
from dask.system import CPU_COUNT
from distributed import Client, Nanny, Scheduler, SpecCluster, get_worker
from distributed.system import MEMORY_LIMIT

from workbench.errors import InputError
from workbench.settings import SweepSettings
from workbench.sweep.trial import Job, Outcome, run_stretch

CORES_A_WORKER = 2
BYTES_A_WORKER = 4 * 2**30
LOOPBACK = "127.0.0.1"
SECONDS_TO_CONNECT = 20
LOSSES = 10  # of workers that a run outlives


@dataclass(frozen=True)
class Share:
    """What each worker of this machine gets."""

    workers: int
    threads: int
    memory: int  # bytes
    gpus: tuple[str, ...] = ()

    @property
    def words(self) -> str:
        what = f"{self.threads} threads and {self.memory / 2**30:.1f} GiB each"
        plural = "s" if self.workers > 1 else ""
        return f"{self.workers} worker{plural}, {what}" + (", a GPU each" if self.gpus else "")


def share_out(spec: SweepSettings, workers: int | None = None, runs: int = 1 << 30) -> Share:
    """Share this machine out: a worker a GPU, or one for two cores and 4 GiB of memory."""
    gpus = visible_gpus()
    usual = len(gpus) or max(1, min(CPU_COUNT // CORES_A_WORKER, MEMORY_LIMIT // BYTES_A_WORKER))
    count = workers or (min(usual, runs) if spec.workers == "auto" else spec.workers)
    threads = spec.threads or max(1, CPU_COUNT // count)
    memory = int(spec.memory_gib * 2**30) or MEMORY_LIMIT // count
    return Share(count, threads, memory, gpus if len(gpus) >= count else ())


def visible_gpus() -> tuple[str, ...]:
    """List the GPUs by the names that CUDA_VISIBLE_DEVICES takes; loading TensorFlow is slow."""
    if "CUDA_VISIBLE_DEVICES" in os.environ:
        named = os.environ["CUDA_VISIBLE_DEVICES"].split(",")
        return tuple(name for name in named if name not in ("", "-1"))
    if not shutil.which("nvidia-smi"):
        return ()
    told = subprocess.run(["nvidia-smi", "--list-gpus"], capture_output=True, text=True)
    lines = [line for line in told.stdout.splitlines() if line.startswith("GPU ")]
    return tuple(str(number) for number in range(len(lines)))


@contextmanager
def on_this_machine(share: Share) -> Iterator[Client]:
    """Start a worker process for each run at a time; one that is killed is started again."""
    workers = {number: _worker(share, number) for number in range(share.workers)}
    options = {
        "host": LOOPBACK,
        "port": 0,
        "dashboard": False,
        "dashboard_address": f"{LOOPBACK}:0",
    }
    scheduler = {"cls": Scheduler, "options": options}
    with (
        dask.config.set({"distributed.scheduler.allowed-failures": LOSSES}),
        SpecCluster(workers, scheduler, silence_logs=logging.ERROR) as cluster,
        Client(cluster) as client,
    ):
        yield client


def _worker(share: Share, number: int) -> dict:
    options = {"nthreads": 1, "memory_limit": share.memory, "host": LOOPBACK, "dashboard": False,
               "silence_logs": logging.ERROR}  # fmt: skip
    if share.gpus:
        options["env"] = {"CUDA_VISIBLE_DEVICES": share.gpus[number]}
        options["resources"] = {"GPU": 1}
    return {"cls": Nanny, "options": options}


@contextmanager
def at(address: str) -> Iterator[Client]:
    """Connect to a scheduler that somebody has started."""
    try:
        client = Client(address, timeout=SECONDS_TO_CONNECT)
    except (OSError, ValueError) as error:
        raise InputError(
            f"--scheduler {address}: {str(error) or 'no answer'}. Start one with: dask scheduler, "
            "and its workers with: dask worker ADDRESS --nthreads 1"
        ) from None
    with client:
        yield client


def slots(client: Client) -> int:
    """Count the runs that the workers can do at a time."""
    return max(1, sum(client.nthreads().values()))


def needs(client: Client) -> dict[str, float]:
    """Ask for a GPU where workers have them to give."""
    workers = client.scheduler_info(n_workers=-1)["workers"].values()
    return {"GPU": 1} if any("GPU" in (one["resources"] or {}) for one in workers) else {}


def neighbours(client: Client) -> dict[str, int]:
    """Count the runs at a time of each host: they share its cores."""
    found: dict[str, int] = {}
    for address, threads in client.nthreads().items():
        host = urlparse(address).hostname or ""
        found[host] = found.get(host, 0) + threads
    return found


def on_worker(job: Job, topic: str, hosts: dict[str, int]) -> Outcome:
    """Do a stretch with what this worker may use of its machine."""
    worker = get_worker()
    worker.log_event(topic, job.stretch.run)
    host = urlparse(worker.address).hostname or ""
    threads = job.threads or job.open().settings.run.threads
    threads = threads or max(1, CPU_COUNT // hosts.get(host, 1))
    return run_stretch(replace(job, threads=threads))
