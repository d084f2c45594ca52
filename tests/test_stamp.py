"""Whatever happens to a dataset folder after the audit shows in its stamp."""

import os
import shutil
import time
from pathlib import Path

import pytest

from workbench.data.layouts import stamp_dataset
from workbench.errors import DatasetError


@pytest.fixture
def folder(tmp_path) -> Path:
    """A dataset whose images are a link to a folder elsewhere."""
    elsewhere = tmp_path / "disk/photos"
    (elsewhere / "deep").mkdir(parents=True)
    for name in ("a.jpg", "b.jpg", "deep/c.jpg"):
        (elsewhere / name).write_bytes(b"a photo")
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "images").symlink_to(elsewhere)
    (folder / "train_labels.csv").write_text("filepath,labels\na.jpg,cat\n")
    return folder


def overwrite(folder: Path) -> None:
    (folder / "images/a.jpg").write_bytes(b"another photo")


def delete(folder: Path) -> None:
    (folder / "images/deep/c.jpg").unlink()


def add(folder: Path) -> None:
    (folder / "images/deep/d.jpg").write_bytes(b"a new photo")


def rename(folder: Path) -> None:
    (folder / "images/a.jpg").rename(folder / "images/z.jpg")


def copy_with_times(folder: Path) -> None:
    """Change a photo as `rsync -t` does: same size, same time of modification."""
    path = folder / "images/b.jpg"
    before = path.stat()
    path.write_bytes(b"A PHOTO")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)


def relabel(folder: Path) -> None:
    (folder / "train_labels.csv").write_text("filepath,labels\na.jpg,dog\n")


def link_elsewhere(folder: Path) -> None:
    other = folder.parent / "other"
    shutil.copytree(folder / "images/", other)
    (folder / "images").unlink()
    (folder / "images").symlink_to(other)


@pytest.mark.parametrize(
    "change", [overwrite, delete, add, rename, copy_with_times, relabel, link_elsewhere]
)
def test_a_change_is_noticed(folder, change):
    before = stamp_dataset(folder)
    change(folder)
    assert stamp_dataset(folder) != before


def test_an_untouched_folder_keeps_its_stamp(folder):
    assert stamp_dataset(folder) == stamp_dataset(folder)


def test_a_table_saved_again_with_the_same_content_keeps_the_stamp(folder):
    before = stamp_dataset(folder)
    (folder / "train_labels.csv").write_text((folder / "train_labels.csv").read_text())
    assert stamp_dataset(folder) == before


def test_links_in_a_circle_come_to_an_end_and_changes_are_still_noticed(folder):
    (folder / "images/deep/up").symlink_to(folder)
    (folder / "images/self").symlink_to("self")
    before = stamp_dataset(folder)
    overwrite(folder)
    assert stamp_dataset(folder) != before


def test_a_link_to_nowhere_is_no_failure(folder):
    (folder / "images/gone.jpg").symlink_to("nowhere.jpg")
    before = stamp_dataset(folder)
    (folder / "images/nowhere.jpg").write_bytes(b"there now")
    assert stamp_dataset(folder) != before


def test_a_run_folder_inside_the_dataset_is_no_part_of_it(folder):
    run = folder / "outputs/mine"
    run.mkdir(parents=True)
    before = stamp_dataset(folder, run)
    (run / "audit.csv").write_text("made by the run")
    assert stamp_dataset(folder, run) == before


def test_ten_thousand_photos_are_stamped_well_under_a_second(tmp_path):
    for number in range(10_000):
        (tmp_path / f"{number}.jpg").touch()
    started = time.process_time()
    stamp_dataset(tmp_path)
    assert time.process_time() - started < 0.9


def test_a_folder_that_is_not_there_is_named_with_the_way_out(tmp_path):
    with pytest.raises(DatasetError, match=r"No dataset in .*nothing.*python -m workbench demo"):
        stamp_dataset(tmp_path / "nothing")
