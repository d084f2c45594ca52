"""Splitting images into train, val and test so that every label keeps its share.

Iterative stratification (Sechidis, Tsoumakas, Vlahavas 2011), with label pairs counted like
labels (Szymański, Kajdanowicz 2017): the rarest label is shared out first. Images of one group
(duplicates) move together. Near-linear in the number of labels given.
"""

from __future__ import annotations

import heapq
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from itertools import chain, combinations

import numpy as np

Unit = tuple[str, ...]  # one label, or two that occur together

# A pair seen less often cannot be spread over three splits anyway, and would go first as rarest.
RAREST_PAIR = 10
MOST_PAIRED_LABELS = 12  # beyond, an image would bring thousands of pairs


def assign_splits(
    labels: Iterable[tuple[str, ...]],
    groups: Sequence[int],
    fractions: Sequence[float],
    rng: np.random.Generator,
) -> np.ndarray:
    """Return the number of the split of each image, int64 [images].

    `groups` numbers the images; those with one number get one split.
    """
    members = _members(groups)
    units = _units(list(labels), members)
    sizes = [len(images) for images in members]
    chosen = _Stratifier(units, sizes, fractions).run(rng)
    splits = np.empty(len(groups), np.int64)
    for images, split in zip(members, chosen, strict=True):
        splits[images] = split
    return splits


def _members(groups: Sequence[int]) -> list[list[int]]:
    """List the images of every group, groups in order of first appearance."""
    members: dict[int, list[int]] = {}
    for image, group in enumerate(groups):
        members.setdefault(int(group), []).append(image)
    return list(members.values())


def _units(labels: list[tuple[str, ...]], members: list[list[int]]) -> list[tuple[Unit, ...]]:
    """List what has to be shared out of every group: its labels and frequent label pairs."""
    counts = Counter(labels)
    pairs: Counter = Counter()
    for names, count in counts.items():
        pairs.update(dict.fromkeys(_pairs(names), count))
    by_names = {
        names: (
            *((name,) for name in names),
            *(pair for pair in _pairs(names) if pairs[pair] >= RAREST_PAIR),
        )
        for names in counts
    }
    return [tuple(chain.from_iterable(by_names[labels[i]] for i in images)) for images in members]


def _pairs(names: tuple[str, ...]) -> Iterable[Unit]:
    return combinations(names, 2) if len(names) <= MOST_PAIRED_LABELS else ()


class _Stratifier:
    """Gives groups to splits, the rarest unit first, each to where most of it is still wanted."""

    def __init__(
        self, units: list[tuple[Unit, ...]], sizes: list[int], fractions: Sequence[float]
    ) -> None:
        self.units, self.sizes = units, sizes
        self.splits = range(len(fractions))
        self.left = Counter(chain.from_iterable(units))
        self.wanted = {
            unit: [fraction * total for fraction in fractions] for unit, total in self.left.items()
        }
        self.room = [fraction * sum(sizes) for fraction in fractions]
        self.chosen = [-1] * len(units)
        self.touched: set[Unit] = set()

    def run(self, rng: np.random.Generator) -> list[int]:
        order = rng.permutation(len(self.units)).tolist()
        # Large groups while there is room for them, or one would fill the smallest split.
        order.sort(key=lambda group: -self.sizes[group])
        holders = defaultdict(list)
        for group in order:
            for unit in set(self.units[group]):
                holders[unit].append(group)
        queue = [(count, unit) for unit, count in self.left.items()]
        heapq.heapify(queue)
        while queue:
            count, unit = heapq.heappop(queue)
            if count != self.left[unit]:
                continue  # an older entry: this unit was queued again when some of it went
            self._place(holders[unit], self.wanted[unit])
            for other in self.touched:
                heapq.heappush(queue, (self.left[other], other))
            self.touched.clear()
        self._place(order, self.room)  # images without labels
        return self.chosen

    def _place(self, groups: list[int], desire: list[float]) -> None:
        for group in groups:
            if self.chosen[group] >= 0:
                continue
            split = max(self.splits, key=lambda split: (desire[split], self.room[split]))
            self.chosen[group] = split
            self.room[split] -= self.sizes[group]
            for unit in self.units[group]:
                self.wanted[unit][split] -= 1
                self.left[unit] -= 1
                self.touched.add(unit)
