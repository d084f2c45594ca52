"""What notebook 06 shows, for either task: thresholds, calibration, confidence, the explorer."""

from __future__ import annotations

from functools import partial

from ipywidgets import Widget
from matplotlib.figure import Figure

from workbench.decide.reliability import reliability as reliability_table
from workbench.run import Run
from workbench.show import explorer, plots, widgets
from workbench.steps import thresholds
from workbench.steps.thresholds import Tuned


def threshold_analysis(tuned: Tuned) -> Figure:
    """Draw each class's threshold with its interval, or the curve of the unknown answer."""
    if tuned.scores.task == "single_label":
        return plots.unknown_curve(tuned.thresholds.curve)
    return plots.class_thresholds(tuned.thresholds)


def reliability(tuned: Tuned) -> Figure:
    scores = tuned.scores
    promised = reliability_table(scores.y_true, scores.probability, scores.mask)
    return plots.reliability_diagram({"phone file": promised})


def confidence(tuned: Tuned) -> Figure:
    scores = tuned.scores
    shared = scores.task == "single_label"
    threshold = tuned.thresholds.probability if shared else None
    return plots.confidence_histogram(
        scores.y_true, scores.probability, mask=scores.mask, threshold=threshold
    )


def live_explorer(run: Run, tuned: Tuned) -> Widget:
    """Return the sliders of a live notebook, and leave the same explorer for the rendered page."""
    counts = thresholds.count_scores(tuned)
    command = thresholds.choice_command(run)
    piece = explorer.fragment(counts, tuned.thresholds, command)
    run.save_piece("threshold explorer", piece)
    keep = partial(thresholds.keep_choice, run)
    return widgets.threshold_tuner(counts, tuned.thresholds, keep)
