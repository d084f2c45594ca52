"""Files that are whole or absent, and paths that stay inside."""

import errno
import json
import os

import pytest

from workbench import files
from workbench.errors import InputError


def test_a_crash_while_writing_leaves_the_old_file_and_no_litter(tmp_path):
    target = tmp_path / "metrics.json"
    files.write_text(target, "old")
    with pytest.raises(RuntimeError), files.writing(target) as temporary:
        temporary.write_text("half")
        raise RuntimeError("power cut")
    assert target.read_text() == "old"
    assert os.listdir(tmp_path) == ["metrics.json"]


@pytest.mark.parametrize("broken", ["replace", "fsync"])
def test_a_full_disk_leaves_the_old_file_and_no_litter(tmp_path, monkeypatch, broken):
    target = tmp_path / "metrics.json"
    files.write_text(target, "old")

    def refuse(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched, pytest.raises(OSError, match="No space"):
        patched.setattr(os, broken, refuse)
        files.write_text(target, "new")
    assert target.read_text() == "old"
    assert os.listdir(tmp_path) == ["metrics.json"]


def test_a_full_disk_names_the_file_that_did_not_fit(tmp_path):
    with pytest.raises(OSError) as caught, files.writing(tmp_path / "metrics.json"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert caught.value.filename == str(tmp_path / "metrics.json")


def test_json_nested_without_end_is_refused(tmp_path):
    (tmp_path / "status.json").write_text("[" * 200_000)
    with pytest.raises(InputError, match="is not valid JSON"):
        files.read_json(tmp_path / "status.json")


def test_json_without_a_meaning_is_refused_when_written(tmp_path):
    with pytest.raises(ValueError, match="Out of range"):
        files.write_json(tmp_path / "metrics.json", {"f1": float("nan")})
    assert not (tmp_path / "metrics.json").exists()


def test_json_keeps_text_of_every_language(tmp_path):
    files.write_json(tmp_path / "labels.json", ["café", "蘑菇"])
    assert json.loads((tmp_path / "labels.json").read_text()) == ["café", "蘑菇"]


def test_damaged_json_says_what_to_do(tmp_path):
    (tmp_path / "status.json").write_text('{"steps": ')
    with pytest.raises(InputError, match=r"status\.json is not valid JSON.*run again"):
        files.read_json(tmp_path / "status.json")


@pytest.mark.parametrize(
    "path",
    ["../secret", "a/../../b", "/etc/passwd", "~/x", "C:\\x", "C:x", "a\\b", "file:///etc/passwd",
     "gs://bucket/x", "a\0b", ""],
)  # fmt: skip
def test_a_path_that_could_leave_the_folder_is_refused(tmp_path, path):
    with pytest.raises(InputError):
        files.safe_join(tmp_path, path)


def test_a_link_out_of_the_folder_is_refused(tmp_path):
    (tmp_path / "inside").mkdir()
    (tmp_path / "inside/link").symlink_to(tmp_path)
    with pytest.raises(InputError, match="leads out"):
        files.safe_join(tmp_path / "inside", "link/secret")


def test_spaces_emoji_and_dots_in_names_are_welcome(tmp_path):
    assert files.safe_join(tmp_path, "my photos/ä..🍄 (1).jpg").name == "ä..🍄 (1).jpg"
