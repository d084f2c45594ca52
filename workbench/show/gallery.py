"""Pictures with words: the worst mistakes, what the audit found, or answers on validation photos.

As a static figure, and as a panel to search by class and kind, live and in the rendered page.
"""

from __future__ import annotations

import io
import textwrap
from base64 import b64encode
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.figure import Figure
from PIL import Image

from workbench import judgements
from workbench.data.tables import Split
from workbench.data.views import letterboxed
from workbench.decide.outcomes import FN, FP, TP, Answers, probabilities
from workbench.settings import Settings
from workbench.show.figures import INK, QUIET, described, short
from workbench.show.panel import Panel

SIDE = 220  # pixels of the longer side: a page with 200 pictures stays below 4 MB
THUMBNAIL = 144  # of the photo browser
COLUMNS = 4
JPEG_QUALITY = 82


@dataclass(frozen=True)
class Picture:
    """A small RGB image, what is wrong with it, and the classes it belongs to."""

    image: np.ndarray  # uint8 [h, w, 3]
    title: str
    caption: str
    kind: str
    classes: tuple[str, ...]
    filepath: str = ""  # of a mistake that a person may judge


def mistake_pictures(
    mistakes: pd.DataFrame,
    load: Callable[[str], np.ndarray],
    heatmaps: Mapping[tuple[int, int], np.ndarray] | None = None,
) -> list[Picture]:
    """Make pictures of `worst_mistakes`; `load` maps a filepath to an RGB image.

    `heatmaps` maps (image, class_index) to a map in 0…1 of any size, drawn over the image.
    """
    pictures = []
    for row in mistakes.to_dict("records"):
        image = load(row["filepath"])
        heat = (heatmaps or {}).get((row["image"], row["class_index"]))
        pictures.append(
            Picture(
                image=shrink(image if heat is None else overlay(image, heat)),
                title=row["class"],
                caption=_sentence(row),
                kind=row["kind"],
                classes=(row["class"],),
                filepath=row["filepath"],
            )
        )
    return pictures


def _sentence(row: Mapping[str, object]) -> str:
    verb = "said, not there" if row["kind"] == "false positive" else "there, not said"
    really = ", ".join(row["really"]) or "none of the classes"
    return (
        f"{verb}: {row['probability']:.2f} against {row['threshold']:.2f}. "
        f"Really: {really}. {Path(row['filepath']).name}"
    )


def shrink(image: np.ndarray, side: int = SIDE) -> np.ndarray:
    """Scale an RGB image down until its longer side fits."""
    small = Image.fromarray(np.ascontiguousarray(image, np.uint8))
    small.thumbnail((side, side))
    return np.asarray(small)


