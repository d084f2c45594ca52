"""Fixtures that many tests share: a project whose notebooks pretend, a small student."""

from pathlib import Path

import nbformat
import pytest

from tests.faults import Table, numbers_of
from workbench.files import write_json
from workbench.run import CHANGES_NAME, Run, resolve_run
from workbench.steps import STEPS


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--faults", type=Path, help="write the table of faults into this file")


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("faults") and not hasattr(config, "workerinput"):
        config.pluginmanager.register(Table(), "faults")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Let the name of a test carry the numbers of the faults that it shows."""
    name = f"{Path(metafunc.module.__file__).name}::{metafunc.function.__name__}"
    if numbers := numbers_of(name):
        metafunc.fixturenames.append("faults")
        words = f"fault {', '.join(map(str, numbers))}"
        metafunc.parametrize("faults", [numbers], ids=[words], indirect=True)


@pytest.fixture
def faults(request: pytest.FixtureRequest) -> list[int]:
    return request.param


def pytest_unconfigure(config: pytest.Config) -> None:
    if table := config.pluginmanager.get_plugin("faults"):
        config.getoption("faults").write_text(table.text(), encoding="utf-8")


KERNEL = {"name": "python3", "display_name": "Python 3", "language": "python"}
PRETEND = """\
for name in {writes}:
    path = run.path(name)
    words = "{{}}" if name == "audit.json" else "made by {number}"
    path.mkdir(exist_ok=True) if "." not in name else path.write_text(words)
"""


def opening(number: str) -> tuple[str, str, str]:
    """The cells that every notebook begins with."""
    return (
        'run_dir = "outputs/pretend"\nparameters = "parameters/mine.yaml"',
        "from workbench.run import open_run",
        f'run = open_run(run_dir, parameters, step="{number}")',
    )


def promised(step) -> list[str]:
    return [name for name in step.writes if not name.endswith("?")]


def write_notebook(path: Path, *cells: str) -> None:
    book = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell(cell, id=f"cell-{n}") for n, cell in enumerate(cells)],
        metadata={"kernelspec": KERNEL},
    )
    book.cells[0].metadata["tags"] = ["parameters"]
    nbformat.write(book, path)


@pytest.fixture
def project(tmp_path, monkeypatch) -> Path:
    """A project with a dataset of one row and nine notebooks that write what they promise."""
    for name in ("notebooks", "parameters", "data"):
        (tmp_path / name).mkdir()
    (tmp_path / "data/train_labels.csv").write_text("filepath,labels\na.jpg,x\n")
    (tmp_path / "parameters/mine.yaml").write_text("num_classes: auto\n")
    for step in STEPS:
        cell = PRETEND.format(number=step.number, writes=promised(step))
        cells = (*opening(step.number), cell, "run.finish()")
        write_notebook(tmp_path / "notebooks" / step.notebook, *cells)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def run(project) -> Run:
    file = project / "parameters/mine.yaml"
    folder = project / "outputs/mine"
    folder.mkdir(parents=True)
    the_run, changes, _ = resolve_run(folder, project, file)
    the_run.save_settings()
    write_json(folder / CHANGES_NAME, changes)
    return the_run


@pytest.fixture(scope="session")
def doubles():
    """`quantization_doubles`, imported late: it loads TensorFlow."""
    from tests import quantization_doubles

    return quantization_doubles


@pytest.fixture(scope="session")
def finished_project(tmp_path_factory) -> Path:
    """A project whose run went through the real notebooks 01 to 09 once: take a copy of it."""
    from tests.playing import make_project, run_chain

    project = make_project(tmp_path_factory.mktemp("finished") / "project")
    run_chain(project)
    return project
