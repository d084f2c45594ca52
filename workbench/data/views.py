"""What becomes of one photo on its way into a network: decoded, augmented, letterboxed, scaled.

NumPy only. `pipeline` makes batches of it in tf.data; calibration, the phone file and the figures
take the same functions without TensorFlow.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np

from workbench.data.augment import augment, changes_anything, view_side
from workbench.data.decode import count_cores, decode_image, map_in_order
from workbench.data.letterbox import letterbox
from workbench.data.randomness import Purpose, random_stream
from workbench.data.tables import Split
from workbench.errors import StepError
from workbench.settings import Settings

# A person's own augmentation: uint8 [h, w, 3] and random numbers to uint8 [h', w', 3].
Augment = Callable[[np.ndarray, np.random.Generator], np.ndarray]


@dataclass(frozen=True)
class View:
    """How one network wants an image: its side and its numbers."""

    size: int
    normalization: Literal["none", "lite"]  # none: float32 [0, 255]; lite: (x - 127) / 128


def normalize(square: np.ndarray, normalization: str, out: np.ndarray) -> None:
    """Write uint8 pixels as the network's float32 numbers; both forms are exact."""
    if normalization == "none":
        np.copyto(out, square)
    else:  # one pass; 1/128 and 127/128 are exact, so this is (x - 127) / 128 to the bit
        cv2.addWeighted(square, 1 / 128, square, 0, -127 / 128, dst=out, dtype=cv2.CV_32F)


def letterboxed(
    split: Split, size: int, settings: Settings, indices: Sequence[int] | None = None
) -> Iterator[np.ndarray]:
    """Yield uint8 [size, size, 3] of every image, or of those at `indices`."""

    def square(index: int) -> np.ndarray:
        return letterbox(decode_image(split.path(index), settings.dataset), size)

    wanted = range(len(split)) if indices is None else indices
    yield from map_in_order(square, wanted, count_cores(settings.run.threads))


def augmented(
    split: Split,
    index: int,
    epoch: int,
    settings: Settings,
    *,
    sizes: Sequence[int] = (),
    own: Augment | None = None,
) -> np.ndarray:
    """Return the view of an image that training sees in `epoch`, before any letterbox.

    `own` stands in for the settings' augmentation; `sizes` are those of the networks, if not both.
    """
    image = decode_image(split.path(index), settings.dataset)
    if own is None and not changes_anything(settings.augmentation):
        return image  # no need of random numbers, whose making takes 15 µs
    rng = random_stream(Purpose.AUGMENT, settings.seed, epoch, int(index))
    if own is not None:
        return _augmented_by(own, image, rng, split.filepaths[index])
    longest = view_side(sizes or (settings.teacher_size, settings.student_size))
    return augment(image, rng, settings.augmentation, longest)


def _augmented_by(
    own: Augment, image: np.ndarray, rng: np.random.Generator, filepath: str
) -> np.ndarray:
    name = getattr(own, "__qualname__", None) or type(own).__name__
    try:
        view = own(image, rng)
    except Exception as error:
        words = " ".join(f"{type(error).__name__}: {error}".split())
        raise StepError(f"augment={name} failed on {filepath}: {words}") from error
    fits = isinstance(view, np.ndarray) and view.dtype == np.uint8
    if not (fits and view.ndim == 3 and view.shape[2] == 3 and view.size):
        found = f"{view.dtype} {list(view.shape)}" if isinstance(view, np.ndarray) else repr(view)
        raise StepError(
            f"augment={name} returned {' '.join(found.split())[:100]} for {filepath}; it must "
            "return an image, uint8 [height, width, 3]"
        )
    return view


@dataclass(frozen=True)
class SheetRow:
    """One image through the pipeline, every picture uint8 [H, W, 3]."""

    title: str
    original: np.ndarray
    augmented: tuple[np.ndarray, ...]  # the same image in the first epochs
    teacher: np.ndarray  # the first augmented view, letterboxed for the teacher
    student: np.ndarray  # and the very same view, letterboxed for the student


def sample_rows(split: Split, settings: Settings, count: int, variants: int = 3) -> list[SheetRow]:
    """Take `count` images spread over the split through decoding, augmentation and letterbox."""
    rows = []
    for index in np.linspace(0, len(split) - 1, min(count, len(split))).astype(int):
        views = tuple(augmented(split, index, epoch, settings) for epoch in range(variants))
        squares = [letterbox(views[0], s) for s in (settings.teacher_size, settings.student_size)]
        original = decode_image(split.path(index), settings.dataset)
        rows.append(SheetRow(split.filepaths[index], original, views, *squares))
    return rows
