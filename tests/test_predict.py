"""Answers to anybody's photos: the app's to the bit, whoever made the folder and the photos."""

import csv
import ctypes
import io
import json
import os
import runpy
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.browser import Opened, chromium
from tests.decision_doubles import NAUGHTY
from tests.deploy_doubles import LABELS, fitted_lines, make_bundle, photos
from tests.test_bundle import KINDS, draw_odd_pictures, needs_compiler, read, tuned
from workbench.benchmarks import predict as benchmark
from workbench.cli.main import main
from workbench.data.cells import csv_rows
from workbench.deploy import verify
from workbench.errors import InputError
from workbench.predict import Classifier, find_photos
from workbench.settings import Settings
from workbench.show.answers import marks, page, photo_panel
from workbench.show.upload import upload


def bundle(folder: Path, kind: dict) -> Path:
    settings = Settings.model_validate(kind)
    return make_bundle(folder, settings, tuned(settings), fitted=fitted_lines())


def draw(folder: Path, count: int = 40) -> Path:
    """Draw photos of many sizes, among them those whose pixels depend on who decodes."""
    folder.mkdir(exist_ok=True)
    for number, photo in enumerate(photos(count, seed=5, size=24)):
        Image.fromarray(photo[: 3 + number % 20]).save(folder / f"{number:02d}.png")
    draw_odd_pictures(folder)
    return folder


@pytest.fixture(scope="module")
def drawn(tmp_path_factory) -> Path:
    return draw(tmp_path_factory.mktemp("photos"))


@pytest.fixture(scope="module")
def packed(tmp_path_factory) -> Path:
    return bundle(tmp_path_factory.mktemp("bundle"), {})


@pytest.mark.parametrize("kind", KINDS)
def test_decisions_and_percentages_are_those_of_the_reader_in_the_bundle(tmp_path, drawn, kind):
    folder = bundle(tmp_path, kind)
    classifier = Classifier(folder)
    answers = classifier.answers(find_photos(drawn))
    snippet = runpy.run_path(str(folder / "app/python/classify.py"))
    theirs, config = snippet["verify"], read(folder, verify.CONFIG)
    interpreter = theirs.open_model((folder / config["model"]["file"]).read_bytes())
    table = theirs.input_table(config["input"])
    for row, name in enumerate(answers.names):
        pixels = snippet["read_image"](drawn / name, config)
        square = theirs.letterbox(pixels, config["input"]["width"])
        raw = theirs.run_model(interpreter, table[square])
        np.testing.assert_array_equal(answers.raw[row], raw, err_msg=name)
        assert answers.decisions[row] == theirs.decide(raw[None], config)[0]
        shown = theirs.shown_probabilities(raw[None], config)[0]
        np.testing.assert_array_equal(answers.shown[row], shown)
    assert 0 < sum(map(bool, answers.decisions)) < len(answers.names) == 45 or kind


@pytest.mark.slow
@needs_compiler
@pytest.mark.parametrize("kind", [KINDS[3], KINDS[4]])
def test_decisions_are_those_of_the_c_sources(tmp_path, drawn, kind):
    folder = bundle(tmp_path, kind)
    sources = [str(folder / "app/c" / name) for name in ("classifier.c", "model_config.c")]
    library = tmp_path / "app.so"
    subprocess.run(["cc", "-shared", "-fPIC", *sources, "-lm", "-o", str(library)], check=True)
    decide = ctypes.CDLL(str(library)).wb_decide
    answers = Classifier(folder).answers(find_photos(drawn))
    for raw, said in zip(answers.raw, answers.decisions, strict=True):
        classes = (ctypes.c_int * len(LABELS))()
        count = decide(np.ascontiguousarray(raw).ctypes.data_as(ctypes.c_void_p), classes)
        assert [LABELS[one] for one in classes[:count]] == said


