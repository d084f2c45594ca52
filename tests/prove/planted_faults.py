"""How much of what is wrong with a dataset the audit finds, and how much of what it finds is wrong.

Draws a clean dataset, plants a known number of every fault, audits it, and compares:

    python -m tests.prove planted_faults images=3000 faults=100
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from itertools import cycle
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image, ImageEnhance, ImageFilter

from workbench.data.audit.labels import suspect_labels
from workbench.data.audit.report import Audit, audit_dataset
from workbench.data.demo import CLASSES, draw_photo
from workbench.data.tables import Dataset, Split, read_dataset
from workbench.settings import DatasetSettings, Settings

SETTINGS = Settings(num_classes="auto", dataset=DatasetSettings(on_bad_image="quarantine"))
SPLITS = ("train", "train", "train", "train", "val", "test")
NAMES = sorted(CLASSES)
ORIENTATION, LOCATION = 274, 34853  # EXIF tags
FLIPPED_SHARE = 0.05


Row = tuple[str, str, tuple[str, ...]]  # split, file name, labels


@dataclass
class Planted:
    """What was planted: by kind of finding the images, by way of copying the pairs."""

    rows: list[Row] = field(default_factory=list)
    images: dict[str, set[str]] = field(default_factory=dict)
    pairs: dict[str, set[frozenset[str]]] = field(default_factory=dict)

    def mark(self, kind: str, *names: str) -> None:
        self.images.setdefault(kind, set()).update(names)


def half(photo: Image.Image) -> Image.Image:
    return photo.resize((photo.width // 2, photo.height // 2), Image.Resampling.LANCZOS)


def cut_border(photo: Image.Image) -> Image.Image:
    across, down = round(photo.width * 0.03), round(photo.height * 0.03)
    return photo.crop((across, down, photo.width - across, photo.height - down))


def light(factor: float) -> Callable[[Image.Image], Image.Image]:
    return lambda photo: ImageEnhance.Brightness(photo).enhance(factor)


COPIES: dict[str, tuple[Callable[[Image.Image], Image.Image], int]] = {
    "quality 50": (lambda photo: photo, 50),
    "half the size": (half, 90),
    "10 % brighter": (light(1.1), 90),
    "10 % darker": (light(0.9), 90),
    "border cut by 3 %": (cut_border, 90),
}


def plant(folder: Path, images: int, faults: int, seed: int = 7) -> Planted:
    """Draw `images` clean photos and plant `faults` of every kind among copies of them."""
    rng = np.random.default_rng(seed)
    planted = Planted()
    (folder / "images").mkdir(parents=True)
    splits = cycle(SPLITS)
    for number in range(images):
        labels = tuple(sorted(rng.choice(NAMES, rng.integers(1, 4), replace=False).tolist()))
        name = f"photo_{number:06d}.jpg"
        draw_photo(list(labels), rng).save(folder / "images" / name, quality=92)
        planted.rows.append((next(splits), name, labels))
    originals = iter(rng.permutation(images).tolist())
    for place in (plant_copies, plant_conflicts, plant_near_copies, plant_broken, plant_odd):
        place(folder / "images", planted, originals, faults, rng)
    write_tables(folder, planted)
    return planted


def write_tables(folder: Path, planted: Planted) -> None:
    for split in ("train", "val", "test"):
        rows = [f"{name},{'|'.join(labels)}" for at, name, labels in planted.rows if at == split]
        (folder / f"{split}_labels.csv").write_text("\n".join(["filepath,labels", *rows]) + "\n")


def plant_copies(
    images: Path, planted: Planted, originals: Iterator[int], faults: int, rng: np.random.Generator
) -> None:
    """Copy files byte by byte: half of them in the same split, half in another."""
    for number in range(2 * faults):
        split, name, labels = planted.rows[next(originals)]
        copy = f"copy_{number:05d}.jpg"
        (images / copy).write_bytes((images / name).read_bytes())
        planted.mark("exact_duplicate", name, copy)
        if number < faults:
            split = other_split(split, rng)
            planted.mark("leak", name, copy)
        planted.rows.append((split, copy, labels))
        planted.pairs.setdefault("same bytes", set()).add(frozenset((name, copy)))


def plant_conflicts(
    images: Path, planted: Planted, originals: Iterator[int], faults: int, rng: np.random.Generator
) -> None:
    """Copy files within their split and take one label away or add one."""
    for number in range(faults):
        split, name, labels = planted.rows[next(originals)]
        copy = f"conflict_{number:05d}.jpg"
        (images / copy).write_bytes((images / name).read_bytes())
        changed = tuple(sorted(set(labels) ^ {str(rng.choice(NAMES))}))
        planted.mark("exact_duplicate", name, copy)
        planted.mark("conflicting_labels", name, copy)
        planted.rows.append((split, copy, changed))


def plant_near_copies(
    images: Path, planted: Planted, originals: Iterator[int], faults: int, rng: np.random.Generator
) -> None:
    """Save photos again, changed in one way each; every third goes to another split."""
    for way, (change, quality) in COPIES.items():
        for number in range(faults):
            split, name, labels = planted.rows[next(originals)]
            copy = f"near_{way.replace(' ', '_').replace('%', 'percent')}_{number:05d}.jpg"
            change(Image.open(images / name)).save(images / copy, quality=quality)
            planted.mark("near_duplicate", name, copy)
            if number % 3 == 0:
                split = other_split(split, rng)
                planted.mark("leak", name, copy)
            planted.rows.append((split, copy, labels))
            planted.pairs.setdefault(way, set()).add(frozenset((name, copy)))


def plant_broken(
    images: Path, planted: Planted, originals: Iterator[int], faults: int, rng: np.random.Generator
) -> None:
    """Add files that are no images, and images that end too early."""
    no_images = (b"", b"<!DOCTYPE html><p>404", b"\x00" * 4096, b"\x89PNG\r\n\x1a\nbut no more")
    for number, content in zip(range(faults), cycle(no_images), strict=False):
        add(images, planted, "unreadable", f"broken_{number:05d}.jpg", rng).write_bytes(content)
    for number in range(faults):
        suffix, options = (("jpg", {"quality": 90}), ("png", {}))[number % 2]
        path = add(images, planted, "truncated", f"cut_off_{number:05d}.{suffix}", rng)
        draw_photo([], rng).save(path, **options)
        whole = path.read_bytes()
        path.write_bytes(whole[: int(len(whole) * rng.uniform(0.3, 0.95))])


def plant_odd(
    images: Path, planted: Planted, originals: Iterator[int], faults: int, rng: np.random.Generator
) -> None:
    """Add photos that are odd in one way each."""
    for kind, save in ODD.items():
        suffix = {"animated": "gif", "sixteen_bit": "png", "transparent": "png"}.get(kind, "jpg")
        for number in range(faults):
            name = f"{kind}_{number:05d}.{suffix}"
            labels = rng.choice(NAMES, 2, replace=False).tolist()
            save(draw_photo(labels, rng), add(images, planted, kind, name, rng), rng)


def add(images: Path, planted: Planted, kind: str, name: str, rng: np.random.Generator) -> Path:
    planted.rows.append((str(rng.choice(SPLITS)), name, (str(rng.choice(NAMES)),)))
    planted.mark(kind, name)
    return images / name


def other_split(split: str, rng: np.random.Generator) -> str:
    return str(rng.choice(sorted({"train", "val", "test"} - {split})))


def save_turned(photo: Image.Image, path: Path, rng: np.random.Generator) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = int(rng.integers(2, 9))
    photo.save(path, quality=90, exif=exif)


def save_located(photo: Image.Image, path: Path, rng: np.random.Generator) -> None:
    exif = Image.Exif()
    exif.get_ifd(LOCATION).update({1: "N", 2: (48.0, 51.0, 30.0), 3: "E", 4: (2.0, 17.0, 40.0)})
    photo.save(path, quality=90, exif=exif)


def save_tiny(photo: Image.Image, path: Path, rng: np.random.Generator) -> None:
    side = int(rng.integers(1, 28))
    photo.resize((side, side + 3), Image.Resampling.LANCZOS).save(path, quality=95)


def save_constant(photo: Image.Image, path: Path, rng: np.random.Generator) -> None:
    colour = tuple(int(value) for value in rng.integers(0, 256, 3))
    Image.new("RGB", photo.size, colour).save(path, quality=90)


def save_animated(photo: Image.Image, path: Path, rng: np.random.Generator) -> None:
    photo.save(path, save_all=True, append_images=[photo.transpose(Image.Transpose.ROTATE_90)])


def save_sixteen_bit(photo: Image.Image, path: Path, rng: np.random.Generator) -> None:
    grey = np.asarray(photo.convert("L")).astype(np.uint16) * 257
    Image.fromarray(grey).save(path)


def save_transparent(photo: Image.Image, path: Path, rng: np.random.Generator) -> None:
    photo.putalpha(200)
    photo.save(path)


ODD: dict[str, Callable[[Image.Image, Path, np.random.Generator], None]] = {
    "exif_rotated": save_turned,
    "exif_location": save_located,
    "tiny": save_tiny,
    "constant": save_constant,
    "animated": save_animated,
    "cmyk": lambda photo, path, rng: photo.convert("CMYK").save(path, quality=90),
    "sixteen_bit": save_sixteen_bit,
    "transparent": save_transparent,
    "dark": lambda photo, path, rng: light(0.12)(photo).save(path, quality=90),
    "bright": lambda photo, path, rng: photo.point(lambda v: 238 + v // 15).save(path, quality=90),
    "blurred": lambda photo, path, rng: photo.filter(ImageFilter.GaussianBlur(9)).save(path),
    "wrong_suffix": lambda photo, path, rng: photo.save(path, "PNG"),
}


def measure(audit: Audit, planted: Planted) -> list[dict]:
    """Compare findings with what was planted: one row a detector."""
    found = audit.findings.groupby("kind")["image"].agg(set).to_dict()
    rows = [compare(kind, names, found.get(kind, set())) for kind, names in planted.images.items()]
    names = audit.facts["image"].to_numpy()
    grouped = audit.facts[audit.facts["photo"].duplicated(keep=False)].groupby("photo")["image"]
    together = {frozenset(members) for members in grouped.agg(tuple)}
    for way, pairs in planted.pairs.items():
        rows.append(compare(f"pairs: {way}", pairs, {pair for pair in pairs if pair in together}))
    first, second = (names[audit.duplicates.pairs[side]] for side in ("first", "second"))
    near = {frozenset(pair) for pair in zip(first, second, strict=True)}
    truth = set().union(*(pairs for way, pairs in planted.pairs.items() if way != "same bytes"))
    rows.append(compare("pairs: all near-duplicates", truth, near))
    return rows


def compare(detector: str, truth: set, found: set) -> dict:
    right = len(truth & found)
    return {
        "detector": detector,
        "planted": len(truth),
        "found": len(found),
        "recall": right / len(truth) if truth else None,
        "precision": right / len(found) if found else None,
    }


def flip_labels(
    dataset: Dataset, share: float, rng: np.random.Generator
) -> tuple[Dataset, np.ndarray]:
    """Flip this share of all labels; give the dataset and the flips."""
    flips = rng.random((len(dataset.rows), len(dataset.classes))) < share
    given = np.array([[name in names for name in dataset.classes] for names in dataset.rows.labels])
    names = np.array(dataset.classes, dtype=object)
    labels = [tuple(names[row]) for row in given ^ flips]
    rows = dataset.rows.assign(labels=pd.Series(labels, index=dataset.rows.index))
    return Dataset(dataset.images, dataset.classes, rows), flips


def honest_scores(split: Split) -> np.ndarray:
    """Score every image by a model that saw neither the image nor its label: five folds."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import cross_val_predict

    features = np.array([colours_of(split.path(index)) for index in range(len(split))])
    scores = np.empty(split.targets.shape)
    for number, target in enumerate(split.targets.T):
        model = LogisticRegression(C=3, max_iter=300)
        probability = cross_val_predict(model, features, target, cv=5, method="predict_proba")
        scores[:, number] = probability[:, 1]
    return scores


