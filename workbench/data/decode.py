"""One decoder for audit, training, calibration and evaluation: a file becomes RGB, 8 bit, upright.

The rules, the same everywhere:
- JPEG, PNG, BMP, GIF, WebP, HEIC and AVIF, told apart by content and never by suffix; of several
  frames the first. Colour profiles and gamma are ignored, as on phones.
- The header is checked against `dataset.max_pixels` before a pixel is decoded.
- JPEG goes through libjpeg-turbo's accurate path (Pillow, OpenCV and TensorFlow's
  `INTEGER_ACCURATE` give the same bytes); Adobe CMYK and YCCK are converted by Pillow. Where data
  are corrupt the decoder goes on with a guess, and the facts say so.
- A progressive JPEG may hold thousands of scans of every pixel: what would take minutes is refused.
- 16-bit samples keep their high byte. Grey, 1-bit and palette images are expanded to RGB.
- Transparent pixels are composited on black: what phones get from premultiplied bitmaps, and the
  colour of the letterbox.
- EXIF orientation is applied once, here, unless `dataset.exif` is `ignore`. HEIC is turned by its
  own boxes, whatever EXIF says: so its standard wants it.

`map_in_order` runs it on every core. It knows nothing of tables or networks.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import stat
import struct
import threading
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TypeVar

import numpy as np
import simplejpeg
from PIL import Image, UnidentifiedImageError

from workbench.errors import DatasetError
from workbench.settings import DatasetSettings

Item = TypeVar("Item")
Result = TypeVar("Result")

FORMATS = ("JPEG", "PNG", "BMP", "GIF", "WEBP", "AVIF")
READ = "JPEG, PNG, BMP, GIF, WebP, HEIC and AVIF"
JPEGS = ("JPEG", "MPO")  # MPO: a JPEG with a preview or depth map behind it, from some phones
ORIENTATION_TAG = 274
LOCATION_TAG = 34853
LATITUDE_KEY = 2
PNG_BIT_DEPTH_BYTE = 24
MOST_METADATA_BYTES = 64 << 20
MOST_SCANNED_PIXELS = 2_000_000_000  # about a second; 100 Mpx in 20 scans, a photo has ten at most
LARGE_PIXELS = 25_000_000  # decoded one at a time: some formats need 20 bytes a pixel meanwhile
STRIP_ROWS = 256  # compositing works in strips: a whole large image in 16 bit would double memory
# What Pillow's parsers let through on damaged files, found by feeding them damaged files.
PILLOW_ERRORS = (
    OSError, SyntaxError, ValueError, TypeError, LookupError, ArithmeticError, AttributeError,
    AssertionError, EOFError, RuntimeError, MemoryError, struct.error, zlib.error,
    Image.DecompressionBombError, Warning,  # where Python is told to turn warnings into errors
)  # fmt: skip
SCAN, END_OF_IMAGE = b"\xff\xda", b"\xff\xd9"
MARKER = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]", re.DOTALL)  # no stuffed byte, no restart
STANDALONE = re.compile(rb"\xff[\x01\xd8]")
_large = threading.Lock()
# First bytes of files that people take for images, to say more than "cannot identify".
DAMAGED = ((0, b"\xff\xd8\xff", "JPEG"), (0, b"\x89PNG", "PNG"), (0, b"GIF8", "GIF"),
           (8, b"WEBP", "WebP"), (0, b"BM", "BMP"))  # fmt: skip
OTHER_FILES = (
    (0, b"II*\0", "is a TIFF"), (0, b"MM\0*", "is a TIFF"), (4, b"ftypavif", "is a damaged AVIF"),
    (4, b"ftyphei", "is a damaged HEIC"), (4, b"ftypmif1", "is a damaged HEIC"),
    (4, b"ftyp", "is a video (`prepare --frames` takes videos apart)"),
    (4, b"jP  ", "is a JPEG 2000"), (0, b"8BPS", "is a Photoshop file"), (0, b"%PDF", "is a PDF"),
    (0, b"PK\3\4", "is a ZIP archive"),
    (0, b"version https://git-lfs", "is a Git LFS pointer, not the image (run `git lfs pull`)"),
    (0, b"<", "is HTML or XML text"),
)  # fmt: skip


@dataclass(frozen=True)
class ImageFacts:
    """What a file says about itself; `refused` holds the reason when it cannot be used."""

    bytes: int = 0
    sha256: str = ""
    format: str = ""
    mode: str = ""  # Pillow's name of the stored pixels: RGB, L, P, CMYK, RGBA, I;16 …
    bits: int = 8  # a sample
    width: int = 0  # as people see it: after orientation
    height: int = 0
    frames: int = 1
    orientation: int = 1
    located: bool = False  # EXIF says where it was taken
    guessed: str = ""  # what the decoder found corrupt and filled in
    refused: str | None = None


class _RefusedError(Exception):
    """Why an image cannot be used, without its path."""


def decode_image(path: Path, dataset: DatasetSettings) -> np.ndarray:
    """Decode a file to uint8 [height, width, 3] RGB; `DatasetError` says why it cannot be."""
    try:
        data = _read(path, dataset)
        image = _open(data, dataset)
        pixels, _ = _stored_pixels(data, image)
        return _upright(pixels, _orientation(image), dataset)
    except _RefusedError as refusal:
        raise DatasetError(f"{path} {refusal}.") from None


def examine_image(path: Path, dataset: DatasetSettings) -> tuple[ImageFacts, np.ndarray | None]:
    """Describe and decode with a single read; the pixels are None when the file is refused."""
    facts, pixels = ImageFacts(), None
    try:
        data = _read(path, dataset)
        facts = replace(facts, bytes=len(data), sha256=hashlib.sha256(data).hexdigest())
        image = _open(data, dataset)
        png16 = image.format == "PNG" and data[PNG_BIT_DEPTH_BYTE] == 16
        frames = _count_frames(data) if image.format != "JPEG" else 1
        facts = replace(
            facts, format=image.format, mode=image.mode, bits=16 if png16 else 8,
            width=image.width, height=image.height, frames=frames,
        )  # fmt: skip
        pixels, guessed = _stored_pixels(data, image)
        facts = replace(
            facts, orientation=_orientation(image), located=_located(image), guessed=guessed
        )
        pixels = _upright(pixels, facts.orientation, dataset)
        facts = replace(facts, width=pixels.shape[1], height=pixels.shape[0])
    except _RefusedError as refusal:
        facts = replace(facts, refused=str(refusal))
    return facts, pixels


def _read(path: Path, dataset: DatasetSettings) -> bytes:
    """Read a regular file whole."""
    try:
        with open(path, "rb", opener=_open_without_waiting) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise _RefusedError("is not a regular file")
            if status.st_size == 0:
                raise _RefusedError("is empty (0 bytes)")
            # 16-bit RGBA without compression is 8 bytes a pixel; nothing allowed is larger.
            if status.st_size > 8 * dataset.max_pixels + MOST_METADATA_BYTES:
                size = f"{status.st_size} bytes"
                raise _RefusedError(f"has {size}, more than an allowed image can need")
            return file.read()
    except FileNotFoundError:
        raise _RefusedError("does not exist") from None
    except (OSError, ValueError) as error:
        raise _RefusedError(f"cannot be read ({_words(error)})") from None


def _open_without_waiting(path: str, flags: int) -> int:
    """Open at once even a pipe that nobody writes to."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def _open(data: bytes, dataset: DatasetSettings) -> Image.Image:
    """Parse the header and hold its size against the limit; no pixel is decoded yet."""
    try:
        image = Image.open(io.BytesIO(data), formats=_formats(data))
        width, height = image.size
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise _RefusedError(f"is too large: {_words(error)}") from None
    except UnidentifiedImageError:
        raise _RefusedError(_what_it_is(data)) from None
    except PILLOW_ERRORS as error:
        raise _RefusedError(f"has a damaged header ({_words(error)})") from None
    if width < 1 or height < 1:
        raise _RefusedError(f"says it is {width} x {height} pixels")
    if width * height > dataset.max_pixels:
        raise _RefusedError(f"says it is {width} x {height} = {width * height} pixels, above "
                            f"dataset.max_pixels {dataset.max_pixels}")  # fmt: skip
    return image


