"""Figures that touch no global state: made, described in words, shown and written."""

from __future__ import annotations

import html
import io
import warnings
from base64 import b64encode
from collections.abc import Mapping, Sequence
from colorsys import hls_to_rgb
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from workbench.chain import find_step
from workbench.decide.levels import LEVELS, LOWEST, ratio
from workbench.files import write_bytes
from workbench.run import Run
from workbench.settings import Settings
from workbench.show.sliders import Tuning
from workbench.status import digest_of

# Colours of the workbench: one a class everywhere, told apart by colour-blind eyes as well.

INK = "#1f2933"
QUIET = "#6b7785"  # 4.6:1 on white: still readable text
GRID = "#e3e7eb"
PAPER = "#ffffff"
YES = "#0b6e99"  # images that have the class
NO = "#b54708"  # images that do not
MISSED = "#b7c3cf"  # images that have it and were not found
CHOSEN = "#7a1fa2"  # the threshold in use
GOOD = "#1a7f4b"
BAD = "#b42318"

# Okabe and Ito's palette, darkened where needed for 3:1 contrast on white.
_FEW = ("#0072b2", "#d55e00", "#008060", "#a8528a", "#9a7d00", "#3d8fc4", "#5c4033", "#555555")
_TURN = 0.61803398875  # of the colour wheel, the golden ratio: neighbours in the list lie apart


def class_colour(index: int) -> str:
    """Colour of class number `index`, whatever the number of classes."""
    if index < len(_FEW):
        return _FEW[index]
    lightness = (0.32, 0.42, 0.50)[index % 3]
    while True:
        rgb = hls_to_rgb((index * _TURN) % 1, lightness, 0.62)
        if contrast_on_white(rgb) >= 3:
            return "#" + "".join(f"{round(255 * part):02x}" for part in rgb)
        lightness -= 0.02  # yellows and greens are bright


