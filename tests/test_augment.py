"""Augmentation: a function of image and random numbers, every knob on its own."""

import subprocess
import sys

import cv2
import numpy as np
import pytest

from workbench.data.views import Purpose, augment, random_stream
from workbench.settings import AugmentationSettings, ColorJitter, Cutout

NO_JITTER = ColorJitter(brightness=0.0, contrast=0.0, saturation=0.0, hue=0.0)
OFF = AugmentationSettings(
    random_flip_horizontal=False,
    random_rotation_factor=0.0,
    random_zoom_factor=0.0,
    color_jitter=NO_JITTER,
    gaussian_noise_stddev=0.0,
    cutout=Cutout(num_patches=0),
)
EVERYTHING = AugmentationSettings(
    random_flip_vertical=True,
    random_crop_scale=0.5,
    random_shift_factor=0.1,
    perspective=0.1,
    color_jitter=ColorJitter(hue=0.1),
    blur_probability=0.5,
    sharpen_probability=0.5,
    clahe_probability=0.5,
)


def only(**knobs) -> AugmentationSettings:
    return OFF.model_copy(update=knobs)


def picture(width: int = 90, height: int = 60) -> np.ndarray:
    """A smooth picture with four different corners and some texture."""
    y, x = np.mgrid[0:height, 0:width]
    noise = np.random.default_rng(0).integers(0, 12, (height, width, 3))
    ramps = [40 + 150 * x / width, 30 + 160 * y / height, 60 + 100 * (x + y) / (width + height)]
    return (np.stack(ramps, axis=-1) + noise).astype(np.uint8)


def views(settings: AugmentationSettings, count: int = 20, image: np.ndarray | None = None):
    image = picture() if image is None else image
    return [augment(image, rng_of(n), settings) for n in range(count)]


def rng_of(index: int) -> np.random.Generator:
    return random_stream(Purpose.AUGMENT, 1, 0, index)


def test_with_everything_off_the_image_stays_as_it_is():
    assert all(np.array_equal(view, picture()) for view in views(OFF))


@pytest.mark.parametrize("settings", [AugmentationSettings(), EVERYTHING], ids=["default", "all"])
def test_the_same_random_numbers_give_the_same_pixels(settings):
    for first, second in zip(views(settings), views(settings), strict=True):
        assert np.array_equal(first, second)


@pytest.mark.slow
def test_another_process_gives_the_same_pixels():
    code = (
        "import hashlib\n"
        "from tests.test_augment import EVERYTHING, views\n"
        "print(hashlib.sha256(b''.join(v.tobytes() for v in views(EVERYTHING))).hexdigest())"
    )
    command = [sys.executable, "-c", code]
    first, second = (subprocess.check_output(command, text=True) for _ in range(2))
    assert first == second


@pytest.mark.parametrize("settings", [AugmentationSettings(), EVERYTHING], ids=["default", "all"])
def test_the_image_itself_is_never_written_to(settings):
    image = picture()
    before = image.copy()
    views(settings, image=image)
    assert np.array_equal(image, before)


@pytest.mark.parametrize(("width", "height"), [(1, 1), (1, 300), (300, 1), (2, 3), (40_000, 2)])
def test_extreme_shapes_survive_every_knob(width, height):
    image = np.full((height, width, 3), 77, np.uint8)
    for view in views(EVERYTHING, 8, image):
        assert view.dtype == np.uint8 and view.ndim == 3 and view.size


@pytest.mark.parametrize("axis", ["horizontal", "vertical"])
def test_half_of_the_images_are_flipped(axis):
    settings = only(**{f"random_flip_{axis}": True})
    mirrored = picture()[:, ::-1] if axis == "horizontal" else picture()[::-1]
    flipped = [np.array_equal(view, mirrored) for view in views(settings, 200)]
    assert all(
        f or np.array_equal(v, picture())
        for f, v in zip(flipped, views(settings, 200), strict=True)
    )
    assert 70 < sum(flipped) < 130


@pytest.mark.parametrize(
    "knob",
    [
        {"random_rotation_factor": 0.1},
        {"random_zoom_factor": 0.2},
        {"random_shift_factor": 0.2},
        {"perspective": 0.1},
    ],
    ids=lambda knob: next(iter(knob)),
)
def test_geometry_keeps_the_size_and_moves_the_pixels(knob):
    for view in views(only(**knob), 10):
        assert view.shape == picture().shape
        assert np.abs(view.astype(int) - picture()).mean() > 0.5


def test_a_large_photo_is_drawn_no_larger_than_asked_for():
    image = picture(400, 200)
    view = augment(image, rng_of(0), AugmentationSettings(), longest=80)
    assert view.shape == (40, 80, 3)


def test_a_small_photo_keeps_its_size():
    view = augment(picture(), rng_of(0), AugmentationSettings(), longest=1000)
    assert view.shape == picture().shape


def test_drawing_smaller_shows_the_same_scene():
    image = np.repeat(np.repeat(picture(80, 60), 5, axis=0), 5, axis=1)
    settings = only(random_rotation_factor=0.03, random_zoom_factor=0.1)
    small = augment(image, rng_of(4), settings, longest=80)
    large = augment(image, rng_of(4), settings)
    shrunk = cv2.resize(large, (80, 60), interpolation=cv2.INTER_AREA)
    assert np.abs(small.astype(int) - shrunk).mean() < 4


