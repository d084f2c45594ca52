"""Splitting images into train, val and test so that every label keeps its share.

Iterative stratification (Sechidis, Tsoumakas, Vlahavas 2011), with label pairs counted like
labels (Szymański, Kajdanowicz 2017): the rarest label is shared out first. Images of one group
(duplicates) move together. Near-linear in the number of labels given.

Of a dataset that comes with splits the audit proposes a cleaner one: copies of a photo on one side,
spoilt images aside. As little as possible moves, so that figures stay comparable: only photos that
lie in several splits do, each to where its labels are missed most. Nothing is applied there.
"""

from __future__ import annotations

import heapq
import logging
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import chain, combinations

import numpy as np
import pandas as pd

from workbench.data.audit.duplicates import (
    Duplicates,
    connect,
    disputed_labels,
    groups_of,
    read_photos,
)
from workbench.data.layouts import FEW, SPLITS, UNLABELED
from workbench.data.tables import Dataset, number_groups
from workbench.settings import Settings

log = logging.getLogger(__name__)

Unit = tuple[str, ...]  # one label, or two that occur together

# A pair seen less often cannot be spread over three splits anyway, and would go first as rarest.
RAREST_PAIR = 10
MOST_PAIRED_LABELS = 12  # beyond, an image would bring thousands of pairs
MOVE_COLUMNS = ["image", "from", "to", "reason"]
ASIDE = ""  # where images go that should not be used as they are


def deal_splits(dataset: Dataset, settings: Settings, missing: Collection[str] = SPLITS) -> Dataset:
    """Split rows in the order of their paths, so that the order of a listing does not matter.

    Where some splits are there, those that are missing come out of train.
    """
    dataset = read_photos(dataset, settings)
    rows = dataset.rows.sort_values("filepath", ignore_index=True)
    splits = [split for split in SPLITS if split in {"train", *missing}]
    shares = np.array([getattr(settings.dataset, f"{split}_frac") for split in splits])
    if "train" not in missing:
        log.info("no %s among the splits: dealt out of train", " and no ".join(splits[1:]))
    inside = rows["split"].isin([*missing, "train", ""])
    numbers = _deal(dataset, rows[inside], (shares / shares.sum()).tolist(), settings)
    rows.loc[inside, "split"] = np.array(splits, dtype=object)[numbers]
    return replace(dataset, rows=rows)


def deal_folds(dataset: Dataset, settings: Settings) -> Dataset:
    """Deal train and val anew into equal parts, one of which validates; test stays what it is."""
    dataset = read_photos(dataset, settings)
    rows = dataset.rows.sort_values("filepath", ignore_index=True)
    inside = rows["split"].isin(["train", "val"])
    parts = [1 / settings.dataset.folds] * settings.dataset.folds
    numbers = _deal(dataset, rows[inside], parts, settings)
    rows.loc[inside, "split"] = np.where(numbers == settings.dataset.fold, "val", "train")
    return replace(dataset, rows=rows)


def _deal(
    dataset: Dataset, rows: pd.DataFrame, fractions: Sequence[float], settings: Settings
) -> np.ndarray:
    copies = dataset.photos.copies(rows["filepath"].tolist(), settings)
    together = tie(copies.photos, rows["group"].tolist())
    return assign_splits(rows["labels"], together, fractions, np.random.default_rng(settings.seed))


def tie(photos: np.ndarray, names: Sequence[str]) -> np.ndarray:
    """Number what must stay on one side of a split: copies of a photo, and photos of a group."""
    groups = number_groups(names)
    if groups is None:
        return photos
    everyone = np.arange(len(photos))
    return connect(len(photos), np.tile(everyone, 2), np.append(_first(photos), _first(groups)))


def _first(numbers: np.ndarray) -> np.ndarray:
    """Find for each row the first one with its number."""
    _, rows, inverse = np.unique(numbers, return_index=True, return_inverse=True)
    return rows[inverse]


def assign_splits(
    labels: Iterable[tuple[str, ...]], groups: Sequence[int], fractions: Sequence[float],
    rng: np.random.Generator,
) -> np.ndarray:  # fmt: skip
    """Return the number of the split of each image, int64 [images].

    `groups` numbers the images; those with one number get one split.
    """
    by_number: defaultdict[int, list[int]] = defaultdict(list)
    for image, group in enumerate(groups):
        by_number[int(group)].append(image)
    members = list(by_number.values())  # groups in order of first appearance
    sizes = [len(images) for images in members]
    chosen = _stratify(_units(list(labels), members), sizes, fractions, rng)
    splits = np.empty(len(groups), np.int64)
    for images, split in zip(members, chosen, strict=True):
        splits[images] = split
    return splits


def _units(labels: list[tuple[str, ...]], members: list[list[int]]) -> list[list[Unit]]:
    """List what has to be shared out of every group: its labels and frequent label pairs."""
    counts = Counter(labels)
    pairs: Counter = Counter()
    for names, count in counts.items():
        pairs.update(dict.fromkeys(_pairs(names), count))
    by_names = {
        names: [*zip(names), *(pair for pair in _pairs(names) if pairs[pair] >= RAREST_PAIR)]
        for names in counts
    }
    return [list(chain.from_iterable(by_names[labels[i]] for i in images)) for images in members]


def _pairs(names: tuple[str, ...]) -> Iterable[Unit]:
    return combinations(names, 2) if len(names) <= MOST_PAIRED_LABELS else ()


