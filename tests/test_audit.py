"""The audit finds what is wrong with a dataset, says where, and opens each image once."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from tests.prove import planted_faults
from workbench.benchmarks import audit as benchmark
from workbench.data.audit import facts
from workbench.data.audit.duplicates import Photos
from workbench.data.audit.report import audit_dataset, write_audit
from workbench.data.decode import decode_image
from workbench.data.demo import draw_demo
from workbench.data.splits import deal_splits
from workbench.data.tables import Dataset, read_dataset, read_tables, write_dataset
from workbench.errors import DatasetError
from workbench.settings import AuditSettings, DatasetSettings, Settings

FAIL = Settings(num_classes="auto")
QUARANTINE = Settings(num_classes="auto", dataset=DatasetSettings(on_bad_image="quarantine"))
DETECTORS = (
    "exact_duplicate", "leak", "conflicting_labels", "near_duplicate", "unreadable", "truncated",
    *planted_faults.ODD,
)  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    return draw_demo(tmp_path / "data", images=60).folder


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    """A dataset with five of every fault, and its audit."""
    folder = tmp_path_factory.mktemp("planted") / "data"
    truth = planted_faults.plant(folder, images=240, faults=5)
    settings = planted_faults.SETTINGS
    return truth, audit_dataset(read_dataset(folder, settings), settings)


def audit(folder, settings=FAIL):
    return audit_dataset(read_dataset(folder, settings), settings)


def found(result, kind: str) -> set[str]:
    return set(result.findings.loc[result.findings["kind"] == kind, "image"])


def add_row(folder, split: str, name: str, labels: str) -> None:
    with open(folder / f"{split}_labels.csv", "a") as table:
        table.write(f"{name},{labels}\n")


def labelled(folder: Path, rows: list[tuple[str, tuple[str, ...]]], classes=("cat", "dog")):
    """A dataset of missing images: what only looks at labels does not mind."""
    frame = pd.DataFrame(rows, columns=["split", "labels"])
    frame["filepath"] = [f"{number}.jpg" for number in range(len(frame))]
    frame = frame.assign(unknown=[()] * len(frame), source="drawn", line=0)
    return Dataset(folder, classes, frame)


def kinds_about(result, name: str) -> set[str]:
    about = result.findings[result.findings["detail"].str.contains(f"'{name}'")]
    return set(about["kind"])


@pytest.mark.parametrize("kind", DETECTORS)
def test_every_planted_fault_is_found_and_nothing_else(planted, kind):
    truth, result = planted
    assert found(result, kind) == truth.images[kind]


def test_copies_are_found_pair_by_pair(planted):
    truth, result = planted
    rows = [row for row in planted_faults.measure(result, truth) if "pairs" in row["detector"]]
    assert {row["recall"] for row in rows} == {row["precision"] for row in rows} == {1.0}


def test_findings_come_gravest_first(planted):
    _, result = planted
    severities = ["error", "warning", "info"]
    places = result.findings["severity"].map(severities.index)
    assert places.is_monotonic_increasing


def test_the_gallery_shows_some_of_every_kind(planted):
    _, result = planted
    shown = {exhibit.kind for exhibit in result.exhibits}
    assert {"leak", "truncated", "dark", "tiny"} <= shown
    assert len(result.exhibits) == AuditSettings().gallery_size


def test_a_leak_is_shown_beside_its_copy(planted):
    _, result = planted
    exhibit = next(exhibit for exhibit in result.exhibits if exhibit.kind == "leak")
    facts = result.facts.set_index("image").loc[exhibit.image]
    assert (
        exhibit.pixels.shape[1] > 1.5 * facts["width"] * exhibit.pixels.shape[0] / facts["height"]
    )


def test_the_proposed_split_has_no_leak_no_copy_and_nothing_unreadable(planted, tmp_path):
    _, result = planted
    write_audit(result, tmp_path)
    proposed = read_tables(tmp_path / "proposed_split", result.dataset.images)
    again = audit_dataset(proposed, planted_faults.SETTINGS)
    assert not set(again.findings["kind"]) & {"leak", "exact_duplicate", "truncated"}
    assert again.facts["refused"].isna().all()


def test_the_proposed_split_moves_only_copies(planted):
    truth, result = planted
    moved = result.proposal.moves
    assert set(moved["image"]) <= set().union(*truth.images.values())
    stayed = ~result.dataset.rows["filepath"].isin(moved["image"])
    present = result.dataset.rows[stayed].set_index("filepath")["split"]
    proposed = result.proposal.dataset.rows.set_index("filepath")["split"]
    assert proposed[present.index].equals(present)


def test_copies_stay_together_when_a_table_is_split(planted):
    truth, result = planted
    names = sorted(set().union(*truth.pairs["half the size"]))
    groups = Photos(result.dataset.images, names, FAIL).copies(names, FAIL).photos
    group_of = dict(zip(names, groups, strict=True))
    assert all(len({group_of[name] for name in pair}) == 1 for pair in truth.pairs["half the size"])
    assert len(set(groups)) == len(names) / 2


def test_a_clean_drawn_dataset_has_no_error_about_images(folder):
    findings = audit(folder).findings
    assert not (findings["image"].ne("") & findings["severity"].eq("error")).any()


def test_a_copy_in_another_split_is_a_leak(folder):
    copy = (folder / "images/photo_00001.jpg").read_bytes()
    (folder / "images/copy.jpg").write_bytes(copy)
    add_row(folder, "test", "copy.jpg", "red_circle")
    assert found(audit(folder), "leak") == {"photo_00001.jpg", "copy.jpg"}


def test_an_unreadable_image_is_refused_with_table_and_line(folder):
    (folder / "images/photo_00002.jpg").write_bytes(b"not an image")
    with pytest.raises(DatasetError, match=r"train_labels.csv, line 4: photo_00002.jpg is not"):
        audit(folder).raise_if_unfit()


def test_quarantine_goes_on_without_the_unreadable_and_lists_it(folder):
    (folder / "images/photo_00002.jpg").write_bytes(b"not an image")
    result = audit(folder, QUARANTINE)
    result.raise_if_unfit()
    assert list(result.dataset.quarantine["filepath"]) == ["photo_00002.jpg"]
    assert "photo_00002.jpg" not in set(result.dataset.rows["filepath"])


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_a_split_that_quarantine_empties_is_refused(folder, split):
    (folder / f"{split}_labels.csv").write_text("filepath,labels\nbad.jpg,red_circle\n")
    (folder / "images/bad.jpg").write_bytes(b"not an image")
    with pytest.raises(DatasetError, match=f"^{split}: no image is left"):
        audit(folder, QUARANTINE).raise_if_unfit()


def test_the_summary_is_strict_json(folder, tmp_path):
    write_audit(audit(folder), tmp_path / "out")
    json.loads((tmp_path / "out/audit.json").read_text(), parse_constant=pytest.fail)


def test_cells_of_the_findings_cannot_run_as_formulas(folder, tmp_path):
    Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(folder / "images/=1+1.png")
    add_row(folder, "train", "=1+1.png", "red_circle")
    write_audit(audit(folder), tmp_path / "out")
    cells = pd.read_csv(tmp_path / "out/audit.csv", dtype=str, keep_default_na=False)
    assert "'=1+1.png" in set(cells["image"])


def test_an_unknown_label_contradicts_nothing(folder):
    grain = np.random.default_rng(0).integers(0, 255, (60, 80, 3), np.uint8)
    for name in ("one.jpg", "two.jpg"):
        Image.fromarray(grain).save(folder / "images" / name)
    add_row(folder, "train", "one.jpg", "red_circle|blue_square")
    add_row(folder, "train", "two.jpg", "red_circle|?blue_square")
    assert not found(audit(folder), "conflicting_labels")


def test_an_image_from_a_larger_world_is_odd(folder):
    Image.new("RGB", (2400, 2000), (9, 99, 199)).save(folder / "images/large.png")
    add_row(folder, "train", "large.png", "red_circle")
    assert found(audit(folder), "odd_size") == {"large.png"}


def test_an_image_without_labels_is_listed(folder):
    (folder / "images/empty.jpg").write_bytes((folder / "images/photo_00001.jpg").read_bytes())
    add_row(folder, "val", "empty.jpg", "")
    assert "empty.jpg" in found(audit(folder), "no_labels")


def test_what_is_true_of_most_images_is_one_finding(tmp_path):
    folder = draw_demo(tmp_path / "data", images=120).folder
    for path in (folder / "images").iterdir():
        Image.open(path).resize((60, 60)).save(path)
    result = audit(folder)
    assert not found(result, "below_input")
    common = result.findings[result.findings["kind"] == "common"].iloc[0]
    assert common["severity"] == "info"
    assert common["detail"].startswith("below_input: 120 of 120 images")


def test_a_class_missing_from_train_is_an_error_and_from_val_a_warning(tmp_path):
    rows = [("train", ("cat",)), ("val", ("dog",)), ("test", ("cat", "dog"))]
    findings = audit_dataset(labelled(tmp_path, rows), QUARANTINE).findings
    missing = findings[findings["kind"] == "class_missing"].set_index("split")["severity"]
    assert missing.to_dict() == {"train": "error", "val": "warning"}


def test_a_class_with_few_positives_in_val_is_too_small_to_tune(tmp_path):
    rows = [("val", ("cat",))] * 9 + [("val", ())] * 30 + [("val", ("dog",))] * 10
    rows += [("train", ("cat", "dog"))] * 10 + [("train", ())]
    result = audit_dataset(labelled(tmp_path, rows), QUARANTINE)
    assert "class_too_small" in kinds_about(result, "cat")
    assert "class_too_small" not in kinds_about(result, "dog")


def test_a_class_with_three_training_photos_is_too_small_to_learn(tmp_path):
    rows = [("train", ("cat",))] * 3 + [("train", ("dog",))] * 10 + [("val", ("cat", "dog"))] * 20
    rows += [("val", ())] * 20
    findings = audit_dataset(labelled(tmp_path, rows), QUARANTINE).findings
    small = findings[findings["kind"] == "class_too_small"]
    assert small["detail"].tolist() == [
        "class 'cat': 3 positives in train, fewer than audit.min_positives 10: too few to learn it "
        "from. Collect more"
    ]


def test_a_class_in_every_photo_is_said_to_have_no_negatives(tmp_path):
    rows = [("train", ("cat", "dog")), ("train", ("dog",)), ("val", ("cat", "dog"))]
    findings = audit_dataset(labelled(tmp_path, rows), QUARANTINE).findings
    always = findings[(findings["kind"] == "class_always_on") & (findings["split"] == "train")]
    assert len(always) == 1
    assert "'dog' is true of all 2 images of train: without negatives" in always["detail"].iloc[0]


def test_a_class_that_drifts_is_found_and_chance_is_not(tmp_path):
    rng = np.random.default_rng(0)
    share = {"train": 0.5, "val": 0.5, "test": 0.8}
    rows = []
    for split, chance in share.items():
        for _ in range(400):
            rows.append(
                (split, ("cat",) * (rng.random() < chance) + ("dog",) * (rng.random() < 0.5))
            )
    result = audit_dataset(labelled(tmp_path, rows), QUARANTINE)
    drift = result.findings[result.findings["kind"] == "split_drift"]
    assert list(drift["split"]) == ["test"] and "'cat'" in drift["detail"].iloc[0]


def test_classes_out_of_balance_are_reported(tmp_path):
    rows = [("train", ("cat",))] * 210 + [("train", ("dog",))] * 10
    result = audit_dataset(labelled(tmp_path, rows), QUARANTINE)
    assert "imbalance" in kinds_about(result, "dog")


def test_pairs_have_the_lift_that_counting_gives(tmp_path):
    rows = [("train", ("cat", "dog"))] * 30 + [("train", ("cat",))] * 20 + [("train", ())] * 50
    pairs = audit_dataset(labelled(tmp_path, rows), QUARANTINE).statistics.pairs
    assert pairs["images"].tolist() == [30]
    assert pairs["lift"].tolist() == pytest.approx([30 / (50 * 30 / 100)])


def test_a_dataset_of_nothing_but_unreadable_images_has_an_audit(tmp_path):
    result = audit_dataset(labelled(tmp_path, [("train", ("cat",))] * 3), QUARANTINE)
    assert result.summary["readable"] == 0 and len(result.dataset.quarantine) == 3
    json.dumps(result.summary, allow_nan=False)


def test_facts_are_in_the_order_of_the_rows(folder):
    dataset = read_dataset(folder, FAIL)
    assert list(audit_dataset(dataset, FAIL).facts["image"]) == list(dataset.rows["filepath"])


@pytest.mark.parametrize("threads", [1, 5])
def test_the_number_of_threads_changes_nothing(folder, threads):
    settings = FAIL.model_copy(update={"run": FAIL.run.model_copy(update={"threads": threads})})
    pd.testing.assert_frame_equal(audit(folder, settings).facts, audit(folder).facts)


@pytest.fixture
def one_table(tmp_path) -> Path:
    """A table without splits; some photos have no label, and copies among the others."""
    folder = draw_demo(tmp_path / "data", images=48).folder
    rows = [line for split in ("train", "val", "test")
            for line in (folder / f"{split}_labels.csv").read_text().splitlines()[1:]]  # fmt: skip
    for split in ("train", "val", "test"):
        (folder / f"{split}_labels.csv").unlink()
    for number, row in enumerate(rows[:12]):
        name, labels = row.split(",")
        copy = f"copy_{number}.jpg"
        if number < 6:
            (folder / "images" / copy).write_bytes((folder / "images" / name).read_bytes())
        else:
            Image.open(folder / "images" / name).save(folder / "images" / copy, quality=60)
        rows.append(f"{copy},{'?' if number % 2 else labels}")
    (folder / "labels.csv").write_text("\n".join(["filepath,labels", *rows]) + "\n")
    return folder


@pytest.fixture
def read_names(monkeypatch) -> list[str]:
    """Names of photos, one for each time that the audit's pass read one."""
    names, read = [], facts.examine_image

    def examine(path, dataset):
        names.append(path.name)
        return read(path, dataset)

    monkeypatch.setattr(facts, "examine_image", examine)
    return names


