"""08: pack what the app developer receives."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from workbench.data.decode import decode_image
from workbench.data.tables import Split
from workbench.deploy.bundle import Bundle, GoldenImage, write_bundle
from workbench.deploy.calibrate import choose_calibration
from workbench.run import Run
from workbench.steps.data import load_dataset
from workbench.steps.export import versions
from workbench.steps.quantization import LADDER
from workbench.steps.thresholds import CALIBRATION, RECOMMENDATION, read_classes


def pack(run: Run) -> Bundle:
    """Describe the shipped file for an app, with golden vectors from validation images."""
    with run.step("08"):
        validation = load_dataset(run).split("val")
        return write_bundle(
            run.folder,
            run.settings,
            read_classes(run),
            run.read_json(RECOMMENDATION),
            run.read_json(LADDER),
            golden_images(run, validation),
            versions=versions(),
            calibration=run.read_json(CALIBRATION),
        )


def golden_images(run: Run, split: Split) -> list[GoldenImage]:
    """Choose a few images that cover the classes, decoded as the app decodes them."""
    rows = choose_calibration(split, run.settings.tflite_export.golden_images, run.settings.seed)
    return [_golden(run, split, int(row)) for row in rows]


def _golden(run: Run, split: Split, row: int) -> GoldenImage:
    labels = tuple(np.array(split.classes)[split.targets[row] > 0.5].tolist())
    pixels = decode_image(split.path(row), run.settings.dataset)
    name = f"{row:04d}_{_plain(Path(split.filepaths[row]).stem)}"
    return GoldenImage(name, pixels, labels)


def _plain(name: str) -> str:
    """Keep a file name to what every file system and C string holds."""
    kept = "".join(c if c.isascii() and (c.isalnum() or c in "-_") else "_" for c in name)
    return kept[:40]
