"""What 09 leaves so that its figures can be derived again: raw test outputs and a spot check."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np

from workbench.files import sha256, writing


def write_test_scores(
    path: Path,
    raw: np.ndarray,
    y_true: np.ndarray,
    mask: np.ndarray,
    filepaths: Sequence[str],
    letterboxed: Callable[[np.ndarray], Iterable[np.ndarray]],
    *,
    spot_checks: int,
    seed: int,
    **extra: np.ndarray,
) -> dict[str, str]:
    """Write raw outputs [N, C] with labels, and the pixels of a few rows to run the model on again.

    `letterboxed(rows)` gives uint8 [S, S, 3] of those rows; `extra` arrays are kept beside them.
    Returns the entry `test_scores` that metrics.json carries.
    """
    rows = np.random.default_rng(seed).permutation(len(raw))[:spot_checks]
    rows.sort()
    with writing(path) as temporary, open(temporary, "wb") as file:
        np.savez_compressed(
            file,
            raw=raw,
            y_true=(np.asarray(y_true) > 0.5).astype(np.uint8),
            mask=(np.asarray(mask) > 0.5).astype(np.uint8),
            filepaths=np.array(list(filepaths), dtype=np.str_),
            rows=rows,
            images=np.stack(list(letterboxed(rows))),
            **extra,
        )
    return {"file": path.name, "sha256": sha256(path)}
