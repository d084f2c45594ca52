"""From raw outputs to what an app says: probabilities, decisions, the mean of a clip."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from .arithmetic import Arrays, Tree, sigmoid, softmax, units_of

FAINTEST = 2**-12  # a probability of 0 or 1 has no logit


def in_floats(config: Tree) -> bool:
    """Tell whether the file gives logits as they are, not on 256 levels."""
    return config["output"]["dtype"] == "float32"


def needed(config: Tree) -> list[float]:
    """Return what raw outputs are compared with, class by class."""
    key = "logit" if in_floats(config) else "integer"
    return [row[key] for row in config["thresholds"]["classes"]]


def level_probability(integer: int) -> float:
    """Return what a threshold on an output of probabilities means: halfway between two levels."""
    return float(np.clip((integer + 127.5) / 256, FAINTEST, 1 - FAINTEST))


@dataclass(frozen=True)
class Answers:
    """Labels, which of them are known, probabilities and answers, all [N, C]."""

    y_true: np.ndarray
    known: np.ndarray
    score: np.ndarray
    said: np.ndarray
    config: dict[str, Any]
    groups: np.ndarray | None = None  # [N], where photos come in clips or bursts

    @classmethod
    def at(cls, bars: np.ndarray, score: np.ndarray, known: Tree, config: Tree) -> Answers:
        """Answer at thresholds, or with the one best class if it is sure enough."""
        said = score >= bars
        if config["task"] == "single_label":
            best = np.arange(score.shape[1]) == score.argmax(1)[:, None]
            said = best & (score.max(1) >= bars)[:, None]
        return cls(score=score, said=said, config=config, **known)

    @property
    def units(self) -> np.ndarray:
        return units_of(len(self.score), self.groups)

    @cached_property
    def outcomes(self) -> tuple[np.ndarray, ...]:
        """Return which known labels are true negatives, false positives, missed and found."""
        true, said = self.y_true, self.said
        cells = (~said & ~true, said & ~true, ~said & true, said & true)
        return tuple(cell & self.known for cell in cells)

    @property
    def labelled(self) -> np.ndarray:
        return (self.y_true & self.known).any(1)

    @property
    def judged(self) -> np.ndarray:
        """Images whose one answer is right or wrong."""
        return self.labelled | self.known.all(1)

    @property
    def right(self) -> np.ndarray:
        return (self.score.argmax(1) == self.y_true.argmax(1)) & self.labelled


def pool(raw: np.ndarray) -> np.ndarray:
    """Return one answer [C] for the raw outputs [N, C] of a clip: their mean, rounded down.

    It reaches a threshold exactly where the mean does.
    """
    if raw.dtype == np.float32:
        return raw.mean(0)
    return (raw.astype(np.int64).sum(0) // len(raw)).astype(raw.dtype)


def pooled(arrays: Arrays) -> Arrays:
    """Turn scores of frames into scores of clips; a clip knows what one of its frames knows."""
    if "groups" not in arrays:
        return arrays
    _, first, place, frames = np.unique(arrays["groups"], True, True, True)
    known = arrays["mask"] > 0.5

    def total(values: np.ndarray) -> np.ndarray:
        found = np.zeros((len(frames), values.shape[1]), values.dtype)
        np.add.at(found, place, values)
        return found

    clips = {key: array for key, array in arrays.items() if key != "groups"}
    clips["y_true"] = total((arrays["y_true"] > 0.5) & known)
    clips["mask"] = total(known).astype(np.uint8)
    for name in {"logits", "twin_logits"} & clips.keys():
        clips[name] = total(arrays[name].astype(np.float64)) / frames[:, None]
    if "filepaths" in clips:
        clips["filepaths"] = arrays["filepaths"][first]
    if "raw" in clips:
        whole = total(arrays["raw"].astype(np.int64)) // frames[:, None]
        clips["raw"] = whole.astype(arrays["raw"].dtype)
    return clips


def probabilities(raw: np.ndarray, config: dict[str, Any]) -> np.ndarray:
    output = config["output"]
    values = (raw.astype(np.float64) - output["zero_point"]) * output["scale"]
    if not output["is_logits"]:
        return values
    return softmax(values) if config["task"] == "single_label" else sigmoid(values)


def shown_probabilities(raw: np.ndarray, config: dict[str, Any]) -> np.ndarray:
    """Return the percentages that the app shows for raw outputs [N, C]; decisions never change."""
    if config["calibration"] is None:
        return probabilities(raw, config)
    lines = {row["label"]: row for row in config["calibration"]["classes"]}
    none = {"slope": None, "intercept": None}  # of a class whose scores were pushed off the scale
    own = [lines.get(label, none) for label in config["labels"]]
    slope = np.array([1.0 if row["slope"] is None else row["slope"] for row in own])
    intercept = np.array([0.0 if row["slope"] is None else row["intercept"] for row in own])
    logits = slope * _logits(raw, config) + intercept
    return softmax(logits) if config["task"] == "single_label" else sigmoid(logits)


def _logits(raw: np.ndarray, config: dict[str, Any]) -> np.ndarray:
    """Return logits, also where the model gives probabilities; 0 and 1 have none."""
    output = config["output"]
    values = (raw.astype(np.float64) - output["zero_point"]) * output["scale"]
    if output["is_logits"]:
        return values
    values = np.clip(values, FAINTEST, 1 - FAINTEST)
    return np.log(values) - (0 if config["task"] == "single_label" else np.log1p(-values))


def probability_thresholds(config: dict[str, Any]) -> np.ndarray | float:
    """Return what `probabilities` are compared with: one a class, or one for a single label."""
    if config["task"] == "single_label":
        return float(config["thresholds"]["unknown_below"])
    return np.array([entry["probability"] for entry in config["thresholds"]["classes"]])


def decide(raw: np.ndarray, config: dict[str, Any]) -> list[list[str]]:
    """Return the labels that the app shows for raw outputs [N, C]."""
    names = config["labels"]
    if config["task"] == "single_label":
        return [_single(row, config) for row in raw]
    bars = np.array(needed(config))
    return [[names[i] for i in np.flatnonzero(row >= bars)] for row in raw.astype(np.float64)]


def _single(row: np.ndarray, config: dict[str, Any]) -> list[str]:
    output = config["output"]
    values = (row.astype(np.float64) - output["zero_point"]) * output["scale"]
    if output["is_logits"]:
        values = np.exp(values - values.max())
        values /= values.sum()
    best = int(values.argmax())
    sure = values[best] >= config["thresholds"]["unknown_below"]
    return [config["labels"][best]] if sure else []
