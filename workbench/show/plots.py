"""The figures of scores, thresholds and training: data and an optional `ax` in, a Figure out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import pandas as pd
import seaborn
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from workbench.decide.outcomes import Curve, average_precision, curve, roc_auc
from workbench.decide.recommendation import Thresholds
from workbench.show.figures import (
    CHOSEN,
    GOOD,
    GRID,
    INK,
    MISSED,
    NO,
    QUIET,
    YES,
    beside,
    class_colour,
    described,
    new_axes,
    plain,
    short,
)

ROW_INCHES = 0.24
NAMED = 8  # of more lines than this only the worst are named
LARGEST_INCHES = 14.0  # of a matrix's side: 80 names are still readable
NUMBERED = 15  # larger matrices show colours without numbers
HISTOGRAM_BINS = 40

# One row a class.


def class_bars(
    tables: Mapping[str, pd.DataFrame], figure: str = "f1", *, ax: Axes | None = None
) -> Figure:
    """Compare a figure per class between evaluations (name → `Evaluation.table`), worst on top."""
    first, title = next(iter(tables.values())), _title(figure)
    # barh counts rows from below; classes without the figure go to the very bottom
    order = np.argsort(-first[figure].fillna(2).to_numpy(), kind="stable")
    ax = plain(_rows(len(order), ax, len(tables)), f"{title} of each class", title)
    height = 0.8 / len(tables)
    for place, (name, table) in enumerate(tables.items()):
        rows, colour = table.iloc[order], class_colour(place)
        y = np.arange(len(order)) + 0.4 - (place + 0.5) * height
        ax.barh(y, rows[figure].fillna(0), height * 0.9, color=colour, alpha=0.85, label=name)
        if f"{figure}_low" in rows:
            ends = rows[f"{figure}_low"], rows[f"{figure}_high"]
            ax.hlines(y, *ends, color="black", linewidth=1.2, alpha=0.7)
    _class_axis(ax, first["class"].iloc[order])
    for place in np.flatnonzero(first[figure].iloc[order].isna()):
        ax.text(0.01, place, "no image of this class", color=QUIET, va="center", fontsize=9)
    ax.set_xlim(0, 1.02)
    if len(tables) > 1:
        beside(ax)
    words = "; ".join(_range_of(name, table, figure) for name, table in tables.items())
    return described(ax, f"{title} of each class, worst on top. {words}.")


def _range_of(name: str, table: pd.DataFrame, figure: str) -> str:
    values = table[figure]
    if values.isna().all():
        return f"{name}: undefined for every class"
    ends = [f"{values[i]:.3f} ({table['class'][i]})" for i in (values.idxmin(), values.idxmax())]
    return f"{name}: from {ends[0]} to {ends[1]}"


def class_thresholds(thresholds: Thresholds, *, ax: Axes | None = None) -> Figure:
    """Draw the threshold of every class with its interval, and the one for all."""
    rows = len(thresholds.classes)
    ax = plain(_rows(rows, ax), "From which probability on the app says yes", "probability")
    y = np.arange(rows)[::-1]
    ends = np.array([entry.integer_interval for entry in thresholds.classes])
    low, high = thresholds.quantization.threshold_probabilities(ends).T
    shared = thresholds.shared.probability
    own = thresholds.adopted
    ax.hlines(y, low, high, color=np.where(own, CHOSEN, QUIET).tolist(), alpha=0.5, linewidth=2)
    for chosen, colour, name in ((own, CHOSEN, "its own"), (~own, QUIET, "follows the global one")):
        ax.scatter(thresholds.probability[chosen], y[chosen], color=colour, label=name, zorder=3)
    ax.axvline(shared, color=QUIET, linestyle="--", label=f"global: {shared:.3f}")
    _class_axis(ax, thresholds.names[::-1])
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


def _class_axis(ax: Axes, names: Sequence[str]) -> None:
    ax.set_yticks(range(len(names)), [short(name) for name in names], parse_math=False)
    ax.set_ylim(-0.7, len(names) - 0.3)
    ax.grid(visible=False, axis="y")


def _title(figure: str) -> str:
    return {"f1": "F1", "roc_auc": "ROC area"}.get(figure, figure.replace("_", " "))


# Curves over all thresholds: precision and recall, ROC, the search, and the cost of "unknown".


def precision_recall(
    y_true: np.ndarray, y_score: np.ndarray, classes: Sequence[str], *,
    mask: np.ndarray | None = None, thresholds: np.ndarray | None = None, ax: Axes | None = None,
) -> Figure:  # fmt: skip
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
        if thresholds is not None and "gid" in style:
            _dot(ax, found, np.broadcast_to(thresholds, len(classes))[index], style["color"])
    ax.set(xlim=(0, 1.02), ylim=(0, 1.03))
    _name_lines(ax, classes, areas, "average precision")
    return described(ax, _areas_alt("Precision-recall curves", "average precision", classes, areas))


def roc(
    y_true: np.ndarray, y_score: np.ndarray, classes: Sequence[str], *,
    mask: np.ndarray | None = None, ax: Axes | None = None,
) -> Figure:  # fmt: skip
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
    return described(ax, _areas_alt("ROC curves", "area under the curve", classes, areas))


def _columns(y_true, y_score, mask) -> Iterator[tuple]:
    for index in range(y_score.shape[1]):
        yield y_true[:, index], y_score[:, index], None if mask is None else mask[:, index]


def _curves(y_true, y_score, mask) -> list[tuple[int, Curve]]:
    found = enumerate(curve(*column) for column in _columns(y_true, y_score, mask))
    return [(index, each) for index, each in found if each.positives]


def _areas(figure: Callable[..., float | None], y_true, y_score, mask) -> np.ndarray:
    return np.array([figure(*column) for column in _columns(y_true, y_score, mask)], np.float64)


def _named(areas: np.ndarray) -> list[int]:
    """Return the classes that get a colour and a name: all if they are few, else the worst."""
    order = np.argsort(areas)[: int((~np.isnan(areas)).sum())]
    return order[:NAMED].tolist() if len(areas) > NAMED else sorted(order.tolist())


def _style(index: int, areas: np.ndarray) -> dict[str, object]:
    if index in _named(areas):
        return {"color": class_colour(index), "linewidth": 1.8, "zorder": 3, "gid": str(index)}
    return {"color": QUIET, "linewidth": 0.7, "alpha": 0.35, "zorder": 2}


def _dot(ax: Axes, found: Curve, threshold: float, colour: str) -> None:
    above = int((found.thresholds >= threshold).sum())
    if above:
        place = found.recall[above - 1], found.precision[above - 1]
        ax.plot(*place, marker="o", color=colour, markeredgecolor="white", zorder=4)


def _name_lines(ax: Axes, classes: Sequence[str], areas: np.ndarray, figure: str) -> None:
    named = set(map(str, _named(areas)))
    lines = {line.get_gid(): line for line in ax.get_lines() if line.get_gid() in named}
    if not lines:
        return
    keys = sorted(lines, key=lambda key: areas[int(key)])
    names = [f"{areas[int(key)]:.3f}  {short(classes[int(key)])}" for key in keys]
    others = int((~np.isnan(areas)).sum()) - len(keys)
    few = len(areas) <= NAMED
    title = figure if few else f"lowest {figure}\n(the other {others} in grey)"
    beside(ax, [lines[key] for key in keys], names, title=title)


def _areas_alt(what: str, figure: str, classes: Sequence[str], areas: np.ndarray) -> str:
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
    ends = curve.accuracy_low, curve.accuracy_high
    ax.fill_between(curve.threshold, *ends, color=GOOD, alpha=0.12, label="its 95 % interval")
    chosen = curve[curve.chosen].iloc[0]
    ax.axvline(chosen.threshold, color=CHOSEN, label=f"chosen: {chosen.threshold:.3f}")
    allowed = curve[curve.meets_target]
    if len(allowed):
        ends = allowed.threshold.min(), allowed.threshold.max()
        ax.axvspan(*ends, color=GOOD, alpha=0.08, linewidth=0, label="both aims are surely kept")
    ax.set(xlim=(0, 1), ylim=(0, 1.03))
    beside(ax)
    reached = "are surely kept" if chosen.meets_target else "are not both sure"
    return described(
        ax,
        f"Coverage and accuracy of the answers against the confidence threshold. At the chosen "
        f"{chosen.threshold:.3f}, {chosen.coverage:.1%} of the images get an answer and "
        f"{chosen.accepted_accuracy:.1%} of the answers are right; the aims {reached}.",
    )


# Square pictures: which classes are taken for each other, and which occur together.


def confusion_matrix(
    matrix: np.ndarray, classes: Sequence[str], *, ax: Axes | None = None
) -> Figure:
    """Draw a single-label confusion matrix [C, C or C + 1]; the last column may be "unknown"."""
    columns = [*classes, "unknown"][: matrix.shape[1]]
    shares = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    ax = _heatmap(
        ax, shares, matrix, classes, columns, "What was said about the images of each class",
        "said", "really",
    )  # fmt: skip
    row, column = _largest_pair(matrix)
    right = int(np.trace(matrix[:, : len(classes)]))
    return described(
        ax,
        f"Confusion matrix of {len(classes)} classes: {right} of {matrix.sum()} images are right; "
        f"most often {classes[row]} was called {columns[column]} ({matrix[row, column]} times).",
    )


def confused_pairs(pairs: np.ndarray, classes: Sequence[str], *, ax: Axes | None = None) -> Figure:
    """Draw how often one class was missed while another was wrongly said: [C, C]."""
    ax = _heatmap(
        ax, pairs / max(pairs.max(), 1), pairs, classes, classes,
        "Missed one class and said another instead", "wrongly said", "missed",
        bar=f"share of the largest ({pairs.max()} images)",
    )  # fmt: skip
    row, column = np.unravel_index(pairs.argmax(), pairs.shape)
    return described(
        ax,
        f"Confused pairs of {len(classes)} classes. Most often {classes[row]} was missed while "
        f"{classes[column]} was said ({pairs[row, column]} images).",
    )


def co_occurrence(
    y_true: np.ndarray, classes: Sequence[str], *, mask: np.ndarray | None = None,
    ax: Axes | None = None,
) -> Figure:  # fmt: skip
    """Draw how often the row's class comes with the column's: share of the row's images."""
    labels = (np.asarray(y_true) > 0.5).astype(np.float64)
    if mask is not None:
        labels *= np.asarray(mask) > 0.5
    counts = np.rint(labels.T @ labels).astype(np.int64)
    shares = counts / np.maximum(np.diag(counts), 1)[:, None]
    ax = _heatmap(
        ax, shares, counts, classes, classes, "Which classes come together", "also has",
        "images with",
    )  # fmt: skip
    row, column = _largest_pair(counts)
    pair = f"{classes[row]} and {classes[column]} ({counts[row, column]} images)"
    return described(ax, f"Co-occurrence of {len(classes)} classes. Most often together: {pair}.")


