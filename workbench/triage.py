"""Which photos of a folder to label next, which are unlike training, and how the folder differs.

A photo is worth a label where the answer is near a *tuned* threshold, the class is rare in
training, and nothing like it was labelled or chosen already. What the network thinks of a photo is
no label: the table that goes back in says `?`, and a person fills it.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np

from workbench.data.cells import EVERY, csv_text
from workbench.data.layouts import COLUMNS
from workbench.decide.drift import Difference, drift, p_values, unlike
from workbench.errors import InputError, printable
from workbench.predict import Answers
from workbench.reference import Reference, unit

POOL = 20  # candidates for each photo that is chosen: variety is searched among them


@dataclass(frozen=True)
class Triage:
    """What a folder of photos is good for."""

    answers: Answers
    reference: Reference
    chosen: np.ndarray  # rows to label, the most useful first
    worth: np.ndarray  # nearness x rarity [N]
    column: np.ndarray  # the class that it is worth it for [N]
    near: np.ndarray  # training photos [N, K]
    distance: np.ndarray  # to the nearest of them [N]

    @cached_property
    def p(self) -> np.ndarray:
        """Share of validation photos that lie as far from training. [N]"""
        return p_values(self.distance, self.reference.usual)

    @cached_property
    def unlike(self) -> np.ndarray:
        """Rows of photos that are unlike anything in training, the farthest first."""
        rows = np.flatnonzero(unlike(self.p))
        return rows[np.argsort(-self.distance[rows], kind="stable")]

    @property
    def beyond(self) -> tuple[int, float]:
        """How many photos lie farther than every validation photo, and how many would by luck."""
        farther = int((self.distance > self.reference.usual.max()).sum())
        return farther, len(self.distance) / (len(self.reference.usual) + 1)

    @cached_property
    def drift(self) -> list[Difference]:
        validation = self.reference.validation
        names = [name for name, _ in self.answers.counts()]
        said = (_said(self.answers), _said(validation))
        usual = self.reference.usual
        return drift(names, *said, self.distance, usual, self.reference.worth)

    def csv(self) -> str:
        """Return the chosen photos as a label table of which nothing is known yet."""
        rows = ((printable(self.answers.names[row]), EVERY[0]) for row in self.chosen)
        return csv_text(COLUMNS, rows)

    def to_json(self) -> dict[str, Any]:
        names = [printable(name) for name in self.answers.names]
        return {
            "photos": len(names), "unread": self.answers.unread,
            "label_next": [
                {"photo": names[row], "class": self.answers.labels[self.column[row]],
                 "worth": float(self.worth[row]), "answer": self.answers.words(row)}
                for row in self.chosen
            ],
            "unlike": [{"photo": names[row], "p": float(self.p[row])} for row in self.unlike],
            "farther_than_all_of_validation": self.beyond[0], "expected_by_luck": self.beyond[1],
            "drift": [asdict(one) for one in self.drift],
        }  # fmt: skip


def _said(answers: Answers) -> np.ndarray:
    """Return which answers were given, the last one being none. [N, C + 1]"""
    said = np.zeros((len(answers.names), len(answers.labels) + 1), bool)
    for row, names in enumerate(answers.decisions):
        said[row, [answers.labels.index(name) for name in names] or [-1]] = True
    return said


def triage(answers: Answers, reference: Reference, count: int) -> Triage:
    """Choose `count` photos to label, and hold all of them against the run's own."""
    if answers.features is None or len(answers.names) < 2:
        raise InputError(
            f"{answers.folder} holds too few photos that can be read. Give two or more"
        )
    near, distance = reference.nearest(answers.features)
    worth, column = useful(answers, reference.positives)
    typical = float(np.median(reference.usual)) or 1e-6
    chosen = vary(worth, distance[:, 0], answers.features, typical, count)
    return Triage(answers, reference, chosen, worth, column, near, distance[:, 0])


def useful(answers: Answers, positives: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return nearness x rarity of each photo, and the class with the most of it. [N] each

    Nearness falls from 1 at the threshold to 0 at either end; a class with a quarter of another's
    photos counts twice as much.
    """
    rarity = np.sqrt(max(positives.min(), 1) / np.maximum(positives, 1))
    if answers.single:
        score, bars = answers.confidence[:, None], answers.bars
        column = answers.distance.argmax(1)
        return nearness(score, bars)[:, 0] * rarity[column], column
    value = nearness(answers.shown, answers.bars) * rarity
    return value.max(1), value.argmax(1)


def nearness(score: np.ndarray, bars: np.ndarray) -> np.ndarray:
    below, above = np.maximum(bars, 1e-9), np.maximum(1 - bars, 1e-9)
    return np.clip(np.where(score < bars, score / below, (1 - score) / above), 0, 1)


def vary(
    worth: np.ndarray, distance: np.ndarray, features: np.ndarray, typical: float, count: int
) -> np.ndarray:
    """Choose the most useful photos one after the other, each unlike those before it.

    What lies nearer to training, or to a chosen photo, than validation photos usually do to
    training counts for less, a copy for nothing.
    """
    variety = np.minimum(1, distance / typical)
    pool = np.argsort(-worth * variety, kind="stable")[: POOL * count]
    value, variety, seen = worth[pool], variety[pool], unit(features[pool])
    chosen = []
    for _ in range(min(count, len(pool))):
        left = value * variety
        best = int(left.argmax())
        if left[best] <= 0:
            break
        chosen.append(best)
        variety = np.minimum(variety, np.clip(1 - seen @ seen[best], 0, None) / typical)
        variety[best] = 0
    return pool[chosen].astype(int)