def _stratify(
    units: list[list[Unit]], sizes: list[int], fractions: Sequence[float], rng: np.random.Generator
) -> list[int]:
    """Give groups to splits, the rarest unit first, each to where most of it is still wanted."""
    left = Counter(chain.from_iterable(units))
    wanted = {unit: [fraction * total for fraction in fractions] for unit, total in left.items()}
    room = [fraction * sum(sizes) for fraction in fractions]
    chosen = [-1] * len(units)

    def place(groups: list[int], desire: list[float]) -> set[Unit]:
        touched = set()
        for group in groups:
            if chosen[group] >= 0:
                continue
            split = max(range(len(room)), key=lambda split: (desire[split], room[split]))
            chosen[group] = split
            room[split] -= sizes[group]
            for unit in units[group]:
                wanted[unit][split] -= 1
                left[unit] -= 1
                touched.add(unit)
        return touched

    order = rng.permutation(len(units)).tolist()
    # Large groups while there is room for them, or one would fill the smallest split.
    order.sort(key=lambda group: -sizes[group])
    holders = defaultdict(list)
    for group in order:
        for unit in set(units[group]):
            holders[unit].append(group)
    queue = [(count, unit) for unit, count in left.items()]
    heapq.heapify(queue)
    while queue:
        count, unit = heapq.heappop(queue)
        if count == left[unit]:  # not an older entry of a unit that was queued again since
            for other in place(holders[unit], wanted[unit]):
                heapq.heappush(queue, (left[other], other))
    place(order, room)  # images without labels
    return chosen


@dataclass(frozen=True)
class Resplit:
    """The proposed dataset, and every difference from the present one."""

    dataset: Dataset
    moves: pd.DataFrame  # image, from, to ("" is out), reason


def propose_resplit(
    dataset: Dataset, duplicates: Duplicates, unreadable: dict[str, str]
) -> Resplit:
    """Propose a split without leaks, repeated files, contradictions and unreadable images."""
    rows = dataset.rows
    together = tie(duplicates.photos, rows["group"].tolist())
    chosen = _gather(rows, together)
    spoilt = _held_out(rows, together) | _spoilt(rows, duplicates, chosen)
    aside = rows["filepath"].isin(list(spoilt) + list(unreadable))
    why = rows["filepath"].map(spoilt | unreadable).where(aside, "joins its copies or group")
    moves = rows.assign(to=np.where(aside, ASIDE, chosen), reason=why)
    parts = [moves[(chosen != rows["split"]) & ~aside], moves[aside]]
    moves = pd.concat(parts, ignore_index=True)
    moves = moves.rename(columns={"filepath": "image", "split": "from"})[MOVE_COLUMNS]
    proposed = rows.assign(split=chosen)[~rows["filepath"].isin(list(spoilt))]
    proposed = replace(dataset, rows=proposed.reset_index(drop=True)).without(unreadable)
    return Resplit(proposed, moves)


def _gather(rows: pd.DataFrame, together: np.ndarray) -> np.ndarray:
    """Give what belongs together one split: rarest labels first, to that which misses them most."""
    split_of_row = rows["split"].to_numpy(object)
    labels = rows["labels"].to_numpy(object)
    inside = (
        [row for row in group if split_of_row[row] != UNLABELED] for group in groups_of(together)
    )
    torn = [group for group in inside if len(set(split_of_row[group])) > 1]
    missed: dict[str, Counter] = {}
    for group in torn:
        for row in group:
            missed.setdefault(split_of_row[row], Counter()).update([*labels[row], None])
    frequency = Counter(name for names in labels for name in names)
    chosen = split_of_row.copy()

    def rarity(group: list[int]) -> tuple[int, int]:
        counts = [frequency[name] for row in group for name in labels[row]]
        return min(counts, default=len(labels)), group[0]

    for group in sorted(torn, key=rarity):
        split = _most_missed(group, split_of_row, labels, missed)
        for row in group:
            missed[split].subtract([*labels[row], None])
        chosen[group] = split
    return chosen


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


def _held_out(rows: pd.DataFrame, together: np.ndarray) -> dict[str, str]:
    """Say which photos without labels go: those that validation or test holds as well."""
    held = np.unique(together[rows["split"].isin(["val", "test"])])
    leaking = (rows["split"] == UNLABELED) & np.isin(together, held)
    reason = "has no label, and a copy or one of its group in val or test"
    return dict.fromkeys(rows.loc[leaking, "filepath"], reason)


def _spoilt(rows: pd.DataFrame, duplicates: Duplicates, chosen: np.ndarray) -> dict[str, str]:
    """Say why repeated files go: all where their labels disagree, all but one otherwise."""
    reasons = {}
    columns = ("filepath", "split", "labels", "unknown")
    filepaths, splits, labels, unknown = (rows[name].tolist() for name in columns)
    for group in groups_of(duplicates.files):
        disputed = disputed_labels([labels[row] for row in group], [unknown[row] for row in group])
        group = sorted(group, key=lambda row: splits[row] == UNLABELED)  # a label is worth more
        stays = next((row for row in group if chosen[row] == splits[row]), group[0])
        rest = f" and {len(disputed) - FEW} more" if len(disputed) > FEW else ""
        names = ", ".join(sorted(disputed)[:FEW]) + rest
        for row in group:
            if disputed:
                reasons[filepaths[row]] = f"has copies that disagree on {names}"
            elif row != stays:
                reasons[filepaths[row]] = f"holds the same bytes as {filepaths[stays]}"
    return reasons
