"""Answers to photos without labels, with pictures: what was said, how near, and what nearly was."""

from __future__ import annotations

import html
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from workbench.data.decode import count_cores, map_in_order
from workbench.data.letterbox import letterbox
from workbench.decide.drift import p_values
from workbench.errors import printable
from workbench.predict import Answers, Classifier
from workbench.reference import Reference
from workbench.show.gallery import THUMBNAIL, choose, data_uri
from workbench.show.page import document, html_table
from workbench.show.panel import SCRIPTS, Panel, fragment

MOST_PICTURES = 300  # on a page, which then weighs about 2 MB
MOST_NAMED = 100  # photos that could not be read
NEARLY = 0.2  # a class this near below its threshold is worth a word
FEW = 20  # photos whose answers a terminal shows one by one
WITHIN = (2, 5, 10, 20)  # percentage points, in the filter
SMALL = 64  # pixels of a training photo beside
SAID, NEARLY_SAID = "said", "nearly said"


def marks(answers: Answers) -> pd.DataFrame:
    """Return a row for every class that was said or nearly said, or for the nearest one.

    `wrong` is how far the answer is from changing, below 0: the nearest come first in a gallery.
    """
    said = answers.distance >= 0 if not answers.single else np.zeros_like(answers.distance, bool)
    for row, names in enumerate(answers.decisions):
        said[row] = np.isin(answers.labels, names)
    nearly = ~said & (answers.distance > -NEARLY) & (not answers.single)
    none = np.flatnonzero(~said.any(1))
    nearest = answers.distance[none].argmax(1)
    nearly[none] = False
    images, columns = np.nonzero(said | nearly)
    kinds = np.where(said[images, columns], SAID, NEARLY_SAID)
    title = "unknown" if answers.single else "none of the classes"
    frame = pd.DataFrame({
        "image": np.concatenate([images, none]), "column": np.concatenate([columns, nearest]),
        "kind": [*kinds, *[title] * len(none)],
    })  # fmt: skip
    frame["wrong"] = -np.abs(answers.distance[frame["image"], frame["column"]]).round(4)
    frame["class"] = [answers.labels[column] for column in frame["column"]]
    frame["words"] = [_words(answers, *row) for row in zip(frame["image"], frame["column"],
                                                           frame["kind"], strict=True)]  # fmt: skip
    return frame


def _words(answers: Answers, row: int, column: int, kind: str) -> str:
    if kind not in (SAID, NEARLY_SAID):
        return f"{kind}: {answers.why_none(row)}"
    name, shown = answers.labels[column], answers.shown[row, column]
    if answers.single:
        sure = f"{answers.confidence[row]:.0%} sure, needs {answers.bars[0]:.0%}"
        return f"{name} {shown:.0%} ({sure})"
    nearly = "nearly " if kind == NEARLY_SAID else ""
    return f"{nearly}{name} {shown:.0%} (yes from {answers.bars[column]:.0%})"


def photo_panel(
    answers: Answers, classifier: Classifier, known: Reference | None = None,
    limit: int = MOST_PICTURES,
) -> Panel:  # fmt: skip
    """Show photos with what the app says of them: of every class and kind the nearest first.

    `known` adds the nearest photos of training, and how unlike them a photo is.
    """
    found = marks(answers)
    chosen = choose(found, limit)
    of_image = dict(list(found.groupby("image")))
    pictures = [
        {
            "image": image, "title": printable(answers.names[row]),
            "marks": of_image[row][["class", "kind", "wrong", "words"]].to_dict("records"),
        }
        for row, image in zip(chosen, thumbnails(answers, classifier, chosen), strict=True)
    ]  # fmt: skip
    about = f"{len(chosen):,} of {len(answers.names):,} photos, the nearest to a threshold first."
    if len(chosen) < len(answers.names):
        about += " Of every class and answer in turn; --csv has all."
    if known and chosen:
        _add_nearest(pictures, answers.features[chosen], known, classifier)
        about += " Below each: its nearest photos in training, with their labels."
    data = {"title": "Photos and answers", "about": about, "pictures": pictures}
    return Panel("gallery", data | {"within": list(WITHIN)})


