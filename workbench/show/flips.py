"""The photos that a threshold turns: those whose scores lie next to it, as small pictures."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from workbench.data.decode import decode_image
from workbench.data.tables import Split
from workbench.decide.calibration import Scores
from workbench.decide.levels import known_labels
from workbench.decide.recommendation import AnyThresholds, Thresholds
from workbench.errors import WorkbenchError
from workbench.settings import Settings
from workbench.show.gallery import data_uri, shrink

SIDE = 72  # pixels of the longer side, 2 to 3 KB each
IN_PAGE = 160  # of all classes together: a page stays below 0.6 MB more
AT_ONCE = 24  # that a live explorer asks for

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Flips:
    """Validation photos by score; a clip is shown by its first frame."""

    scores: Scores
    split: Split
    settings: Settings

    @classmethod
    def of(cls, run: Any, scores: Scores) -> Flips | None:
        """Find the photos of a run; None, with the reason said, where they are not there."""
        try:
            split = run.dataset().split("val")
        except (WorkbenchError, OSError) as error:
            log.warning("the explorer shows no photos: %s", error)
            return None
        return cls(scores, split, run.settings)

    def near(self, thresholds: AnyThresholds) -> dict[str, Any]:
        """Return the photos next to every threshold as data of a page: rows, scores, labels."""
        columns = self._columns()
        starts = (thresholds.integer if isinstance(thresholds, Thresholds)
                  else np.array([thresholds.probability]))  # fmt: skip
        each = IN_PAGE // (2 * len(starts))
        classes = [
            _entries(_next_to(score, known, start, each), score, there)
            for (score, there, known), start in zip(columns, starts, strict=True)
        ]
        rows = dict.fromkeys(row for entries in classes for row, _, _ in entries)
        return {"classes": classes, **self._pictures(rows)}

    def between(self, index: int, start: float, now: float) -> dict[str, Any]:
        """Return the photos of a class whose answer two thresholds turn, next to `now` first."""
        score, there, known = self._columns()[index]
        turned = known & ((score >= start) != (score >= now))
        inside = np.flatnonzero(turned)
        nearest = inside[np.argsort(np.abs(score[inside] - now), kind="stable")][:AT_ONCE]
        return {"index": index, "entries": _entries(nearest, score, there),
                **self._pictures(nearest.tolist())}  # fmt: skip

    def _columns(self) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Return score, label and whether it is known: by class, or of the one answer. [N] each"""
        scores, true = self.scores, self.scores.y_true > 0.5
        known = known_labels(scores.mask, true.shape)
        if scores.task == "multilabel":
            return list(zip(scores.raw.astype(int).T, true.T, known.T, strict=True))
        sure, best = scores.probability.max(1), scores.probability.argmax(1)
        right = (true & known).any(1) & (true.argmax(1) == best)
        return [(sure, right, known.all(1) | (true & known).any(1))]

    def _pictures(self, rows: Iterable[int]) -> dict[str, Any]:
        pictures, names, refused, clips = {}, {}, [], self.scores.clips
        for row in rows:
            photo = int(clips.first[row]) if clips.pools else row
            try:
                image = decode_image(self.split.path(photo), self.settings.dataset)
            except WorkbenchError as error:
                refused.append(error)
                continue
            pictures[str(row)] = data_uri(shrink(image, SIDE))
            names[str(row)] = Path(self.split.filepaths[photo]).name
        if refused:
            log.warning("%d photos cannot be shown in the explorer: %s", len(refused), refused[0])
        return {"pictures": pictures, "names": names}


def _next_to(score: np.ndarray, known: np.ndarray, start: float, each: int) -> np.ndarray:
    """Return the rows with the lowest scores that say yes and the highest that do not."""
    yes, no = np.flatnonzero(known & (score >= start)), np.flatnonzero(known & (score < start))
    above = yes[np.argsort(score[yes], kind="stable")][:each]
    below = no[np.argsort(-score[no], kind="stable")][:each]
    return np.concatenate([above, below])


def _entries(rows: np.ndarray, score: np.ndarray, there: np.ndarray) -> list[list]:
    return [[int(row), score[row].item(), bool(there[row])] for row in rows]
