"""What notebook 08 shows: the two ends of the shipped file, and what lies in the bundle."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from workbench.show.figures import Table, table

MOST_NAMED = 10


def ports(config: Mapping[str, Any]) -> Table:
    """Show what goes into the model and what comes out of it."""
    ends = {end: pd.Series(config[end]).map(str) for end in ("input", "output")}
    order = [*config["input"], *(name for name in config["output"] if name not in config["input"])]
    found = pd.DataFrame(ends).reindex(order).fillna("–")
    return table(found.rename_axis("property").reset_index())


def contents(files: Sequence[Path]) -> Table:
    """Show the files of a bundle by folder; those of a folder with many only by their number."""
    top = min((file.parent for file in files), key=lambda folder: len(folder.parts))
    places = pd.Series([file.parent.relative_to(top).as_posix() for file in files])
    sizes = pd.Series([file.stat().st_size / 1024 for file in files])
    rows = [
        {
            "folder": place,
            "files": _names([files[i].name for i in group]),
            "KiB": sizes[group].sum(),
        }
        for place, group in places.groupby(places, sort=False).groups.items()
    ]
    return table(rows)


def _names(names: Sequence[str]) -> str:
    return ", ".join(names) if len(names) <= MOST_NAMED else f"{len(names)} files"
