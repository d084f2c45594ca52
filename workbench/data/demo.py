"""The demo dataset: street-sign-like shapes drawn from a seed, learnable on a CPU in minutes.

Seven classes, each a shape in its own colour family; one to three at once, some images with none.
Written in the CSV layout like anybody's data, by nobody's camera.
"""

from __future__ import annotations

import colorsys
import logging
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from workbench.data.cells import csv_text
from workbench.data.layouts import COLUMNS, CSV_NAMES
from workbench.data.views import Purpose, random_stream
from workbench.errors import DatasetError
from workbench.files import read_json, write_json, write_text

log = logging.getLogger(__name__)

# class: (shape, hue in degrees); colour and shape together are what a network learns quickly
CLASSES = {
    "blue_square": ("square", 218), "green_triangle": ("triangle", 110),
    "pink_diamond": ("diamond", 318), "purple_star": ("star", 266), "red_circle": ("circle", 0),
    "teal_hexagon": ("hexagon", 172), "yellow_ring": ("ring", 52),
}  # fmt: skip
SPLITS = {"train": 0.72, "val": 0.14, "test": 0.14}
RECIPE_NAME = "demo.json"
VERSION = 2  # of the pictures: 2 draws from other random numbers than 1
EMPTY_SHARE = 0.06
OVERSAMPLING = 2  # drawn twice as large and reduced: smooth edges
CORNERS = {"square": (4, 45), "hexagon": (6, 0), "triangle": (3, 30), "diamond": (4, 0)}

Place = tuple[float, float, float]  # x, y, radius


@dataclass(frozen=True)
class DemoDataset:
    folder: Path
    images: int
    drawn: bool  # False where the same drawing lay there already


def draw_demo(folder: Path, images: int = 1400, seed: int = 1337) -> DemoDataset:
    """Draw the dataset beside its place and move it there whole; never overwrite anybody's."""
    recipe = {"images": images, "seed": seed, "version": VERSION}
    found = read_json(folder / RECIPE_NAME) if (folder / RECIPE_NAME).is_file() else {}
    if found == recipe:
        return DemoDataset(folder, images, drawn=False)
    if found and found | {"version": VERSION} == recipe:  # kept: somebody may have edited it
        aside = folder.with_name(f"{folder.name}_version_{found['version']}")
        if aside.exists():
            raise DatasetError(f"{folder} was drawn by an earlier version, and {aside} is taken "
                               "already. Delete one of the two")  # fmt: skip
        folder.rename(aside)
        log.info("%s was drawn by an earlier version: kept as %s, drawn anew", folder, aside)
    if folder.exists() and any(folder.iterdir()):
        raise DatasetError(f"{folder} holds something else. Name an empty or new folder")
    partial = folder.with_name(f".partial_{folder.name}")
    shutil.rmtree(partial, ignore_errors=True)
    (partial / "images").mkdir(parents=True)
    _draw_splits(partial, images, seed)
    write_json(partial / RECIPE_NAME, recipe)
    os.replace(partial, folder)
    return DemoDataset(folder, images, drawn=True)


def _draw_splits(folder: Path, images: int, seed: int) -> None:
    start = 0
    for split, share in SPLITS.items():
        stop = images if split == "test" else start + round(images * share)
        rows = []
        for number in range(start, stop):
            rng = random_stream(Purpose.DRAW, seed, number)
            labels = _choose_labels(rng)
            name = f"photo_{number:05d}.{'jpg' if number % 8 else 'png'}"
            how = {"quality": 90} if number % 8 else {"compress_level": 6}
            draw_photo(labels, rng).save(folder / "images" / name, **how)
            rows.append((name, "|".join(labels)))
        write_text(folder / CSV_NAMES[split], csv_text(COLUMNS, rows))
        start = stop


def _choose_labels(rng: np.random.Generator) -> list[str]:
    if rng.random() < EMPTY_SHARE:
        return []
    count = rng.choice([1, 2, 3], p=[0.5, 0.35, 0.15])
    return sorted(rng.choice(list(CLASSES), size=count, replace=False).tolist())


def draw_photo(labels: list[str], rng: np.random.Generator) -> Image.Image:
    """Draw one photo: a soft grey wall, then each label's shape in a free cell of a grid."""
    width, height = (int(side) for side in rng.integers(200, 301, size=2))
    canvas = _wall(width * OVERSAMPLING, height * OVERSAMPLING, rng)
    for label, place in zip(labels, _places(len(labels), canvas, rng), strict=True):
        _draw_sign(canvas, label, place, rng)
    return canvas.resize((width, height), Image.Resampling.LANCZOS)


