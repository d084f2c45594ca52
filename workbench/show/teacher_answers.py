"""What a teacher says of photos that nobody labelled: how often which class, and how sure."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from workbench.data.tables import Split
from workbench.data.views import letterboxed
from workbench.decide.outcomes import probabilities
from workbench.settings import Settings
from workbench.show.figures import NO, YES, described, new_axes, plain, short
from workbench.show.gallery import SIDE, Picture, gallery_figure
from workbench.show.plots import ROW_INCHES

ASKED = 1000  # enough for shares within three points; the teacher is large
SURE = 0.9
EACH = 4  # photos of either end


def some_photos(split: Split, most: int = ASKED) -> Split:
    """Take at most so many photos of a split, evenly from its list."""
    chosen = np.unique(np.linspace(0, len(split) - 1, min(most, len(split))).round().astype(int))
    return replace(
        split, filepaths=tuple(split.filepaths[index] for index in chosen),
        targets=split.targets[chosen], mask=split.mask[chosen],
        groups=None if split.groups is None else split.groups[chosen],
    )  # fmt: skip


def answer_bars(
    logits: np.ndarray, split: Split, settings: Settings, *, ax: Axes | None = None
) -> Figure:
    """Draw for how many photos the teacher says each class, surely or not."""
    said, surely = _said(logits, settings)
    total = said.sum(axis=0)
    order = np.argsort(total, kind="stable")
    ax = plain(
        new_axes(7.0, 1.4 + ROW_INCHES * max(len(order), 3), ax),
        f"What the teacher says of {len(split):,} photos without labels", "photos",
    )  # fmt: skip
    y, sure = np.arange(len(order)), surely.sum(axis=0)[order]
    ax.barh(y, sure, color=YES, label=f"with {SURE:.0%} or more")
    ax.barh(y, total[order] - sure, left=sure, color=NO, label="less sure")
    ax.set_yticks(y, [short(split.classes[index]) for index in order], parse_math=False)
    ax.legend(frameon=False)
    ax.grid(visible=False, axis="y")
    unsure = _sureness(logits, settings) < SURE
    return described(
        ax,
        f"Answers of the teacher to {len(split)} photos without labels: most often "
        f"{split.classes[order[-1]]} ({total[order[-1]]}), least {split.classes[order[0]]} "
        f"({total[order[0]]}); {unsure.mean():.0%} of the photos have an answer below {SURE:.0%}.",
    )


def answer_photos(logits: np.ndarray, split: Split, settings: Settings) -> Figure:
    """Show the photos that the teacher is least sure of, and those it is surest of."""
    order = np.argsort(_sureness(logits, settings), kind="stable")
    ends = {"least sure": order[:EACH], "surest": order[EACH:][::-1][:EACH]}
    chosen = [(kind, index) for kind, indices in ends.items() for index in indices]
    images = letterboxed(split, SIDE, settings, indices=[index for _kind, index in chosen])
    said, scores = _said(logits, settings)[0], probabilities(logits, settings.task)
    pictures = []
    for (kind, index), image in zip(chosen, images, strict=True):
        names = [f"{split.classes[place]} {scores[index, place]:.0%}"
                 for place in np.flatnonzero(said[index])]  # fmt: skip
        words = ", ".join(names) or "none of the classes"
        title = Path(split.filepaths[index]).name
        pictures.append(Picture(image, title, f"{kind}: {words}", kind, split.classes))
    return gallery_figure(pictures, "Photos without labels, and what the teacher says")


def _said(logits: np.ndarray, settings: Settings) -> tuple[np.ndarray, np.ndarray]:
    """Tell which classes are said [N, C], and which surely."""
    scores = probabilities(logits, settings.task)
    single_label = settings.task == "single_label"
    top = np.arange(scores.shape[1]) == scores.argmax(axis=1)[:, None]
    said = top if single_label else scores >= 0.5
    return said, said & (scores >= SURE)


def _sureness(logits: np.ndarray, settings: Settings) -> np.ndarray:
    """Give the probability [N] of the answer: of the class said, or of the least sure yes or no."""
    scores = probabilities(logits, settings.task)
    if settings.task == "single_label":
        return scores.max(axis=1)
    return np.maximum(scores, 1 - scores).min(axis=1)
