"""The images a person should look at first, decoded small: the material of a gallery.

A few of every kind of finding in turn, so that a thousand copies do not hide the one flipped label.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import pandas as pd

from workbench.data.audit import Audit
from workbench.data.decode import examine_image
from workbench.settings import Settings

TILE_PIXELS = 240


@dataclass(frozen=True)
class Exhibit:
    """One image of the gallery; `pixels` is None where it cannot be read."""

    image: str
    split: str
    kind: str
    severity: str
    detail: str
    pixels: np.ndarray | None  # uint8 [height, width, 3], at most TILE_PIXELS a side


def worst_images(audit: Audit, settings: Settings) -> list[Exhibit]:
    """Decode the `audit.gallery_size` worst images, each shown once."""
    chosen = choose_worst(audit.findings, settings.audit.gallery_size)
    exhibits = []
    for row in chosen.itertuples():
        _, pixels = examine_image(audit.dataset.images / row.image, settings.dataset)
        small = None if pixels is None else _fit(pixels)
        exhibits.append(Exhibit(row.image, row.split, row.kind, row.severity, row.detail, small))
    return exhibits


def choose_worst(findings: pd.DataFrame, count: int) -> pd.DataFrame:
    """Take the worst of every kind, then the second of every kind, and so on."""
    named = findings[findings["image"] != ""].drop_duplicates("image")
    turn = named.groupby("kind", sort=False).cumcount()
    return named.iloc[np.argsort(turn, kind="stable")[:count]]


def _fit(pixels: np.ndarray) -> np.ndarray:
    height, width = pixels.shape[:2]
    factor = min(1.0, TILE_PIXELS / max(height, width))
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    return cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