def _wall(width: int, height: int, rng: np.random.Generator) -> Image.Image:
    """Paint a grey gradient with low, wide noise: light on plaster, no colour to mislead."""
    light, tilt = rng.uniform(100, 170), rng.uniform(-40, 40, size=2)
    ramp = np.linspace(-0.5, 0.5, 64)
    grey = light + tilt[0] * ramp[None, :] + tilt[1] * ramp[:, None]
    grey = grey + rng.normal(0, 4, (64, 64))
    image = Image.fromarray(grey.clip(0, 255).astype(np.uint8))
    wall = image.resize((width, height), Image.Resampling.BICUBIC)
    return wall.filter(ImageFilter.GaussianBlur(2)).convert("RGB")


def _places(count: int, canvas: Image.Image, rng: np.random.Generator) -> list[Place]:
    """Choose x, y and radius for each sign: alone anywhere, two side by side, three in a grid."""
    width, height = canvas.size
    if count == 1:
        radius = min(width, height) * rng.uniform(0.28, 0.44)
        return [(*(rng.uniform(radius, side - radius) for side in canvas.size), radius)]
    columns, rows = (2, 2) if count == 3 else (2, 1) if width > height else (1, 2)
    cell = width / columns, height / rows
    free = rng.permutation(columns * rows)[:count]
    return [
        (cell[0] * (place % columns + 0.5), cell[1] * (place // columns + 0.5),
         float(min(cell) * rng.uniform(0.42, 0.5)))
        for place in free
    ]  # fmt: skip


def _draw_sign(canvas: Image.Image, label: str, place: Place, rng: np.random.Generator) -> None:
    shape, hue = CLASSES[label]
    x, y, radius = place
    turn = rng.uniform(-12, 12)
    _draw_shadow(canvas, shape, place, turn)
    draw = ImageDraw.Draw(canvas)
    colour = _colour(hue, rng)
    _draw_shape(draw, shape, place, turn, colour)
    if shape != "ring":  # a lighter heart, as painted signs have
        light = tuple(channel + (255 - channel) // 5 for channel in colour)
        _draw_shape(draw, shape, (x, y, radius * 0.62), turn, light)


def _colour(hue: float, rng: np.random.Generator) -> tuple[int, int, int]:
    degrees = (hue + rng.uniform(-7, 7)) % 360
    rgb = colorsys.hsv_to_rgb(degrees / 360, rng.uniform(0.8, 1.0), rng.uniform(0.75, 1.0))
    return tuple(round(255 * channel) for channel in rgb)


def _draw_shadow(canvas: Image.Image, shape: str, place: Place, turn: float) -> None:
    """Lay a soft shadow below and right; only the patch around the sign is blurred."""
    x, y, radius = place
    side = round(radius * 3)
    veil = Image.new("L", (side, side), 0)
    _draw_shape(ImageDraw.Draw(veil), shape, (side / 2, side / 2, radius), turn, 90)
    veil = veil.filter(ImageFilter.GaussianBlur(float(radius) / 8))
    corner = (round(x + radius / 8 - side / 2), round(y + radius / 8 - side / 2))
    canvas.paste((20, 20, 24), corner, veil)


def _draw_shape(
    draw: ImageDraw.ImageDraw, shape: str, place: Place, turn: float, colour: object
) -> None:
    x, y, radius = place
    box = (x - radius, y - radius, x + radius, y + radius)
    if shape == "circle":
        draw.ellipse(box, fill=colour)
    elif shape == "ring":
        draw.ellipse(box, outline=colour, width=max(3, round(radius * 0.34)))
    elif shape == "star":
        draw.polygon(_corners(place, 10, turn - 90, inner=0.45), fill=colour)
    else:
        count, start = CORNERS[shape]
        draw.polygon(_corners(place, count, start + turn), fill=colour)


def _corners(place: Place, count: int, start: float, inner: float = 1.0) -> list:
    x, y, radius = place
    angles = np.deg2rad(start + 360 / count * np.arange(count))
    radii = np.where(np.arange(count) % 2, radius * inner, radius)
    return list(zip(x + radii * np.cos(angles), y + radii * np.sin(angles), strict=True))
