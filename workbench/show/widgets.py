"""Live controls for notebooks: they hold no logic and no later cell needs them.

What they do is in `sliders` and `gallery`; the static figure beside them says the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import ipywidgets as ipw

from workbench.decide.levels import LevelCounts
from workbench.decide.recommendation import Thresholds, UnknownThreshold
from workbench.show.gallery import Picture, picture_html
from workbench.show.tuner import ThresholdTuner, printable
from workbench.show.unknown_tuner import UnknownTuner

EVERYTHING = ""  # no class or kind has this name


def threshold_tuner(
    counts: LevelCounts | None,
    thresholds: Thresholds | UnknownThreshold,
    on_save: Callable[[Thresholds | UnknownThreshold], str | None],
) -> ThresholdTuner | UnknownTuner:
    """Return sliders over the thresholds; `on_save` writes them and may answer a sentence.

    A single-label run has one slider and no counts.
    """
    if isinstance(thresholds, UnknownThreshold):
        return UnknownTuner(thresholds, on_save)
    return ThresholdTuner(counts, thresholds, on_save)


def picture_gallery(pictures: Sequence[Picture]) -> ipw.VBox:
    """Return a gallery with filters by class and kind, for mistakes and audit findings alike."""
    classes = sorted({name for picture in pictures for name in picture.classes})
    kinds = sorted({picture.kind for picture in pictures})
    by_class = _filter("Class", classes)
    by_kind = _filter("Kind", kinds)
    shown = ipw.HTML()

    def show(_: object = None) -> None:
        chosen = [
            picture_html(picture)
            for picture in pictures
            if by_class.value in (EVERYTHING, *picture.classes)
            and by_kind.value in (EVERYTHING, picture.kind)
        ]
        empty = "<p>No picture is both.</p>"
        shown.value = f"<div style='display:flex;flex-wrap:wrap'>{''.join(chosen) or empty}</div>"

    for choice in (by_class, by_kind):
        choice.observe(show, "value")
    show()
    return ipw.VBox([ipw.HBox([by_class, by_kind]), shown])


def _filter(title: str, names: Sequence[str]) -> ipw.Dropdown:
    options = [("all", EVERYTHING), *((printable(name), name) for name in names)]
    return ipw.Dropdown(options=options, value=EVERYTHING, description=title)
