"""The two small SVG pictures of the live threshold sliders, drawn as text within a millisecond."""

from __future__ import annotations

import html

import numpy as np

from workbench.decide.levels import LEVELS, LOWEST, ratio
from workbench.show.figures import CHOSEN, GRID, NO, QUIET, YES
from workbench.show.sliders import Tuning

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
