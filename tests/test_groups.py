"""Photos that belong together (a clip, a patient): on one side of every split, drawn together."""

import cv2
import numpy as np
import pytest

from tests.prove.groups import run
from workbench.data.audit.report import audit_dataset
from workbench.data.prepare import prepare
from workbench.data.tables import number_groups, read_dataset, read_tables, write_tables
from workbench.decide.calibration import Scores, class_errors
from workbench.decide.intervals import assign_folds, image_weights, independent_share
from workbench.decide.unknown import search_unknown
from workbench.deploy.verify.unknown import Sure
from workbench.settings import Settings, SingleLabelSettings

CLIPS = 24


def settings(**dataset) -> Settings:
    return Settings.model_validate({"num_classes": "auto", "dataset": dataset})


def draw(folder, tables: dict[str, list[str]], separator=",") -> None:
    """Write tables of rows `name,labels,group`, and a photo of noise for each."""
    rng = np.random.default_rng(0)
    (folder / "images").mkdir(parents=True)
    for table, rows in tables.items():
        for row in rows:
            pixels = rng.integers(0, 255, (24, 24, 3))
            cv2.imwrite(str(folder / "images" / row.split(",")[0]), pixels)
        lines = ["filepath,labels,group", *rows]
        (folder / table).write_text("\n".join(lines).replace(",", separator) + "\n")


def clip_rows(count: int = CLIPS, photos: int = 4) -> list[str]:
    """Rows of clips whose labels vary from clip to clip."""
    names = ("cat", "dog", "cat|dog")
    return [
        f"c{clip}_{photo}.png,{names[clip % 3]},clip {clip}"
        for clip in range(count)
        for photo in range(photos)
    ]


def sides(dataset) -> dict[str, set[str]]:
    rows = dataset.rows[dataset.rows["group"] != ""]
    return {name: set(part["split"]) for name, part in rows.groupby("group")}


@pytest.mark.parametrize(("suffix", "separator"), [(".csv", ","), (".txt", "\t"), (".txt", ",")])
def test_a_third_column_is_read_from_every_table(tmp_path, suffix, separator):
    name = {".csv": "{}_labels.csv", ".txt": "{}.txt"}[suffix]
    rows = {
        "train": ["a.png,cat,c1", "b.png,dog,"],
        "val": ["c.png,cat,c2"],
        "test": ["d.png,dog,"],
    }
    draw(tmp_path / "d", {name.format(split): part for split, part in rows.items()}, separator)
    dataset = read_dataset(tmp_path / "d", settings())
    assert dataset.rows["group"].tolist() == ["c1", "", "c2", ""]
    assert dataset.split("train").groups.tolist() == [0, 1]
    assert dataset.split("test").groups is None


def test_a_photo_without_a_group_is_its_own():
    assert number_groups(["a", "", "a", ""]).tolist() == [0, 1, 0, 2]
    assert number_groups(["", ""]) is None


def test_written_tables_give_the_groups_back(tmp_path):
    draw(tmp_path / "d", {"labels.csv": [*clip_rows(), "x.png,cat,", "y.png,dog,=1+1"]})
    dataset = read_dataset(tmp_path / "d", settings())
    write_tables(dataset, tmp_path / "out")
    again = read_tables(tmp_path / "out", dataset.images)
    columns = ["split", "filepath", "labels", "group"]
    expected = dataset.rows.sort_values(["split", "filepath"])[columns].to_numpy().tolist()
    assert again.rows.sort_values(["split", "filepath"])[columns].to_numpy().tolist() == expected


def test_groups_move_together_when_a_table_is_split_and_labels_keep_their_share(tmp_path):
    draw(tmp_path / "d", {"labels.csv": clip_rows(60)})
    dataset = read_dataset(tmp_path / "d", settings())
    assert all(len(splits) == 1 for splits in sides(dataset).values())
    for split, share in (("train", 0.8), ("val", 0.1), ("test", 0.1)):
        part = dataset.split(split)
        assert len(part) == pytest.approx(240 * share, abs=8)
        np.testing.assert_allclose(part.targets.mean(0), [2 / 3, 2 / 3], atol=0.12)


def test_a_copy_ties_two_groups_together(tmp_path):
    draw(tmp_path / "d", {"labels.csv": clip_rows()})
    images = tmp_path / "d/images"
    (images / "c1_0.png").write_bytes((images / "c7_2.png").read_bytes())
    for seed in range(3):
        chosen = settings().model_copy(update={"seed": seed})
        found = sides(read_dataset(tmp_path / "d", chosen))
        assert found["clip 1"] == found["clip 7"]


def test_groups_stay_in_one_fold(tmp_path):
    rows = clip_rows()
    splits = {"train": rows[:64], "val": rows[64:80], "test": rows[80:]}
    draw(tmp_path / "d", {f"{split}_labels.csv": part for split, part in splits.items()})
    for fold in range(4):
        dataset = read_dataset(tmp_path / "d", settings(folds=4, fold=fold))
        assert all(len(splits) == 1 for splits in sides(dataset).values())
        assert len(dataset.split("val")) == pytest.approx(20, abs=4)


