"""Two finished runs side by side, from the files they left. No network is loaded."""

from __future__ import annotations

from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from workbench.decide.comparison import Comparison, Predictions, compare
from workbench.deploy import verify
from workbench.errors import InputError, MissingInputError
from workbench.run import Run, project_root, saved_settings
from workbench.steps.data import load_dataset


def compare_runs(first: Path, second: Path) -> Comparison:
    """Compare the phone files of two runs on the test images they share, paired."""
    settings = saved_settings(first)
    return compare(
        predictions_of(first),
        predictions_of(second),
        replicates=settings.evaluation.bootstrap_replicates,
        seed=settings.seed,
    )


def predictions_of(folder: Path) -> Predictions:
    """Read what a run answered on test, and at which thresholds."""
    run = Run(folder.resolve(), saved_settings(folder), project_root())
    raw = _raw_scores(run)
    test = load_dataset(run).split("test")
    config = run.read_json(verify.CONFIG)
    scores = verify.probabilities(raw, config)
    return Predictions(
        run.name, test.filepaths, test.classes, test.targets, scores,
        verify.probability_thresholds(config), run.settings.task, test.mask,
    )  # fmt: skip


def _raw_scores(run: Run) -> np.ndarray:
    path = run.path("test_scores.npz")
    if not path.exists():
        raise MissingInputError(f"{run.folder} has no test scores. Run 09_eval_report first")
    try:
        with np.load(path, allow_pickle=False) as held:
            return held["raw"]
    except (ValueError, EOFError, KeyError, BadZipFile):
        raise InputError(f"{path} is damaged. Run 09_eval_report again") from None
