"""The real notebooks, 01 to 09, on the smallest networks and a handful of drawn photos."""

import shutil
from pathlib import Path

import nbformat
import numpy as np
import pytest

from tests.conftest import promised
from tests.playing import copy_project
from tests.prove.chain import TINY
from workbench.__main__ import main
from workbench.data.demo import CLASSES, draw_photo
from workbench.files import read_json
from workbench.steps import MANDATORY, STEPS

ROOT = Path(__file__).parent.parent
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def workplace(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("workplace")
    for name in ("notebooks", "parameters"):
        shutil.copytree(ROOT / name, folder / name)
    return folder


@pytest.fixture(scope="module")
def multilabel(finished_project, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("several") / "project"
    return copy_project(finished_project, folder) / "outputs/demo"


@pytest.fixture(scope="module")
def single_label(workplace) -> Path:
    rng = np.random.default_rng(5)
    for name in list(CLASSES)[:3]:
        folder = workplace / "data/one" / name
        folder.mkdir(parents=True)
        for number in range(16):
            draw_photo([name], rng).save(folder / f"{number}.png")
    split = "train_frac: 0.5, val_frac: 0.25, test_frac: 0.25"
    return run_all(workplace, "one", "task: single_label\nnum_classes: auto\n", split)


def run_all(workplace: Path, name: str, head: str, split: str = "exif: apply") -> Path:
    text = f"{head}dataset: {{dir: data/{name}, {split}}}{TINY}"
    (workplace / f"parameters/{name}.yaml").write_text(text)
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(workplace)
        assert main(["run", f"parameters/{name}.yaml"]) == 0
    return workplace / "outputs" / name


every_task = pytest.mark.parametrize("task", ["multilabel", "single_label"])


@every_task
def test_the_chain_leaves_every_promised_file(task, request):
    run = request.getfixturevalue(task)
    due = {name for step in STEPS for name in promised(step)} | set(MANDATORY)
    assert {name for name in due if not (run / name).exists()} == set()


@every_task
def test_the_same_command_again_finds_everything_up_to_date(task, request, monkeypatch, capsys):
    run = request.getfixturevalue(task)
    monkeypatch.chdir(run.parent.parent)
    assert main(["run", f"parameters/{run.name}.yaml"]) == 0
    said = capsys.readouterr()
    assert said.err.count("up to date") == len(STEPS)
    assert "PIPELINE COMPLETE" in said.out


@every_task
def test_the_bundle_keeps_every_promise(task, request):
    assert main(["verify", str(request.getfixturevalue(task))]) == 0


@every_task
def test_no_executed_notebook_holds_noise_on_stderr(task, request):
    for path in (request.getfixturevalue(task) / "notebooks").glob("*.ipynb"):
        for cell in nbformat.read(path, as_version=4).cells:
            noise = [o for o in cell.get("outputs", []) if o.get("name") == "stderr"]
            assert noise == [], path.name


@every_task
def test_the_metrics_are_strict_json_with_intervals(task, request):
    metrics = read_json(request.getfixturevalue(task) / "metrics.json")
    assert metrics["test"]["overall"]["f1_macro"]["interval"] is not None
    assert metrics["quantization"]["chosen"]


def test_a_run_compares_with_itself_as_equal(multilabel, capsys, monkeypatch):
    monkeypatch.chdir(multilabel.parent.parent)
    assert main(["compare", str(multilabel), str(multilabel)]) == 0
    assert "+0.0000 F1 macro" in capsys.readouterr().out


def test_edited_thresholds_flow_into_the_app_without_training(multilabel, monkeypatch, capsys):
    monkeypatch.chdir(multilabel.parent.parent)
    from workbench.decide.recommendation import read
    from workbench.files import write_json

    found = read(multilabel / "threshold_recommendation.json")
    name = found.names[0]
    edited = found.edited({name: int(found.integer[0]) + 3}, "Ada", "2026-01-01T00:00:00", "try")
    write_json(multilabel.parent / "choice.json", edited.model_dump(mode="json"))
    assert main(["thresholds", str(multilabel), str(multilabel.parent / "choice.json")]) == 0
    assert main(["run", f"parameters/{multilabel.name}.yaml", "--only", "06"]) == 0
    said = capsys.readouterr().out.splitlines()[-1]
    assert said.startswith(
        "Not up to date: 07 export_tflite, 08 inference_config, 09 eval_report. "
    )
    assert main(["run", f"parameters/{multilabel.name}.yaml"]) == 0
    ran = [line.split()[0] for line in capsys.readouterr().err.splitlines() if " runs: " in line]
    assert ran == ["07", "08", "09"]  # 07 measures parity at the thresholds in use
    config = read_json(multilabel / "inference_config.json")
    assert config["thresholds"]["classes"][0]["integer"] == int(found.integer[0]) + 3