@pytest.mark.parametrize("kind", KINDS)
def test_a_class_is_said_exactly_where_it_is_not_below_its_threshold(tmp_path, drawn, kind):
    answers = Classifier(bundle(tmp_path, kind)).answers(find_photos(drawn))
    for row, said in enumerate(answers.decisions):
        above = [LABELS[one] for one in np.flatnonzero(answers.distance[row] >= 0)]
        assert above == said, answers.distance[row]


def test_features_leave_the_answers_as_they_are(packed, drawn):
    plain, both = (
        Classifier(packed, features=f).answers(find_photos(drawn)) for f in (False, True)
    )
    np.testing.assert_array_equal(plain.raw, both.raw)
    assert plain.features is None and both.features.shape == (45, 3)


def test_an_unknown_is_explained(tmp_path, drawn):
    answers = Classifier(bundle(tmp_path, {"task": "single_label"})).answers(find_photos(drawn))
    row = answers.decisions.index([])
    assert f"{answers.confidence[row]:.0%} sure, an answer needs 60%" in answers.words(row)
    assert answers.words(row).startswith("unknown (")


def test_a_photo_that_cannot_be_read_is_named_and_stops_nothing(packed, tmp_path, capsys):
    folder = draw(tmp_path / "photos", 3)
    (folder / "torn.jpg").write_bytes(b"\xff\xd8\xff torn")
    (folder / "empty.png").touch()
    os.mkfifo(folder / "pipe.jpg")
    (folder / "notes.txt").write_text("no photo")
    table = tmp_path / "table.csv"
    assert main(["predict", str(packed), str(folder), "--csv", str(table)]) == 0
    said = capsys.readouterr()
    assert "3 could not be read" in said.out and "not read: empty.png is empty" in said.out
    assert "files that are no photos are left out: 1 .txt" in said.err
    rows = list(csv.DictReader(io.StringIO(table.read_text())))
    assert {row["filepath"] for row in rows if row["error"]} == {
        "torn.jpg",
        "empty.png",
        "pipe.jpg",
    }
    assert len(rows) == 11


def test_the_table_holds_numbers_and_no_formula(packed, tmp_path):
    folder = draw(tmp_path / "photos", 2)
    Image.new("RGB", (9, 9)).save(folder / "=1+1.png")
    text = Classifier(packed).answers(find_photos(folder)).csv()
    rows = [fields for _, fields in csv_rows(text, "table")]
    assert "'=1+1.png" in [row[0] for row in rows]
    assert all(-1 <= float(cell) <= 1 for row in rows[1:] for cell in row[4:-1])


def test_one_photo_is_answered_as_json(packed, drawn, capsys):
    assert main(["predict", str(packed), str(drawn / "turned.jpg"), "--json"]) == 0
    [photo] = json.loads(capsys.readouterr().out)["photos"]
    assert photo["photo"] == "turned.jpg" and set(photo["probability"]) == set(LABELS)


@pytest.mark.parametrize(
    ("place", "words"),
    [("nowhere", "does not exist. Give a photo or a folder"), (".", "holds no photo")],
)
def test_a_place_without_photos_is_wrong_input(packed, tmp_path, capsys, place, words):
    assert main(["predict", str(packed), str(tmp_path / place)]) == 2
    assert words in capsys.readouterr().err


def changed(packed: Path, folder: Path, key: str, value: object) -> Path:
    """Copy a bundle whose description says something else."""
    for name in (verify.MODEL, verify.CONFIG):
        (folder / name).write_bytes((packed / name).read_bytes())
    config = read(folder, verify.CONFIG)
    group, _, inner = key.partition(".")
    config[group] = value if not inner else config[group] | {inner: value}
    (folder / verify.CONFIG).write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("model.file", "../secret.tflite"), ("model.sha256", "ab" * 32), ("input.width", 32),
        ("labels", ["ant"]), ("input.dtype", "float32"), ("task", "other"), ("input", []),
    ],
)  # fmt: skip
def test_a_folder_of_somebody_else_that_lies_is_refused(packed, tmp_path, key, value):
    (tmp_path / "secret.tflite").write_bytes((packed / verify.MODEL).read_bytes())
    folder = tmp_path / "theirs"
    folder.mkdir()
    with pytest.raises(InputError):
        Classifier(changed(packed, folder, key, value))


