"""Sweeps through the command line; the runs only pretend to train."""

import json
import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import optuna
import psutil
import pytest
from distributed import Client
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from tests.conftest import PRETEND, opening, promised, write_notebook
from workbench import freshness, status
from workbench.__main__ import main
from workbench.artifacts import Sweep
from workbench.files import digest_of, read_json, write_json, write_text
from workbench.steps import find_step
from workbench.sweep import cluster, sharing, spec, trial
from workbench.train.phases import phases

ROOT = Path(__file__).parent.parent
GRID = "grid: {distillation.alpha: [0.3, 0.6, 0.9]}"
NAMES = [f"distillation.alpha-{alpha}" for alpha in (0.3, 0.6, 0.9)]
SEARCH = """search:
  trials: 5
  sampler: grid
  pruner_trials: 1
  pruner_epochs: 1
  space: {student.lr_finetune: {choices: [0.01, 0.02, 0.03, 0.04, 0.05]}}
"""


@contextmanager
def threads(share):
    """Workers in this process, where the tests' own runs stand for real ones."""
    with Client(processes=False, n_workers=1, threads_per_worker=share.workers,
                dashboard_address="127.0.0.1:0") as client:  # fmt: skip
        yield client


class Pretender:
    """Stands for the process of a run: its steps write files, status, pages and epochs.

    A file in the project named like the run and a step tells it to misbehave, once.
    """

    def __init__(self, job, run, log):
        self.project, self.log, self.returncode, self.pid = job.root, log, None, os.getpid()
        self.stdin = SimpleNamespace(close=self.end)
        run.save_settings()
        write_json(run.path("changes.json"), {"schema": 1, "parameters": job.base, "changes": {}})
        for number in job.stretch.steps:
            told = self.told(run, number)
            if number not in job.stretch.taken and not self.step(run, find_step(number), told):
                return
        self.returncode = 0

    def told(self, run, number: str) -> str:
        path = self.project / f"{run.name}.{number}"
        told = path.read_text() if path.exists() else ""
        path.unlink(missing_ok=True)
        return told

    def step(self, run, step, told: str) -> bool:
        with open(self.project / "computed.txt", "a") as file:
            file.write(f"{step.number} {run.name}\n")
        if told == "look":
            storage = JournalStorage(JournalFileBackend(str(run.folder.parent / "study.journal")))
            drawn = optuna.load_study(study_name=None, storage=storage).trials
            write_text(self.project / "drawn.txt", str(len(drawn)))
            told = ""
        if told == "kill":
            self.returncode = -signal.SIGKILL
        if told == "fail":
            self.log.write(b"error: the disk is full\n")
            self.log.flush()
            self.returncode = 1
        if told:
            return False
        for name in promised(step):
            path = run.path(name)
            path.mkdir(exist_ok=True) if "." not in name else path.write_text("made")
        if step.number in ("03", "04") and not self.train(run, step.trains[0]):
            return False
        names = promised(step)
        outputs = {name: digest_of(run.path(name)) for name in names}
        page = [f"notebooks/{step.notebook}", f"html/{step.page}"]
        for name in page:
            write_text(run.path(name), run.name)
        status.record(
            run.folder, step, state="ok", started="1", finished="2", seconds=1.0, outputs=outputs,
            fingerprint=freshness.fingerprint(run, step),
            page={name: digest_of(run.path(name)) for name in page},
        )  # fmt: skip
        return True

    def train(self, run, role: str) -> bool:
        """Write epochs whose F1 is the learning rate; the last to be drawn lags and never ends."""
        phase = phases(run.settings, role)[1]
        lags = run.name == LAGGING and role == "student"
        value = 0.0 if lags else min(1.0, phase.learning_rate)
        rows = [{"epoch": epoch, "val_loss": 1.0, "val_f1_macro": value} for epoch in (1, 2, 3)]
        lines = [json.dumps(row) + "\n" for row in rows]
        write_text(run.path(f"logs/{phase.name}.jsonl"), "".join(lines))
        return not lags

    def poll(self):
        return self.returncode

    def wait(self, timeout=None):
        if self.returncode is None:
            raise subprocess.TimeoutExpired("run", timeout)

    def end(self):
        self.returncode = 130 if self.returncode is None else self.returncode


