"""Figures that touch no global state: made, described in words, shown and written."""

from __future__ import annotations

import html
import io
import warnings
from base64 import b64encode
from collections.abc import Mapping
from colorsys import hls_to_rgb
from typing import TYPE_CHECKING

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from workbench.files import write_bytes

if TYPE_CHECKING:
    from IPython.display import Image

    from workbench.run import Run

INK = "#1f2933"
QUIET = "#6b7785"  # 4.6:1 on white: still readable text
GRID = "#e3e7eb"
YES = "#0b6e99"  # images that have the class
NO = "#b54708"  # images that do not
MISSED = "#b7c3cf"  # images that have it and were not found
CHOSEN = "#7a1fa2"  # the threshold in use
GOOD = "#1a7f4b"
BAD = "#b42318"
# Okabe and Ito's palette for colour-blind eyes, darkened where 3:1 contrast on white needs it.
_FEW = ("#0072b2", "#d55e00", "#008060", "#a8528a", "#9a7d00", "#3d8fc4", "#5c4033", "#555555")
_TURN = 0.61803398875  # of the colour wheel, the golden ratio: neighbours in the list lie apart

DOTS_PER_INCH = 110
LONGEST_NAME = 28


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
    place = {"loc": "upper left", "bbox_to_anchor": (1.01, 1.0), "alignment": "left"}
    legend = ax.legend(*handles_and_names, title=title, frameon=False, **place)
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


def display_image(figure: Figure) -> Image:
    """Return what a notebook cell shows: the picture with its alt text, live and rendered."""
    from IPython.display import Image

    return Image(data=png(figure), format="png", alt=alt_text(figure))


def keep(run: Run, name: str, figure: Figure) -> Image:
    """Write a figure into the run folder as an output of the step, and show it."""
    image = display_image(figure)
    write_bytes(run.path(f"{name}.png"), image.data)
    run.wrote(f"{name}.png")
    return image


def keep_all(run: Run, figures: Mapping[str, Figure]) -> None:
    """Keep several figures by name, and show one below the other."""
    from IPython.display import display

    display(*(keep(run, name, figure) for name, figure in figures.items()))


def html_image(figure: Figure) -> str:
    """Return an <img> that needs no other file."""
    data = b64encode(png(figure)).decode("ascii")
    return f'<img alt="{html.escape(alt_text(figure))}" src="data:image/png;base64,{data}">'
