"""The dataset of a run. To go: notebooks call run.dataset()."""

from __future__ import annotations

from workbench.data import tables
from workbench.data.tables import MANIFEST, Dataset
from workbench.run import Run

__all__ = ["MANIFEST", "load_dataset"]


def load_dataset(run: Run) -> Dataset:
    """Read back the dataset as 01 wrote it."""
    return tables.load_dataset(run.folder, run.root)
