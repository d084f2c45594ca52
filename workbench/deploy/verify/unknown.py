"""The confidence of a single label, under which the answer is "unknown"."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from .arithmetic import (
    FOLDS,
    REPEATS,
    Arrays,
    Tree,
    even_ends,
    from_above,
    logits_of,
    share_or_nan,
    share_or_none,
    softmax,
    units_of,
    worth_of,
)
from .folder import Bundle

CUTS = 0.05  # of the images, between two confidences that are tried


def set_by(edit: Tree) -> str:
    return f"set by {edit['who']}" + (f": {edit['why']}" if edit["why"] else "")


def derive_unknown(bundle: Bundle, edits: list[Tree]) -> Tree:
    """Search the confidence under which the answer is "unknown" again, or take a person's."""
    knobs = bundle.settings["single_label"]
    sure = Sure.of(bundle.validation)
    target, least = knobs["threshold_target_accept_accuracy"], knobs["threshold_min_coverage"]
    confidence, held_out = sure.choose(knobs), None
    if edits:
        confidence = edits[-1]["changes"]["unknown"][1]
    else:
        held_out = sure.held_out(knobs, bundle.settings["seed"])
    row = {name: values[0] for name, values in sure.rates(np.array([confidence]), knobs).items()}
    accuracy, low, high = (row[name] for name in ("accepted_accuracy", "low", "high"))
    promise = f"at least {target:.0%} of the answers are right"
    if not row["meets_target"]:
        promise = (f"{target:.0%} cannot be promised from {len(sure.score)} images while "
                   f"{least:.0%} of them get an answer; promised instead: at least "
                   f"{np.floor(100 * low):.0f}% are right")  # fmt: skip
    other = "" if held_out is None else f"held out {held_out:.1%}, "
    reason = (f"aimed at {target:.0%}, {other}here {accuracy:.1%} [{low:.1%}, {high:.1%}]: "
              f"{promise}; {row['coverage']:.0%} of the images get one")  # fmt: skip
    undefined = np.isnan(accuracy)
    return {
        "scores": {"images": len(sure.score), "source_sha256": bundle.sha256(bundle.source)},
        "objective": {
            "target_accept_accuracy": target, "min_coverage": least,
            "penalty_incorrect": knobs["threshold_penalty_incorrect"],
        },
        "classes": bundle.config["labels"],
        "unknown": {
            "probability": confidence, "coverage": row["coverage"],
            "coverage_interval": [row["coverage_low"], row["coverage_high"]],
            "accepted_accuracy": None if undefined else accuracy,
            "accepted_accuracy_interval": None if undefined else [low, high],
            "held_out_accuracy": held_out, "utility": row["utility"],
            "meets_target": bool(row["meets_target"]),
            "reason": set_by(edits[-1]) if edits else reason,
        },
    }  # fmt: skip


@dataclass(frozen=True)
class Sure:
    """How sure the one answer to each judged image is, and whether it is right: [N] each."""

    score: np.ndarray
    right: np.ndarray
    groups: np.ndarray | None

    @classmethod
    def of(cls, arrays: Arrays) -> Sure:
        true, known = arrays["y_true"] > 0.5, arrays["mask"] > 0.5
        judged = known.all(1) | (true & known).any(1)
        score, true = softmax(logits_of(arrays))[judged], true[judged]
        right = (score.argmax(1) == true.argmax(1)) & true.any(1)
        return cls(score.max(1), right, arrays["groups"][judged] if "groups" in arrays else None)

    def part(self, rows: np.ndarray) -> Sure:
        groups = None if self.groups is None else self.groups[rows]
        return Sure(self.score[rows], self.right[rows], groups)

    @cached_property
    def worth(self) -> float:
        return worth_of((self.right - self.right.mean())[:, None], self.groups)

    def rates(self, cuts: np.ndarray, knobs: Tree) -> Arrays:
        """Rate the answers of at least each confidence; intervals are Cai's (2005)."""
        order, images = np.argsort(self.score), len(self.score)
        below = np.searchsorted(self.score[order], cuts)
        answered, hits = images - below, from_above(self.right[order].astype(int))[below]
        coverage = even_ends(self.worth * answered, np.array(self.worth * images))
        low, high = (np.where(answered > 0, end, np.nan)
                     for end in even_ends(self.worth * hits, self.worth * answered))  # fmt: skip
        utility = (hits - knobs["threshold_penalty_incorrect"] * (answered - hits)) / images
        meets = low >= knobs["threshold_target_accept_accuracy"]
        return {
            "threshold": cuts, "coverage": answered / images, "coverage_low": coverage[0],
            "coverage_high": coverage[1], "accepted_accuracy": share_or_nan(hits, answered),
            "low": low, "high": high, "answered": answered, "correct": hits,
            "incorrect": answered - hits, "unknown": below, "utility": utility,
            "meets_target": meets & (answered / images >= knobs["threshold_min_coverage"]),
        }  # fmt: skip

    def choose(self, knobs: Tree) -> float:
        """Take the most useful of the cuts that keep the target, tried from the surest on."""
        values = np.unique(np.round(self.score, 6))
        between = np.append(0.0, (values[1:] + values[:-1]) / 2)
        below = np.searchsorted(np.sort(self.score), between)
        shares = np.append(np.arange(knobs["threshold_min_coverage"], 1, CUTS), 1.0)
        unknown = np.floor(len(self.score) * (1 - shares) + 1e-9)
        cuts = np.unique(between[np.searchsorted(below, unknown, side="right") - 1])
        found, target = self.rates(cuts, knobs), knobs["threshold_target_accept_accuracy"]
        most = self.worth * found["answered"]
        tested = np.flatnonzero(even_ends(most, most)[0] >= target)[::-1]
        kept = tested[np.logical_and.accumulate(found["low"][tested] >= target)]
        if len(kept):
            return float(cuts[max(kept, key=lambda one: (found["utility"][one], -one))])
        return float(cuts[::-1][np.nanargmax(found["low"][::-1])])

    def held_out(self, knobs: Tree, seed: int) -> float | None:
        """Accuracy of the answers to images that did not choose."""
        rng, place = np.random.default_rng(seed), units_of(len(self.score), self.groups)
        units, answered, right = int(place.max()) + 1, 0, 0
        for _ in range(REPEATS if units > 1 else 0):
            folds = (rng.permutation(units) % min(FOLDS, units))[place]
            for fold in range(folds.max() + 1):
                confidence = self.part(folds != fold).choose(knobs)
                accepted = (folds == fold) & (self.score >= confidence)
                answered, right = answered + accepted.sum(), right + self.right[accepted].sum()
        return share_or_none(right, answered)
