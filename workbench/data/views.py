"""What becomes of one photo on its way into a network: decoded, augmented, letterboxed, scaled.

NumPy only: `pipeline` makes batches of it in tf.data; calibration, the phone file and the figures
take the same functions without TensorFlow. Augmentation is a function of an image and its random
numbers, without state: pixels in, pixels out, uint8 RGB. Geometry is one warp, colour one matrix,
however many of them are switched on, and nothing is drawn much larger than the networks see it.

`numpy.random.default_rng([seed, 3])` and `[seed, 3, 0]` are one stream, because NumPy pads lists
with zeros. Spawn keys are not padded, and a purpose in front keeps one use apart from all others.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import lru_cache
from typing import TYPE_CHECKING, Literal

import cv2
import numpy as np
from numpy.random import Generator

from workbench.data.decode import count_cores, decode_image, map_in_order
from workbench.data.letterbox import letterbox, letterbox_size
from workbench.errors import StepError
from workbench.settings import AugmentationSettings, ColorJitter, Settings

if TYPE_CHECKING:
    from workbench.data.tables import Split

GREY = np.array([0.299, 0.587, 0.114])  # BT.601, what cv2 calls grey
TO_YIQ = np.array([GREY, [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])
FROM_YIQ = np.linalg.inv(TO_YIQ)
CROP_ASPECT = math.log(4 / 3)  # random resized crops are stretched up to this much, either way
LONGEST_WARP = 32_000  # OpenCV's warps address pixels with 16 bits
NOISE_SAMPLES = 1 << 20  # drawn once; every image takes a window at a random place
Image = np.ndarray  # uint8 [height, width, 3]
Augment = Callable[[Image, Generator], Image]  # a person's own augmentation


class Purpose(IntEnum):
    """What random numbers are drawn for; a number once given stays, or training changes."""

    ORDER = 0  # of an epoch's images; place: epoch
    AUGMENT = 1  # one view; place: epoch, image
    MIXUP = 2  # one batch; place: epoch, step, worker
    DRAW = 3  # one photo of the demo; place: image


def random_stream(purpose: Purpose, seed: int, *place: int) -> Generator:
    """Return the generator of one purpose at one place; 5 µs dearer than a padded list."""
    sequence = np.random.SeedSequence(seed, spawn_key=(int(purpose), *place))
    return Generator(np.random.PCG64(sequence))


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
    split: Split, index: int, epoch: int, settings: Settings, *, sizes: Sequence[int] = (),
    own: Augment | None = None, copy: int = 0,
) -> np.ndarray:  # fmt: skip
    """Return the view of an image that training sees in `epoch`, before any letterbox.

    `own` stands in for the settings' augmentation; `sizes` are those of the networks, if not both;
    `copy` counts the views of one image in one epoch.
    """
    image = decode_image(split.path(index), settings.dataset)
    if own is None and not changes_anything(settings.augmentation):
        return image  # no need of random numbers, whose making takes 15 µs
    place = int(index) + copy * len(split)
    rng = random_stream(Purpose.AUGMENT, settings.seed, epoch, place)
    if own is not None:
        return _augmented_by(own, image, rng, split.filepaths[index])
    longest = view_side(sizes or tuple(settings.input_sizes.values()))
    return augment(image, rng, settings.augmentation, longest)


def _augmented_by(own: Augment, image: Image, rng: Generator, filepath: str) -> Image:
    name = getattr(own, "__qualname__", None) or type(own).__name__
    try:
        view = own(image, rng)
    except Exception as error:
        words = " ".join(f"{type(error).__name__}: {error}".split())
        raise StepError(f"augment={name} failed on {filepath}: {words}") from error
    fits = isinstance(view, np.ndarray) and view.dtype == np.uint8
    if not (fits and view.ndim == 3 and view.shape[2] == 3 and view.size):
        found = f"{view.dtype} {list(view.shape)}" if isinstance(view, np.ndarray) else repr(view)
        raise StepError(f"augment={name} returned {' '.join(found.split())[:100]} for {filepath}; "
                        "it must return an image, uint8 [height, width, 3]")  # fmt: skip
    return view


@dataclass(frozen=True)
class SheetRow:
    """One image through the pipeline, every picture uint8 [H, W, 3]."""

    title: str
    original: np.ndarray
    augmented: tuple[np.ndarray, ...]  # the same image in the first epochs
    inputs: dict[str, np.ndarray]  # the first augmented view, letterboxed for each network


def sample_rows(split: Split, settings: Settings, count: int, variants: int = 3) -> list[SheetRow]:
    """Take `count` images spread over the split through decoding, augmentation and letterbox."""
    rows = []
    for index in np.linspace(0, len(split) - 1, min(count, len(split))).astype(int):
        views = tuple(augmented(split, index, epoch, settings) for epoch in range(variants))
        squares = {name: letterbox(views[0], s) for name, s in settings.input_sizes.items()}
        original = decode_image(split.path(index), settings.dataset)
        rows.append(SheetRow(split.filepaths[index], original, views, squares))
    return rows


def augment(
    image: Image, rng: Generator, settings: AugmentationSettings,
    longest: int | None = None,
) -> Image:  # fmt: skip
    """Return an augmented view of uint8 [height, width, 3]; the input is left as it is.

    A view with a side above `longest` is drawn smaller, by the same interpolation; without
    augmentation the image comes back untouched.
    """
    if not changes_anything(settings):
        return image
    view = _move(image, rng, settings, longest or max(image.shape[:2]))
    view = _colour(view, rng, settings.color_jitter)
    view = _texture(view, rng, settings)
    if settings.gaussian_noise_stddev > 0:
        view = _add_noise(view, rng, settings.gaussian_noise_stddev)
    return _cut_out(view, rng, settings)


@lru_cache(maxsize=4)
def changes_anything(settings: AugmentationSettings) -> bool:
    """Say whether any knob is on; MixUp blends whole batches and does not count."""
    jitter = settings.color_jitter
    return _warps(settings) or any((
        settings.random_flip_horizontal, settings.random_flip_vertical, jitter.brightness,
        jitter.contrast, jitter.saturation, jitter.hue, settings.gaussian_noise_stddev,
        settings.blur_probability, settings.sharpen_probability, settings.clahe_probability,
        settings.cutout.num_patches,
    ))  # fmt: skip


def view_side(sizes: Iterable[int]) -> int:
    """Return how large views are drawn for networks of these sizes: a third above the largest."""
    return -(-4 * max(sizes) // 3)


def _move(image: Image, rng: Generator, settings: AugmentationSettings, longest: int) -> Image:
    """Flip, crop, rotate, zoom, shift, tilt and shrink with at most one interpolation."""
    mirror = settings.random_flip_horizontal and rng.random() < 0.5
    upside_down = settings.random_flip_vertical and rng.random() < 0.5
    if _warps(settings) or max(image.shape[:2]) > longest:
        scale = LONGEST_WARP / max(image.shape[:2])
        if scale < 1:
            smaller = [max(1, round(side * scale)) for side in image.shape[1::-1]]
            image = cv2.resize(image, smaller, interpolation=cv2.INTER_LINEAR_EXACT)
        size, matrix = _draw_warp(image.shape[1], image.shape[0], rng, settings, longest)
        image = _warp(image, matrix, size)
    if mirror or upside_down:
        return cv2.flip(image, -1 if mirror and upside_down else 1 if mirror else 0)
    return image


def _warps(settings: AugmentationSettings) -> bool:
    return settings.random_crop_scale < 1 or any((
        settings.random_rotation_factor, settings.random_zoom_factor, settings.random_shift_factor,
        settings.perspective,
    ))  # fmt: skip


def _draw_warp(
    width: int, height: int, rng: Generator, settings: AugmentationSettings, longest: int
) -> tuple[tuple[int, int], np.ndarray]:
    """Return the view's (width, height) and the 3 x 3 matrix from its pixels to the image's."""
    crop_width, crop_height, centre = _draw_crop(width, height, rng, settings.random_crop_scale)
    angle = 2 * math.pi * settings.random_rotation_factor * rng.uniform(-1, 1)
    zoom = 1 + settings.random_zoom_factor * rng.uniform(-1, 1)
    shift = settings.random_shift_factor * rng.uniform(-1, 1, 2) * (width, height)
    cosine, sine = math.cos(angle) / zoom, math.sin(angle) / zoom
    turn = np.array([[cosine, -sine, 0], [sine, cosine, 0], [0, 0, 1]])
    matrix = _translation(*(centre - shift)) @ turn
    if settings.perspective:
        matrix = matrix @ _draw_tilt(crop_width, crop_height, rng, settings.perspective)
    size = (crop_width, crop_height)
    size = letterbox_size(*size, longest) if max(size) > longest else size
    scale = np.diag([crop_width / size[0], crop_height / size[1], 1])
    return size, matrix @ scale @ _translation(-(size[0] - 1) / 2, -(size[1] - 1) / 2)


def _draw_crop(
    width: int, height: int, rng: Generator, smallest: float
) -> tuple[int, int, np.ndarray]:
    """Draw the size of a crop by share of the area and aspect, and its centre in pixels."""
    if smallest == 1:
        return width, height, np.array([(width - 1) / 2, (height - 1) / 2])
    share = rng.uniform(smallest, 1)
    stretch = math.exp(rng.uniform(-CROP_ASPECT, CROP_ASPECT) / 2)
    crop_width = min(width, max(1, round(width * math.sqrt(share) * stretch)))
    crop_height = min(height, max(1, round(height * math.sqrt(share) / stretch)))
    corner = rng.uniform(0, 1, 2) * (width - crop_width, height - crop_height)
    return crop_width, crop_height, corner + np.array([crop_width - 1, crop_height - 1]) / 2


def _draw_tilt(width: int, height: int, rng: Generator, strength: float) -> np.ndarray:
    """Move the corners of a rectangle about the origin."""
    x, y = width / 2, height / 2
    corners = np.array([(-x, -y), (x, -y), (x, y), (-x, y)], np.float32)
    moved = corners + strength * rng.uniform(-1, 1, (4, 2)) * (width, height)
    return cv2.getPerspectiveTransform(corners, moved.astype(np.float32))


def _translation(x: float, y: float) -> np.ndarray:
    return np.array([[1, 0, x], [0, 1, y], [0, 0, 1]], float)


def _warp(image: np.ndarray, matrix: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Interpolate bilinearly; what lies outside is black, as around a letterbox.

    OpenCV warps four channels almost twice as fast as three.
    """
    rgba = cv2.cvtColor(image, cv2.COLOR_RGB2RGBA)
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    if np.array_equal(matrix[2], (0, 0, 1)):
        view = cv2.warpAffine(rgba, matrix[:2], size, flags=flags)
    else:
        view = cv2.warpPerspective(rgba, matrix, size, flags=flags)
    return cv2.cvtColor(view, cv2.COLOR_RGBA2RGB)