def colours_of(path: Path) -> np.ndarray:
    """Count hues, the saturated ones most: what tells the drawn classes apart."""
    hue, saturation, _ = np.asarray(Image.open(path).convert("HSV").resize((32, 32))).T / 255
    return np.sqrt(np.histogram(hue, bins=16, range=(0, 1), weights=saturation**2)[0])


def measure_flips(images: int, seed: int = 7) -> list[dict]:
    """Flip labels of a clean dataset and see whether they are suspected."""
    rng = np.random.default_rng(seed)
    with tempfile.TemporaryDirectory() as folder:
        plant(Path(folder) / "data", images, 0, seed)
        clean = read_dataset(Path(folder) / "data", SETTINGS)
        dataset, flips = flip_labels(clean, FLIPPED_SHARE, rng)
        rows = dataset.rows.assign(split="train")
        split = replace(dataset, rows=rows).split("train")
        scores = honest_scores(split)
    suspects = suspect_labels(split, split.targets, scores, split.mask, SETTINGS)
    doubted = set(zip(suspects["image"], suspects["class"], strict=True))
    named = dict(zip(dataset.rows["filepath"], flips, strict=True))
    flipped = {
        (image, dataset.classes[column])
        for image, row in named.items()
        for column in np.flatnonzero(row)
    }
    return [compare("flipped labels", flipped, doubted)]


def run(images: int = 3000, faults: int = 100, seed: int = 7) -> list[dict]:
    """Plant, audit and measure."""
    with tempfile.TemporaryDirectory() as folder:
        planted = plant(Path(folder) / "data", images, faults, seed)
        audit = audit_dataset(read_dataset(Path(folder) / "data", SETTINGS), SETTINGS)
        rows = measure(audit, planted)
    return rows + measure_flips(max(200, images // 3), seed)


def table(rows: list[dict]) -> str:
    lines = [f"{'detector':<28}{'planted':>9}{'found':>9}{'recall':>9}{'precision':>11}"]
    for row in rows:
        recall, precision = (
            "–" if row[key] is None else f"{row[key]:.1%}" for key in ("recall", "precision")
        )
        lines.append(
            f"{row['detector']:<28}{row['planted']:>9}{row['found']:>9}{recall:>9}{precision:>11}"
        )
    return "\n".join(lines)
