"""Curves over all thresholds: precision and recall, ROC, the search, and the cost of "unknown"."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from workbench.decide.ranking import Curve, average_precision, curve, roc_auc
from workbench.show.colours import CHOSEN, GOOD, GRID, INK, QUIET, YES, class_colour
from workbench.show.figures import beside, described, new_axes, plain, short

NAMED = 8  # more lines than this and only the worst are named


def precision_recall(
    y_true: np.ndarray,
    y_score: np.ndarray,
    classes: Sequence[str],
    *,
    mask: np.ndarray | None = None,
    thresholds: np.ndarray | None = None,
    ax: Axes | None = None,
) -> Figure:
    """Draw one precision-recall curve a class; dots mark the thresholds in use."""
    ax = plain(
        new_axes(ax=ax),
        "How many are found, and how many of the yes are right",
        "recall: share of the class's images that are found",
        "precision: share of the yes that are right",
    )
    areas = _areas(average_precision, y_true, y_score, mask)
    for index, found in _curves(y_true, y_score, mask):
        style = _style(index, areas)
        recall, precision = np.append(0, found.recall), found.precision[[0, *range(len(found.tp))]]
        ax.step(recall, precision, where="pre", **style)
        if thresholds is not None:
            _dot(ax, found, float(np.broadcast_to(thresholds, len(classes))[index]), style)
    ax.set(xlim=(0, 1.02), ylim=(0, 1.03))
    _name_lines(ax, classes, areas, "average precision")
    return described(ax, _alt("Precision-recall curves", "average precision", classes, areas))


def roc(
    y_true: np.ndarray,
    y_score: np.ndarray,
    classes: Sequence[str],
    *,
    mask: np.ndarray | None = None,
    ax: Axes | None = None,
) -> Figure:
    """Draw one ROC curve a class."""
    ax = plain(
        new_axes(ax=ax),
        "How many are found for how many false alarms",
        "false alarms: share of the other images that get a yes",
        "recall: share of the class's images that are found",
    )
    areas = _areas(roc_auc, y_true, y_score, mask)
    for index, found in _curves(y_true, y_score, mask):
        x, y = np.append(0, found.false_positive_rate), np.append(0, found.recall)
        ax.plot(x, y, **_style(index, areas))
    ax.plot([0, 1], [0, 1], color=GRID, linestyle="--", zorder=1)
    ax.text(0.6, 0.56, "guessing", color=QUIET, rotation=30, fontsize=9)
    ax.set(xlim=(-0.01, 1), ylim=(0, 1.02))
    _name_lines(ax, classes, areas, "area under the curve")
    return described(ax, _alt("ROC curves", "area under the curve", classes, areas))


def _curves(y_true, y_score, mask):
    for index in range(y_score.shape[1]):
        found = curve(y_true[:, index], y_score[:, index], None if mask is None else mask[:, index])
        if found.positives:
            yield index, found


def _areas(figure: Callable[..., float | None], y_true, y_score, mask) -> np.ndarray:
    columns = range(y_score.shape[1])
    found = [
        figure(y_true[:, i], y_score[:, i], None if mask is None else mask[:, i]) for i in columns
    ]
    return np.array([np.nan if area is None else area for area in found])


def _named(areas: np.ndarray) -> list[int]:
    """Return the classes that get a colour and a name: all if they are few, else the worst."""
    order = np.argsort(areas)[: int((~np.isnan(areas)).sum())]
    return order[:NAMED].tolist() if len(areas) > NAMED else sorted(order.tolist())


def _style(index: int, areas: np.ndarray) -> dict[str, object]:
    if index in _named(areas):
        return {"color": class_colour(index), "linewidth": 1.8, "zorder": 3, "gid": str(index)}
    return {"color": QUIET, "linewidth": 0.7, "alpha": 0.35, "zorder": 2}


def _dot(ax: Axes, found: Curve, threshold: float, style: dict[str, object]) -> None:
    above = int((found.thresholds >= threshold).sum())
    if above and style["zorder"] == 3:
        place = above - 1
        ax.plot(
            found.recall[place],
            found.precision[place],
            marker="o",
            color=style["color"],
            markeredgecolor="white",
            zorder=4,
        )


def _name_lines(ax: Axes, classes: Sequence[str], areas: np.ndarray, figure: str) -> None:
    named = set(map(str, _named(areas)))
    lines = {line.get_gid(): line for line in ax.get_lines() if line.get_gid() in named}
    if not lines:
        return
    keys = sorted(lines, key=lambda key: areas[int(key)])
    few = len(areas) <= NAMED
    others = int((~np.isnan(areas)).sum()) - len(keys)
    beside(
        ax,
        [lines[key] for key in keys],
        [f"{areas[int(key)]:.3f}  {short(classes[int(key)])}" for key in keys],
        title=figure if few else f"lowest {figure}\n(the other {others} in grey)",
    )


def _alt(what: str, figure: str, classes: Sequence[str], areas: np.ndarray) -> str:
    defined = ~np.isnan(areas)
    if not defined.any():
        return f"{what}: no class occurs in these images."
    worst, best = int(np.nanargmin(areas)), int(np.nanargmax(areas))
    return (
        f"{what} of {defined.sum()} classes. Mean {figure} {areas[defined].mean():.3f}, "
        f"from {areas[worst]:.3f} ({classes[worst]}) to {areas[best]:.3f} ({classes[best]})."
    )


def threshold_curve(
    curve: pd.DataFrame, *, interval: tuple[float, float] | None = None, ax: Axes | None = None
) -> Figure:
    """Draw what one threshold for all classes would do, and which one was chosen."""
    ax = plain(
        new_axes(ax=ax),
        "One threshold for all classes",
        "threshold: say yes from this probability on",
        "mean over the classes",
    )
    for column, name, colour in (
        ("precision_macro", "precision: yes that are right", YES),
        ("recall_macro", "recall: found", GOOD),
        ("f1_macro", "F1: both at once", INK),
    ):
        ax.plot(curve.probability, curve[column], color=colour, label=name, linewidth=1.8)
    chosen = curve[curve.chosen].iloc[0]
    if interval is not None:
        ax.axvspan(*interval, color=CHOSEN, alpha=0.10, linewidth=0, label="its 95 % interval")
    ax.axvline(chosen.probability, color=CHOSEN, label=f"chosen: {chosen.probability:.3f}")
    ax.set(xlim=(0, 1), ylim=(0, 1.03))
    beside(ax)
    return described(
        ax,
        f"F1, precision and recall against the threshold. The chosen threshold is "
        f"{chosen.probability:.3f}: F1 {chosen.f1_macro:.3f}, precision "
        f"{chosen.precision_macro:.3f}, recall {chosen.recall_macro:.3f}.",
    )


def unknown_curve(curve: pd.DataFrame, *, ax: Axes | None = None) -> Figure:
    """Draw how many images get an answer and how many answers are right, by confidence."""
    ax = plain(
        new_axes(ax=ax),
        'When to answer "unknown"',
        "confidence under which the answer is unknown",
        "share",
    )
    ax.plot(curve.threshold, curve.coverage, color=YES, label="images that get an answer")
    ax.plot(curve.threshold, curve.accepted_accuracy, color=GOOD, label="answers that are right")
    chosen = curve[curve.chosen].iloc[0]
    ax.axvline(chosen.threshold, color=CHOSEN, label=f"chosen: {chosen.threshold:.3f}")
    allowed = curve[curve.meets_target]
    if len(allowed):
        ends = allowed.threshold.min(), allowed.threshold.max()
        ax.axvspan(*ends, color=GOOD, alpha=0.08, linewidth=0, label="both promises kept")
    ax.set(xlim=(0, 1), ylim=(0, 1.03))
    beside(ax)
    kept = "kept" if chosen.meets_target else "not both kept"
    return described(
        ax,
        f"Coverage and accuracy of the answers against the confidence threshold. At the chosen "
        f"{chosen.threshold:.3f}, {chosen.coverage:.1%} of the images get an answer and "
        f"{chosen.accepted_accuracy:.1%} of the answers are right; the promises are {kept}.",
    )
