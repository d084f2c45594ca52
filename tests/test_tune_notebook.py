"""Notebook 06 from the scores alone: what it searches, shows and writes for either task."""

import json
import shutil
from pathlib import Path

import nbformat
import numpy as np
import pytest
from nbclient import NotebookClient

from tests.decision_doubles import SCALE, ZERO_POINT, draw, names
from workbench.decide.calibration import read_scores
from workbench.decide.choice import CHOICE
from workbench.decide.recommendation import RECOMMENDATION, read
from workbench.decide.thresholds import search_scores
from workbench.errors import InputError
from workbench.files import read_json, write_json
from workbench.settings import Settings
from workbench.show import threshold_figures
from workbench.show.figures import alt_text

ROOT = Path(__file__).parent.parent
CLASSES = names(7)


def write_run(folder, task):
    y_true, raw = draw()
    if task == "single_label":
        label = np.random.default_rng(0).integers(0, 7, 400)
        y_true = np.eye(7)[label]
        raw = np.clip(raw + 90 * y_true, -128, 127).astype(np.int8)
    known = np.ones(raw.shape, np.float32)
    folder.mkdir(parents=True)
    logits = (raw.astype(np.float32) - ZERO_POINT) * SCALE
    np.savez(folder / "candidate_scores.npz", raw=raw, scale=SCALE, zero_point=ZERO_POINT,
             y_true=y_true.astype(np.float32), mask=known, twin_logits=logits)  # fmt: skip
    np.savez(folder / "student_scores.npz", logits=logits)
    (folder / "labels.txt").write_text("\n".join(CLASSES), "utf-8")
    write_json(folder / "training_config.json", Settings(task=task).model_dump())
    return folder


@pytest.fixture(params=["multilabel", "single_label"])
def scores(request, tmp_path):
    folder = write_run(tmp_path / "run", request.param)
    return read_scores(folder / "candidate_scores.npz", request.param)


def few_replicates(task):
    return Settings(task=task, threshold_search={"bootstrap_replicates": 20})


def test_the_search_fits_the_task_and_knows_its_file(scores):
    found = search_scores(scores, CLASSES, few_replicates(scores.task))
    assert found.task == scores.task
    assert found.scores.source_sha256 == scores.source_sha256 is not None


def test_every_figure_says_in_words_what_it_shows(scores):
    found = search_scores(scores, CLASSES, few_replicates(scores.task))
    figures = [
        *threshold_figures.figures(found).values(),
        threshold_figures.confidence(scores, found),
        threshold_figures.class_scores(scores, found, CLASSES),
        threshold_figures.reliability(scores.y_true, {"a": scores.probability}, scores.mask),
    ]
    assert all(len(alt_text(figure)) > 40 for figure in figures)


def test_thresholds_are_compared_on_the_same_images(scores):
    shown = threshold_figures.side_by_side(scores, {"half": 0.5, "never": 1.0}, CLASSES).frame
    assert shown.thresholds.tolist() == ["half", "never"]
    assert shown.no_label_rate.tolist()[1] == 1.0 and shown.f1_macro[0] > shown.f1_macro[1]


def test_damaged_scores_name_the_notebook_that_makes_them(tmp_path):
    (tmp_path / "candidate_scores.npz").write_bytes(b"PK nothing")
    with pytest.raises(InputError, match="Run 05_quantize_student again"):
        read_scores(tmp_path / "candidate_scores.npz", "multilabel")


def run_all(folder):
    ran = nbformat.read(ROOT / "notebooks" / "06_tune_thresholds.ipynb", as_version=4)
    ran.cells[1].source = f'run_dir = "outputs/{folder.name}"\nparameters = "parameters/demo.yaml"'
    root = folder.parent.parent
    NotebookClient(ran, timeout=300, resources={"metadata": {"path": str(root)}}).execute()
    return ran


@pytest.mark.slow
@pytest.mark.parametrize("task", ["multilabel", "single_label"])
def test_a_saved_choice_that_no_longer_fits_does_not_stop_the_notebook(task, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    for name in ("notebooks", "parameters"):
        shutil.copytree(ROOT / name, tmp_path / name)
    folder = write_run(tmp_path / "outputs" / "night", task)
    (folder / CHOICE).write_text('{"schema": 1}', "utf-8")
    said = json.dumps(run_all(folder))
    assert "threshold_choice.json was not applied" in said
    assert "application/vnd.workbench.panel+json" in said
    assert read(folder / RECOMMENDATION).created_by == "search"
    assert (folder / CHOICE).read_text("utf-8") == '{"schema": 1}'
    assert read_json(folder / "status.json")["steps"]["06"]["state"] == "ok"
