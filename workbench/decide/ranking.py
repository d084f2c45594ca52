"""Which of many runs is best on the same validation images, and how sure is that?

All runs are resampled together. The intervals of their differences hold all at once and for every
pair, so also for the pair that turns out to be the best and another one (Tukey's studentised range,
by resampling). The best of many is best partly by luck: `corrected` chooses on resampled images and
judges on those that were not drawn (Tsamardinos, Greasidou, Borboudakis 2018); with few images it
leans to the low side.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from workbench.decide.calibration import error_interval
from workbench.decide.intervals import LEAST_IMAGES, LEVEL, or_none
from workbench.decide.metrics import (
    LOWER_IS_BETTER,
    Figure,
    Predictions,
    check_same_labels,
    in_common,
    measure,
    resample,
    resampled_spans,
    share_spans,
)
from workbench.decide.outcomes import Answers
from workbench.errors import InputError

FIGURES = ("f1_macro", "f1_micro", "map", "roc_auc_macro", "exact_match", "hamming_loss",
           "calibration_error", "accuracy")  # fmt: skip  # what runs may be ranked by


@dataclass(frozen=True)
class Ranking:
    """Runs, the best first; `verdict` is best, open (not told apart from it) or worse."""

    figure: str
    images: int
    table: pd.DataFrame  # run, value, low, high, difference, difference_low, _high, verdict
    figures: Mapping[str, Mapping[str, Figure]]  # every overall figure of every run
    corrected: float | None  # what choosing the best of these is worth on other images
    seed: int
    replicates: int

    @property
    def best(self) -> str:
        return self.table["run"].iloc[0]

    @property
    def not_worse(self) -> list[str]:
        """Name the runs that are not clearly worse than the best, itself among them."""
        return self.table.loc[self.table["verdict"] != "worse", "run"].tolist()


def rank(runs: Sequence[Predictions], figure: str, *, replicates: int, seed: int) -> Ranking:
    """Rank runs that answered the same images with the same classes."""
    runs = [_aligned(runs[0], run) for run in runs]
    answers = [run.answers() for run in runs]
    measured = [measure(one) for one in answers]
    if figure not in measured[0].overall:
        raise InputError(f"there is no {figure} for {runs[0].task} runs")
    values = np.array([float(one.overall[figure]) for one in measured])
    if np.isnan(values).any():
        raise InputError(f"{figure} is undefined on these images. Rank by another figure")
    pairs = list(zip(answers, measured, strict=True))
    drawn = [resample(*pair, replicates, seed) for pair in pairs]
    left_out = [resample(*pair, replicates, seed, left_out=figure).overall for pair in pairs]
    unknown = np.full(replicates, np.nan)  # a calibration error is not resampled
    draws, left_out = (
        np.column_stack([one.get(figure, unknown) for one in side])
        for side in ([one.overall for one in drawn], left_out)
    )
    sign = -1.0 if figure in LOWER_IS_BETTER else 1.0
    best = int(np.argmax(sign * values))
    figures = {
        run.name: _figures(one, found.overall, redrawn.overall, replicates, seed)
        for run, one, found, redrawn in zip(runs, answers, measured, drawn, strict=True)
    }
    table = _table([run.name for run in runs], values, draws, best, sign, len(answers[0].y_true))
    spans = [figures[name][figure].interval or (np.nan, np.nan) for name in table["run"]]
    table.insert(2, "low", [low for low, _high in spans])
    table.insert(3, "high", [high for _low, high in spans])
    order = np.argsort(-sign * values, kind="stable")
    corrected = _corrected(values, sign * draws, left_out)
    return Ranking(
        figure, len(answers[0].y_true), table.iloc[order].reset_index(drop=True), figures,
        or_none(corrected), seed, replicates,
    )  # fmt: skip


def _aligned(first: Predictions, run: Predictions) -> Predictions:
    """Bring a run's answers in the order of the first, so that both are drawn alike."""
    rows, columns = in_common(first, run)
    sizes = (len(rows[0]), len(columns[0]))
    if {sizes} != {(len(one.filepaths), len(one.classes)) for one in (first, run)}:
        raise InputError(f"{run.name} answers other images or classes than {first.name}")
    run = replace(run.chosen(rows[1], columns[1]), groups=first.groups)
    check_same_labels(first, run)
    return run


def _figures(
    answers: Answers, measured: Mapping, drawn: Mapping, replicates: int, seed: int
) -> dict[str, Figure]:
    spans = resampled_spans(drawn, measured) | share_spans(answers)[0]
    known = {"replicates": replicates, "rng": np.random.default_rng(seed)}
    error = error_interval(*answers.to_calibrate, **known, groups=answers.groups)
    spans["calibration_error"] = [error]
    images = len(answers.y_true)
    return {name: Figure.of(value, spans[name][0], images) for name, value in measured.items()}


def _table(
    names: list[str], values: np.ndarray, draws: np.ndarray, best: int, sign: float, images: int
) -> pd.DataFrame:
    error, reach = simultaneous(values, draws)
    half = reach * error[:, best] if images >= LEAST_IMAGES else np.full(len(names), np.nan)
    difference = values - values[best]
    worse = np.where(sign > 0, difference + half < 0, difference - half > 0)
    verdict = np.where(worse, "worse", "open").astype(object)
    verdict[best], half[best] = "best", 0.0
    columns = {"run": names, "value": values, "difference": difference}
    ends = {"difference_low": difference - half, "difference_high": difference + half}
    return pd.DataFrame(columns | ends | {"verdict": verdict})


def simultaneous(values: np.ndarray, draws: np.ndarray) -> tuple[np.ndarray, float]:
    """Return the standard errors of all differences [K, K], and how many of them reach far enough.

    In LEVEL of the resamplings [R, K] no difference of any pair is further than that from the
    measured one. Where the figure is defined in none, NaN.
    """
    draws = draws[~np.isnan(draws).any(1)]
    if not len(draws):
        return np.full((len(values), len(values)), np.nan), np.nan
    moved, runs = draws - values, len(values)
    error, furthest = np.zeros((runs, runs)), np.zeros(len(draws))
    for run in range(runs - 1):
        apart = moved[:, run, None] - moved[:, run + 1 :]
        error[run, run + 1 :] = error[run + 1 :, run] = apart.std(0)
        scale = np.where(error[run, run + 1 :] > 0, error[run, run + 1 :], np.inf)
        furthest = np.maximum(furthest, (np.abs(apart) / scale).max(1))
    return error, float(np.quantile(furthest, LEVEL))


def _corrected(values: np.ndarray, draws: np.ndarray, left_out: np.ndarray) -> float:
    """Mean of the figure that the winner on drawn images has on the others, all runs centred."""
    told = ~(np.isnan(draws).any(1) | np.isnan(left_out).any(1))
    if not told.any():
        return np.nan
    winner, left_out = draws[told].argmax(1), left_out[told]
    moved = left_out - left_out.mean(0) + values
    return float(moved[np.arange(len(moved)), winner].mean())
