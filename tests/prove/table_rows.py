"""How long does a large table take to read? The images are a listing that holds any name."""

from __future__ import annotations

import resource
import tempfile
import time
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np

from workbench.data import layouts as listing
from workbench.data.tables import read_dataset
from workbench.settings import Settings

LABELS = ("cat", "dog", "cat|dog", "newt", "")


class Everything(frozenset):
    """The listing of a folder that holds whatever is asked for."""

    def __contains__(self, name: object) -> bool:
        return True


def run(*, rows: int = 1_000_000) -> dict[str, Any]:
    """Read `rows` rows of training images, five kinds of labels in turn."""
    with tempfile.TemporaryDirectory(prefix="workbench_rows_") as name:
        folder = Path(name)
        (folder / "images").mkdir()
        lines = [f"{number % 4}/{number}.jpg,{LABELS[number % 5]}" for number in range(rows)]
        for split, content in (("train", lines), ("val", ["v.jpg,cat"]), ("test", ["t.jpg,dog"])):
            text = "\n".join(["filepath,labels", *content, ""])
            (folder / f"{split}_labels.csv").write_text(text, "utf-8")
        everywhere = listing._Folder(files=Everything())
        with patch.object(listing, "_list", lambda *_: everywhere):
            start = time.perf_counter()
            targets = read_dataset(folder, Settings(num_classes="auto")).split("train").targets
            seconds = time.perf_counter() - start
    return {
        "rows": rows,
        "seconds": seconds,
        "positives": np.asarray(targets).sum(axis=0).astype(int).tolist(),
        "peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }


def table(figures: dict[str, Any]) -> str:
    return (
        f"{figures['rows']:,} rows read in {figures['seconds']:.1f} s, "
        f"at most {figures['peak_memory_bytes'] / 1e6:.0f} MB in the process"
    )
