"""A run without a student: the large network ships, in floats, with thresholds on logits."""

import subprocess
import sys

import numpy as np
import pytest
from pydantic import ValidationError

from tests.playing import command, copy_project, open_folder, run_chain, saved
from workbench.changes import resolve_settings
from workbench.decide.levels import LOWEST, NEVER, on_levels
from workbench.deploy import verify
from workbench.errors import SettingsError, StepError
from workbench.files import read_json
from workbench.freshness import files_read, step_settings
from workbench.parameters import layers_of
from workbench.settings import Settings
from workbench.steps import STEPS, find_step, mandatory, writer_of
from workbench.train.phases import phase_parts, phases

ALONE = Settings.model_validate({"student": None})
WHY = "no student: the teacher is the product"


def test_only_distilling_and_quantising_are_left_out():
    skipped = {step.number: step.skipped(ALONE) for step in STEPS}
    assert {number: why for number, why in skipped.items() if why} == {"04": WHY, "05": WHY}
    assert not any(step.skipped(Settings()) for step in STEPS)


def test_a_step_that_is_left_out_trains_nothing():
    assert [phase.role for step in STEPS for phase in step.phases(ALONE)] == ["teacher"] * 2


def test_no_step_reads_what_nobody_writes_then():
    written = set()
    for step in STEPS:
        if not step.skipped(ALONE):
            assert set(files_read(step, ALONE)) - {"threshold_choice.json"} <= written, step.title
            written |= {name.rstrip("?") for name in step.under(ALONE).writes}
    assert set(mandatory(ALONE.product)) <= written
    assert writer_of("model_float16.tflite").number == "07"


def test_a_trained_teacher_stands_when_the_student_goes():
    for one, other in zip(phases(Settings(), "teacher"), phases(ALONE, "teacher"), strict=True):
        assert phase_parts(one, Settings()) == phase_parts(other, ALONE)
    step = find_step("03")
    assert step_settings(Settings(), step) == step_settings(ALONE, step)
    assert files_read(step, Settings()) == files_read(step, ALONE)


@pytest.mark.parametrize("knob", ["fold_thresholds", "sigmoid_in_model"])
def test_what_changes_integers_is_refused_where_there_are_none(knob):
    with pytest.raises(ValidationError, match=f"tflite_export.{knob}"):
        Settings.model_validate({"student": None, "tflite_export": {knob: True}})


def test_asking_for_the_student_says_that_there_is_none():
    with pytest.raises(SettingsError, match="no student, its teacher is the product"):
        _ = ALONE.student_size


def test_a_change_to_no_student_is_remembered_and_taken_back(tmp_path):
    gone = resolve_settings(tmp_path, None, layers_of(["student=null"]), {})
    assert "student … → null" in gone.line
    later = resolve_settings(tmp_path, None, [], gone.changes)
    assert later.settings.student is None
    back = resolve_settings(tmp_path, None, layers_of(["student.dropout=0.25"]), gone.changes)
    assert back.settings.student.dropout == 0.25


@pytest.mark.parametrize(("low", "high"), [(-9, 4), (0.5, 3), (-7, -2), (0, 0), (-80, 60)])
def test_a_logit_and_its_level_decide_alike(low, high):
    logits = np.random.default_rng(0).uniform(low, high, (500, 3)).astype(np.float32)
    raw, levels = on_levels(logits)
    for integer in range(LOWEST + 1, NEVER):
        np.testing.assert_array_equal(raw >= integer, logits >= levels.threshold_logits(integer))
    assert abs(levels.logits(raw) - logits).max() <= levels.scale / 2 * (1 + 1e-9)


@pytest.fixture(scope="module")
def alone(finished_project, tmp_path_factory):
    """A finished run whose student is taken away: what it said, and its folder."""
    project = copy_project(finished_project, tmp_path_factory.mktemp("alone") / "project")
    formats = "tflite_export.extra_formats=[dynamic_range]"
    return run_chain(project, "--set", "student=null", "--set", formats), project


@pytest.mark.slow
def test_the_chain_takes_over_the_teacher_and_ships_it(alone):
    said, project = alone
    run = project / "outputs/demo"
    ran = [line.split()[0] for line in said.splitlines() if " runs: " in line]
    assert ran == ["02", "06", "07", "08", "09"]
    assert f"04 distill_student     skipped: {WHY}" in said and "PIPELINE COMPLETE" in said
    due = (*mandatory(ALONE.product), "teacher_dynamic_range.tflite", "app/python/classify.py")
    assert [name for name in due if not (run / name).exists()] == []
    assert not (run / verify.MODEL).exists() and not (run / "app/c").exists()
    index = (run / "html/index.html").read_text()
    assert WHY in index and "All steps but 04, 05 are done" in index and "Large network" in index
    assert saved(project)["student"] is None
    assert run_chain(project).count("up to date") == 7


@pytest.mark.slow
def test_its_bundle_is_in_floats_and_agrees_with_itself(alone, monkeypatch):
    _, project = alone
    run = project / "outputs/demo"
    config = read_json(run / verify.CONFIG)
    assert (config["output"]["dtype"], config["shipped"]["network"]) == ("float32", "teacher")
    assert all(row["integer"] is None for row in config["thresholds"]["classes"])
    done = subprocess.run([sys.executable, run / "app/python/classify.py"], capture_output=True)
    assert (done.returncode, done.stdout[-11:]) == (0, b", 0 differ\n")
    found = verify.verify(run)
    assert found.passed, found.text
    config["thresholds"]["classes"][0]["logit"] += 0.5
    monkeypatch.setattr(verify.Bundle, "json", lambda bundle, name: (
        config if name == verify.CONFIG else read_json(bundle.folder / name)))  # fmt: skip
    failed = {check.name for check in verify.verify(run).checks if check.passed is False}
    assert "thresholds" in failed


@pytest.mark.slow
def test_a_notebook_without_a_student_says_so_in_a_line(alone):
    _, project = alone
    with pytest.raises(StepError, match=f"^04 distill_student is left out of demo: {WHY}$"):
        open_folder(project).begin("04")
    said = command(project, "export", "outputs/demo", "--network", "student").stdout
    assert "no student, its teacher is the product" in said and "Traceback" not in said
