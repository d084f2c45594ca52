"""Two run folders are compared by the files they hold: on test, or on validation for a what-if."""

import json
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from tests.decision_doubles import SCALE, ZERO_POINT, names
from workbench.artifacts import TeacherComparison
from workbench.compare import compare_on_validation, compare_runs, judge_teacher
from workbench.data.tables import TABLES, Dataset, write_tables
from workbench.decide.levels import Quantization
from workbench.decide.metrics import Comparison
from workbench.decide.outcomes import probabilities
from workbench.decide.thresholds import search
from workbench.errors import InputError, MissingInputError
from workbench.files import read_json, sha256, write_json
from workbench.settings import Settings, ThresholdSearchSettings

IMAGES, CLASSES = 200, names(3)
LABELS = np.random.default_rng(0).random((IMAGES, len(CLASSES))) < 0.3


def make_run(folder, split="val"):
    """Write what 01 leaves of a dataset with one split, and the settings."""
    folder.mkdir()
    rows = [
        {
            "filepath": f"{number}.jpg",
            "split": split,
            "labels": tuple(name for name, there in zip(CLASSES, row, strict=True) if there),
            "unknown": (),
        }
        for number, row in enumerate(LABELS)
    ]
    quarantine = pd.DataFrame(columns=["filepath", "split", "labels", "reason", "source", "line"])
    write_tables(Dataset(folder, CLASSES, pd.DataFrame(rows), quarantine), folder / TABLES)
    values = Settings().model_dump()
    write_json(folder / "training_config.json", values | {"num_classes": "auto"})
    return folder


def draw_logits(lift, seed=1):
    noise = np.random.default_rng(seed).normal(0, 1, LABELS.shape)
    return np.clip(noise - 1 + lift * LABELS, -6, 6).astype(np.float32)


def score(folder, name, lift):
    np.savez(folder / f"{name}_scores.npz", logits=draw_logits(lift))


def make_candidate(folder, lift, *, tune=False):
    """Write an 8-bit candidate's scores and, as 06 does, the thresholds searched on them."""
    raw = np.clip(np.rint(draw_logits(lift) / SCALE) + ZERO_POINT, -128, 127).astype(np.int8)
    path = folder / "candidate_scores.npz"
    np.savez(path, raw=raw, scale=SCALE, zero_point=ZERO_POINT)
    if tune:
        knobs = ThresholdSearchSettings(bootstrap_replicates=20)
        found = search(
            LABELS, raw, SCALE, ZERO_POINT, knobs, CLASSES, 0, source_sha256=sha256(path)
        )
        write_json(folder / "threshold_recommendation.json", found.model_dump(mode="json"))
        return found


def f1_macro(comparison: Comparison):
    return comparison.overall.set_index("figure").loc["f1_macro"]


@pytest.fixture
def runs(tmp_path):
    return make_run(tmp_path / "demo"), make_run(tmp_path / "more_qat")


def test_a_what_if_with_better_candidates_is_better_on_validation(runs):
    make_candidate(runs[0], 1)
    make_candidate(runs[1], 3)
    found = compare_on_validation(*runs)
    assert (found.first, found.second, found.images) == ("demo", "more_qat", IMAGES)
    assert f1_macro(found).verdict == "better"
    assert f1_macro(found).low > 0


def test_a_run_does_not_differ_from_itself(runs):
    make_candidate(runs[0], 2, tune=True)
    row = f1_macro(compare_on_validation(runs[0], runs[0]))
    assert (row.difference, row.low, row.high, row.verdict) == (0, 0, 0, "open")


def test_tuned_candidates_answer_at_their_own_thresholds(runs):
    for folder in runs:
        tuned = make_candidate(folder, 2, tune=True)
    right = LABELS
    said = tuned.probability <= Quantization(SCALE, ZERO_POINT).probabilities(
        np.load(runs[0] / "candidate_scores.npz")["raw"]
    )
    counts = [(said & right).sum(0), (said & ~right).sum(0), (~said & right).sum(0)]
    expected = np.mean(2 * counts[0] / (2 * counts[0] + counts[1] + counts[2]))
    assert f1_macro(compare_on_validation(*runs))["first"] == pytest.approx(expected)


@pytest.mark.parametrize("outdated", [False, True], ids=["not tuned", "tuned for other scores"])
def test_candidates_are_compared_at_one_half_where_one_lacks_its_thresholds(runs, outdated):
    make_candidate(runs[0], 2, tune=True)
    make_candidate(runs[1], 1, tune=outdated)
    make_candidate(runs[1], 2)
    assert f1_macro(compare_on_validation(*runs)).difference == 0


