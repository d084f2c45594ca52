"""How labels are spread, as figures: counts, labels an image, pairs, drift between splits.

Readable from 2 classes to hundreds: beyond `MOST_CLASSES` the ones that matter most are drawn and
the title says so; the tables hold all of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from workbench.show.colours import BAD, INK, NO, QUIET, YES
from workbench.show.figures import described, new_axes, plain, short

SPLIT_COLOURS = {"train": INK, "val": YES, "test": NO}
MOST_CLASSES = 80  # names stay readable on a figure as high as a page
MOST_IN_A_MATRIX = 40
NUMBERED = 12
WIDEST_LIFT = 3.0  # doublings, either way


class Report(Protocol):
    """What the figures take: the audit as `data.audit` returns it."""

    statistics: Any
    facts: pd.DataFrame
    findings: pd.DataFrame
    summary: Mapping[str, Any]
    exhibits: Sequence[Any]


def class_counts(report: Report, *, ax: Axes | None = None) -> Figure:
    """Draw the positives of every class in each split, most frequent class on top."""
    counts = report.statistics.counts
    table = counts.pivot(index="class", columns="split", values="positives").fillna(0)
    table = table.loc[table.sum(axis=1).sort_values(ascending=False, kind="stable").index]
    shown, title = _most(table, MOST_CLASSES, "Images of each class")
    ax = new_axes(7.0, float(np.clip(1.4 + 0.3 * len(shown), 2.6, 14)), ax)
    ax = plain(ax, title, "images")
    splits = [split for split in SPLIT_COLOURS if split in shown]
    rows = np.arange(len(shown))
    for place, split in enumerate(splits):
        height = 0.8 / len(splits)
        offset = (place - (len(splits) - 1) / 2) * height
        ax.barh(rows + offset, shown[split], height=height, color=SPLIT_COLOURS[split])
    name_rows(ax, shown.index)
    legend(ax, {split: SPLIT_COLOURS[split] for split in splits})
    totals = table.sum(axis=1)
    return described(
        ax,
        f"Images of each of {len(table)} classes by split: most have {totals.index[0]} "
        f"({totals.iloc[0]:.0f}), fewest {totals.index[-1]} ({totals.iloc[-1]:.0f}).",
    )


def labels_per_image(report: Report, *, ax: Axes | None = None) -> Figure:
    """Draw which share of each split's images has how many labels."""
    table = report.statistics.labels_per_image
    shares = table.pivot(index="labels", columns="split", values="images").fillna(0)
    shares = shares / shares.sum(axis=0)
    ax = plain(new_axes(7.0, 3.6, ax), "Labels of an image", "labels", "share of the split")
    splits = [split for split in SPLIT_COLOURS if split in shares]
    width = 0.8 / max(1, len(splits))
    for place, split in enumerate(splits):
        offset = (place - (len(splits) - 1) / 2) * width
        ax.bar(shares.index + offset, shares[split], width=width, color=SPLIT_COLOURS[split])
    ax.yaxis.set_major_formatter(lambda share, _: f"{share:.0%}")
    ax.xaxis.get_major_locator().set_params(integer=True)
    legend(ax, {split: SPLIT_COLOURS[split] for split in splits})
    weighted = table["labels"] * table["images"]
    mean = weighted.sum() / max(1, table["images"].sum())
    return described(
        ax, f"Labels of an image: {mean:.2f} on average, {table['labels'].max()} at most."
    )


def co_occurrence(report: Report, *, ax: Axes | None = None) -> Figure:
    """Draw the lift of each pair of classes: how much oftener together than by chance."""
    pairs, counts = report.statistics.pairs, report.statistics.counts
    totals = counts.groupby("class")["positives"].sum().sort_values(ascending=False, kind="stable")
    shown, title = _most(totals, MOST_IN_A_MATRIX, "Which classes come together, against chance")
    names = sorted(shown.index)
    images = _spread(pairs, names)
    side = float(np.clip(2.6 + 0.3 * len(names), 4.0, 12.0))
    ax = plain(new_axes(side + 1.4, side, ax), title)
    ax.grid(visible=False)
    of_all = counts.groupby("class")["images"].sum().max()
    doublings = _doublings(images, totals[names].to_numpy(float), max(1, of_all))
    limits = {"vmin": -WIDEST_LIFT, "vmax": WIDEST_LIFT}
    picture = ax.imshow(np.ma.masked_invalid(doublings), cmap="RdBu", **limits)
    _name_both(ax, names)
    if len(names) <= NUMBERED:
        _number(ax, images, doublings)
    bar = ax.figure.colorbar(picture, ax=ax, shrink=0.6, ticks=range(-3, 4))
    bar.ax.set_yticklabels(["≤ 1/8", "1/4", "1/2", "as chance", "2 ×", "4 ×", "≥ 8 ×"])
    bar.outline.set_visible(False)
    if pairs.empty:
        return described(ax, f"None of {len(totals)} classes occur together.")
    most = pairs.iloc[0]
    return described(
        ax,
        f"Co-occurrence of {len(names)} classes as lift. Most often together: {most['first']} and "
        f"{most['second']}, {most['images']} images, {most['lift']:.2f} times chance.",
    )


