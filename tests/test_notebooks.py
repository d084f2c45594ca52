"""The nine notebooks: thin, in order, clean in git, honest about what they read and write."""

import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from workbench.steps import STEPS

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "notebooks"


def load(step):
    return nbformat.read(FOLDER / step.notebook, as_version=4)


def code_cells(step) -> list:
    return [cell for cell in load(step).cells if cell.cell_type == "code"]


every_notebook = pytest.mark.parametrize("step", STEPS, ids=lambda step: step.notebook)


def test_the_folder_holds_the_nine_notebooks_and_nothing_else():
    names = {path.name for path in FOLDER.iterdir()} - {".ipynb_checkpoints"}  # JupyterLab's own
    assert sorted(names) == [step.notebook for step in STEPS]


@every_notebook
def test_a_notebook_is_short(step):
    cells = code_cells(step)
    assert len(cells) <= 22
    assert max(len(cell.source.splitlines()) for cell in cells) <= 10


@every_notebook
def test_a_notebook_defines_nothing_and_reaches_for_no_shell(step):
    source = "\n".join(cell.source for cell in code_cells(step))
    for word in ("def ", "class ", "sys.path", "\n!", "\n%", "import os"):
        assert word not in "\n" + source


@every_notebook
def test_the_parameters_cell_holds_literals_only(step):
    import ast

    (cell,) = [c for c in code_cells(step) if "parameters" in c.metadata.get("tags", [])]
    for statement in ast.parse(cell.source).body:
        assert isinstance(statement, ast.Assign)
        ast.literal_eval(statement.value)


@every_notebook
def test_a_notebook_opens_with_its_number_and_question(step):
    first = load(step).cells[0].source
    assert first.startswith(f"# {step.number} · ")
    assert step.question in first
    assert "| Reads | Writes | Takes |" in first


@every_notebook
def test_a_notebook_says_what_to_look_at_and_what_comes_next(step):
    words = "\n".join(cell.source for cell in load(step).cells if cell.cell_type == "markdown")
    assert "**What to look at.**" in words
    assert "**Next:**" in words


@every_notebook
def test_a_notebook_is_committed_without_outputs(step):
    for cell in code_cells(step):
        assert cell.outputs == []
        assert cell.execution_count is None


def test_nbstripout_has_nothing_to_strip():
    files = [str(FOLDER / step.notebook) for step in STEPS]
    command = [sys.executable, "-m", "nbstripout", "--verify", *files]
    assert subprocess.run(command, capture_output=True).returncode == 0


@every_notebook
def test_no_import_of_a_notebook_hides_a_setting(step):
    import ast

    from workbench.settings import Settings

    source = "\n".join(cell.source for cell in code_cells(step))
    imports = [n for n in ast.walk(ast.parse(source)) if isinstance(n, ast.Import | ast.ImportFrom)]
    names = {alias.asname or alias.name for node in imports for alias in node.names}
    assert names & set(Settings.model_fields) == set()
