"""The run folder: what truly happened, and what is up to date, from content and not from dates."""

import getpass
import json
import logging
import os
import platform
from dataclasses import replace
from pathlib import Path

import pytest

from tests.test_house import PACKAGE, imported
from workbench import status
from workbench.batch import Plan, foretell
from workbench.chain import STEPS, find_step
from workbench.errors import InputError, MissingInputError, SettingsError, StepError
from workbench.execution import page_path
from workbench.files import write_text
from workbench.metadata import write_run_metadata
from workbench.parameters import differences, read_settings
from workbench.run import CONFIG_NAME, Run, open_run
from workbench.status import judge, state_of


def pretend(run: Run, number: str, text: str = "made") -> None:
    """Do what a notebook does: write the promised files within the step."""
    with run.step(number):
        for name in find_step(number).writes:
            path = run.path(name)
            path.mkdir(exist_ok=True) if "." not in name else path.write_text(text)


def stale(run: Run) -> list[str]:
    return [s.number for s in STEPS if not judge(run.folder, s, run.prints(s)).fresh]


@pytest.fixture
def finished(run) -> Run:
    for step in STEPS:
        pretend(run, step.number)
    return run


def changed(run: Run, *assignments: str) -> Run:
    return replace(run, settings=read_settings(run.root / "parameters/mine.yaml", assignments))


def test_a_finished_run_is_up_to_date(finished):
    assert stale(finished) == []


def test_a_change_of_threshold_search_touches_06_and_trains_nothing(finished):
    other = changed(finished, "threshold_search.objective=fbeta")
    assert stale(other) == ["06"]


def test_other_thresholds_lead_on_to_08_and_09_and_leave_07_alone(finished):
    other = changed(finished, "threshold_search.objective=fbeta")
    pretend(other, "06", "other thresholds")
    assert stale(other) == ["08", "09"]


def test_a_step_that_writes_the_same_again_stops_the_wave(finished):
    other = changed(finished, "threshold_search.objective=fbeta")
    pretend(other, "06")
    assert stale(other) == []


def test_a_touched_photo_calls_for_a_new_audit_only(finished):
    (finished.dataset_folder / "new.jpg").write_bytes(b"photo")
    assert stale(finished) == ["01"]


def test_the_verdict_names_what_changed(finished):
    other = changed(finished, "qat.epochs=3")
    step = find_step("05")
    assert judge(other.folder, step, other.prints(step)).reason == "setting qat changed"


def test_a_damaged_output_is_noticed(finished):
    finished.path("labels.txt").write_text("made!")
    step = find_step("01")
    verdict = judge(finished.folder, step, finished.prints(step))
    assert verdict.reason == "labels.txt is missing or was changed"


def test_a_step_that_raises_is_recorded_with_its_reason(run):
    with pytest.raises(ValueError, match="odd"), run.step("01"):
        raise ValueError("odd")
    record = state_of(run.folder, find_step("01"))
    assert (record["state"], record["reason"]) == ("failed", "ValueError: odd")


def test_a_step_interrupted_by_a_person_is_recorded_as_that(run):
    with pytest.raises(KeyboardInterrupt), run.step("01"):
        raise KeyboardInterrupt
    assert state_of(run.folder, find_step("01"))["state"] == "interrupted"


def test_a_step_whose_process_is_gone_was_interrupted_and_is_not_running(run):
    status.record_start(run.folder, find_step("01"))
    path = run.path(status.STATUS_NAME)
    record = json.loads(path.read_text())
    record["steps"]["01"]["process"]["born"] -= 1000
    path.write_text(json.dumps(record))
    assert state_of(run.folder, find_step("01"))["state"] == "interrupted"


def test_a_step_that_breaks_its_promise_fails(run):
    with pytest.raises(StepError, match="did not write dataset_manifest"), run.step("01"):
        pass


def test_a_missing_input_names_the_notebook_that_makes_it(run):
    wanted = pytest.raises(MissingInputError, match=r"No labels.*Run 01_dataset_audit first")
    with wanted:
        run.need("labels.txt")


def test_a_folder_of_another_schema_is_refused_with_both_ways_out(run):
    run.path(status.STATUS_NAME).write_text('{"schema": 0, "steps": {}}')
    with pytest.raises(InputError, match=r"has schema 0.*--run.*delete"):
        state_of(run.folder, find_step("01"))


def test_a_notebook_takes_the_saved_settings_when_none_are_given(run):
    changed(run, "seed=5").save_settings()
    opened = open_run({"run_dir": str(run.folder)})
    assert opened.settings.seed == 5


def test_settings_injected_into_a_notebook_win_and_are_saved(run):
    changed(run, "seed=5").save_settings()
    opened = open_run({"run_dir": str(run.folder), "seed": 6})
    assert json.loads(run.path(CONFIG_NAME).read_text())["seed"] == opened.settings.seed == 6


def test_a_mistyped_key_is_refused_in_a_notebook_too(run):
    with pytest.raises(SettingsError, match=r'key "teachr"\. Did you mean "teacher"'):
        open_run({"run_dir": str(run.folder), "teachr": {"epochs_head": 1}})


@pytest.mark.parametrize("name", ["a b", ".hidden", "x" * 101, "a/..", "<b>", "a;b"])
def test_a_run_name_that_is_no_plain_name_is_refused(run, name):
    with pytest.raises(SettingsError, match="cannot name a run"):
        open_run({"run_dir": f"outputs/{name}"})


def test_an_import_that_hides_a_setting_is_refused(run):
    with pytest.raises(SettingsError, match='an import hides the setting "training"'):
        open_run({"run_dir": str(run.folder), "training": json})


