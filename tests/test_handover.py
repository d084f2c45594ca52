"""The zip that is handed over: what is in it, that it is whole, and what is refused."""

import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import zipfile

import pytest

from tests.deploy_doubles import LABELS, make_bundle, recommendation
from workbench import batch, handover, status
from workbench.artifacts import InferenceConfig
from workbench.cli.main import main
from workbench.deploy import verify
from workbench.deploy.bundle import seal
from workbench.errors import InputError, StepError
from workbench.files import write_json
from workbench.freshness import Verdict
from workbench.run import zip_of
from workbench.settings import Settings
from workbench.show.index import render_index
from workbench.steps import STEPS

ROW = {"positives": 9, "negatives": 11, "tp": 7, "fp": 1, "fn": 2, "tn": 10, "f1": 0.82}
TEST = {
    "images": 20, "macro_means": "macro over all 3 classes",
    "overall": {"f1_macro": {"value": 0.82, "interval": [0.7, 0.9], "withheld": ""},
                "map": {"value": None, "interval": None, "withheld": "undefined"}},
    "classes": [{"class": label, **ROW} for label in LABELS],
}  # fmt: skip


def make_run(folder, thresholds=None):
    """Leave what a finished run hands on, sealed."""
    make_bundle(folder, thresholds=thresholds)
    write_json(folder / "metrics.json", {"test": TEST})
    write_json(folder / "training_config.json", Settings().model_dump(mode="json"))
    seal(folder)
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("runs") / "shapes")


@pytest.fixture(scope="module")
def packed(run, tmp_path_factory):
    return handover.hand_over(run, tmp_path_factory.mktemp("out") / "shapes.zip").path


@pytest.fixture
def copy(run, tmp_path):
    return shutil.copytree(run, tmp_path / "shapes")


def text_of(path, name):
    with zipfile.ZipFile(path) as inside:
        return inside.read(f"shapes/{name}").decode()


def test_the_zip_of_a_run_is_the_same_bytes_each_time(run, packed, tmp_path, monkeypatch):
    copied = shutil.copytree(run, tmp_path / "shapes", copy_function=shutil.copyfile)
    for path in copied.rglob("*"):
        os.utime(path, (1, 1))
    (copied / verify.MODEL).chmod(0o600)
    monkeypatch.setenv("TZ", "Asia/Kathmandu")
    again = handover.hand_over(copied)
    assert again.path == copied / "shapes.zip" and again.path.read_bytes() == packed.read_bytes()
    assert handover.hand_over(copied).sha256 == again.sha256


def test_it_holds_what_the_seal_lists_of_the_bundle_and_words_about_it(run, packed):
    sealed = [line.split("  ")[1] for line in (run / verify.SUMS).read_text().splitlines()]
    of_run = {name for name in sealed if name not in ("metrics.json", "training_config.json")}
    words = {"README.md", "MODEL_CARD.md", "CHANGES.md", "LICENSE", "RUN_SHA256SUMS", "SHA256SUMS"}
    with zipfile.ZipFile(packed) as inside:
        assert {name.removeprefix("shapes/") for name in inside.namelist()} == of_run | words
        assert all(inside.read(f"shapes/{name}") == (run / name).read_bytes() for name in of_run)
        assert inside.read("shapes/RUN_SHA256SUMS") == (run / verify.SUMS).read_bytes()


