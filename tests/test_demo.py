"""The demo dataset: drawn from a seed, whole or absent, in the layout of anybody's data."""

import csv

import numpy as np
import pytest
from PIL import Image

from workbench.data.demo import CLASSES, draw_demo, draw_photo
from workbench.errors import DatasetError


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "demo"
    draw_demo(folder, images=60)
    return folder


def rows(folder) -> list[dict]:
    found = []
    for split in ("train", "val", "test"):
        with open(folder / f"{split}_labels.csv", newline="", encoding="utf-8") as file:
            found += csv.DictReader(file)
    return found


def test_every_row_is_an_image_and_every_image_a_row(drawn):
    assert sorted(row["filepath"] for row in rows(drawn)) == sorted(
        path.name for path in (drawn / "images").iterdir()
    )


def test_there_are_seven_classes_up_to_three_at_once_and_some_images_with_none(drawn):
    labels = [row["labels"].split("|") if row["labels"] else [] for row in rows(drawn)]
    assert {name for cell in labels for name in cell} == set(CLASSES)
    assert {len(cell) for cell in labels} == {0, 1, 2, 3}


def test_sizes_and_formats_vary(drawn):
    images = [Image.open(path) for path in (drawn / "images").iterdir()]
    assert {image.format for image in images} == {"JPEG", "PNG"}
    assert len({image.size for image in images}) > 50


def test_the_same_seed_draws_the_same_photo():
    first, second = (draw_photo(["red_circle"], np.random.default_rng(4)) for _ in range(2))
    assert first.tobytes() == second.tobytes()


def test_drawing_again_keeps_what_is_there(drawn):
    before = (drawn / "images/photo_00001.jpg").stat().st_mtime_ns
    assert not draw_demo(drawn, images=60).drawn
    assert (drawn / "images/photo_00001.jpg").stat().st_mtime_ns == before


def test_somebody_elses_folder_is_never_overwritten(tmp_path):
    (tmp_path / "holiday.jpg").write_bytes(b"mine")
    with pytest.raises(DatasetError, match="holds something else"):
        draw_demo(tmp_path, images=20)
    assert (tmp_path / "holiday.jpg").read_bytes() == b"mine"


def test_a_drawing_of_an_earlier_version_is_kept_aside_and_drawn_anew(tmp_path):
    folder = draw_demo(tmp_path / "demo", images=20).folder
    recipe = (folder / "demo.json").read_text()
    (folder / "demo.json").write_text(recipe.replace('"version": 2', '"version": 1'))
    (folder / "train_labels.csv").write_text("edited")
    assert draw_demo(folder, images=20).drawn
    assert (tmp_path / "demo_version_1/train_labels.csv").read_text() == "edited"


def test_a_killed_drawing_leaves_no_half_dataset(tmp_path, monkeypatch):
    def die(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("workbench.data.demo.write_json", die)
    with pytest.raises(KeyboardInterrupt):
        draw_demo(tmp_path / "demo", images=20)
    assert not (tmp_path / "demo").exists()
