"""The run folder: its settings, what truly happened, and what is up to date, from content."""

import getpass
import json
import logging
import os
import platform
import sys
from dataclasses import replace

import pytest

from tests.conftest import promised
from tests.test_structure import PACKAGE
from workbench import status
from workbench.batch import Plan, dry_run
from workbench.errors import InputError, MissingInputError, SettingsError, StepError
from workbench.files import read_json, write_text
from workbench.freshness import accept, code_behind, judge, outdated
from workbench.machine import batch_advice, image_seconds, write_run_metadata
from workbench.run import CHANGES_NAME, CONFIG_NAME, Run, existing_run, open_run, resolve_run
from workbench.settings import STUDENT_SIZES, TEACHER_SIZES
from workbench.status import state_of
from workbench.steps import STEPS, find_step

CARDS = ["NVIDIA A", "NVIDIA B"]


@pytest.fixture(autouse=True)
def said(monkeypatch, caplog):
    """Let the tests read what the workbench logs."""
    monkeypatch.setattr(logging.getLogger("workbench"), "propagate", True)
    caplog.set_level(logging.INFO, "workbench")
    return caplog


def pretend(run: Run, number: str, text: str = "made") -> None:
    """Do what a notebook does: write the files of the step and finish it."""
    run.begin(number)
    for name in promised(find_step(number)):
        path = run.path(name)
        path.mkdir(exist_ok=True) if "." not in name else path.write_text(text)
    run.finish()


def stale(run: Run) -> list[str]:
    return [step.number for step in STEPS if not judge(run, step).fresh]


@pytest.fixture
def finished(run) -> Run:
    for step in STEPS:
        pretend(run, step.number)
    return run


def changed(run: Run, *assignments: str) -> Run:
    return resolve_run(run.folder, run.root, None, assignments)[0]


def opened(run: Run, **knobs) -> Run:
    return open_run(run.folder, "parameters/mine.yaml", knobs=knobs)


def test_a_finished_run_is_up_to_date(finished):
    assert stale(finished) == []


def test_a_change_of_threshold_search_touches_06_and_trains_nothing(finished):
    assert stale(changed(finished, "threshold_search.objective=fbeta")) == ["06"]


def test_other_thresholds_lead_on_to_the_file_that_is_measured_at_them(finished):
    other = changed(finished, "threshold_search.objective=fbeta")
    pretend(other, "06", "other thresholds")
    assert stale(other) == ["07", "08", "09"]


def test_a_step_that_writes_the_same_again_stops_the_wave(finished):
    other = changed(finished, "threshold_search.objective=fbeta")
    pretend(other, "06")
    assert stale(other) == []


def test_what_reads_the_files_of_an_outdated_step_is_outdated_too(finished):
    other = changed(finished, "qat.epochs=3")
    assert list(outdated(other)) == ["05", "06", "07", "08", "09"]


def test_a_touched_photo_calls_for_a_new_audit_only(finished):
    (finished.dataset_folder / "new.jpg").write_bytes(b"photo")
    assert stale(finished) == ["01"]


def test_the_verdict_names_the_knob_with_both_values(finished):
    other = changed(finished, "threshold_search.beta=2.0")
    assert judge(other, find_step("06")).reason == "threshold_search.beta 1.0 → 2.0"


def test_a_damaged_output_is_noticed(finished):
    finished.path("labels.txt").write_text("made!")
    assert judge(finished, find_step("01")).reason == "labels.txt is missing or was changed"


@pytest.mark.parametrize(("number", "name"), [("08", "app"), ("08", "verify")])
def test_a_deleted_part_of_the_bundle_makes_its_step_outdated(finished, name, number):
    path = finished.path(name)
    path.rmdir() if path.is_dir() else path.unlink()
    assert number in stale(finished)


def test_a_file_that_a_notebook_wrote_beside_the_table_counts_too(run):
    run.begin("01")
    for name in promised(find_step("01")):
        run.path(name).write_text("made")
    run.write_json("own.json", {})
    run.finish()
    run.path("own.json").unlink()
    assert stale(run)[0] == "01"


