"""Very many photos or classes, very few, and pictures of extreme shape."""

import os

import cv2
import numpy as np
import pytest

from tests.prove import scale
from workbench.data.audit.report import audit_dataset, write_audit
from workbench.data.decode import decode_image
from workbench.data.letterbox import letterbox
from workbench.data.tables import load_dataset, read_dataset, write_dataset
from workbench.errors import DatasetError
from workbench.settings import Settings

SETTINGS = Settings(num_classes="auto")


def write_photo(path, width=12, height=12, seed=0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    cv2.imwrite(str(path), pixels)


def write_rows(folder, rows: dict[str, list[str]]) -> None:
    for split, lines in rows.items():
        (folder / f"{split}_labels.csv").write_text("\n".join(["filepath,labels", *lines, ""]))


def audit_and_back(folder):
    """Do what 01 does and read what it wrote, as 02 does."""
    found = audit_dataset(read_dataset(folder, SETTINGS), SETTINGS)
    run = folder / "run"
    write_audit(found, run)
    write_dataset(found.dataset, run, folder, task="multilabel", sha256=found.sha256)
    return found, load_dataset(run, folder)


def test_the_proof_measures_every_stage_and_computes_what_is_larger(tmp_path):
    scale.draw(tmp_path / "data", 60)
    row = scale.stages(tmp_path) | {"images": 60, "measured": True}
    assert all(row[key] > 0 for key in (*scale.STAGES, "memory", "disk"))
    before = row | {"images": 6} | {stage: 0.0 for stage in scale.STAGES}
    more = scale._beyond([before, row], upto=6000)
    assert [one["images"] for one in more] == [600, 6000]
    assert more[1]["audit"] == pytest.approx(row["audit"] * (6000 - 6) / (60 - 6))
    assert "6,000 (computed)" in scale.table({"rows": [row, *more]})


def test_a_thousand_classes_on_copies_of_one_photo_stay_small(tmp_path):
    """Every copy has a label of its own; a sentence that named them all would be quadratic."""
    write_photo(tmp_path / "images/0.png")
    for number in range(1, 1000):
        os.link(tmp_path / "images/0.png", tmp_path / f"images/{number}.png")
    rows = [f"{number}.png,c{number:04d}" for number in range(1000)]
    write_rows(tmp_path, {"train": rows[:800], "val": rows[800:900], "test": rows[900:]})
    found, back = audit_and_back(tmp_path)
    assert len(back.classes) == 1000 and back.split("train").targets.shape == (800, 1000)
    assert len(found.proposal.moves) == 1000
    assert (tmp_path / "run/proposed_split/moves.csv").stat().st_size < 300_000
    assert found.findings["kind"].value_counts()["class_missing"] == 2000  # each in two splits


def test_one_class_and_one_photo_a_split_are_audited(tmp_path):
    for number in range(3):
        write_photo(tmp_path / f"images/{number}.png", seed=number)
    write_rows(tmp_path, {"train": ["0.png,cat"], "val": ["1.png,cat"], "test": ["2.png,cat"]})
    found, back = audit_and_back(tmp_path)
    found.raise_if_unfit()
    assert back.classes == ("cat",) and len(back.rows) == 3
    assert "class_always_on" in set(found.findings["kind"])


def test_one_photo_alone_is_refused_for_the_splits_that_it_leaves_empty(tmp_path):
    write_photo(tmp_path / "images/0.png")
    (tmp_path / "labels.csv").write_text("filepath,labels\n0.png,cat\n")
    found, _ = audit_and_back(tmp_path)
    with pytest.raises(DatasetError, match="no image is left"):
        found.raise_if_unfit()


def test_one_pixel_and_a_thread_of_fifty_thousand_are_seen_by_audit_and_networks(tmp_path):
    shapes = {"dot": (1, 1), "thread": (50_000, 10), "pole": (10, 50_000), "usual": (40, 30)}
    for number, (name, (width, height)) in enumerate(shapes.items()):
        write_photo(tmp_path / f"images/{name}.png", width, height, number)
    write_rows(tmp_path, {"train": ["dot.png,a", "thread.png,b"], "val": ["pole.png,a|b"],
                          "test": ["usual.png,a"]})  # fmt: skip
    found, back = audit_and_back(tmp_path)
    assert found.facts["refused"].isna().all()
    facts = found.facts.set_index("image")
    assert facts.loc["thread.png", ["width", "height"]].tolist() == [50_000, 10]
    named = found.findings[found.findings["image"].isin(["thread.png", "pole.png"])]
    assert set(named["kind"]) >= {"letterbox_waste"}
    for name in shapes:
        photo = decode_image(back.images / f"{name}.png", SETTINGS.dataset)
        assert letterbox(photo, 32).shape == (32, 32, 3)
