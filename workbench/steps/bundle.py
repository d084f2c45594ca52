"""08: pack what the app developer receives."""

from __future__ import annotations

from workbench.deploy.bundle import Bundle, choose_golden, write_bundle
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
            choose_golden(validation, run.settings),
            versions=versions(),
            calibration=run.read_json(CALIBRATION),
        )
