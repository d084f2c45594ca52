"""Draw data whose truth is known, let the workbench judge it, and count how often it is right.

Each simulation returns shares by name; `tests.prove coverage` runs them long.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from scipy.special import expit, softmax

from workbench.decide import metrics
from workbench.decide.calibration import Scores, calibrate, error_interval
from workbench.decide.intervals import assign_folds, interval_ends
from workbench.decide.levels import LEVELS, LOWEST, LevelCounts, count_levels
from workbench.decide.metrics import Predictions
from workbench.decide.ranking import rank
from workbench.decide.tuning import Rules, tune
from workbench.decide.unknown import search_unknown
from workbench.settings import CalibrationSettings, SingleLabelSettings

CLASSES = tuple("abcde")
POPULATION = 200_000  # images that stand for all there are
IMAGES = (100, 196, 1000)

Found = dict[str, float]


def seeds(runs: int, seed: int, *place: int) -> list[np.random.Generator]:
    """Independent generators, one a run; `place` keeps those of different simulations apart."""
    sequences = np.random.SeedSequence(seed, spawn_key=place).spawn(runs)
    return [np.random.default_rng(one) for one in sequences]


def one_of_five(rng: np.random.Generator, images: int, strength: float):
    """Draw one-hot labels and logits [N, 5]; the answers get better with `strength`."""
    y_true = np.eye(len(CLASSES))[rng.integers(0, len(CLASSES), images)]
    return y_true, rng.normal(0, 1, y_true.shape) + strength * y_true


def adopted_before(
    y_true: np.ndarray, raw: np.ndarray, rules: Rules, replicates: int, rng: np.random.Generator
) -> np.ndarray:
    """Adopt as the workbench once did: where each fold gains by the thresholds of the others. [C]

    Folds judge their own pairs of thresholds, not the pair that ships, and each class by itself.
    """
    place = assign_folds(y_true, 5, rng)
    folds = [count_levels(y_true[place == fold], raw[place == fold]) for fold in range(5)]
    sides = [np.stack([getattr(one, side) for one in folds]) for side in ("negatives", "positives")]
    pair = tune(LevelCounts(*(side.sum(0) - side for side in sides[::-1])), rules)
    levels = np.arange(LOWEST, LOWEST + LEVELS)
    by_own, by_shared = levels >= pair.own[..., None], levels >= pair.shared[:, None, None]
    who = [by_own & by_shared, by_own & ~by_shared, ~by_own & by_shared, ~by_own & ~by_shared]
    cells = np.stack([(side * one).sum((0, 2)) for side in sides for one in who], axis=1)
    images = cells.sum(1)
    drawn = rng.multinomial(images, cells / images[:, None], size=(replicates, len(images)))

    def gain(cells: np.ndarray) -> np.ndarray:
        fp, tp = np.split(cells, 2, axis=-1)
        totals = tp.sum(-1), fp.sum(-1)
        own, shared = (
            rules.objective.values(tp[..., one].sum(-1), fp[..., one].sum(-1), *totals)
            for one in ([0, 1], [0, 2])
        )
        return own - shared

    whole = tune(LevelCounts(*(side.sum(0) for side in sides[::-1])), rules)
    enough = gain(cells) >= rules.knobs.per_class_improvement_threshold
    return (whole.own != whole.shared) & (interval_ends(gain(drawn))[0] > 0) & enough


def unknown(
    runs: int, seed: int = 0, images: tuple[int, ...] = IMAGES, strengths=(1.5, 2.2, 2.6, 3.0)
) -> Found:
    """Cover the accuracy of the answers that are not "unknown", and keep what is promised."""
    found: Found = {}
    for number in images:
        covered, right = [], []
        for place, strength in enumerate(strengths):
            truth = _accuracy_above(*one_of_five(*seeds(1, seed, 1, place), POPULATION, strength))
            for rng in seeds(runs // len(strengths), seed, 1, number, place):
                drawn = one_of_five(rng, number, strength)
                chosen = search_unknown(*drawn, SingleLabelSettings(), CLASSES, 0).unknown
                accuracy = truth(chosen.probability)
                low, high = chosen.accepted_accuracy_interval
                covered.append(low <= accuracy <= high)
                if chosen.meets_target:
                    right.append(accuracy >= 0.95)
        found[f"accuracy of the answers, {number} images"] = np.mean(covered)
        if right:
            found[f"said to be 95 % right, {number} images"] = len(right) / len(covered)
            found[f"and right, {number} images"] = np.mean(right)
    return found


def _accuracy_above(y_true: np.ndarray, logits: np.ndarray):
    """Return the function from a threshold to the accuracy of the answers above it."""
    probability = softmax(logits, axis=1)
    order = np.argsort(-probability.max(1))
    right = (probability.argmax(1) == y_true.argmax(1))[order]
    accuracy = np.cumsum(right) / np.arange(1, len(order) + 1)
    surest = -probability.max(1)[order]
    return lambda threshold: accuracy[np.searchsorted(surest, -threshold, side="right") - 1]


SCALE = 0.1
# What a class is like: mean and spread of its true logits, and the line that the network misses by.
KINDS = {
    "calibrated": (-1, 2, 1.0, 0.0),
    "rare": (-3, 1, 1.0, 0.0),
    "well separated": (-4, 12, 1.0, 0.0),
    "a little too sure": (-1, 2, 0.8, 0.0),
    "too sure": (-1, 2, 0.5, 0.0),
    "not sure enough": (-1, 2, 2.0, 0.0),
    "shifted": (-1, 2, 1.0, 0.5),
    "sure and shifted": (-1, 2, 0.6, -0.7),
}
MISTAKEN = ("too sure", "not sure enough", "sure and shifted")  # where a correction must help


def one_class(rng: np.random.Generator, images: int, mean, spread, slope, intercept):
    """Draw true chances, labels and int8 scores [N, 1] of a class; the line would mend them."""
    logits = rng.normal(mean, spread, (images, 1))
    raw = np.clip(np.rint((logits - intercept) / slope / SCALE), -128, 127).astype(np.int8)
    return expit(logits), rng.random(logits.shape) < expit(logits), raw


def calibration_intervals(
    runs: int, seed: int = 0, images=(200, 1000), kinds=tuple(KINDS)
) -> Found:
    """Cover the calibration error that all images of a class have."""
    found: Found = {}
    for number in images:
        covered = []
        for place, kind in enumerate(kinds):
            true, _, raw = one_class(seeds(1, seed, 2, place)[0], 5 * POPULATION, *KINDS[kind])
            error = calibration_error_of_chances(true, expit(SCALE * raw))
            for rng in seeds(runs // len(kinds), seed, 2, number, place):
                _, label, raw = one_class(rng, number, *KINDS[kind])
                probability = expit(SCALE * raw)
                ends = error_interval(label, probability, replicates=200, rng=rng)
                if ends is not None:
                    covered.append(ends[0] <= error <= ends[1])
        found[f"calibration error, {number} images"] = np.mean(covered)
    return found


# Slope, line and noise by which two networks miss the true logits of the same images.
PAIRS = (
    ((1, 0, 0), (1, 0, 0.8)), ((1, 0, 0), (0.5, 0, 0)), ((0.5, 0, 0), (1, 0.5, 0)),
    ((1, 0.5, 0.3), (1, 0.5, 0.3)), ((0.9, 0, 0.2), (0.8, 0, 0.2)),
)  # fmt: skip


def calibration_differences(runs: int, seed: int = 0, images: int = 300) -> Found:
    """Cover by how much the calibration errors of two networks differ on all images."""
    covered, names = [], tuple(map(str, range(images)))
    for place, pair in enumerate(PAIRS):
        true, _, both = _two_networks(seeds(1, seed, 5, place)[0], POPULATION, pair)
        one, two = (calibration_error_of_chances(true, score) for score in both)
        for rng in seeds(runs // len(PAIRS), seed, 5, images, place):
            _, label, both = _two_networks(rng, images, pair)
            sides = [
                Predictions(name, names, ("a",), label, score, 0.5, "multilabel")
                for name, score in zip("ab", both, strict=True)
            ]
            rows = metrics.compare(*sides, replicates=200, seed=seed).overall.set_index("figure")
            row = rows.loc["calibration_error"]
            covered.append(row.low <= two - one <= row.high)
    return {f"difference of calibration errors, {images} images": float(np.mean(covered))}


def _two_networks(rng: np.random.Generator, images: int, pair: tuple):
    logits = rng.normal(-1, 2, (images, 1))
    scores = [
        expit((logits - line) / slope + rng.normal(0, noise, logits.shape))
        for slope, line, noise in pair
    ]
    return expit(logits), rng.random(logits.shape) < expit(logits), scores


def calibration_error_of_chances(true: np.ndarray, predicted: np.ndarray) -> float:
    """Calibration error without the noise of labels: bins as the workbench has them."""
    place = np.minimum((predicted * 15).astype(int), 14).ravel()
    gaps = np.bincount(place, weights=(predicted - true).ravel())
    return float(np.abs(gaps).sum() / len(place))


def corrections(runs: int, seed: int = 0, images=(200, 400, 1000), kinds=tuple(KINDS)) -> Found:
    """Ship no correction that harms images of the future, and those that are needed."""
    found: Found = {}
    names = tuple(kinds)
    for method in ("temperature", "platt"):
        settings = CalibrationSettings(method=method, bootstrap_replicates=0)
        harm, helped, needed = 0, 0, 0
        for number in images:
            for rng in seeds(runs // len(images), seed, 3, number):
                drawn = [one_class(rng, number, *KINDS[kind]) for kind in kinds]
                label, raw = (np.concatenate([one[i] for one in drawn], axis=1) for i in (1, 2))
                fitted = calibrate(
                    Scores(raw, SCALE, 0, label, None, "multilabel"), names, settings, 0
                )
                for place, kind in enumerate(kinds):
                    gain = _gain(kind, fitted.slope[place], fitted.intercept[place])
                    harm += gain < 0
                    could = method == "platt" or KINDS[kind][3] == 0
                    if kind in MISTAKEN and could and number >= 1000:
                        needed, helped = needed + 1, helped + (gain > 0)
        classes = len(kinds) * (runs // len(images)) * len(images)
        found[f"{method}: harm done"] = harm / classes
        if needed:
            found[f"{method}: mistaken classes corrected"] = helped / needed
    return found


def _gain(kind: str, slope: float, intercept: float) -> float:
    """Log loss that a line saves a label, over the images of the future."""
    true, _, raw = _future(kind)
    shown = SCALE * raw

    def loss(logits: np.ndarray) -> float:
        return float((np.logaddexp(0, logits) - true * logits).mean())

    return 0.0 if (slope, intercept) == (1, 0) else loss(shown) - loss(slope * shown + intercept)


@cache
def _future(kind: str):
    return one_class(*seeds(1, 0, 4, list(KINDS).index(kind)), POPULATION, *KINDS[kind])


def ranking(
    runs: int, seed: int = 0, images: int = 100, lifts: tuple[float, ...] = (1.2,) * 6,
    figure: str = "f1_macro", replicates: int = 300,
) -> Found:  # fmt: skip
    """Rank networks of known worth, and count how often what is said of all of them holds.

    `lifts` makes the networks; where they are equal, the best is best by luck alone.
    """
    truth = _worth(lifts, figure)
    hold, kept, bias, corrected = [], [], [], []
    for rng in seeds(runs, seed, 4):
        y_true, scores = _networks(rng, images, lifts)
        sides = [
            Predictions(str(place), tuple(map(str, range(images))), CLASSES[:3], y_true, one, 0.5,
                        "multilabel")
            for place, one in enumerate(scores)
        ]  # fmt: skip
        found = rank(sides, figure, replicates=replicates, seed=seed)
        table, best = found.table, truth[int(found.best)]
        real = truth[table["run"].astype(int)] - best
        inside = (table["difference_low"] <= real) & (real <= table["difference_high"])
        hold.append(inside.all())
        kept.append(str(int(truth.argmax())) in found.not_worse)
        bias.append(table["value"][0] - best)
        corrected.append(found.corrected - best)
    return {"intervals hold": float(np.mean(hold)), "best kept": float(np.mean(kept)),
            "best too high by": float(np.mean(bias)),
            "corrected too high by": float(np.mean(corrected))}  # fmt: skip


def _networks(rng: np.random.Generator, images: int, lifts: tuple[float, ...]):
    """Draw labels [N, 3], and for each network scores that share what is hard about an image."""
    y_true = rng.random((images, 3)) < 0.3
    shared = rng.normal(0, 1, y_true.shape)
    return y_true, [
        expit(2 * (lift * y_true - 1 + shared + rng.normal(0, 0.7, y_true.shape))) for lift in lifts
    ]


@cache
def _worth(lifts: tuple[float, ...], figure: str) -> np.ndarray:
    """Figures over all images there are; equal networks are worth the same."""
    by_lift = {}
    for lift in set(lifts):
        y_true, (scores,) = _networks(np.random.default_rng(0), POPULATION, (lift,))
        score = metrics.f1_macro(y_true, scores >= 0.5) if figure == "f1_macro" else (
            metrics.mean_average_precision(y_true, scores))  # fmt: skip
        by_lift[lift] = score
    return np.array([by_lift[lift] for lift in lifts])
