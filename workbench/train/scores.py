"""What trained networks say of validation images: kept beside the labels, compared, pooled."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from workbench.data.tables import Split
from workbench.decide import metrics
from workbench.decide.outcomes import probabilities
from workbench.files import writing
from workbench.settings import Settings

logger = logging.getLogger(__name__)


def write_scores(path: Path, logits: np.ndarray, split: Split) -> None:
    """Keep logits [N, C] beside the labels; the same values give the same bytes."""
    grouped = {} if split.groups is None else {"groups": split.groups}
    with writing(path) as temporary, open(temporary, "wb") as file:
        np.savez(file, logits=logits, y_true=split.targets, mask=split.mask, **grouped)


def read_scores(path: Path) -> np.ndarray:
    """Read the logits that `write_scores` kept."""
    with np.load(path, allow_pickle=False) as archive:
        return archive["logits"]


def class_table(logits: Mapping[str, np.ndarray], split: Split, settings: Settings) -> pd.DataFrame:
    """Compare networks class by class, at the neutral threshold of one half."""
    columns: dict[str, object] = {"class": split.classes, "photos": split.targets.sum(axis=0)}
    for name, values in logits.items():
        found = metrics.evaluate(
            split.targets,
            probabilities(values, settings.task),
            np.full(len(split.classes), 0.5) if settings.task == "multilabel" else 0.0,
            split.classes,
            mask=split.mask,
            task=settings.task,
        ).table
        columns[f"{name} F1"] = found["f1"].to_numpy()
        columns[f"{name} AP"] = found["average_precision"].to_numpy()
    return pd.DataFrame(columns)