def _largest_pair(counts: np.ndarray) -> tuple[int, int]:
    apart = np.where(np.eye(*counts.shape, dtype=bool), -1, counts)
    return np.unravel_index(apart.argmax(), apart.shape)


def _heatmap(
    ax: Axes | None, shares: np.ndarray, counts: np.ndarray, rows: Sequence[str],
    columns: Sequence[str], title: str, across: str, down: str, *, bar: str = "share of the row",
) -> Axes:  # fmt: skip
    """Colour by `shares` in 0…1; write the counts into the fields while there is space."""
    side = float(np.clip(1.2 + 0.42 * len(columns), 3, LARGEST_INCHES))
    size = float(np.clip(0.62 * 72 * LARGEST_INCHES / max(len(columns), 1), 5, 10))
    crowded = sum(len(short(name)) for name in columns) > 40
    words = 0.5 + size / 110 * max(len(short(name)) for name in columns)  # inches beside it
    ax = plain(new_axes(side + words + 1.6, side + (words if crowded else 1), ax), title)
    seaborn.heatmap(
        shares, vmin=0, vmax=1, cmap="Blues", square=True, ax=ax, fmt="d",
        annot=counts if len(columns) <= NUMBERED else None, annot_kws={"fontsize": 9},
        # seaborn measures its own tick labels, and a name with $ would be taken for a formula
        xticklabels=False, yticklabels=False,
        cbar_kws={"shrink": 0.6, "label": bar, "format": lambda share, _: f"{share:.0%}"},
    )  # fmt: skip
    for axis, names in ((ax.xaxis, columns), (ax.yaxis, rows)):
        labels = {"fontsize": size, "parse_math": False}
        axis.set_ticks(np.arange(len(names)) + 0.5, [short(name) for name in names], **labels)
    ax.tick_params(axis="x", rotation=90 if crowded else 0)
    ax.tick_params(axis="y", rotation=0)
    ax.set(xlabel=across, ylabel=down)
    return ax