def _add_nearest(
    pictures: Sequence[dict[str, Any]], features: np.ndarray, known: Reference,
    classifier: Classifier,
) -> None:  # fmt: skip
    near, distance = known.nearest(features)
    beside = near_pictures(known, near, classifier)
    chances = p_values(distance[:, 0], known.usual)
    for picture, photos, p in zip(pictures, beside, chances, strict=True):
        picture |= {"near": photos, "caption": likeness(float(p))}


def thumbnails(answers: Answers, classifier: Classifier, rows: Sequence[int]) -> list[str]:
    """Draw photos small, as the network's letterbox shows them."""

    def small(row: int) -> str:
        pixels = classifier.read(answers.folder / answers.names[row])
        return data_uri(letterbox(pixels, THUMBNAIL))

    return list(map_in_order(small, rows, count_cores()))


def likeness(p: float) -> str:
    """Say how far a photo lies from training, against those of validation."""
    share = f"{p:.0%}" if p >= 0.01 else "under 1%"
    return f"{share} of validation photos lie as far from training"


def near_pictures(
    reference: Reference, near: np.ndarray, classifier: Classifier
) -> list[list[dict[str, str]]]:
    """Draw the nearest training photos of each photo, with their labels."""
    wanted = sorted(set(near.ravel().tolist()))

    def small(row: int) -> str:
        return data_uri(letterbox(classifier.read(reference.split.path(row)), SMALL))

    drawn = dict(zip(wanted, map_in_order(small, wanted, count_cores()), strict=True))
    return [
        [{"image": drawn[row], "title": reference.labels(row)} for row in rows.tolist()]
        for rows in near
    ]


def page(answers: Answers, classifier: Classifier, known: Reference | None = None) -> str:
    """Return the answers as a page that loads nothing."""
    model = answers.config["model"]
    panel = photo_panel(answers, classifier, known)
    title = f"{printable(answers.folder.name)}: answers of {printable(classifier.folder.name)}"
    calibrated = "calibrated" if answers.config["calibration"] else "not corrected"
    lead = (
        f"{len(answers.names):,} photos answered by {model['file']} ({model['sha256'][:12]}), "
        f"percentages {calibrated}; {len(answers.unread):,} could not be read."
    )
    counts = [(name, f"{count:,}") for name, count in answers.counts()]
    body = (
        f"<h1>{html.escape(title)}</h1><p>{html.escape(lead)}</p>"
        f"{html_table(('answer', 'photos'), counts)}"
        f"{fragment({'module': panel.module, 'data': panel.data})}{_unread(answers)}"
    )
    return document(title, body, [SCRIPTS[panel.module]])


def _unread(answers: Answers) -> str:
    if not answers.unread:
        return ""
    rows = [(printable(name), why) for name, why in list(answers.unread.items())[:MOST_NAMED]]
    more = len(answers.unread) - len(rows)
    rest = f"<p>… and {more:,} more, in the CSV</p>" if more else ""
    return f"<h2>Not read</h2>{html_table(('photo', 'it'), rows)}{rest}"


def text(answers: Answers) -> str:
    """Return the answers for a terminal: photo by photo where they are few, else counted."""
    model = answers.config["model"]["file"]
    lines = [f"{len(answers.names)} photos answered by {model}" + (
        f", {len(answers.unread)} could not be read" if answers.unread else "")]  # fmt: skip
    if answers.config["aggregation"]:
        lines.append("its thresholds are for the mean of a clip's frames; here each photo is alone")
    if len(answers.names) <= FEW:
        lines += [f"{name}: {answers.words(row)}" for row, name in enumerate(answers.names)]
    else:
        near = Counter(answers.nearest.tolist())
        width = max(len(name) for name, _ in answers.counts())
        lines += [f"  {name:<{width}}  {count:>7}" for name, count in answers.counts()]
        if not answers.single:
            often = ", ".join(answers.labels[one] for one, _ in near.most_common(3))
            lines.append(f"most often nearest to their thresholds: {often}")
    shown = list(answers.unread.items())[:FEW]
    lines += [f"not read: {name} {why}" for name, why in shown]
    if len(answers.unread) > FEW:
        lines.append(f"… and {len(answers.unread) - FEW} more that could not be read")
    return "\n".join(lines)
