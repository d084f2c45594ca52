"""What people do with the notebooks: the real ones, in a kernel each, on a small drawn dataset."""

import os
import shutil
from pathlib import Path

import nbformat
import papermill
import pytest

from tests.playing import (
    ROOT,
    at_notebook,
    command,
    copy_project,
    make_project,
    numbers,
    outdated,
    own_photos,
    run_chain,
    saved,
)
from workbench.deploy.verify import verify
from workbench.files import read_json, sha256, write_json
from workbench.parameters import read_yaml
from workbench.status import state_of
from workbench.steps import STEPS, find_step

pytestmark = pytest.mark.slow
EVERY = pytest.mark.parametrize("number", [step.number for step in STEPS])
TEACHER = ("teacher_warmup.h5", "teacher_finetuned.h5")


@pytest.fixture
def project(finished_project, tmp_path) -> Path:
    return copy_project(finished_project, tmp_path / "project")


@pytest.fixture(scope="session")
def drawn(tmp_path_factory) -> Path:
    return make_project(tmp_path_factory.mktemp("drawn") / "project")


@pytest.fixture
def untouched(drawn, tmp_path) -> Path:
    """A project in which nobody has run anything."""
    return copy_project(drawn, tmp_path / "project")


@pytest.fixture
def own_code(tmp_path) -> Path:
    """A folder with a package of one's own to change."""
    shutil.copytree(ROOT / "workbench", tmp_path / "code/workbench")
    return tmp_path / "code"


def record(project: Path, number: str) -> dict:
    return state_of(project / "outputs/demo", find_step(number))


def weights(project: Path, *names: str, run: str = "demo") -> list[str]:
    return [sha256(project / "outputs" / run / name) for name in names]


def set_aside(project: Path) -> set[str]:
    """The hashes of the weights that were kept aside."""
    folder = project / "outputs/demo/checkpoints"
    return {sha256(path) for path in folder.rglob("*.h5") if "aside" in str(path)}


# Run all, twice, with whatever names a person has in use.


@EVERY
def test_all_cells_can_be_run_twice_in_one_kernel(project, number):
    with at_notebook(project, number) as person:
        person.run_all()
        person.run(person.parameters, *person.setup, *person.rest)
    assert record(project, number)["state"] == "ok"
    assert outdated(project) in ([], [number])  # its page at most; no other step has to run again


def test_a_whole_run_by_hand_is_up_to_date_but_for_its_pages(project):
    for number in ("06", "09"):
        with at_notebook(project, number) as person:
            person.run_all()
    assert outdated(project) == ["06", "09"]
    said = run_chain(project, "--dry-run")
    assert said.count("was not made of this result") == 2
    assert "took" not in said  # nothing would be trained


SCRATCH = ("x = 5", "teacher = object()", "loss = 3", "run = None", "seed = 7",
           "qat = {'epochs': 9}", "dataset = [1]", "open = 1")  # fmt: skip


def test_a_persons_own_variables_never_matter(untouched):
    with at_notebook(untouched, "01") as person:
        person.open_run()
        before = saved(untouched)
        for scratch in SCRATCH:
            person.run(scratch, person.parameters, *person.setup)
            person.run(scratch, *person.setup)
            assert saved(untouched) == before, scratch


def test_01_opened_first_takes_the_settings_that_its_cell_names(untouched):
    with at_notebook(untouched, "01") as person:
        person.run_all()
    assert saved(untouched)["student.input_size"] == 32
    assert record(untouched, "01")["state"] == "ok"


# One knob.


def test_one_knob_in_05_changes_that_knob_and_dates_05_to_09(project):
    before = saved(project)
    with at_notebook(project, "05") as person:
        said = person.open_run('qat = {"epochs": 3}')
    after = saved(project)
    assert {key: after[key] for key in after if after[key] != before[key]} == {"qat.epochs": 3}
    assert "qat.epochs 1 → 3" in said
    assert "05, 06, 07, 08, 09" in said
    dry = run_chain(project, "--dry-run").splitlines()
    due = [line[:2] for line in dry if "would run" in line or "may run" in line]
    assert due == numbers("05")


def test_a_changed_finetune_keeps_the_warmup_and_all_that_was_set_aside(project):
    warmup, *old = weights(project, *TEACHER)
    for epochs in (2, 3):
        run_chain(project, "--only", "03", "--set", f"teacher.lr_finetune={epochs}e-4")
        assert weights(project, "teacher_warmup.h5") == [warmup]
        assert set(old) <= set_aside(project)
        old += weights(project, "teacher_finetuned.h5")


def test_more_epochs_train_the_finetune_and_not_the_warmup(project):
    said = run_chain(project, "--only", "03", "--set", "teacher.epochs_finetune=2")
    assert "teacher_finetuned epoch 2/2" in said
    assert "teacher_warmup epoch" not in said


