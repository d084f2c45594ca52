"""A run folder that somebody else made, or that a disk damaged: words and an exit code, no more."""

import json
import os
import shutil

import nbformat
import numpy as np
import pandas as pd
import pytest

from tests.deploy_doubles import LABELS
from tests.run_doubles import make_run
from workbench import status
from workbench.cli import main as cli
from workbench.cli import projects
from workbench.data.tables import TABLES, Dataset, write_tables
from workbench.files import sha256, write_json
from workbench.show.index import render_index
from workbench.show.report import render_notebook
from workbench.steps import find_step

DONE = {"state": "ok", "started": "a", "finished": "b", "seconds": 1.0, "fingerprint": {}}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = make_run(tmp_path_factory.mktemp("outputs") / "finished")
    _write_split(folder)
    (folder / "picture.png").write_bytes(b"\x89PNG our own")
    outputs = {"picture.png": sha256(folder / "picture.png")}
    status.record(folder, find_step("09"), **DONE, outputs=outputs)
    return folder


def _write_split(folder) -> None:
    labels = np.load(folder / "test_scores.npz")["y_true"]
    rows = [{"filepath": f"{number}.jpg", "split": "test", "unknown": (),
             "labels": tuple(name for name, there in zip(LABELS, row, strict=True) if there)}
            for number, row in enumerate(labels)]  # fmt: skip
    none = pd.DataFrame(columns=["filepath", "split", "labels", "reason", "source", "line"])
    write_tables(Dataset(folder, LABELS, pd.DataFrame(rows), none), folder / TABLES)


@pytest.fixture
def theirs(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "outputs/theirs")


def said_by(capsys, *words) -> tuple[int, str]:
    code = cli.main(list(map(str, words)))
    return code, capsys.readouterr().err


def test_a_picture_is_shown_as_long_as_it_is_the_one_that_was_recorded(theirs):
    assert render_index(theirs).count("<figure>") == 1
    (theirs / "picture.png").write_bytes(b"\x89PNG another")
    (theirs / "unknown.png").write_bytes(b"\x89PNG never recorded")
    assert render_index(theirs).count("<figure>") == 0


def test_a_link_to_a_secret_is_neither_shown_nor_followed(theirs, tmp_path, capsys):
    secret = tmp_path / "secret"
    secret.write_text("my password")
    (theirs / "picture.png").unlink()
    (theirs / "picture.png").symlink_to(secret)
    assert "<figure>" not in render_index(theirs)
    for words in (["report", theirs], ["compare", theirs, theirs]):
        code, said = said_by(capsys, *words)
        assert code == 2 and "picture.png is a link to outside of it. Remove it" in said


def test_a_pipe_keeps_nobody_waiting(theirs, capsys):
    os.mkfifo(theirs / "zz.png")
    code, said = said_by(capsys, "report", theirs)
    assert code == 2 and "zz.png is neither a file nor a folder" in said


@pytest.mark.parametrize("name", ["/etc/passwd", "../secret", "a\\b", "http://host/x"])
def test_a_recorded_name_that_leads_out_is_refused(theirs, capsys, name):
    text = (theirs / "status.json").read_text().replace("picture.png", json.dumps(name)[1:-1])
    (theirs / "status.json").write_text(text)
    code, said = said_by(capsys, "report", theirs)
    assert code == 2 and "status.json is damaged" in said


def test_a_recorded_hash_is_a_hash(theirs, capsys):
    text = (theirs / "status.json").read_text()
    digest = json.loads(text)["steps"]["09"]["outputs"]["picture.png"]
    (theirs / "status.json").write_text(text.replace(digest, "<script>alert(1)</script>"))
    assert said_by(capsys, "report", theirs)[0] == 2


DAMAGES = {
    "empty": b"", "garbage": bytes(range(200)), "a list": b"[]", "a number": b"1",
    "null": b"null", "nothing in it": b"{}", "deep": b"[" * 100_000,
    "other types": b'{"test": {"overall": 1, "classes": "x", "macro_means": []}, "classes": 3}',
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
@pytest.mark.parametrize(
    "name",
    ["status.json", "metrics.json", "training_config.json", "threshold_recommendation.json",
     "inference_config.json", "run_metadata.json", "quantization_ladder.json", "parity.json",
     "audit.csv", "test_scores.npz", "splits/dataset.csv"],
)  # fmt: skip
def test_a_damaged_file_ends_in_words(theirs, capsys, name, damage):
    (theirs / name).parent.mkdir(exist_ok=True)
    (theirs / name).write_bytes(damage)
    for words in (["report", theirs], ["compare", theirs, theirs]):
        code, said = said_by(capsys, *words)
        assert code in (0, 1, 2)
        assert "Nobody foresaw" not in said and "Traceback" not in said


def test_a_folder_where_a_file_must_be_ends_in_words(theirs, capsys):
    (theirs / "metrics.json").unlink()
    (theirs / "metrics.json").mkdir()
    assert "metrics.json is no file" in render_index(theirs)
    assert said_by(capsys, "compare", theirs, theirs)[0] == 0  # needs none of it


def test_a_page_does_not_say_where_it_ran(tmp_path):
    folder = tmp_path / "project/outputs/mine/notebooks"
    folder.mkdir(parents=True)
    lines = [f"File {tmp_path}/project/workbench/run.py:12", "File /home/ada.lovelace/photos/a.jpg",
             "File /Users/ada.lovelace/photos/b.jpg"]  # fmt: skip
    error = nbformat.v4.new_output("error", ename="E", evalue="", traceback=lines)
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("x", outputs=[error])])
    nbformat.write(book, folder / "06_tune_thresholds.ipynb")
    page = render_notebook(folder / "06_tune_thresholds.ipynb", find_step("06"))
    assert "workbench/run.py" in page and "~/photos/b.jpg" in page
    assert str(tmp_path) not in page and "lovelace" not in page


def test_what_nobody_foresaw_is_a_line_and_exits_1(monkeypatch, capsys):
    def fail(_options):
        raise KeyError("a\x1b[31mb")

    monkeypatch.setattr(projects, "demo", fail)
    code, said = said_by(capsys, "demo")
    assert code == 1 and said.count("\n") == 1
    assert "KeyError" in said and "--debug says where" in said and "\x1b" not in said


def test_control_characters_of_a_path_are_not_sent_to_the_terminal(capsys):
    code, said = said_by(capsys, "report", "no\x1b[2Jwhere")
    assert code == 2 and "no\\x1b[2Jwhere" in said


def test_a_page_of_another_version_is_not_trusted_with_its_figures(theirs):
    metrics = json.loads((theirs / "metrics.json").read_text())
    metrics["test"]["overall"]["f1_macro"] = {
        "value": "<b>1</b>",
        "interval": None,
        "withheld": "<i>",
    }
    write_json(theirs / "metrics.json", metrics)
    page = render_index(theirs)
    assert "<i>" not in page and "<b><b>" not in page
