"""The figures of the dataset audit: the audit in, a described Figure out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import pandas as pd
import seaborn
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from workbench.show.figures import BAD, INK, NO, QUIET, YES, described, new_axes, plain, short
from workbench.show.gallery import Picture, gallery_figure

SPLIT_COLOURS = {"train": INK, "val": YES, "test": NO}
SEVERITY_COLOURS = {"error": BAD, "warning": "#b58100", "info": QUIET}
MOST_CLASSES = 80  # names stay readable on a figure as high as a page
MOST_IN_A_MATRIX = 40
NUMBERED = 12
WIDEST_LIFT = 3.0  # doublings, either way
MOST_POINTS = 20_000  # a cloud of more looks the same and takes seconds
MOST_IN_A_FIGURE = 12
NOTHING = np.full((60, 80, 3), 235, np.uint8)  # stands for what cannot be read


class Report(Protocol):
    """What the figures take: the audit as `data.audit.report` returns it."""

    statistics: Any
    facts: pd.DataFrame
    findings: pd.DataFrame
    summary: Mapping[str, Any]
    exhibits: Sequence[Any]


def class_counts(report: Report, *, ax: Axes | None = None) -> Figure:
    """Draw the positives of every class in each split, most frequent class on top."""
    counts = report.statistics.counts
    totals = counts.groupby("class")["positives"].sum().sort_values(ascending=False, kind="stable")
    shown, title = _most(totals, MOST_CLASSES, "Images of each class")
    ax = new_axes(7.0, float(np.clip(1.4 + 0.3 * len(shown), 2.6, 14)), ax)
    _bars(ax, counts, y="class", x="positives", order=list(shown.index))
    plain(ax, title, "images")
    name_rows(ax, shown.index)
    return described(
        ax,
        f"Images of each of {len(totals)} classes by split: most have {totals.index[0]} "
        f"({totals.iloc[0]:.0f}), fewest {totals.index[-1]} ({totals.iloc[-1]:.0f}).",
    )


def labels_per_image(report: Report, *, ax: Axes | None = None) -> Figure:
    """Draw which share of each split's images has how many labels."""
    table = report.statistics.labels_per_image
    shares = table["images"] / table.groupby("split")["images"].transform("sum")
    ax = new_axes(7.0, 3.6, ax)
    most = int(table["labels"].max()) if len(table) else 0
    _bars(ax, table.assign(share=shares), x="labels", y="share", order=list(range(most + 1)))
    plain(ax, "Labels of an image", "labels", "share of the split")
    ax.yaxis.set_major_formatter(lambda share, _: f"{share:.0%}")
    mean = (table["labels"] * table["images"]).sum() / max(1, table["images"].sum())
    return described(ax, f"Labels of an image: {mean:.2f} on average, {most} at most.")


def _bars(ax: Axes, table: pd.DataFrame, **axes: Any) -> None:
    """Draw bars of every split side by side."""
    splits = [split for split in SPLIT_COLOURS if (table["split"] == split).any()]
    if splits:
        orient = "h" if axes["y"] == "class" else "v"
        seaborn.barplot(
            table, hue="split", hue_order=splits, palette=SPLIT_COLOURS, saturation=1, width=0.8,
            errorbar=None, orient=orient, legend=False, ax=ax, **axes,
        )  # fmt: skip
    legend(ax, {split: SPLIT_COLOURS[split] for split in splits})