def _spread(pairs: pd.DataFrame, names: list[str]) -> np.ndarray:
    """Spread the counts of pairs over a square, int [names, names]."""
    images = np.zeros((len(names), len(names)), int)
    first = pd.Index(names).get_indexer(pairs["first"])
    second = pd.Index(names).get_indexer(pairs["second"])
    here = (first >= 0) & (second >= 0)
    images[first[here], second[here]] = pairs["images"].to_numpy()[here]
    return images + images.T


def _doublings(images: np.ndarray, totals: np.ndarray, of_all: int) -> np.ndarray:
    """Give log2 of the lift; one image more on both sides keeps rare pairs from shouting."""
    lift = (images + 1) / (np.outer(totals, totals) / of_all + 1)
    doublings = np.clip(np.log2(lift), -WIDEST_LIFT, WIDEST_LIFT)
    np.fill_diagonal(doublings, np.nan)
    return doublings


def split_drift(report: Report, *, ax: Axes | None = None) -> Figure:
    """Draw how much each class's share differs from train, with 95 % intervals."""
    drift = report.statistics.drift
    widest = drift.groupby("class")["difference"].agg(lambda values: values.abs().max())
    order = widest.sort_values(ascending=False, kind="stable")
    shown, title = _most(order, MOST_IN_A_MATRIX, "Share of each class against train")
    ax = new_axes(7.0, float(np.clip(1.6 + 0.3 * len(shown), 2.6, 13)), ax)
    ax = plain(ax, title, "difference in percentage points, 95 % interval")
    ax.axvline(0, color=INK, linewidth=1)
    row_of = {name: row for row, name in enumerate(shown.index)}
    splits = [split for split in ("val", "test") if (drift["split"] == split).any()]
    for place, split in enumerate(splits):
        part = drift[(drift["split"] == split) & drift["class"].isin(shown.index)]
        y = part["class"].map(row_of) + (place - (len(splits) - 1) / 2) * 0.3
        _intervals(ax, part, y, SPLIT_COLOURS[split])
    name_rows(ax, shown.index)
    drifted = sorted(set(drift.loc[drift["drifted"], "class"]))
    colours = {split: SPLIT_COLOURS[split] for split in splits}
    legend(ax, colours | ({"beyond chance": BAD} if drifted else {}))
    words = f"{len(drifted)} drift: {', '.join(drifted[:5])}" if drifted else "none drifts"
    return described(ax, f"Share of {len(order)} classes in val and test against train; {words}.")


def _intervals(ax: Axes, part: pd.DataFrame, y: pd.Series, colour: str) -> None:
    for chosen, ink in ((~part["drifted"], colour), (part["drifted"], BAD)):
        some = part[chosen]
        middle = 100 * some["difference"]
        spread = [middle - 100 * some["low"], 100 * some["high"] - middle]
        ax.errorbar(middle, y[chosen], xerr=spread, fmt="o", color=ink, markersize=4, linewidth=1.2)


def _most(table: pd.DataFrame | pd.Series, most: int, title: str) -> tuple[object, str]:
    """Cut a sorted table to its first rows and say so in the title."""
    if len(table) <= most:
        return table, title
    return table.iloc[:most], f"{title} ({most} of {len(table)})"


def name_rows(ax: Axes, names: Sequence[str]) -> None:
    size = float(np.clip(300 / max(1, len(names)), 5, 10))
    ax.set_yticks(range(len(names)), [short(str(name)) for name in names], fontsize=size)
    for label in ax.get_yticklabels():
        label.set_parse_math(False)
    ax.set_ylim(len(names) - 0.4, -0.6)
    ax.grid(visible=False, axis="y")


def _name_both(ax: Axes, names: Sequence[str]) -> None:
    size = float(np.clip(300 / max(1, len(names)), 5, 10))
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_ticks(range(len(names)), [short(name) for name in names], fontsize=size)
        for label in axis.get_ticklabels():
            label.set_parse_math(False)
    ax.tick_params(axis="x", rotation=90)


def _number(ax: Axes, images: np.ndarray, doublings: np.ndarray) -> None:
    for row, column in np.ndindex(images.shape):
        if row != column:
            colour = "white" if abs(doublings[row, column]) > 1.8 else INK
            ax.text(column, row, str(images[row, column]), ha="center", va="center", color=colour)


def legend(ax: Axes, colours: Mapping[str, str]) -> None:
    """Put the legend above the drawing, where it hides nothing."""
    handles = [ax.plot([], [], "s", color=ink, label=name)[0] for name, ink in colours.items()]
    place = {"loc": "lower right", "bbox_to_anchor": (1, 1), "borderaxespad": 0.2}
    ax.legend(handles=handles, frameon=False, labelcolor=QUIET, ncols=len(handles), **place)
