"""What an audit may find: the kinds, how grave they are, and the table they go into.

Facts come in, findings go out; nothing here opens an image. Findings of an image name it; those
of a class or a split leave the image empty and say whom they mean in the detail.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import pandas as pd

COLUMNS = ("image", "split", "kind", "severity", "detail")
Severity = Literal["error", "warning", "info"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "info")


@dataclass(frozen=True)
class Kind:
    severity: Severity
    meaning: str


# In the order in which a person should look at them.
KINDS: dict[str, Kind] = {
    "unreadable": Kind("error", "the file is missing, damaged or not an image"),
    "truncated": Kind("error", "the file ends before the picture does"),
    "leak": Kind("error", "the same photo is in another split: scores will be too good"),
    "conflicting_labels": Kind("error", "the same photo has other labels elsewhere"),
    "class_missing": Kind("error", "a split has no image of this class"),
    "exact_duplicate": Kind("warning", "the same bytes under several names"),
    "near_duplicate": Kind("warning", "the same photo, saved, resized, lit or cut differently"),
    "label_error": Kind("warning", "the label is there, the scores say it should not be"),
    "missing_label": Kind("warning", "the label is not there, the scores say it should be"),
    "class_too_small": Kind("warning", "too few examples in val to tune a threshold on"),
    "class_always_on": Kind("warning", "every image of the split has this class"),
    "split_drift": Kind("warning", "the share of a class differs between splits beyond chance"),
    "imbalance": Kind("warning", "some classes are far rarer than others"),
    "constant": Kind("warning", "one colour, nothing to see"),
    "tiny": Kind("warning", "too few pixels to recognise anything"),
    "dark": Kind("warning", "far darker than the rest, or hardly lit at all"),
    "bright": Kind("warning", "far brighter than the rest, or washed out"),
    "blurred": Kind("warning", "far less sharp than the rest"),
    "letterbox_waste": Kind("warning", "so long or tall that most of the input is black border"),
    "exif_location": Kind("warning", "the file says where it was taken"),
    "exif_rotated": Kind("info", "stored turned, shown upright as EXIF says"),
    "animated": Kind("info", "several frames: the first is used"),
    "cmyk": Kind("info", "printing colours, converted to RGB"),
    "sixteen_bit": Kind("info", "16 bits a sample: the high byte is used"),
    "transparent": Kind("info", "transparent parts become black"),
    "wrong_suffix": Kind("info", "the name says another format than the bytes"),
    "odd_size": Kind("info", "far larger or smaller than the rest: from another source?"),
    "below_input": Kind("info", "smaller than the model input, will be enlarged"),
    "no_labels": Kind("info", "none of the classes"),
    "common": Kind("info", "true of most images, listed once"),
}
ORDER = {kind: place for place, kind in enumerate(KINDS)}
# Above this share of the images a harmless fact is one finding about the dataset, not thousands.
COMMON_SHARE = 0.5
COMMON_IMAGES = 50


@dataclass
class Findings:
    """Collects findings; `table` sorts them, gravest first."""

    parts: list[pd.DataFrame] = field(default_factory=list)

    def add(
        self,
        kind: str,
        rows: pd.DataFrame,
        details: Iterable[str] | str,
        severity: Severity | None = None,
        order: np.ndarray | None = None,
    ) -> None:
        """Add one finding for each of `rows`, which have the columns image and split.

        `order`: numbers, the worst smallest, where some findings of a kind are worse than others.
        """
        if len(rows) == 0:
            return
        part = rows[["image", "split"]].copy()
        part["order"] = 0.0 if order is None else np.asarray(order, float)
        part["kind"] = kind
        part["severity"] = severity or KINDS[kind].severity
        part["detail"] = details if isinstance(details, str) else list(details)
        self.parts.append(part)

    def add_general(
        self, kind: str, split: str, detail: str, severity: Severity | None = None
    ) -> None:
        """Add one finding about a class, a split or the whole dataset."""
        self.add(kind, pd.DataFrame({"image": [""], "split": [split]}), detail, severity)

    def add_or_summarise(
        self,
        kind: str,
        rows: pd.DataFrame,
        details: Sequence[str] | str,
        images: int,
        order: np.ndarray | None = None,
    ) -> None:
        """Add findings, or one for all when most of the `images` are alike in this."""
        if len(rows) <= max(COMMON_IMAGES, COMMON_SHARE * images):
            self.add(kind, rows, details, order=order)
            return
        example = details if isinstance(details, str) else details[0]
        text = f"{kind}: {len(rows)} of {images} images, such as {rows['image'].iloc[0]}: {example}"
        self.add_general("common", "", text, KINDS[kind].severity)

    def table(self) -> pd.DataFrame:
        if not self.parts:
            return pd.DataFrame(columns=list(COLUMNS), dtype=object)
        table = pd.concat(self.parts, ignore_index=True)
        table["_severity"] = table["severity"].map(SEVERITIES.index)
        table["_kind"] = table["kind"].map(ORDER)
        keys = ["_severity", "_kind", "order", "split", "image"]
        table = table.sort_values(keys, kind="stable")
        return table[list(COLUMNS)].reset_index(drop=True)