def co_occurrence(report: Report, *, ax: Axes | None = None) -> Figure:
    """Draw the lift of each pair of classes: how much oftener together than by chance."""
    pairs, counts = report.statistics.pairs, report.statistics.counts
    totals = counts.groupby("class")["positives"].sum().sort_values(ascending=False, kind="stable")
    shown, title = _most(totals, MOST_IN_A_MATRIX, "Which classes come together, against chance")
    names = sorted(shown.index)
    images = _spread(pairs, names)
    of_all = counts.groupby("class")["images"].sum().max()
    doublings = _doublings(images, totals[names].to_numpy(float), max(1, of_all))
    side = float(np.clip(2.6 + 0.3 * len(names), 4.0, 12.0))
    ax = plain(new_axes(side + 1.4, side, ax), title)
    ax.grid(visible=False)
    seaborn.heatmap(
        doublings, vmin=-WIDEST_LIFT, vmax=WIDEST_LIFT, cmap="RdBu", square=True, ax=ax, fmt="d",
        mask=np.isnan(doublings), annot=images if len(names) <= NUMBERED else None,
        # seaborn measures its own tick labels, and a name with $ would be taken for a formula
        xticklabels=False, yticklabels=False, cbar_kws={"shrink": 0.6, "ticks": range(-3, 4)},
    )  # fmt: skip
    for axis in (ax.xaxis, ax.yaxis):
        _name(axis, np.arange(len(names)) + 0.5, names)
    ax.tick_params(axis="x", rotation=90)
    words = ["≤ 1/8", "1/4", "1/2", "as chance", "2 ×", "4 ×", "≥ 8 ×"]
    ax.collections[0].colorbar.ax.set_yticklabels(words)
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
    _name(ax.yaxis, np.arange(len(names)), names)
    ax.set_ylim(len(names) - 0.4, -0.6)
    ax.grid(visible=False, axis="y")


def _name(axis: Any, places: np.ndarray, names: Sequence[str]) -> None:
    """Write class names as plain text, smaller the more there are."""
    size = float(np.clip(300 / max(1, len(names)), 5, 10))
    axis.set_ticks(places, [short(str(name)) for name in names], fontsize=size, parse_math=False)


def legend(ax: Axes, colours: Mapping[str, str]) -> None:
    """Put the legend above the drawing, where it hides nothing."""
    handles = [ax.plot([], [], "s", color=ink, label=name)[0] for name, ink in colours.items()]
    place = {"loc": "lower right", "bbox_to_anchor": (1, 1), "borderaxespad": 0.2}
    ax.legend(handles=handles, frameon=False, labelcolor=QUIET, ncols=len(handles), **place)


def findings_overview(report: Report, *, ax: Axes | None = None) -> Figure:
    """Draw how many findings of each kind there are, gravest on top."""
    counts = (
        report.findings.groupby(["kind", "severity"], sort=False)
        .size()
        .reset_index(name="findings")
    )
    ax = new_axes(7.0, 1.4 + 0.28 * max(1, len(counts)), ax)
    ax = plain(ax, "What the audit found", "findings")
    if counts.empty:
        ax.text(0.5, 0.5, "nothing", ha="center", transform=ax.transAxes, color=QUIET)
        return described(ax, "The audit found nothing.")
    colours = [SEVERITY_COLOURS[severity] for severity in counts["severity"]]
    bars = ax.barh(range(len(counts)), counts["findings"], color=colours, height=0.7)
    ax.bar_label(bars, padding=3, color=QUIET)
    name_rows(ax, counts["kind"])
    ax.set_xscale("symlog", linthresh=10)  # three unreadable files beside a thousand copies
    ax.set(xlim=(0, counts["findings"].max() * 1.6), xticks=[])
    ax.minorticks_off()
    legend(ax, {name: SEVERITY_COLOURS[name] for name in counts["severity"].unique()})
    words = ", ".join(f"{row.findings} {row.kind}" for row in counts.head(5).itertuples())
    return described(ax, f"Findings of the audit by kind, gravest first: {words}.")


