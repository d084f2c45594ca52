"""What would answers score that ignore the photo? On the same images, so that they compare.

A network that says yes to everything may have a high F1 where classes are frequent: only what it
has above these is learned.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from pydantic import BaseModel

from workbench.decide import outcomes
from workbench.decide.budget import paired_loss
from workbench.decide.intervals import LEAST_IMAGES, image_weights, interval, or_none
from workbench.decide.levels import mean_defined, ratio
from workbench.decide.outcomes import Answers


class Trivial(BaseModel, frozen=True, extra="forbid", allow_inf_nan=False):
    """The figure of the answers, what trivial ones score in it, and the gain over the best."""

    figure: Literal["f1_macro", "accuracy"]
    answers: dict[str, float]  # the best first
    gain: float | None
    interval: tuple[float, float] | None  # paired, 95 %

    @property
    def best(self) -> str:
        return next(iter(self.answers))

    @property
    def rows(self) -> list[dict[str, str | float]]:
        """Give a row an answer, for a table."""
        return [{"without the photo": name, "score": one} for name, one in self.answers.items()]


def trivial_answers(answers: Answers, *, replicates: int, seed: int) -> Trivial:
    """Score what ignores the photo, and resample the gain over the best of it.

    The most frequent class and how often each is true are taken from these very images: that
    favours the trivial side a little.
    """
    if answers.task == "single_label":
        return _single_label(answers, replicates, seed)
    cells = outcomes.count_outcomes(answers.cells)
    positives = cells[:, [outcomes.FN, outcomes.TP]].sum(1).astype(np.float64)
    known = cells.sum(1)
    occurs = np.where(positives > 0, 1.0, np.nan)
    yes = ratio(2 * positives, positives + known) * occurs
    first = np.arange(len(positives)) == positives.argmax()
    found = {
        "always yes": mean_defined(yes, 0),
        "the most frequent class alone": mean_defined(np.where(first, yes, 0) * occurs, 0),
        "at random, as often as it is true": mean_defined(ratio(positives, known) * occurs, 0),
        "always no": 0.0,
    }
    drawn = {"replicates": replicates, "seed": seed, "groups": answers.groups}
    always = np.ones(answers.decisions.shape, bool)
    gain = paired_loss(answers.decisions, always, answers.y_true, answers.mask, **drawn)
    return _trivial("f1_macro", found, gain.value, gain.interval, len(answers.y_true))


def _single_label(answers: Answers, replicates: int, seed: int) -> Trivial:
    """The one answer is right or wrong, unknown or not: so is always naming one class."""
    rows = answers.labelled
    best = answers.y_true[rows].argmax(1)
    if not len(best):
        return _trivial("accuracy", {"the most frequent class": 0.0}, np.nan, None, 0)
    share = np.bincount(best) / len(best)
    found = {
        "the most frequent class": share.max(),
        "at random, as often as it is true": np.square(share).sum(),
    }
    gained = np.zeros(len(rows))
    gained[rows] = answers.right[rows].astype(float) - (best == share.argmax())
    blocks = image_weights(
        len(rows), replicates, np.random.default_rng(seed), groups=answers.groups
    )
    drawn = [(gained @ block) / np.maximum(rows @ block, 1) for block in blocks]
    ends = interval(np.concatenate(drawn)) if drawn else None
    return _trivial("accuracy", found, gained[rows].mean(), ends, len(best))


def _trivial(figure: str, found: dict[str, float], gain: float, ends, images: int) -> Trivial:
    ordered = sorted(found.items(), key=lambda one: -np.nan_to_num(one[1]))
    return Trivial(
        figure=figure, answers={name: float(np.nan_to_num(value)) for name, value in ordered},
        gain=or_none(gain), interval=ends if images >= LEAST_IMAGES else None,
    )  # fmt: skip
