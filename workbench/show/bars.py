"""One row a class: figures with intervals, thresholds with intervals, right and wrong answers."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from workbench.decide.recommendation import Thresholds
from workbench.show.colours import CHOSEN, MISSED, NO, QUIET, YES, class_colour
from workbench.show.figures import beside, described, new_axes, plain, short

ROW_INCHES = 0.24


def class_bars(
    tables: Mapping[str, pd.DataFrame], figure: str = "f1", *, ax: Axes | None = None
) -> Figure:
    """Compare a figure per class between evaluations: name → `Evaluation.table`."""
    tables = dict(tables)
    order = _order(next(iter(tables.values())), figure)
    ax = plain(
        _rows(len(order), ax, len(tables)), f"{_title(figure)} of each class", _title(figure)
    )
    height = 0.8 / len(tables)
    for place, (name, table) in enumerate(tables.items()):
        rows = table.iloc[order]
        y = np.arange(len(order)) + 0.4 - (place + 0.5) * height
        colour = class_colour(place)
        ax.barh(y, rows[figure].fillna(0), height * 0.9, color=colour, alpha=0.85, label=name)
        _whiskers(ax, rows, figure, y)
    _class_axis(ax, next(iter(tables.values()))["class"].iloc[order])
    for place in np.flatnonzero(next(iter(tables.values()))[figure].iloc[order].isna()):
        ax.text(0.01, place, "no image of this class", color=QUIET, va="center", fontsize=9)
    ax.set_xlim(0, 1.02)
    if len(tables) > 1:
        beside(ax)
    return described(ax, _bars_alt(tables, figure))


def _order(table: pd.DataFrame, figure: str) -> np.ndarray:
    """Worst on top: barh counts rows from below, and undefined classes go to the very bottom."""
    return np.argsort(-table[figure].fillna(2).to_numpy(), kind="stable")


def _whiskers(ax: Axes, rows: pd.DataFrame, figure: str, y: np.ndarray) -> None:
    if f"{figure}_low" in rows:
        low, high = rows[f"{figure}_low"], rows[f"{figure}_high"]
        ax.hlines(y, low, high, color="black", linewidth=1.2, alpha=0.7)


def _bars_alt(tables: Mapping[str, pd.DataFrame], figure: str) -> str:
    parts = []
    for name, table in tables.items():
        if table[figure].notna().any():
            worst, best = table[figure].idxmin(), table[figure].idxmax()
            parts.append(
                f"{name}: from {table[figure][worst]:.3f} ({table['class'][worst]}) "
                f"to {table[figure][best]:.3f} ({table['class'][best]})"
            )
        else:
            parts.append(f"{name}: undefined for every class")
    return f"{_title(figure)} of each class, worst on top. " + "; ".join(parts) + "."


def class_thresholds(thresholds: Thresholds, *, ax: Axes | None = None) -> Figure:
    """Draw the threshold of every class with its interval, and the one for all."""
    rows = len(thresholds.classes)
    ax = plain(_rows(rows, ax), "From which probability on the app says yes", "probability")
    y = np.arange(rows)[::-1]
    ends = np.array([entry.interval for entry in thresholds.classes])
    low, high = thresholds.quantization.threshold_probabilities(ends).T
    shared = float(thresholds.quantization.threshold_probabilities(thresholds.shared))
    own = thresholds.adopted
    ax.hlines(y, low, high, color=np.where(own, CHOSEN, QUIET).tolist(), alpha=0.5, linewidth=2)
    for chosen, colour, name in ((own, CHOSEN, "its own"), (~own, QUIET, "follows the global one")):
        ax.scatter(thresholds.probability[chosen], y[chosen], color=colour, label=name, zorder=3)
    ax.axvline(shared, color=QUIET, linestyle="--", label=f"global: {shared:.3f}")
    _class_axis(ax, pd.Series(thresholds.names[::-1]))
    ax.set_xlim(0, 1)
    beside(ax)
    return described(
        ax,
        f"Thresholds of {rows} classes with 95 % intervals. The global one is {shared:.3f}; "
        f"{int(own.sum())} classes have their own.",
    )


def confusion_bars(table: pd.DataFrame, *, ax: Axes | None = None) -> Figure:
    """Draw for every class how many images were found, missed and wrongly said to have it."""
    order = np.argsort((table.fn + table.fp).to_numpy(), kind="stable")
    rows = table.iloc[order]
    ax = plain(_rows(len(rows), ax), "Right and wrong answers of each class", "images")
    y = np.arange(len(rows))
    ax.barh(y, rows.tp, color=YES, label="found")
    ax.barh(y, rows.fn, left=rows.tp, color=MISSED, label="missed")
    ax.barh(y, -rows.fp, color=NO, label="said yes, but it was not there")
    ax.axvline(0, color=QUIET, linewidth=0.8)
    ax.xaxis.set_major_formatter(lambda images, _: f"{abs(images):g}")
    _class_axis(ax, rows["class"])
    beside(ax)
    worst = rows.iloc[-1]
    return described(
        ax,
        f"Found, missed and wrong yes of {len(rows)} classes, most mistakes on top: "
        f"{worst['class']} with {worst.fn} missed and {worst.fp} wrong.",
    )


def _rows(rows: int, ax: Axes | None, bars: int = 1) -> Axes:
    return new_axes(8.0, 1.4 + ROW_INCHES * max(rows, 3) * max(1.0, 0.7 * bars), ax)


def _class_axis(ax: Axes, names: pd.Series) -> None:
    ax.set_yticks(range(len(names)), [short(name) for name in names], parse_math=False)
    ax.set_ylim(-0.7, len(names) - 0.3)
    ax.grid(visible=False, axis="y")


def _title(figure: str) -> str:
    return {"f1": "F1", "roc_auc": "ROC area"}.get(figure, figure.replace("_", " "))
