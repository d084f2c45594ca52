"""A cleaner split, as a proposal: copies of a photo on one side, spoilt images aside.

As little as possible moves, so that figures stay comparable: only photos that lie in several
splits do, each to where its labels are missed most. Nothing is applied; the caller writes tables.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from workbench.data.audit.duplicates import Duplicates, disputed_labels, groups_of
from workbench.data.tables import Dataset

MOVE_COLUMNS = ["image", "from", "to", "reason"]
ASIDE = ""  # where images go that should not be used as they are


@dataclass(frozen=True)
class Resplit:
    """The proposed dataset, and every difference from the present one."""

    dataset: Dataset
    moves: pd.DataFrame  # image, from, to ("" is out), reason


def propose_resplit(
    dataset: Dataset, duplicates: Duplicates, unreadable: Mapping[str, str]
) -> Resplit:
    """Propose a split without leaks, repeated files, contradictions and unreadable images."""
    rows = dataset.rows
    chosen = _gather_photos(rows, duplicates)
    spoilt = _spoilt(rows, duplicates, chosen)
    aside = rows["filepath"].isin(list(spoilt) + list(unreadable))
    moves = pd.concat(
        [
            _moves(rows, (chosen != rows["split"]) & ~aside, chosen, None),
            _moves(rows, aside, None, spoilt | dict(unreadable)),
        ],
        ignore_index=True,
    )
    proposed = rows.assign(split=chosen)[~rows["filepath"].isin(list(spoilt))]
    proposed = replace(dataset, rows=proposed.reset_index(drop=True)).without(unreadable)
    return Resplit(proposed, moves)


def _moves(
    rows: pd.DataFrame,
    which: pd.Series,
    chosen: np.ndarray | None,
    reasons: Mapping[str, str] | None,
) -> pd.DataFrame:
    some = rows[which]
    return pd.DataFrame(
        {
            "image": some["filepath"],
            "from": some["split"],
            "to": ASIDE if chosen is None else chosen[which],
            "reason": "joins its copies" if reasons is None else some["filepath"].map(reasons),
        },
        columns=MOVE_COLUMNS,
    )


def _gather_photos(rows: pd.DataFrame, duplicates: Duplicates) -> np.ndarray:
    """Give every photo one split: rarest labels first, to the split that misses them most."""
    split_of_row = rows["split"].to_numpy(object)
    labels = rows["labels"].to_numpy(object)
    torn = [group for group in groups_of(duplicates.photos) if len(set(split_of_row[group])) > 1]
    missed: dict[str, Counter] = {}
    for group in torn:
        for row in group:
            missed.setdefault(split_of_row[row], Counter()).update([*labels[row], None])
    frequency = Counter(name for names in labels for name in names)
    chosen = split_of_row.copy()
    for group in sorted(torn, key=lambda rows_: _rarity(labels, rows_, frequency)):
        split = _most_missed(group, split_of_row, labels, missed)
        for row in group:
            missed[split].subtract([*labels[row], None])
        chosen[group] = split
    return chosen


def _rarity(labels: np.ndarray, group: np.ndarray, frequency: Counter) -> tuple[int, int]:
    counts = [frequency[name] for row in group for name in labels[row]]
    return min(counts, default=len(labels)), int(group[0])


def _most_missed(
    group: np.ndarray, split_of_row: np.ndarray, labels: np.ndarray, missed: dict[str, Counter]
) -> str:
    """Choose among the splits that have the photo already; None stands for any image."""
    wanted = Counter(name for row in group for name in [*labels[row], None])
    present = Counter(split_of_row[group])

    def need(split: str) -> tuple[float, int]:
        missing = sum(count * missed[split][name] for name, count in wanted.items())
        return missing / max(1, sum(missed[split].values())), present[split]

    return max(sorted(present), key=need)


def _spoilt(rows: pd.DataFrame, duplicates: Duplicates, chosen: np.ndarray) -> dict[str, str]:
    """Say why repeated files go: all where their labels disagree, all but one otherwise."""
    reasons = {}
    columns = ("filepath", "split", "labels", "unknown")
    filepaths, splits, labels, unknown = (rows[name].tolist() for name in columns)
    for group in groups_of(duplicates.files):
        disputed = disputed_labels([labels[row] for row in group], [unknown[row] for row in group])
        stays = next((row for row in group if chosen[row] == splits[row]), group[0])
        names = ", ".join(sorted(disputed))
        for row in group:
            if disputed:
                reasons[filepaths[row]] = f"has copies that disagree on {names}"
            elif row != stays:
                reasons[filepaths[row]] = f"holds the same bytes as {filepaths[stays]}"
    return reasons
