"""The letterbox: one arithmetic, many implementations, the same bytes."""

import logging
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.prove import letterbox as proof
from workbench.data import letterbox as letterbox_c
from workbench.data.letterbox import (
    FOUR_CHANNEL_PIXELS,
    letterbox,
    letterbox_reference,
    letterbox_size,
    trusted_library,
)

AWKWARD_SIDES = [
    (1, 1),
    (1, 5000),
    (5000, 1),
    (2, 3),
    (240, 240),
    (480, 480),
    (120, 60),
    (241, 239),
]


@pytest.fixture(params=proof.COMPILERS)
def compiler(request) -> str:
    if not shutil.which(request.param):
        pytest.skip(f"{request.param} is not installed")
    return request.param


@pytest.fixture
def library(monkeypatch, tmp_path) -> Iterator[Path]:
    """Where the compiled library is looked for: nothing is there yet."""
    path = tmp_path / "library.so"
    monkeypatch.setattr(letterbox_c, "LIBRARY", path)
    trusted_library.cache_clear()
    yield path
    trusted_library.cache_clear()


def noise(width: int, height: int, channels: int = 3) -> np.ndarray:
    rng = np.random.default_rng([width, height])
    return rng.integers(0, 256, (height, width, channels), dtype=np.uint8)


def letterbox_in_float32(image: np.ndarray, size: int) -> np.ndarray:
    """The formula of the contract pixel by pixel, in floats, as a phone's GPU would."""
    height, width = image.shape[:2]
    longest = max(height, width)
    new_width, new_height = (
        max(1, (2 * side * size + longest) // (2 * longest)) for side in (width, height)
    )
    top, left = (size - new_height) // 2, (size - new_width) // 2
    square = np.zeros((size, size, 3), np.uint8)
    f = np.float32
    for y in range(new_height):
        py = ((2 * y + 1) * height - new_height) * 128 * 2 + new_height
        py = min(max(py // (2 * new_height), 0), (height - 1) * 256)
        y0, y1, fy = py >> 8, min((py >> 8) + 1, height - 1), f(py & 255)
        for x in range(new_width):
            px = ((2 * x + 1) * width - new_width) * 128 * 2 + new_width
            px = min(max(px // (2 * new_width), 0), (width - 1) * 256)
            x0, x1, fx = px >> 8, min((px >> 8) + 1, width - 1), f(px & 255)
            a, b, c, d = (image[v, u].astype(f) for v in (y0, y1) for u in (x0, x1))
            value = (a * (f(256) - fx) + b * fx) * (f(256) - fy) + (c * (f(256) - fx) + d * fx) * fy
            square[top + y, left + x] = np.floor((value + f(32768)) / f(65536)).astype(np.uint8)
    return square


@pytest.mark.parametrize(("width", "height"), [(7, 5), (64, 48), (16, 16), (3, 40), (1, 1)])
def test_the_reference_is_the_formula_also_in_float32(width, height):
    image = noise(width, height)
    assert np.array_equal(letterbox_reference(image, 16), letterbox_in_float32(image, 16))


@pytest.mark.parametrize(("width", "height"), AWKWARD_SIDES)
@pytest.mark.parametrize("implementation", [letterbox, proof.without_c, proof.with_opencv])
def test_fast_versions_give_the_bytes_of_the_reference(implementation, width, height):
    image = noise(width, height)
    assert np.array_equal(implementation(image, 240), letterbox_reference(image, 240))


def test_a_large_image_takes_the_other_branch_of_opencv_to_the_same_bytes():
    image = noise(1250, 900)
    assert image.shape[0] * image.shape[1] > FOUR_CHANNEL_PIXELS
    assert np.array_equal(proof.without_c(image, 224), letterbox_reference(image, 224))


def test_random_images_agree_in_all_python_versions():
    others = {"pipeline": letterbox, "without C": proof.without_c, "OpenCV": proof.with_opencv}
    for number in range(25):
        found = proof.compare(np.random.default_rng([1, number]), others)
        assert [count.differing for count in found.values()] == [0, 0, 0], f"image {number}"


@pytest.mark.parametrize("implementation", [letterbox, proof.without_c])
@pytest.mark.parametrize("size", [256, 512])
@pytest.mark.parametrize(("width", "height"), [(255, 77), (321, 999), (1023, 1022), (513, 1)])
def test_positions_exactly_between_two_steps_are_rounded_up(implementation, width, height, size):
    image = noise(width, height)
    assert np.array_equal(implementation(image, size), letterbox_reference(image, size))


@pytest.mark.slow
@pytest.mark.parametrize("flags", proof.FLAGS, ids=" ".join)
def test_the_c_file_gives_the_bytes_of_the_reference(tmp_path, compiler, flags):
    others = {"C": proof.build(tmp_path, compiler, flags)}
    for number in range(60):
        found = proof.compare(np.random.default_rng([2, number]), others)
        assert found["C"].differing == 0, f"image {number}"


@pytest.mark.slow
def test_the_c_file_follows_row_strides_and_skips_a_fourth_channel(tmp_path, compiler):
    function = proof.build(tmp_path, compiler, ("-O2",))
    wide = noise(90, 50, channels=4)
    window = wide[5:45, 10:70]
    expected = letterbox_reference(np.ascontiguousarray(window[:, :, :3]), 32)
    assert np.array_equal(function(window, 32), expected)


@pytest.mark.slow
def test_the_c_file_walks_upwards_with_a_negative_stride(tmp_path, compiler):
    function = proof.build(tmp_path, compiler, ("-O2",))
    image = noise(40, 30)
    expected = letterbox_reference(np.ascontiguousarray(image[::-1]), 32)
    assert np.array_equal(function(image[::-1], 32), expected)


@pytest.mark.slow
def test_the_c_file_touches_no_byte_outside_its_images(tmp_path, compiler):
    flags = ("-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover")
    try:
        function = proof.build_program(tmp_path, compiler, flags)
    except subprocess.CalledProcessError:
        pytest.skip(f"{compiler} has no sanitizers here")
    sides = [(1, 1), (2, 9), (3, 3), (4, 4), (5, 1), (8, 200), (97, 33), (700, 41), (2000, 3)]
    for channels in (3, 4):
        for width, height in sides:
            for size in (1, 5, 64, 300):
                image = noise(width, height, channels)
                expected = letterbox_reference(image[:, :, :3], size)
                assert np.array_equal(function(image, size), expected)


@pytest.mark.slow
def test_the_vector_instructions_of_phones_give_the_bytes_of_the_reference(tmp_path):
    compiler, emulator = proof.ARM
    if not shutil.which(compiler) or not shutil.which(emulator):
        pytest.skip(f"{compiler} or {emulator} is not installed")
    others = {"NEON": proof.build_program(tmp_path, compiler, ("-O2", "-static"), (emulator,))}
    for number in range(15):
        found = proof.compare(np.random.default_rng([4, number]), others)
        assert found["NEON"].differing == 0, f"image {number}"


@pytest.mark.slow
@pytest.mark.parametrize(("size", "channels"), [(0, 3), (32, 2), (32, 1)])
def test_the_c_file_refuses_what_it_cannot_do(tmp_path, compiler, size, channels):
    function = proof.build(tmp_path, compiler, ("-O2",))
    with pytest.raises(ValueError, match="refuses 8 x 8"):
        function(noise(8, 8, channels), size)


@pytest.mark.skipif(not shutil.which("cc"), reason="no C compiler is installed")
def test_installing_compiles_the_c_file_for_the_pipeline():
    assert letterbox_c.LIBRARY.exists(), "pip install --no-deps --no-build-isolation -e ."
    assert trusted_library() is not None


def test_without_a_library_opencv_gives_the_same_bytes(library, caplog):
    image = noise(90, 61)
    assert trusted_library() is None and not caplog.records
    assert np.array_equal(letterbox(image, 48), letterbox_reference(image, 48))


def test_a_file_that_is_no_library_is_named_and_left_alone(library, caplog):
    library.write_bytes(b"not a library")
    image = noise(90, 61)
    with caplog.at_level(logging.WARNING):
        assert np.array_equal(letterbox(image, 48), letterbox_reference(image, 48))
    assert str(library) in caplog.text and "pip install" in caplog.text


@pytest.mark.slow
def test_a_library_of_another_arithmetic_is_not_trusted(library, compiler, tmp_path, caplog):
    source = tmp_path / "letterbox.c"
    text = letterbox_c.SOURCE.read_text()
    source.write_text(text.replace("+ 32768) >> 16", "+ 32767) >> 16"))
    shutil.copy(letterbox_c.SOURCE.with_suffix(".h"), tmp_path)
    proof.build(tmp_path, compiler, ("-DLETTERBOX_PLAIN",), source)
    (built,) = tmp_path.glob("*PLAIN.so")
    built.rename(library)
    image = noise(90, 61)
    with caplog.at_level(logging.WARNING):
        assert np.array_equal(letterbox(image, 48), letterbox_reference(image, 48))
    assert "other bytes than the contract" in caplog.text


@pytest.mark.parametrize("implementation", [letterbox, proof.without_c])
def test_a_mirrored_view_is_letterboxed_as_it_looks(implementation):
    image = noise(70, 50)[:, ::-1]
    expected = letterbox_reference(np.ascontiguousarray(image), 32)
    assert np.array_equal(implementation(image, 32), expected)


def test_a_strip_longer_than_the_c_file_takes_goes_through_opencv():
    image = noise(letterbox_c.LONGEST + 1, 1)
    assert np.array_equal(letterbox(image, 32), letterbox_reference(image, 32))


def test_the_proof_counts_every_byte_that_differs():
    def wrong(image, size):
        square = letterbox(image, size)
        square[0, 0, 0] ^= 1
        return square

    found = proof.compare(np.random.default_rng(3), {"wrong": wrong})
    assert found["wrong"].differing == len(proof.SIZES)


def test_a_four_times_wider_image_lies_centred_between_black_bars():
    square = letterbox(np.full((10, 40, 3), 200, np.uint8), 40)
    assert (square[:15] == 0).all() and (square[15:25] == 200).all() and (square[25:] == 0).all()


def test_a_hair_thin_image_keeps_one_pixel():
    assert letterbox_size(5000, 1, 224) == (224, 1)


def test_half_a_pixel_rounds_up():
    assert letterbox_size(4, 3, 2) == (2, 2)  # 1.5 becomes 2


def test_an_image_of_the_right_size_is_left_as_it_is():
    image = noise(64, 64)
    assert np.array_equal(letterbox(image, 64), image)


def test_the_result_does_not_depend_on_the_threads_of_opencv():
    image = noise(900, 700)
    before = cv2.getNumThreads()
    results = []
    for threads in (1, 4):
        cv2.setNumThreads(threads)
        results.append(letterbox(image, 300))
    cv2.setNumThreads(before)
    assert np.array_equal(*results)
