"""What trained networks say of validation images: kept beside the labels, compared, pooled."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from workbench.data.tables import Dataset, Split, join_splits, load_dataset
from workbench.decide import metrics
from workbench.decide.outcomes import probabilities
from workbench.errors import InputError
from workbench.files import read_json, writing
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


def out_of_sample(
    folder: Path, root: Path, dataset: Dataset, settings: Settings
) -> tuple[Split, np.ndarray]:
    """Join what the teachers of all folds say of the images that they did not learn from.

    Runs beside this one that differ in `dataset.fold` only cover the rest of train; without them it
    is this run's validation. Returns the images and the probabilities [N, C].
    """
    parts = [(dataset.split("val"), read_scores(folder / "teacher_scores.npz"))]
    for other in _other_folds(folder, settings):
        split = load_dataset(other, root).split("val")
        parts.append((split, read_scores(other / "teacher_scores.npz")))
    if len(parts) == 1:
        return parts[0][0], probabilities(parts[0][1], settings.task)
    logger.info("labels are judged by the teachers of %d folds", len(parts))
    joined = join_splits([split for split, _logits in parts])
    return joined, probabilities(np.concatenate([one for _split, one in parts]), settings.task)


def _other_folds(folder: Path, settings: Settings) -> list[Path]:
    """List runs of other folds of the same dataset that have a teacher's scores, a fold once."""
    if not settings.dataset.folds:
        return []
    found: dict[int, Path] = {settings.dataset.fold: folder}
    for path in sorted(folder.parent.glob("*/training_config.json")):
        fold = _fold_of(path, settings)
        if fold is not None and (path.parent / "teacher_scores.npz").exists():
            found.setdefault(fold, path.parent)
    return [found[fold] for fold in sorted(found) if found[fold] != folder]


def _fold_of(path: Path, settings: Settings) -> int | None:
    try:
        other = read_json(path)["dataset"]
    except (InputError, KeyError, TypeError, OSError):
        return None
    own = settings.dataset.model_dump(exclude={"fold"})
    rest = {name: value for name, value in other.items() if name != "fold"}
    return other.get("fold") if rest == own else None
