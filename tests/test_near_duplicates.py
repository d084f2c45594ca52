"""Copies of a photo are found however they were saved again, and lookalikes are left alone."""

from typing import NamedTuple

import cv2
import numpy as np
import pytest

from workbench.benchmarks.audit import draw_image
from workbench.data.audit.duplicates import WINDOW, candidate_pairs, connect, find_near_duplicates
from workbench.data.audit.facts import RECORD_BYTES, SIDE, Thumbnails, collect_facts, fingerprints
from workbench.data.audit.likeness import compare
from workbench.settings import DatasetSettings

BITS = 10


def drawn(seed: int, width: int = 240, height: int = 180) -> np.ndarray:
    return draw_image(np.random.default_rng(seed), width, height)


def compress(image):
    return cv2.imdecode(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 50])[1], 1)


def halve(image):
    return cv2.resize(image, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)


def light(factor):
    return lambda image: np.clip(image * factor, 0, 255).astype(np.uint8)


def cut(image):
    down, across = round(image.shape[0] * 0.03), round(image.shape[1] * 0.03)
    return image[down:-down, across:-across]


class Found(NamedTuple):
    groups: np.ndarray
    compared: int


def search(folder, images, wanted=None):
    """Save images losslessly and search; returns the pairs found as sets of image numbers."""
    paths = []
    for number, image in enumerate(images):
        paths.append(folder / f"{number:04d}.png")
        cv2.imwrite(str(paths[-1]), image)
    with Thumbnails() as store:
        facts = collect_facts(paths, DatasetSettings(), store, 2)
        wanted = np.ones(len(paths), bool) if wanted is None else wanted
        found, compared = find_near_duplicates(facts, store, wanted, BITS, 2)
    pairs = found[["first", "second"]].to_numpy()
    near = Found(connect(len(paths), *pairs.T), compared)
    return near, {frozenset(pair) for pair in pairs.tolist()}


@pytest.mark.parametrize(
    "change",
    [compress, halve, light(1.1), light(0.9), cut],
    ids=["quality 50", "half the size", "10 % brighter", "10 % darker", "border cut by 3 %"],
)
def test_a_photo_saved_again_is_found(tmp_path, change):
    photos = [drawn(seed) for seed in range(40)]
    copies = [change(photo) for photo in photos[:20]]
    _, pairs = search(tmp_path, photos + copies)
    assert pairs == {frozenset((number, 40 + number)) for number in range(20)}


def test_a_photo_changed_in_several_ways_is_found(tmp_path):
    photos = [drawn(seed) for seed in range(10)]
    copies = [compress(halve(cut(light(0.9)(photo)))) for photo in photos]
    _, pairs = search(tmp_path, photos + copies)
    assert pairs == {frozenset((number, 10 + number)) for number in range(10)}


def test_the_same_drawing_in_other_colours_is_another_photo(tmp_path):
    photo = drawn(1)
    _, pairs = search(tmp_path, [photo, photo[:, :, ::-1]])
    assert not pairs


def test_the_same_sign_before_another_wall_is_another_photo(tmp_path):
    images = []
    for seed in range(2):
        grain = np.random.default_rng(seed).normal(128, 25, (90, 120, 1)).clip(0, 255)
        wall = cv2.resize(grain.astype(np.uint8), (240, 180), interpolation=cv2.INTER_CUBIC)
        image = cv2.merge([wall] * 3)
        cv2.circle(image, (120, 90), 60, (30, 30, 220), 20)
        images.append(image)
    _, pairs = search(tmp_path, images)
    assert not pairs


def test_a_thing_that_moved_is_another_photo(tmp_path):
    photo = drawn(2)
    moved = np.roll(photo, 12, axis=1)
    _, pairs = search(tmp_path, [photo, moved])
    assert not pairs


def test_pictures_without_contrast_are_not_compared(tmp_path):
    blank = np.full((100, 100, 3), 200, np.uint8)
    near, pairs = search(tmp_path, [blank, blank + 1, blank + 2])
    assert not pairs and near.compared == 0


def test_images_that_are_not_wanted_stay_alone(tmp_path):
    photo = drawn(3)
    wanted = np.array([True, False, True])
    _, pairs = search(tmp_path, [photo, compress(photo), halve(photo)], wanted)
    assert pairs == {frozenset((0, 2))}


def test_a_chain_of_copies_is_one_group(tmp_path):
    photo = drawn(4)
    near, _ = search(tmp_path, [photo, compress(photo), drawn(5), cut(photo)])
    assert near.groups[0] == near.groups[1] == near.groups[3] != near.groups[2]


def test_pairs_grow_with_the_images_even_where_all_hashes_are_alike():
    count = 3000
    rng = np.random.default_rng(0)
    coarse = np.repeat(rng.integers(0, 2**63, (1, 4), dtype=np.uint64), count, axis=0)
    fine = rng.integers(0, 2**63, count, dtype=np.uint64)
    pairs = candidate_pairs(coarse, fine, BITS)
    assert len(pairs) <= count * WINDOW * 12 * 4


def test_a_crowd_of_copies_takes_no_more_than_a_few_looks_at_each(tmp_path, monkeypatch):
    monkeypatch.setattr("workbench.data.audit.duplicates.FIRST_ROUND", 16)
    photo = drawn(6)
    rng = np.random.default_rng(0)
    crowd = [np.clip(photo * rng.uniform(0.9, 1.1), 0, 255).astype(np.uint8) for _ in range(60)]
    near, _ = search(tmp_path, crowd)
    assert len(set(near.groups)) == 1
    assert near.compared < 60 * 59 / 2 / 4


def test_close_hashes_are_proposed_and_distant_ones_are_not():
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 2**63, (20_000, 1), dtype=np.uint64)
    chosen = rng.choice(20_000, 500, replace=False)
    copies = coarse[chosen, 0]
    for _ in range(5):
        copies = copies ^ (np.uint64(1) << rng.integers(0, 64, 500).astype(np.uint64))
    coarse = np.concatenate([coarse, copies[:, None]])
    found = candidate_pairs(coarse, np.zeros(len(coarse), np.uint64), BITS)
    wanted = {(int(number), 20_000 + place) for place, number in enumerate(chosen)}
    met = wanted & set(map(tuple, found.tolist()))
    assert len(met) >= 0.99 * len(wanted)


def test_nothing_in_nothing_out():
    empty = np.zeros((0, RECORD_BYTES), np.uint8)
    assert len(compare(empty, empty)) == 0
    assert len(candidate_pairs(np.zeros((0, 4), np.uint64), np.zeros(0, np.uint64), BITS)) == 0
    assert len(connect(0, np.zeros(0, int), np.zeros(0, int))) == 0


def test_light_does_not_change_a_fingerprint():
    rng = np.random.default_rng(0)
    grey = cv2.GaussianBlur(rng.normal(100, 60, (SIDE, SIDE)).astype(np.float32), (0, 0), 4)
    coarse, _ = fingerprints(np.stack([grey, 0.8 * grey + 30]))
    assert (coarse[0] == coarse[1]).all()


def test_thumbnails_come_back_in_the_order_asked_for():
    records = np.random.default_rng(0).integers(0, 256, (10, RECORD_BYTES), dtype=np.uint8)
    with Thumbnails() as store:
        store.write(5, records[5:])
        store.write(0, records[:5])
        wanted = np.array([7, 2, 3, 7, 0])
        assert (store.read(wanted) == records[wanted]).all()