def test_students_are_compared_where_a_fork_has_no_candidate_yet(runs):
    make_candidate(runs[0], 3)
    for folder, lift in zip(runs, (3, 1), strict=True):
        score(folder, "student", lift)
        score(folder, "teacher", 2)
    said = probabilities(draw_logits(1), "multilabel") >= 0.5
    tp, fp, fn = (said & LABELS).sum(0), (said & ~LABELS).sum(0), (~said & LABELS).sum(0)
    row = f1_macro(compare_on_validation(*runs))
    assert row["second"] == pytest.approx(np.mean(2 * tp / (2 * tp + fp + fn)))
    assert row.verdict == "worse"


def test_teachers_are_compared_where_a_fork_has_only_a_teacher(runs):
    score(runs[0], "student", 3)
    score(runs[0], "teacher", 1)
    score(runs[1], "teacher", 3)
    assert f1_macro(compare_on_validation(*runs)).verdict == "better"


def test_the_classes_of_a_comparison_have_their_names(runs):
    for folder in runs:
        score(folder, "teacher", 2)
    assert set(compare_on_validation(*runs).per_class["class"]) == set(CLASSES)


def test_a_fork_without_scores_names_the_notebook_to_run(runs):
    score(runs[0], "teacher", 1)
    with pytest.raises(MissingInputError, match=r"Run 03_train_teacher in .*more_qat first"):
        compare_on_validation(*runs)


def test_scores_of_another_dataset_are_refused(runs):
    for folder in runs:
        np.savez(folder / "teacher_scores.npz", logits=draw_logits(1)[:50])
    with pytest.raises(InputError, match="50 answers to 200 val images"):
        compare_on_validation(*runs)


def test_damaged_scores_name_the_notebook_that_writes_them(runs):
    for folder in runs:
        (folder / "student_scores.npz").write_bytes(b"PK\3\4 torn")
    with pytest.raises(InputError, match=r"is damaged\. Run 04_distill_student again"):
        compare_on_validation(*runs)


def test_finished_runs_are_compared_on_test_as_their_apps_decide(tmp_path):
    runs = [make_run(tmp_path / name, split="test") for name in ("demo", "lite2", "lite0")]
    for folder, lift in zip(runs, (1, 3, 0), strict=True):
        raw = np.clip(np.rint(draw_logits(lift) / SCALE) + ZERO_POINT, -128, 127).astype(np.int8)
        np.savez(folder / "test_scores.npz", raw=raw)
        entries = [{"label": name, "probability": 0.5} for name in CLASSES]
        config = {
            "task": "multilabel",
            "labels": list(CLASSES),
            "output": {"scale": SCALE, "zero_point": ZERO_POINT, "is_logits": True,
                       "activation": "sigmoid"},
            "thresholds": {"classes": entries},
        }  # fmt: skip
        (folder / "inference_config.json").write_text(json.dumps(config))
    found = compare_runs(*runs)
    assert [(one.first, one.second) for one in found] == [("demo", "lite2"), ("demo", "lite0")]
    assert [f1_macro(one).verdict for one in found] == ["better", "worse"]


def test_a_run_without_test_scores_names_09(runs):
    (runs[0] / "inference_config.json").write_text("{}")
    with pytest.raises(MissingInputError, match="Run 09_eval_report first"):
        compare_runs(*runs)


def test_comparing_needs_no_tensorflow():
    code = "import sys, workbench.compare; sys.exit('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.parametrize(
    ("teacher", "student", "can"), [(3, 1, True), (1, 1, False), (1, 3, False)]
)
def test_a_teacher_that_is_not_clearly_better_than_its_student_cannot_teach(
    runs, teacher, student, can
):
    score(runs[0], "teacher", teacher)
    score(runs[0], "student", student)
    found = judge_teacher(runs[0])
    assert found.other == "the student"
    assert (found.can_teach, "cannot teach" in found.words) == (can, not can)
    write_json(runs[0] / found.file, found.to_json())
    assert TeacherComparison.read(runs[0]) == found


def test_nobody_learns_from_a_teacher_that_is_the_product(runs, caplog):
    values = read_json(runs[0] / "training_config.json")
    write_json(runs[0] / "training_config.json", values | {"student": None})
    score(runs[0], "teacher", 0)
    with caplog.at_level("INFO", logger="workbench"):
        judge_teacher(runs[0])
    assert "is no product yet" in caplog.text
    assert "distillation" not in caplog.text and "teach." not in caplog.text


@pytest.mark.parametrize(("lift", "can"), [(3, True), (0, False)])
def test_before_there_is_a_student_a_teacher_must_beat_answers_that_ignore_the_photo(
    runs, lift, can
):
    score(runs[0], "teacher", lift)
    found = judge_teacher(runs[0])
    assert found.other == "answers that ignore the photo"
    assert found.can_teach == can
    always_yes = 2 * LABELS.mean(0) / (1 + LABELS.mean(0))
    assert found.other_f1 == pytest.approx(always_yes.mean())
