"""The threshold explorer: one panel for either task, live in JupyterLab and in the rendered page.

It holds counts per class and level (or the curve of a single-label run), never images. What a
person chose comes back as an edited threshold_recommendation.json: live as a message, from a page
as a download that the command below the sliders applies.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from workbench.decide.choice import accept
from workbench.decide.levels import LevelCounts
from workbench.decide.objectives import Objective
from workbench.decide.recommendation import Thresholds, UnknownThreshold, from_json
from workbench.show.panel import Panel


def explorer(
    counts: LevelCounts | None,
    thresholds: Thresholds | UnknownThreshold,
    on_save: Callable[[Thresholds | UnknownThreshold], str | None],
    command: str,
) -> Panel:
    """Return sliders over the thresholds; `on_save` keeps the edited ones.

    It may answer a sentence, which is shown. `command` applies the file that a
    page downloads. A single-label run has no counts.
    """

    def save(message: dict[str, Any]) -> str:
        return on_save(accept(thresholds, from_json(message["recommendation"]))) or "Saved."

    return Panel("explorer", explorer_data(counts, thresholds, command), save)


def explorer_data(
    counts: LevelCounts | None, thresholds: Thresholds | UnknownThreshold, command: str
) -> dict[str, Any]:
    data = {"command": command, "recommendation": thresholds.model_dump(mode="json")}
    if counts is None:
        curve = thresholds.curve.astype(object).where(thresholds.curve.notna(), None)
        return {**data, "curve": curve.to_dict("records")}
    pairs = zip(counts.positives.tolist(), counts.negatives.tolist(), strict=True)
    return {
        **data,
        "integers": thresholds.quantization.separable().tolist(),
        "classes": [list(pair) for pair in pairs],
        "needed": Objective.needed(len(counts.positives)).tolist(),
    }
