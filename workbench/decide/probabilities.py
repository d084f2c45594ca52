"""Logits to probabilities: sigmoid per class, or softmax over the classes of a single label."""

from __future__ import annotations

import numpy as np
from scipy.special import expit, softmax

from workbench.decide.answers import Task


def probabilities(logits: np.ndarray, task: Task) -> np.ndarray:
    """Turn logits [N, C] into float64 probabilities [N, C]."""
    logits = np.asarray(logits, np.float64)
    return softmax(logits, axis=1) if task == "single_label" else expit(logits)
