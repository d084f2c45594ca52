"""What notebook 05 shows: the rungs with their reasons, and which layer lost what."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from workbench.show.figures import BAD, CHOSEN, Table, described, new_axes, plain, table

SHOWN = 25
VISIBLE_DB = 10.0  # below this the rounding is a tenth of the signal's power


def rungs(table_of_rungs: pd.DataFrame) -> Table:
    """Show each rung of `Ladder.table`: what it is worth, how far below float, and why not."""
    found = table_of_rungs
    return table(
        pd.DataFrame(
            {
                "rung": found["title"],
                "state": found["state"],
                "F1 macro": found["f1_macro"],
                "mAP": found["map"],
                "below float": [_drop(row) for row in found.to_dict("records")],
                "megabytes": found["bytes"] / 1e6,
                "why": found["reason"],
            }
        )
    )


def _drop(row: Mapping[str, Any]) -> str:
    if pd.isna(row["drop"]):
        return "–"
    low, high = row["drop_interval"]
    return f"{row['drop']:+.3f} [{low:+.3f}, {high:+.3f}]"


def layer_errors(layers: pd.DataFrame, *, ax: Axes | None = None) -> Figure:
    """Draw the worst layers first; `layers` has columns `layer` and `sqnr_db`."""
    worst = layers.sort_values("sqnr_db").head(SHOWN).iloc[::-1]
    height = 1.2 + 0.24 * len(worst)
    ax = plain(
        new_axes(height=height, ax=ax),
        f"The {len(worst)} layers that 8 bits cost most, of {len(layers)}",
        "signal over rounding, decibel (longer is better)",
    )
    colours = [BAD if value < VISIBLE_DB else CHOSEN for value in worst["sqnr_db"]]
    ax.barh(range(len(worst)), worst["sqnr_db"], color=colours)
    ax.set_yticks(range(len(worst)), worst["layer"], fontsize=8, parse_math=False)
    ax.axvline(VISIBLE_DB, color=BAD, linewidth=0.8)
    if not len(layers):
        return described(ax, "No layer could be compared.")
    row = layers.loc[layers["sqnr_db"].idxmin()]
    return described(ax, f"Worst layer: {row['layer']} with {row['sqnr_db']:.1f} decibel.")