def test_words_in_a_notebook_change_nothing_and_code_does(finished):
    path = finished.root / "notebooks/06_tune_thresholds.ipynb"
    book = json.loads(path.read_text())
    book["cells"].append({"cell_type": "markdown", "source": "words", "metadata": {}, "id": "w"})
    path.write_text(json.dumps(book))
    assert stale(finished) == []
    book["cells"][-2]["source"] = "another = 1"
    path.write_text(json.dumps(book))
    assert stale(finished) == ["06"]


def test_knobs_in_the_parameters_cell_are_no_other_program(finished):
    path = finished.root / "notebooks/06_tune_thresholds.ipynb"
    book = json.loads(path.read_text())
    book["cells"][0]["source"] = 'run_dir = "outputs/other"'
    path.write_text(json.dumps(book))
    assert stale(finished) == []


def test_an_accepted_step_is_up_to_date_and_says_what_was_accepted(finished):
    other = changed(finished, "threshold_search.beta=2.0")
    accept(other, find_step("06"))
    assert stale(other) == []
    assert "threshold_search.beta 1.0 → 2.0" in judge(other, find_step("06")).reason


def test_a_step_with_damaged_files_cannot_be_accepted(finished):
    finished.path("calibration.json").write_text("other")
    with pytest.raises(InputError, match=r"calibration\.json is missing or was changed"):
        accept(finished, find_step("06"))


def test_a_step_that_never_ran_cannot_be_accepted(run):
    with pytest.raises(InputError, match="no finished result"):
        accept(run, find_step("06"))


def test_a_step_whose_process_is_gone_was_interrupted_and_is_not_running(run):
    run.begin("01")
    path = run.path(status.STATUS_NAME)
    record = json.loads(path.read_text())
    record["steps"]["01"]["process"]["born"] = "1"
    path.write_text(json.dumps(record))
    assert state_of(run.folder, find_step("01"))["state"] == "interrupted"


def test_a_step_that_did_not_write_its_files_is_not_done(run):
    run.begin("01")
    with pytest.raises(StepError, match="did not write dataset_manifest"):
        run.finish()
    assert state_of(run.folder, find_step("01"))["state"] == "running"


def test_a_missing_input_names_the_notebook_that_makes_it(run):
    with pytest.raises(MissingInputError, match=r"No labels.*Run 01_dataset_audit first"):
        run.need("labels.txt")


def test_a_step_opened_before_its_inputs_exist_names_the_notebook_to_run(run):
    with pytest.raises(MissingInputError, match=r"No candidate_scores.*Run 05_quantize_student"):
        run.path("labels.txt").write_text("a\n")
        open_run(run.folder, step="06")


def test_a_folder_of_another_schema_is_refused_with_both_ways_out(run):
    run.path(status.STATUS_NAME).write_text('{"schema": 0, "steps": {}}')
    with pytest.raises(InputError, match=r"has schema 0.*--run.*delete"):
        state_of(run.folder, find_step("01"))


def test_a_notebook_changes_the_knob_it_names_and_nothing_else(run):
    resolved = changed(run, "teacher.dropout=0.1", "seed=5")
    resolved.save_settings()
    run.path(CHANGES_NAME).unlink()
    after = opened(run, qat={"epochs": 3}).settings
    assert after == resolved.settings.model_copy(
        update={"qat": resolved.settings.qat.model_copy(update={"epochs": 3})}
    )
    assert read_json(run.path(CONFIG_NAME)) == after.model_dump()


def test_a_changed_knob_is_shown_with_the_steps_that_are_old_now(finished, said):
    opened(finished, threshold_search={"beta": 2.0})
    assert "changed in mine: threshold_search.beta 1.0 → 2.0" in said.text
    assert "out of date now: 06, 07, 08, 09" in said.text


def test_what_a_notebook_changed_stays_with_the_run(run, said):
    opened(run, qat={"epochs": 3})
    said.clear()
    assert opened(run).settings.qat.epochs == 3
    assert "this run: qat.epochs 10 → 3" in said.text


def test_a_knob_that_the_parameter_file_gets_later_wins_over_the_runs_own(run, said):
    opened(run, qat={"epochs": 3})
    (run.root / "parameters/mine.yaml").write_text("num_classes: auto\nqat: {epochs: 7}\n")
    assert opened(run).settings.qat.epochs == 7
    assert "parameters/mine.yaml says qat.epochs 7 now" in said.text


