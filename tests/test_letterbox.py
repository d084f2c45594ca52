"""The letterbox: one arithmetic, many implementations, the same bytes."""

import shutil

import cv2
import numpy as np
import pytest

from tests.prove import letterbox as proof
from workbench.data.letterbox import (
    FOUR_CHANNEL_PIXELS,
    letterbox,
    letterbox_all,
    letterbox_reference,
    letterbox_size,
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
@pytest.mark.parametrize("implementation", [letterbox, proof.with_opencv])
def test_fast_versions_give_the_bytes_of_the_reference(implementation, width, height):
    image = noise(width, height)
    assert np.array_equal(implementation(image, 240), letterbox_reference(image, 240))


def test_a_large_image_takes_the_other_branch_to_the_same_bytes():
    image = noise(1250, 900)
    assert image.shape[0] * image.shape[1] > FOUR_CHANNEL_PIXELS
    assert np.array_equal(letterbox_all(image, [224])[0], letterbox_reference(image, 224))


def test_random_images_agree_in_all_python_versions():
    others = {"pipeline": letterbox, "OpenCV": proof.with_opencv}
    for number in range(25):
        found = proof.compare(np.random.default_rng([1, number]), others)
        assert [count.differing for count in found.values()] == [0, 0], f"image {number}"


@pytest.mark.parametrize("size", [256, 512])
@pytest.mark.parametrize(("width", "height"), [(255, 77), (321, 999), (1023, 1022), (513, 1)])
def test_positions_exactly_between_two_steps_are_rounded_up(width, height, size):
    image = noise(width, height)
    assert np.array_equal(letterbox(image, size), letterbox_reference(image, size))


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
@pytest.mark.parametrize(("size", "channels"), [(0, 3), (32, 2), (32, 1)])
def test_the_c_file_refuses_what_it_cannot_do(tmp_path, compiler, size, channels):
    function = proof.build(tmp_path, compiler, ("-O2",))
    with pytest.raises(ValueError, match="refused"):
        function(noise(8, 8, channels), size)


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
