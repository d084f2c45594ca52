"""How much worse may a file answer? One rule for every loss of F1 macro, paired image by image.

*beyond*: more is lost on these images than is allowed. Another file is tried.
*within*: less is lost, and the images show it: the 95 % interval ends below what is allowed.
*not shown*: less is lost, but the interval reaches further. The file may ship, and nobody may say
that it is as good: an interval that holds 0 says that there are few images, not that two files are
equal. Nor do images on which nothing differs: of n images at least one in n / 3 may still differ.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from workbench.decide import outcomes
from workbench.decide.intervals import Ends, Groups, count_cells, image_weights, interval
from workbench.decide.levels import Mask

Verdict = Literal["within", "not shown", "beyond"]


@dataclass(frozen=True)
class Loss:
    """F1 macro that the second answers lack beside the first; a negative loss is a gain."""

    value: float
    interval: Ends
    images: int

    def verdict(self, allowed: float) -> Verdict:
        """Judge the loss by the rule above."""
        if self.value > allowed:
            return "beyond"
        shown = self.interval is not None and max(self.interval[1], 3 / self.images) <= allowed
        return "within" if shown else "not shown"

    @property
    def certain(self) -> bool:
        """Is something lost, beyond what other images could turn round?"""
        return self.interval is not None and self.interval[0] > 0


def paired_loss(
    first: np.ndarray, second: np.ndarray, y_true: np.ndarray, mask: Mask, *,
    replicates: int, seed: int, groups: Groups = None,
) -> Loss:  # fmt: skip
    """Compare two sets of answers, bool [N, C], to the same images, resampled together.

    Images of one group, int64 [N], are drawn together as well.
    """
    cells = [outcomes.outcome_cells(y_true, side, mask) for side in (first, second)]
    counts = [outcomes.count_outcomes(side) for side in cells]
    before, after = (float(np.nan_to_num(_f1_macro(each))) for each in counts)
    rng = np.random.default_rng(seed)
    differences = [
        np.subtract(*(_f1_macro(count_cells(side, outcomes.OUTCOMES, weights)) for side in cells))
        for weights in image_weights(len(first), replicates, rng, groups=groups)
    ]
    return Loss(before - after, interval(np.concatenate(differences)), len(first))


def _f1_macro(counts: np.ndarray) -> np.ndarray:
    return outcomes.overall_figures(counts.astype(np.float64))["f1_macro"]
