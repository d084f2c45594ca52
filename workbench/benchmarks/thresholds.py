"""How fast are thresholds? The exact search against a loop over the grid with scikit-learn."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from sklearn.metrics import f1_score

from workbench.decide.intervals import resampled_levels
from workbench.decide.levels import Quantization
from workbench.decide.thresholds import search
from workbench.decide.tuning import best_thresholds, rules_of, tune
from workbench.settings import ThresholdSearchSettings

SIZES = ((20_000, 80), (100_000, 80), (1_000_000, 80))
SCALE, ZERO_POINT = 0.08, 10
POSITIVES = 0.05  # share of the images that have a class
REPEATS = 7  # the shortest of them: this measures the program, not its neighbours


def run(
    *, sizes: Sequence[tuple[int, int]] = SIZES, replicates: int = 1000,
    loop_classes: int | None = None, seed: int = 0,
) -> dict[str, Any]:  # fmt: skip
    """Measure on drawn scores of the first size, and the exact search on all of them.

    `loop_classes` runs the scikit-learn loop on that many classes and scales its time up.
    """
    settings = ThresholdSearchSettings(bootstrap_replicates=replicates)
    quantization = Quantization(SCALE, ZERO_POINT)
    y_true, raw = draw(*sizes[0], seed)
    exact = _exact_seconds(y_true, raw, settings, quantization)
    loop = _loop_seconds(y_true, raw, settings, quantization, loop_classes)
    return {
        "images": sizes[0][0],
        "classes": sizes[0][1],
        "exact_seconds": exact,
        "loop_seconds": loop,
        "loop_classes_measured": min(loop_classes or raw.shape[1], raw.shape[1]),
        "times_faster": loop / exact,
        "bootstrap_replicates": replicates,
        "bootstrap_seconds": _bootstrap_seconds(y_true, raw, settings, quantization, seed),
        "search_seconds": _search_seconds(y_true, raw, settings, seed),
        "growth": [_grown(size, settings, quantization, seed) for size in sizes],
    }


def table(figures: dict[str, Any]) -> str:
    """Write the figures for a terminal."""
    size = f"{figures['images']:,} x {figures['classes']}"
    lines = [
        f"Thresholds for {size} scores",
        f"  exact search of all 256 levels, every class  {figures['exact_seconds'] * 1e3:10.1f} ms",
        f"  loop over the grid with scikit-learn         {figures['loop_seconds'] * 1e3:10.0f} ms",
        f"  times faster                                 {figures['times_faster']:10,.0f}",
        f"  {figures['bootstrap_replicates']:,} resamples, tuned again on each       "
        f"{figures['bootstrap_seconds']:10.2f} s",
        f"  whole search with gains and intervals        {figures['search_seconds']:8.2f} s",
        "Growth of the exact search",
    ]
    lines += [
        f"  {row['images']:>9,} x {row['classes']:<3} {row['exact_seconds'] * 1e3:10.1f} ms"
        for row in figures["growth"]
    ]
    return "\n".join(lines)


def draw(images: int, classes: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw labels and int8 scores that overlap as real ones do."""
    rng = np.random.default_rng(seed)
    y_true = rng.random((images, classes), np.float32) < POSITIVES
    raw = rng.standard_normal((images, classes), np.float32)
    raw *= 30
    raw += np.where(y_true, np.float32(20), np.float32(-40))
    return y_true, np.clip(raw, -128, 127, out=raw).astype(np.int8)


def least_seconds(work: Callable[[], object], repeats: int = REPEATS) -> float:
    """Return the shortest of several runs."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)


def _exact_seconds(y_true, raw, settings, quantization) -> float:
    return least_seconds(lambda: best_thresholds(y_true, raw, settings, quantization))


def _grown(size, settings, quantization, seed) -> dict[str, Any]:
    y_true, raw = draw(*size, seed)
    seconds = _exact_seconds(y_true, raw, settings, quantization)
    return {"images": size[0], "classes": size[1], "exact_seconds": seconds}


def _loop_seconds(y_true, raw, settings, quantization, classes: int | None) -> float:
    """Time what everybody writes: f1_score for every class and every value of the grid."""
    probability = quantization.probabilities(raw)
    grid = np.arange(settings.grid_min, settings.grid_max + 1e-9, settings.grid_step)
    measured = min(classes or raw.shape[1], raw.shape[1])
    start = time.perf_counter()
    for label, score in zip(y_true.T[:measured], probability.T[:measured], strict=True):
        for bar in grid:
            f1_score(label, score >= bar, zero_division=0)
    return (time.perf_counter() - start) * raw.shape[1] / measured


def _bootstrap_seconds(y_true, raw, settings, quantization, seed) -> float:
    """Time resampling the images and tuning every class and the shared threshold on each draw."""
    rules, rng = rules_of(settings, quantization), np.random.default_rng(seed)
    start = time.perf_counter()
    for block in resampled_levels(y_true, raw, None, settings.bootstrap_replicates, rng):
        tune(block, rules)
    return time.perf_counter() - start


def _search_seconds(y_true, raw, settings, seed) -> float:
    names = [f"class {index}" for index in range(raw.shape[1])]
    start = time.perf_counter()
    search(y_true, raw, SCALE, ZERO_POINT, settings, names, seed)
    return time.perf_counter() - start