def _formats(data: bytes) -> tuple[str, ...]:
    """Load libheif when the first HEIC comes: few folders hold one."""
    if data[4:8] != b"ftyp" or data[8:12] in (b"avif", b"avis"):
        return FORMATS
    from pillow_heif import register_heif_opener

    register_heif_opener()
    return (*FORMATS, "HEIF")


def _what_it_is(data: bytes) -> str:
    for offset, magic, name in DAMAGED:
        if data.startswith(magic, offset):
            return f"is a damaged {name}: its header makes no sense"
    for offset, magic, words in OTHER_FILES:
        if data.startswith(magic, offset):
            return f"{words}; only {READ} are read"
    return f"is not an image: none of {READ}"


def _stored_pixels(data: bytes, image: Image.Image) -> tuple[np.ndarray, str]:
    """Decode the first frame as it is stored, before orientation; say what was guessed."""
    with _large if image.width * image.height > LARGE_PIXELS else nullcontext():
        if image.format in JPEGS:
            _check_scans(data, image)
            if image.mode in ("RGB", "L"):
                pixels, guessed = _decode_jpeg(data)
                if pixels is not None and pixels.shape[:2] == (image.height, image.width):
                    return pixels, guessed
        try:
            return _expand(image), ""
        except PILLOW_ERRORS as error:
            raise _RefusedError(f"cannot be decoded ({_words(error)})") from None


