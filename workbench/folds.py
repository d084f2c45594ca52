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
from zipfile import BadZipFile

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
from workbench.data.audit.labels import suspect_labels, write_label_errors
from workbench.data.tables import TABLES, read_tables
from workbench.decide.calibration import Scores
from workbench.decide.intervals import records
from workbench.decide.levels import LOWEST, NEVER
from workbench.decide.metrics import Predictions, evaluate
from workbench.decide.outcomes import probabilities
from workbench.decide.thresholds import search_scores
from workbench.errors import InputError
from workbench.files import writing
from workbench.parameters import flat_values
from workbench.settings import Settings

OUT_OF_FOLD = "out_of_fold.npz"
SHOWN = 20  # disputed labels in a terminal
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
    cuts = _thresholds(folds, found if tuned else [])
    words = [
        f"{folds.name}: {_network(stage)}s, each judged by the part that it did not learn from", "",
        *_lines(overall[overall["folds"] > 0]), "", *_lines(classes), "",
        "thresholds searched on all these answers together", *_lines(cuts),
    ]  # fmt: skip
    return "\n".join(words), {
        "name": folds.name, "network": _network(stage), "tuned": tuned,
        "overall": records(overall), "classes": records(classes), "thresholds": records(cuts),
    }  # fmt: skip


def _thresholds(folds: Folds, found: Sequence[np.ndarray | float]) -> pd.DataFrame:
    """Search thresholds on the answers to every image; beside them what the folds found alone."""
    answers = join(folds)
    searched = search_scores(answers.scores(), answers.labels, folds.settings)
    names = answers.labels if answers.task == "multilabel" else ("unknown",)
    table = pd.DataFrame({"class": names, "probability": np.atleast_1d(searched.probability)})
    if not found:
        return table
    own = np.array([np.atleast_1d(one) for one in found])
    return table.assign(**{"lowest of a fold": own.min(0), "highest": own.max(0)})


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


@dataclass(frozen=True)
class OutOfFold:
    """Answers to every image of train and val by the fold that did not learn from it."""

    task: str
    filepaths: np.ndarray  # [N]
    labels: tuple[str, ...]  # the names of the classes
    y_true: np.ndarray  # [N, C]
    mask: np.ndarray  # [N, C], 0 where the label is unknown
    fold: np.ndarray  # [N]
    groups: np.ndarray | None
    logits: Mapping[str, np.ndarray]  # by network, the furthest first: [N, C] each

    @property
    def network(self) -> str:
        return next(iter(self.logits))

    def scores(self, network: str | None = None) -> Scores:
        """Round a network's answers to 256 levels, as searches and calibration of 06 take them."""
        logits = self.logits[network or self.network]
        low, high = float(logits.min()), float(logits.max())
        scale = max(high - low, 1e-6) / (NEVER - 1 - LOWEST)
        zero_point = int(np.rint(LOWEST - low / scale))
        raw = np.clip(np.rint(logits / scale) + zero_point, LOWEST, NEVER - 1).astype(np.int8)
        known = self.y_true, self.mask, self.task
        return Scores(raw, scale, zero_point, *known, groups=self.groups)

    def label_errors(self, settings: Settings) -> pd.DataFrame:
        """Name the labels that networks which never learned from them dispute."""
        images = pd.DataFrame({"image": self.filepaths, "split": "train or val"})
        teacher = self.logits.get("teacher", self.logits[self.network])
        chances = probabilities(teacher, self.task)
        known = self.y_true, chances, self.mask, settings
        return suspect_labels(images, *known, classes=self.labels)


def join(folds: Folds) -> OutOfFold:
    """Join what each fold's networks answered to the part that it validated."""
    if folds.missing:
        left = ", ".join(map(str, folds.missing))
        raise InputError(f"{folds.name} lacks fold {left}: {folds.count}. Run them first")
    stages = stages_of(folds)
    parts = fold_predictions(folds, stages[0], tuned=False)
    joined = pool(folds.name, parts)
    _check_complete(folds, joined)
    logits = {
        _network(stage): np.concatenate(
            [stage_logits(folder, stage) for folder in folds.runs.values()]
        ).astype(np.float32)
        for stage in stages
    }
    sizes = [len(part.filepaths) for part in parts]
    return OutOfFold(
        joined.task, np.array(joined.filepaths), joined.classes, joined.y_true, joined.mask,
        np.repeat(list(folds.runs), sizes), joined.groups, logits,
    )  # fmt: skip


def _network(stage: str) -> str:
    return stage.removesuffix("_scores.npz")


def write_out_of_fold(answers: OutOfFold, path: Path) -> None:
    """Keep the answers in one file: filepaths, labels, y_true, mask, fold, <network>_logits."""
    grouped = {} if answers.groups is None else {"groups": answers.groups}
    logits = {f"{name}_logits": values for name, values in answers.logits.items()}
    with writing(path) as temporary, open(temporary, "wb") as file:
        np.savez(
            file, task=np.array(answers.task), filepaths=answers.filepaths,
            labels=np.array(answers.labels), y_true=answers.y_true, mask=answers.mask,
            fold=answers.fold, **grouped, **logits,
        )  # fmt: skip


def read_out_of_fold(path: Path) -> OutOfFold:
    """Read back what `write_out_of_fold` kept."""
    if not Path(path).is_file():
        raise InputError(f"{path} does not exist. Write it with: python -m workbench folds RUNS")
    try:
        with np.load(path, allow_pickle=False) as held:
            found = dict(held)
        logits = {name.removesuffix("_logits"): values for name, values in found.items()
                  if name.endswith("_logits")}  # fmt: skip
        answers = OutOfFold(
            str(found["task"]), found["filepaths"], tuple(map(str, found["labels"])),
            found["y_true"], found["mask"], found["fold"], found.get("groups"), logits,
        )  # fmt: skip
    except (ValueError, OSError, EOFError, KeyError, TypeError, BadZipFile):
        raise InputError(f"{path} is damaged. Write it again with: python -m workbench folds RUNS"
                         ) from None  # fmt: skip
    shape = len(answers.filepaths), len(answers.labels)
    arrays = [answers.y_true, answers.mask, *logits.values()]
    if not logits or any(array.shape != shape for array in arrays):
        raise InputError(f"{path} holds no answers to {shape[0]} images and {shape[1]} classes")
    return answers


def _check_complete(folds: Folds, joined: Predictions) -> None:
    folder = next(iter(folds.runs.values()))
    rows = read_tables(folder / TABLES, folder).rows
    asked = set(rows.loc[rows["split"] != "test", "filepath"])
    if asked != set(joined.filepaths):
        raise InputError(
            f"the folds of {folds.name} answered {len(joined.filepaths)} images, train and val "
            f"have {len(asked)}: the dataset changed between them. Run those that are out of date"
        )


def dispute(path: Path, settings: Settings, out: Path | None) -> tuple[str, list[dict[str, Any]]]:
    """Name the labels that the networks of a k-fold dispute, as they were when it was run."""
    answers = read_out_of_fold(path)
    if answers.task != settings.task:
        raise InputError(f"{path} is of a {answers.task} k-fold; set task: {answers.task}")
    suspects = answers.label_errors(settings)
    if out:
        write_label_errors(suspects, out)
    count = f"{len(suspects)} labels disputed by networks that did not learn from them"
    shown = suspects.head(SHOWN).drop(columns="split").replace("", "none")
    lines = shown.to_string(index=False).splitlines() if len(shown) else []
    return "\n".join([count, *lines]), records(suspects)
