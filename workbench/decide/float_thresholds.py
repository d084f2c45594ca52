"""Thresholds for the float networks, to compare the phone file with them on even terms.

Thresholds tuned on INT8 scores favour INT8. The same search finds those of the float networks, on
their own answers to the same validation images. Nothing of it ships.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from workbench.decide.calibration import Scores
from workbench.decide.clips import Clips
from workbench.decide.levels import LOWEST, NEVER
from workbench.decide.thresholds import search_scores

if TYPE_CHECKING:
    from workbench.settings import Settings

FILE = "float_thresholds.json"


def float_logits(folder: Path, settings: Settings, clips: Clips) -> dict[str, np.ndarray]:
    """Read what the float networks behind a phone file said of validation images, by name.

    Where the product is in floats itself there is nothing to compare it with.
    """
    if not settings.product.quantized:
        return {}
    stored = {"float student": ("student_scores.npz", "logits"),
              "float twin": ("candidate_scores.npz", "twin_logits")}  # fmt: skip
    found = {}
    for name, (file, key) in stored.items():
        with np.load(folder / file, allow_pickle=False) as held:
            found[name] = clips.logits(held[key])
    return found


def float_thresholds(
    logits: Mapping[str, np.ndarray], scores: Scores, classes: Sequence[str], settings: Settings
) -> dict[str, Any]:
    """Return probabilities by network, a list of one a class, or the confidence of a single label.

    Logits [N, C] are rounded to the levels of `scores`, so that one search does for all.
    """
    found = {}
    for name, values in logits.items():
        levels = np.rint(values / scores.scale) + scores.zero_point
        raw = np.clip(levels, LOWEST, NEVER - 1).astype(np.int8)
        own = search_scores(replace(scores, raw=raw), tuple(classes), settings)
        found[name] = np.asarray(own.probability).tolist()
    return found
