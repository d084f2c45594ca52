"""Is a folder of photos like those of validation? Photo by photo, and as a whole, with intervals.

A photo counts as unlike by how far it lies from training, held against how far validation photos
lie: its conformal p-value is the share of these that lie as far. Benjamini and Hochberg's rule on
such p-values (Bates et al. 2023) keeps the share of false alarms, on average, below its level.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import expit, logit, ndtri

from workbench.decide.intervals import LEVEL, wilson

FALSE_ALARMS = 0.1  # of the photos called unlike, on average at most


def p_values(distance: np.ndarray, usual: np.ndarray) -> np.ndarray:
    """Return for each photo the chance that one of the usual kind lies as far. [N]"""
    as_far = len(usual) - np.searchsorted(np.sort(usual), distance, side="left")
    return (1 + as_far) / (len(usual) + 1)


def unlike(p: np.ndarray, level: float = FALSE_ALARMS) -> np.ndarray:
    """Return which photos are unlike the usual ones, with few false alarms among them. [N]"""
    if not len(p):
        return np.zeros(0, bool)
    order = np.sort(p)
    allowed = level * np.arange(1, len(p) + 1) / len(p)
    kept = np.flatnonzero(order <= allowed)
    return p <= (order[kept[-1]] if len(kept) else -1.0)


@dataclass(frozen=True)
class Difference:
    """A share, or a chance, in the folder against validation."""

    name: str
    here: float
    usual: float
    low: float  # of the difference, 95 %
    high: float
    moved: bool  # also with intervals that hold for all figures at once


def share_difference(
    hits: float, count: float, usual_hits: float, usual_count: float, confidence: float = LEVEL
) -> tuple[float, float]:
    """Interval of the difference of two shares from both their Wilson intervals (Newcombe 1998)."""
    here, usual = hits / count, usual_hits / usual_count
    low, high = wilson(hits, count, confidence)
    usual_low, usual_high = wilson(usual_hits, usual_count, confidence)
    down = np.hypot(here - low, usual_high - usual)
    up = np.hypot(high - here, usual - usual_low)
    return float(here - usual - down), float(here - usual + up)


def chance_interval(
    values: np.ndarray, usual: np.ndarray, confidence: float = LEVEL
) -> tuple[float, float, float]:
    """Chance that one value lies above a usual one, ties half, with its interval (DeLong 1988)."""
    above = _placed(values, usual)
    chance = float(np.clip(above.mean(), *(0.5 / len(values), 1 - 0.5 / len(values))))
    below = _placed(usual, values)
    variance = above.var(ddof=1) / len(values) + below.var(ddof=1) / len(usual)
    half = ndtri((1 + confidence) / 2) * np.sqrt(variance) / (chance * (1 - chance))
    return chance, float(expit(logit(chance) - half)), float(expit(logit(chance) + half))


def _placed(values: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return of each value the share of the others that lie below it, ties half."""
    ordered = np.sort(others)
    below, upto = (np.searchsorted(ordered, values, side) for side in ("left", "right"))
    return (below + upto) / (2 * len(others))


def drift(
    names: list[str], said: np.ndarray, usual_said: np.ndarray,
    distance: np.ndarray, usual: np.ndarray, worth: float = 1.0,
) -> list[Difference]:  # fmt: skip
    """Compare how often each answer is given [N, A] [M, A], and how far photos lie from training.

    `worth` is the share of the validation photos that counts: those of one group are alike. The
    last figure is the chance that a photo lies farther than one of validation, a half if alike.
    """
    together = 1 - (1 - LEVEL) / (len(names) + 1)  # Bonferroni: all hold at once
    found = []
    for name, here, there in zip(names, said.T, usual_said.T, strict=True):
        counts = (here.sum(), len(here), worth * there.sum(), worth * len(there))
        wide = share_difference(*counts, together)
        ends = share_difference(*counts)
        moved = wide[0] > 0 or wide[1] < 0
        found.append(Difference(name, float(here.mean()), float(there.mean()), *ends, moved))
    chance, low, high = chance_interval(distance, usual)
    wide = chance_interval(distance, usual, together)[1:]
    moved = wide[0] > 0.5 or wide[1] < 0.5
    ends = (low - 0.5, high - 0.5)
    return [*found, Difference("farther from training", chance, 0.5, *ends, moved)]
