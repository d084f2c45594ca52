"""A comparison of two runs in words, as a table, a figure and a page: which is better, how sure."""

from __future__ import annotations

import html
from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from workbench.decide.metrics import Comparison
from workbench.show.figures import BAD, GOOD, QUIET, described, html_image, new_axes, plain, short
from workbench.show.page import document
from workbench.show.plots import ROW_INCHES
from workbench.show.tables import Table, table

NAMES = {
    "f1_macro": "F1 macro", "f1_micro": "F1 micro", "f1_samples": "F1 per image",
    "precision_macro": "precision macro", "precision_micro": "precision micro",
    "recall_macro": "recall macro", "recall_micro": "recall micro",
    "map": "mAP", "roc_auc_macro": "ROC area macro",
    "hamming_loss": "wrong labels (Hamming)", "exact_match": "all labels right",
    "no_label_rate": "images without an answer", "true_no_label_rate": "images without a class",
    "top5": "a true class among the best 5", "calibration_error": "calibration error",
    "accuracy": "accuracy", "coverage": "images with an answer",
    "accepted_accuracy": "accuracy of the answers",
}  # fmt: skip
COLOURS = {"better": GOOD, "worse": BAD, "differs": QUIET, "open": QUIET}


def headline(comparison: Comparison) -> str:
    """Say in one sentence what F1 macro says."""
    row = comparison.overall.set_index("figure").loc["f1_macro"]
    first, second = comparison.first, comparison.second
    if pd.isna(row.difference):
        return f"F1 macro of {first} and {second} cannot be compared: no class occurs."
    span = f"{row.difference:+.4f} F1 macro (95 % interval {row.low:+.4f} to {row.high:+.4f})"
    sentences = {
        "better": f"{second} is better than {first}: {span}.",
        "worse": f"{second} is worse than {first}: {span}.",
        "open": f"These images do not tell {first} and {second} apart: {span}.",
    }
    return sentences[row.verdict]


def moved_classes(comparison: Comparison) -> pd.DataFrame:
    """Classes by how much their F1 differs, the largest difference first."""
    rows = comparison.per_class.query("figure == 'f1' and difference == difference")
    order = np.argsort(-rows.difference.abs().to_numpy(), kind="stable")
    return rows.iloc[order]


def comparison_table(comparison: Comparison) -> Table:
    """Show every figure of two runs with the interval of the difference, for a notebook."""
    heads = ("figure", comparison.first, comparison.second, "change", "95 % interval", "verdict")
    rows = dict(enumerate(_rows(comparison.overall)))
    return table(pd.DataFrame.from_dict(rows, orient="index", columns=pd.Index(heads)))


def text(comparisons: Sequence[Comparison], *, classes: int = 10) -> str:
    """Return comparisons for a terminal, with the classes that differ the most."""
    return "\n\n".join(_words(one, classes) for one in comparisons)


def _words(comparison: Comparison, classes: int) -> str:
    lines = [headline(comparison), _basis(comparison), "", *_lines(comparison.overall)]
    shown = moved_classes(comparison).head(classes)
    if len(shown):
        title = f"F1 of the {len(shown)} classes that differ the most"
        lines += ["", title, "", *_lines(shown)]
    return "\n".join(lines)


def page(comparisons: Sequence[Comparison]) -> str:
    """Return comparisons with one first run as a page that loads nothing and runs nothing."""
    others = ", ".join(one.second for one in comparisons)
    title = f"{comparisons[0].first} against {others}"
    body = "".join(map(_section, comparisons))
    return document(title, f"<h1>{html.escape(title)}</h1>{body}")


def _section(comparison: Comparison) -> str:
    return (
        f"<h2>{html.escape(f'{comparison.second} less {comparison.first}')}</h2>"
        f"<p><b>{html.escape(headline(comparison))}</b></p>"
        f"<p>{html.escape(_basis(comparison))} Better or worse is said only where the whole "
        f"interval is on one side of 0.</p>{_html_table(comparison, comparison.overall)}"
        f"<h3>Class by class</h3>{html_image(class_differences(comparison))}"
        f"{_html_table(comparison, moved_classes(comparison))}"
    )


def _basis(comparison: Comparison) -> str:
    words = f"{comparison.images} images that both have seen, {comparison.replicates} resamples."
    if any(comparison.left_out):
        one, two = comparison.left_out
        words += f" Left out: {one} only in {comparison.first}, {two} only in {comparison.second}."
    return words


def _rows(part: pd.DataFrame) -> list[tuple[str, ...]]:
    """Write the rows of `overall` or `per_class` as text: name, both, change, interval, verdict."""
    names = part["class"] if "class" in part else part["figure"].map(lambda name: NAMES[name])
    return [
        (
            name, _number(row.first), _number(row.second), _number(row.difference, "+"),
            "" if pd.isna(row.low) else f"{row.low:+.4f} … {row.high:+.4f}",
            "" if row.verdict == "open" else row.verdict,
        )
        for name, row in zip(names, part.itertuples(index=False), strict=True)
    ]  # fmt: skip


def _number(value: float, sign: str = "") -> str:
    return "–" if pd.isna(value) else f"{value:{sign}.4f}"


def _lines(part: pd.DataFrame) -> list[str]:
    head = ("class" if "class" in part else "figure", "first", "second", "change", "95 % interval")
    rows = [(*head, ""), *((short(name), *others) for name, *others in _rows(part))]
    width = max(len(row[0]) for row in rows)
    return [
        f"{name:<{width}}  {one:>8} {two:>8} {change:>9}  {span:<20} {verdict}".rstrip()
        for name, one, two, change, span, verdict in rows
    ]


def _html_table(comparison: Comparison, part: pd.DataFrame) -> str:
    heads: Sequence[str] = ("", comparison.first, comparison.second, "change", "95 % interval", "")
    head = "".join(f'<th scope="col">{html.escape(text)}</th>' for text in heads)
    body = ""
    for *cells, verdict in _rows(part):
        inner = "".join(f"<td>{html.escape(cell)}</td>" for cell in cells)
        body += f'<tr>{inner}<td class="{verdict}">{verdict}</td></tr>'
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def class_differences(
    comparison: Comparison, figure: str = "f1", *, ax: Axes | None = None
) -> Figure:
    """Draw the change of each class with its interval, the largest loss on top."""
    rows = comparison.per_class.query("figure == @figure and difference == difference")
    rows = rows.sort_values("difference", ascending=False, kind="stable")
    title = "F1" if figure == "f1" else figure.replace("_", " ")
    ax = plain(
        new_axes(8.0, 1.4 + ROW_INCHES * max(len(rows), 3), ax),
        f"Change of {title} by class",
        f"{comparison.second} less {comparison.first}",
    )
    y = np.arange(len(rows))
    colours = [COLOURS[verdict] for verdict in rows.verdict] or QUIET
    ax.hlines(y, rows.low, rows.high, color=colours, linewidth=2, alpha=0.6)
    ax.scatter(rows.difference, y, color=colours, zorder=3)
    ax.axvline(0, color=QUIET, linewidth=1)
    ax.set_yticks(y, [short(name) for name in rows["class"]], parse_math=False)
    ax.grid(visible=False, axis="y")
    counted = rows.verdict.value_counts()
    return described(
        ax,
        f"Change of {figure} in {len(rows)} classes from {comparison.first} to "
        f"{comparison.second}: {counted.get('better', 0)} better, {counted.get('worse', 0)} worse, "
        f"{counted.get('open', 0)} not told apart.",
    )
