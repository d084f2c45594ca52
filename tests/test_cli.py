"""The command line: every way to fail ends in words and in its exit code."""

import errno
import json
import os
import subprocess
import sys

import pytest
from PIL import Image

from workbench import batch
from workbench.__main__ import main
from workbench.cli import projects, runs
from workbench.lock import LOCK_NAME, describe_process


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EDQUOT, errno.EACCES],
                         ids=errno.errorcode.get)  # fmt: skip
def test_what_the_machine_refuses_is_said_in_one_line_and_exits_1(monkeypatch, capsys, number):
    def refuse(_options):
        raise OSError(number, os.strerror(number), "outputs/mine/metrics.json")

    monkeypatch.setattr(projects, "demo", refuse)
    assert main(["demo"]) == 1
    said = capsys.readouterr().err
    assert said.startswith(f"error: outputs/mine/metrics.json: {os.strerror(number)}.")
    assert said.count("\n") == 1


@pytest.mark.parametrize("command", ["run", "sweep"])
def test_outside_of_a_project_the_way_to_one_is_said(
    project, tmp_path, monkeypatch, capsys, command
):
    outside = tmp_path.parent / f"{tmp_path.name}_outside"
    outside.mkdir()
    monkeypatch.chdir(outside)
    file = project / "parameters/mine.yaml"
    if command == "sweep":
        file = project / "parameters/sweep.yaml"
        file.write_text("base: parameters/mine.yaml\nseeds: [1, 2]\n")
    assert main([command, str(file)]) == 2
    said = capsys.readouterr().err
    assert f"{outside} is no project" in said and f"cd {project}" in said
    assert list(outside.iterdir()) == []
    assert main([command, "mine.yaml"]) == 2
    assert "my_project --from PHOTOS" in capsys.readouterr().err or command == "sweep"


def test_the_data_can_be_named_beside_the_parameters(project, monkeypatch):
    seen = {}
    monkeypatch.setattr(batch, "dry_run", lambda the_run, plan: seen.update(run=the_run) or [])
    for given, kept in (("ph: #otos", str(project / "ph: #otos")), ("s3://pets/x", "s3://pets/x")):
        assert main(["run", "parameters/mine.yaml", "--data", given, "--dry-run"]) == 0
        assert seen["run"].settings.dataset.dir == kept


def test_an_interrupt_exits_130(monkeypatch, capsys):
    def interrupt(_options):
        raise KeyboardInterrupt

    monkeypatch.setattr(projects, "demo", interrupt)
    assert main(["demo"]) == 130
    assert "the same command goes on from here" in capsys.readouterr().err


def dry_run_into(stdout) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "workbench", "run", "parameters/mine.yaml", "--dry-run"]
    return subprocess.run(command, stdout=stdout, stderr=subprocess.PIPE, text=True)


def test_a_reader_who_has_seen_enough_is_no_failure(project):
    reading, writing = os.pipe()
    os.close(reading)
    done = dry_run_into(writing)
    os.close(writing)
    assert (done.returncode, "Pipe" in done.stderr) == (0, False)


def test_an_answer_that_cannot_be_printed_exits_1(project):
    with open("/dev/full", "w") as full:
        done = dry_run_into(full)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("error: No space left on device")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["audit", "nowhere"], "nowhere is not a folder"),
        (["run", "parameters"], "parameters is a folder. Name the parameter file in it"),
        (["new", "parameters/mine.yaml"], "is not an empty folder"),
        (["demo", "drawn", "--seed", "-1"], "seeds are whole numbers from 0"),
        (["report", "outputs/none"], "is it a run folder?"),
        (["compare", "outputs/none", "outputs/none"], "is it a run folder?"),
    ],
)
def test_a_path_or_number_that_is_wrong_exits_2(project, capsys, arguments, words):
    assert main(arguments) == 2
    assert words in capsys.readouterr().err


