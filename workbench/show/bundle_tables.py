"""What notebook 08 shows: the two ends of the shipped file, and what lies in the bundle."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from workbench.artifacts import InferenceConfig
from workbench.deploy.verify import read_ppm
from workbench.show.figures import described
from workbench.show.tables import Table, table

MOST_NAMED = 10


def ports(config: InferenceConfig) -> Table:
    """Show what goes into the model and what comes out of it."""
    source, target = config.input.model_dump(), config.output.model_dump()
    names = [*source, *(name for name in target if name not in source)]
    rows = [{"property": n, "input": _cell(source, n), "output": _cell(target, n)} for n in names]
    return table(rows)


def _cell(values: dict, name: str) -> str:
    return str(values[name]) if name in values else "–"


def thresholds(config: InferenceConfig) -> Table:
    """Show at which integer the app says yes; for a single label, when it says unknown."""
    if config.single_label:
        return table(config.thresholds.model_dump())
    return table([entry.model_dump(exclude={"tuned"}) for entry in config.thresholds.classes])


def golden(vectors: Sequence[Mapping[str, Any]]) -> Table:
    """Show the golden images: their size, what the file decides, and what is true."""
    return table(
        {
            "image": vector["name"],
            "width": vector["width"],
            "height": vector["height"],
            "decisions": ", ".join(vector["decisions"]),
            "true labels": ", ".join(vector["true_labels"]),
        }
        for vector in vectors
    )


def golden_image(folder: Path, vector: Mapping[str, Any]) -> Figure:
    """Draw a golden image as it was decoded and as the network gets it."""
    left, right = Figure(figsize=(7, 3.6), layout="constrained").subplots(1, 2)
    for ax, part, title in ((left, "source", "decoded"), (right, "letterbox", "letterboxed")):
        pixels = read_ppm((Path(folder) / vector[part]["file"]).read_bytes())
        ax.imshow(pixels, interpolation="nearest")
        ax.set_title(f"{title}, {pixels.shape[1]} x {pixels.shape[0]}", loc="left", fontsize=10)
        ax.set_axis_off()
    return described(left, f"Golden image {vector['name']} before and after the letterbox.")


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