def test_what_was_set_on_the_command_line_holds_in_the_notebook(run):
    """The dataset's own config loses to --set once and for all, not once a process."""
    (run.dataset_folder / "config.yaml").write_text("teacher: {epochs_head: 7}\n")
    told = replace(run, settings=read_settings(
        run.root / "parameters/mine.yaml", ["teacher.epochs_head=2"], root=run.root))  # fmt: skip
    told.save_settings()
    opened = open_run({"run_dir": str(run.folder), **differences(told.settings)})
    assert opened.settings == told.settings


def test_a_later_change_of_the_datasets_config_waits_for_the_next_run(run):
    run.save_settings()
    (run.dataset_folder / "config.yaml").write_text("teacher: {epochs_head: 7}\n")
    assert open_run({"run_dir": str(run.folder)}).settings == run.settings


@pytest.mark.parametrize("text", ["[]", "null", '{"sed": 1}', '{"seed": "1"}', "{"])
def test_damaged_settings_of_a_run_are_refused_by_name(run, text):
    run.path(CONFIG_NAME).write_text(text)
    with pytest.raises(InputError, match=CONFIG_NAME):
        open_run({"run_dir": str(run.folder)})


@pytest.mark.parametrize(
    "text",
    ["{}", "[]", "null", '{"schema": 1}', '{"schema": 1, "steps": []}',
     '{"schema": 1, "steps": {"01": {}}}', '{"schema": 1, "steps": {"01": {"state": "ok"}}}',
     '{"schema": 1, "steps": {"01": {"state": "running"}}}'],
)  # fmt: skip
def test_a_damaged_status_is_refused_with_the_way_out(run, text):
    run.path(status.STATUS_NAME).write_text(text)
    with pytest.raises(InputError, match=r"status\.json is damaged\. Delete it and run again"):
        state_of(run.folder, find_step("01"))


def test_a_clock_that_is_set_back_makes_no_step_last_negative_seconds(run, monkeypatch):
    monkeypatch.setattr(
        status, "now", iter(f"20{year}-01-01" for year in range(60, 20, -1)).__next__
    )
    pretend(run, "01")
    assert state_of(run.folder, find_step("01"))["seconds"] >= 0


def test_a_step_warns_of_an_earlier_one_that_is_out_of_date(finished, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("workbench"), "propagate", True)
    other = changed(finished, "teacher.dropout=0.1")
    pretend(other, "04")
    assert "03 train_teacher is out of date (setting teacher changed)" in caplog.text


def test_a_step_after_steps_that_are_up_to_date_warns_of_nothing(finished, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("workbench"), "propagate", True)
    pretend(finished, "04")
    assert "out of date" not in caplog.text


def test_a_run_inside_its_own_dataset_is_up_to_date_all_the_same(run):
    inside = replace(run, folder=run.dataset_folder / "runs/mine")
    pretend(inside, "01")
    assert judge(inside.folder, find_step("01"), inside.prints(find_step("01"))).fresh


@pytest.mark.parametrize(
    ("name", "counts"),
    [("data/tables.py", True), ("data/letterbox.c", True), ("data/_letterbox.so", False),
     ("data/__pycache__/tables.pyc.1234", False)],  # as Python writes it, before renaming
)  # fmt: skip
def test_new_source_calls_for_a_new_run_and_what_was_compiled_from_it_does_not(
    run, tmp_path, monkeypatch, name, counts
):
    monkeypatch.setattr(status, "PACKAGE", tmp_path / "package")
    audit = find_step("01")
    before = run.prints(audit)
    write_text(tmp_path / "package" / name, "new")
    assert (run.prints(audit) != before) == counts


def test_run_metadata_names_no_person_place_or_machine(run):
    pretend(run, "01")
    write_run_metadata(run)
    text = run.path("run_metadata.json").read_text()
    telling = (platform.node(), getpass.getuser(), str(run.root), os.path.expanduser("~"))
    assert [word for word in telling if f'"{word}' in text or f"{word}/" in text] == []


def test_a_dry_run_names_the_steps_that_may_follow_a_change(run):
    for step in STEPS:
        pretend(run, step.number)
        write_text(page_path(run, step), "the page")
    search = run.settings.threshold_search.model_copy(update={"objective": "fbeta"})
    other = replace(run, settings=run.settings.model_copy(update={"threshold_search": search}))
    foretold = {step.number: what for step, what, _ in foretell(other, Plan(STEPS))}
    assert foretold == dict.fromkeys([step.number for step in STEPS], "up to date") | {
        "06": "would run", "08": "may run", "09": "may run"
    }  # fmt: skip


def files_behind(step) -> set[Path]:
    """List the modules that count as the step's code."""
    places = [PACKAGE / name for name in step.code]
    return {
        file for place in places for file in (place.rglob("*.py") if place.is_dir() else [place])
    }


@pytest.mark.parametrize("step", STEPS, ids=lambda step: step.number)
def test_the_code_that_counts_for_a_step_exists(step):
    assert files_behind(step) and all(file.exists() for file in files_behind(step))


@pytest.mark.parametrize("number", ["01", "02", "03", "04", "05", "06"])
def test_nothing_that_a_steps_code_imports_can_change_unseen(number):
    counted = files_behind(find_step(number))
    rooms = {"data", "nets", "train", "deploy", "decide"}
    unseen = {
        name
        for file in counted
        if file.parent.name != "steps"
        for name in imported(file)
        if name.startswith("workbench.") and name.split(".")[1] in rooms
        if not counted & {module_of(name), module_of(name.rpartition(".")[0])}
    }
    assert unseen == set()


def module_of(name: str) -> Path:
    return PACKAGE.parent / (name.replace(".", "/") + ".py")
