"""A sheet of what becomes of an image: as read, augmented, and as each network sees it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from workbench.data.augment import augment, view_side
from workbench.data.decode import decode_image
from workbench.data.letterbox import letterbox
from workbench.data.tables import Split
from workbench.settings import Settings


@dataclass(frozen=True)
class SheetRow:
    """One image through the pipeline, every picture uint8 [H, W, 3]."""

    title: str
    original: np.ndarray
    augmented: tuple[np.ndarray, ...]  # the same image in the first epochs
    teacher: np.ndarray  # the first augmented view, letterboxed for the teacher
    student: np.ndarray  # and the very same view, letterboxed for the student


def sample_sheet(split: Split, settings: Settings, count: int, variants: int = 3) -> list[SheetRow]:
    """Take `count` images spread over the split through decoding, augmentation and letterbox."""
    places = np.linspace(0, len(split) - 1, min(count, len(split))).astype(int)
    return [_row(split, int(place), settings, variants) for place in places]


def _row(split: Split, index: int, settings: Settings, variants: int) -> SheetRow:
    original = decode_image(split.path(index), settings.dataset)
    longest = view_side((settings.teacher_size, settings.student_size))
    views = tuple(
        augment(
            original,
            seed=settings.seed,
            epoch=epoch,
            index=index,
            settings=settings.augmentation,
            longest=longest,
        )
        for epoch in range(variants)
    )
    teacher = letterbox(views[0], settings.teacher_size)
    student = letterbox(views[0], settings.student_size)
    return SheetRow(split.filepaths[index], original, views, teacher, student)
