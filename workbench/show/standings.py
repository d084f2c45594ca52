"""A leaderboard in words, as a table for a notebook or terminal, and as a page."""

from __future__ import annotations

import html
from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from workbench.effects import shown
from workbench.show.differences import NAMES
from workbench.show.figures import (
    BAD,
    CHOSEN,
    GOOD,
    QUIET,
    described,
    html_image,
    new_axes,
    plain,
    short,
)
from workbench.show.page import document
from workbench.show.plots import ROW_INCHES

if TYPE_CHECKING:
    from workbench.leaderboard import Entry, Leaderboard

NETWORKS = {
    "teacher_scores.npz": "teachers, answering at one half",
    "student_scores.npz": "float students, answering at one half",
}
MOST_DRAWN = 40
BESIDE = ("f1_macro", "map", "precision_macro", "recall_macro", "accuracy", "calibration_error")
WORDS = {"best": "best", "open": "not told apart", "worse": "worse"}


def headline(board: Leaderboard) -> str:
    """Say which run to take, and why."""
    row = board.ranking.table.set_index("run").loc[board.chosen]
    span = "" if pd.isna(row.low) else f" ({row.low:.4f} to {row.high:.4f})"
    return f"Take {board.chosen}: {board.why}. {_name(board)} {row.value:.4f}{span} on validation."


def cautions(board: Leaderboard) -> list[str]:
    """Say what the figures are of, and what choosing the best of many does to them."""
    ranking = board.ranking
    answering = NETWORKS.get(board.stage, "8-bit candidates, " + (
        "each at the thresholds tuned on these very images" if board.tuned
        else "answering at one half, for not all of them have thresholds of their own"
    ))  # fmt: skip
    lines = [
        f"{len(ranking.table)} of {len(board.entries)} runs are ranked by {_name(board)} of their "
        f"{answering}, on the same {ranking.images} validation images. Test images rank nothing."
    ]
    if len(ranking.table) > 1 and ranking.figure == "calibration_error":
        lines.append(
            "The differences to the best have no interval: what is drawn again from these images "
            "does not tell how far calibration errors lie apart."
        )
    elif len(ranking.table) > 1:
        lines.append(
            f"The intervals of the differences to the best hold together, for all pairs at once "
            f"(95 %, {ranking.replicates} resamples of the images); worse is said only where the "
            "whole interval is."
        )
    top = ranking.table["value"].iloc[0]
    if len(ranking.table) > 1 and ranking.corrected is not None:
        lines.append(
            f"The best of {len(ranking.table)} is best partly by luck: {top:.4f} on these images; "
            f"chosen on some of them and judged on the others, {ranking.corrected:.4f}."
        )
    if board.luck:
        lines.append(
            f"Runs that differ in nothing but the seed lie ±{board.luck.deviation:.4f} apart "
            f"(standard deviation, {board.luck.runs} runs of {board.luck.settings} settings): "
            "the intervals know other images, not other trainings."
        )
    return lines


def text(board: Leaderboard) -> str:
    """Return the leaderboard for a terminal."""
    heads = ("", "run", _name(board), "interval", "to the best", "interval", "")
    rows = [heads, *(_cells(board, entry) for entry in board.entries)]
    widths = [max(len(row[place]) for row in rows) for place in range(len(heads) - 1)]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, [*widths, 0], strict=True)).rstrip()
        for row in rows
    ]
    parts = [headline(board), *cautions(board), "", *lines]
    parts += ["", *_moved(board)] if len(board.effects) else []
    return "\n".join(parts)


def _name(board: Leaderboard) -> str:
    return NAMES[board.ranking.figure]


def _cells(board: Leaderboard, entry: Entry) -> tuple[str, ...]:
    """Write one run as text: rank, name, figure, interval, difference, interval, what else."""
    name = short(entry.name)
    if entry.predictions is None:
        why = f"{entry.state}: {entry.reason}" if entry.reason else entry.state
        return ("–", name, "", "", "", "", f"{why:.160}")
    table = board.ranking.table
    row = table.set_index("run").loc[entry.name]
    place = table.index[table["run"] == entry.name][0] + 1
    mark = "taken" if entry.name == board.chosen else WORDS[row.verdict]
    both = mark if mark == WORDS[row.verdict] or row.verdict == "open" else f"{mark}, {row.verdict}"
    ends = ("", "") if row.verdict == "best" else (
        f"{row.difference:+.4f}", _span(row.difference_low, row.difference_high, "+"))  # fmt: skip
    return (f"{place}", name, f"{row.value:.4f}", _span(row.low, row.high), *ends, both)


