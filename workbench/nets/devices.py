"""The machine: seeds, threads, determinism, precision and how many devices share a batch.

Of several machines each works in a run folder of its own: all of them end with the same weights.
Batch norm keeps statistics per replica. A replica sees a whole per-device batch, which is enough,
and synchronised layers are none that quantisation accepts.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import tensorflow as tf
import tf_keras as keras

from workbench.settings import Settings

logger = logging.getLogger(__name__)


def prepare_devices(settings: Settings) -> None:
    """Limit threads and let GPU memory grow.

    Has to come before TensorFlow computes anything; a second call finds nothing left to do.
    """
    threads, threading = settings.run.threads, tf.config.threading
    try:
        for gpu in tf.config.list_physical_devices("GPU"):
            if not tf.config.experimental.get_memory_growth(gpu):
                tf.config.experimental.set_memory_growth(gpu, True)
        if threads not in (0, threading.get_intra_op_parallelism_threads()):
            threading.set_intra_op_parallelism_threads(threads)
            threading.set_inter_op_parallelism_threads(threads)
    except RuntimeError:  # TensorFlow refuses changes once it runs
        logger.info("devices are in use already: threads and memory growth stay as they are")


def meet_other_machines(settings: Settings) -> None:
    """Wait for the machines of a shared training; TensorFlow wants that before it computes."""
    if _asks_for_several_machines(settings):
        _across_machines()


def seed_everything(settings: Settings) -> None:
    """Seed Python, NumPy and TensorFlow; what is built next is a function of the settings."""
    keras.utils.set_random_seed(settings.seed)
    if is_deterministic(settings):
        tf.config.experimental.enable_op_determinism()


def is_deterministic(settings: Settings) -> bool:
    """Say whether bits must repeat; GPUs have no fixed order for gradients of fake quantisation."""
    asked = settings.run.deterministic
    return asked is True or (asked == "auto" and not tf.config.list_physical_devices("GPU"))


def describe_devices(strategy: tf.distribute.Strategy) -> str:
    """Say in a few words what computes, and in which number format."""
    names = device_names()
    what = f"{os.cpu_count()} CPU cores" if names == ["CPU"] else ", ".join(names)
    replicas = strategy.num_replicas_in_sync
    shared = f", {replicas} replicas" if replicas > 1 else ""
    return f"{what}{shared}, {keras.mixed_precision.global_policy().name}"


def device_names() -> list[str]:
    """Name the GPUs that TensorFlow itself lists, or the CPU."""
    return [known.get("device_name", gpu.name) for gpu, known in _gpus()] or ["CPU"]


def _gpus() -> list[tuple[tf.config.PhysicalDevice, dict]]:
    """List the GPUs with what TensorFlow knows of each."""
    details = tf.config.experimental.get_device_details
    return [(gpu, details(gpu)) for gpu in tf.config.list_physical_devices("GPU")]


@cache
def say_once(words: str) -> None:
    logger.info("%s", words)


def choose_strategy(settings: Settings) -> tf.distribute.Strategy:
    """Choose how many devices share a batch; say so when several were asked for and one is here."""
    if not settings.multi_gpu.enabled:
        return tf.distribute.get_strategy()
    if _asks_for_several_machines(settings):
        return _across_machines()
    if settings.multi_gpu.strategy == "multi_worker":
        logger.info("multi_gpu.strategy is multi_worker but TF_CONFIG names no other machine")
    devices = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
    if len(devices) > 1:
        return _across_devices(tuple(device.name for device in devices))
    say_once("multi_gpu is enabled but there is one device: it has no effect")
    return tf.distribute.get_strategy()


def _asks_for_several_machines(settings: Settings) -> bool:
    several = settings.multi_gpu.enabled and settings.multi_gpu.strategy == "multi_worker"
    return several and _place()[1] > 1


# One of each a process: TensorFlow numbers the meetings of devices from 0 in every strategy, and
# two phases that met under one number would take each other's gradients.
@cache
def _across_machines() -> tf.distribute.Strategy:
    return tf.distribute.MultiWorkerMirroredStrategy()


@cache
def _across_devices(names: tuple[str, ...]) -> tf.distribute.Strategy:
    return tf.distribute.MirroredStrategy(list(names))


def distributed(strategy: tf.distribute.Strategy, dataset: tf.data.Dataset):
    """Share a stream among the devices of this machine.

    With several machines each reads its own part of the images, in batches for one device.
    """
    if _spans_machines(strategy):
        return strategy.distribute_datasets_from_function(lambda _context: dataset)
    return strategy.experimental_distribute_dataset(dataset)


def agreed(strategy: tf.distribute.Strategy, figures: dict[str, float]) -> dict[str, float]:
    """Take the chief's figures on every machine: all of them must stop after the same epoch."""
    if not _spans_machines(strategy):
        return figures
    values = tf.constant(list(figures.values()), tf.float64)

    def total() -> tf.Tensor:
        context = tf.distribute.get_replica_context()
        first = tf.equal(context.replica_id_in_sync_group, 0)
        mine = tf.where(first, values, tf.zeros_like(values))
        return context.all_reduce(tf.distribute.ReduceOp.SUM, mine)

    chief = strategy.experimental_local_results(strategy.run(total))[0].numpy()
    return dict(zip(figures, chief.tolist(), strict=True))


def earliest(strategy: tf.distribute.Strategy, epoch: int) -> int:
    """Find the last epoch that every machine has reached: a kill may leave one of them ahead."""
    if not _spans_machines(strategy):
        return epoch

    def gathered() -> tf.Tensor:
        return tf.distribute.get_replica_context().all_gather(tf.constant([epoch]), axis=0)

    return int(min(strategy.experimental_local_results(strategy.run(gathered))[0].numpy()))


def worker(strategy: tf.distribute.Strategy | None) -> tuple[int, int]:
    """Tell which of how many machines this is to a strategy."""
    return _place() if _spans_machines(strategy) else (0, 1)


def _spans_machines(strategy: tf.distribute.Strategy | None) -> bool:
    return isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy)


@contextmanager
def precision(settings: Settings) -> Iterator[str]:
    """Build layers in the number format of the settings, whose name it gives, then go back."""
    before, name = keras.mixed_precision.global_policy(), _precision(settings)
    keras.mixed_precision.set_global_policy(name)
    try:
        yield name
    finally:
        keras.mixed_precision.set_global_policy(before)


def _place() -> tuple[int, int]:
    """Read this machine's number, and how many there are, from TF_CONFIG."""
    configuration = json.loads(os.environ.get("TF_CONFIG", "{}"))
    if "cluster" not in configuration:
        return 0, 1
    cluster, task = configuration["cluster"], configuration["task"]
    kinds = [kind for kind in ("chief", "worker") for _address in cluster.get(kind, ())]
    return kinds.index(task["type"]) + task["index"], len(kinds)


def _precision(settings: Settings) -> str:
    if settings.precision != "auto":
        return settings.precision
    capabilities = [known.get("compute_capability", (0, 0)) for _gpu, known in _gpus()]
    # Tensor cores came with compute capability 7.0; below it half precision gains nothing.
    return "mixed_float16" if capabilities and min(capabilities) >= (7, 0) else "float32"
