"""Preparing photos makes a tidy, readable copy and leaves the source alone."""

import hashlib
import os

import numpy as np
import pytest
from PIL import Image

from workbench.data.prepare import prepare
from workbench.data.tables import read_dataset
from workbench.errors import InputError
from workbench.settings import Settings


def photo(width: int, height: int, seed: int = 0) -> Image.Image:
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 255, (8, 8, 3), np.uint8))
    return small.resize((width, height), Image.Resampling.BICUBIC)


@pytest.fixture
def source(tmp_path):
    """Three splits of two photos each; one photo is a PNG, one is turned by EXIF."""
    folder = tmp_path / "raw"
    (folder / "images/deep").mkdir(parents=True)
    exif = Image.Exif()
    exif[274] = 6
    photo(900, 300, 1).save(folder / "images/wide.jpg")
    photo(900, 300, 2).save(folder / "images/turned.jpg", exif=exif)
    photo(200, 100, 3).save(folder / "images/deep/small.png")
    photo(120, 120, 4).save(folder / "images/twin.png")
    photo(120, 120, 5).save(folder / "images/twin.jpg")
    photo(120, 120, 6).save(folder / "images/last.bmp")
    rows = {
        "train": ["wide.jpg,cat|dog", "turned.jpg,cat"],
        "val": ["deep/small.png,dog", "twin.png,cat"],
        "test": ["twin.jpg,dog", "last.bmp,?dog"],
    }
    for split, lines in rows.items():
        table = "\r\n".join(["filepath,labels", *lines]) + "\r\n"
        (folder / f"{split}_labels.csv").write_text(table, newline="")
    return folder


def content(folder) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_no_side_is_longer_than_asked_and_nothing_is_enlarged(source, tmp_path):
    prepare(source, tmp_path / "tidy", 300, 90)
    assert Image.open(tmp_path / "tidy/images/wide.jpg").size == (300, 100)
    assert Image.open(tmp_path / "tidy/images/deep/small.jpg").size == (200, 100)


def test_exif_orientation_is_applied_and_gone(source, tmp_path):
    prepare(source, tmp_path / "tidy", 300, 90)
    turned = Image.open(tmp_path / "tidy/images/turned.jpg")
    assert turned.size == (100, 300)
    assert not turned.getexif()


def test_the_copy_is_a_dataset_with_the_same_labels(source, tmp_path):
    settings = Settings(num_classes="auto")
    before = read_dataset(source, settings)
    prepare(source, tmp_path / "tidy", 300, 90)
    after = read_dataset(tmp_path / "tidy", settings)
    for column in ("split", "labels", "unknown"):
        assert list(after.rows[column]) == list(before.rows[column])


def test_names_that_would_collide_stay_apart(source, tmp_path):
    prepare(source, tmp_path / "tidy", 300, 90)
    names = {path.name for path in (tmp_path / "tidy/images").iterdir()}
    assert {"twin.jpg", "twin_png.jpg"} <= names


def test_the_source_is_not_touched(source, tmp_path):
    before = content(source)
    prepare(source, tmp_path / "tidy", 300, 90)
    assert content(source) == before


def test_what_cannot_be_read_is_listed_with_its_labels(source, tmp_path):
    (source / "images/wide.jpg").write_bytes(b"<html>404</html>")
    done = prepare(source, tmp_path / "tidy", 300, 90)
    listed = (tmp_path / "tidy/unreadable.csv").read_text().splitlines()
    assert listed[1].startswith("images/wide.jpg,") and listed[1].endswith(",cat|dog")
    assert "wide.jpg" not in (tmp_path / "tidy/train_labels.csv").read_text()
    assert done.figures["unreadable"] == 1


def test_a_destination_with_files_is_refused(source, tmp_path):
    (tmp_path / "tidy").mkdir()
    (tmp_path / "tidy/mine.txt").write_text("keep")
    with pytest.raises(InputError, match="not an empty folder"):
        prepare(source, tmp_path / "tidy", 300, 90)


def test_a_destination_inside_the_source_is_refused(source):
    with pytest.raises(InputError, match="lie in each other"):
        prepare(source, source / "tidy", 300, 90)


def test_a_failure_leaves_no_half_copy(source, tmp_path, monkeypatch):
    monkeypatch.setattr("workbench.data.prepare._write_texts", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        prepare(source, tmp_path / "tidy", 300, 90)
    assert [path.name for path in tmp_path.iterdir()] == ["raw"]


def test_a_folder_a_class_keeps_its_folders(tmp_path):
    for name in ("cat", "dog"):
        (tmp_path / "raw" / name).mkdir(parents=True)
        photo(50, 40).save(tmp_path / "raw" / name / "one.webp")
    prepare(tmp_path / "raw", tmp_path / "tidy", 300, 90)
    assert (tmp_path / "tidy/dog/one.jpg").is_file()


@pytest.mark.parametrize(("size", "quality"), [(0, 90), (70_000, 90), (300, 0), (300, 101)])
def test_absurd_sizes_and_qualities_are_refused(source, tmp_path, size, quality):
    with pytest.raises(InputError, match="must be 1 to"):
        prepare(source, tmp_path / "tidy", size, quality)


def test_a_text_that_is_a_pipe_or_a_link_out_is_listed_and_never_opened(source, tmp_path):
    (tmp_path / "secret.txt").write_text("secret")
    (source / "notes.txt").symlink_to(tmp_path / "secret.txt")
    os.mkfifo(source / "notes.md")
    (source / "zero.csv").symlink_to("/dev/zero")
    prepared = prepare(source, tmp_path / "tidy", 300, 90)
    assert sorted(prepared.unreadable["filepath"]) == ["notes.md", "notes.txt", "zero.csv"]
    assert not (tmp_path / "tidy/notes.txt").exists()