def image_sizes(report: Report, *, ax: Axes | None = None) -> Figure:
    """Draw width against height, coloured by the share of the input that letterboxing wastes."""
    input_size = report.summary["model_input"]
    facts = _some(report.facts[report.facts["refused"].isna()])
    sides = facts[["width", "height"]]
    waste = 1 - sides.min(axis=1) / sides.max(axis=1)
    ax = plain(new_axes(6.4, 5.0, ax), "Size and shape of the images", "width", "height")
    cloud = ax.scatter(
        facts["width"], facts["height"], c=waste, cmap="viridis_r", vmin=0, vmax=1, s=9, alpha=0.6,
        linewidths=0,
    )  # fmt: skip
    for draw in (ax.axvline, ax.axhline):
        draw(input_size, color=QUIET, linewidth=1, linestyle="--")
    ax.annotate(
        f"model input {input_size}", (input_size, 1), xycoords=("data", "axes fraction"),
        xytext=(4, -12), textcoords="offset points", color=QUIET, fontsize=9,
    )  # fmt: skip
    _log_axis(ax, "x", [*facts["width"], input_size])
    _log_axis(ax, "y", [*facts["height"], input_size])
    bar = ax.figure.colorbar(cloud, ax=ax, shrink=0.7, format=lambda share, _: f"{share:.0%}")
    bar.set_label("black border", color=QUIET)
    bar.outline.set_visible(False)
    bar.solids.set_alpha(1)
    small = int((sides.max(axis=1) < input_size).sum())
    return described(
        ax,
        f"Width and height of {len(facts)} images: typically {sides['width'].median():.0f} by "
        f"{sides['height'].median():.0f} pixels, {small} below the model input of {input_size}, "
        f"{waste.mean():.0%} black border on average.",
    )


def light_and_sharpness(report: Report, *, ax: Axes | None = None) -> Figure:
    """Draw how brightness and sharpness are spread; what the audit calls an outlier stands out."""
    readable = report.facts[report.facts["refused"].isna()]
    readable = readable.assign(sharpness=readable["sharpness"].clip(lower=0.01))
    kinds = ["dark", "bright", "blurred", "constant"]
    odd = readable["image"].isin(report.findings["image"][report.findings["kind"].isin(kinds)])
    ax = new_axes(6.4, 4.6, ax)
    ax = plain(ax, "Light and sharpness", "", "")
    if len(readable):
        edges = np.linspace(0, 255, 41), np.geomspace(0.01, readable["sharpness"].max() * 1.3, 41)
        usual = readable[~odd]
        seaborn.histplot(x=usual["brightness"], y=usual["sharpness"], bins=edges, cmap="Blues",
                         vmin=0, ax=ax)  # fmt: skip
    for part, colour, size in ((_some(readable[~odd]), YES, 4), (readable[odd], BAD, 22)):
        ax.scatter(part["brightness"], part["sharpness"], s=size, color=colour, alpha=0.5,
                   linewidths=0)  # fmt: skip
    ax.set(xlim=(0, 255), xlabel="mean brightness", ylabel="sharpness (strongest edge)")
    _log_axis(ax, "y", readable["sharpness"])
    legend(ax, {"usual": YES, "outlier": BAD})
    return described(
        ax,
        f"Brightness against sharpness of {len(readable)} images; {int(odd.sum())} stand out as "
        "dark, bright, blurred or constant.",
    )


def audit_pictures(report: Report) -> list[Picture]:
    """Turn the worst images into pictures for a gallery, a page or a widget."""
    return [
        Picture(
            image=NOTHING if exhibit.pixels is None else exhibit.pixels,
            title=short_path(exhibit.image),
            caption=": ".join([exhibit.split, "|".join(exhibit.labels) or "none", exhibit.detail]),
            kind=exhibit.kind,
            classes=exhibit.labels,
        )
        for exhibit in report.exhibits
    ]


def gallery(report: Report) -> Figure:
    """Draw the images to look at first, each with its worst finding."""
    return gallery_figure(audit_pictures(report)[:MOST_IN_A_FIGURE], "To look at first")


def short_path(text: str, length: int = 28) -> str:
    """Cut the middle out of a long path: its end tells files apart."""
    return (
        text if len(text) <= length else f"{text[: length // 3]}…{text[-(length * 2 // 3) + 1 :]}"
    )


def _some(table: pd.DataFrame) -> pd.DataFrame:
    """Take an even sample of a large table: every n-th row."""
    return table.iloc[:: max(1, -(-len(table) // MOST_POINTS))]


def _log_axis(ax: Axes, name: str, values: Sequence[float]) -> None:
    """Scale an axis by its logarithm around `values`, with a few plain numbers on it."""
    low, high = min(values, default=1) / 1.3, max(values, default=1) * 1.3
    ax.set(**{f"{name}scale": "log", f"{name}lim": (low, high)})
    axis = getattr(ax, f"{name}axis")
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(lambda value, _: f"{value:g}")
    axis.set_minor_formatter(NullFormatter())
