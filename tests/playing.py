"""A person at the notebooks: a small project, and a kernel in which cells are run and changed."""

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

from tests.prove.chain import TINY
from workbench import batch
from workbench.data.demo import draw_demo
from workbench.files import read_json
from workbench.parameters import flat_values
from workbench.run import Run, existing_run
from workbench.steps import STEPS, find_step

ROOT = Path(__file__).parent.parent
IMAGES = 60
LARGE_BYTES = 1 << 18  # weights and checkpoints are replaced, never written into: a link will do
os.environ["PYTHONPATH"] = str(ROOT)  # kernels and command lines run this code


def make_project(folder: Path) -> Path:
    """Make a project whose notebooks, as they are, are about 60 pictures of 32 pixels."""
    shutil.copytree(ROOT / "notebooks", folder / "notebooks",
                    ignore=shutil.ignore_patterns(".ipynb_checkpoints"))  # fmt: skip
    (folder / "parameters").mkdir()
    (folder / "parameters/demo.yaml").write_text("dataset: {dir: data/demo}" + TINY)
    draw_demo(folder / "data/demo", IMAGES)
    return folder


def copy_project(project: Path, folder: Path) -> Path:
    """Copy a project with its runs in a moment; the photos are shared, as a copy looks changed."""

    def copy(source: str, target: str) -> None:
        if os.path.getsize(source) > LARGE_BYTES:
            os.link(source, target)
        else:
            shutil.copy2(source, target)

    shutil.copytree(project, folder, copy_function=copy, ignore=shutil.ignore_patterns("data"))
    (folder / "data").symlink_to(project / "data", target_is_directory=True)
    return folder


def own_photos(project: Path) -> Path:
    """Give a copied project photos that may be changed."""
    shared = (project / "data").resolve()
    (project / "data").unlink()
    shutil.copytree(shared, project / "data")
    return project / "data/demo/images"


def command(project: Path, *words: str, code: Path = ROOT) -> subprocess.CompletedProcess:
    """Type a command; what it says comes back as one text."""
    return subprocess.run(
        [sys.executable, "-m", "workbench", *words], cwd=project, text=True,
        env=os.environ | {"PYTHONPATH": str(code)},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


def run_chain(project: Path, *words: str, code: Path = ROOT) -> str:
    done = command(project, "run", "parameters/demo.yaml", *words, code=code)
    assert done.returncode == 0, done.stdout
    return done.stdout


def open_folder(project: Path, name: str = "demo") -> Run:
    return existing_run(project / "outputs" / name, project)


def outdated(project: Path, name: str = "demo") -> list[str]:
    return [step.number for step in batch.outdated(open_folder(project, name))]


def saved(project: Path, name: str = "demo") -> dict:
    """Every knob that a run has, under its dotted name."""
    return flat_values(read_json(project / "outputs" / name / "training_config.json"))


def numbers(first: str, last: str = "09") -> list[str]:
    return [step.number for step in STEPS if first <= step.number <= last]


class Cells(NotebookClient):
    """A kernel that may be interrupted as soon as it prints certain words."""

    interrupt_at: str = ""

    def process_message(self, msg, cell, cell_index):
        if self.interrupt_at and self.interrupt_at in str(msg["content"].get("text", "")):
            self.interrupt_at = ""
            os.kill(self.km.provisioner.pid, signal.SIGINT)
        return super().process_message(msg, cell, cell_index)


class Person:
    """Somebody with one notebook open: runs its cells as they are, changed, or again."""

    def __init__(self, project: Path, number: str) -> None:
        self.notebook = nbformat.read(project / "notebooks" / find_step(number).notebook, 4)
        self.client = Cells(
            self.notebook, timeout=400, kernel_name="python3",
            resources={"metadata": {"path": str(project)}},
        )  # fmt: skip
        self.code = [one.source for one in self.notebook.cells if one.cell_type == "code"]

    @property
    def parameters(self) -> str:
        return self.code[0]

    @property
    def setup(self) -> list[str]:
        """The cells up to the one that opens the run."""
        return self.code[1 : self._first("open_run(run_dir") + 1]

    @property
    def rest(self) -> list[str]:
        return self.code[self._first("open_run(run_dir") + 1 :]

    def cells_up_to(self, words: str) -> list[str]:
        """The cells after the setup up to the first that holds these words."""
        return self.rest[: next(i for i, one in enumerate(self.rest) if words in one) + 1]

    def _first(self, words: str) -> int:
        return next(place for place, source in enumerate(self.code) if words in source)

    def run(self, *sources: str) -> str:
        """Run cells one by one; return what they printed and showed as text."""
        said = []
        for source in sources:
            cell = nbformat.v4.new_code_cell(source)
            self.notebook.cells.append(cell)
            self.client.execute_cell(cell, len(self.notebook.cells) - 1)
            said += [_text_of(output) for output in cell.outputs]
        return "\n".join(said)

    def open_run(self, knobs: str = "") -> str:
        return self.run(f"{self.parameters}\n{knobs}", *self.setup)

    def run_all(self, knobs: str = "") -> str:
        return self.open_run(knobs) + self.run(*self.rest)

    def fails(self, *sources: str) -> CellExecutionError:
        """Run cells of which one has to fail; return its error."""
        try:
            said = self.run(*sources)
        except CellExecutionError as error:
            return error
        raise AssertionError(f"no cell failed: {said}")

    def is_interrupted_at(self, words: str, *sources: str) -> None:
        """Press stop as soon as a cell prints these words."""
        self.client.interrupt_at = words
        assert self.fails(*sources).ename == "KeyboardInterrupt"


@contextmanager
def at_notebook(project: Path, number: str) -> Iterator[Person]:
    person = Person(project, number)
    with person.client.setup_kernel():
        yield person


def _text_of(output: dict) -> str:
    text = output.get("text") or output.get("data", {}).get("text/plain", "")
    return re.sub(r"\x1b\[[0-9;]*m", "", text)