def _span(low: float, high: float, sign: str = "") -> str:
    return "" if pd.isna(low) else f"{low:{sign}.4f} … {high:{sign}.4f}"


def _moved(board: Leaderboard) -> Iterable[str]:
    for knob, rows in board.effects.groupby("knob", sort=False):
        means = zip(rows["value"], rows["mean"], strict=True)
        yield f"{knob}  " + ", ".join(f"{value}: {mean:.4f}" for value, mean in means)


def page(board: Leaderboard) -> str:
    """Return the leaderboard as a page that loads nothing and runs nothing."""
    return document(board.title, f"<h1>{html.escape(board.title)}</h1>{fragment(board)}")


def fragment(board: Leaderboard) -> str:
    """Return what stands on the page, for a notebook."""
    parts = [
        f"<p><b>{html.escape(headline(board))}</b></p>",
        *(f"<p>{html.escape(line)}</p>" for line in cautions(board)),
        _runs_table(board),
        html_image(standings(board)),
        _effects(board),
        _figures_table(board),
        *(_folds_tables(name, *tables) for name, tables in board.folds.items()),
    ]
    return "".join(parts)


def _runs_table(board: Leaderboard) -> str:
    heads = ("", "run", "what differs", _name(board), "95 % interval", "to the best", "interval",
             "", "seconds", "parameters", "size")  # fmt: skip
    rows = []
    for entry in board.entries:
        place, _short, *cells, verdict = _cells(board, entry)
        row = [place, entry.name, _differs(board, entry), *cells, verdict, *_costs(entry)]
        row = [html.escape(cell) for cell in row]
        row[7] = f'<span class="{_kind(board, entry)}">{row[7]}</span>'
        rows.append(row)
    return _table(heads, rows, "wide runs")


def _kind(board: Leaderboard, entry: Entry) -> str:
    if entry.predictions is None:
        return "differs"
    if entry.name == board.chosen:
        return "better"
    verdict = board.ranking.table.set_index("run").loc[entry.name, "verdict"]
    return "worse" if verdict == "worse" else "differs"


def _differs(board: Leaderboard, entry: Entry) -> str:
    knobs = entry.knobs
    return ", ".join(f"{name} {shown(knobs[name])}" for name in board.differing if name in knobs)


def _costs(entry: Entry) -> tuple[str, str, str]:
    cost = entry.cost
    return (
        "" if cost.seconds is None else f"{cost.seconds:,.0f}",
        "" if cost.parameters is None else f"{cost.parameters:,}",
        "" if cost.bytes is None else f"{cost.bytes / 1e6:.2f} MB",
    )


def _effects(board: Leaderboard) -> str:
    if not len(board.effects):
        return ""
    heads = ("knob", "value", "runs", f"mean {_name(board)}", "spread", "lowest", "highest")
    rows = [
        [html.escape(str(cell)) for cell in (row[0], row[1], row[2])]
        + [_number(v) for v in row[3:]]
        for row in board.effects.itertuples(index=False)
    ]
    shares = "".join(
        f"<li>{html.escape(name)}: {share:.0%}</li>" for name, share in board.importance.items()
    )
    words = (
        "<p>Share of the variance that each searched knob explains (Optuna, fANOVA):</p>"
        f"<ul>{shares}</ul>" if shares else ""
    )  # fmt: skip
    return (
        f"<h2>What each knob did</h2><p>Mean over the runs with that value; the spread is their "
        f"standard deviation, whatever the other knobs were. Knobs in one row always changed "
        f"together.</p>{html_image(knob_effects(board))}{_table(heads, rows)}{words}"
    )


