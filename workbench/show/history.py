"""How training went: loss, validation figure and learning rate over the epochs of all phases."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from workbench.show.colours import GRID, QUIET, class_colour
from workbench.show.figures import described, plain


def training_curves(history: pd.DataFrame) -> Figure:
    """Draw a `Training.history`: one panel for loss, one for the validation figures."""
    figure = Figure(figsize=(10, 3.8), layout="constrained")
    losses, scores = figure.subplots(1, 2)
    epochs = np.arange(1, len(history) + 1)
    _lines(losses, history, epochs, {"loss": "training", "val_loss": "validation"}, "Loss")
    names = {"val_f1_macro": "F1 macro", "val_map": "mean average precision"}
    _lines(scores, history, epochs, names, "On validation images")
    for ax in (losses, scores):
        _mark_phases(ax, history)
    return described(losses, _alt(history))


def _lines(ax: Axes, history, epochs, names: dict[str, str], title: str) -> None:
    plain(ax, title, "epoch", title_points=20)
    for index, (column, name) in enumerate(names.items()):
        if column in history and history[column].notna().any():
            ax.plot(epochs, history[column], "o-", color=class_colour(index), ms=3, label=name)
    ax.xaxis.get_major_locator().set_params(integer=True)
    if ax.get_lines():
        ax.legend(frameon=False)


def _mark_phases(ax: Axes, history: pd.DataFrame) -> None:
    if "phase" not in history:
        return
    phase = history["phase"].astype(str).to_numpy()
    starts = [0, *np.flatnonzero(phase[1:] != phase[:-1]) + 1]
    for start in starts:
        if start:
            ax.axvline(start + 0.5, color=GRID, linewidth=1.5)
        ax.text(
            start + 0.6 if start else 1,
            1.01,
            phase[start],
            transform=ax.get_xaxis_transform(),
            color=QUIET,
            fontsize=8,
            va="bottom",
        )


def _alt(history: pd.DataFrame) -> str:
    words = f"Training over {len(history)} epochs."
    for column, name in (("loss", "training loss"), ("val_f1_macro", "validation F1 macro")):
        if column in history and history[column].notna().any():
            first, last = history[column].dropna().iloc[[0, -1]]
            words += f" {name.capitalize()} went from {first:.3f} to {last:.3f}."
    return words