LAGGING = "trial_003"


@pytest.fixture
def sweep(project, monkeypatch):
    """Write a sweep file and give the command; return its exit code."""
    monkeypatch.setattr(cluster, "on_this_machine", threads)
    monkeypatch.setattr(trial, "start", Pretender)

    def give(text: str, *options: str) -> int:
        (project / "parameters/many.yaml").write_text(f"base: parameters/mine.yaml\n{text}\n")
        return main(["sweep", "parameters/many.yaml", *options])

    return give


def computed(project: Path) -> list[str]:
    path = project / "computed.txt"
    return sorted(path.read_text().splitlines()) if path.exists() else []


def trials(project: Path) -> dict:
    return {one.name: one for one in Sweep.read(project / "outputs/many").trials}


def test_what_runs_share_is_computed_once_and_the_second_time_nothing_is(sweep, project, capsys):
    assert sweep(GRID, "--workers", "2") == 0
    once = [f"{step} {NAMES[0]}" for step in ("01", "02", "03")]
    assert computed(project) == sorted([*once, *(f"04 {name}" for name in NAMES)])
    found = trials(project)
    assert {one.state for one in found.values()} == {"done"}
    assert found[NAMES[1]].shared == dict.fromkeys(("01", "02", "03"), NAMES[0])
    config = read_json(project / f"outputs/many/{NAMES[2]}/training_config.json")
    assert config["distillation"]["alpha"] == 0.9
    assert "1  0.0001" in capsys.readouterr().out
    assert sweep(GRID) == 0
    assert len(computed(project)) == 6


def test_a_failure_is_named_with_those_that_wait_for_it_and_taken_up_again(sweep, project, capsys):
    (project / f"{NAMES[0]}.03").write_text("fail")
    assert sweep(GRID) == 1
    reasons = [one.reason for one in trials(project).values()]
    assert reasons[0].startswith("the disk is full (exit code 1")
    assert f"takes over steps of {NAMES[0]}, which failed: the disk is full" in reasons[2]
    assert sweep(GRID) == 0
    assert {one.state for one in trials(project).values()} == {"done"}


def test_a_run_that_is_killed_is_started_again(sweep, project):
    (project / f"{NAMES[1]}.04").write_text("kill")
    assert sweep(GRID) == 0
    assert computed(project).count(f"04 {NAMES[1]}") == 2


def test_a_run_that_takes_too_much_memory_is_ended_with_the_reason(sweep, project):
    (project / f"{NAMES[0]}.01").write_text("linger")
    assert sweep(f"{GRID}\nmemory_gib: 0.001") == 1
    assert "its worker has 0.0. Take fewer workers" in trials(project)[NAMES[0]].reason


def test_a_run_that_lags_behind_is_pruned_and_says_against_what(sweep, project):
    assert sweep(f"{SEARCH}workers: 1") == 0
    found = trials(project)
    pruned = {name: one.reason for name, one in found.items() if one.state == "pruned"}
    assert len(found) == 5 and list(pruned) == [LAGGING]
    assert "f1_macro on validation 0.0000 at best up to student_finetuned epoch" in pruned[LAGGING]
    assert "the median of" in pruned[LAGGING]


def test_a_search_draws_a_trial_when_a_worker_is_free_for_it(sweep, project):
    (project / "trial_000.04").write_text("look")
    sweep(SEARCH, "--workers", "2")
    assert int((project / "drawn.txt").read_text()) <= 2


def test_a_search_goes_on_where_it_stands(sweep, project):
    fewer = SEARCH.replace("trials: 5", "trials: 2")
    assert sweep(fewer) == 0
    first = trials(project)
    assert sweep(SEARCH) == 0
    found = trials(project)
    assert list(found)[:2] == list(first) and len(found) == 5
    assert len({json.dumps(one.differences) for one in found.values()}) == 5
    assert first.items() <= found.items()


