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
from workbench.data.findings import Findings
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
    for members in groups_of(duplicates.files):
        group = rows.iloc[members]
        partners = _first_unlike(np.arange(len(group)))
        findings.add("exact_duplicate", group, _says(group, partners, "the same bytes as"))
        _judge_group(group, "the same file as", "error", findings)
    for members in groups_of(duplicates.photos):
        files = duplicates.files[members]
        if len(np.unique(files)) > 1:
            group = rows.iloc[members]
            partners = _first_unlike(files)
            findings.add("near_duplicate", group, _says(group, partners, "the same photo as"))
            _judge_group(group, "the same photo as", "warning", findings, files)


def _judge_group(
    group: pd.DataFrame,
    words: str,
    severity: str,
    findings: Findings,
    files: np.ndarray | None = None,
) -> None:
    """Add leaks and conflicts of one group; with `files`, not those that equal files have."""
    told = _told(group, files, "split")
    partners = _first_unlike(group["split"].to_numpy())
    leaking = (partners >= 0) & ~told
    findings.add("leak", group[leaking], _says(group, partners, words, leaking))
    classes = conflicting_classes(group)
    if classes:
        labels = group["labels"].map(lambda names: "|".join(sorted(set(names) & classes)))
        partners = _first_unlike(labels.to_numpy())
        conflict = (partners >= 0) & ~_told(group, files, "labels")
        texts = _says(group, partners, words, conflict)
        details = [
            f"{text}, which has {labels.iloc[partner] or 'none'} where this has {own or 'none'}"
            for text, partner, own in zip(texts, partners[conflict], labels[conflict], strict=True)
        ]
        findings.add("conflicting_labels", group[conflict], details, severity)


def _told(group: pd.DataFrame, files: np.ndarray | None, column: str) -> np.ndarray:
    """Mark the rows whose equal files differ in `column`: a finding has said so already."""
    if files is None:
        return np.zeros(len(group), bool)
    values = pd.factorize(group[column])[0]
    return pd.Series(values).groupby(files).transform("nunique").to_numpy() > 1


def _first_unlike(keys: np.ndarray) -> np.ndarray:
    """Give for each member the first whose key differs, or -1; linear in the group."""
    other = np.flatnonzero(keys != keys[0])
    return np.where(keys != keys[0], 0, other[0] if len(other) else -1)


def _says(
    group: pd.DataFrame, partners: np.ndarray, words: str, chosen: np.ndarray | None = None
) -> list[str]:
    """Write a detail for each chosen member: its partner, and how many more there are."""
    if chosen is not None:
        partners = partners[chosen]
    more = f" and {len(group) - 2} more" if len(group) > 2 else ""
    splits, images = group["split"].to_numpy(), group["image"].to_numpy()
    return [f"{words} {splits[partner]}: {images[partner]}{more}" for partner in partners]


def groups_of(numbers: np.ndarray) -> list[np.ndarray]:
    """List the rows of every group with more than one."""
    order = np.argsort(numbers, kind="stable")
    starts = np.flatnonzero(np.diff(numbers[order], prepend=numbers[order][:1] - 1))
    return [group for group in np.split(order, starts[1:]) if len(group) > 1]


def conflicting_classes(group: pd.DataFrame) -> set[str]:
    """Name the classes that one row of the group has and another denies."""
    given = set().union(*group["labels"])
    return {
        name
        for name in given
        if any(
            name not in labels and name not in unknown
            for labels, unknown in zip(group["labels"], group["unknown"], strict=True)
        )
    }
