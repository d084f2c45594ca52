"""All figures of an evaluation at once: on the images as they are and on resampled ones.

Two sets of answers about the same images, drawn with one seed, are resampled alike, so the
difference of their figures, replicate by replicate, is the paired comparison.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from workbench.decide import outcomes
from workbench.decide.answers import Answers
from workbench.decide.bootstrap import count_cells, image_weights
from workbench.decide.levels import CELLS, LEVELS, counts_from_cells
from workbench.decide.objectives import mean_defined, ratio
from workbench.decide.ranking import average_precision, average_precisions, roc_auc, roc_aucs
from workbench.decide.reliability import Bins, calibration_error


@dataclass(frozen=True)
class Figures:
    """Name → value: scalars and [C] as measured, [R] and [R, C] as resampled. NaN: undefined."""

    overall: dict[str, np.ndarray]
    per_class: dict[str, np.ndarray]


def measure(answers: Answers) -> Figures:
    """Compute every figure on the images as they are."""
    counts = outcomes.count_outcomes(answers.cells)
    per_class = outcomes.class_figures(counts)
    per_class["average_precision"] = _by_class(average_precision, answers)
    per_class["roc_auc"] = _by_class(roc_auc, answers)
    means = {name: mean_defined(values, 0) for name, values in answers.per_image.items()}
    error = calibration_error(*answers.promises)
    means["calibration_error"] = np.nan if error is None else error
    return Figures(_overall(counts, per_class, means), per_class)


def resample(answers: Answers, measured: Figures, replicates: int, seed: int) -> Figures:
    """Compute every figure on resampled images.

    Average precision and ROC area of scores finer than 256 steps, and calibration error, which
    noise can only raise, are moved so that they lie around the measured values.
    """
    ranks, bins = rank_cells(answers), Bins.of(*answers.promises, pooled=True)
    columns, names = _columns(answers.per_image)
    blocks = []
    rng = np.random.default_rng(seed)
    for weights in image_weights(len(ranks), replicates, rng, ranks.shape[1]):
        means = _means(weights.T @ columns, names)
        means["calibration_error"] = bins.errors(weights)[:, 0]
        counts = count_cells(answers.cells, outcomes.OUTCOMES, weights).astype(np.float64)
        per_class = outcomes.class_figures(counts) | _areas(ranks, weights)
        blocks.append(Figures(_overall(counts, per_class, means), per_class))
    drawn = Figures(
        _joined([block.overall for block in blocks]), _joined([block.per_class for block in blocks])
    )
    _centre(drawn, measured, ranks)
    return drawn


def _overall(counts: np.ndarray, per_class: dict, means: dict) -> dict[str, np.ndarray]:
    return {
        **outcomes.overall_figures(counts),
        "map": mean_defined(per_class["average_precision"], -1),
        "roc_auc_macro": mean_defined(per_class["roc_auc"], -1),
        **means,
    }


def _by_class(figure, answers: Answers) -> np.ndarray:
    found = [
        figure(answers.y_true[:, i], answers.y_score[:, i], column_of(answers.mask, i))
        for i in range(answers.y_score.shape[1])
    ]
    return np.array([np.nan if value is None else value for value in found])


def column_of(mask: np.ndarray | None, index: int) -> np.ndarray | None:
    return None if mask is None else mask[:, index]


def _columns(per_image: dict[str, np.ndarray]) -> tuple[np.ndarray, list[str]]:
    values = np.stack(list(per_image.values()), axis=1)
    defined = ~np.isnan(values)
    columns = np.concatenate([np.where(defined, values, 0), defined], axis=1)
    return columns.astype(np.float32), list(per_image)


def _means(sums: np.ndarray, names: list[str]) -> dict[str, np.ndarray]:
    total, defined = np.split(sums, 2, axis=1)
    means = np.where(defined > 0, ratio(total, defined), np.nan)
    return dict(zip(names, means.T, strict=True))


def _areas(ranks: np.ndarray, weights: np.ndarray) -> dict[str, np.ndarray]:
    levels = counts_from_cells(count_cells(ranks, CELLS, weights).astype(np.float64))
    return {"average_precision": average_precisions(levels), "roc_auc": roc_aucs(levels)}


def _joined(blocks: Sequence[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    return {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}


def _centre(drawn: Figures, measured: Figures, ranks: np.ndarray) -> None:
    once = _areas(ranks, np.ones((len(ranks), 1), np.float32))
    for name, values in once.items():
        drawn.per_class[name] += measured.per_class[name] - values[0]
    for name, area in (
        ("map", "average_precision"),
        ("roc_auc_macro", "roc_auc"),
    ):
        drawn.overall[name] += measured.overall[name] - mean_defined(once[area][0], 0)
    errors = drawn.overall["calibration_error"]
    errors += measured.overall["calibration_error"] - mean_defined(errors, 0)
    np.maximum(errors, 0, out=errors)


def rank_cells(answers: Answers) -> np.ndarray:
    """Number labels and scores on at most 256 steps: [N, C] int32. Exact for INT8 scores.

    Of finer scores the steps start at those of positives, where average precision is decided.
    """
    positive, known = answers.y_true > 0.5, answers.cells != outcomes.UNKNOWN
    cells = np.empty(answers.y_score.shape, np.int32)
    for index, column in enumerate(answers.y_score.T):
        starts = np.unique(column[known[:, index]])[1:]
        if len(starts) >= LEVELS:
            found = np.unique(column[positive[:, index] & known[:, index]])
            starts = found[np.linspace(0, len(found) - 1, min(len(found), LEVELS - 1)).astype(int)]
        cells[:, index] = np.searchsorted(starts, column, side="right")
    return np.where(known, cells + positive * np.int32(LEVELS), np.int32(CELLS))
