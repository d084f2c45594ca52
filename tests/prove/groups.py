"""Do 95 % intervals cover where photos come in clips? Photos drawn one by one against whole clips.

The photos of a clip have one label and one score, as frames of a still scene do: the hardest case.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from workbench.decide.metrics import Predictions, compare, evaluate
from workbench.decide.unknown import answers, search_unknown
from workbench.settings import SingleLabelSettings

FIGURES = ("f1_macro", "roc_auc_macro", "exact_match")
MANY = 100_000  # clips that stand for the truth
REPLICATES = 200


def run(*, runs: int = 200, clips: int = 100, photos: int = 8) -> dict[str, Any]:
    """Simulate `runs` evaluations of `clips` clips; return the share of intervals that hold."""
    rng, numbers = np.random.default_rng(0), np.repeat(np.arange(clips), photos)
    truth = _figures(*_draw(MANY, 1, rng), None, 0, replicates=0)
    many = _draw_one_of_three(MANY, 1, rng)
    held: dict[str, dict[str, list[bool]]] = {"photos": {}, "clips": {}}
    for seed in range(runs):
        answers = _draw(clips, photos, rng)
        for way, groups in (("photos", None), ("clips", numbers)):
            for name, (_value, ends) in _figures(*answers, groups, seed).items():
                inside = ends is not None and ends[0] <= truth[name][0] <= ends[1]
                held[way].setdefault(name, []).append(bool(inside))
        drawn = _draw_one_of_three(clips, photos, rng)
        for way, groups in (("photos", None), ("clips", numbers)):
            held[way].setdefault("accepted_accuracy", []).append(_accepted(drawn, many, groups))
    shares = {way: {name: float(np.mean(of)) for name, of in found.items()}
              for way, found in held.items()}  # fmt: skip
    return {"runs": runs, "clips": clips, "photos": photos, "held": shares}


def table(figures: dict[str, Any]) -> str:
    """Write the figures for a terminal."""
    lines = [
        "{runs} runs, {clips} clips of {photos} photos: 95 % intervals that hold".format_map(
            figures
        )
    ]
    for way, shares in figures["held"].items():
        found = "   ".join(f"{name} {share:.1%}" for name, share in shares.items())
        lines.append(f"  drawn by {way:<8}{found}")
    return "\n".join(lines)


def _draw(clips: int, photos: int, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
    """Labels [N, 1] and probabilities of two networks, the same for all photos of a clip."""
    y_true = rng.random((clips, 1)) < 0.4
    logits = (rng.normal(lift * (2 * y_true - 1), 1) for lift in (1.0, 0.8))
    return tuple(
        np.repeat(one, photos, 0) for one in (y_true, *(1 / (1 + np.exp(-z)) for z in logits))
    )


def _figures(y_true, y_score, other, groups, seed, replicates=REPLICATES) -> dict[str, tuple]:
    """Value and interval of each figure, and of the difference between the two networks."""
    knobs = {"task": "multilabel", "groups": groups}
    found = evaluate(y_true, y_score, 0.5, ["cat"], replicates=replicates, seed=seed, **knobs)
    figures = {name: (found.value(name), found.overall[name].interval) for name in FIGURES}
    if not replicates:
        less = evaluate(y_true, other, 0.5, ["cat"], **knobs).value("f1_macro")
        return figures | {"difference": (figures["f1_macro"][0] - less, None)}
    names = tuple(map(str, range(len(y_true))))
    sides = (Predictions(name, names, ("cat",), y_true, score, 0.5, **knobs)
             for name, score in (("other", other), ("one", y_score)))  # fmt: skip
    row = compare(*sides, replicates=replicates, seed=seed).overall.set_index("figure")
    return figures | {"difference": (None, tuple(row.loc["f1_macro", ["low", "high"]]))}


def _draw_one_of_three(
    clips: int, photos: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """One-hot labels and logits [N, 3], the same for all photos of a clip."""
    y_true = np.eye(3)[rng.integers(0, 3, clips)]
    logits = rng.normal(3 * y_true, 1.2)
    return np.repeat(y_true, photos, 0), np.repeat(logits, photos, 0)


def _accepted(drawn, many, groups) -> bool:
    """Does the interval of the answers that are accepted hold their accuracy on many clips?"""
    found = search_unknown(*drawn, SingleLabelSettings(), tuple("abc"), 0, groups=groups).unknown
    confidence, correct = answers(*many)
    truth = correct[confidence >= found.probability].mean()
    low, high = found.accepted_accuracy_interval
    return bool(low <= truth <= high)
