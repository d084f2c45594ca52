"""Does every letterbox compute the same bytes?

Random images of 1 to 4000 pixels a side, extreme aspects, upscaling and exact ties, at five input
sizes, through the NumPy reference, the pipeline, OpenCV and `letterbox.c` built by every compiler
that is installed, without and with all optimisation:

    python -m tests.prove letterbox images=10000
"""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

import workbench.data
from workbench.data.letterbox import letterbox, letterbox_reference
from workbench.data.threads import count_cores, map_in_order

SIZES = (224, 240, 260, 280, 300)
LONGEST = 4000
SOURCE = Path(workbench.data.__file__).with_name("letterbox.c")
COMPILERS = ("gcc", "clang")
FLAGS = (("-O0",), ("-O3", "-march=native", "-ffast-math"))
STRICT = ("-std=c99", "-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Werror")

Letterbox = Callable[[np.ndarray, int], np.ndarray | None]


def run(*, images: int = 10_000, seed: int = 0) -> dict[str, Any]:
    """Compare every implementation with the reference on `images` random images."""
    with tempfile.TemporaryDirectory(prefix="workbench_letterbox_") as folder:
        others = {"pipeline": letterbox, "OpenCV": with_opencv}
        others |= build_all(Path(folder))
        cases = (np.random.default_rng([seed, number]) for number in range(images))
        found = {name: Count() for name in others}
        for counts in map_in_order(lambda rng: compare(rng, others), cases, count_cores()):
            for name, count in counts.items():
                found[name] += count
    return {
        "images": images,
        "sizes": list(SIZES),
        "implementations": {name: asdict(count) for name, count in found.items()},
        "missing_compilers": [name for name in COMPILERS if not shutil.which(name)],
    }


def table(figures: dict[str, Any]) -> str:
    """Write the figures for a terminal."""
    sizes = ", ".join(map(str, figures["sizes"]))
    lines = [
        f"{figures['images']:,} images, each to {sizes}, against the NumPy reference",
        f"  {'implementation':<40}{'squares':>10}{'bytes':>18}{'differing':>12}",
    ]
    for name, count in figures["implementations"].items():
        row = f"{count['squares']:>10,}{count['bytes']:>18,}{count['differing']:>12,}"
        lines.append(f"  {name:<40}{row}")
    lines.append("  OpenCV: without scaled sides that are multiples of 256, see with_opencv")
    lines += [f"  {name} is not installed: left out" for name in figures["missing_compilers"]]
    return "\n".join(lines)


@dataclass
class Count:
    """What was compared, and how much of it differs."""

    squares: int = 0
    bytes: int = 0
    differing: int = 0

    def __add__(self, other: Count) -> Count:
        return Count(
            self.squares + other.squares,
            self.bytes + other.bytes,
            self.differing + other.differing,
        )


def compare(rng: np.random.Generator, others: dict[str, Letterbox]) -> dict[str, Count]:
    """Draw an image, letterbox it to every size and count what differs from the reference."""
    image = draw_image(rng)
    found = {name: Count() for name in others}
    for size in SIZES:
        expected = letterbox_reference(image, size)
        for name, implementation in others.items():
            square = implementation(image, size)
            if square is not None:
                found[name] += Count(1, square.size, np.count_nonzero(square != expected))
    return found


def draw_image(rng: np.random.Generator) -> np.ndarray:
    """Draw noise, black-and-white noise or a ramp of a random, often awkward, size."""
    width, height = draw_sides(rng)
    kind = rng.integers(3)
    if kind == 0:
        return rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    if kind == 1:  # the largest steps between neighbours
        return rng.integers(0, 2, (height, width, 3), dtype=np.uint8) * np.uint8(255)
    ramp = np.add.outer(np.arange(height), np.arange(width))[:, :, None] + (0, 85, 170)
    return ramp.astype(np.uint8)


def draw_sides(rng: np.random.Generator) -> tuple[int, int]:
    """Draw any sides, thin strips, simple fractions of an input size (exact ties), or tiny ones."""
    kind = rng.integers(5)
    if kind == 0:
        sides = rng.integers(1, LONGEST + 1, 2)
    elif kind == 1:
        sides = np.exp(rng.uniform(0, np.log(LONGEST), 2))
    elif kind == 2:
        sides = rng.permutation([rng.integers(1, 4), rng.integers(1, 5001)])
    elif kind == 3:
        size = rng.choice(SIZES)
        sides = size * rng.integers(1, 9, 2) / rng.integers(1, 5, 2) + rng.integers(-1, 2, 2)
    else:
        sides = rng.integers(1, 20, 2)
    width, height = (int(max(1, side)) for side in sides)
    return width, height


def with_opencv(image: np.ndarray, size: int) -> np.ndarray | None:
    """Letterbox by the book: rounded sides, INTER_LINEAR_EXACT, a black border.

    None where a scaled side is a multiple of 256: there source positions can lie exactly between
    two steps of 1/256, and OpenCV rounds those to even, the contract up.
    """
    height, width = image.shape[:2]
    longest = max(width, height)
    new_width, new_height = (
        max(1, (2 * side * size + longest) // (2 * longest)) for side in (width, height)
    )
    if new_width % 256 == 0 or new_height % 256 == 0:
        return None
    scaled = cv2.resize(image, (new_width, new_height), interpolation=cv2.INTER_LINEAR_EXACT)
    top, left = (size - new_height) // 2, (size - new_width) // 2
    bottom, right = size - new_height - top, size - new_width - left
    return cv2.copyMakeBorder(scaled, top, bottom, left, right, cv2.BORDER_CONSTANT, value=0)


def build_all(folder: Path) -> dict[str, Letterbox]:
    """Compile `letterbox.c` with what is installed, warnings being errors."""
    return {
        " ".join(("C,", compiler, *flags)): build(folder, compiler, flags)
        for compiler, flags in builds()
    }


def builds() -> Iterator[tuple[str, tuple[str, ...]]]:
    for compiler in COMPILERS:
        for flags in FLAGS:
            if shutil.which(compiler):
                yield compiler, flags


def build(folder: Path, compiler: str, flags: tuple[str, ...]) -> Letterbox:
    """Compile the C file to a library; the function wraps it, row strides and all."""
    library = folder / f"{compiler}{''.join(flags)}.so"
    command = [compiler, *STRICT, *flags, "-shared", "-fPIC", "-o", str(library), str(SOURCE)]
    subprocess.run(command, check=True, capture_output=True)
    function = ctypes.CDLL(str(library)).letterbox_rgb
    integer, pointer, stride = ctypes.c_int, ctypes.c_void_p, ctypes.c_ssize_t
    function.argtypes = [pointer, integer, integer, integer, stride, pointer, integer, stride]

    def letterbox_c(image: np.ndarray, size: int) -> np.ndarray:
        square = np.full((size, size, 3), 77, np.uint8)
        height, width, channels = image.shape
        source = (image.ctypes.data, width, height, channels, image.strides[0])
        if function(*source, square.ctypes.data, size, square.strides[0]) != 0:
            raise ValueError(f"letterbox.c refused {width} x {height} x {channels} to {size}")
        return square

    return letterbox_c
