"""Verify against edits: a figure that was changed and sealed again is found in its file."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.prove import edited_figures
from tests.run_doubles import make_run
from workbench.decide.thresholds import search
from workbench.deploy import verify
from workbench.deploy.bundle import seal
from workbench.deploy.verify.answers import Answers
from workbench.deploy.verify.arithmetic import draw_weights
from workbench.deploy.verify.recommendation import derive_shared_curve
from workbench.deploy.verify.search import Search
from workbench.files import write_json
from workbench.settings import ThresholdSearchSettings

KINDS = [
    ({"tflite_export": {"sigmoid_in_model": True}, "calibration": {"method": "platt"}}, 25),
    ({"threshold_search": {"objective": "cost", "method": "grid", "smoothing_positives": 0}}, None),
    ({"threshold_search": {"objective": "recall_floor", "floor": 0.6}}, 25),
    ({"task": "single_label"}, 25),
    ({"ladder": {"force_rung": "qat"}, "threshold_search": {"per_class_enabled": False}}, None),
    ({"evaluation": {"pool": "mean_logits"}}, 25),
    ({"evaluation": {"pool": "mean_logits"}, "task": "single_label"}, 25),
]


@pytest.fixture(scope="module", params=["multilabel", "single_label"])
def sealed(request, tmp_path_factory) -> Path:
    return make_run(tmp_path_factory.mktemp("run"), {"task": request.param})


@pytest.fixture(scope="module")
def several_labels(tmp_path_factory) -> Path:
    return make_run(tmp_path_factory.mktemp("run"))


def test_a_config_that_hides_the_pooling_is_named(tmp_path):
    folder = make_run(tmp_path / "run", {"evaluation": {"pool": "mean_logits"}}, clips=25)
    config = json.loads((folder / verify.CONFIG).read_text())
    aggregation = config["aggregation"]
    assert aggregation["method"] == "mean_logits"
    for lie in (None, aggregation | {"frames": aggregation["frames"] + 1}):
        write_json(folder / verify.CONFIG, config | {"aggregation": lie})
        seal(folder)
        assert "aggregation" in failures(folder, "thresholds")["thresholds"]


def failures(folder: Path, *names: str) -> dict[str, str]:
    checks = [check for check in verify.CHECKS if check[0] in (*names, "hashes")]
    found = verify.verify(folder, checks)
    return {check.name: check.detail for check in found.checks if check.passed is False}


@pytest.mark.parametrize(("kind", "clips"), KINDS, ids=str)
def test_what_the_workbench_computed_is_derived_by_other_code(tmp_path, kind, clips):
    found = verify.verify(make_run(tmp_path, kind, clips=clips))
    assert found.passed, found.text


@pytest.mark.parametrize("objective", ["precision_floor", "recall_floor"])
def test_a_floor_that_clips_claim_is_derived_by_other_code(objective):
    rng = np.random.default_rng(1)
    y_true = np.repeat(rng.random((80, 3)) < 0.4, 4, axis=0)
    raw = np.clip(rng.normal(70 * y_true - 40, 30), -128, 127).astype(np.int8)
    groups, mask = np.arange(320) // 4, (rng.random(raw.shape) < 0.95).astype(np.float32)
    knobs = ThresholdSearchSettings(objective=objective, floor=0.75, bootstrap_replicates=20)
    found = search(y_true, raw, 0.08, 10, knobs, tuple("abc"), 0, mask=mask, groups=groups)
    arrays = {"y_true": y_true, "raw": raw, "mask": mask, "groups": groups,
              "scale": np.array(0.08), "zero_point": np.array(10)}  # fmt: skip
    derived = Search.of(arrays, knobs.model_dump(mode="json"))
    assert derived.choice.integers.tolist() == found.integer.tolist()
    assert derived.choice.adopted.tolist() == found.adopted.tolist()
    shared = derive_shared_curve(derived)["objective"]
    np.testing.assert_allclose(shared, found.curve.objective, atol=1e-12)


def test_no_edited_figure_passes(sealed):
    rows = edited_figures.edit_run(sealed, "drawn", every=13)
    assert [place for row in rows for place in row["missed"]] == []
    assert sum(row["found"] for row in rows) > 200


@pytest.mark.parametrize(("name", "place"), [
    ("metrics.json", ("test", "overall", "f1_samples", "value")),
    ("metrics.json", ("test", "overall", "calibration_error", "interval", 1)),
    ("metrics.json", ("test", "confusion", 1, 0, 1)),
    ("metrics.json", ("float_against_int8", "overall", 0, "high")),
    ("quantization_ladder.json", ("rungs", 0, "drop_interval", 1)),
    ("quantization_ladder.json", ("ptq_against_qat", "difference")),
    ("calibration.json", ("classes", 0, "loss_after")),
    ("parity.json", ("rungs", 1, "flips")),
    ("float_thresholds.json", ("float twin", 1)),
])  # fmt: skip
def test_an_edited_figure_that_was_sealed_again_is_named(several_labels, tmp_path, name, place):
    folder = Path(shutil.copytree(several_labels, tmp_path / "run"))
    stated = json.loads((folder / name).read_text())
    edited_figures.edit(stated, place)
    write_json(folder / name, stated)
    seal(folder)
    failed = failures(folder, name)
    assert set(failed) == {name} and f"{place[-1]} is" in failed[name]


def test_a_threshold_moved_in_every_file_at_once_is_found_by_searching_again(
    several_labels, tmp_path
):
    folder = Path(shutil.copytree(several_labels, tmp_path / "run"))
    found = json.loads((folder / verify.RECOMMENDATION).read_text())
    level = found["scores"]
    for row in [found["global"], *found["classes"]]:
        row["integer"] += 2
        row["logit"] = (row["integer"] - 0.5 - level["zero_point"]) * level["scale"]
        row["probability"] = 1 / (1 + np.exp(-row["logit"]))
    config = json.loads((folder / verify.CONFIG).read_text())
    for row, moved in zip(config["thresholds"]["classes"], found["classes"], strict=True):
        row.update({key: moved[key] for key in ("integer", "logit", "probability")})
    write_json(folder / verify.RECOMMENDATION, found)
    write_json(folder / verify.CONFIG, config)
    seal(folder)
    assert "integer is" in failures(folder, verify.RECOMMENDATION)[verify.RECOMMENDATION]


def test_a_page_whose_sliders_count_other_images_is_named(several_labels, tmp_path):
    folder = Path(shutil.copytree(several_labels, tmp_path / "run"))
    page = (folder / verify.PAGE_06).read_text("utf-8")
    edited = page.replace('"classes": [[[0', '"classes": [[[1').replace(
        '"classes":[[[0', '"classes":[[[1'
    )
    assert edited != page
    (folder / verify.PAGE_06).write_text(edited, "utf-8")
    seal(folder)
    assert set(failures(folder, "pages", "panels")) == {"panels"}


def test_photos_of_one_group_are_drawn_together(tmp_path):
    units = Answers(*[np.zeros((4, 1))] * 4, {}, np.array([7, 7, 9, 9])).units
    for drawn in draw_weights(units, 20, np.random.default_rng(1)):
        assert (drawn[:, 0] == drawn[:, 1]).all() and (drawn.sum(1) % 2 == 0).all()
