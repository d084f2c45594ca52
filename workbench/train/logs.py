"""What a training writes down: one line an epoch, one CSV and one JSONL a phase."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pandas as pd

from workbench import files

Row = dict[str, Any]
FIGURES = ["loss", "val_loss", "val_f1_macro", "val_map", "lr", "seconds"]
TYPES = {"phase": "str", "epoch": "int64", **dict.fromkeys(FIGURES, "float64")}


def history_table(rows: list[Row]) -> pd.DataFrame:
    """Tabulate epochs; without a row the columns have their types all the same."""
    return pd.DataFrame(rows, columns=list(TYPES)).astype(TYPES)


def write_logs(folder: Path, phase: str, rows: list[Row]) -> None:
    """Write the whole history anew, so that a resumed phase never lists an epoch twice."""
    files.write_text(folder / f"{phase}.csv", history_table(rows).to_csv(index=False))
    lines = [json.dumps(_strict(row), allow_nan=False) + "\n" for row in rows]
    files.write_text(folder / f"{phase}.jsonl", "".join(lines))


def epoch_line(row: Row, epochs: int) -> str:
    """Describe a finished epoch, with the time that is left at this pace."""
    return (
        f"{row['phase']} epoch {row['epoch']}/{epochs}: loss {row['loss']:.4f}, "
        f"val_loss {row['val_loss']:.4f}, F1 {row['val_f1_macro']:.4f}, mAP {row['val_map']:.4f}, "
        f"lr {row['lr']:.2e}, {row['seconds']:.1f} s, "
        f"{duration((epochs - row['epoch']) * row['seconds'])} left"
    )


def duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {seconds:02d} s"


def _strict(row: Row) -> Row:
    """Strict JSON knows no NaN."""
    return {key: None if _undefined(value) else value for key, value in row.items()}


def _undefined(value: Any) -> bool:
    return isinstance(value, float) and not math.isfinite(value)
