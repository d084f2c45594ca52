"""Colours of the workbench: one a class everywhere, told apart by colour-blind eyes as well."""

from __future__ import annotations

from colorsys import hls_to_rgb

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