@pytest.fixture
def torn(tmp_path):
    """A dataset whose clip 3 lies in train and val, and audit of it."""
    rows = clip_rows()
    splits = {"train": rows[:14], "val": rows[14:40], "test": rows[40:]}
    draw(tmp_path / "d", {f"{split}_labels.csv": part for split, part in splits.items()})
    return audit_dataset(read_dataset(tmp_path / "d", settings()), settings())


def test_a_group_in_two_splits_is_a_leak(torn):
    leaks = torn.findings[torn.findings["kind"] == "leak"]
    assert set(leaks["image"]) == {f"c3_{photo}.png" for photo in range(4)}
    assert set(leaks["severity"]) == {"error"}
    assert "of the same group 'clip 3' as val: c3_2.png and 2 more" in leaks["detail"].tolist()
    assert not torn.summary["fit"]
    assert torn.summary["groups"] == CLIPS


def test_the_proposed_split_gathers_a_torn_group(torn):
    assert all(len(splits) == 1 for splits in sides(torn.proposal.dataset).values())
    assert {name.split("_")[0] for name in torn.proposal.moves["image"]} == {"c3"}


@pytest.mark.parametrize("name", ["labels.csv", "train.txt"])
def test_prepare_keeps_the_third_column(tmp_path, name):
    draw(tmp_path / "raw", {name: ["a.png,cat,c1", "b.png,dog|cat,"]})
    prepare(tmp_path / "raw", tmp_path / "done")
    text = (tmp_path / "done" / name).read_text().replace("\t", ",")
    assert text.splitlines() == ["filepath,labels,group", "a.jpg,cat,c1", "b.jpg,dog|cat,"]


def test_groups_are_drawn_whole_and_as_many_as_there_are():
    groups = np.array([5, 5, 2, 9, 2, 5])
    for weights in image_weights(6, 200, np.random.default_rng(0), groups=groups):
        for number in (5, 2, 9):
            assert (weights[groups == number] == weights[groups == number][0]).all()
        firsts = weights[[0, 2, 3]]
        assert set(firsts.sum(0)) == {3.0}


def test_groups_are_dealt_to_folds_whole_and_rare_labels_evenly():
    groups = np.repeat(np.arange(50), 4)
    y_true = np.zeros((200, 2))
    y_true[:40, 0] = 1  # ten groups
    folds = assign_folds(y_true, 5, np.random.default_rng(0), groups)
    assert all(len(set(folds[groups == group])) == 1 for group in range(50))
    assert [int(y_true[folds == fold, 0].sum()) for fold in range(5)] == [8] * 5


def test_intervals_hold_the_truth_of_clips_only_where_clips_are_drawn():
    held = run(runs=40, clips=80)["held"]
    for name in held["clips"]:
        assert held["photos"][name] < 0.75 < 0.85 <= held["clips"][name]


def test_an_image_of_a_group_that_errs_as_a_whole_is_worth_a_part_of_one():
    right = np.repeat([1.0, 0.0] * 50, 10)
    residual = (right - right.mean())[:, None]
    assert independent_share(residual) == 1
    assert independent_share(residual, np.arange(1000)) == 1
    assert independent_share(residual, np.repeat(np.arange(100), 10)) == pytest.approx(0.1)
    nobody_wrong = independent_share(np.zeros((1000, 1)), np.repeat(np.arange(100), 10))
    assert nobody_wrong == pytest.approx(0.1)  # and nothing says that they would not be together


def test_verify_derives_the_curve_of_clips_alike():
    rng = np.random.default_rng(0)
    y_true = np.repeat(np.eye(3)[rng.integers(0, 3, 40)], 5, 0)
    raw = np.repeat(rng.integers(-60, 60, (40, 3)), 5, 0) + 40 * y_true
    arrays = {"raw": raw.astype(np.int8), "scale": 0.05, "zero_point": 3, "y_true": y_true,
              "mask": np.ones_like(y_true), "groups": np.repeat(np.arange(40), 5)}  # fmt: skip
    scores = Scores(**{**arrays, "task": "single_label"})
    knobs = SingleLabelSettings()
    asked = y_true, scores.logits, knobs, tuple("abc"), 0
    curve = search_unknown(*asked, groups=arrays["groups"]).curve
    cuts = curve["threshold"].to_numpy(float)
    found = Sure.of(arrays).rates(cuts, knobs.model_dump())
    found |= {"accuracy_low": found["low"], "accuracy_high": found["high"]}
    for name in ("coverage_low", "coverage_high", "accuracy_low", "accuracy_high"):
        np.testing.assert_allclose(np.array(found[name], float), curve[name].astype(float))
    alone = search_unknown(*asked).curve
    assert (curve["coverage_high"] - curve["coverage_low"])[5:50].min() > (
        1.5 * (alone["coverage_high"] - alone["coverage_low"])[5:50].min()
    )


def test_the_calibration_error_of_clips_is_less_sure_than_of_photos():
    rng = np.random.default_rng(0)
    chance = rng.random((60, 1))
    y_true = np.repeat(rng.random((60, 1)) < chance**2, 8, 0)
    asked = y_true, np.repeat(chance, 8, 0), ["cat"]
    widths = []
    for groups in (None, np.repeat(np.arange(60), 8)):
        row = class_errors(*asked, replicates=200, seed=0, groups=groups).iloc[0]
        widths.append(row["error_high"] - row["error_low"])
    assert widths[1] > 1.3 * widths[0]
