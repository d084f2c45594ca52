"""Hold what a file states against what was derived, figure by figure."""

from __future__ import annotations

from typing import Any

import numpy as np

TOLERANCE = 1e-6  # of figures that were written as decimal text


class MismatchError(Exception):
    """A file that differs from what another one says of it."""


def compare(what: str, stated: Any, derived: Any) -> tuple[int, set[str]]:
    """Return how many figures agree, and the places of those that nobody derives."""
    if isinstance(derived, dict):
        same(f"{what}: keys that are missing", sorted(derived.keys() - stated.keys()), [])
        parts = [compare(f"{what}, {key}", stated[key], derived[key]) for key in derived]
        left = {f"{what}, {key}" for key in stated if key not in derived}
    elif isinstance(derived, list):
        same(f"{what}: number of entries", len(stated), len(derived))
        rows = enumerate(zip(stated, derived, strict=True))
        parts = [compare(f"{what}, {_row_name(one, n)}", one, two) for n, (one, two) in rows]
        left = set()
    else:
        _same_or_near(what, stated, derived)
        return 1, set()
    return sum(part[0] for part in parts), left.union(*(part[1] for part in parts))


def _row_name(row: Any, number: int) -> str:
    keys = ("class", "name", "figure", "rung")
    named = [str(row[key]) for key in keys if isinstance(row, dict) and key in row]
    return " ".join(named) or str(number)


def _same_or_near(what: str, stated: Any, derived: Any) -> None:
    """Compare counts exactly, other numbers to the last digits."""
    both = stated, derived
    numbers = all(isinstance(one, int | float | np.number) and not isinstance(one, bool)
                  for one in both)  # fmt: skip
    if numbers and all(isinstance(one, int | np.integer) for one in both):
        same(f"{what} is {stated}, derived {derived}: they", stated, derived)
    elif numbers:
        near(what, stated, derived)
    else:
        same(what, stated, derived)


def same(what: str, found: Any, stated: Any) -> None:
    if found != stated:
        shown = "" if isinstance(found, bytes) else f": {_short(found)} instead of {_short(stated)}"
        raise MismatchError(f"{what} differ{shown}")


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 120 else text[:117] + "…"


def same_array(what: str, found: np.ndarray, stated: np.ndarray) -> None:
    if found.shape != stated.shape or (found != stated).any():
        raise MismatchError(f"{what} differs from the recorded bytes")


def near(what: str, found: float, expected: float) -> None:
    if not abs(found - expected) <= TOLERANCE * max(1.0, abs(expected)):
        raise MismatchError(f"{what} is {found}, derived {expected}")
