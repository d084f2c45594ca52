"""The images a person should look at first, decoded small: the material of a gallery.

A few of every kind of finding in turn, so that a thousand copies do not hide the one flipped label.
Copies stand beside the image they are copies of.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import pandas as pd

from workbench.data.decode import examine_image
from workbench.data.duplicates import Duplicates
from workbench.data.tables import Dataset
from workbench.settings import Settings

TILE_PIXELS = 220
GAP_PIXELS = 6
ABOUT_PAIRS = ("leak", "conflicting_labels", "exact_duplicate", "near_duplicate")


@dataclass(frozen=True)
class Exhibit:
    """One image of the gallery; `pixels` is None where it cannot be read."""

    image: str
    split: str
    labels: tuple[str, ...]
    kind: str
    severity: str
    detail: str
    pixels: np.ndarray | None  # uint8 [height, width, 3], beside its copy where it is about one


def worst_images(
    dataset: Dataset, findings: pd.DataFrame, duplicates: Duplicates, settings: Settings
) -> tuple[Exhibit, ...]:
    """Decode the `audit.gallery_size` worst images, each shown once."""
    row_of = {image: row for row, image in enumerate(dataset.rows["filepath"])}
    exhibits = []
    for finding in choose_worst(findings, settings.audit.gallery_size).to_dict("records"):
        row = row_of.get(finding["image"])
        rows = [] if row is None else [row]
        if finding["kind"] in ABOUT_PAIRS and row is not None:
            rows.append(_copy_of(row, dataset.rows["split"], duplicates))
        labels = dataset.rows["labels"].iloc[row] if rows else ()
        pixels = _side_by_side(dataset, rows, settings)
        exhibits.append(Exhibit(**finding, labels=labels, pixels=pixels))
    return tuple(exhibits)


def choose_worst(findings: pd.DataFrame, count: int) -> pd.DataFrame:
    """Take the worst of every kind, then the second of every kind, and so on; notes come last."""
    named = findings[findings["image"] != ""].drop_duplicates("image")
    turn = named.groupby("kind", sort=False).cumcount()
    places = np.lexsort((np.arange(len(named)), turn, named["severity"] == "info"))
    return named.iloc[places[:count]]


def _copy_of(row: int, splits: pd.Series, duplicates: Duplicates) -> int:
    """Choose the copy to show beside: in another split if there is one."""
    copies = np.flatnonzero(duplicates.photos == duplicates.photos[row])
    copies = copies[copies != row]
    elsewhere = copies[splits.iloc[copies].to_numpy() != splits.iloc[row]]
    return int(elsewhere[0] if len(elsewhere) else copies[0])


def _side_by_side(dataset: Dataset, rows: list[int], settings: Settings) -> np.ndarray | None:
    tiles = []
    for row in rows:
        path = dataset.images / dataset.rows["filepath"].iloc[row]
        _, pixels = examine_image(path, settings.dataset)
        if pixels is not None:
            tiles.append(_fit(pixels))
    if not tiles:
        return None
    height = max(len(tile) for tile in tiles)
    width = sum(tile.shape[1] for tile in tiles) + GAP_PIXELS * (len(tiles) - 1)
    canvas = np.full((height, width, 3), 255, np.uint8)
    left = 0
    for tile in tiles:
        canvas[: len(tile), left : left + tile.shape[1]] = tile
        left += tile.shape[1] + GAP_PIXELS
    return canvas


def _fit(pixels: np.ndarray) -> np.ndarray:
    height, width = pixels.shape[:2]
    factor = min(1.0, TILE_PIXELS / max(height, width))
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    return cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