def test_rotation_turns_about_the_centre():
    image = np.zeros((61, 61, 3), np.uint8)
    image[28:33, 28:33] = 255
    for view in views(only(random_rotation_factor=0.5), 10, image):
        rows, columns = np.nonzero(view[:, :, 0] > 128)
        assert abs(rows.mean() - 30) < 0.6 and abs(columns.mean() - 30) < 0.6


def test_zoom_goes_both_ways_within_its_factor():
    image = np.zeros((101, 101, 3), np.uint8)
    image[30:71, 30:71] = 255
    sides = [
        np.sqrt((v[:, :, 0] > 128).sum()) for v in views(only(random_zoom_factor=0.3), 40, image)
    ]
    assert 41 * 0.68 < min(sides) < 36 and 46 < max(sides) < 41 * 1.32


def test_a_resized_crop_keeps_the_share_of_the_area_asked_for():
    areas = [v.shape[0] * v.shape[1] for v in views(only(random_crop_scale=0.5), 60)]
    whole = picture().shape[0] * picture().shape[1]
    assert 0.45 * whole < min(areas) < 0.65 * whole
    assert max(areas) <= whole


def test_brightness_scales_all_channels():
    jitter = NO_JITTER.model_copy(update={"brightness": 0.3})
    ratios = [v.mean() / picture().mean() for v in views(only(color_jitter=jitter), 60)]
    assert 0.69 < min(ratios) < 0.8 and 1.2 < max(ratios) < 1.31


def test_contrast_keeps_the_mean():
    jitter = NO_JITTER.model_copy(update={"contrast": 0.3})
    changed = views(only(color_jitter=jitter), 30)
    grey = picture().astype(float) @ [0.299, 0.587, 0.114]
    for view in changed:
        assert abs((view.astype(float) @ [0.299, 0.587, 0.114]).mean() - grey.mean()) < 1
    assert min(v.std() for v in changed) < 0.85 * picture().std()


def test_full_desaturation_ends_in_grey():
    jitter = NO_JITTER.model_copy(update={"saturation": 1.0})
    spread = [np.ptp(v.astype(int), axis=2).mean() for v in views(only(color_jitter=jitter), 80)]
    assert min(spread) < 5 and max(spread) > np.ptp(picture().astype(int), axis=2).mean()


def test_hue_leaves_greys_alone():
    grey = np.repeat(picture()[:, :, :1], 3, axis=2)
    jitter = NO_JITTER.model_copy(update={"hue": 0.5})
    for view in views(only(color_jitter=jitter), 10, grey):
        assert np.abs(view.astype(int) - grey).max() <= 1


def test_noise_has_the_spread_asked_for():
    flat = np.full((200, 200, 3), 128, np.uint8)
    for view in views(only(gaussian_noise_stddev=0.02), 5, flat):
        assert abs(view.astype(float).std() - 0.02 * 255) < 0.1
        assert abs(view.astype(float).mean() - 128) < 0.1


def test_noise_differs_from_image_to_image():
    flat = np.full((50, 50, 3), 128, np.uint8)
    first, second = views(only(gaussian_noise_stddev=0.05), 2, flat)
    correlation = np.corrcoef(first.ravel(), second.ravel())[0, 1]
    assert abs(correlation) < 0.1


def test_noise_saturates_instead_of_wrapping_round():
    white = np.full((50, 50, 3), 255, np.uint8)
    for view in views(only(gaussian_noise_stddev=0.1), 3, white):
        assert view.min() > 100


def test_noise_covers_images_larger_than_the_ready_drawn_noise():
    flat = np.full((1500, 1200, 3), 128, np.uint8)
    first, second = views(only(gaussian_noise_stddev=0.02), 2, flat)
    assert first[-300:].std() > 4
    assert not np.array_equal(first, second)


def test_what_lies_outside_of_the_photo_is_black():
    white = np.full((60, 90, 3), 255, np.uint8)
    turned = views(only(random_rotation_factor=0.1), 5, white)
    assert min(view[[0, -1], 0].min() for view in turned) == 0
    assert all(view[30, 45].min() == 255 for view in turned)


def test_cutout_paints_the_squares_asked_for():
    flat = np.full((100, 200, 3), 255, np.uint8)
    for view in views(only(cutout=Cutout(num_patches=1, patch_size_ratio=0.2)), 20, flat):
        assert (view == 128).all(axis=2).sum() == 20 * 20


@pytest.mark.parametrize("knob", ["blur_probability", "sharpen_probability", "clahe_probability"])
def test_textures_change_about_as_many_images_as_asked_for(knob):
    changed = [not np.array_equal(v, picture()) for v in views(only(**{knob: 0.5}), 100)]
    assert 30 < sum(changed) < 70


def test_blur_smooths_and_sharpening_does_the_opposite():
    def roughness(image):
        return np.abs(np.diff(image.astype(int), axis=1)).mean()

    (blurred,) = views(only(blur_probability=1.0), 1)
    (sharpened,) = views(only(sharpen_probability=1.0), 1)
    assert roughness(blurred) < roughness(picture()) < roughness(sharpened)