def _figures_table(board: Leaderboard) -> str:
    figures = board.ranking.figures
    names = [name for name in BESIDE if name in next(iter(figures.values()))]
    rows = []
    for run in board.ranking.table["run"]:
        cells = [html.escape(run)]
        for name in names:
            found = figures[run][name]
            span = _span(*found.interval) if found.interval else ""
            cells.append(f"{_number(found.value)}<br><small>{span}</small>")
        rows.append(cells)
    return "<h2>Figures on validation</h2>" + _table(("run", *(NAMES[n] for n in names)), rows)


def _folds_tables(name: str, overall: pd.DataFrame, classes: pd.DataFrame) -> str:
    folds = overall["folds"].max()
    heads = ("folds", "mean", "deviation", "lowest", "highest")
    told = overall[overall["folds"] > 0]
    first = [[NAMES[row[0]], str(row[1]), *map(_number, row[2:])] for row in told.itertuples(False)]
    second = [
        [html.escape(row[0]), row[1].replace("_", " "), str(row[2]), *map(_number, row[3:])]
        for row in classes.itertuples(index=False)
    ]
    return (
        f"<h2>{html.escape(name)}: over {folds} folds</h2><p>Each fold judged by the part that it "
        f"did not learn from; the ranking above takes all those answers together.</p>"
        f"{_table(('figure', *heads), first)}{_table(('class', 'figure', *heads), second)}"
    )


def _number(value: float | None) -> str:
    return "–" if value is None or pd.isna(value) else f"{value:.4f}"


def _table(heads: Iterable[str], rows: Iterable[list[str]], kind: str = "wide") -> str:
    """Build a table of escaped cells."""
    head = "".join(f'<th scope="col">{html.escape(one)}</th>' for one in heads)
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    wide = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    return f'<div class="{kind}">{wide}</div>'


def standings(board: Leaderboard, *, ax: Axes | None = None) -> Figure:
    """Draw the difference of each run to the best with its interval."""
    rows = board.ranking.table.head(MOST_DRAWN)[::-1]
    left = len(board.ranking.table) - len(rows)
    ax = plain(
        new_axes(8.0, 1.4 + ROW_INCHES * max(len(rows), 3), ax),
        f"{_name(board)} less that of the best" + (f", {left} worse ones left out" if left else ""),
        "intervals that hold for all pairs at once",
    )
    colours = [_colour(board, row) for row in rows.itertuples()]
    y = np.arange(len(rows))
    ax.hlines(y, rows.difference_low, rows.difference_high, color=colours, linewidth=2, alpha=0.6)
    ax.scatter(rows.difference, y, color=colours, zorder=3)
    ax.axvline(0, color=QUIET, linewidth=1)
    ax.set_yticks(y, [short(name) for name in rows["run"]], parse_math=False)
    ax.grid(visible=False, axis="y")
    counts = board.ranking.table["verdict"].value_counts()
    return described(
        ax,
        f"{_name(board)} of {len(board.ranking.table)} runs less that of {board.ranking.best}: "
        f"{counts.get('worse', 0)} clearly worse, {counts.get('open', 0)} not told apart. "
        f"Taken: {board.chosen}.",
    )


def _colour(board: Leaderboard, row: tuple) -> str:
    if row.run == board.chosen:
        return GOOD
    return BAD if row.verdict == "worse" else QUIET


def knob_effects(board: Leaderboard, *, ax: Axes | None = None) -> Figure:
    """Draw the mean of each knob's values, with the lowest and highest run."""
    rows = board.effects.head(MOST_DRAWN)[::-1]
    names = [f"{short(row.knob)} = {short(row.value)}" for row in rows.itertuples()]
    left = len(board.effects) - len(rows)
    ax = plain(
        new_axes(8.0, 1.4 + ROW_INCHES * max(len(rows), 3), ax),
        f"{_name(board)} by knob" + (f", {left} values left out" if left else ""),
        "mean, from the lowest run to the highest",
    )
    y = np.arange(len(rows))
    ax.hlines(y, rows.lowest, rows.highest, color=QUIET, linewidth=2, alpha=0.4)
    ax.scatter(rows["mean"], y, color=CHOSEN, zorder=3)
    ax.set_yticks(y, names, parse_math=False)
    ax.grid(visible=False, axis="y")
    moves = "; ".join(f"{row.knob} {row.value}: {row.mean:.3f}" for row in rows[::-1].itertuples())
    return described(ax, f"Mean {_name(board)} by knob. {moves}")