def _colour(image: Image, rng: Generator, jitter: ColorJitter) -> Image:
    """Change brightness, contrast, saturation and hue in one matrix, rounded and clipped once."""
    most = (jitter.brightness, jitter.contrast, jitter.saturation, jitter.hue)
    brightness, contrast, saturation, hue = rng.uniform(-1, 1, 4) * most
    if not (brightness or contrast or saturation or hue):
        return image
    grey = np.tile(GREY, (3, 1))
    turn = 2 * math.pi * hue  # of the colour plane of YIQ; greys stay where they are
    cosine, sine = math.cos(turn), math.sin(turn)
    rotation = np.array([[1, 0, 0], [0, cosine, -sine], [0, sine, cosine]])
    matrix = grey + (1 + saturation) * (FROM_YIQ @ rotation @ TO_YIQ - grey)
    matrix *= (1 + brightness) * (1 + contrast)
    mean = GREY @ np.array(cv2.mean(image)[:3]) * (1 + brightness)
    offset = np.full((3, 1), -contrast * mean)
    return cv2.transform(image, np.hstack([matrix, offset]))


def _texture(image: Image, rng: Generator, settings: AugmentationSettings) -> Image:
    """Equalise locally, blur or sharpen, each with its own probability."""
    likely = (settings.clahe_probability, settings.blur_probability, settings.sharpen_probability)
    clahe, blur, sharpen = rng.random(3) < likely
    kernel = (3, 3) if rng.random() < 0.5 else (5, 5)
    if clahe:
        lab = cv2.cvtColor(image, cv2.COLOR_RGB2LAB)
        lab[:, :, 0] = cv2.createCLAHE(clipLimit=2, tileGridSize=(8, 8)).apply(lab[:, :, 0])
        image = cv2.cvtColor(lab, cv2.COLOR_LAB2RGB)
    if blur:
        image = cv2.GaussianBlur(image, kernel, 0)
    if sharpen:
        image = cv2.addWeighted(image, 1.5, cv2.GaussianBlur(image, kernel, 0), -0.5, 0)
    return image


