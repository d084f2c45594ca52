"""What notebook 06 shows of thresholds and calibration, for either task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import seaborn
from matplotlib.figure import Figure

from workbench.decide.calibration import Calibration, Scores
from workbench.decide.calibration import reliability as reliability_table
from workbench.decide.metrics import evaluate
from workbench.decide.recommendation import AnyThresholds
from workbench.show import plots
from workbench.show.figures import CHOSEN, NO, YES, beside, described, new_axes, plain, short
from workbench.show.tables import Table, table

ROW_INCHES = 0.34  # two boxes a class


def expected(thresholds: AnyThresholds) -> Table:
    """Show what was chosen reaches, also on images that did not choose it."""
    if thresholds.task == "single_label":
        return table(thresholds.table)
    found = thresholds.expected
    low, high = found.corrected_interval or (None, None)
    rows = [
        {"on": "the images that chose", "value": found.apparent},
        {"on": "of that the luck of choosing", "value": found.optimism},
        {"on": "other images", "value": found.corrected, "from": low, "to": high},
    ]
    return table(rows)


def side_by_side(
    scores: Scores, choices: Mapping[str, Any], classes: Sequence[str]
) -> Table:  # fmt: skip
    """Show what different thresholds reach on the images: name → probability or one a class."""
    names = ("f1_macro", "precision_macro", "recall_macro", "exact_match", "no_label_rate")
    rows = []
    for name, probability in choices.items():
        asked = scores.y_true, scores.probability, probability, classes
        found = evaluate(*asked, mask=scores.mask, task=scores.task)
        figures = {figure: found.value(figure) for figure in names}
        rows.append({"thresholds": name} | figures | {"means": found.macro_means})
    return table(rows)


def figures(thresholds: AnyThresholds) -> dict[str, Figure]:
    """Draw each class's threshold and the curve of the shared one, or that of "unknown"."""
    if thresholds.task == "single_label":
        return {"threshold_analysis": plots.unknown_curve(thresholds.curve)}
    ends = thresholds.shared.probability_interval
    return {
        "threshold_analysis": plots.class_thresholds(thresholds),
        "threshold_curve": plots.threshold_curve(thresholds.curve, interval=ends),
    }


def class_scores(scores: Scores, thresholds: AnyThresholds, classes: Sequence[str]) -> Figure:
    """Draw how the answers to each class spread with and without it, and where they are cut."""
    rows = len(classes)
    ax = plain(
        new_axes(8.0, 1.4 + ROW_INCHES * max(rows, 3)),
        "Answers where a class is there, and where it is not",
        "probability: half of the images lie in the box, 9 of 10 between the whiskers",
    )
    images, place = np.nonzero(scores.mask > 0.5)
    there = scores.y_true[images, place] > 0.5
    seaborn.boxplot(
        x=scores.probability[images, place], y=place, hue=np.where(there, "there", "not there"),
        hue_order=["there", "not there"], order=range(rows), orient="h", palette=[YES, NO],
        whis=(5, 95), showfliers=False, linewidth=0.9, width=0.7, saturation=1, ax=ax,
    )  # fmt: skip
    cuts = np.broadcast_to(thresholds.probability, rows)
    mark = {"marker": "|", "s": 190, "linewidth": 2.5, "color": CHOSEN, "zorder": 4}
    ax.scatter(cuts, range(rows), label="threshold", **mark)
    ax.set_yticks(range(rows), [short(name) for name in classes], parse_math=False)
    ax.set(xlim=(0, 1), ylim=(rows - 0.4, -0.6), ylabel="")
    ax.grid(visible=False, axis="y")
    beside(ax)
    return described(ax, _spread_in_words(scores, cuts, classes))


def _spread_in_words(scores: Scores, cuts: np.ndarray, classes: Sequence[str]) -> str:
    known, there = scores.mask > 0.5, scores.y_true > 0.5
    missed = ((scores.probability < cuts) & there & known).sum(0)
    worst = int(missed.argmax())
    return (
        f"Probabilities of {len(classes)} classes on images with and without the class, and the "
        f"thresholds. Most images of a class below its threshold: {missed[worst]} of "
        f"{(there & known)[:, worst].sum()} of {classes[worst]}."
    )


def reliability(
    y_true: np.ndarray, answers: Mapping[str, np.ndarray], mask: np.ndarray | None = None
) -> Figure:
    """Draw predicted against real frequency, a line for each name → probabilities [N, C]."""
    tables = {name: reliability_table(y_true, p, mask) for name, p in answers.items()}
    return plots.reliability_diagram(tables)


def calibration_errors(calibration: Calibration) -> Table:
    """Show how far probabilities are off, and which corrections ship because they surely help."""
    found = calibration.table
    columns = {"class": found["class"]}
    for when in ("before", "after"):
        columns[f"error {when}"] = [_spanned(row, when) for row in found.to_dict("records")]
    for when in ("before", "after"):
        columns[f"log loss {when}, held out"] = found[f"loss_{when}"]
    line = {"slope": found.slope, "intercept": found.intercept}
    return table(pd.DataFrame(columns | line | {"correction": found.reason}))


def _spanned(row: dict[str, Any], when: str) -> str:
    error, low, high = (row.get(f"error_{when}{end}") for end in ("", "_low", "_high"))
    if pd.isna(error):
        return "–"
    if low is None or pd.isna(low):
        return f"{error:.3f}" + (
            f" (no interval: {row['withheld']})" if row.get("withheld") else ""
        )
    return f"{error:.3f} [{low:.3f}, {high:.3f}]"


def confidence(scores: Scores, thresholds: AnyThresholds) -> Figure:
    """Draw how probabilities spread; the one threshold of a single label stands among them."""
    bar = thresholds.probability if scores.task == "single_label" else None
    known = {"mask": scores.mask, "threshold": bar}
    return plots.confidence_histogram(scores.y_true, scores.probability, **known)
