"""What a training writes down: one CSV and one JSONL per phase, and TensorBoard on request."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pandas as pd

from workbench import files

COLUMNS = ("phase", "epoch", "loss", "val_loss", "val_f1_macro", "val_map", "lr", "seconds")


def history_table(rows: list[dict[str, Any]]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=list(COLUMNS))


def write_logs(folder: Path, phase: str, rows: list[dict[str, Any]]) -> None:
    """Write the whole history anew, so that a resumed run never holds an epoch twice."""
    files.write_text(folder / f"{phase}.csv", history_table(rows).to_csv(index=False))
    lines = [json.dumps(_strict(row), allow_nan=False) for row in rows]
    files.write_text(folder / f"{phase}.jsonl", "".join(f"{line}\n" for line in lines))


def _strict(row: dict[str, Any]) -> dict[str, Any]:
    undefined = {
        key for key, value in row.items() if isinstance(value, float) and math.isnan(value)
    }
    return {key: None if key in undefined else value for key, value in row.items()}
