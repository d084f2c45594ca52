"""What notebook 06 shows, for either task: thresholds, calibration, confidence, the explorer."""

from __future__ import annotations

from functools import partial

import pandas as pd
from matplotlib.figure import Figure

from workbench.decide.calibration import reliability as reliability_table
from workbench.decide.choice import keep_choice
from workbench.run import Run
from workbench.show import plots
from workbench.show.explorer import explorer
from workbench.show.panel import Panel
from workbench.show.tables import Table, table
from workbench.steps import thresholds
from workbench.steps.thresholds import Tuned


def tables(tuned: Tuned) -> list[Table]:
    """Show what was chosen, and what it reaches on images that did not choose it."""
    thresholds = tuned.thresholds
    if tuned.scores.task == "single_label":
        return [table(thresholds.table)]
    expected = thresholds.expected
    low, high = expected.apparent_interval or (None, None)
    rows = [
        {"on": "the images that chose", "value": expected.apparent, "from": low, "to": high},
        {"on": "held-out folds, chosen anew each time", "value": expected.cross_fitted},
        {"on": "the difference: the luck of tuning", "value": expected.optimism},
    ]
    return [table(thresholds.table), table(rows)]


def figures(tuned: Tuned) -> dict[str, Figure]:
    """Draw each class's threshold and the curve of the shared one, or that of "unknown"."""
    thresholds = tuned.thresholds
    if tuned.scores.task == "single_label":
        return {"threshold_analysis": plots.unknown_curve(thresholds.curve)}
    return {
        "threshold_analysis": plots.class_thresholds(thresholds),
        "threshold_curve": plots.threshold_curve(
            thresholds.curve, interval=thresholds.shared.probability_interval
        ),
    }


def reliability(tuned: Tuned) -> Figure:
    """Draw promised against real frequency: before INT8, after it, and corrected."""
    scores = tuned.scores
    answers = {"float student": tuned.float_probability, "phone file": scores.probability}
    if tuned.calibration.method != "none":
        answers["phone file, corrected (held-out folds)"] = tuned.calibration.held_out
    return plots.reliability_diagram(
        {name: reliability_table(scores.y_true, p, scores.mask) for name, p in answers.items()}
    )


def calibration(tuned: Tuned) -> Table:
    """Show how far promises were off, and how far with the correction on unseen images."""
    found = tuned.calibration.table
    columns = {"class": found["class"]}
    for when in ("before", "after"):
        error = f"error_{when}"
        columns[f"error {when}"] = [_spanned(row, error) for row in found.to_dict("records")]
        columns[f"{when}, equal bins"] = found[f"adaptive_{error}"]
    return table(pd.DataFrame(columns | {"slope": found.slope, "intercept": found.intercept}))


def _spanned(row: dict[str, float], name: str) -> str:
    if pd.isna(row[name]):
        return "–"
    low, high = row.get(f"{name}_low"), row.get(f"{name}_high")
    return f"{row[name]:.3f}" + ("" if low is None else f" [{low:.3f}, {high:.3f}]")


def confidence(tuned: Tuned) -> Figure:
    scores = tuned.scores
    shared = scores.task == "single_label"
    threshold = tuned.thresholds.probability if shared else None
    return plots.confidence_histogram(
        scores.y_true, scores.probability, mask=scores.mask, threshold=threshold
    )


def live_explorer(run: Run, tuned: Tuned) -> Panel:
    """Return the explorer, which also stands in the rendered page."""
    counts = thresholds.count_scores(tuned)
    keep = partial(keep_choice, run.folder)
    return explorer(counts, tuned.thresholds, keep, thresholds.choice_command(run))
