"""What to label next: near a tuned threshold, rare, unlike what is there; and a table to fill."""

import csv
import io

import numpy as np
import pytest
from PIL import Image

from tests.browser import Opened, chromium
from tests.deploy_doubles import LABELS, fitted_lines, make_bundle, photos
from tests.test_bundle import tuned
from workbench.cli.main import main
from workbench.data.tables import read_dataset, write_dataset
from workbench.files import sha256, write_json, write_text
from workbench.predict import Classifier, find_photos
from workbench.reference import KEPT, nearest, reference, unit
from workbench.run import existing_run
from workbench.settings import Settings
from workbench.show.label_next import page
from workbench.triage import nearness, triage, vary


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A project with a run, its photos, and a folder of new ones."""
    for name in ("notebooks", "parameters", "data/images", "new"):
        (tmp_path / name).mkdir(parents=True)
    rng, names = np.random.default_rng(2), {"train": 30, "val": 20, "test": 5}
    for split, count in names.items():
        rows = ["filepath,labels"]
        for number, photo in enumerate(photos(count, seed=len(split))):
            Image.fromarray(photo).save(tmp_path / f"data/images/{split}{number}.png")
            cell = (
                "|".join(n for n in LABELS if rng.random() < 0.5) if number > 2 else LABELS[number]
            )
            rows.append(f'{split}{number}.png,"{cell.replace(chr(34), chr(34) * 2)}"')
        write_text(tmp_path / f"data/{split}_labels.csv", "\n".join(rows))
    for number, photo in enumerate(photos(12, seed=9)):
        Image.fromarray(photo).save(tmp_path / f"new/{number}.png")
    settings = Settings(num_classes="auto")
    folder = tmp_path / "outputs/theirs"
    make_bundle(folder, settings, tuned(settings), fitted=fitted_lines())
    write_json(folder / "training_config.json", settings.model_dump(mode="json"))
    dataset = read_dataset(tmp_path / "data", settings)
    digests = {path: sha256(dataset.images / path) for path in dataset.rows["filepath"]}
    write_dataset(dataset, folder, tmp_path, task=settings.task, sha256=digests)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def known(place):
    classifier = Classifier(place / "outputs/theirs", features=True)
    return classifier, reference(existing_run(place / "outputs/theirs"), classifier)


def test_the_nearest_photos_are_those_of_the_least_angle():
    rng = np.random.default_rng(0)
    train, queries = unit(rng.normal(size=(300, 8))), unit(rng.normal(size=(600, 8)))
    places, far = nearest(train, queries, 3)
    whole = 1 - queries @ train.T
    np.testing.assert_array_equal(places[:, 0], whole.argmin(1))
    np.testing.assert_allclose(far, np.sort(whole, axis=1)[:, :3], atol=1e-6)


def test_nearness_is_one_at_the_tuned_threshold_and_falls_to_either_end():
    found = nearness(np.array([[0, 0.1, 0.2, 0.6, 1]]), np.array([0.2]))
    np.testing.assert_allclose(found, [[0, 0.5, 1, 0.5, 0]])


def test_a_copy_of_a_chosen_photo_is_not_chosen_and_one_of_training_neither():
    features = np.array([[1, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]], float)
    worth, distance = np.array([1.0, 0.9, 0.5, 0.8]), np.array([1.0, 1.0, 1.0, 0.0])
    assert vary(worth, distance, features, 0.1, 4).tolist() == [0, 2]


def test_features_are_kept_until_the_model_or_a_photo_changes(place):
    _, first = known(place)
    path = place / "outputs/theirs" / KEPT
    kept = path.stat().st_mtime_ns
    assert known(place)[1].usual.tolist() == first.usual.tolist()
    assert path.stat().st_mtime_ns == kept
    Image.new("RGB", (16, 16), (255, 0, 0)).save(place / "data/images/val0.png")
    assert known(place)[1].usual.tolist() != first.usual.tolist()
    path.write_bytes(b"damaged")
    assert len(known(place)[1].train) == 30


def test_a_photo_of_training_lies_at_no_distance_and_is_its_own_neighbour(place):
    classifier, ours = known(place)
    answers = classifier.answers(find_photos(place / "data/images/train7.png"))
    rows, far = ours.nearest(answers.features)
    assert ours.split.filepaths[rows[0, 0]] == "train7.png" and far[0, 0] < 1e-3


def test_the_table_goes_back_in_as_photos_of_which_nothing_is_known(place, capsys):
    table = place / "next.csv"
    assert main(["triage", "outputs/theirs", "new", "--count", "4", "--csv", str(table)]) == 0
    assert "Label next (4" in capsys.readouterr().out
    rows = list(csv.reader(io.StringIO(table.read_text())))
    assert rows[0] == ["filepath", "labels"] and len(rows) == 5
    for name, _ in rows[1:]:
        (place / "new" / name).rename(place / "data/images" / name)
    train = place / "data/train_labels.csv"
    write_text(train, train.read_text() + "\n" + table.read_text().split("\n", 1)[1])
    found = read_dataset(place / "data", Settings(num_classes="auto"))
    assert set(found.split("unlabeled").filepaths) == {name for name, _ in rows[1:]}


def test_a_table_that_leads_out_of_the_images_is_refused(place, capsys):
    table = place / "outputs/theirs/splits/train_labels.csv"
    table.write_text(table.read_text().replace("train3.png", "../../secret.png"))
    assert main(["triage", "outputs/theirs", "new"]) == 2
    assert "leads out" in capsys.readouterr().err


def test_a_run_whose_photos_are_gone_says_so(place, capsys):
    (place / "data").rename(place / "elsewhere")
    assert main(["triage", "outputs/theirs", "new"]) == 2
    assert "which is gone. Put them back" in capsys.readouterr().err


def test_the_page_of_predict_shows_the_nearest_photos_and_how_unlike_one_is(place, capsys):
    assert main(["predict", "outputs/theirs", "data/images", "--html", "page.html"]) == 0
    text = (place / "page.html").read_text()
    assert text.count('"near":[{') == 55 and "100% of validation photos lie as far" in text
    (place / "data").rename(place / "elsewhere")
    assert main(["predict", "outputs/theirs", "new", "--html", "page.html"]) == 0
    assert "no training photos stand beside" in capsys.readouterr().err
    assert '"near"' not in (place / "page.html").read_text().split("<script>")[0]


@pytest.mark.slow
def test_in_a_browser_photos_stand_with_their_nearest_and_names_are_text(place):
    hostile = "<img src=x onerror=alert(1)>.png"
    Image.new("RGB", (30, 9), (9, 200, 90)).save(place / "new" / hostile)
    classifier, ours = known(place)
    found = triage(classifier.answers(find_photos(place / "new")), ours, 20)
    path = place / "page.html"
    path.write_text(page(found, classifier), encoding="utf-8")
    with chromium() as browser:
        opened = Opened(browser, path)
        first = opened.page.locator("figure").first
        assert first.locator("b").inner_text() == found.answers.names[found.chosen[0]]
        assert first.locator(".near img").count() == 3
        assert first.locator(".near img").first.get_attribute("alt").startswith("in training: ")
        opened.page.set_viewport_size({"width": 400, "height": 800})
        assert opened.page.evaluate("document.documentElement.scrollWidth") <= 400
        assert opened.complaints == [] and len(opened.requests) == 1
