"""k-fold as a parameter: every image of train and val validates once, test is never touched."""

import json

import cv2
import numpy as np
import pytest
from scipy.special import expit

from tests.sweep_doubles import CLASSES, IMAGES, draw_folds, draw_run, settings
from workbench.cli.main import main
from workbench.data.tables import TABLES, read_dataset, read_tables
from workbench.decide.metrics import f1_macro
from workbench.decide.thresholds import search_scores
from workbench.errors import InputError, SettingsError
from workbench.folds import join, read_folds, read_out_of_fold, report, write_out_of_fold
from workbench.parameters import read_settings
from workbench.settings import Settings

FOLDS = 4


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder, rng = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    (folder / "images").mkdir()
    photos = {split: rng.integers(0, 255, (n, 24, 24, 3)) for split, n in SIZES.items()}
    photos["train"][1] = photos["val"][0]  # a copy: both must move together
    for split, images in photos.items():
        lines = ["filepath,labels"]
        for index, image in enumerate(images):
            cv2.imwrite(str(folder / f"images/{split}{index}.png"), image)
            lines.append(f"{split}{index}.png,{'rare' if index % 5 == 0 else 'common'}")
        (folder / f"{split}_labels.csv").write_text("\n".join(lines) + "\n")
    return folder


SIZES = {"train": 30, "val": 10, "test": 6}


def read(folder, fold):
    dataset = {"folds": FOLDS, "fold": fold}
    return read_dataset(folder, Settings(num_classes=2, dataset=dataset))


@pytest.fixture(scope="module")
def folds(folder):
    return [read(folder, fold) for fold in range(FOLDS)]


def files(dataset, split):
    return set(dataset.split(split).filepaths)


def test_every_image_validates_in_exactly_one_fold(folds):
    validating = [name for dataset in folds for name in files(dataset, "val")]
    assert len(validating) == len(set(validating)) == 40


def test_train_and_val_of_a_fold_share_nothing_and_miss_nothing(folds):
    for dataset in folds:
        train, val = files(dataset, "train"), files(dataset, "val")
        assert not train & val
        assert len(train | val) == 40


def test_the_test_split_is_the_same_in_every_fold(folds, folder):
    expected = files(read_dataset(folder, Settings(num_classes=2)), "test")
    assert all(files(dataset, "test") == expected for dataset in folds)


def test_rare_labels_are_spread_over_the_folds(folds):
    column = folds[0].classes.index("rare")
    counts = [dataset.split("val").targets[:, column].sum() for dataset in folds]
    assert counts == [2, 2, 2, 2]


def test_copies_of_a_photo_stay_in_one_part(folds):
    for dataset in folds:
        assert ("train1.png" in files(dataset, "val")) == ("val0.png" in files(dataset, "val"))


@pytest.mark.parametrize(
    ("assignments", "message"),
    [(["dataset.folds=1"], "at least 2"), (["dataset.folds=3", "dataset.fold=3"], "from 0")],
)
def test_a_fold_that_does_not_exist_is_refused(assignments, message, tmp_path):
    with pytest.raises(SettingsError, match=message):
        read_settings(None, assignments, root=tmp_path)


# The runs of a k-fold taken together.


@pytest.fixture(scope="module")
def five(tmp_path_factory):
    return draw_folds(tmp_path_factory.mktemp("outputs") / "five", 5)


def test_every_image_is_answered_by_the_fold_that_did_not_learn_from_it(five, tmp_path):
    path = tmp_path / "out_of_fold.npz"
    write_out_of_fold(join(read_folds(five)), path)
    with np.load(path, allow_pickle=False) as held:
        kept = dict(held)
    assert sorted(kept["filepaths"]) == sorted(f"{number}.jpg" for number in range(IMAGES))
    for fold, folder in enumerate(five):
        mine = kept["fold"] == fold
        split = read_tables(folder / TABLES, folder).split("val")
        assert tuple(kept["filepaths"][mine]) == split.filepaths
        logits = np.load(folder / "student_scores.npz")["logits"]
        np.testing.assert_array_equal(kept["student_logits"][mine], logits)
        np.testing.assert_array_equal(kept["y_true"][mine], split.targets)


def test_mean_and_spread_are_those_of_the_folds_one_by_one(five):
    words, figures = report(read_folds(five))
    own = []
    for folder in five:
        said = expit(np.load(folder / "student_scores.npz")["logits"]) >= 0.5
        own.append(f1_macro(read_tables(folder / TABLES, folder).split("val").targets, said))
    row = next(row for row in figures["overall"] if row["figure"] == "f1_macro")
    assert (row["mean"], row["deviation"]) == pytest.approx((np.mean(own), np.std(own, ddof=1)))
    assert "5" in words and all(name in words for name in CLASSES)


def test_a_k_fold_that_lacks_a_fold_names_it(five):
    with pytest.raises(InputError, match="lacks fold 2: 4 of 5 folds"):
        join(read_folds([*five[:2], *five[3:]]))


def test_runs_that_are_no_folds_are_refused(tmp_path):
    with pytest.raises(InputError, match="0 k-folds among 1 runs"):
        read_folds([draw_run(tmp_path / "alone", 1)])


def test_the_command_prints_the_table_and_keeps_the_scores(five, capsys):
    assert main(["folds", str(five[0].parent), "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["images"] == IMAGES and figures["networks"] == ["student"]
    assert (five[0].parent / "out_of_fold.npz").exists()


def test_what_is_kept_finds_wrong_labels_and_thresholds(tmp_path):
    path, wrong = tmp_path / "kept.npz", (3, 40, 77)
    answers = join(read_folds(draw_folds(tmp_path / "clear", 3, lift=4)))
    at = [list(answers.filepaths).index(f"{number}.jpg") for number in wrong]
    answers.y_true[at, 0] = 1 - answers.y_true[at, 0]
    write_out_of_fold(answers, path)
    found = read_out_of_fold(path)
    suspects = found.label_errors(Settings())
    assert set(suspects["image"]) == {f"{number}.jpg" for number in wrong}
    assert set(suspects["class"]) == {CLASSES[0]}
    searched = search_scores(found.scores(), CLASSES, settings())
    assert len(searched.probability) == len(CLASSES)


def test_the_audit_takes_the_scores_of_a_k_fold(five, folder, tmp_path, capsys):
    path, out = tmp_path / "kept.npz", tmp_path / "audit"
    write_out_of_fold(join(read_folds(five)), path)
    assert main(["audit", str(folder), "--scores", str(path), "--out", str(out)]) == 1  # it leaks
    assert "labels disputed by networks that did not learn from them" in capsys.readouterr().out
    assert (out / "label_errors.csv").exists()


@pytest.mark.parametrize("held", [b"", b"PK\3\4 torn", b"\x93NUMPY"])
def test_a_damaged_file_of_scores_is_named(held, tmp_path):
    (tmp_path / "kept.npz").write_bytes(held)
    with pytest.raises(InputError, match=r"kept\.npz is damaged"):
        read_out_of_fold(tmp_path / "kept.npz")