@pytest.mark.parametrize("torn", [b"", b"PK\3\4", b"\x93NUMPY"])
def test_a_comparison_with_torn_scores_names_them(run, capsys, torn):
    run.save_settings()
    run.path("test_scores.npz").write_bytes(torn)
    assert main(["compare", str(run.folder), str(run.folder)]) == 2
    said = capsys.readouterr().err
    assert "test_scores.npz is damaged. Run 09_eval_report again" in said


def test_a_folder_somebody_works_in_exits_2(run, capsys):
    owner = describe_process() | {"host": "elsewhere", "boot": "another"}
    run.path(LOCK_NAME).write_text(str(owner).replace("'", '"'))
    assert main(["run", "parameters/mine.yaml"]) == 2
    assert "is in use by process" in capsys.readouterr().err


def test_two_new_runs_of_one_second_do_not_share_a_folder(project, monkeypatch, capsys):
    monkeypatch.setattr(runs.time, "strftime", lambda _: "run_20260101_000000")
    (project / "outputs/run_20260101_000000").mkdir(parents=True)
    assert main(["run", "parameters/mine.yaml", "--new", "--dry-run"]) == 2
    assert "exists already: wait a second" in capsys.readouterr().err


@pytest.fixture
def dataset(tmp_path):
    """Three images of one class, one a split."""
    folder = tmp_path / "pets"
    (folder / "images").mkdir(parents=True)
    for number, split in enumerate(("train", "val", "test")):
        Image.new("RGB", (40, 40), (90 * number,) * 3).save(folder / f"images/{number}.png")
        (folder / f"{split}_labels.csv").write_text(f"filepath,labels\n{number}.png,cat\n")
    return folder


def test_an_audit_counts_the_classes_itself(dataset):
    assert main(["audit", str(dataset)]) == 0


def test_an_audit_ends_in_its_conclusion_and_exits_by_it(dataset, capsys):
    assert main(["audit", str(dataset)]) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("fit, no error was found; next: ")
    (dataset / "images/0.png").write_bytes((dataset / "images/2.png").read_bytes())
    assert main(["audit", str(dataset)]) == 1
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith("not fit, because leak: test 2.png: the same file as train: 0.png (and ")
    assert "; next: keep one of the two" in last


def test_an_audit_of_a_split_without_photos_is_not_fit(dataset, capsys):
    (dataset / "images/1.png").write_bytes(b"no picture")
    apart = ("--json", "--set", "dataset.on_bad_image=quarantine")
    assert main(["audit", str(dataset), *apart]) == 1
    figures = json.loads(capsys.readouterr().out)
    assert figures["because"] == ["val: no image is left"] and not figures["fit"]


def test_an_audit_heeds_the_datasets_own_config(dataset, capsys):
    (dataset / "config.yaml").write_text("num_classes: 5\n")
    assert main(["audit", str(dataset)]) == 2
    assert "Expected 5 classes, found 1: cat" in capsys.readouterr().err


def test_an_assignment_wins_over_the_datasets_own_config(dataset):
    (dataset / "config.yaml").write_text("num_classes: 5\n")
    assert main(["audit", str(dataset), "--set", "num_classes=1"]) == 0


def test_a_damaged_image_is_named_by_the_audit_and_not_by_pillow(dataset, recwarn, capsys):
    exif = b"Exif\0\0II*\0\x08\0\0\0\x09\0"  # nine entries announced, none there
    Image.new("RGB", (40, 40)).save(dataset / "images/0.png", format="JPEG", exif=exif)
    assert main(["audit", str(dataset)]) == 0
    assert [str(warning.message) for warning in recwarn if "EXIF" in str(warning.message)] == []


def test_a_folder_that_is_not_there_is_wrong_input_and_not_a_broken_bundle(tmp_path, capsys):
    assert main(["verify", str(tmp_path / "nowhere")]) == 2
    assert "nowhere is not a folder" in capsys.readouterr().err
