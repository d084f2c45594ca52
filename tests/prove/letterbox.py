"""Does every letterbox compute the same bytes?

Random images of 1 to 4000 pixels a side, extreme aspects, upscaling and exact ties, at five input
sizes, through the NumPy reference, the pipeline, OpenCV and `letterbox.c` built by every compiler
that is installed: plainly, and with vector instructions without and with all optimisation.

    python -m tests.prove letterbox images=10000

`build_program` makes a program of its own instead, for another processor or a sanitizer.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from workbench.data.decode import count_cores, map_in_order
from workbench.data.letterbox import (
    SOURCE,
    letterbox,
    letterbox_by_opencv,
    letterbox_reference,
    open_library,
)

SIZES = (224, 240, 260, 280, 300)
LONGEST = 4000
COMPILERS = ("gcc", "clang")
FLAGS = (("-O0",), ("-O3", "-march=native", "-ffast-math"), ("-O2", "-DLETTERBOX_PLAIN"))
STRICT = ("-std=c99", "-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Werror")

ARM = ("aarch64-linux-gnu-gcc", "qemu-aarch64")  # Debian: gcc-aarch64-linux-gnu, qemu-user

Letterbox = Callable[[np.ndarray, int], np.ndarray | None]


def run(*, images: int = 10_000, seed: int = 0) -> dict[str, Any]:
    """Compare every implementation with the reference on `images` random images."""
    with tempfile.TemporaryDirectory(prefix="workbench_letterbox_") as folder:
        others = {"pipeline": letterbox, "pipeline, nothing compiled": without_c}
        others["OpenCV"] = with_opencv
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
            self.squares + other.squares, self.bytes + other.bytes, self.differing + other.differing
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


def without_c(image: np.ndarray, size: int) -> np.ndarray:
    """Do what the pipeline does where `letterbox.c` could not be compiled."""
    return letterbox_by_opencv(image, [size])[0]


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


def build(folder: Path, compiler: str, flags: tuple[str, ...], source: Path = SOURCE) -> Letterbox:
    """Compile the C file to a library, warnings being errors, and open it."""
    library = folder / f"{compiler}{''.join(flags)}.so"
    _compile(compiler, *flags, "-shared", "-fPIC", "-o", str(library), str(source))
    return open_library(library)


def build_program(
    folder: Path, compiler: str, flags: tuple[str, ...], runner: tuple[str, ...] = ()
) -> Letterbox:
    """Compile a program around the C file; each call runs it on memory of exactly its size."""
    program, main = folder / "letterbox", folder / "main.c"
    main.write_text(PROGRAM)
    include = f"-I{SOURCE.parent}"
    _compile(compiler, *flags, include, "-o", str(program), str(main), str(SOURCE))

    def letterbox_program(image: np.ndarray, size: int) -> np.ndarray:
        height, width, channels = image.shape
        words = [*runner, str(program), *map(str, (width, height, channels, size))]
        done = subprocess.run(words, input=image.tobytes(), capture_output=True)
        if done.returncode != 0:
            raise ValueError(f"exit {done.returncode}: {done.stderr.decode()[:2000]}")
        return np.frombuffer(done.stdout, np.uint8).reshape(size, size, 3)

    return letterbox_program


def _compile(*command: str) -> None:
    compiler, *words = command
    subprocess.run([compiler, *STRICT, *words], check=True, capture_output=True)


PROGRAM = """
#include "letterbox.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int main(int count, char **words) {
    if (count != 5) return 2;
    int width = atoi(words[1]), height = atoi(words[2]), channels = atoi(words[3]);
    int size = atoi(words[4]);
    size_t bytes = (size_t)width * (size_t)height * (size_t)channels;
    size_t square = (size_t)size * (size_t)size * 3;
    uint8_t *source = malloc(bytes), *target = malloc(square);
    if (!source || !target || fread(source, 1, bytes, stdin) != bytes) return 3;
    memset(target, 77, square);
    if (letterbox_rgb(source, width, height, channels, (ptrdiff_t)width * channels, target, size,
                      (ptrdiff_t)size * 3))
        return 4;
    if (fwrite(target, 1, square, stdout) != square) return 5;
    free(source);
    free(target);
    return 0;
}
"""
