"""How fast is the audit? Against decoding each image once, the least that any audit must do.

A dataset without splits, such as class folders, is split first, which looks at the images as well.
Draws photo-like images, or takes a folder of yours. Where cleanvision is installed, it is timed on
the same images in the same run.
"""

from __future__ import annotations

import importlib.util
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import psutil

from workbench.benchmarks.photos import list_photos
from workbench.data.audit.report import audit_dataset
from workbench.data.decode import count_cores, decode_image, map_in_order
from workbench.data.splits import deal_splits
from workbench.data.tables import Dataset
from workbench.data.views import Purpose, random_stream
from workbench.settings import DatasetSettings, RunSettings, Settings

WIDTH, HEIGHT, QUALITY = 500, 400, 90
BLOCK = 64
CLASSES = ("blue", "green", "red")
LOOK_SECONDS = 0.02  # between two looks at the memory in use


def run(
    *, count: int = 2000, width: int = WIDTH, height: int = HEIGHT, folder: Path | None = None,
    repeats: int = 3, threads: int = 0, seed: int = 0,
) -> dict[str, Any]:  # fmt: skip
    """Time `repeats` rounds of decoding and auditing in turn; the shortest of each counts."""
    threads = count_cores(threads)
    with tempfile.TemporaryDirectory(prefix="workbench_benchmark_") as place:
        images = Path(folder) if folder else draw_images(Path(place), count, width, height, seed)
        dataset = list_images(images)
        figures = _time_rounds(dataset, repeats, threads)
        figures["cleanvision_seconds"] = _time_cleanvision(images, threads)
    count = len(dataset.rows)
    slow = figures["cleanvision_seconds"]
    return figures | {
        "images": count,
        "threads": threads,
        "ratio": figures["audit_seconds"] / figures["decode_seconds"],
        "decode_images_per_second": count / figures["decode_seconds"],
        "audit_images_per_second": count / figures["audit_seconds"],
        "dealt_ratio": figures["dealt_seconds"] / figures["audit_seconds"],
        "dealt_images_per_second": count / figures["dealt_seconds"],
        "times_cleanvision": slow / figures["audit_seconds"] if slow else None,
    }


def table(figures: dict[str, Any]) -> str:
    """Write the figures for a terminal."""
    lines = [f"Audit of {figures['images']:,} images on {figures['threads']} threads",
             f"  {'':<22}{'seconds':>9}{'images/s':>10}{'memory MB':>11}"]  # fmt: skip
    names = {"decode": "decoding each once", "audit": "the whole audit",
             "dealt": "a split and the audit"}  # fmt: skip
    for what, name in names.items():
        speed, memory = figures[f"{what}_images_per_second"], figures[f"{what}_memory_bytes"] / 1e6
        lines.append(f"  {name:<22}{figures[f'{what}_seconds']:>9.2f}{speed:>10.0f}{memory:>11.0f}")
    lines.append(f"  the audit takes {figures['ratio']:.2f} times as long as decoding")
    lines.append(f"  a dataset without splits takes {figures['dealt_ratio']:.2f} times as long")
    if seconds := figures["cleanvision_seconds"]:
        lines.append(f"  {'cleanvision':<22}{seconds:>9.2f}{figures['images'] / seconds:>10.0f}")
        lines.append(f"  the audit is {figures['times_cleanvision']:.1f} times as fast")
    else:
        lines.append("  cleanvision is not installed, so there is no comparison with it")
    return "\n".join(lines)


def draw_images(folder: Path, count: int, width: int, height: int, seed: int) -> Path:
    """Draw photo-like JPEGs: soft colours, some shapes, some grain. A thousand take seconds."""

    def draw(number: int) -> None:
        rng = random_stream(Purpose.DRAW, seed, number)
        flags = [cv2.IMWRITE_JPEG_QUALITY, QUALITY]
        data = cv2.imencode(".jpg", draw_image(rng, width, height), flags)[1]
        (folder / f"{number:06d}.jpg").write_bytes(data.tobytes())

    for _ in map_in_order(draw, range(count), count_cores()):
        pass
    return folder


