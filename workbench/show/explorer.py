"""The threshold explorer: one panel for either task, live in JupyterLab and in the rendered page.

It holds counts per class and level (or the curve of a single-label run), and small pictures of the
photos next to each threshold; live it asks for those that a slider turns. What a person chose comes
back as an edited threshold_recommendation.json: live as a message, from a page
as a download that the command below the sliders applies.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from workbench.decide.choice import accept
from workbench.decide.levels import LevelCounts
from workbench.decide.objectives import FLOORS, Objective
from workbench.decide.recommendation import Thresholds, UnknownThreshold, from_json
from workbench.show.flips import Flips
from workbench.show.panel import Panel

Worth = dict[str, list[float]] | None


def explorer(
    counts: LevelCounts | None,
    thresholds: Thresholds | UnknownThreshold,
    on_save: Callable[[Thresholds | UnknownThreshold], str | None],
    command: str,
    worth: Worth = None,
    flips: Flips | None = None,
) -> Panel:
    """Return sliders over the thresholds; `on_save` keeps the edited ones.

    It may answer a sentence, which is shown. `command` applies the file that a page downloads.
    `worth` is what a floor counts of the images of each class: less than all where those of a group
    err together. `flips` are the photos that a slider turns. A single-label run has no counts.
    """

    def answer(message: dict[str, Any]) -> str | dict[str, Any]:
        if flips and "turned" in message:
            return {"turned": flips.between(*message["turned"])}
        return on_save(accept(thresholds, from_json(message["recommendation"]))) or "Saved."

    return Panel("explorer", explorer_data(counts, thresholds, command, worth, flips), answer)


def explorer_data(
    counts: LevelCounts | None, thresholds: Thresholds | UnknownThreshold, command: str,
    worth: Worth = None, flips: Flips | None = None,
) -> dict[str, Any]:  # fmt: skip
    data = {"command": command, "recommendation": thresholds.model_dump(mode="json")}
    if flips:
        data["photos"] = flips.near(thresholds)
    if counts is None:
        curve = thresholds.curve.astype(object).where(thresholds.curve.notna(), None)
        return {**data, "curve": curve.to_dict("records")}
    classes = len(counts.positives)
    pairs = zip(counts.positives.tolist(), counts.negatives.tolist(), strict=True)
    return {
        **data,
        "integers": thresholds.quantization.separable().tolist(),
        "classes": [list(pair) for pair in pairs],
        "needed": Objective.needed(classes).tolist(),
        "worth": worth or {floor: [1.0] * classes for floor in FLOORS},
    }
