"""A dataset that lies elsewhere becomes a folder here: whole, checked, and copied no more often."""

import io
import logging
from pathlib import Path

import fsspec
import pytest

from workbench.data import remote
from workbench.data.layouts import stamp_dataset
from workbench.data.remote import copy_dataset, local_folder
from workbench.errors import DatasetError
from workbench.run import Run
from workbench.settings import Settings

URL = "memory://photos/set"
FILES = {"labels.csv": b"filepath,labels\na.jpg,cat\n", "images/a.jpg": b"a" * 3000,
         "images/deep/b.jpg": b"b" * 20}  # fmt: skip


@pytest.fixture
def there():
    """A memory file system with a small dataset; what is put there is gone afterwards."""
    system = fsspec.filesystem("memory")
    for name, data in FILES.items():
        system.pipe_file(f"/photos/set/{name}", data)
    yield system
    system.store.clear()
    system.pseudo_dirs[:] = [""]


def copied(root: Path, url: str = URL) -> dict[str, bytes]:
    folder = local_folder(url, root)
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files
            if not path.name.startswith(".")}  # fmt: skip


def test_all_files_come_once_and_their_size_is_told_before(there, tmp_path, caplog):
    with caplog.at_level(logging.INFO):
        first = copy_dataset(URL, tmp_path)
    assert copied(tmp_path) == FILES
    assert (first.files, first.copied) == (3, 3) and first.bytes == sum(map(len, FILES.values()))
    assert "3 files, 0.0 MB; 3 of them" in caplog.text
    assert copy_dataset(URL, tmp_path).copied == 0


def test_a_folder_of_this_machine_is_a_file_url_too(tmp_path):
    for name, data in FILES.items():
        (tmp_path / "there" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "there" / name).write_bytes(data)
    url = f"file://{tmp_path}/there"
    copy_dataset(url, tmp_path)
    assert copied(tmp_path, url) == FILES
    (tmp_path / "there/images/link.jpg").symlink_to("/etc/hostname")
    with pytest.raises(DatasetError, match=r"link.jpg' is no plain file"):
        copy_dataset(url, tmp_path)


def test_a_changed_file_makes_the_audit_out_of_date_and_the_same_bytes_do_not(there, tmp_path):
    copy_dataset(URL, tmp_path)
    before = stamp_dataset(local_folder(URL, tmp_path))
    there.pipe_file("/photos/set/images/a.jpg", FILES["images/a.jpg"])  # at another time
    assert copy_dataset(URL, tmp_path).copied == 1
    assert stamp_dataset(local_folder(URL, tmp_path)) == before
    there.pipe_file("/photos/set/images/a.jpg", b"z" * 3000)
    copy_dataset(URL, tmp_path)
    assert stamp_dataset(local_folder(URL, tmp_path)) != before


def test_what_is_gone_there_goes_here_and_what_was_damaged_here_comes_again(there, tmp_path):
    copy_dataset(URL, tmp_path)
    there.rm_file("/photos/set/images/deep/b.jpg")
    (local_folder(URL, tmp_path) / "images/a.jpg").write_bytes(b"x")
    found = copy_dataset(URL, tmp_path)
    assert (found.copied, found.gone) == (1, 1)
    assert copied(tmp_path) == {name: FILES[name] for name in ("labels.csv", "images/a.jpg")}


NAMES = ("../out.jpg", "images/../../out.jpg", "images/a\nb.jpg", "images/c:\\x.jpg",
         "IMAGES/A.jpg", "labels.csv/x.jpg")  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_a_name_that_leads_out_or_cannot_be_here_is_refused(there, tmp_path, name):
    there.store[f"/photos/set/{name}"] = there.store["/photos/set/images/a.jpg"]
    with pytest.raises(DatasetError, match="Rename"):
        copy_dataset(URL, tmp_path / "project")
    assert copied(tmp_path / "project") == {} and not list(tmp_path.rglob("out.jpg"))


class Breaking(io.BytesIO):
    """A file of which the line brings no more than the first bytes."""

    def read(self, size=-1):
        return super().read(min(size, 10)) if self.tell() < 10 else b""


def test_a_file_that_ends_early_is_tried_again_and_never_seen_in_part(
    there, tmp_path, monkeypatch
):  # fmt: skip
    opened, real = [], there.open

    def once_broken(path, mode="rb", **more):
        opened.append(path)
        if path.endswith("a.jpg") and opened.count(path) == 1:
            return Breaking(FILES["images/a.jpg"])
        return real(path, mode, **more)

    monkeypatch.setattr(type(there), "open", lambda _self, *args, **more: once_broken(*args))
    copy_dataset(URL, tmp_path)
    assert copied(tmp_path) == FILES and len(opened) == 4


def test_a_copy_that_broke_off_keeps_what_it_has_and_goes_on(there, tmp_path, monkeypatch):
    monkeypatch.setattr(remote, "FILES_AT_ONCE", 1)
    real, silent, opened = there.open, [True], []

    def some(path):
        opened.append(path)
        if path.endswith("b.jpg") and silent[0]:
            raise TimeoutError("no answer for 60 s")
        return real(path)

    monkeypatch.setattr(type(there), "open", lambda _self, path, *_args, **_more: some(path))
    with pytest.raises(DatasetError, match=r"no answer for 60 s.*run again: what is copied stays"):
        copy_dataset(URL, tmp_path)
    assert len(opened) == 1 + remote.TRIES and list(copied(tmp_path)) == ["images/a.jpg"]
    silent[0] = False
    assert copy_dataset(URL, tmp_path).copied == 2
    assert copied(tmp_path) == FILES


def test_a_full_disk_is_said_before_anything_is_copied(there, tmp_path, monkeypatch):
    monkeypatch.setattr(remote, "SPARE_BYTES", 1 << 60)
    with pytest.raises(DatasetError, match=r"are free.*Make room"):
        copy_dataset(URL, tmp_path)
    assert copied(tmp_path) == {}


@pytest.mark.parametrize(("url", "words"), [
    ("s3://me:secret@bucket/set", "comes with a password"),
    ("https://host/set?token=1", "comes with a password or token"),
    ("ftp://host/set", "may begin with s3://"),
    ("memory://photos/nothing", "holds no files|cannot be read"),
])  # fmt: skip
def test_addresses_that_cannot_be_used_are_refused_without_their_secret(tmp_path, url, words):
    with pytest.raises(DatasetError, match=words) as caught:
        copy_dataset(url, tmp_path)
    assert "secret" not in str(caught.value) and "token=1" not in str(caught.value)


def test_a_missing_package_is_named(tmp_path, monkeypatch):
    def missing(_protocol):
        raise ImportError

    monkeypatch.setattr(fsspec, "filesystem", missing)
    with pytest.raises(DatasetError, match="pip install s3fs"):
        copy_dataset("s3://bucket/set", tmp_path)


def test_a_run_reads_the_copy_and_asks_again_when_it_begins_anew(there, tmp_path):
    settings = Settings.model_validate({"dataset": {"dir": URL}})
    run = Run(tmp_path / "outputs/run", settings, tmp_path)
    run.fetch_dataset()
    assert (run.dataset_folder / "images/a.jpg").read_bytes() == FILES["images/a.jpg"]
    there.pipe_file("/photos/set/images/new.jpg", b"n")
    run.fetch_dataset()
    assert (run.dataset_folder / "images/new.jpg").exists()
