"""What a notebook's cells say: its knobs, whatever else a person defines, and its failures."""

import pytest
from IPython.core.interactiveshell import InteractiveShell

from workbench.errors import SettingsError
from workbench.files import read_json
from workbench.notebook import read_cells
from workbench.run import CONFIG_NAME
from workbench.status import state_of
from workbench.steps import find_step

PARAMETERS = 'run_dir = "outputs/mine"\nparameters = "parameters/mine.yaml"'
SETUP = 'from workbench.run import open_run\nrun = open_run(run_dir, parameters, step="01")'


@pytest.fixture
def kernel(project):
    """A live shell, as a notebook's kernel has one."""
    shell = InteractiveShell.instance()
    shell.history_manager.enabled = False
    yield shell
    InteractiveShell.clear_instance()


def run_cells(kernel, *cells: str) -> None:
    for cell in cells:
        kernel.run_cell(cell, store_history=True).raise_error()


def settings_of(project) -> dict:
    return read_json(project / "outputs/mine" / CONFIG_NAME)


@pytest.mark.parametrize("scratch", ["x = 5", "teacher = object()", "loss = 3", "run = None",
                                     "teacher = {'epochs_head': 99}", "seed = 7", "qat = len",
                                     "open = 1", "teachr = {}"])  # fmt: skip
def test_a_persons_own_variables_never_matter(kernel, project, scratch):
    run_cells(kernel, PARAMETERS, scratch, SETUP)
    first = settings_of(project)
    run_cells(kernel, scratch, SETUP, SETUP)
    assert settings_of(project) == first
    assert first["teacher"]["epochs_head"] == 10 and first["seed"] == 1337


def test_a_knob_of_the_parameters_cell_is_taken(kernel, project):
    run_cells(kernel, PARAMETERS + '\nqat = {"epochs": 3}', SETUP)
    assert settings_of(project)["qat"]["epochs"] == 3


def test_the_parameters_cell_counts_as_it_was_run_last(kernel, project):
    run_cells(kernel, PARAMETERS + '\nqat = {"epochs": 3}', SETUP)
    run_cells(kernel, PARAMETERS + '\nqat = {"epochs": 4}', SETUP)
    assert settings_of(project)["qat"]["epochs"] == 4


def test_what_papermill_injects_wins_over_the_cell_before_it(kernel):
    run_cells(kernel, PARAMETERS + "\nseed = 1", "# Parameters\nseed = 2")
    assert read_cells().knobs == {"seed": 2}


def test_a_mistyped_key_that_papermill_injects_is_refused(kernel):
    run_cells(kernel, PARAMETERS, '# Parameters\nteachr = {"epochs_head": 1}')
    with pytest.raises(SettingsError, match=r'papermill: unknown key "teachr"\. Did you mean'):
        read_cells()


def test_a_mistyped_group_in_the_parameters_cell_is_refused(kernel):
    run_cells(kernel, PARAMETERS + '\nteachr = {"epochs_head": 1}')
    with pytest.raises(SettingsError, match=r'unknown key "teachr"\. Did you mean "teacher"'):
        read_cells()


def test_another_variable_in_the_parameters_cell_is_left_alone(kernel):
    run_cells(kernel, PARAMETERS + "\nfavourite = 5\noptions = {'a': 1}")
    assert read_cells().knobs == {}


def test_a_knob_that_is_no_literal_is_refused_with_the_way_to_write_it(kernel):
    run_cells(kernel, "epochs = 3\n" + PARAMETERS + "\nqat = dict(epochs=epochs)")
    with pytest.raises(SettingsError, match="is no literal"):
        read_cells()


def test_papermill_with_a_whole_file_starts_a_new_run_from_the_defaults(kernel, project):
    (project / "parameters/mine.yaml").write_text("seed: 5\n")
    run_cells(kernel, PARAMETERS, "# Parameters\nqat = {'epochs': 3}\nnum_classes = 'auto'", SETUP)
    assert settings_of(project)["seed"] == 1337
    assert settings_of(project)["qat"]["epochs"] == 3


def test_papermill_may_name_the_parameter_file(kernel, project):
    (project / "parameters/other.yaml").write_text("seed: 5\n")
    run_cells(kernel, PARAMETERS, '# Parameters\nparameters = "parameters/other.yaml"', SETUP)
    assert settings_of(project)["seed"] == 5


def test_a_cell_that_fails_fails_its_step_until_the_step_is_done(kernel, project):
    run_cells(kernel, PARAMETERS, SETUP)
    kernel.run_cell("1 / 0", store_history=True)
    record = state_of(project / "outputs/mine", find_step("01"))
    assert (record["state"], record["reason"]) == ("failed", "ZeroDivisionError: division by zero")


def test_an_interrupted_cell_is_recorded_as_that(kernel, project):
    run_cells(kernel, PARAMETERS, SETUP)
    kernel.run_cell("raise KeyboardInterrupt", store_history=True)
    assert state_of(project / "outputs/mine", find_step("01"))["state"] == "interrupted"


def test_a_scratch_cell_after_the_last_one_fails_nothing(kernel, project):
    names = ["dataset_manifest.json", "labels.txt", "audit.csv", "audit.json", "quarantine.csv"]
    write = f"for name in {[*names, 'splits']}: run.path(name).write_text('x')"
    run_cells(kernel, PARAMETERS, SETUP, write, "run.finish()")
    kernel.run_cell("1 / 0", store_history=True)
    assert state_of(project / "outputs/mine", find_step("01"))["state"] == "ok"


def test_magics_and_half_thoughts_between_the_cells_do_no_harm(kernel):
    run_cells(kernel, PARAMETERS, "%precision 3")
    kernel.run_cell("def half(", store_history=True)
    assert read_cells().own["run_dir"] == "outputs/mine"


def test_outside_a_notebook_there_are_no_cells():
    assert read_cells().knobs == {}