def test_a_later_set_wins_over_an_earlier_one(run):
    opened(run, qat={"epochs": 3})
    assert changed(run, "qat.epochs=4").settings.qat.epochs == 4


def test_the_datasets_config_says_what_it_changed(run, said):
    (run.dataset_folder / "config.yaml").write_text("seed: 9\n")
    assert opened(run).settings.seed == 9
    assert "dataset config.yaml: seed 1337 → 9" in said.text


def test_an_assignment_wins_over_the_datasets_config_in_later_notebooks_too(run):
    (run.dataset_folder / "config.yaml").write_text("teacher: {epochs_head: 7}\n")
    opened(run, teacher={"epochs_head": 2})
    assert opened(run).settings.teacher.epochs_head == 2


def test_a_run_keeps_the_file_it_was_made_from(run, said):
    (run.root / "parameters/other.yaml").write_text("seed: 3\n")
    after = open_run(run.folder, "parameters/other.yaml", knobs={}).settings
    assert after == run.settings


def test_a_run_whose_parameter_file_is_gone_keeps_its_settings(run, said):
    resolved = opened(run, seed=4)
    (run.root / "parameters/mine.yaml").unlink()
    assert open_run(run.folder, None, knobs={}).settings == resolved.settings
    assert "mine.yaml is gone" in said.text


def test_a_mistyped_run_dir_leaves_no_folder_behind(run):
    with pytest.raises(MissingInputError, match="there are: mine"):
        open_run("outputs/mien", "parameters/mine.yaml", step="05")
    with pytest.raises(MissingInputError, match="there are: mine"):
        open_run("outputs/mien")
    with pytest.raises(MissingInputError, match="outpust does not exist"):
        open_run("outpust/mine", "parameters/mine.yaml", step="01")
    assert not (run.root / "outputs/mien").exists() and not (run.root / "outpust").exists()


@pytest.mark.parametrize("name", ["a b", ".hidden", "x" * 101, "a/..", "<b>", "a;b"])
def test_a_run_name_that_is_no_plain_name_is_refused(run, name):
    with pytest.raises(SettingsError, match="cannot name a run"):
        open_run(f"outputs/{name}")


@pytest.mark.parametrize("text", ["[]", "null", '{"sed": 1}', '{"seed": "1"}', "{"])
def test_damaged_settings_of_a_run_are_refused_by_name(run, text):
    run.path(CONFIG_NAME).write_text(text)
    with pytest.raises(InputError, match=CONFIG_NAME):
        existing_run(run.folder)


@pytest.mark.parametrize("text", ["[]", "null", "{}", '{"parameters": 1, "changes": {}}', "{"])
def test_damaged_changes_of_a_run_are_refused_by_name(run, text):
    run.path(CHANGES_NAME).write_text(text)
    with pytest.raises(InputError, match=CHANGES_NAME):
        opened(run)


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


def test_a_step_warns_of_an_earlier_one_that_is_out_of_date(finished, said):
    other = changed(finished, "threshold_search.beta=2.0")
    pretend(other, "08")
    assert "06 tune_thresholds is out of date (threshold_search.beta 1.0 → 2.0)" in said.text


def test_a_step_after_steps_that_are_up_to_date_warns_of_nothing(finished, said):
    pretend(finished, "08")
    assert "out of date" not in said.text


def test_a_run_inside_its_own_dataset_is_up_to_date_all_the_same(run):
    inside = replace(run, folder=run.dataset_folder / "runs/mine")
    pretend(inside, "01")
    assert judge(inside, find_step("01")).fresh


def test_a_fork_takes_over_what_comes_before_the_change(finished):
    fork = finished.fork("what_if", threshold_search={"beta": 2.0})
    assert stale(fork) == ["06", "07", "08", "09"]
    assert fork.path("candidate_scores.npz").read_text() == "made"
    assert not fork.path("threshold_recommendation.json").exists()


def test_a_fork_leaves_the_run_as_it_is(finished):
    finished.fork("what_if", threshold_search={"beta": 2.0})
    assert stale(finished) == []
    assert existing_run(finished.folder).settings == finished.settings


