"""What a labels cell means and what a class may be called.

Names go into labels.txt, tables and pages, so they must be visible and unmistakable; classes are
ordered by code point, the same in every locale.
"""

from __future__ import annotations

import difflib
import unicodedata
from collections.abc import Collection

MOST_CLASSES = 10_000
LONGEST_NAME = 200
# control, format (zero-width, bidi), private use, lone surrogates, line and paragraph separators
INVISIBLE = {"Cc", "Cf", "Co", "Cs", "Zl", "Zp"}
WRONG_SEPARATORS = (",", ";", "/", "\t")

Labels = tuple[tuple[str, ...], tuple[str, ...]]  # known, unknown


def parse_labels(cell: str) -> Labels:
    """Split `a|b|?c` into labels (a, b) and unknown (c); ValueError says what is wrong."""
    if not cell:
        return (), ()
    names = [name.strip() for name in cell.split("|")]
    if any(not name.removeprefix("?").strip() for name in names):
        raise ValueError(f'labels {cell!r} hold an empty name. Write them as "a|b"')
    labels = sorted(name for name in names if not name.startswith("?"))
    unknown = sorted(name[1:].strip() for name in names if name.startswith("?"))
    twice = [name for name in labels + unknown if (labels + unknown).count(name) > 1]
    if twice:
        raise ValueError(f"labels {cell!r} name {twice[0]!r} twice. Write every label once")
    return tuple(labels), tuple(unknown)


def folder_label(name: str) -> Labels:
    """Take the name of a class folder as the one label it is."""
    if "|" in name or name.startswith("?") or name != name.strip():
        raise ValueError(
            f'class folder {name!r}: a class cannot hold "|", start with "?" or have spaces around '
            "it. Rename the folder"
        )
    return (name,), ()


def join_labels(labels: Collection[str], unknown: Collection[str]) -> str:
    return "|".join([*labels, *(f"?{name}" for name in unknown)])


def nearest(name: str, names: Collection[str]) -> str:
    """Return ' Did you mean "…"' or nothing."""
    close = difflib.get_close_matches(name, names, n=1)
    return f'. Did you mean "{close[0]}"' if close else ""


def class_problems(names: Collection[str]) -> list[tuple[str, str]]:
    """List (class, what is wrong with its name and the remedy)."""
    problems = [(name, problem) for name in sorted(names) if (problem := _name_problem(name))]
    problems += _twins(names)
    for separator in WRONG_SEPARATORS:
        problems += _joined_names(names, separator)
    return problems


def _name_problem(name: str) -> str | None:
    if len(name) > LONGEST_NAME:
        return (
            f"class {name[:40]!r}… has {len(name)} characters, at most {LONGEST_NAME}. Shorten it"
        )
    for character in name:
        if unicodedata.category(character) in INVISIBLE:
            words = unicodedata.name(character, "control character").lower()
            return f"class {name!a} holds the invisible U+{ord(character):04X} ({words}). Remove it"
    return None


def _twins(names: Collection[str]) -> list[tuple[str, str]]:
    """Names that people cannot tell apart: case, Unicode composition, spaces."""
    seen: dict[str, str] = {}
    problems = []
    for name in sorted(names):
        other = seen.setdefault(_look(name), name)
        if other != name:
            problems.append(
                (
                    name,
                    f"classes {other!a} and {name!a} look alike (letter case, accents written in "
                    "two ways, or spaces). Give both the same spelling",
                )
            )
    return problems


def _look(name: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", name).casefold().split())


def _joined_names(names: Collection[str], separator: str) -> list[tuple[str, str]]:
    """Classes such as `cat,dog` beside `cat`: the labels were joined by the wrong character."""
    parts = {name: {part.strip() for part in name.split(separator)} for name in sorted(names)}
    uses: dict[str, int] = {}
    for part in (part for name in parts for part in parts[name]):
        uses[part] = uses.get(part, 0) + 1
    return [
        (
            name,
            f'class {name!r} looks like several labels joined by {separator!r}. Join labels by "|"',
        )
        for name in parts
        if len(parts[name]) > 1 and any(uses[part] > 1 for part in parts[name])
    ]
