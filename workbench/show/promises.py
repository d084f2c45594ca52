"""Does a probability keep its promise? Reliability diagrams and histograms of confidence."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from workbench.show.colours import CHOSEN, GRID, NO, QUIET, YES, class_colour
from workbench.show.figures import beside, described, new_axes, plain

HISTOGRAM_BINS = 40


def reliability_diagram(
    tables: Mapping[str, pd.DataFrame] | pd.DataFrame, *, ax: Axes | None = None
) -> Figure:
    """Draw promised against real frequency: one line a table of `calibration.reliability`."""
    tables = {"scores": tables} if isinstance(tables, pd.DataFrame) else dict(tables)
    ax = plain(
        new_axes(6.2, 4.8, ax),
        "Does 80 % mean 80 %?",
        "promised: the probability that was given",
        "happened: how often the class was there",
    )
    ax.plot([0, 1], [0, 1], color=QUIET, linestyle="--", linewidth=1, label="a kept promise")
    for index, (name, table) in enumerate(tables.items()):
        colour = class_colour(index)
        ax.vlines(table.predicted, table.observed_low, table.observed_high, color=colour, alpha=0.4)
        ax.plot(table.predicted, table.observed, "o-", color=colour, markersize=4, label=name)
    ax.set(xlim=(0, 1), ylim=(0, 1))
    beside(ax)
    return described(ax, "Reliability diagram. " + " ".join(_spoken(tables)))


def _spoken(tables: Mapping[str, pd.DataFrame]) -> list[str]:
    sentences = []
    for name, table in tables.items():
        gap = (table.predicted - table.observed).abs()
        error = (gap * table["count"]).sum() / max(table["count"].sum(), 1)
        sentences.append(f"{name}: promise and reality differ by {error:.3f} on average.")
    return sentences


def confidence_histogram(
    y_true: np.ndarray,
    probability: np.ndarray,
    *,
    mask: np.ndarray | None = None,
    threshold: float | None = None,
    ax: Axes | None = None,
) -> Figure:
    """Draw how probabilities spread over labels that are there and labels that are not."""
    known = np.ones(probability.shape, bool) if mask is None else np.asarray(mask) > 0.5
    label, score = (np.asarray(y_true) > 0.5)[known], np.asarray(probability)[known]
    ax = plain(new_axes(ax=ax), "How sure the network is", "probability", "labels (logarithmic)")
    edges = np.linspace(0, 1, HISTOGRAM_BINS + 1)
    for chosen, colour, name in ((~label, NO, "class not there"), (label, YES, "class there")):
        ax.hist(score[chosen], edges, color=colour, alpha=0.16)
        ax.hist(score[chosen], edges, color=colour, histtype="step", linewidth=1.8, label=name)
    if threshold is not None:
        ax.axvline(threshold, color=CHOSEN, label=f"threshold {threshold:.3f}")
    ax.set_yscale("symlog", linthresh=1)
    ax.set_ylim(bottom=0)
    ax.grid(color=GRID)
    beside(ax)
    return described(
        ax,
        f"Histogram of {len(score)} probabilities: median {_median(score[label])} where the class "
        f"is there and {_median(score[~label])} where it is not.",
    )


def _median(scores: np.ndarray) -> str:
    return f"{np.median(scores):.3f}" if len(scores) else "undefined"
