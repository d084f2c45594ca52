"""calibration.json: fit the corrections of probabilities again, and judge them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from statistics import NormalDist
from typing import Any

import numpy as np

from .arithmetic import (
    REPEATS,
    Arrays,
    Tree,
    count_levels,
    deal,
    labels_of,
    logits_of,
    nan_as_none,
    sigmoid,
    softmax,
    units_of,
)
from .folder import Bundle
from .intervals import LEAST_LABELS, error_interval
from .metrics import calibration_errors

SLOPES = (0.01, 100.0)  # of a correction
DOUBT, UNSEEN = 0.005, 2.0  # that a correction does not help; labels that nobody saw yet


def derive(bundle: Bundle, stated: Tree) -> Tree:
    """Fit the lines again, and judge them on images that did not fit them."""
    knobs, seed = bundle.settings["calibration"], bundle.settings["seed"]
    known, rng = labels_of(bundle.validation), np.random.default_rng(seed)
    fits = Correction(bundle.validation, bundle.settings["task"], knobs["method"])
    tried = [fits.held_out(rng) for _ in range(REPEATS)]
    rows, names = fits.verdicts(tried), bundle.config["labels"]
    lines = zip(*fits.lines(), strict=True)
    for row, line in zip(rows, lines, strict=True):
        row["slope"], row["intercept"] = line if row["ships"] else (1.0, 0.0)
    rows.append(dict.fromkeys(rows[0]))
    ships = np.array([row["ships"] for row in rows[:-1]])
    activate = softmax if fits.task == "single_label" else sigmoid
    corrected = np.where(ships, tried[0], fits.logits)
    for when, logits in (("before", fits.logits), ("after", corrected)):
        errors = class_errors(activate(logits), known, knobs["bootstrap_replicates"], seed)
        for row, (error, span) in zip(rows, errors, strict=True):
            row[f"error_{when}"] = error
            if knobs["bootstrap_replicates"]:
                row[f"error_{when}_low"], row[f"error_{when}_high"] = span or (None, None)
                row["withheld"] = None if span else f"fewer than {LEAST_LABELS} labels of a kind"
    rows = [{"class": name, **row} for name, row in zip((*names, "all classes"), rows, strict=True)]
    return {"method": knobs["method"], "classes": rows}


def class_errors(score: np.ndarray, known: Arrays, replicates: int, seed: int) -> list[tuple]:
    """Derive calibration errors and their intervals: of every class, then of all labels."""
    rng, found, once = np.random.default_rng(seed), [], np.ones((1, len(score)))
    for column in (*(np.s_[:, [i]] for i in range(score.shape[1])), np.s_[:, :]):
        true, told = known["y_true"][column], known["known"][column]
        part = true, score[column], told
        span = error_interval(*part, known.get("groups"), replicates, rng) if replicates else None
        found.append((nan_as_none(calibration_errors(*part, once))[0], span))
    return found


@dataclass(frozen=True)
class Correction:
    """Lines on the logits of validation answers, one a class, or one slope under softmax."""

    arrays: Arrays
    task: str
    method: str

    @cached_property
    def logits(self) -> np.ndarray:
        return logits_of(self.arrays)

    @cached_property
    def one_label(self) -> np.ndarray:
        true, known = self.arrays["y_true"] > 0.5, self.arrays["mask"] > 0.5
        return (true.sum(1) == 1) & known.all(1)

    def lines(self, rows: Any = slice(None)) -> tuple[np.ndarray, np.ndarray]:
        """Fit slopes and intercepts [C] on some of the images."""
        classes = self.logits.shape[1]
        if self.method == "none":
            return np.ones(classes), np.zeros(classes)
        if self.task == "multilabel":
            inputs = np.stack([np.arange(-128, 128) - self.arrays["zero_point"], np.ones(256)])
            inputs[0] *= self.arrays["scale"]
            return fit_lines(*count_levels(self.arrays, rows), inputs, self.method == "platt")
        chosen = self.one_label[rows]
        labels = self.arrays["y_true"][rows][chosen] > 0.5
        slope = fit_slope(self.logits[rows][chosen], labels) if chosen.any() else 1.0
        return np.full(classes, slope), np.zeros(classes)

    def held_out(self, rng: np.random.Generator) -> np.ndarray:
        """Correct each image by lines that never saw it. [N, C]"""
        found = self.logits.copy()
        folds = deal(self.arrays["y_true"] > 0.5, rng, self.arrays.get("groups"))
        for fold in range(folds.max() + 1):
            if (folds != fold).any():
                slope, intercept = self.lines(folds != fold)
                found[folds == fold] = found[folds == fold] * slope + intercept
        return found

    def losses(self, logits: np.ndarray) -> tuple[np.ndarray, ...]:
        """Log loss of the labels, and of the contrary ones: [N, C], or [N, 1] of the one answer."""
        true = self.arrays["y_true"] > 0.5
        if self.task == "multilabel":
            signed = np.where(true, logits, -logits)
            return np.logaddexp(0, -signed), np.logaddexp(0, signed)
        above = logits - logits.max(1, keepdims=True)
        surprise = np.log(np.exp(above).sum(1, keepdims=True)) - above
        own = np.where(true, surprise, 0).sum(1, keepdims=True)
        rest = surprise.sum(1, keepdims=True) - own
        return own, rest / max(logits.shape[1] - 1, 1)

    def verdicts(self, tried: list[np.ndarray]) -> list[Tree]:
        """Say class by class whether held-out labels surely cost less when corrected."""
        single = self.task == "single_label"
        known = self.one_label[:, None] if single else self.arrays["mask"] > 0.5
        before, contrary = self.losses(self.logits)
        after, contrary_after = np.mean([self.losses(logits) for logits in tried], axis=0)
        sure = NormalDist().inv_cdf(1 - DOUBT / before.shape[1])
        sides, units = (
            (before, after, contrary - contrary_after),
            units_of(len(before), self.arrays.get("groups")),
        )
        rows = [self._verdict(*(side[told, i] for side in sides), units[told], sure)
                for i, told in enumerate(known.T)]  # fmt: skip
        return [dict(row) for row in rows * (self.logits.shape[1] // len(rows))]

    def _verdict(self, before, after, unseen, units: np.ndarray, sure: float) -> Tree:
        if not len(before):
            return {"loss_before": None, "loss_after": None, "ships": False,
                    "reason": "left as it is: no label is known"}  # fmt: skip
        gain = before - after
        total = len(gain) + UNSEEN
        mean = (gain.sum() + UNSEEN * unseen.mean()) / total
        squares = np.square(np.bincount(units, weights=gain - mean)).sum()
        doubt = np.sqrt(squares + UNSEEN * np.square(unseen - mean).mean()) / total
        reason = "left as it is: worse on images that did not fit it"
        if self.method == "none" or not gain.any():
            reason = "left as it is: nothing to correct"
        elif mean > sure * doubt:
            reason = "corrected: surely better on images that did not fit it"
        elif gain.mean() > 0:
            reason = "left as it is: better on images that did not fit it, but that may be luck"
        return {"loss_before": before.mean(), "loss_after": after.mean(),
                "ships": reason.startswith("corrected"), "reason": reason}  # fmt: skip


def fit_slope(logits: np.ndarray, labels: np.ndarray) -> float:
    """Find the slope of a softmax with the least log loss, half an image of every answer added."""
    low, high = np.log(SLOPES)
    for _ in range(50):
        middle = (low + high) / 2
        mean = (softmax(logits * np.exp(middle)) * logits).sum(1)
        pull = (mean - logits[labels]).sum() + 0.5 * (mean - logits.mean(1)).mean()
        low, high = (low, middle) if pull > 0 else (middle, high)
    return float(np.exp(middle))


def fit_lines(
    positives: np.ndarray, negatives: np.ndarray, inputs: np.ndarray, offset: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Find the line of each class with the least log loss of softened labels, by level."""
    yes, no = (side.sum(1, keepdims=True) for side in (positives, negatives))
    wanted = positives * (yes + 1) / (yes + 2) + negatives / (no + 2)
    free = ((yes > 0) & (no > 0)) & np.array([True, offset])
    asked = inputs, wanted, positives + negatives
    line = _least_loss(np.tile([1.0, 0.0], (len(yes), 1)), free, *asked)
    slope = np.clip(line[:, :1], *SLOPES)
    again = free & [False, True] & (slope != line[:, :1])
    return tuple(_least_loss(np.hstack([slope, line[:, 1:]]), again, *asked).T)


def _least_loss(line, free, inputs, wanted, total) -> np.ndarray:
    """Newton's method with halved steps, for all lines [C, 2] at once, where they are `free`."""

    def loss(line):
        logits = line @ inputs
        rest = total - wanted
        return (wanted * np.logaddexp(0, -logits) + rest * np.logaddexp(0, logits)).sum(1)

    for _ in range(100):
        chance = (1 + np.tanh(line @ inputs / 2)) / 2
        pull = (total * chance - wanted) @ inputs.T * free
        bend = np.einsum("cl,il,jl->cij", total * chance * (1 - chance), inputs, inputs)
        bend = np.where(free[:, :, None] & free[:, None, :], bend, np.eye(2)) + 1e-12 * np.eye(2)
        step = np.linalg.solve(bend, pull[..., None])[..., 0]
        for _ in range(40):
            step = np.where((loss(line - step) > loss(line))[:, None], step / 2, step)
        line = line - step
        if np.abs(step).max() < 1e-10:
            break
    return line