def draw_image(rng: np.random.Generator, width: int, height: int) -> np.ndarray:
    soft = rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)
    image = cv2.resize(soft, (width, height), interpolation=cv2.INTER_CUBIC)
    for _ in range(rng.integers(3, 9)):
        centre = (int(rng.integers(0, width)), int(rng.integers(0, height)))
        axes = (int(rng.integers(8, width // 4 + 9)), int(rng.integers(8, height // 4 + 9)))
        colour = tuple(int(value) for value in rng.integers(0, 256, 3))
        cv2.ellipse(image, centre, axes, float(rng.uniform(0, 180)), 0, 360, colour, cv2.FILLED)
    grain = rng.integers(0, 24, (height // 2, width // 2, 1), dtype=np.uint8)
    grain = cv2.resize(grain, (width, height), interpolation=cv2.INTER_LINEAR)
    return cv2.add(image, cv2.merge([grain] * 3))


def list_images(folder: Path) -> Dataset:
    """Make a dataset of every image in `folder`; labels and splits go round in turn."""
    found = list_photos(folder)
    rows = pd.DataFrame({"filepath": [path.relative_to(folder).as_posix() for path in found]})
    turn = np.arange(len(rows))
    rows["split"] = np.array(["train", "train", "val", "test"], dtype=object)[turn % 4]
    rows["labels"] = [(CLASSES[number % 3],) for number in turn]
    rows["unknown"] = [()] * len(rows)
    return Dataset(folder, CLASSES, rows.assign(source="drawn", line=turn + 2))


def _time_rounds(dataset: Dataset, repeats: int, threads: int) -> dict[str, Any]:
    """Take turns, so that a busy neighbour slows both."""
    own = {"run": RunSettings(threads=threads),
           "dataset": DatasetSettings(on_bad_image="quarantine")}  # fmt: skip
    settings = Settings(num_classes="auto", **own)
    paths = [dataset.images / name for name in dataset.rows["filepath"]]
    unsplit = replace(dataset, rows=dataset.rows.assign(split=""))

    def decode(start: int) -> None:
        for path in paths[start : start + BLOCK]:
            decode_image(path, settings.dataset)

    works = {"decode": lambda: list(map_in_order(decode, range(0, len(paths), BLOCK), threads)),
             "audit": lambda: audit_dataset(dataset, settings),
             "dealt": lambda: audit_dataset(deal_splits(unsplit, settings), settings)}  # fmt: skip
    figures: dict[str, Any] = {}
    for _ in range(repeats):
        for name, work in works.items():
            seconds, memory = _measure(work)
            shortest = min(seconds, figures.get(f"{name}_seconds", seconds))
            largest = max(memory, figures.get(f"{name}_memory_bytes", memory))
            figures |= {f"{name}_seconds": shortest, f"{name}_memory_bytes": largest}
    return figures


def _measure(work: Callable[[], object]) -> tuple[float, int]:
    """Give the seconds of `work` and the most memory the process held meanwhile."""
    process, over, most = psutil.Process(), threading.Event(), [0]

    def look() -> None:
        while not over.wait(LOOK_SECONDS):
            most[0] = max(most[0], process.memory_info().rss)

    watcher = threading.Thread(target=look, daemon=True)
    watcher.start()
    started = time.perf_counter()
    try:
        work()
        return time.perf_counter() - started, most[0]
    finally:
        over.set()
        watcher.join()


def _time_cleanvision(folder: Path, threads: int) -> float | None:
    """Time cleanvision's checks on the same images; None where it is not installed."""
    if importlib.util.find_spec("cleanvision") is None:
        return None
    from cleanvision import Imagelab

    started = time.perf_counter()
    Imagelab(data_path=str(folder)).find_issues(n_jobs=threads, verbose=False)
    return time.perf_counter() - started
