"""The command line end to end, on notebooks that only pretend to work."""

import importlib
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import papermill
import psutil
import pytest
from jupyter_client.kernelspec import KernelSpecManager, NoSuchKernel
from nbclient.exceptions import CellTimeoutError, DeadKernelError
from PIL import Image

from tests.conftest import PRETEND, opening, promised, write_notebook
from workbench import batch
from workbench.__main__ import main
from workbench.cli.measurements import BENCHMARKS
from workbench.files import write_json
from workbench.show import index, report
from workbench.status import state_of
from workbench.steps import STEPS, find_step

# One write, so that it arrives as one line. Nobody ever opens the other end of the gate,
# so the cell stays inside until it is ended.
WAIT = 'import logging; logging.getLogger("workbench").info("inside"); open("gate").read()'
ALL = [step.number for step in STEPS]


def run_mine(*options: str) -> int:
    return main(["run", "parameters/mine.yaml", *options])


def lines_with(capture: str, words: str) -> list[str]:
    return [line.split()[0] for line in capture.splitlines() if words in line]


def start_runner(project: Path, *options: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "workbench", "run", "parameters/mine.yaml", *options]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(command, cwd=project, **pipes)


def wait_inside(runner: subprocess.Popen) -> None:
    """Read what the runner prints until its kernel says it is inside its step."""
    said = []
    for line in runner.stdout:
        said.append(line)
        if "inside" in line:
            return
    pytest.fail("the runner ended early:\n" + "".join(said))


def break_step(project: Path, number: str, *cells: str) -> Path:
    path = project / "notebooks" / find_step(number).notebook
    write_notebook(path, *opening(number), *cells)
    return path


@pytest.mark.slow
def test_a_chain_runs_once_and_is_up_to_date_the_second_time(project, capsys):
    assert run_mine("--to", "03") == 0
    assert lines_with(capsys.readouterr().err, " runs: ") == ["01", "02", "03"]
    assert run_mine("--to", "03") == 0
    assert lines_with(capsys.readouterr().err, "up to date") == ["01", "02", "03"]


REFUSE = """\
refused = run.path("refused_rungs.json")
if not refused.exists():
    from workbench.errors import RungRefusedError
    refused.write_text("{}")
    raise RungRefusedError("QAT lost parity")
"""


@pytest.mark.slow
def test_a_file_that_07_refuses_sends_the_chain_back_to_05(project, capsys, monkeypatch):
    monkeypatch.setattr(index, "render_index", lambda folder: "pretended figures have no index")
    out = project / "outputs/mine"
    (out / "splits").mkdir(parents=True)
    for name in {name for step in STEPS[:4] for name in promised(step)} - {"splits"}:
        (out / name).write_text("{}")
    written = PRETEND.format(number="07", writes=promised(find_step("07")))
    break_step(project, "07", REFUSE, written, "run.finish()")
    assert run_mine("--from", "05", "--to", "07") == 0
    said = capsys.readouterr().err
    assert lines_with(said, " runs: ") == ["05", "06", "07", "05", "07"]
    assert "QAT lost parity" in said


@pytest.mark.slow
def test_every_step_leaves_an_executed_notebook_and_a_page(project):
    run_mine("--only", "01")
    out = project / "outputs/mine"
    assert (out / "notebooks/01_dataset_audit.ipynb").exists()
    assert (out / "html/01_dataset_audit.html").exists()
    assert "01 dataset_audit" in (out / "html/index.html").read_text()


@pytest.mark.slow
def test_a_run_is_sealed_with_its_pages_once_every_step_is_up_to_date(project, capsys, monkeypatch):
    monkeypatch.setattr(index, "render_index", lambda folder: "pretended figures have no index")
    monkeypatch.setattr(batch, "closing_lines", lambda run: [])
    seal = project / "outputs/mine/SHA256SUMS"
    assert run_mine("--to", "08") == 0
    assert "not sealed: 09 eval_report" in capsys.readouterr().err and not seal.exists()
    older = seal.with_name("mine.zip")
    older.write_text("of another result")
    assert run_mine("--from", "09") == 0
    assert "no zip to hand over" in capsys.readouterr().err and not older.exists()
    names = {line.split("  ", 1)[1] for line in seal.read_text().splitlines()}
    assert names >= {f"html/{step.page}" for step in STEPS} | {"html/index.html", "labels.txt"}