FOLDS = Settings(num_classes="auto", dataset=DatasetSettings(folds=3, fold=1))


def test_splits_folds_and_the_audit_read_each_photo_once(one_table, read_names):
    audit(one_table, FOLDS)
    assert sorted(read_names) == sorted(path.name for path in (one_table / "images").iterdir())


def test_an_audit_after_a_split_is_the_audit_of_a_fresh_read(one_table, tmp_path):
    dataset = read_dataset(one_table, FOLDS)
    outs = tmp_path / "one", tmp_path / "other"
    for out, one in zip(outs, (dataset, replace(dataset, photos=None)), strict=True):
        found = audit_dataset(one, FOLDS)
        write_audit(found, out)
        write_dataset(found.dataset, out, tmp_path, task="multilabel", sha256=found.sha256)
    files = [path.relative_to(outs[0]) for path in outs[0].rglob("*") if path.is_file()]
    assert len(files) > 10
    for file in files:
        assert (outs[0] / file).read_bytes() == (outs[1] / file).read_bytes(), file


def test_a_split_knows_no_more_photos_than_it_deals_out(one_table):
    """Copies are searched among what is dealt out, whatever else was read in the same pass."""
    alone = read_dataset(one_table, FAIL)
    labelled = alone.rows[alone.rows["split"] != "unlabeled"].reset_index(drop=True)
    lone = deal_splits(replace(alone, rows=labelled.assign(split=""), photos=None), FAIL)
    assert lone.rows.equals(labelled)