def test_a_study_of_another_base_is_not_gone_on_with(sweep, project, capsys):
    sweep(SEARCH.replace("trials: 5", "trials: 1"))
    (project / "parameters/mine.yaml").write_text("num_classes: auto\nseed: 3\n")
    assert sweep(SEARCH) == 2
    assert "holds trials of another base" in capsys.readouterr().err


def test_knobs_that_are_wrong_together_fail_alone(sweep, project, capsys):
    space = "{dataset.folds: {choices: [4, 2]}, dataset.fold: {choices: [0, 3]}}"
    assert sweep(f"search: {{sampler: grid, space: {space}}}") == 1
    reasons = [one.reason for one in trials(project).values()]
    assert reasons[:3] == [None] * 3
    assert "parts are counted from 0" in reasons[3]
    swapped = space.replace("[4, 2]", "[2, 4]")
    assert sweep(f"search: {{sampler: grid, space: {swapped}}}", "--run", "other") == 2
    assert "with dataset.fold=3 of the sweep" in capsys.readouterr().err


def test_a_damaged_sweep_json_costs_no_more_than_times_and_reasons(sweep, project, capsys):
    assert sweep(GRID) == 0
    (project / "outputs/many/sweep.json").write_text("{")
    assert sweep(GRID) == 0
    assert "earlier times and reasons are lost" in capsys.readouterr().err
    assert len(computed(project)) == 6


def test_a_dry_run_says_who_computes_what_and_starts_nothing(sweep, project, capsys):
    assert sweep(GRID, "--dry-run") == 0
    said = capsys.readouterr().out
    assert f"{NAMES[2]}: takes over 01, 02, 03 from {NAMES[0]}" in said
    assert "03 1 of 3, 04 3 of 3" in said
    assert not (project / "outputs").exists()


def test_teachers_only_are_ranked_by_the_teacher(sweep, project):
    assert sweep("grid: {teacher.lr_finetune: [0.1, 0.2]}", "--to", "03") == 0
    found = Sweep.read(project / "outputs/many")
    assert found.rank.of == "teacher" and found.best == "teacher.lr_finetune-0.2"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("grd: {}", 'unknown key "grd". Did you mean "grid"?'),
        ("search: {sampler: tpe, spac: {}}", 'Did you mean "search.space"?'),
        ("workers: 0\nseeds: [1]", '"workers" is 0. It should be greater than or equal to 1'),
        ("", "varies nothing. Give it grid, list, seeds, folds or search"),
        ("seeds: [1]\nsearch: {space: {seed: {choices: [1]}}}", "leave out seeds"),
        ("search: {space: {seed: {low: 3, high: 1}}}", "low 3 is above high 1"),
        ("search: {space: {teacher.dropout: {low: 0}}}", "it needs low and high, or choices"),
        ("grid: {student.dropuot: [0.1]}", 'Did you mean "dropout"?'),
        ("search: {space: {student.dropout: {low: 0.1, high: 2.0}}}", "with student.dropout=2.0"),
        ("seeds: [1]\nto: '02'", "rank.of is teacher, but the steps end with 02"),
    ],
)
def test_a_wrong_file_is_refused_before_anything_runs(sweep, project, capsys, text, words):
    assert sweep(text) == 2
    assert words in capsys.readouterr().err
    assert not (project / "outputs").exists()


def test_the_sweep_file_that_ships_is_valid():
    shipped = spec.read_spec(ROOT / "parameters/sweep_example.yaml")
    assert len(spec.variants(shipped)) == 6
    assert (ROOT / shipped.base).is_file()


