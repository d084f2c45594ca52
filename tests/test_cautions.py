"""What gives to doubt is repeated wherever a run's figures stand, and only what was found."""

from types import SimpleNamespace

import numpy as np
import pytest

from tests.deploy_doubles import LADDER
from workbench.batch import closing_lines
from workbench.cautions import cautions
from workbench.decide.metrics import evaluate
from workbench.files import read_json, write_json
from workbench.machine import write_run_metadata
from workbench.run import Run
from workbench.show.report import render_index

HEADER = "image,split,kind,severity,detail\n"


def judged(folder, y_true, y_score, classes):
    found = evaluate(y_true, y_score, 0.5, classes, task="multilabel", replicates=20)
    write_json(folder / "metrics.json", {"test": found.to_json()})


@pytest.fixture
def doubtful(run):
    """One test image of two classes, random labels, always yes; a class that is only in test."""
    judged(run.folder, np.array([[1, 0]]), np.ones((1, 2)), ["a", "<b>"])
    row = ",test,class_without_training_photos,error,a occurs 3 times, never in train\n"
    (run.folder / "audit.csv").write_text(HEADER + row.replace("times, never", "times; never"))
    return run


def test_one_test_image_and_always_yes_prints_what_is_known(doubtful):
    lines = "\n".join(closing_lines(doubtful))
    assert "F1 macro 1.000 [no interval: 1 images; an interval needs 5]" in lines
    assert "macro over 1 of 2 classes; undefined: <b>" in lines
    assert "the answer is always yes: a, <b>" in lines
    assert "absent from test, so nobody judged them: <b>" in lines
    assert "class_without_training_photos: test: a occurs 3 times; never in train" in lines


def test_the_index_repeats_them_as_text(doubtful):
    page = render_index(doubtful.folder)
    assert "the answer is always yes: a, &lt;b&gt;" in page
    assert "macro over 1 of 2 classes; undefined: &lt;b&gt;" in page and "<b>b" not in page


def test_a_class_that_nobody_tuned_or_whose_threshold_never_answers_is_named(run):
    classes = [
        {"name": "rare", "positives": 0, "integer": 12},
        {"name": "mute", "positives": 5, "integer": 128},
    ]
    tuned = {"task": "multilabel", "classes": classes}
    write_json(run.folder / "threshold_recommendation.json", tuned)
    lines = cautions(run.folder)
    assert lines == [
        "absent from val, so nobody tuned them: rare", "the answer is never yes: mute",
    ]  # fmt: skip


@pytest.mark.parametrize(("low", "said"), [(-0.1, 1), (0.01, 0)])
def test_a_teacher_that_is_not_clearly_better_than_its_student_is_named(run, low, said):
    found = {"other": "the student", "images": 90, "teacher_f1": 0.84, "other_f1": 0.93}
    write_json(
        run.folder / "teacher_comparison.json", found | {"difference": -0.09, "interval": [low, 1]}
    )
    lines = cautions(run.folder)
    assert len(lines) == said
    assert all("F1 macro 0.840 against 0.930" in line and "cannot teach" in line for line in lines)


def test_a_sound_run_gives_nothing_to_mind(run):
    y_true = np.eye(2)[np.arange(20) % 2]
    judged(run.folder, y_true, y_true, ["a", "b"])
    (run.folder / "audit.csv").write_text(HEADER + "x.jpg,train,blurred,warning,soft\n")
    assert cautions(run.folder) == []


def test_openings_of_the_test_split_are_counted_and_kept(run, monkeypatch):
    (run.folder / "splits").mkdir()
    table = run.folder / "splits/test_labels.csv"
    table.write_text("filepath,labels\na.jpg,x\n")
    monkeypatch.setattr(Run, "dataset", lambda self: SimpleNamespace(split=str))
    assert [run.open_test() for _ in range(2)] == ["test", "test"]
    write_run_metadata(run)
    assert read_json(run.path("run_metadata.json"))["test_split"]["opened"] == 2
    assert "opened 2 times" in cautions(run.folder)[0]
    table.write_text("filepath,labels\nb.jpg,x\n")
    run.open_test()
    assert read_json(run.path("run_metadata.json"))["test_split"]["opened"] == 1


def test_figures_of_an_older_version_are_not_shown_but_named(run):
    old = {"overall": {"f1_macro": {"value": 1.0, "interval": None}}, "classes": []}
    write_json(run.folder / "metrics.json", {"test": old})
    assert "Run 09_eval_report again" in render_index(run.folder)
    assert "Run 09_eval_report again" in "\n".join(closing_lines(run))


def test_another_file_than_that_of_qat_is_named_with_its_reason(run):
    write_json(run.folder / LADDER.file, LADDER.to_json())
    assert cautions(run.folder) == ["the phone file is PTQ, class-covering calibration: it holds"]


def test_a_qat_that_is_within_its_budget_gives_no_doubt(run):
    rung = LADDER.rungs[0].model_copy(update={"rung": "qat"})
    for budget, lines in (("within", 0), ("not shown", 1)):
        shipped = {"chosen": "qat", "budget": budget, "rungs": (rung,)}
        write_json(run.folder / LADDER.file, LADDER.model_copy(update=shipped).to_json())
        assert len(cautions(run.folder)) == lines


def test_a_single_label_has_no_thresholds_to_read(tmp_path):
    tuned = {"task": "single_label", "classes": ["ant", "bee"]}
    write_json(tmp_path / "threshold_recommendation.json", tuned)
    assert cautions(tmp_path) == []
