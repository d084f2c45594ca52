"""What triage found, for a terminal and as a page with pictures."""

from __future__ import annotations

import html
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from workbench.decide.drift import FALSE_ALARMS, Difference
from workbench.errors import printable
from workbench.predict import Classifier
from workbench.show.answers import likeness, near_pictures, thumbnails
from workbench.show.page import document, html_table
from workbench.show.panel import SCRIPTS, Panel, fragment
from workbench.triage import Triage

FEW = 10  # photos that a terminal names
MOST_PICTURES = 120  # in each of the two galleries: a page of about 3 MB


def text(found: Triage) -> str:
    """Return what was found for a terminal."""
    names, answers = found.answers.names, found.answers
    lines = [*_lead(found), "", f"Label next ({len(found.chosen)}, the first of them):"]
    lines += [
        f"  {names[row]}  for {answers.labels[found.column[row]]}: {answers.words(row)}"
        for row in found.chosen[:FEW]
    ]
    lines += ["", _unlike(found), *(f"  {names[row]}" for row in found.unlike[:FEW])]
    rows = list(_drift_rows(found.drift))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    cells = [[one.ljust(width) for one, width in zip(row, widths, strict=True)] for row in rows]
    lines += ["", *(f"  {'  '.join(row)}".rstrip() for row in cells)]
    return "\n".join(lines)


def _lead(found: Triage) -> list[str]:
    seen, usual = len(found.reference.split), len(found.reference.usual)
    moved = [one.name for one in found.drift if one.moved]
    differs = f"It differs from validation in: {', '.join(moved)}." if moved else (
        "Nothing shows that it differs from validation.")  # fmt: skip
    return [
        f"{len(found.answers.names):,} photos against {seen:,} of training and {usual:,} of "
        f"validation; {len(found.answers.unread):,} could not be read. {differs}"
    ]


def _unlike(found: Triage) -> str:
    farther, luck = found.beyond
    return (
        f"Unlike anything in training: {len(found.unlike):,} photos, on average at most "
        f"{FALSE_ALARMS:.0%} of them by mistake. {farther:,} lie farther from training than every "
        f"validation photo; of photos like these about {luck:.1f} would."
    )


def _drift_rows(found: Sequence[Difference]) -> Iterator[tuple[str, ...]]:
    yield ("answer", "here", "validation", "difference", "95 % interval", "for all at once")
    for one in found:
        change = f"{one.here - one.usual:+.1%}"
        here, usual = f"{one.here:.1%}", f"{one.usual:.1%}"
        span = f"{one.low:+.1%} … {one.high:+.1%}"
        yield one.name, here, usual, change, span, "differs" if one.moved else ""


def page(found: Triage, classifier: Classifier) -> str:
    """Return what was found as a page that loads nothing."""
    title = f"{printable(found.answers.folder.name)}: what to label next"
    head, *rows = _drift_rows(found.drift)
    parts = [f"<h1>{html.escape(title)}</h1>"]
    parts += [f"<p>{html.escape(line)}</p>" for line in _lead(found)]
    about = (
        "Near the tuned threshold, of a class with few photos, and unlike what is labelled or "
        "chosen already. Below each: its nearest photos in training, with their labels."
    )
    panels = [
        gallery("Label next", about, found, found.chosen, classifier),
        gallery("Unlike anything in training", _unlike(found), found, found.unlike, classifier),
    ]
    parts += [fragment({"module": one.module, "data": one.data}) for one in panels]
    parts.append(
        "<h2>How the folder differs</h2><p>How often each answer is given, and the chance that a "
        "photo lies farther from training than one of validation (50 % if they are alike)."
        f"</p>{html_table(head, rows)}"
    )
    return document(title, "".join(parts), [SCRIPTS["gallery"]])


def gallery(
    title: str, about: str, found: Triage, rows: np.ndarray, classifier: Classifier
) -> Panel:
    """Show photos with what the app says and the nearest training photos."""
    shown = rows[:MOST_PICTURES]
    if len(shown) < len(rows):
        about += f" The first {len(shown):,} of {len(rows):,} are shown."
    beside = near_pictures(found.reference, found.near[shown], classifier)
    pictures: list[dict[str, Any]] = [
        {
            "image": image, "title": printable(found.answers.names[row]), "near": near,
            "marks": [{
                "class": found.answers.labels[found.column[row]], "wrong": -float(place),
                "words": f"for {found.answers.labels[found.column[row]]}: "
                f"{found.answers.words(row)}. {likeness(float(found.p[row]))}",
                "kind": "answered" if found.answers.decisions[row] else "not answered",
            }],
        }
        for place, (row, image, near) in enumerate(
            zip(shown, thumbnails(found.answers, classifier, shown), beside, strict=True)
        )
    ]  # fmt: skip
    return Panel("gallery", {"title": title, "about": about, "pictures": pictures})
