"""Drawn scores and what follows from them, for the tests of everything that shows decisions."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
from PIL import Image

from workbench.decide.calibration import Scores
from workbench.decide.levels import LevelCounts, count_levels
from workbench.decide.recommendation import Thresholds, UnknownThreshold
from workbench.decide.thresholds import search
from workbench.decide.unknown import search_unknown
from workbench.settings import Settings, SingleLabelSettings, ThresholdSearchSettings
from workbench.show.flips import Flips

SCALE, ZERO_POINT = 0.06, -10
NAUGHTY = (
    "</script><script>document.title='owned'</script>",
    "<img src=x onerror=\"document.title='owned'\">",
    r"$\frac{$",
    "caf\u00e9 \u732b",
    "{{ 7*7 }}",
    "a very long class name that goes on and on",
    "NA",
)


def draw(images=400, classes=7, seed=0):
    rng = np.random.default_rng(seed)
    y_true = rng.random((images, classes)) < 0.2
    y_true[:, min(3, classes - 1)] = False  # one class that never occurs
    raw = rng.normal(-40, 25, y_true.shape) + np.linspace(30, 90, classes) * y_true
    return y_true, np.clip(raw, -128, 127).astype(np.int8)


def names(classes: int) -> tuple[str, ...]:
    return (NAUGHTY + tuple(f"class {index}" for index in range(classes)))[:classes]


def tuned(images=400, classes=7, seed=0) -> tuple[LevelCounts, Thresholds]:
    y_true, raw = draw(images, classes, seed)
    settings = ThresholdSearchSettings(bootstrap_replicates=20)
    found = search(y_true, raw, SCALE, ZERO_POINT, settings, names(classes), seed)
    return count_levels(y_true, raw), found


def tuned_unknown(seed=0) -> UnknownThreshold:
    rng = np.random.default_rng(seed)
    y_true = np.eye(4)[rng.integers(0, 4, 300)]
    logits = rng.normal(0, 1, (300, 4)) + 2 * y_true
    return search_unknown(y_true, logits, SingleLabelSettings(), names(4), seed)


def flips(folder: Path, images=400, classes=7, seed=0) -> Flips:
    """Photos behind the drawn scores: one picture, under names that a page must not obey."""
    y_true, raw = draw(images, classes, seed)
    Image.new("RGB", (12, 8), "teal").save(folder / "photo.png")
    files = [f"{row} {NAUGHTY[1]}" for row in range(images)]
    split = SimpleNamespace(path=lambda row: folder / "photo.png", filepaths=files)
    return Flips(Scores(raw, SCALE, ZERO_POINT, y_true, None, "multilabel"), split, Settings())