def _decode_jpeg(data: bytes) -> tuple[np.ndarray | None, str]:
    """Decode with libjpeg-turbo: the bytes of Pillow, faster, outside the GIL, and it tells."""
    try:
        return simplejpeg.decode_jpeg(data, "RGB", strict=True), ""
    except ValueError as error:
        doubt = _words(error)
    if "Premature end of JPEG file" in doubt:
        return None, ""  # cut off: Pillow has the words for it
    try:
        pixels = simplejpeg.decode_jpeg(data, "RGB", strict=False)
    except ValueError:
        return None, ""
    return pixels, doubt if doubt.startswith("Corrupt JPEG data") else ""


def _check_scans(data: bytes, image: Image.Image) -> None:
    """Count the scans before decoding: each may change every pixel once more."""
    scans, pixels = _scans(data), image.width * image.height
    colours = next(scans, 0)
    if colours == len(image.getbands()) and "progressive" not in image.info:
        return  # all there is in one scan, as nearly every photo has it
    most = max(1, MOST_SCANNED_PIXELS // pixels)
    if 1 + sum(1 for _ in islice(scans, most)) > most:
        raise _RefusedError(f"has over {most} scans of {pixels} pixels; it would decode for long")


def _scans(data: bytes) -> Iterator[int]:
    """Walk the segments; yield of each scan how many colours it holds."""
    place = 2
    while (found := MARKER.search(data, place)) and found[0] != END_OF_IMAGE:
        place = found.end()
        if found[0] == SCAN:
            yield data[place + 2] if place + 2 < len(data) else 0
        if not STANDALONE.match(found[0]):
            place += max(2, int.from_bytes(data[place : place + 2]))


def _expand(image: Image.Image) -> np.ndarray:
    """Turn whatever Pillow read into RGB bytes."""
    if image.mode.startswith("I"):
        return _grey16_to_rgb(np.asarray(image), image.info.get("transparency"))
    if "A" in image.mode or "transparency" in image.info:
        return _composite_on_black(np.asarray(image.convert("RGBA")))
    return np.asarray(image.convert("RGB"))


def _grey16_to_rgb(grey: np.ndarray, transparent: object) -> np.ndarray:
    """Keep the high byte; Pillow's own conversion would clip almost everything to white."""
    high = (grey >> 8).astype(np.uint8)
    if isinstance(transparent, int):
        high[grey == transparent] = 0
    return np.repeat(high[:, :, None], 3, axis=2)


def _composite_on_black(rgba: np.ndarray) -> np.ndarray:
    pixels = np.empty((*rgba.shape[:2], 3), np.uint8)
    for top in range(0, len(rgba), STRIP_ROWS):
        strip = rgba[top : top + STRIP_ROWS].astype(np.uint16)
        pixels[top : top + STRIP_ROWS] = (strip[:, :, :3] * strip[:, :, 3:] + 127) // 255
    return pixels


def _upright(pixels: np.ndarray, orientation: int, dataset: DatasetSettings) -> np.ndarray:
    """Turn and mirror as EXIF asks: 5 to 8 swap the sides."""
    if dataset.exif == "ignore":
        orientation = 1
    if orientation >= 5:
        pixels = pixels.transpose(1, 0, 2)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return np.ascontiguousarray(pixels)


def _orientation(image: Image.Image) -> int:
    """Read the EXIF orientation; a damaged block or a value outside 1–8 means upright."""
    try:
        orientation = image.getexif().get(ORIENTATION_TAG)
    except PILLOW_ERRORS:
        return 1
    return orientation if isinstance(orientation, int) and 1 <= orientation <= 8 else 1


def _located(image: Image.Image) -> bool:
    """Say whether EXIF holds a place; many cameras leave an empty block."""
    try:
        exif = image.getexif()
        return LOCATION_TAG in exif and LATITUDE_KEY in exif.get_ifd(LOCATION_TAG)
    except PILLOW_ERRORS:
        return False


def _count_frames(data: bytes) -> int:
    """Count on a second handle: a damaged later frame must not disturb the first."""
    try:
        return int(getattr(Image.open(io.BytesIO(data), formats=_formats(data)), "n_frames", 1))
    except PILLOW_ERRORS:
        return 1


def _words(error: Exception) -> str:
    text = str(getattr(error, "strerror", None) or error) or type(error).__name__
    return " ".join(text.split())[:200]


def count_cores(wanted: int = 0) -> int:
    """Give `wanted`, or for 0 the cores that this process may use."""
    if wanted:
        return wanted
    allowed = getattr(os, "sched_getaffinity", None)  # absent on macOS and Windows
    return len(allowed(0)) if allowed else os.cpu_count() or 1


def map_in_order(
    function: Callable[[Item], Result], items: Iterable[Item], threads: int
) -> Iterator[Result]:
    """Yield `function(item)` in order; unlike `Executor.map`, does not run far ahead."""
    waiting: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        try:
            for item in items:
                waiting.append(pool.submit(function, item))
                if len(waiting) > 2 * threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
