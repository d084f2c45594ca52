"""08: pack what the app developer receives."""

from __future__ import annotations

from pathlib import Path

from workbench.artifacts import InferenceConfig, QuantizationLadder
from workbench.decide.recommendation import RECOMMENDATION
from workbench.deploy.bundle import choose_golden, write_bundle, write_golden
from workbench.deploy.config import inference_config
from workbench.deploy.sources import app_sources
from workbench.run import Run
from workbench.steps.export import versions


def pack(run: Run) -> tuple[InferenceConfig, tuple[Path, ...]]:
    """Describe the shipped file for an app, with golden vectors from validation images."""
    with run.step("08"):
        config = inference_config(
            run.folder, run.settings, run.dataset().classes, run.read_json(RECOMMENDATION),
            QuantizationLadder.read(run.folder), versions(), run.read_json("calibration.json"),
        )  # fmt: skip
        images = choose_golden(run.dataset().split("val"), run.settings)
        vectors = write_golden(run.folder, config, images)
        return config, write_bundle(run.folder, config, app_sources(config, vectors))