def test_whoever_unpacks_it_can_verify_it_and_sees_what_was_changed(packed, tmp_path):
    shutil.unpack_archive(packed, tmp_path)
    folder = tmp_path / "shapes"
    command = [sys.executable, folder / "verify"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0 and "every check passed" in done.stdout, done.stdout
    (folder / "app/kotlin/Classifier.kt").write_text("fun main() = Unit")
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1 and "app/kotlin/Classifier.kt" in done.stdout


def test_the_readme_says_what_each_golden_photo_must_give(run, packed):
    words = text_of(packed, "README.md")
    recorded = json.loads((run / verify.VECTORS).read_text())["vectors"]
    rows = [line for line in words.splitlines() if line.startswith("| [`image_")]
    assert len(rows) == len(recorded) == 3
    for row, vector in zip(rows, recorded, strict=True):
        chance = dict(zip(LABELS, vector["probabilities"], strict=True))
        shown = row.split(" | ")[1]
        assert all(handover._code(name) in shown for name in vector["decisions"])
        assert f"`{'ant'}` {chance['ant']:.1%}" in row


def test_the_pages_that_the_readme_names_are_in_the_zip(packed):
    with zipfile.ZipFile(packed) as inside:
        names = inside.namelist()
        for page in handover.re.findall(r"\]\((.*?)\)", text_of(packed, "README.md")):
            assert f"shapes/{page}" in names


def test_the_model_card_says_how_good_it_is_and_what_is_undefined(packed):
    card = text_of(packed, "MODEL_CARD.md")
    assert (
        "| F1 macro | 0.820 | 0.700 to 0.900 |" in card
        and "| mAP | undefined | undefined |" in card
    )
    assert "| `ant` | 9 | 7 | 2 | 1 | 0.820 |" in card


@pytest.mark.parametrize("name", ["a|b", "`x` <b>", "``", "*[y](z)*"])
def test_a_name_breaks_no_table_and_no_line(name):
    cell = handover._code(name)
    assert cell.replace("\\|", "").count("|") == 0
    fence = cell[: len(cell) - len(cell.lstrip("`"))]
    assert cell.endswith(fence) and fence not in cell[len(fence) : -len(fence)]


def test_a_sentence_of_the_verdict_brings_no_markup_into_the_card(copy):
    words = "weakest is <b>[x](y)`|"
    reason = {"rule": "weakest class", "grade": "with care", "words": words}
    verdict = {"grade": "with care", "reasons": [reason]}
    test = {**TEST, "macro_means": "macro over 2 of 3 classes; undefined: *x*"}
    write_json(copy / "metrics.json", {"test": test, "verdict": verdict})
    seal(copy)
    card = text_of(handover.hand_over(copy).path, "MODEL_CARD.md")
    assert r"weakest class: weakest is \<b\>\[x\](y)\`\|" in card and r"undefined: \*x\*" in card


def test_an_edited_file_is_named_and_the_older_zip_stays(copy):
    old = handover.hand_over(copy).path.read_bytes()
    path = copy / "labels.txt"
    path.write_text(path.read_text().replace("bee", "wasp"))
    with pytest.raises(StepError, match=r"changed since they were written: labels\.txt"):
        handover.hand_over(copy)
    assert zip_of(copy).read_bytes() == old


def test_a_model_that_answers_otherwise_is_refused_although_it_is_sealed(copy):
    path = copy / verify.VECTORS
    recorded = json.loads(path.read_text())
    recorded["vectors"][0]["decisions"] = ["ant", "bee"] * 2
    path.write_text(json.dumps(recorded))
    seal(copy)
    with pytest.raises(StepError, match="golden: image_0: decisions"):
        handover.hand_over(copy)


def test_a_run_without_a_seal_is_refused(copy):
    (copy / verify.SUMS).unlink()
    with pytest.raises(InputError, match="is not sealed: run it to the end"):
        handover.hand_over(copy)


def test_a_file_that_nobody_sealed_is_refused_and_caches_are_left_out(copy):
    (copy / "app/python/__pycache__").mkdir()
    (copy / "app/python/__pycache__/x.pyc").write_bytes(b"x")
    assert "pyc" not in str(zipfile.ZipFile(handover.hand_over(copy).path).namelist())
    (copy / "golden/extra.png").write_bytes(b"x")
    with pytest.raises(StepError, match=r"does not list golden/extra\.png"):
        handover.hand_over(copy)


def test_a_zip_that_cannot_be_written_leaves_the_older_one(copy, monkeypatch):
    path = handover.hand_over(copy).path
    old = path.read_bytes()

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(zipfile.ZipFile, "writestr", full)
    with pytest.raises(OSError, match="No space left"):
        handover.hand_over(copy)
    assert path.read_bytes() == old and not list(copy.glob(".partial_*"))


def test_a_name_that_is_no_zip_is_refused(copy, tmp_path):
    with pytest.raises(InputError, match="no name for a zip"):
        handover.hand_over(copy, tmp_path / "shapes.tflite")


def test_what_changed_since_the_last_zip_is_said(copy, tmp_path):
    out = tmp_path / "last.zip"
    assert "No earlier zip" in handover.hand_over(copy, out).changes
    make_run(copy, recommendation(integers=(-3, 5, 12)))
    found = handover.hand_over(copy, out)
    assert "- Thresholds on the raw output: `bee` 0 → 5." in found.changes
    assert "`app/kotlin/Decisions.kt`" in found.changes and "The model" not in found.changes
    assert text_of(out, "CHANGES.md") == found.changes
    assert handover.hand_over(copy, out).sha256 == found.sha256


def test_labels_that_came_and_went_are_named(packed):
    with zipfile.ZipFile(packed) as inside:
        config = InferenceConfig.model_validate_json(inside.read(f"shapes/{verify.CONFIG}"))
    other = config.model_copy(update={"labels": ("ant", "<wasp>", LABELS[2])})
    said = list(handover._different(config, other))
    assert said == ["Labels that are gone: `bee`.", "New labels: `<wasp>`."]


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 no zip", bytes(200)])
def test_what_is_no_zip_of_ours_counts_as_none(copy, tmp_path, content):
    out = tmp_path / "last.zip"
    out.write_bytes(content)
    assert "No earlier zip" in handover.hand_over(copy, out).changes


def test_a_member_of_an_older_zip_that_would_fill_the_memory_is_not_read(tmp_path):
    bomb = tmp_path / "bomb.zip"
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as inside:
        inside.writestr("shapes/README.md", bytes(handover.LARGEST_SEEN + 1))
        inside.writestr("shapes/CHANGES.md", b"little")
    assert handover._members(bomb) == {"CHANGES.md": b"little"}


def test_the_command_refuses_a_run_that_is_not_up_to_date(copy, monkeypatch, capsys):
    old = Verdict(False, "teacher.epochs_head was 3, is 4")
    fresh = Verdict(True, "as it was")
    monkeypatch.setattr(batch, "judge", lambda _, step: old if step.number == "03" else fresh)
    assert main(["bundle", str(copy)]) == 1
    assert (
        "03 train_teacher is not up to date: teacher.epochs_head was 3" in capsys.readouterr().err
    )
    monkeypatch.setattr(batch, "judge", lambda *_: fresh)
    assert main(["bundle", str(copy), "--out", str(copy / "of.zip")]) == 0
    said = capsys.readouterr().out
    assert (
        str(copy / "of.zip") in said
        and hashlib.sha256((copy / "of.zip").read_bytes()).hexdigest() in said
    )


def test_the_zip_opens_anywhere(packed):
    with zipfile.ZipFile(io.BytesIO(packed.read_bytes())) as inside:
        assert inside.testzip() is None
        names = inside.namelist()
        assert names == sorted(names) and all(name.startswith("shapes/") for name in names)
        about = {(one.external_attr >> 16, one.date_time) for one in inside.infolist()}
        assert about == {(0o644, (1980, 1, 1, 0, 0, 0))}


def test_the_index_of_a_whole_run_links_the_zip_first(tmp_path):
    for step in STEPS:
        assert "zip" not in render_index(tmp_path)
        about = {"started": "", "finished": "", "fingerprint": {}, "seconds": 1.0, "outputs": {}}
        status.record(tmp_path, step, state="ok", **about)
    page = render_index(tmp_path)
    link = f"<a href='../{tmp_path.name}.zip'>"
    assert page.index("</h1>") < page.index(link) < page.index("<table")
