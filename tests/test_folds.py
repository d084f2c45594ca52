"""k-fold as a parameter: every image of train and val validates once, test is never touched."""

import cv2
import numpy as np
import pytest

from workbench.data.tables import read_dataset
from workbench.errors import SettingsError
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
