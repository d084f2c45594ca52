"""08: pack what the app developer receives."""

from __future__ import annotations

from workbench.decide.recommendation import RECOMMENDATION
from workbench.deploy.bundle import Bundle, choose_golden, write_bundle
from workbench.run import Run
from workbench.steps.data import load_dataset
from workbench.steps.export import versions
from workbench.steps.quantization import LADDER


def pack(run: Run) -> Bundle:
    """Describe the shipped file for an app, with golden vectors from validation images."""
    with run.step("08"):
        validation = load_dataset(run).split("val")
        return write_bundle(
            run.folder,
            run.settings,
            tuple(run.need("labels.txt").read_text(encoding="utf-8").splitlines()),
            run.read_json(RECOMMENDATION),
            run.read_json(LADDER),
            choose_golden(validation, run.settings),
            versions=versions(),
            calibration=run.read_json("calibration.json"),
        )
