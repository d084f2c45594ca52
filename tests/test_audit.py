"""The audit finds what is wrong with a dataset, says where, and opens each image once."""

import json

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from workbench.data.audit import audit_dataset, write_audit
from workbench.data.demo import draw_demo
from workbench.data.tables import read_dataset
from workbench.errors import DatasetError
from workbench.settings import DatasetSettings, Settings

FAIL = Settings(num_classes="auto")
QUARANTINE = Settings(num_classes="auto", dataset=DatasetSettings(on_bad_image="quarantine"))


@pytest.fixture
def folder(tmp_path):
    return draw_demo(tmp_path / "data", images=60).folder


def audit(folder, settings=FAIL):
    return audit_dataset(read_dataset(folder, settings), settings)


def found(result, kind: str) -> set[str]:
    return set(result.findings.loc[result.findings["kind"] == kind, "image"])


def add_row(folder, split: str, name: str, labels: str) -> None:
    with open(folder / f"{split}_labels.csv", "a") as table:
        table.write(f"{name},{labels}\n")


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
    assert list(result.quarantine["filepath"]) == ["photo_00002.jpg"]
    assert "photo_00002.jpg" not in set(result.dataset.rows["filepath"])


def test_the_summary_is_strict_json(folder, tmp_path):
    write_audit(audit(folder), tmp_path / "out")
    json.loads((tmp_path / "out/audit.json").read_text(), parse_constant=pytest.fail)


def test_cells_of_the_findings_cannot_run_as_formulas(folder, tmp_path):
    Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(folder / "images/=1+1.png")
    add_row(folder, "train", "=1+1.png", "red_circle")
    write_audit(audit(folder), tmp_path / "out")
    cells = pd.read_csv(tmp_path / "out/audit.csv", dtype=str, keep_default_na=False)
    assert "'=1+1.png" in set(cells["image"])
