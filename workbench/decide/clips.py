"""One answer a clip from the answers to its frames: the mean of their logits, without their order.

The phone file answers in integers. The mean of a clip's, rounded down, is at least a threshold
exactly where the mean is, so that everything behind the pooling stays as it is for one photo.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from workbench.decide.levels import Mask
from workbench.errors import InputError


@dataclass(frozen=True)
class Clips:
    """Which clip each frame belongs to, [N], numbered from 0; None where every photo is its own."""

    place: np.ndarray | None = None

    @classmethod
    def of(cls, groups: np.ndarray | None, pooled: bool) -> Clips:
        if groups is None or not pooled:
            return cls()
        return cls(np.unique(groups, return_inverse=True)[1])

    @property
    def pools(self) -> bool:
        return self.place is not None

    @cached_property
    def frames(self) -> np.ndarray:
        """Count the frames of each clip, [G]."""
        return np.bincount(self.place)

    @property
    def usual_frames(self) -> int:
        """How many frames most clips have."""
        return 1 if not self.pools else int(np.bincount(self.frames).argmax())

    @cached_property
    def first(self) -> np.ndarray:
        """The row of each clip's first frame, [G]."""
        return np.unique(self.place, return_index=True)[1]

    def raw(self, raw: np.ndarray) -> np.ndarray:
        """Pool integers of the phone file, int8 [N, C] to [G, C]."""
        if not self.pools:
            return raw
        return (self._sum(raw.astype(np.int64)) // self.frames[:, None]).astype(raw.dtype)

    def logits(self, logits: np.ndarray) -> np.ndarray:
        """Pool logits of a float network, [N, C] to [G, C]."""
        if not self.pools:
            return logits
        return self._sum(logits.astype(np.float64)) / self.frames[:, None]

    def labels(
        self, y_true: np.ndarray, mask: Mask, names: Sequence[str] = ()
    ) -> tuple[np.ndarray, Mask]:
        """Take the labels that all frames of a clip share; what one frame knows, the clip knows."""
        if not self.pools:
            return y_true, mask
        known = np.ones(y_true.shape, bool) if mask is None else np.asarray(mask) > 0.5
        true = np.asarray(y_true) > 0.5
        yes, no = (self._sum((side & known).astype(np.int64)) > 0 for side in (true, ~true))
        at_odds = np.flatnonzero((yes & no).any(axis=1))
        if len(at_odds):
            row = self.first[at_odds[0]]
            which = f"the group of {names[row]}" if len(names) else f"group {at_odds[0]}"
            raise InputError(
                f"evaluation.pool is mean_logits, but photos of {which} have different labels. "
                "Frames of a clip share theirs: correct the table, or set evaluation.pool: none"
            )
        return yes.astype(y_true.dtype), (yes | no).astype(np.float32)

    def split(self, split: Any) -> Any:
        """Return a split of one row a clip, named by its first frame."""
        if not self.pools:
            return split
        targets, mask = self.labels(split.targets, split.mask, split.filepaths)
        names = tuple(split.filepaths[row] for row in self.first)
        return replace(split, filepaths=names, targets=targets, mask=mask, groups=None)

    def _sum(self, values: np.ndarray) -> np.ndarray:
        total = np.zeros((len(self.frames), values.shape[1]), values.dtype)
        np.add.at(total, self.place, values)
        return total