# How sure the network is: reliability diagrams and histograms of confidence.


def reliability_diagram(
    tables: Mapping[str, pd.DataFrame] | pd.DataFrame, *, ax: Axes | None = None
) -> Figure:
    """Draw promised against real frequency: one line a table of `calibration.reliability`."""
    tables = {"scores": tables} if isinstance(tables, pd.DataFrame) else dict(tables)
    ax = plain(
        new_axes(6.2, 4.8, ax),
        "Does 80 % mean 80 %?",
        "said: the probability that was given",
        "happened: how often the class was there",
    )
    ax.plot([0, 1], [0, 1], color=QUIET, linestyle="--", linewidth=1, label="said is what happened")
    words = []
    for index, (name, table) in enumerate(tables.items()):
        colour = class_colour(index)
        ax.vlines(table.predicted, table.observed_low, table.observed_high, color=colour, alpha=0.4)
        ax.plot(table.predicted, table.observed, "o-", color=colour, markersize=4, label=name)
        gap = (table.predicted - table.observed).abs()
        error = (gap * table["count"]).sum() / max(table["count"].sum(), 1)
        words.append(f"{name}: what was said and what happened differ by {error:.3f} on average.")
    ax.set(xlim=(0, 1), ylim=(0, 1))
    beside(ax)
    return described(ax, "Reliability diagram. " + " ".join(words))


