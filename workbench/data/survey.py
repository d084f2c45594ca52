"""What lies in a folder of photos: layout, labels, classes and what is odd. Nothing is decoded.

A new project starts from this; whether the photos are fit to train on is the audit's question.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain, product
from pathlib import Path

import pandas as pd
from PIL import Image

from workbench.data import layouts
from workbench.data.cells import EVERY, WRONG_SEPARATORS
from workbench.data.layouts import SPLITS, Layout, Problems
from workbench.data.tables import check_files, find_classes, has_one_label, parse_rows
from workbench.errors import DatasetError
from workbench.settings import DatasetSettings, Settings

FEW = 5
SAMPLED = 24  # photos whose header is read, to say how large they are
LARGE_SIDE = 1600  # pixels; decoding such photos takes longer than training on them
KINDS = {
    "csv": "a CSV table a split", "txt": "a txt table a split", "table": "one table",
    "folders": "one folder a class", "coco": "a COCO export", "roboflow": "a Roboflow CSV export",
    "imagefolder": "a Hugging Face imagefolder", "edge_impulse": "an Edge Impulse folder",
    "fiftyone": "a FiftyOne export", "label_studio": "a Label Studio export",
}  # fmt: skip


@dataclass(frozen=True)
class Survey:
    """A dataset as it was understood: `dataset` holds the knobs that read it this way."""

    dataset: DatasetSettings
    rows: pd.DataFrame
    classes: Counter[str]  # photos of each
    bad: dict[str, str]  # photos that are not there, with the reason
    side: int  # the longer one of a typical photo, in pixels; 0 where no header could be read

    @property
    def task(self) -> str:
        """Take one label a photo for the rule where no labelled photo breaks it."""
        one = has_one_label(self.rows[self.rows["unknown"] != EVERY])
        return "single_label" if one else "multilabel"

    @property
    def training_images(self) -> int:
        """Count the photos that will be learned from."""
        splits = self.rows["split"].value_counts()
        given = [split for split in SPLITS if split in splits]
        shares = {split: getattr(self.dataset, f"{split}_frac") for split in SPLITS}
        rest = sum(shares[split] for split in SPLITS if split == "train" or split not in given)
        pool = int(splits.get("train", 0) + splits.get("", 0))
        return max(1, round(pool * shares["train"] / rest))

    def lines(self) -> Iterator[str]:
        """Say what was found, then what is odd."""
        kind, where = KINDS[self.dataset.layout], self.dataset.dir
        yield f"Understood as {kind}: {len(self.rows)} photos in {where}"
        per_photo = "one label a photo" if self.task == "single_label" else "several labels a photo"
        shown = [f"{name} {count}" for name, count in sorted(self.classes.items())]
        more = f" … and {len(shown) - 20} more" if len(shown) > 20 else ""
        named = ", ".join(shown[:20])
        yield f"{len(shown)} classes, {per_photo} (task: {self.task}): {named}{more}"
        yield self._splits()
        yield from (f"odd: {line}" for line in self._odd())

    def _splits(self) -> str:
        counts = self.rows["split"].value_counts()
        given = [f"{split} {counts[split]}" for split in SPLITS if split in counts]
        missing = [split for split in SPLITS if split not in counts]
        if not given:
            return "no splits: 01 deals them, copies of a photo on one side"
        dealt = f"; {' and '.join(missing)} will be dealt out of train" if missing else ""
        return f"splits: {', '.join(given)}{dealt}"

    def _odd(self) -> Iterator[str]:
        nothing = int((self.rows["unknown"] == EVERY).sum())
        empty = int(((self.rows["labels"].map(len) + self.rows["unknown"].map(len)) == 0).sum())
        if nothing:
            yield f"{nothing} photos without any label: they are learned from through the teacher"
        if empty:
            yield f"{empty} photos have none of the classes"
        audit, counts = Settings().audit, sorted(self.classes.values())
        rare = [name for name, count in self.classes.items() if count < 3 * audit.min_positives]
        if rare:
            named = ", ".join(sorted(rare)[:FEW]) + (" …" if len(rare) > FEW else "")
            yield f"{len(rare)} classes have few photos, too few to tune and to judge: {named}"
        if len(self.classes) == 1:
            yield "one class alone: add photos without it, or there is nothing to tell apart"
        if counts[-1] > audit.max_imbalance * counts[0]:
            yield f"the most frequent class has {counts[-1]} photos, the rarest {counts[0]}"
        if self.bad:
            path, reason = next(iter(self.bad.items()))
            yield (
                f"{len(self.bad)} photos of the tables cannot be used, such as {path}, which "
                f"{reason}. Mend the tables, or set dataset.on_bad_image: quarantine"
            )
        if self.side > LARGE_SIDE:
            yield (f"photos are large, typically {self.side} pixels: most of the time will go into "
                   "decoding. `python -m workbench prepare` makes a small copy to use "
                   "instead")  # fmt: skip


def survey(folder: Path) -> Survey:
    """Look at a folder of photos; DatasetError says what has to be mended first."""
    folder = folder.resolve()
    layout, dataset = _read(folder)
    settings = Settings(num_classes="auto", dataset=dataset.model_copy(
        update={"on_bad_image": "quarantine"}))  # fmt: skip
    problems = Problems()
    rows = parse_rows(layout, settings, problems)
    find_classes(rows, problems)
    bad = check_files(layout.images, rows, settings, problems)
    problems.refuse()
    classes = Counter(chain.from_iterable(rows["labels"]))
    if not classes:
        raise DatasetError(f"{folder}: no photo has a label, so there is no class to learn")
    return Survey(dataset, rows, classes, bad, _typical_side(layout.images, rows, bad))


def _read(folder: Path) -> tuple[Layout, DatasetSettings]:
    """Read the folder, with other separators where its tables show that they have others."""
    try:
        return _read_with(folder, {})
    except DatasetError as error:
        if not any(words in str(error) for words in ("dataset.separator", "Join labels by")):
            raise
        first = error
    for separator, label_separator in product(",;\t", ("|", *WRONG_SEPARATORS)):
        with suppress(DatasetError, ValueError):
            return _read_with(folder, {"separator": separator, "label_separator": label_separator})
    raise first


def _read_with(folder: Path, separators: dict[str, str]) -> tuple[Layout, DatasetSettings]:
    dataset, problems = DatasetSettings(dir=str(folder), **separators), Problems()
    layout = layouts.read_layout(folder, dataset)
    find_classes(parse_rows(layout, Settings(num_classes="auto"), problems), problems)
    problems.refuse()
    found = {"layout": layout.kind, "dir": str(layout.folder)}
    return layout, dataset.model_copy(update=found)


def _typical_side(images: Path, rows: pd.DataFrame, bad: dict[str, str]) -> int:
    paths = [path for path in rows["filepath"] if path not in bad]
    sides = []
    for path in paths[:: max(1, len(paths) // SAMPLED)][:SAMPLED]:
        try:
            with Image.open(images / path) as image:
                sides.append(max(image.size))
        except Exception:  # noqa: BLE001  (whatever it is, the audit says it)
            continue
    return sorted(sides)[len(sides) // 2] if sides else 0
