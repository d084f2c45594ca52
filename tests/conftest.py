"""Fixtures that several rooms' tests share: a project whose notebooks pretend, a small student."""

from pathlib import Path

import nbformat
import pytest

from workbench.chain import STEPS
from workbench.parameters import read_settings
from workbench.run import Run

KERNEL = {"name": "python3", "display_name": "Python 3", "language": "python"}
PRETEND = """\
with run.step("{number}"):
    for name in {writes}:
        path = run.path(name)
        path.mkdir(exist_ok=True) if "." not in name else path.write_text("made by {number}")
"""


def write_notebook(path: Path, *cells: str) -> None:
    book = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell(cell, id=f"cell-{n}") for n, cell in enumerate(cells)],
        metadata={"kernelspec": KERNEL},
    )
    book.cells[0].metadata["tags"] = ["parameters"]
    nbformat.write(book, path)


OPENING = ('run_dir = "outputs/pretend"', "from workbench.run import open_run",
           "run = open_run(globals())")  # fmt: skip


@pytest.fixture
def project(tmp_path, monkeypatch) -> Path:
    """A project with a dataset of one row and nine notebooks that write what they promise."""
    for name in ("notebooks", "parameters", "data"):
        (tmp_path / name).mkdir()
    (tmp_path / "data/train_labels.csv").write_text("filepath,labels\na.jpg,x\n")
    (tmp_path / "parameters/mine.yaml").write_text("num_classes: auto\n")
    for step in STEPS:
        cell = PRETEND.format(number=step.number, writes=list(step.writes))
        write_notebook(tmp_path / "notebooks" / step.notebook, *OPENING, cell)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def run(project) -> Run:
    settings = read_settings(project / "parameters/mine.yaml", root=project)
    folder = project / "outputs/mine"
    folder.mkdir(parents=True)
    return Run(folder, settings, project)


@pytest.fixture(scope="session")
def doubles():
    """`quantization_doubles`, imported late: it loads TensorFlow."""
    from tests import quantization_doubles

    return quantization_doubles
