"""The answers furthest on the wrong side of their threshold: the first images to look at."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from workbench.decide import outcomes
from workbench.decide.answers import Answers, Task

COLUMNS = [
    "kind",
    "image",
    "filepath",
    "class",
    "class_index",
    "probability",
    "threshold",
    "said",
    "really",
]
KINDS = {"false positive": outcomes.FP, "false negative": outcomes.FN}


def worst_mistakes(
    y_true: np.ndarray,
    y_score: np.ndarray,
    thresholds: np.ndarray | float,
    classes: Sequence[str],
    filepaths: Sequence[str],
    *,
    limit: int,
    mask: np.ndarray | None = None,
    task: Task,
    per_class: int | None = None,
) -> pd.DataFrame:
    """List up to `limit` mistakes of each kind, worst first, at most `per_class` of one class.

    `image` is the row of the scores; `said` and `really` hold all classes of the image.
    """
    answers = Answers.of(y_true, y_score, thresholds, mask, task)
    bars = np.broadcast_to(np.asarray(thresholds, np.float64), answers.y_score.shape)
    distance = np.abs(answers.y_score - bars)
    rows = []
    for kind, outcome in KINDS.items():
        images, columns = np.nonzero(answers.cells == outcome)
        order = np.argsort(-distance[images, columns], kind="stable")
        for place in order[_spread(columns[order], limit, per_class)]:
            image, column = int(images[place]), int(columns[place])
            scores = float(answers.y_score[image, column]), float(bars[image, column])
            said = _names(answers.decisions[image], classes)
            really = _names(answers.y_true[image] > 0.5, classes)
            known = (kind, image, filepaths[image], classes[column], column)
            rows.append((*known, *scores, said, really))
    return pd.DataFrame(rows, columns=COLUMNS)


def _spread(columns: np.ndarray, limit: int, per_class: int | None) -> list[int]:
    taken: dict[int, int] = {}
    chosen = []
    for place, column in enumerate(columns.tolist()):
        taken[column] = taken.get(column, 0) + 1
        if per_class is None or taken[column] <= per_class:
            chosen.append(place)
        if len(chosen) == limit:
            break
    return chosen


def _names(chosen: np.ndarray, classes: Sequence[str]) -> tuple[str, ...]:
    return tuple(classes[index] for index in np.flatnonzero(chosen))