def contrast_on_white(rgb: tuple[float, float, float]) -> float:
    """Contrast as WCAG 2 defines it: lines need 3, text 4.5."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in rgb]
    return 1.05 / (0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2] + 0.05)


if TYPE_CHECKING:
    from IPython.display import Image

DOTS_PER_INCH = 110
LONGEST_NAME = 28


def new_axes(width: float = 7.0, height: float = 4.4, ax: Axes | None = None) -> Axes:
    """Return `ax`, or the axes of a new figure of this size in inches."""
    if ax is None:
        ax = Figure(figsize=(width, height), layout="constrained").add_subplot()
    return ax


def plain(
    ax: Axes, title: str, xlabel: str = "", ylabel: str = "", *, title_points: float = 10
) -> Axes:
    """Give axes the look of the workbench: a sentence on top, no box, a faint grid."""
    ax.set_title(title, loc="left", fontsize=12, color=INK, pad=title_points, parse_math=False)
    ax.set_xlabel(xlabel, color=QUIET, parse_math=False)
    ax.set_ylabel(ylabel, color=QUIET, parse_math=False)
    ax.spines[["top", "right"]].set_visible(False)
    ax.spines[["left", "bottom"]].set_color(GRID)
    ax.tick_params(colors=QUIET, length=0)
    ax.grid(color=GRID, linewidth=0.8)
    ax.set_axisbelow(True)
    return ax


def beside(ax: Axes, *handles_and_names: list, title: str | None = None) -> None:
    """Put the legend to the right of the axes, its names as plain text."""
    legend = ax.legend(
        *handles_and_names,
        title=title,
        loc="upper left",
        bbox_to_anchor=(1.01, 1.0),
        frameon=False,
        alignment="left",
    )
    for text in legend.get_texts():
        text.set_parse_math(False)


def described(ax: Axes, alt: str) -> Figure:
    """Attach the words that stand for the picture and return the figure."""
    figure = ax.figure
    figure.set_label(alt)
    return figure


def alt_text(figure: Figure) -> str:
    return str(figure.get_label())


def short(name: str) -> str:
    """Cut a long class name for an axis; control characters would break the drawing."""
    name = "".join(letter if letter.isprintable() else "?" for letter in name)
    return name if len(name) <= LONGEST_NAME else name[: LONGEST_NAME - 1] + "…"


def png(figure: Figure) -> bytes:
    """Draw as PNG, the same bytes each time, with the description inside."""
    buffer = io.BytesIO()
    metadata = {"Software": None, "Description": alt_text(figure)}
    with warnings.catch_warnings():
        # A name in a script that the font lacks is drawn as boxes; the alt text has it whole.
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        figure.savefig(buffer, format="png", dpi=DOTS_PER_INCH, metadata=metadata)
    return buffer.getvalue()


def save(figure: Figure, path: Path) -> None:
    write_bytes(path, png(figure))


def display_image(figure: Figure) -> Image:
    """Return what a notebook cell shows: the picture with its alt text, live and rendered."""
    from IPython.display import Image

    return Image(data=png(figure), format="png", alt=alt_text(figure))


def keep(run: Run, name: str, figure: Figure) -> Image:
    """Write a figure into the run folder, and show it with its alt text in the notebook."""
    save(figure, run.path(f"{name}.png"))
    return display_image(figure)


def keep_all(run: Run, figures: Mapping[str, Figure]) -> None:
    """Keep several figures by name, and show one below the other."""
    from IPython.display import display

    display(*(keep(run, name, figure) for name, figure in figures.items()))


def html_image(figure: Figure) -> str:
    """Return an <img> that needs no other file."""
    data = b64encode(png(figure)).decode("ascii")
    return f'<img alt="{html.escape(alt_text(figure))}" src="data:image/png;base64,{data}">'


# Small SVG pictures for the live widget, made of text in under a millisecond.

WIDTH, HEIGHT = 420, 230
LEFT, RIGHT, TOP, BOTTOM = 46, 404, 18, 196
BAR_LEVELS = 4


def score_chart(tuning: Tuning, index: int) -> str:
    """Draw scores with the class upwards and without it downwards, split by the threshold."""
    cut = _x(int(tuning.integers[index]))
    heights = _bar_heights(tuning, index)
    parts = []
    for place, (up, down) in enumerate(heights):
        x = _x(LOWEST + place * BAR_LEVELS)
        faint = "" if x >= cut - 0.5 else " opacity='.28'"
        parts.append(_bar(x, 106 - up, up, YES, faint) + _bar(x, 106, down, NO, faint))
    words = (
        f"<text x='{LEFT}' y='14' fill='{YES}'>with the class ↑</text>"
        f"<text x='{RIGHT}' y='210' fill='{NO}' text-anchor='end'>without the class ↓</text>"
        f"<text x='{min(cut + 5, RIGHT - 30):.1f}' y='30' fill='{QUIET}'>yes →</text>"
    )
    line = f"<path d='M{cut:.1f} 22V{BOTTOM}' stroke='{CHOSEN}' stroke-width='2'/>"
    return _svg("".join(parts) + words + line, "Scores of the images with and without the class")


def _bar_heights(tuning: Tuning, index: int) -> np.ndarray:
    pairs = np.stack([tuning.counts.positives[index], tuning.counts.negatives[index]])
    bars = pairs.reshape(2, LEVELS // BAR_LEVELS, BAR_LEVELS).sum(-1)
    return 84 * np.sqrt(bars / max(bars.max(), 1)).T


def _bar(x: float, y: float, height: float, colour: str, faint: str) -> str:
    if height == 0:
        return ""
    width = (RIGHT - LEFT) / (LEVELS / BAR_LEVELS) - 0.8
    return (
        f"<rect x='{x:.1f}' y='{y:.1f}' width='{width:.1f}' height='{height:.1f}' "
        f"fill='{colour}'{faint}/>"
    )


def _x(integer: int) -> float:
    return LEFT + (integer - LOWEST) / LEVELS * (RIGHT - LEFT)


def curve_chart(tuning: Tuning, index: int) -> str:
    """Draw precision against recall with a dot at the threshold and a ring at the search's."""
    if not tuning.positives[index]:
        words = "No image of the split has this class."
        return _svg(f"<text x='60' y='110' fill='{QUIET}'>{words}</text>", words)
    tp, fp = tuning.tp[index], tuning.fp[index]
    recall, precision = ratio(tp, np.full(len(tp), tp[0])), ratio(tp, tp + fp)
    x, y = LEFT + recall * (RIGHT - LEFT), BOTTOM - precision * (BOTTOM - TOP)
    said = tp + fp > 0
    steps = [f"V{b:.1f}H{a:.1f}" for a, b in zip(x[said][::-1], y[said][::-1], strict=True)]
    path = f"M{LEFT} {y[said][-1]:.1f}" + "".join(dict.fromkeys(steps))
    now, before = (int(one[index]) - LOWEST for one in (tuning.integers, tuning.thresholds.integer))
    marks = (
        f"<circle cx='{x[before]:.1f}' cy='{y[before]:.1f}' r='7' fill='none' stroke='{QUIET}' "
        f"stroke-width='2'/><circle cx='{x[now]:.1f}' cy='{y[now]:.1f}' r='7' fill='{CHOSEN}' "
        "stroke='white' stroke-width='2'/>"
    )
    line = f"<path d='{path}' fill='none' stroke='{YES}' stroke-width='2'/>"
    words = f"{recall[now]:.1%} found, {precision[now]:.1%} of the yes right"
    return _svg(_percent_axes() + line + marks, f"Precision against recall. Here: {words}.")