def test_a_link_that_leads_out_of_a_bundle_is_refused(packed, tmp_path):
    folder = changed(packed, tmp_path, "schema", 1)
    (folder / "extra").symlink_to("/etc")
    with pytest.raises(InputError, match="a link to outside of it"):
        Classifier(folder)


def test_a_page_has_few_pictures_and_all_counts(packed, drawn):
    classifier = Classifier(packed)
    answers = classifier.answers(find_photos(drawn))
    panel = photo_panel(answers, classifier, limit=6)
    assert len(panel.data["pictures"]) == 6
    assert "6 of 45 photos" in panel.data["about"]
    kinds = {mark["kind"] for one in panel.data["pictures"] for mark in one["marks"]}
    assert len(kinds) > 1  # of every answer in turn


def test_marks_say_what_was_said_and_what_nearly_was(packed, drawn):
    answers = Classifier(packed).answers(find_photos(drawn))
    found = marks(answers)
    for row, names in enumerate(answers.decisions):
        own = found[found["image"] == row]
        assert own.query("kind == 'said'")["class"].tolist() == names
        assert len(own) >= 1
    near = found.query("kind == 'nearly said'")
    assert len(near) and (near["wrong"] > -0.2).all()


@pytest.mark.slow
def test_in_a_browser_answers_are_filtered_and_names_are_text(tmp_path):
    folder, bundle_folder = tmp_path / "photos", bundle(tmp_path / "<b>bundle", {})
    draw(folder, 12)
    for number, name in enumerate(NAUGHTY[:6]):
        plain = name.replace("/", "_").replace("\0", "")[:80]
        Image.new("RGB", (8, 9), (40 * number, 90, 200)).save(folder / f"{plain}.png")
    (folder / "<img src=x onerror=alert(1)>.jpg").write_bytes(b"no photo")
    classifier = Classifier(bundle_folder)
    answers = classifier.answers(find_photos(folder))
    path = tmp_path / "page.html"
    path.write_text(page(answers, classifier), encoding="utf-8")
    with chromium() as browser:
        opened = Opened(browser, path)
        figures = opened.page.locator("figure:visible")
        every = figures.count()
        opened.part("within").select_option("5")
        assert 0 < figures.count() < every
        opened.part("within").select_option("")
        opened.part("kind").select_option("said")
        opened.part("class").select_option(LABELS[2])
        said = sum(LABELS[2] in names for names in answers.decisions)
        assert figures.count() == said
        opened.page.set_viewport_size({"width": 400, "height": 800})
        assert opened.page.evaluate("document.documentElement.scrollWidth") <= 400
        assert opened.complaints == [] and len(opened.requests) == 1


def test_the_benchmark_measures_what_it_says(packed, drawn):
    figures = benchmark.run(count=8, run_folder=packed, folder=drawn, repeats=1)
    assert set(figures["photos_per_second"]) >= {"decoding alone", "bare LiteRT loop", "predict"}
    assert "of the slower" in benchmark.table(figures)


def test_photos_chosen_in_a_notebook_are_answered_under_harmless_names(packed, drawn):
    content = memoryview((drawn / "turned.jpg").read_bytes())
    names = ["../../a.jpg", "../../a.jpg", "..", "é" * 200 + ".png", "a.jpg"]
    box = upload(packed)
    box.children[0].value = [
        {"name": name, "type": "", "size": len(content), "content": content,
         "last_modified": datetime.now(UTC)} for name in names
    ] + [{"name": "torn.jpg", "type": "", "size": 1, "content": memoryview(b"x"),
          "last_modified": datetime.now(UTC)}]  # fmt: skip
    panel, unread = box.children[1].children
    titles = [one["title"] for one in panel.data["pictures"]]
    assert len(set(titles)) == len(names) and not any("/" in title for title in titles)
    assert "torn.jpg is not an image" in unread.value