def test_a_photo_that_changed_after_the_split_is_read_again(one_table, read_names):
    dataset = read_dataset(one_table, FAIL)
    changed = one_table / "images" / "photo_00007.jpg"
    changed.write_bytes(b"not an image")
    read_names.clear()
    result = audit_dataset(dataset, FAIL)
    assert "photo_00007.jpg" in read_names
    assert found(result, "unreadable") == {"photo_00007.jpg"}


def test_the_benchmark_compares_the_audit_with_decoding():
    figures = benchmark.run(count=40, width=80, height=60, repeats=1)
    assert figures["images"] == 40 and figures["ratio"] > 0 and figures["dealt_ratio"] > 0
    assert json.loads(json.dumps(figures, allow_nan=False)) == figures
    assert "times as long as decoding" in benchmark.table(figures)


CORPORA = [Path(os.environ.get("WORKBENCH_SHARED", "absent"), "corpora", name)
           for name in ("images", "pngsuite/png")]  # fmt: skip
STATE_MEMORY = """
import sys
from tests.memory import peak_kilobytes
from tests.test_audit import audit_files
audit_files(sys.argv[1])
print(peak_kilobytes())
"""


def audit_files(folder):
    names = sorted(path.name for path in Path(folder).iterdir() if path.suffix != ".csv")
    rows = pd.DataFrame({"filepath": names}).assign(split="train", source="", line=0)
    rows["labels"] = rows["unknown"] = [()] * len(rows)
    return audit_dataset(Dataset(Path(folder), ("any",), rows), QUARANTINE)


