"""The figures of the dataset audit: the audit in, a described Figure out. One door to all of them.

Those about labels are drawn in `label_plots`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from workbench.show.colours import BAD, QUIET, YES
from workbench.show.figures import described, new_axes, plain
from workbench.show.gallery import Picture, gallery_figure
from workbench.show.label_plots import (
    Report,
    class_counts,
    co_occurrence,
    labels_per_image,
    legend,
    name_rows,
    split_drift,
)

__all__ = [
    "audit_pictures",
    "class_counts",
    "co_occurrence",
    "findings_overview",
    "gallery",
    "image_sizes",
    "labels_per_image",
    "light_and_sharpness",
    "split_drift",
]

SEVERITY_COLOURS = {"error": BAD, "warning": "#b58100", "info": QUIET}
MOST_POINTS = 20_000  # a cloud of more looks the same and takes seconds
NOTHING = np.full((60, 80, 3), 235, np.uint8)  # stands for what cannot be read


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
    """Draw brightness against sharpness; what the audit calls an outlier stands out."""
    readable = report.facts[report.facts["refused"].isna()]
    outliers = report.findings[
        report.findings["kind"].isin(["dark", "bright", "blurred", "constant"])
    ]
    odd = readable["image"].isin(outliers["image"])
    ax = new_axes(6.4, 4.6, ax)
    ax = plain(ax, "Light and sharpness", "mean brightness", "sharpness (strongest edge)")
    usual, strange = _some(readable[~odd]), readable[odd]
    for part, colour, size in ((usual, YES, 8), (strange, BAD, 22)):
        ax.scatter(
            part["brightness"], part["sharpness"].clip(lower=0.01), s=size, color=colour, alpha=0.5,
            linewidths=0,
        )  # fmt: skip
    ax.set_xlim(0, 255)
    _log_axis(ax, "y", readable["sharpness"].clip(lower=0.01))
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
    return gallery_figure(audit_pictures(report), "To look at first")


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
