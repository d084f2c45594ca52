"""What a person said of mistakes: kept per click, and turned into labels."""

import numpy as np
import pytest

from tests.browser import Opened, chromium, page_of
from tests.decision_doubles import NAUGHTY
from workbench.cli.main import main
from workbench.errors import InputError
from workbench.files import write_json, write_text
from workbench.judgements import BEFORE, Judgement, edit_tables, kept, on_click, read
from workbench.settings import Settings
from workbench.show.gallery import Picture, picture_gallery

TABLE = (
    'filepath,labels,group\na.jpg,cat,one\nb.jpg,cat|dog,\nc.jpg,?dog,\nd.jpg,"=cat",\ne.jpg,dog,\n'
)


def judged(filepath, name, kind, judgement="label wrong"):
    place = {"filepath": filepath, "class": name, "kind": kind}
    return Judgement.model_validate({**place, "judgement": judgement})


@pytest.fixture
def tables(tmp_path):
    write_text(tmp_path / "test_labels.csv", TABLE)
    write_text(tmp_path / "val_labels.csv", "filepath,labels\nv.jpg,cat\n")
    return tmp_path


def test_labels_follow_what_was_judged_and_nothing_else_moves(tables):
    said = edit_tables(tables / "run", tables, [
        judged("a.jpg", "dog", "false positive"), judged("b.jpg", "dog", "false negative"),
        judged("c.jpg", "dog", "false positive"),
        judged("e.jpg", "dog", "false negative", "unusable"),
        judged("d.jpg", "dog", "false positive", "network wrong"),
    ], "multilabel")  # fmt: skip
    rows = (tables / "test_labels.csv").read_text().splitlines()
    assert rows[1:] == ["a.jpg,cat|dog,one", "b.jpg,cat,", "c.jpg,dog,", "d.jpg,'=cat,"]
    assert (tables / "val_labels.csv").read_text() == "filepath,labels\nv.jpg,cat\n"
    assert said.startswith("4 rows corrected") and "favour" in said
    [before] = (tables / "run" / BEFORE).iterdir()
    assert before.read_text() == TABLE


def test_the_same_corrections_again_change_nothing(tables):
    ours = [judged("a.jpg", "dog", "false positive")]
    edit_tables(tables / "run", tables, ours, "multilabel")
    once = (tables / "test_labels.csv").read_text()
    assert edit_tables(tables / "run", tables, ours, "multilabel").startswith("0 rows")
    assert (tables / "test_labels.csv").read_text() == once


def test_a_single_label_becomes_what_was_said_and_is_never_lost(tables):
    ours = [judged("a.jpg", "dog", "false positive"), judged("e.jpg", "dog", "false negative")]
    said = edit_tables(tables / "run", tables, ours, "single_label")
    text = (tables / "test_labels.csv").read_text()
    assert "a.jpg,dog,one" in text and "e.jpg,dog," in text
    assert "no table says what is right: e.jpg" in said


def test_clicks_are_kept_taken_back_and_found_again(tmp_path):
    mistake = {"filepath": "a.jpg", "class": "cat", "kind": "false positive"}
    on_click(tmp_path, {"mistake": mistake, "judgement": "label wrong"})
    on_click(tmp_path, {"mistake": mistake, "judgement": "unusable"})
    assert [one.judgement for one in kept(tmp_path)] == ["unusable"]
    pictures = [
        Picture(np.zeros((4, 4, 3), np.uint8), "cat", "", "false positive", ("cat",), "a.jpg")
    ]
    assert picture_gallery(pictures, judged_in=tmp_path).data["judged"][0]["filepath"] == "a.jpg"
    assert on_click(tmp_path, {"mistake": mistake, "judgement": ""}).startswith("0 kept")


@pytest.mark.parametrize("value", [[], {"judgements": 3}, {"judgements": [{"filepath": "a"}]},
                                   {"judgements": [{"filepath": "a", "class": "b", "kind": "x",
                                                    "judgement": "label wrong"}]}])  # fmt: skip
def test_a_file_that_holds_something_else_is_refused(tmp_path, value):
    write_json(tmp_path / "theirs.json", value)
    with pytest.raises(InputError, match="ownload"):
        read(tmp_path / "theirs.json")


def test_class_folders_are_corrected_by_hand(tmp_path):
    with pytest.raises(InputError, match="by hand"):
        edit_tables(tmp_path, tmp_path, [], "single_label")


def test_one_command_corrects_the_tables_and_runs_what_follows(tables, monkeypatch, capsys):
    (tables / "notebooks").mkdir()
    (tables / "parameters").mkdir()
    folder = tables / "outputs/mine"
    settings = Settings.model_validate({"dataset": {"dir": "."}, "num_classes": "auto"})
    write_json(folder / "training_config.json", settings.model_dump(mode="json"))
    ours = [judged("a.jpg", "dog", "false positive"),
            judged("b.jpg", "dog", "false negative", "network wrong")]  # fmt: skip
    made = [one.model_dump(by_alias=True) for one in ours]
    write_json(tables / "judgements.json", {"judgements": made})
    ran = []
    monkeypatch.setattr("workbench.run.Run.compute", lambda run: ran.append(run.name))
    monkeypatch.chdir(tables)
    assert main(["judge", "outputs/mine"]) == 2
    assert main(["judge", "outputs/mine", "judgements.json"]) == 0
    assert "1 rows corrected" in capsys.readouterr().out and ran == ["mine"]
    assert kept(folder) == ours[1:]  # the other one is a label now
    assert len(list((folder / BEFORE).glob("*_judgements.json"))) == 1


@pytest.mark.slow
def test_a_page_keeps_clicks_over_a_reload_and_hands_them_over(tmp_path):
    grey = np.full((40, 40, 3), 128, np.uint8)
    kinds = ("false positive", "false negative")
    pictures = [Picture(grey, name, "seen", kinds[number % 2], (name,), f"{name}.jpg")
                for number, name in enumerate(NAUGHTY[:4])]  # fmt: skip
    path = page_of(tmp_path, picture_gallery(pictures, judged_in=tmp_path / "run"))
    with chromium() as browser:
        opened = Opened(browser, path)
        opened.page.locator(".judge").nth(1).get_by_text("label wrong").click()
        opened.page.locator(".judge").nth(2).get_by_text("unusable").click()
        opened.page.reload()
        pressed = opened.page.locator('button[aria-pressed="true"]')
        assert pressed.all_inner_texts() == ["label wrong", "unusable"]
        pressed.nth(1).click()
        with opened.page.expect_download() as download:
            opened.part("download").click()
        [one] = read(download.value.path())
        assert one.place == (f"{NAUGHTY[1]}.jpg", NAUGHTY[1], "false negative")
        assert opened.complaints == []
