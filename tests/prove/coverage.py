"""Do intervals cover what they claim, and is what is adopted no luck? Simulations with known truth.

Every simulation draws validation or test sets of a known kind, lets the workbench say what it says,
and counts how often that was true of the kind. Add one by `@simulation("name")` on a function of
(repeats, seed) that returns its figures by name.

    python -m tests.prove coverage repeats=200
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from scipy.stats import norm

from tests import decision_simulations
from workbench.decide.adoption import Trials, choose, expected
from workbench.decide.intervals import resampled_levels
from workbench.decide.levels import LOWEST, LevelCounts, Quantization, count_levels
from workbench.decide.metrics import evaluate
from workbench.decide.thresholds import search
from workbench.decide.tuning import Pair, rules_of
from workbench.settings import ThresholdSearchSettings

Figures = dict[str, float]
SIMULATIONS: dict[str, Callable[[int, int], Figures]] = {}
SCALE, ZERO_POINT, REPLICATES = 0.08, 10, 300
MEAN, DISTANCE, SPREAD = -40, 55, 30  # of the scores of photos without a class; with it; of both


def simulation(name: str) -> Callable:
    """Put a simulation on the list under a name of its own."""

    def register(function: Callable[[int, int], Figures]) -> Callable[[int, int], Figures]:
        SIMULATIONS[name] = function
        return function

    return register


def run(*, repeats: int = 200, seed: int = 0, only: str = "") -> dict[str, Figures]:
    """Run every simulation, or those whose name begins with `only`."""
    chosen = {name: one for name, one in SIMULATIONS.items() if name.startswith(only)}
    return {name: simulate(repeats=repeats, seed=seed) for name, simulate in chosen.items()}


def table(figures: dict[str, Figures]) -> str:
    width = max(map(len, figures), default=0)
    return "\n".join(
        f"{name:<{width}}  " + "  ".join(f"{what} {value:.3f}" for what, value in found.items())
        for name, found in figures.items()
    )


def draw_scores(
    images: int, shift: np.ndarray, prevalence: float, rng: np.random.Generator,
    photos: int = 1, distance: float = DISTANCE,
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:  # fmt: skip
    """Draw labels, INT8 scores of classes shifted by so many levels, and clips of alike photos."""
    y_true = rng.random((images // photos, len(shift))) < prevalence
    raw = rng.normal(MEAN, SPREAD, y_true.shape) + distance * y_true + shift
    raw = np.clip(np.floor(raw), -128, 127).astype(np.int8)
    clips = None if photos == 1 else np.repeat(np.arange(len(raw)), photos)
    return np.repeat(y_true, photos, 0), np.repeat(raw, photos, 0), clips


def whole_kind(shift: np.ndarray, prevalence: float, distance: float = DISTANCE) -> LevelCounts:
    """Counts per level of endlessly many such images, as shares."""
    edges = np.arange(LOWEST + 1, 128)  # everything below the first is the lowest level
    sides = []
    for moved, share in ((distance, prevalence), (0, 1 - prevalence)):
        below = norm.cdf(edges, MEAN + moved + shift[:, None], SPREAD)
        sides.append(share * np.diff(below, prepend=0, append=1, axis=1))
    return LevelCounts(*sides)


def tune_and_judge(
    images: int, shift: list[float], prevalence: float, repeats: int, seed: int, photos: int = 1
) -> Figures:
    """Tune on drawn images; hold what is said of the gains against all images of the kind.

    An adoption is better where the two thresholds gain on all these. Beside it what the rule of
    before adopts on the same images.
    """
    shift, rows = np.asarray(shift, float), []
    rules = rules_of(
        ThresholdSearchSettings(bootstrap_replicates=REPLICATES), Quantization(SCALE, ZERO_POINT)
    )
    truth = rules.objective.class_values(whole_kind(shift, prevalence))
    for number in range(repeats):
        rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(number,)))
        y_true, raw, clips = draw_scores(images, shift, prevalence, rng, photos)
        counts = count_levels(y_true, raw)
        blocks = resampled_levels(y_true, raw, None, REPLICATES, rng, clips)
        tried = Trials.of(counts, blocks, rules)
        choice = choose(counts, tried, rules)
        own, shared = Pair(np.array(choice.shared), choice.own).values(truth)
        real = np.where(choice.adopted, own, shared).mean()
        low, high = expected(counts, choice, tried, rules).corrected_interval
        covered = (choice.gain[1] <= own - shared) & (own - shared <= choice.gain[2])
        moved = ~np.isnan(choice.gain[1])  # the gain of equal thresholds is 0, and known
        before = decision_simulations.adopted_before(y_true, raw, rules, REPLICATES, rng)
        rows.append((covered, moved, choice.adopted, own > shared, low <= real <= high, before))
    covered, moved, adopted, better, value, before = map(np.array, zip(*rows, strict=True))
    return {
        "gains_covered": covered[moved].mean(),
        "gains_covered_of_the_adopted": covered[adopted].mean() if adopted.any() else np.nan,
        "any_adopted": adopted.any(1).mean(),
        "adopted_and_better": (adopted & better).sum() / repeats,
        "adopted_and_worse": (adopted & ~better).sum() / repeats,
        "value_covered": value.mean(),
        "before_and_better": (before & better).sum() / repeats,
        "before_and_worse": (before & ~better).sum() / repeats,
    }


@simulation("adoption, 7 identical classes")
def seven_identical(repeats: int, seed: int) -> Figures:
    return tune_and_judge(400, [0] * 7, 0.2, repeats, seed)


@simulation("adoption, 40 identical classes")
def forty_identical(repeats: int, seed: int) -> Figures:
    return tune_and_judge(400, [0] * 40, 0.1, repeats, seed)


@simulation("adoption by clip, 7 identical classes, 200 clips of 4 photos")
def seven_identical_in_clips(repeats: int, seed: int) -> Figures:
    return tune_and_judge(800, [0] * 7, 0.2, repeats, seed, photos=4)


@simulation("adoption by clip, 3 of 7 differ, 400 clips of 4 photos")
def some_differ_in_clips(repeats: int, seed: int) -> Figures:
    return tune_and_judge(1600, [0, 0, 0, 0, 10, 20, 30], 0.2, repeats, seed, photos=4)


@simulation("adoption, 3 of 7 differ, 400 images")
def some_differ(repeats: int, seed: int) -> Figures:
    return tune_and_judge(400, [0, 0, 0, 0, 10, 20, 30], 0.2, repeats, seed)


@simulation("adoption, 3 of 7 differ, 1500 images")
def some_differ_clearly(repeats: int, seed: int) -> Figures:
    return tune_and_judge(1500, [0, 0, 0, 0, 10, 20, 30], 0.2, repeats, seed)


@simulation("adoption, 20 of 40 differ, 600 images")
def half_differ(repeats: int, seed: int) -> Figures:
    return tune_and_judge(600, [0] * 20 + list(range(-30, 0, 3)) + list(range(3, 33, 3)), 0.1,
                          repeats, seed)  # fmt: skip


def keep_the_floor(
    name: str, images: int, floor: float, repeats: int, seed: int, photos: int = 1,
    prevalence: float = 0.3, distance: float = DISTANCE,
) -> Figures:  # fmt: skip
    """Ask for a floor; of the classes that claim it, how many keep it on all images of the kind?

    Where no class can keep it every claim is false, so that it is claimed rarely is all one can
    ask: a run without a claim has broken none.
    """
    shift = np.array([-20.0, -10, 0, 0, 0, 10, 20])
    settings = ThresholdSearchSettings(objective=name, floor=floor, bootstrap_replicates=1)
    tp, fp = whole_kind(shift, prevalence, distance).at_least()
    kept = tp / np.maximum(tp + fp, 1e-12) if name == "precision_floor" else tp / prevalence
    classes, rows = tuple(map(str, range(len(shift)))), []
    for number in range(repeats):
        rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(number,)))
        y_true, raw, clips = draw_scores(images, shift, prevalence, rng, photos, distance)
        found = search(y_true, raw, SCALE, ZERO_POINT, settings, classes, number, groups=clips)
        claims = np.array(["aimed at" in entry.reason for entry in found.classes])
        rows.append((claims, kept[np.arange(len(shift)), found.integer - LOWEST] >= floor))
    claims, keeps = map(np.array, zip(*rows, strict=True))
    broken = (claims & ~keeps).sum(1) / np.maximum(claims.sum(1), 1)
    return {
        "claimed": claims.mean(), "kept_where_claimed": keeps[claims].mean() if claims.any() else 1,
        "broken_of_a_run": broken.mean(),
    }  # fmt: skip


FLOORS: dict[str, dict[str, Any]] = {
    "precision floor .80, 400 images": {"images": 400, "floor": 0.8},
    "precision floor .90, 400 images": {"images": 400, "floor": 0.9},
    "precision floor .90, 1000 images": {"images": 1000, "floor": 0.9},
    "precision floor .95, 1000 images": {"images": 1000, "floor": 0.95},
    "precision floor .95, 3000 images": {"images": 3000, "floor": 0.95},
    "precision floor .80, 400 clips of 4 photos": {"images": 1600, "floor": 0.8, "photos": 4},
    "precision floor .80, blind network just below it": {
        "images": 400, "floor": 0.8, "prevalence": 0.795, "distance": 0.0
    },
    "recall floor .90, 400 images": {"images": 400, "floor": 0.9},
    "recall floor .90, 400 clips of 4 photos": {"images": 1600, "floor": 0.9, "photos": 4},
}  # fmt: skip
for name, asked in FLOORS.items():
    kind = name.split(" .")[0].replace(" ", "_")
    simulation(name)(partial(keep_the_floor, kind, **asked))


def judge_answers(
    classes: int, images: int, prevalence: float, missed: float, wrongly: float, repeats: int,
    seed: int,
) -> Figures:  # fmt: skip
    """Evaluate answers that miss and err at known rates; how often do the intervals hold these?"""
    found_share = 1 - missed
    said = prevalence * found_share + (1 - prevalence) * wrongly
    precision = prevalence * found_share / said
    truth = {
        "precision": precision, "recall": found_share,
        "f1": 2 * prevalence * found_share / (prevalence + said),
    }  # fmt: skip
    names, held = tuple(map(str, range(classes))), {}
    for number in range(repeats):
        rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(number,)))
        y_true = rng.random((images, classes)) < prevalence
        y_score = rng.random(y_true.shape) >= np.where(y_true, missed, 1 - wrongly)
        found = evaluate(
            y_true, y_score.astype(float), 0.5, names, task="multilabel", replicates=2, seed=number
        )
        for name, value in truth.items():
            table = found.table.dropna(subset=[f"{name}_low"])
            covered = (table[f"{name}_low"] <= value) & (value <= table[f"{name}_high"])
            held.setdefault(f"{name}_of_a_class", []).extend(covered)
            for mean in ("macro", "micro"):
                low, high = found.overall[f"{name}_{mean}"].interval
                held.setdefault(f"{name}_{mean}", []).append(low <= value <= high)
    return {name: float(np.mean(values)) for name, values in held.items()}


@simulation("answers, F1 .987, 46 positives of 400")
def nearly_perfect(repeats: int, seed: int) -> Figures:
    return judge_answers(5, 400, 0.115, 0.013, 0.0017, repeats, seed)


@simulation("answers, F1 .89, 60 positives of 300")
def good(repeats: int, seed: int) -> Figures:
    return judge_answers(7, 300, 0.2, 0.1, 0.03, repeats, seed)


@simulation("answers, F1 .987, 40 classes, 48 positives of 600")
def nearly_perfect_many(repeats: int, seed: int) -> Figures:
    return judge_answers(40, 600, 0.08, 0.013, 0.001, repeats, seed)


@simulation("answers, F1 .80, 8 positives of 40")
def few_images(repeats: int, seed: int) -> Figures:
    return judge_answers(7, 40, 0.2, 0.2, 0.05, repeats, seed)


@simulation("unknown")
def unknown(repeats: int, seed: int) -> Figures:
    """Cover the accuracy of the answers, and keep what is promised of them."""
    return decision_simulations.unknown(repeats, seed)


@simulation("calibration error")
def calibration_error(repeats: int, seed: int) -> Figures:
    """Cover the calibration error of a class."""
    return decision_simulations.calibration_intervals(repeats, seed)


@simulation("difference of calibration errors")
def calibration_differences(repeats: int, seed: int) -> Figures:
    """Cover by how much two networks differ in calibration."""
    return decision_simulations.calibration_differences(repeats, seed)


@simulation("corrections")
def corrections(repeats: int, seed: int) -> Figures:
    """Ship no correction that harms, and those that are needed."""
    return decision_simulations.corrections(repeats, seed)


@simulation("ranking, six equal networks")
def ranking_of_equals(repeats: int, seed: int) -> Figures:
    return decision_simulations.ranking(repeats, seed)


@simulation("ranking, four networks")
def ranking_of_four(repeats: int, seed: int) -> Figures:
    return decision_simulations.ranking(repeats, seed, 200, (1.0, 1.1, 1.2, 1.3))


@simulation("ranking by mAP, six equal networks")
def ranking_by_map(repeats: int, seed: int) -> Figures:
    return decision_simulations.ranking(repeats, seed, figure="map")