def test_a_mistyped_key_that_papermill_injects_is_refused(untouched, tmp_path):
    with pytest.raises(Exception, match=r'"teachr"\. Did you mean "teacher"'):
        papermill.execute_notebook(
            untouched / "notebooks/01_dataset_audit.ipynb", tmp_path / "out.ipynb",
            parameters={"run_dir": "outputs/demo", "teachr": {"epochs_head": 2}},
            cwd=untouched, progress_bar=False,
        )  # fmt: skip
    assert not (untouched / "outputs/demo").exists()


def test_papermill_with_a_parameter_file_makes_a_run_of_its_own(untouched, tmp_path):
    parameters = read_yaml(untouched / "parameters/demo.yaml")
    papermill.execute_notebook(
        untouched / "notebooks/01_dataset_audit.ipynb", tmp_path / "out.ipynb",
        parameters={**parameters, "run_dir": "outputs/mine"}, cwd=untouched, progress_bar=False,
    )  # fmt: skip
    assert saved(untouched, "mine")["qat.epochs"] == 1


# The loss, in a cell and in the package.

TWICE = """
whole = loss
loss = lambda logits, targets, mask: 2 * whole(logits, targets, mask)
"""


def test_another_loss_in_03_trains_anew_and_keeps_the_old_weights_aside(project):
    old = weights(project, *TEACHER)
    with at_notebook(project, "03") as person:
        person.open_run()
        *before, making = person.cells_up_to("task_loss(")
        person.run(*before, making + TWICE, *person.rest[len(before) + 1 :])
    new = weights(project, *TEACHER)
    assert not set(new) & set(old)
    assert set(old) <= set_aside(project)
    assert record(project, "03")["state"] == "ok"


def test_a_loss_changed_in_the_package_is_trained_with(project, own_code):
    old = weights(project, *TEACHER)
    with open(own_code / "workbench/train/losses.py", "a") as file:
        file.write(
            "\n\n_as_it_was = task_loss\n\n\ndef task_loss(*given):\n"
            "    inner = _as_it_was(*given)\n    return lambda *values: 2 * inner(*values)\n"
        )
    assert "03 train_teacher       would run" in run_chain(project, "--dry-run", code=own_code)
    run_chain(project, "--only", "03", code=own_code)
    assert not set(weights(project, *TEACHER)) & set(old)


def test_new_words_in_the_package_train_nothing(project, own_code):
    path = own_code / "workbench/train/losses.py"
    path.write_text(path.read_text().replace('"""', '"""In other words. ', 1) + "\n# a comment\n")
    said = run_chain(project, "--dry-run", code=own_code)
    assert said.count("up to date") == len(STEPS), said


def test_force_trains_anew(project):
    log = project / "outputs/demo/logs/teacher_finetuned.csv"
    before = log.stat().st_mtime_ns
    run_chain(project, "--only", "03", "--force")
    assert log.stat().st_mtime_ns > before


# A what-if beside the run.


def test_the_what_if_of_06_is_computed_and_compared_though_its_notebook_was_saved(project):
    """As JupyterLab saves it by itself: the fork executes that notebook and must not fork again."""
    old = read_json(project / "outputs/demo/status.json")
    path = project / "notebooks/06_tune_thresholds.ipynb"
    book = nbformat.read(path, 4)
    cell = next(cell for cell in book.cells if "run.fork(" in cell.source)
    cell.source = cell.source.replace("# ", "")
    nbformat.write(book, path)
    assert outdated(project) == []  # a what-if is no part of the step
    with at_notebook(project, "06") as person:
        person.open_run()
        said = person.run(cell.source)
    assert "F1 macro" in said and "few_misses" in said and "…" in said  # an interval
    assert saved(project, "few_misses")["threshold_search.objective"] == "recall_floor"
    forked = read_json(project / "outputs/few_misses/status.json")
    for number in numbers("01", "05"):  # taken over, not computed again
        assert forked["steps"][number]["finished"] == old["steps"][number]["finished"]
    assert weights(project, *TEACHER) == weights(project, *TEACHER, run="few_misses")
    assert forked["steps"]["06"]["state"] == "ok"


# Out of order, interrupted, damaged.


def test_06_opened_first_names_the_notebook_that_starts_a_run(untouched):
    with at_notebook(untouched, "06") as person:
        error = person.fails(person.parameters, *person.setup)
    assert error.ename == "MissingInputError"
    assert "01_dataset_audit" in error.evalue
    assert not (untouched / "outputs/demo").exists()


def test_06_opened_after_the_audit_names_05(untouched):
    run_chain(untouched, "--to", "01")
    with at_notebook(untouched, "06") as person:
        error = person.fails(person.parameters, *person.setup)
    assert error.ename == "MissingInputError"
    assert "05_quantize_student" in error.evalue or "04_distill_student" in error.evalue


def test_an_interrupted_training_goes_on_in_the_same_kernel(project):
    with at_notebook(project, "03") as person:
        person.open_run('teacher = {"epochs_finetune": 4, "lr_finetune": 5e-4}')
        *before, training = person.cells_up_to("fit(finetune")
        person.run(*before)
        person.is_interrupted_at("teacher_finetuned epoch 1/4", training)
        assert record(project, "03")["state"] == "interrupted"
        said = person.run(training)
        assert "epoch 4/4" in said and "teacher_finetuned epoch 1/4" not in said
        person.run(*person.rest[len(before) + 1 :])
    assert record(project, "03")["state"] == "ok"