def test_lists_grids_seeds_and_folds_multiply():
    found = spec.variants(spec.SweepSettings.model_validate({
        "base": "x", "list": [{"teacher": {"dropout": 0.1}}, {"teacher.dropout": 0.2}],
        "grid": {"loss.name": ["bce", "focal"]}, "seeds": [1, 2], "folds": 3,
    }))  # fmt: skip
    assert len(found) == 24
    assert found["teacher.dropout-0.2_loss.name-focal_seed-2_dataset.fold-1"] == {
        "teacher.dropout": 0.2, "loss.name": "focal", "seed": 2, "dataset.folds": 3,
        "dataset.fold": 1,
    }  # fmt: skip


def test_runs_of_two_teachers_wait_for_no_more_than_they_need():
    keys = {"a1": "11a1", "a2": "11a2", "b1": "11b1", "b2": "11b2"}
    keys = {name: dict(zip(("01", "02", "03", "04"), text, strict=True))
            for name, text in keys.items()}  # fmt: skip
    for name in keys:
        keys[name]["04"] = name
    users = {(n, k): [r for r in keys if keys[r][n] == k] for one in keys.values()
             for n, k in one.items()}  # fmt: skip
    shared = {item: names for item, names in users.items() if len(names) > 1}
    steps = tuple(find_step(number) for number in ("01", "02", "03", "04"))
    found = sharing.Sharing(steps, lambda *item: shared.get(item, ()))
    cut = {name: [(one.steps, one.taken) for one in found.add(name, keys[name])] for name in keys}
    assert cut["a1"] == [(("01", "02"), {}), (("03",), {}), (("04",), {})]
    assert cut["b1"] == [(("01", "02", "03"), {"01": "a1", "02": "a1"}), (("04",), {})]
    assert cut["b2"] == [(("01", "02", "03", "04"), {"01": "a1", "02": "a1", "03": "b1"})]


def test_a_run_ends_when_whoever_started_it_is_gone():
    program = "import signal; from workbench import batch; batch.stop_at_eof(); signal.pause()"
    started = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, cwd=ROOT)
    started.stdin.close()
    assert started.wait(timeout=60) == -signal.SIGTERM


INSIDE = """\
import logging
logging.getLogger("workbench").info("inside")
open("gate").read()
"""


@pytest.mark.slow
def test_a_run_whose_worker_is_killed_is_taken_up_by_another(project):
    """On real workers and real processes, with notebooks that pretend."""
    step, gate = find_step("03"), project / "gate"
    pretend = PRETEND.format(number="03", writes=promised(step))
    write_notebook(
        project / "notebooks" / step.notebook, *opening("03"), INSIDE, pretend, "run.finish()"
    )
    os.mkfifo(gate)
    (project / "parameters/many.yaml").write_text(
        "base: parameters/mine.yaml\nseeds: [1]\nto: '03'\n"
    )
    command = [sys.executable, "-m", "workbench", "sweep", "parameters/many.yaml"]
    place = {"cwd": project, "env": os.environ | {"PYTHONPATH": str(ROOT)}}
    with subprocess.Popen([*command, "--workers", "1"], stderr=subprocess.PIPE, text=True,
                          **place) as process:  # fmt: skip
        with open(gate, "w"):  # opens as soon as a kernel is inside
            below = psutil.Process(process.pid).children(recursive=True)
            runner = next(one for one in below if "--out" in one.cmdline())
            runner.parent().kill()
            psutil.wait_procs([runner], timeout=60)
        with open(gate, "w") as file:  # the one that took it up
            file.write("go on")
        said = process.stderr.read()
    assert process.returncode == 0, said
    log = (project / "outputs/many/seed-1.log").read_text()
    assert log.count("03 train_teacher       runs") == 2
    assert log.count("01 dataset_audit       runs") == 1
    assert not runner.is_running()


def test_gpus_are_those_that_the_environment_shows(monkeypatch):
    monkeypatch.setitem(os.environ, "CUDA_VISIBLE_DEVICES", "2,5")
    share = cluster.share_out(spec.SweepSettings(base="x", seeds=[1]))
    assert (share.workers, share.gpus) == (2, ("2", "5"))
    assert cluster._worker(share, 1)["options"]["env"] == {"CUDA_VISIBLE_DEVICES": "5"}
