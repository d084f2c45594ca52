"""Clips become frames with their clip as group; what is hostile is refused with a line."""

import cv2
import numpy as np
import pytest

from workbench.data import video
from workbench.data.prepare import prepare
from workbench.data.tables import read_dataset
from workbench.data.video import VideoError, read_frames
from workbench.settings import Settings

PIXELS = 10**6


def draw(path, frames: int = 20, side: int = 64, colour=(0, 0, 0)) -> None:
    """A clip whose red counts its frames, in steps of 10."""
    path.parent.mkdir(parents=True, exist_ok=True)
    codec = cv2.VideoWriter_fourcc(*("MJPG" if path.suffix == ".avi" else "mp4v"))
    writer = cv2.VideoWriter(str(path), codec, 10, (side, side))
    for number in range(frames):
        writer.write(np.full((side, side, 3), (*colour[:2], 10 * number), np.uint8))
    writer.release()


def reds(frames) -> list[int]:
    return [round(float(frame[..., 0].mean()) / 10) for frame in frames]


def table(path) -> list[str]:
    return path.read_text().splitlines()


@pytest.mark.parametrize("suffix", [".avi", ".mp4"])
def test_frames_are_the_middles_of_equally_long_parts(tmp_path, suffix):
    draw(tmp_path / f"clip{suffix}")
    assert reds(read_frames(tmp_path / f"clip{suffix}", 4, PIXELS)) == [2, 7, 12, 17]
    assert reds(read_frames(tmp_path / f"clip{suffix}", 1, PIXELS)) == [10]


def test_a_clip_with_fewer_frames_gives_each_of_them_once(tmp_path):
    draw(tmp_path / "clip.avi", frames=3)
    assert reds(read_frames(tmp_path / "clip.avi", 8, PIXELS)) == [0, 1, 2]


def test_a_torn_clip_is_counted_by_what_decodes_and_not_by_its_header(tmp_path):
    draw(tmp_path / "clip.avi", frames=20)
    whole = (tmp_path / "clip.avi").read_bytes()
    middle = (whole.index(b"movi") + whole.rindex(b"idx1")) // 2
    (tmp_path / "torn.avi").write_bytes(whole[:middle])
    found = reds(read_frames(tmp_path / "torn.avi", 4, PIXELS))
    assert len(found) == 4 and found == sorted(found) and found[-1] < 12


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is no video file"),
        (b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n", "is no video file"),
        (b"ffconcat version 1.0\nfile /etc/passwd\n", "is no video file"),
        (b"\0\0\0\x20ftypisom" + b"\0" * 500, "is damaged"),
    ],
)
def test_what_is_no_clip_is_refused_before_anything_follows_it(tmp_path, content, reason):
    (tmp_path / "clip.mp4").write_bytes(content)
    with pytest.raises(VideoError, match=reason):
        list(read_frames(tmp_path / "clip.mp4", 4, PIXELS))


def test_huge_clips_are_refused_with_their_bound(tmp_path, monkeypatch):
    draw(tmp_path / "clip.avi")
    with pytest.raises(VideoError, match="has 64 x 64 pixels, more than 4000"):
        list(read_frames(tmp_path / "clip.avi", 4, max_pixels=4000))
    monkeypatch.setattr(video, "MOST_PIXELS", 64 * 64 * 15)
    with pytest.raises(VideoError, match="more than 15 frames of its size; cut it"):
        list(read_frames(tmp_path / "clip.avi", 4, PIXELS))


def test_clips_in_class_folders_become_a_table_with_groups(tmp_path):
    for name in ("cat/one.avi", "cat/two.mp4", "dog/one.avi"):
        draw(tmp_path / "raw" / name)
    cv2.imwrite(str(tmp_path / "raw/dog/photo.png"), np.zeros((9, 9, 3), np.uint8))
    done = prepare(tmp_path / "raw", tmp_path / "tidy", 32, 90, frames=2)
    assert (done.images, done.clips) == (7, 3)
    assert table(tmp_path / "tidy/labels.csv") == [
        "filepath,labels,group", "cat/one_0001.jpg,cat,cat/one", "cat/one_0002.jpg,cat,cat/one",
        "cat/two_0001.jpg,cat,cat/two", "cat/two_0002.jpg,cat,cat/two",
        "dog/one_0001.jpg,dog,dog/one", "dog/one_0002.jpg,dog,dog/one", "dog/photo.jpg,dog,",
    ]  # fmt: skip
    assert all((tmp_path / "tidy/images" / line.split(",")[0]).is_file()
               for line in table(tmp_path / "tidy/labels.csv")[1:])  # fmt: skip


def test_the_row_of_a_clip_becomes_a_row_a_frame_and_keeps_a_group_of_its_own(tmp_path):
    for number in range(3):
        draw(tmp_path / f"raw/images/{number}.avi", colour=(80 * number, 0, 0))
        cv2.imwrite(str(tmp_path / f"raw/images/p{number}.jpg"), np.full((9, 9, 3), 40 * number))
    rows = {"train": "0.avi,a|b,film", "val": "1.avi,b,", "test": "2.avi,a,"}
    for number, (split, row) in enumerate(rows.items()):
        text = f"filepath,labels,group\n{row}\np{number}.jpg,a,\n"
        (tmp_path / f"raw/{split}_labels.csv").write_text(text)
    prepare(tmp_path / "raw", tmp_path / "tidy", 64, 90, frames=2)
    assert table(tmp_path / "tidy/train_labels.csv") == [
        "filepath,labels,group", "0_0001.jpg,a|b,film", "0_0002.jpg,a|b,film", "p0.jpg,a,",
    ]  # fmt: skip
    val = read_dataset(tmp_path / "tidy", Settings(num_classes="auto")).split("val")
    assert val.groups.tolist() == [0, 0, 1]


def test_a_broken_clip_is_listed_with_its_labels_and_leaves_no_frame(tmp_path):
    draw(tmp_path / "raw/images/good.avi")
    (tmp_path / "raw/images/bad.mp4").write_bytes(b"no clip")
    (tmp_path / "raw/labels.csv").write_text("filepath,labels\ngood.avi,a\nbad.mp4,b\n")
    done = prepare(tmp_path / "raw", tmp_path / "tidy", 64, 90, frames=2)
    assert done.unreadable.iloc[0].tolist()[::2] == ["images/bad.mp4", "b"]
    assert "is no video file" in done.summary
    assert sorted(path.name for path in (tmp_path / "tidy/images").iterdir()) == [
        "good_0001.jpg", "good_0002.jpg",
    ]  # fmt: skip


def test_frames_that_would_take_the_name_of_a_photo_or_another_clip_stay_apart(tmp_path):
    for name in ("a.avi", "a.mp4"):
        draw(tmp_path / "raw/cat" / name)
    cv2.imwrite(str(tmp_path / "raw/cat/a_0001.png"), np.zeros((9, 9, 3), np.uint8))
    done = prepare(tmp_path / "raw", tmp_path / "tidy", 32, 90, frames=2)
    assert done.images == len(list((tmp_path / "tidy/images/cat").iterdir())) == 5
    groups = {line.split(",")[2] for line in table(tmp_path / "tidy/labels.csv")[1:]}
    assert groups == {"", "cat/a_avi", "cat/a_mp4"}


def test_without_frames_a_clip_is_listed_with_the_option_that_takes_it_apart(tmp_path):
    draw(tmp_path / "raw/cat/a.avi")
    assert "--frames N takes it apart" in prepare(tmp_path / "raw", tmp_path / "tidy").summary