@pytest.mark.parametrize(("name", "numbers"), [
    ("app", ["08"]), ("verify", ["08"]), ("golden", ["08"]),
    ("student_qat.h5", ["05", "07", "09"]), ("confusion_matrix.png", ["09"]),
    ("html/06_tune_thresholds.html", ["06"]),
])  # fmt: skip
def test_a_deleted_file_makes_its_step_and_those_that_read_it_outdated(project, name, numbers):
    path = project / "outputs/demo" / name
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert outdated(project) == numbers


def seal_of(project: Path) -> tuple[str, list[str]]:
    """Return what `verify` says of the seal, and the files that it covers."""
    folder = project / "outputs/demo"
    seal = {check.name: check.detail for check in verify(folder).checks}["hashes"]
    return seal, (folder / "SHA256SUMS").read_text().splitlines()


def test_the_seal_covers_every_page_and_comes_back_when_it_was_deleted(project):
    said, lines = seal_of(project)
    assert f"{len(lines)} files are as they were written" in said
    pages = {f"html/{step.page}" for step in STEPS} | {"html/index.html"}
    assert pages <= {line.split("  ", 1)[1] for line in lines}
    (project / "outputs/demo/SHA256SUMS").unlink()
    assert " runs: " not in run_chain(project)
    assert "are as they were written" in seal_of(project)[0]


def test_a_run_half_computed_anew_no_longer_fits_its_seal(project):
    with at_notebook(project, "06") as person:
        person.run_all('threshold_search = {"objective": "cost"}')
    assert "threshold_recommendation.json" in seal_of(project)[0]
    assert "sealed" not in run_chain(project, "--to", "07").replace("not sealed", "")
    run_chain(project)
    assert "are as they were written" in seal_of(project)[0]


def test_a_rewritten_page_is_not_up_to_date(project):
    (project / "outputs/demo/html/06_tune_thresholds.html").write_text("<p>something else</p>")
    assert outdated(project) == ["06"]


def test_a_page_older_than_its_result_is_made_again(project):
    """As after a kill between a kernel's end and its page: the file is new, the page is old."""
    page = project / "outputs/demo/html/06_tune_thresholds.html"
    old = page.read_bytes()
    with at_notebook(project, "06") as person:
        person.run_all('threshold_search = {"objective": "cost"}')
    assert "06" in outdated(project)
    run_chain(project, "--only", "06")
    assert page.read_bytes() != old
    assert "06" not in outdated(project)


@pytest.mark.parametrize("keep_times", [False, True], ids=["as it comes", "with its old times"])
def test_a_changed_photo_behind_a_linked_folder_is_noticed(untouched, tmp_path, keep_times):
    images = own_photos(untouched)
    shutil.move(images, tmp_path / "photos")
    images.symlink_to(tmp_path / "photos", target_is_directory=True)
    run_chain(untouched, "--to", "01")
    assert "01" not in outdated(untouched)
    change_a_photo(tmp_path / "photos", keep_times)
    assert "01" in outdated(untouched)


def change_a_photo(folder: Path, keep_times: bool) -> None:
    """Turn one byte of a photo's end, as rsync -t would bring it."""
    path = sorted(folder.rglob("*.jpg"))[0]
    before, content = path.stat(), bytearray(path.read_bytes())
    content[-10] ^= 1
    path.write_bytes(content)
    if keep_times:
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_a_photo_damaged_after_the_audit_is_named_without_a_traceback(project):
    row = (project / "data/demo/train_labels.csv").read_text().splitlines()[1]
    name = row.split(",")[0]
    (own_photos(project) / name).write_bytes(b"no photo")
    done = command(project, "run", "parameters/demo.yaml", "--only", "03", "--force")
    assert done.returncode in (1, 2)
    assert Path(name).name in done.stdout
    said = done.stdout[done.stdout.index("error:") :]
    assert "Traceback" not in done.stdout and "tensorflow" not in said.lower()


def test_a_student_without_distillation_asks_for_no_teacher(project):
    for name in TEACHER:
        (project / "outputs/demo" / name).unlink()
    words = ("--set", "distillation.enabled=false", "--from", "04", "--to", "05")
    assert "04 distill_student" in run_chain(project, *words)


def test_a_saved_choice_that_no_longer_fits_leaves_06_its_explorer(project):
    with at_notebook(project, "06") as person:
        person.run_all()
    folder = project / "outputs/demo"
    choice = read_json(folder / "threshold_recommendation.json")
    choice["scores"]["source_sha256"] = "0" * 64
    write_json(folder / "threshold_choice.json", choice)
    with at_notebook(project, "06") as person:
        said = person.run_all()
    assert "threshold_choice.json" in said
    assert (folder / "threshold_choice.json").exists()