@pytest.mark.slow
def test_a_killed_kernel_fails_the_step_and_the_same_command_goes_on(project):
    whole = (project / "notebooks/02_build_datasets.ipynb").read_bytes()
    path = break_step(project, "02", "import os, signal", "os.kill(os.getpid(), signal.SIGKILL)")
    assert run_mine("--to", "02") == 1
    record = state_of(project / "outputs/mine", find_step("02"))
    assert record["state"] == "failed" or record["state"] == "interrupted"
    path.write_bytes(whole)
    assert run_mine("--to", "02") == 0


@pytest.mark.slow
def test_a_killed_runner_leaves_an_honest_status_and_the_same_command_goes_on(project):
    whole = (project / "notebooks/02_build_datasets.ipynb").read_bytes()
    os.mkfifo(project / "gate")
    path = break_step(project, "02", WAIT)
    runner = start_runner(project, "--to", "02")
    wait_inside(runner)
    runner.kill()
    runner.communicate()
    kernel = state_of(project / "outputs/mine", find_step("02"))
    assert kernel["state"] in ("running", "interrupted")
    path.write_bytes(whole)
    assert run_mine("--to", "02") == 0


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["ctrl-c", "terminate"])
@pytest.mark.parametrize("ignored", [False, True], ids=["foreground", "background"])
def test_an_interrupted_runner_exits_130_and_says_so(project, number, ignored):
    """A shell starts background jobs with SIGINT ignored, and children inherit that."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN) if ignored else None
    os.mkfifo(project / "gate")
    break_step(project, "01", WAIT)
    runner = start_runner(project, "--only", "01")
    if ignored:
        signal.signal(signal.SIGINT, before)
    wait_inside(runner)
    runner.send_signal(number)
    output, _ = runner.communicate(timeout=120)
    assert runner.returncode == 130
    assert "the same command goes on from here" in output
    assert state_of(project / "outputs/mine", find_step("01"))["state"] == "interrupted"


@pytest.mark.slow
def test_a_notebook_that_never_does_its_step_is_not_taken_for_done(project, capsys):
    break_step(project, "01", "1 + 1")
    assert run_mine("--only", "01") == 1
    assert "ended without finishing" in capsys.readouterr().err


@pytest.mark.slow
def test_a_failure_after_the_step_fails_it(project, capsys):
    write = f"for name in {promised(find_step('01'))}: run.path(name).write_text('x')"
    break_step(project, "01", write, "run.finish()", "1 / 0")
    assert run_mine("--only", "01") == 1
    assert "ZeroDivisionError" in capsys.readouterr().err
    assert state_of(project / "outputs/mine", find_step("01"))["state"] == "failed"


@pytest.fixture
def kernel(monkeypatch):
    """A kernel that leaves `text` as the executed notebook and then raises `error`."""

    def end(error: Exception, text: str = '{"cells": [], "metadata": {"papermill": {}}}') -> None:
        def execute(_source, target, **_options):
            target.write_text(text)
            raise error

        monkeypatch.setattr(papermill, "execute_notebook", execute)

    return end


def raised(kind: str, text: str) -> papermill.PapermillExecutionError:
    return papermill.PapermillExecutionError(0, 1, "cell", kind, text, [])


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (raised("DatasetError", "train_labels.csv, line 4: x"), 2, "train_labels.csv, line 4: x"),
        (raised("MissingInputError", "No labels.txt"), 2, "No labels.txt"),
        (raised("StepError", "all rungs failed"), 1, "all rungs failed"),
        (raised("ZeroDivisionError", "division by zero"), 1, "ZeroDivisionError: division"),
        (raised("__doc__", "odd"), 1, "odd"),
        (DeadKernelError("Kernel died"), 1, "most often because memory ran out"),
        (CellTimeoutError("slow"), 1, "longer than run.cell_timeout_minutes"),
        (OSError(28, "No space left on device"), 1, "No space left on device"),
    ],
)
def test_the_exit_code_tells_wrong_input_from_a_failed_step(
    project, kernel, capsys, error, code, words
):
    kernel(error)
    assert run_mine("--only", "01") == code
    assert words in capsys.readouterr().err
    record = state_of(project / "outputs/mine", find_step("01"))
    assert record["state"] == "failed" and words in record["reason"]


def test_a_notebook_torn_by_a_full_disk_hides_no_reason_and_costs_no_earlier_one(
    project, kernel, capsys
):
    earlier = project / "outputs/mine/notebooks/01_dataset_audit.ipynb"
    earlier.parent.mkdir(parents=True)
    earlier.write_text("earlier")
    kernel(OSError(28, "No space left on device"), text='{"cells": [')
    assert run_mine("--only", "01") == 1
    assert "No space left on device" in capsys.readouterr().err
    assert [file.read_text() for file in earlier.parent.iterdir()] == ["earlier"]


UNFIT = {"fit": False, "because": ["leak: test <b>.jpg"], "next": ["keep one"]}


@pytest.mark.parametrize(("options", "words"), [
    ((), "not fit, because leak: test <b>.jpg; next: keep one"),
    (("--set", "audit.on_errors=go_on"), "02 build_datasets failed"),
])  # fmt: skip
def test_nothing_learns_from_an_unfit_dataset_unless_told_to_go_on(
    project, kernel, capsys, options, words
):
    write_json(project / "outputs/mine/audit.json", UNFIT)
    kernel(raised("StepError", "the notebook ran"))
    assert run_mine("--from", "02", *options) == 1
    said = capsys.readouterr().err
    assert words in said and ("--set audit.on_errors=go_on. See" in said) == (not options)
    index = (project / "outputs/mine/html/index.html").read_text()
    assert "not fit, because leak: test &lt;b&gt;.jpg; next: keep one" in index


def test_a_report_of_a_torn_notebook_names_it_with_the_way_out(run, capsys):
    run.save_settings()
    torn = run.path("notebooks/01_dataset_audit.ipynb")
    torn.parent.mkdir()
    torn.write_text('{"cells": [')
    assert main(["report", str(run.folder)]) == 2
    assert f"{torn} is damaged. Run it again with --only 01 --force" in capsys.readouterr().err


def test_what_a_kill_left_half_written_is_swept(project, kernel):
    litter = [project / "outputs/mine" / name for name in (".partial_a.json", "html/.partial_b")]
    for path in litter:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("half")
    kernel(raised("StepError", "all rungs failed"))
    run_mine("--only", "01")
    assert [path for path in litter if path.exists()] == []


def test_a_page_that_cannot_be_drawn_hides_no_reason(project, kernel, capsys, monkeypatch):
    def refuse(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(report, "render_notebook", refuse)
    kernel(raised("StepError", "all rungs failed"))
    assert run_mine("--only", "01") == 1
    assert "error: 01 dataset_audit failed: StepError: all rungs failed" in capsys.readouterr().err


@pytest.mark.slow
def test_a_cell_that_hangs_is_ended_with_its_kernel(project, capsys):
    os.mkfifo(project / "gate")
    break_step(project, "01", WAIT)
    before = set(psutil.Process().children(recursive=True))
    assert run_mine("--only", "01", "--set", "run.cell_timeout_minutes=0.05") == 1
    assert "a cell ran longer than run.cell_timeout_minutes" in capsys.readouterr().err
    assert set(psutil.Process().children(recursive=True)) <= before


@pytest.mark.slow
def test_an_executed_notebook_names_no_folder_of_this_machine(project):
    run_mine("--only", "01")
    assert (
        str(project) not in (project / "outputs/mine/notebooks/01_dataset_audit.ipynb").read_text()
    )


@pytest.mark.parametrize("command", [None, "/elsewhere/bin/python"])
def test_a_kernel_of_another_environment_is_refused_with_the_command_to_type(
    project, capsys, monkeypatch, command
):
    def find(_self, name):
        if command is None:
            raise NoSuchKernel(name)
        return SimpleNamespace(argv=[command])

    monkeypatch.setattr(KernelSpecManager, "get_kernel_spec", find)
    assert run_mine("--only", "01") == 2
    assert re.search(r"Run: (pip install|python -m) ipykernel", capsys.readouterr().err)


@pytest.mark.slow
def test_plain_papermill_runs_a_notebook_with_a_parameter_file(project):
    command = ["papermill", "notebooks/01_dataset_audit.ipynb", "out.ipynb", "-f",
               "parameters/mine.yaml", "-p", "run_dir", "outputs/plain"]  # fmt: skip
    subprocess.run([sys.executable, "-m", *command], check=True, capture_output=True)
    assert state_of(project / "outputs/plain", find_step("01"))["state"] == "ok"


@pytest.mark.slow
def test_plain_papermill_refuses_a_mistyped_key(project):
    (project / "parameters/typo.yaml").write_text("teachr: {epochs_head: 1}\n")
    command = ["papermill", "notebooks/01_dataset_audit.ipynb", "out.ipynb", "-f",
               "parameters/typo.yaml", "-p", "run_dir", "outputs/plain"]  # fmt: skip
    done = subprocess.run([sys.executable, "-m", *command], capture_output=True, text=True)
    assert done.returncode != 0
    assert 'unknown key "teachr". Did you mean "teacher"?' in done.stderr


def test_a_dry_run_says_what_would_run_and_why(project, capsys):
    assert run_mine("--dry-run") == 0
    assert lines_with(capsys.readouterr().out, "would run: not run yet") == ALL


def test_a_dry_run_loads_no_tensorflow(project):
    code = ("import sys; from workbench.__main__ import main; "
            "code = main(['run', 'parameters/mine.yaml', '--dry-run']); "
            "sys.exit(code or 'tensorflow' in sys.modules)")  # fmt: skip
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0


def test_a_dry_run_prints_the_batch_totals_of_the_manual_beside_the_value_per_device(
    project, capsys
):
    run_mine("--dry-run", "--set", "teacher.batch_size=8")
    said = capsys.readouterr().out
    totals = "in all over so many GPUs (teacher/student):  1: 16/32   2: 32/64   4: 64/128"
    assert totals in said
    assert "the parameters say 8/16 per device; what fits depends on network" in said


def test_a_dry_run_names_no_device_before_tensorflow_has_listed_one(project, capsys):
    run_mine("--dry-run")
    said = capsys.readouterr().err
    assert "TensorFlow names the device when a training starts" in said
    assert "GPU" not in said


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--set", "teacher.epoch_head=2"], 'unknown key "teacher.epoch_head"'),
        (["--from", "10"], 'there is no step "10"'),
        (["--from", "05", "--to", "03"], "--from 05 comes after --to 03"),
        (["--run", "a", "--new"], "name the folder more than once"),
        (["--run", "../a"], "cannot name a run"),
        (["--set", "dataset.dir=nowhere", "--dry-run"], "No dataset in"),
    ],
)
def test_wrong_input_exits_2_with_words(project, capsys, options, words):
    assert run_mine(*options) == 2
    assert re.search(words, capsys.readouterr().err)


def test_a_missing_parameter_file_exits_2(project, capsys):
    assert main(["run", "parameters/mein.yaml"]) == 2
    assert 'Did you mean "parameters/mine.yaml"?' in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("thresholds", "--count", "5"), "takes no --count"),
        (("latency", "--images", "photos"), "takes no --images"),
        (("audit", "--run", "outputs/mine"), "takes no --run"),
        (("audit", "--count", "0"), "--count is 0; it must be 1 or more"),
        (("audit", "--images", "photos"), "photos holds no images"),
        (("pipeline", "--images", "photos"), "photos holds no images"),
    ],
)
def test_a_benchmark_refuses_what_it_has_no_use_for(tmp_path, monkeypatch, capsys, words, said):
    monkeypatch.chdir(tmp_path)
    assert main(["benchmark", *words]) == 2
    assert said in capsys.readouterr().err


def test_the_pipeline_benchmark_names_a_photo_that_it_cannot_decode(tmp_path, capsys):
    (tmp_path / "torn.jpg").write_bytes(b"\xff\xd8\xff")
    assert main(["benchmark", "pipeline", "--images", str(tmp_path)]) == 2
    assert "torn.jpg is a damaged JPEG" in capsys.readouterr().err


def test_the_audit_is_measured_on_a_folder_of_ones_own(tmp_path, capsys):
    for number in range(3):
        Image.new("RGB", (40, 30), (80 * number, 0, 0)).save(tmp_path / f"{number}.png")
    assert main(["benchmark", "audit", "--images", str(tmp_path)]) == 0
    assert "Audit of 3 images" in capsys.readouterr().out


@pytest.mark.parametrize("name", BENCHMARKS)
def test_every_benchmark_that_help_names_is_there(name):
    module = importlib.import_module(f"workbench.benchmarks.{name}")
    assert callable(module.run)
    assert callable(module.table)