def _percent_axes() -> str:
    parts = []
    for share in (0, 0.25, 0.5, 0.75, 1):
        x, y = LEFT + share * (RIGHT - LEFT), BOTTOM - share * (BOTTOM - TOP)
        parts.append(
            f"<path d='M{LEFT} {y}H{RIGHT}M{x} {TOP}V{BOTTOM}' stroke='{GRID}'/>"
            f"<text x='{LEFT - 6}' y='{y + 4}' text-anchor='end' fill='{QUIET}'>{share:.0%}</text>"
        )
    parts.append(
        f"<text x='{LEFT}' y='12' fill='{QUIET}'>↑ right (precision)</text>"
        f"<text x='{RIGHT}' y='{BOTTOM + 18}' text-anchor='end' fill='{QUIET}'>"
        "found (recall) →</text>"
    )
    return "".join(parts)


def _svg(inside: str, words: str) -> str:
    return (
        f"<svg viewBox='0 0 {WIDTH} {HEIGHT}' style='flex:1 1 17rem;max-width:{WIDTH}px' "
        f"role='img' aria-label='{html.escape(words, quote=True)}' font-size='12' "
        f"font-family='sans-serif'>{inside}</svg>"
    )


# Tables in notebooks and reports: every cell is text, whatever it is called.


@dataclass(frozen=True)
class Table:
    """A DataFrame that shows itself as plain, escaped HTML, and as text where HTML is not."""

    frame: pd.DataFrame

    def _repr_html_(self) -> str:
        return self.frame.to_html(
            index=False, escape=True, border=0, classes="frame", na_rep="–",
            float_format=lambda value: f"{value:.3f}",
        )  # fmt: skip

    def __repr__(self) -> str:
        return self.frame.to_string(index=False, na_rep="–")


def table(rows: pd.DataFrame | Mapping[str, Any] | Sequence[Any]) -> Table:
    """Show a DataFrame, a mapping of names to values, or a list of rows."""
    if isinstance(rows, Mapping):
        rows = pd.DataFrame({"name": list(rows), "value": [str(v) for v in rows.values()]})
    return Table(pd.DataFrame(rows))


def knobs(settings: Settings, *names: str) -> Table:
    """Show the settings that matter here, each with the reason the code gives for it."""
    rows = [row for name in names for row in _rows(settings, name)]
    return table(pd.DataFrame(rows, columns=["knob", "value", "default", "why"]))


def _rows(settings: Settings, dotted: str) -> list[tuple[str, str, str, str]]:
    value, default, reason = _look_up(settings, dotted)
    if not hasattr(value, "model_fields_set"):
        return [(dotted, str(value), "" if value == default else str(default), reason)]
    inner = [f"{dotted}.{name}" for name in type(value).model_fields]
    return [row for name in inner for row in _rows(settings, name)]


def _look_up(settings: Settings, dotted: str) -> tuple[Any, Any, str]:
    value, default, reason = settings, Settings(), ""
    for part in dotted.split("."):
        reason = type(value).model_fields[part].description or ""
        value, default = getattr(value, part), getattr(default, part)
    return value, default, reason


def written(run: Run, number: str) -> Table:
    """Show what a step left in the run folder: name, size and the start of its sha256."""
    rows = [
        {"file": name, "size": _size(run, name), "sha256": digest_of(run.path(name))[:12]}
        for name in find_step(number).writes
    ]
    return table(pd.DataFrame(rows))


def _size(run: Run, name: str) -> str:
    path = run.path(name)
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    total = sum(file.stat().st_size for file in files)
    count = "" if path.is_file() else f" in {len(files)} files"
    return f"{total / 1024:,.1f} KiB{count}"
