"""How fast are photos answered? `predict` against decoding alone and a bare LiteRT loop.

Draws JPEGs as the pipeline's benchmark does, or takes a folder of your own. The bare loop is what
people write: one interpreter, one letterboxed image after the other, already in memory. `predict`
pays for both on the same cores, so decoding and inference, each on all of them, say what is left
to gain. The stages take turns, so that a busy neighbour slows all; the shortest time counts.
"""

from __future__ import annotations

import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from workbench.benchmarks.photos import MOST_DRAWN, draw_images
from workbench.data.decode import count_cores, map_in_order
from workbench.data.letterbox import letterbox
from workbench.deploy import tflite
from workbench.errors import InputError
from workbench.predict import Classifier, Photos, find_photos

DECODING, BARE = "decoding alone", "bare LiteRT loop"
INFERENCE = "inference on all cores"
KEPT = 32  # letterboxed images that the bare loop goes through again and again


def run(
    *, count: int = 1000, run_folder: Path | None = None, folder: Path | None = None,
    repeats: int = 5,
) -> dict[str, Any]:  # fmt: skip
    """Time `repeats` rounds of `count` photos, answered by the file that a run ships."""
    if run_folder is None:
        raise InputError("benchmark predict answers with a finished run: name it with --run")
    classifier = Classifier(run_folder)
    with tempfile.TemporaryDirectory(prefix="workbench_benchmark_") as place:
        images = Path(folder) if folder else draw_images(Path(place), min(count, MOST_DRAWN))
        found = find_photos(images)
        times = -(-count // len(found.names))
        photos = Photos(found.folder, (times * found.names)[:count])
        stages = _stages(classifier, photos)
        rounds = [{name: _seconds(stage) for name, stage in stages.items()} for _ in range(repeats)]
    wall, cpu = ({name: min(one[name][clock] for one in rounds) / count for name in stages}
                 for clock in (0, 1))  # fmt: skip
    speed = {name: 1 / seconds for name, seconds in wall.items()}
    slower = min(speed[DECODING], speed[BARE])
    both = 1 / (1 / speed[DECODING] + 1 / speed[INFERENCE])
    return {
        "photos": count, "cores": count_cores(), "input_size": classifier.config["input"]["width"],
        "photos_per_second": speed, "cpu_seconds_a_photo": cpu,
        "of_the_slower": speed["predict"] / slower,
        "of_both_in_turn": speed["predict"] / both,
        "peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }  # fmt: skip


def table(figures: dict[str, Any]) -> str:
    """Write the figures for a terminal."""
    lines = [
        f"{figures['photos']:,} photos at {figures['input_size']} px on {figures['cores']} cores",
        f"  {'':<24}{'photos/s':>10}{'CPU us':>9}",
        *(f"  {name:<24}{speed:>10.0f}{1e6 * figures['cpu_seconds_a_photo'][name]:>9.0f}"
          for name, speed in figures["photos_per_second"].items()),
        f"  predict is {figures['of_the_slower']:.2f} of the slower of decoding and bare loop, "
        f"{figures['of_both_in_turn']:.2f} of decoding and inference one after the other",
        f"  most memory of the process: {figures['peak_memory_bytes'] / 1e6:.0f} MB",
    ]  # fmt: skip
    return "\n".join(lines)


def _stages(classifier: Classifier, photos: Photos) -> dict[str, Callable[[], object]]:
    size = classifier.config["input"]["width"]
    squares = [letterbox(classifier.read(path), size) for path in photos.paths[:KEPT]]
    images = [squares[number % len(squares)] for number in range(len(photos.names))]
    model = (classifier.folder / classifier.config["model"]["file"]).read_bytes()

    def decode() -> None:
        for _ in map_in_order(classifier.read, photos.paths, count_cores()):
            pass

    def infer() -> None:
        for _ in map_in_order(classifier.answer_square, images, count_cores()):
            pass

    return {
        DECODING: decode,
        BARE: lambda: tflite.run_tflite(model, images),
        INFERENCE: infer,
        "predict": lambda: classifier.answers(photos),
    }


def _seconds(stage: Callable[[], object]) -> tuple[float, float]:
    """Return the time on the clock, and that of all cores together."""
    wall, cpu = time.perf_counter(), time.process_time()
    stage()
    return time.perf_counter() - wall, time.process_time() - cpu