def confidence_histogram(
    y_true: np.ndarray, probability: np.ndarray, *, mask: np.ndarray | None = None,
    threshold: float | None = None, ax: Axes | None = None,
) -> Figure:  # fmt: skip
    """Draw how probabilities spread over labels that are there and labels that are not."""
    known = np.ones(probability.shape, bool) if mask is None else np.asarray(mask) > 0.5
    label, score = (np.asarray(y_true) > 0.5)[known], np.asarray(probability)[known]
    ax = plain(new_axes(ax=ax), "How sure the network is")
    edges = np.linspace(0, 1, HISTOGRAM_BINS + 1)
    for chosen, colour, name in ((~label, NO, "class not there"), (label, YES, "class there")):
        style = {"color": colour, "alpha": 0.16, "linewidth": 1.8, "label": name}
        seaborn.histplot(x=score[chosen], bins=edges, element="step", ax=ax, **style)
    if threshold is not None:
        ax.axvline(threshold, color=CHOSEN, label=f"threshold {threshold:.3f}")
    ax.set(xlabel="probability", ylabel="labels (logarithmic)", xlim=(0, 1))
    ax.set_yscale("symlog", linthresh=1)
    ax.set_ylim(bottom=0)
    ax.grid(color=GRID)
    beside(ax)
    there, apart = (
        f"{np.median(part):.3f}" if len(part) else "undefined"
        for part in (score[label], score[~label])
    )
    return described(
        ax,
        f"Histogram of {len(score)} probabilities: median {there} where the class is there and "
        f"{apart} where it is not.",
    )


# How training went.


def training_curves(history: pd.DataFrame) -> Figure:
    """Draw epochs of one or several phases: one panel for loss, one for validation figures."""
    figure = Figure(figsize=(10, 3.8), layout="constrained")
    losses, scores = figure.subplots(1, 2)
    _lines(losses, history, {"loss": "training", "val_loss": "validation"}, "Loss")
    names = {"val_f1_macro": "F1 macro", "val_map": "mean average precision"}
    _lines(scores, history, names, "On validation images")
    words = f"Training over {len(history)} epochs."
    for column, name in (("loss", "Training loss"), ("val_f1_macro", "Validation f1 macro")):
        if column in history and history[column].notna().any():
            first, last = history[column].dropna().iloc[[0, -1]]
            words += f" {name} went from {first:.3f} to {last:.3f}."
    return described(losses, words)


def _lines(ax: Axes, history: pd.DataFrame, names: Mapping[str, str], title: str) -> None:
    plain(ax, title, "epoch", title_points=20)
    epochs = np.arange(1, len(history) + 1)
    for index, (column, name) in enumerate(names.items()):
        if column in history and history[column].notna().any():
            ax.plot(epochs, history[column], "o-", color=class_colour(index), ms=3, label=name)
    ax.xaxis.get_major_locator().set_params(integer=True)
    if ax.get_lines():
        ax.legend(frameon=False)
    if "phase" in history and len(history):
        _mark_phases(ax, history["phase"].astype(str).to_numpy())


def _mark_phases(ax: Axes, phase: np.ndarray) -> None:
    words = {"transform": ax.get_xaxis_transform(), "color": QUIET, "fontsize": 8, "va": "bottom"}
    for start in [0, *np.flatnonzero(phase[1:] != phase[:-1]) + 1]:
        if start:
            ax.axvline(start + 0.5, color=GRID, linewidth=1.5)
        ax.text(start + 0.6 if start else 1, 1.01, phase[start], **words)