@pytest.mark.parametrize("corpus", CORPORA, ids=lambda path: path.name)
def test_odd_files_end_alike_in_audit_and_decoder(corpus):
    if not corpus.is_dir():
        pytest.skip("WORKBENCH_SHARED does not name a folder with corpora")
    facts = audit_files(corpus).facts
    refused = set()
    for name in facts["image"]:
        try:
            decode_image(corpus / name, QUARANTINE.dataset)
        except DatasetError:
            refused.add(name)
    assert set(facts["image"][facts["refused"].notna()]) == refused


@pytest.mark.parametrize("corpus", CORPORA, ids=lambda path: path.name)
def test_odd_files_take_less_than_a_gigabyte(corpus):
    if not corpus.is_dir():
        pytest.skip("WORKBENCH_SHARED does not name a folder with corpora")
    command = [sys.executable, "-c", STATE_MEMORY, str(corpus)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(done.stdout) * 1024 < 1e9


@pytest.mark.parametrize(
    ("labels", "settings", "said"),
    [
        ((("cat",), ("dog",)), FAIL, True),
        ((("cat",), ("dog",)), FAIL.model_copy(update={"task": "single_label"}), False),
        ((("cat",), ("cat", "dog")), FAIL, False),
        ((("cat",), ()), FAIL, False),
        ((("cat",), ("cat",)), FAIL, False),
    ],
)
def test_one_label_a_photo_asks_for_the_task_of_one_label(tmp_path, labels, settings, said):
    (tmp_path / "images").mkdir()
    rows = [(split, names) for split in ("train", "val", "test") for names in labels]
    dataset = labelled(tmp_path / "images", rows)
    for number, path in enumerate(dataset.rows["filepath"]):
        Image.new("RGB", (40, 40), (25 * number, 99, 250)).save(tmp_path / "images" / path)
    findings = audit_dataset(dataset, settings).findings
    told = findings[findings["kind"] == "one_label"]["detail"].tolist()
    assert ["one label a photo" in words and "task: single_label" in words for words in told] == (
        [True] if said else []
    )
