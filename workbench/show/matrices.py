"""Square pictures: which classes are taken for each other, and which occur together."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from workbench.show.colours import INK
from workbench.show.figures import described, new_axes, plain, short

LARGEST_INCHES = 14.0  # of a side: 80 names are still readable
NUMBERED = 15  # larger matrices show colours without numbers


def confusion_matrix(
    matrix: np.ndarray, classes: Sequence[str], *, ax: Axes | None = None
) -> Figure:
    """Draw a single-label confusion matrix [C, C or C + 1]; the last column may be "unknown"."""
    columns = [*classes, "unknown"][: matrix.shape[1]]
    shares = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    ax = _square(ax, len(columns), "What was said about the images of each class")
    _draw(ax, shares, matrix, columns, classes, "said", "really")
    wrong = np.where(np.eye(*matrix.shape, dtype=bool), -1, matrix)
    row, column = np.unravel_index(wrong.argmax(), wrong.shape)
    right = int(np.trace(matrix[:, : len(classes)]))
    return described(
        ax,
        f"Confusion matrix of {len(classes)} classes: {right} of {matrix.sum()} images are right; "
        f"most often {classes[row]} was called {columns[column]} ({matrix[row, column]} times).",
    )


def confused_pairs(pairs: np.ndarray, classes: Sequence[str], *, ax: Axes | None = None) -> Figure:
    """Draw how often one class was missed while another was wrongly said: [C, C]."""
    ax = _square(ax, len(classes), "Missed one class and said another instead")
    shares = pairs / max(pairs.max(), 1)
    words = f"share of the most frequent pair ({pairs.max()} images)"
    _draw(ax, shares, pairs, classes, classes, "wrongly said", "missed", bar=words)
    row, column = np.unravel_index(pairs.argmax(), pairs.shape)
    return described(
        ax,
        f"Confused pairs of {len(classes)} classes. Most often {classes[row]} was missed while "
        f"{classes[column]} was said ({pairs[row, column]} images).",
    )


def co_occurrence(
    y_true: np.ndarray,
    classes: Sequence[str],
    *,
    mask: np.ndarray | None = None,
    ax: Axes | None = None,
) -> Figure:
    """Draw how often the row's class comes with the column's: share of the row's images."""
    labels = (np.asarray(y_true) > 0.5).astype(np.float64)
    if mask is not None:
        labels *= np.asarray(mask) > 0.5
    counts = np.rint(labels.T @ labels).astype(np.int64)
    shares = counts / np.maximum(np.diag(counts), 1)[:, None]
    ax = _square(ax, len(classes), "Which classes come together")
    _draw(ax, shares, counts, classes, classes, "also has", "images with")
    apart = np.where(np.eye(len(classes), dtype=bool), -1, counts)
    row, column = np.unravel_index(apart.argmax(), apart.shape)
    pair = f"{classes[row]} and {classes[column]} ({counts[row, column]} images)"
    return described(ax, f"Co-occurrence of {len(classes)} classes. Most often together: {pair}.")


def _square(ax: Axes | None, classes: int, title: str) -> Axes:
    side = float(np.clip(2.6 + 0.42 * classes, 4.5, LARGEST_INCHES))
    ax = plain(new_axes(side + 2.2, side, ax), title)
    ax.grid(visible=False)
    return ax


def _draw(
    ax, shares, numbers, columns, rows, across, down, *, bar: str = "share of the row"
) -> None:
    """Colour by `shares` in 0…1; write the numbers into the fields while there is room."""
    image = ax.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="equal")
    size = float(np.clip(0.62 * 72 * LARGEST_INCHES / max(len(columns), 1), 5, 10))
    for axis, names in ((ax.xaxis, columns), (ax.yaxis, rows)):
        axis.set_ticks(range(len(names)), [short(name) for name in names], fontsize=size)
        for label in axis.get_ticklabels():
            label.set_parse_math(False)
    crowded = sum(len(short(name)) for name in columns) > 40
    ax.tick_params(axis="x", rotation=90 if crowded else 0)
    ax.set_xlabel(across)
    ax.set_ylabel(down)
    if len(columns) <= NUMBERED:
        _write_numbers(ax, shares, numbers)
    scale = ax.figure.colorbar(image, ax=ax, shrink=0.6, label=bar)
    scale.ax.yaxis.set_major_formatter(lambda share, _: f"{share:.0%}")
    scale.outline.set_visible(False)


def _write_numbers(ax: Axes, shares: np.ndarray, numbers: np.ndarray) -> None:
    for row, column in np.ndindex(numbers.shape):
        colour = "white" if shares[row, column] > 0.55 else INK
        words = {"ha": "center", "va": "center", "color": colour, "fontsize": 9}
        ax.text(column, row, str(numbers[row, column]), **words)
