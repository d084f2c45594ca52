"""k-fold: the runs of one dataset that validate one part each, taken together.

Every image of train and val is answered by a network that never learned from it. Those answers are
pooled for figures over all images, summed up over the folds, and kept in one file.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from workbench.changes import saved_settings
from workbench.compare import (
    CANDIDATE,
    STAGES,
    run_folders,
    stage_logits,
    tuned_thresholds,
    validation_predictions,
)
from workbench.data.tables import TABLES, read_tables
from workbench.decide.intervals import records
from workbench.decide.metrics import Predictions, evaluate
from workbench.errors import InputError
from workbench.files import writing
from workbench.parameters import flat_values
from workbench.settings import Settings

OUT_OF_FOLD = "out_of_fold.npz"
FOLD = "dataset.fold"
NO_FOLD = re.compile(r"[-_.]*(dataset\.)?(fold)?[-_.]*$")


@dataclass(frozen=True)
class Folds:
    """Runs that differ in `dataset.fold` alone, by fold."""

    name: str
    settings: Settings
    runs: Mapping[int, Path]

    @property
    def missing(self) -> list[int]:
        return [fold for fold in range(self.settings.dataset.folds) if fold not in self.runs]

    @property
    def count(self) -> str:
        return f"{len(self.runs)} of {self.settings.dataset.folds} folds"


def find_folds(runs: Iterable[tuple[Path, Settings]]) -> list[Folds]:
    """Gather the runs that are folds of one another; a fold counts once, the first of its name."""
    found: dict[str, tuple[Settings, dict[int, Path]]] = {}
    for folder, settings in runs:
        if settings.dataset.folds:
            values = flat_values(settings.model_dump())
            key = repr({name: value for name, value in values.items() if name != FOLD})
            found.setdefault(key, (settings, {}))[1].setdefault(settings.dataset.fold, folder)
    return [
        Folds(_name(list(by_fold.values())), settings, dict(sorted(by_fold.items())))
        for settings, by_fold in found.values()
        if len(by_fold) > 1
    ]


def _name(folders: Sequence[Path]) -> str:
    letters = zip(*(folder.name for folder in folders), strict=False)
    prefix = "".join(one[0] for one in takewhile(lambda one: len(set(one)) == 1, letters))
    return NO_FOLD.sub("", prefix) or f"{folders[0].parent.name} folds"


def read_folds(places: Sequence[Path]) -> Folds:
    """Find the one k-fold among these run folders."""
    folders = [folder.resolve() for place in places for folder in run_folders(Path(place))]
    found = find_folds((folder, saved_settings(folder)) for folder in dict.fromkeys(folders))
    if len(found) != 1:
        names = f": {', '.join(folds.name for folds in found)}" if found else ""
        raise InputError(
            f"{len(found)} k-folds among {len(folders)} runs{names}. Name the runs of one: "
            "alike in all but dataset.fold, with dataset.folds above 0"
        )
    return found[0]


def fold_predictions(folds: Folds, stage: str, *, tuned: bool) -> list[Predictions]:
    """Read what each fold's network answered to the part that it validated."""
    return [
        validation_predictions(folder, stage, tuned_thresholds(folder) if tuned else None)
        for folder in folds.runs.values()
    ]


def stages_of(folds: Folds) -> list[str]:
    """List the networks that answered in every fold, the furthest first."""
    stages = [stage for stage in STAGES if all((r / stage).exists() for r in folds.runs.values())]
    if not stages:
        raise InputError(f"{folds.name}: no network has answered in every fold. Run 03 in each")
    return stages


def report(folds: Folds) -> tuple[str, dict[str, Any]]:
    """Say how the furthest network does over the folds: for a terminal, and for a script."""
    stage = stages_of(folds)[0]
    found = [tuned_thresholds(run) for run in folds.runs.values()] if stage == CANDIDATE else [None]
    tuned = all(thresholds is not None for thresholds in found)
    overall, classes = over_folds(fold_predictions(folds, stage, tuned=tuned))
    network = stage.removesuffix("_scores.npz")
    head = f"{folds.name}: {network}s, each judged by the part that it did not learn from"
    words = [head, "", *_lines(overall[overall["folds"] > 0]), "", *_lines(classes)]
    return "\n".join(words), {
        "name": folds.name, "network": network, "tuned": tuned, "overall": records(overall),
        "classes": records(classes),
    }  # fmt: skip


def _lines(table: pd.DataFrame) -> list[str]:
    return table.to_string(index=False, na_rep="–", float_format="{:.4f}".format).splitlines()


