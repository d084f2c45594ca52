"""Copies of one photo: equal bytes, equal pictures, leaks across splits, labels that disagree.

Joins what the hashes found with what the tables say. Nothing is opened or removed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from workbench.data.facts import CONSTANT_RANGE, Collection, collect_facts
from workbench.data.findings import Findings, Severity
from workbench.data.near_duplicates import NearDuplicates, connect, find_near_duplicates
from workbench.data.threads import count_cores
from workbench.data.thumbnails import Thumbnails
from workbench.settings import Settings


@dataclass(frozen=True)
class Duplicates:
    """Group numbers of every row; rows of one group show the same photo."""

    files: np.ndarray  # int64: equal bytes
    photos: np.ndarray  # int64: equal bytes or the same picture
    pairs: pd.DataFrame  # near-duplicates: first, second (row numbers), bits, distance


def same_files(table: pd.DataFrame) -> np.ndarray:
    """Number the rows by content; files that are no images stay alone, however alike."""
    known = table["refused"].isna().to_numpy()
    numbers = np.full(len(table), -1, np.int64)
    numbers[known] = pd.factorize(table["sha256"][known])[0]
    alone = np.flatnonzero(~known)
    numbers[alone] = numbers.max(initial=-1) + 1 + np.arange(len(alone))
    return numbers


def join_groups(files: np.ndarray, near: NearDuplicates) -> Duplicates:
    """Join equal files and equal pictures to groups of photos."""
    order = np.argsort(files, kind="stable")
    chained = np.flatnonzero(np.diff(files[order]) == 0)
    first = np.concatenate([order[chained], near.pairs["first"].to_numpy(np.int64)])
    second = np.concatenate([order[chained + 1], near.pairs["second"].to_numpy(np.int64)])
    return Duplicates(files, connect(len(files), first, second), near.pairs)


def find_duplicates(
    collection: Collection, store: Thumbnails, maximum_bits: int, threads: int
) -> Duplicates:
    """Search equal bytes first; of those one goes on to the search for equal pictures."""
    table = collection.table
    files = same_files(table)
    shows_something = table["refused"].isna() & (table["range"] > CONSTANT_RANGE)
    wanted = shows_something & ~pd.Series(files).duplicated()
    near = find_near_duplicates(
        collection.coarse, collection.fine, store, wanted.to_numpy(), maximum_bits, threads
    )
    return join_groups(files, near)


def group_same_photos(settings: Settings) -> Callable[[Sequence[Path]], np.ndarray]:
    """Make the grouping that keeps copies of a photo on one side when a table is split."""

    def group(paths: Sequence[Path]) -> np.ndarray:
        threads = count_cores(settings.run.threads)
        with Thumbnails() as store:
            collection = collect_facts(paths, settings.dataset, store, threads)
            bits = settings.audit.near_duplicate_bits
            return find_duplicates(collection, store, bits, threads).photos

    return group


def judge_duplicates(rows: pd.DataFrame, duplicates: Duplicates, findings: Findings) -> None:
    """Add exact and near-duplicates, leaks and conflicting labels; `rows` also has `image`."""
    notes = _Notes(rows)
    for members in groups_of(duplicates.files):
        notes.add("exact_duplicate", members, _first_unlike(members), "the same bytes as")
        notes.compare(members, "the same file as", "error")
    for members in groups_of(duplicates.photos):
        files = duplicates.files[members].tolist()
        if len(set(files)) > 1:
            notes.add("near_duplicate", members, _first_unlike(files), "the same photo as")
            notes.compare(members, "the same photo as", "warning", files)
    for (kind, severity), told in notes.told.items():
        findings.add(kind, rows.iloc[list(told)], told.values(), severity)


class _Notes:
    """Collects what there is to say about rows, in plain lists: groups may be many thousands."""

    def __init__(self, rows: pd.DataFrame) -> None:
        columns = ("image", "split", "labels", "unknown")
        self.images, self.splits, self.labels, self.unknown = (
            rows[name].tolist() for name in columns
        )
        self.told: dict[tuple[str, Severity | None], dict[int, str]] = {}

    def add(
        self,
        kind: str,
        members: Sequence[int],
        partners: Sequence[int | None],
        words: str,
        severity: Severity | None = None,
        more: Callable[[int, int], str] | None = None,
    ) -> None:
        """Note `words` and the partner for every member that has one."""
        others = f" and {len(members) - 2} more" if len(members) > 2 else ""
        told = self.told.setdefault((kind, severity), {})
        for member, place in zip(members, partners, strict=True):
            if place is not None:
                partner = members[place]
                text = f"{words} {self.splits[partner]}: {self.images[partner]}{others}"
                told[member] = text + (more(member, partner) if more else "")

    def compare(
        self,
        members: Sequence[int],
        words: str,
        severity: Severity,
        files: Sequence[int] | None = None,
    ) -> None:
        """Note leaks and conflicts; with `files`, not those that equal files have already."""
        splits = [self.splits[member] for member in members]
        partners = _unless_told(_first_unlike(splits), splits, files)
        self.add("leak", members, partners, words)
        disputed = disputed_labels(
            [self.labels[member] for member in members],
            [self.unknown[member] for member in members],
        )
        if disputed:
            views = [self._view(member, disputed) for member in members]
            partners = _unless_told(_first_unlike(views), views, files)
            self.add(
                "conflicting_labels",
                members,
                partners,
                words,
                severity,
                lambda member, partner: (
                    f", which has {self._view(partner, disputed)} where this has "
                    f"{self._view(member, disputed)}"
                ),
            )

    def _view(self, member: int, disputed: set[str]) -> str:
        return "|".join(sorted(disputed.intersection(self.labels[member]))) or "none"


def _first_unlike(keys: Sequence[object]) -> list[int | None]:
    """Give for each member the place of the first whose key differs; linear in the group."""
    other = next((place for place, key in enumerate(keys) if key != keys[0]), None)
    return [other if key == keys[0] else 0 for key in keys]


def _unless_told(
    partners: list[int | None], values: Sequence[object], files: Sequence[int] | None
) -> list[int | None]:
    """Drop members whose equal files differ in `values`: a finding has said so already."""
    if files is None:
        return partners
    seen: dict[int, set] = {}
    for file, value in zip(files, values, strict=True):
        seen.setdefault(file, set()).add(value)
    return [
        None if len(seen[file]) > 1 else place for place, file in zip(partners, files, strict=True)
    ]


def groups_of(numbers: np.ndarray) -> list[list[int]]:
    """List the rows of every group with more than one."""
    order = np.argsort(numbers, kind="stable")
    ordered = numbers[order]
    starts = np.flatnonzero(np.diff(ordered, prepend=-1))
    sizes = np.diff(starts, append=len(order))
    chosen = sizes > 1
    return [
        order[start : start + size].tolist()
        for start, size in zip(starts[chosen], sizes[chosen], strict=True)
    ]


def disputed_labels(labels: Sequence[tuple[str, ...]], unknown: Sequence[tuple[str, ...]]) -> set:
    """Name the classes that one member has and another denies; not to know is not to deny."""
    views = [set(has).union(open_) for has, open_ in zip(labels, unknown, strict=True)]
    return set().union(*labels) - set.intersection(*views)