def test_the_same_fork_again_is_opened_and_another_under_its_name_refused(finished):
    made = finished.fork("what_if", qat={"epochs": 3})
    assert finished.fork("what_if", qat={"epochs": 3}).settings == made.settings
    with pytest.raises(SettingsError, match=r"exists with other settings: qat\.epochs 4 → 3"):
        finished.fork("what_if", qat={"epochs": 4})


def test_a_fork_with_a_mistyped_knob_is_refused_and_leaves_nothing(finished):
    with pytest.raises(SettingsError, match=r'unknown key "qat\.epoch"'):
        finished.fork("what_if", qat={"epoch": 3})
    assert not (finished.folder.parent / "what_if").exists()


def test_run_metadata_names_no_person_place_or_machine(run):
    pretend(run, "01")
    write_run_metadata(run)
    text = run.path("run_metadata.json").read_text()
    telling = (platform.node(), getpass.getuser(), str(run.root), os.path.expanduser("~"))
    assert [word for word in telling if f'"{word}' in text or f"{word}/" in text] == []


def test_what_tensorflow_listed_last_is_in_the_metadata_and_in_the_batch_advice(run):
    run = changed(run, "multi_gpu.enabled=true")
    for number, devices in (("01", {}), ("03", {"devices": ["CPU"]}), ("04", {"devices": CARDS})):
        facts = {"seconds": 1.0, "fingerprint": {}, "outputs": {}, "started": status.now()}
        step = find_step(number)
        status.record(run.folder, step, state="ok", finished=status.now(), **facts, **devices)
    write_run_metadata(run)
    metadata = read_json(run.path("run_metadata.json"))
    assert metadata["devices"] == CARDS
    assert "devices" not in metadata["steps"]["01"]
    assert metadata["steps"]["03"]["devices"] == ["CPU"]
    assert "16/16 per device, 32/32 in all over the 2 GPUs" in batch_advice(run)[1]


def test_a_step_that_loaded_tensorflow_records_its_devices(run, monkeypatch):
    import tensorflow  # noqa: F401

    pretend(run, "01")
    assert state_of(run.folder, find_step("01"))["devices"] == ["CPU"]
    monkeypatch.delitem(sys.modules, "tensorflow")
    pretend(run, "01")
    assert "devices" not in state_of(run.folder, find_step("01"))


def test_the_time_to_expect_depends_on_network_and_input_size():
    networks = ("mobilenet_v2", 224), ("efficientnet_b3", 300), ("efficientnet_b7", 600)
    small, middle, large = (image_seconds(*network) for network in networks)
    assert 4 * small < middle < large / 10
    assert image_seconds("efficientnet_b3", 150) == pytest.approx(middle / 4)
    for name, size in (TEACHER_SIZES | STUDENT_SIZES).items():
        assert image_seconds(name, size) > 0


def test_a_dry_run_names_the_steps_that_may_follow_a_change(finished):
    for step in STEPS:
        write_text(finished.path(f"html/{step.page}"), "page")
        write_text(finished.path(f"notebooks/{step.notebook}"), "notebook")
        record_page(finished, step)
    other = changed(finished, "threshold_search.objective=fbeta")
    lines = [line.split(":")[0].split(maxsplit=2) for line in dry_run(other, Plan(STEPS))]
    found = {line[0]: line[2] for line in lines if line[0].isdigit()}
    expected = dict.fromkeys([step.number for step in STEPS], "up to date")
    later = dict.fromkeys(["07", "08", "09"], "may run")
    assert found == expected | {"06": "would run"} | later


def record_page(run: Run, step) -> None:
    from workbench.batch import _record_page

    _record_page(run, step)


@pytest.mark.parametrize("step", STEPS, ids=lambda step: step.number)
def test_the_code_that_counts_for_a_step_exists(step):
    for name in step.code:
        path = PACKAGE / name.replace(".", "/")
        assert path.is_dir() or path.with_suffix(".py").exists()


def test_what_a_steps_code_imports_counts_as_well():
    behind = [name for names in code_behind(find_step("02")).values() for name in names]
    assert "data.letterbox" in behind
    assert "decide.metrics" not in behind