def _add_noise(image: Image, rng: Generator, stddev: float) -> Image:
    """Add a window of ready-drawn Gaussian noise.

    Its positive and negative parts are apart because OpenCV adds uint8 with saturation three times
    as fast as int16; the sum is the same.
    """
    start = int(rng.integers(0, NOISE_SAMPLES))
    lighter, darker = _noise(stddev)
    if (stop := start + image.size) > len(lighter):  # it goes round where it ends
        lighter, darker = np.resize(lighter, stop), np.resize(darker, stop)
    view = cv2.add(image, lighter[start:stop].reshape(image.shape))
    return cv2.subtract(view, darker[start:stop].reshape(image.shape))


@lru_cache(maxsize=4)
def _noise(stddev: float) -> tuple[np.ndarray, np.ndarray]:
    noise = np.random.default_rng(0).normal(0, 255 * stddev, NOISE_SAMPLES).round()
    noise = np.concatenate([noise, noise])  # so that most windows are plain slices
    return noise.clip(0, 255).astype(np.uint8), (-noise).clip(0, 255).astype(np.uint8)


def _cut_out(image: Image, rng: Generator, settings: AugmentationSettings) -> Image:
    """Paint grey squares, on a copy where nothing before has made one."""
    cutout = settings.cutout
    height, width = image.shape[:2]
    side = round(min(height, width) * cutout.patch_size_ratio)
    if cutout.num_patches == 0 or side == 0:
        return image
    image = image.copy()
    for _ in range(cutout.num_patches):
        top, left = rng.integers(0, height - side + 1), rng.integers(0, width - side + 1)
        image[top : top + side, left : left + side] = 128
    return image