def overlay(image: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """Lay a heat map over an image: yellow where the network looked, darkened where not."""
    height, width = image.shape[:2]
    grown = Image.fromarray(np.asarray(heat, np.float32)).resize(
        (width, height), Image.Resampling.BILINEAR
    )
    strength = np.clip(np.asarray(grown), 0, 1)[..., None]
    colours = colormaps["inferno"](strength[..., 0])[..., :3] * 255
    mixed = image * (1 - 0.55 * strength) * (0.55 + 0.45 * strength) + colours * 0.55 * strength
    return np.clip(np.rint(mixed), 0, 255).astype(np.uint8)


def gallery_figure(pictures: Sequence[Picture], title: str) -> Figure:
    """Draw the pictures in a grid."""
    rows = max(1, -(-len(pictures) // COLUMNS))
    figure = Figure(figsize=(10, 0.5 + 3.5 * rows), layout="constrained")
    figure.get_layout_engine().set(h_pad=0.12)
    figure.suptitle(title, x=0.01, ha="left", fontsize=12, color=INK, parse_math=False)
    axes = np.atleast_1d(figure.subplots(rows, COLUMNS, squeeze=False)).ravel()
    for ax, picture in zip(axes, pictures, strict=False):
        ax.imshow(picture.image)
        heading = f"{short(picture.title)}\n{picture.kind}"
        ax.set_title(heading, fontsize=9, color=INK, parse_math=False)
        words = "\n".join(_wrapped(picture.caption))
        ax.set_xlabel(words, fontsize=7, color=QUIET, parse_math=False)
    for ax in axes:
        ax.set(xticks=[], yticks=[])
        ax.spines[:].set_visible(False)
    kinds = pd.Series([picture.kind for picture in pictures]).value_counts()
    counted = ", ".join(f"{count} {kind}" for kind, count in kinds.items()) or "no pictures"
    return described(axes[0], f"{title}: {counted}.")


def _wrapped(text: str) -> list[str]:
    text = "".join(letter if letter.isprintable() else "?" for letter in text)
    return textwrap.wrap(text, width=40, max_lines=4, placeholder=" …")


def picture_gallery(
    pictures: Sequence[Picture], title: str = "The worst first", *, judged_in: Path | None = None
) -> Panel:
    """Return a gallery with filters by class and kind, for mistakes and audit findings alike.

    Mistakes may be judged: what is clicked is kept in the run folder `judged_in`.
    """
    shown = [
        {
            "image": data_uri(picture.image),
            "title": picture.title,
            "kind": picture.kind,
            "caption": picture.caption,
            "marks": [
                {"class": name, "kind": picture.kind, "wrong": 0}
                for name in picture.classes or ("",)
            ],
        }
        for picture in pictures
    ]
    about = "" if pictures else "There is nothing to show."
    data = {"title": title, "about": about, "pictures": shown}
    if judged_in is None:
        return Panel("gallery", data)
    for one, picture in zip(shown, pictures, strict=True):
        one["mistake"] = {"filepath": picture.filepath, "class": picture.title,
                          "kind": picture.kind}  # fmt: skip
    return Panel("gallery", data | _judging(judged_in), partial(judgements.on_click, judged_in))


def _judging(folder: Path) -> dict[str, object]:
    """Return what was clicked before, and what applies the file that a page downloads."""
    kept = [one.model_dump(by_alias=True) for one in judgements.kept(folder)]
    command = f"python -m workbench judge outputs/{folder.name} judgements.json"
    return {"judged": kept, "judge": command}


def data_uri(image: np.ndarray) -> str:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=JPEG_QUALITY)
    return f"data:image/jpeg;base64,{b64encode(buffer.getvalue()).decode('ascii')}"


def photo_browser(
    split: Split,
    logits: np.ndarray,
    settings: Settings,
    thresholds: np.ndarray | float | None = None,
    *,
    limit: int = 96,
) -> Panel:
    """Show photos of a split with their labels and the network's answers to logits [N, C].

    At most `limit` photos: of every class the most wrong misses, wrong answers and right ones in
    turn. `thresholds` are probabilities; without them yes means 0.5 or the best class.
    """
    if thresholds is None:
        thresholds = 0.5 if settings.task == "multilabel" else 0.0
    y_score = probabilities(logits, settings.task)
    answers = Answers.of(split.targets, y_score, thresholds, split.mask, settings.task)
    marks = judge(answers, thresholds, split.classes)
    chosen = choose(marks, limit)
    images = letterboxed(split, THUMBNAIL, settings, indices=chosen)
    of_image = dict(list(marks.sort_values("wrong", ascending=False).groupby("image")))
    pictures = [
        {
            "image": data_uri(image),
            "title": Path(split.filepaths[index]).name,
            "marks": of_image[index][["class", "kind", "wrong", "words"]].to_dict("records"),
        }
        for index, image in zip(chosen, images, strict=True)
    ]
    about = (
        f"{len(chosen):,} of {len(split):,} photos: of every class those furthest on the wrong "
        "side first, right ones last. `limit` shows more."
    )
    if settings.task == "multilabel" and not np.ndim(thresholds):
        about += f" A class is said from {thresholds:.2f} on."
    return Panel("gallery", {"title": "Photos and answers", "about": about, "pictures": pictures})


KINDS = {FN: "missed", FP: "wrongly said", TP: "right"}


def judge(answers: Answers, thresholds: np.ndarray | float, classes: Sequence[str]) -> pd.DataFrame:
    """Return one row for every class of an image that is there or was said, and how wrong it is.

    `wrong` is the distance to the probability that would have changed the answer; negative where
    the answer is right.
    """
    y_score = answers.y_score
    images, columns = np.nonzero(np.isin(answers.cells, list(KINDS)))
    if answers.task == "multilabel":
        bars = np.broadcast_to(np.asarray(thresholds, np.float64), y_score.shape)[images, columns]
    else:  # the best class must beat the second and be sure enough, any other one the best
        second, first = np.sort(y_score, axis=1)[:, -2:].T
        best = y_score.argmax(1)[images] == columns
        bars = np.where(best, np.maximum(second, thresholds)[images], first[images])
    cells, scores = answers.cells[images, columns], y_score[images, columns]
    distance = np.abs(scores - bars)
    kinds = [KINDS[cell] for cell in cells.tolist()]
    own = np.ndim(thresholds) > 0  # one for all is said once, above the photos
    words = [
        f"{kind}: {classes[column]} {score:.2f}" + (f" (yes from {bar:.2f})" if own else "")
        for kind, column, score, bar in zip(kinds, columns, scores, bars, strict=True)
    ]
    return pd.DataFrame(
        {
            "image": images,
            "class": [classes[column] for column in columns],
            "kind": kinds,
            "wrong": np.where(cells == TP, -distance, distance).round(4),
            "words": words,
        }
    )


def choose(marks: pd.DataFrame, limit: int) -> list[int]:
    """Choose images by turns: the most wrong of every class and kind, then the next, and so on."""
    ranked = marks.sort_values("wrong", ascending=False, kind="stable")
    turn = ranked.groupby(["class", "kind"]).cumcount()
    ranked = ranked.assign(turn=turn).sort_values("turn", kind="stable")
    return ranked["image"].drop_duplicates().head(limit).tolist()