def pool(name: str, parts: Sequence[Predictions]) -> Predictions:
    """Join the answers of all folds; every image keeps the thresholds of its fold."""
    first = parts[0]
    filepaths = tuple(path for part in parts for path in part.filepaths)
    if any(part.classes != first.classes for part in parts) or len(set(filepaths)) < len(filepaths):
        raise InputError(f"the folds of {name} have other classes or validated an image twice")
    arrays = {
        key: np.concatenate([getattr(part, key) for part in parts])
        for key in ("y_true", "y_score", "mask")
    }
    own = [_by_image(part) for part in parts]
    return Predictions(
        name, filepaths, first.classes, **arrays, thresholds=np.concatenate(own), task=first.task,
        groups=_groups(parts),
    )  # fmt: skip


def _by_image(part: Predictions) -> np.ndarray:
    shape = part.y_score.shape if part.task == "multilabel" else len(part.y_score)
    return np.broadcast_to(part.thresholds, shape)


def _groups(parts: Sequence[Predictions]) -> np.ndarray | None:
    """Number groups anew: each lies in one fold, and the folds counted for themselves."""
    if all(part.groups is None for part in parts):
        return None
    found, start = [], 0
    for part in parts:
        own = np.arange(len(part.filepaths)) if part.groups is None else part.groups
        found.append(own + start)
        start += own.max(initial=-1) + 1
    return np.concatenate(found)


def over_folds(parts: Sequence[Predictions]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Sum figures up over the folds: overall by figure, then F1 and average precision by class."""
    found = [
        evaluate(one.y_true, one.y_score, one.thresholds, one.classes, mask=one.mask, task=one.task)
        for one in parts
    ]
    names = list(found[0].overall)
    overall = np.array([[one.value(name) for name in names] for one in found], float)
    tables = [_spread({"figure": names}, overall)]
    for figure in ("f1", "average_precision"):
        rows = np.array([one.table[figure] for one in found], float)
        tables.append(_spread({"class": parts[0].classes, "figure": figure}, rows))
    return tables[0], pd.concat(tables[1:], ignore_index=True)


def _spread(front: Mapping[str, Any], values: np.ndarray) -> pd.DataFrame:
    """Mean, deviation and ends over the folds [K, N]; folds where a figure is undefined are out."""
    table = pd.DataFrame(values)
    columns = {"folds": table.count(), "mean": table.mean(), "deviation": table.std(),
               "lowest": table.min(), "highest": table.max()}  # fmt: skip
    return pd.DataFrame({**front, **columns})


def write_out_of_fold(folds: Folds, path: Path) -> dict[str, Any]:
    """Keep the answers to every image by the fold that did not learn from it, in one file.

    It holds `<network>_logits` [N, C] of each network that all folds have, filepaths, labels (the
    class names), y_true, mask, fold and groups.
    """
    if folds.missing:
        left = ", ".join(map(str, folds.missing))
        raise InputError(f"{folds.name} lacks fold {left}: {folds.count}. Run them first")
    stages = stages_of(folds)
    parts = fold_predictions(folds, stages[0], tuned=False)
    joined = pool(folds.name, parts)
    arrays = {
        f"{stage.removesuffix('_scores.npz')}_logits": np.concatenate(
            [stage_logits(folder, stage) for folder in folds.runs.values()]
        ).astype(np.float32)
        for stage in stages
    }
    _check_complete(folds, joined)
    sizes = [len(part.filepaths) for part in parts]
    arrays |= {
        "filepaths": np.array(joined.filepaths), "labels": np.array(joined.classes),
        "y_true": joined.y_true, "mask": joined.mask,
        "fold": np.repeat(list(folds.runs), sizes),
    }  # fmt: skip
    if joined.groups is not None:
        arrays["groups"] = joined.groups
    with writing(path) as temporary, open(temporary, "wb") as file:
        np.savez(file, **arrays)
    return {"file": str(path), "images": len(joined.filepaths), "folds": len(parts),
            "networks": [stage.removesuffix("_scores.npz") for stage in stages]}  # fmt: skip


def _check_complete(folds: Folds, joined: Predictions) -> None:
    folder = next(iter(folds.runs.values()))
    rows = read_tables(folder / TABLES, folder).rows
    asked = set(rows.loc[rows["split"] != "test", "filepath"])
    if asked != set(joined.filepaths):
        raise InputError(
            f"the folds of {folds.name} answered {len(joined.filepaths)} images, train and val "
            f"have {len(asked)}: the dataset changed between them. Run those that are out of date"
        )
