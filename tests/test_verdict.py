"""The verdict says of drawn answers what a careful person would say of them."""

from types import SimpleNamespace

import numpy as np
import pytest

from tests.deploy_doubles import LADDER
from workbench.batch import closing_lines
from workbench.decide.intervals import wilson
from workbench.decide.metrics import evaluate
from workbench.decide.outcomes import Answers
from workbench.decide.trivial import trivial_answers
from workbench.evidence import with_verdict
from workbench.files import read_json, write_json
from workbench.machine import write_run_metadata
from workbench.run import Run
from workbench.settings import Settings
from workbench.show.index import render_index

HEADER = "image,split,kind,severity,detail\n"
CLASSES = tuple("abcdefg")
LATENCY = [{"threads": 1, "repeats": 30, "p50_ms": 3.0, "p95_ms": 4.0}]


def drawn(images=200, share=0.2, classes=7, seed=1):
    return (np.random.default_rng(seed).random((images, classes)) < share).astype(float)


def mostly_right(y_true, wrong=0.03, seed=2):
    """Scores on the right side of one half, but for a few."""
    rng = np.random.default_rng(seed)
    return np.where((y_true > 0.5) ^ (rng.random(y_true.shape) < wrong), 0.9, 0.1)


def judged(folder, y_true, y_score, bars=0.5, settings=None, megabytes=4.9, latency=LATENCY):
    settings = settings or Settings()
    known = {"task": settings.task, "mask": None}
    found = evaluate(y_true, y_score, bars, CLASSES[: y_true.shape[1]], **known, replicates=60)
    answers = Answers.of(y_true, y_score, bars, None, settings.task)
    trivial = trivial_answers(answers, replicates=200, seed=0)
    record = {"test": found.to_json(), "model_bytes": int(megabytes * 1e6), "host_latency": latency}
    return with_verdict(record, trivial, folder, settings)


def verdict_of(*given, **known):
    return judged(*given, **known)["verdict"]


def reasons(found, grade):
    return {one["rule"]: one["words"] for one in found["reasons"] if one["grade"] == grade}


def audited(folder, leaks, split="test", kind="leak"):
    rows = [
        f"{n}.jpg,{split},{kind},error,the same file as train: x{n}.jpg\n" for n in range(leaks)
    ]
    (folder / "audit.csv").write_text(HEADER + "".join(rows))


def test_a_sound_result_is_ready_and_says_above_what(tmp_path):
    y_true = drawn()
    found = verdict_of(tmp_path, y_true, mostly_right(y_true))
    assert found["grade"] == "ready" and not reasons(found, "with care")
    said = reasons(found, "ready")
    assert "where “always yes” scores 0.3" in said["trivial answers"]
    assert said["test photos"].startswith("200 test photos put F1 macro between 0.9")
    assert "no leak" in said["audit"] and "4.9 MB" in said["size"] and "3.0 ms" in said["latency"]


def test_always_yes_is_not_ready_whatever_its_f1(tmp_path):
    y_true = drawn(share=0.6)
    found = verdict_of(tmp_path, y_true, np.ones(y_true.shape))
    said = reasons(found, "not ready")
    assert found["grade"] == "not ready"
    assert (
        "+0.000" in said["trivial answers"] and "learned next to nothing" in said["trivial answers"]
    )
    assert "always yes, whatever the photo: a, b, c" in said["constant answers"]


def test_always_no_is_not_ready(tmp_path):
    found = verdict_of(tmp_path, drawn(), np.zeros((200, 7)))
    assert "never yes" in reasons(found, "not ready")["constant answers"]


@pytest.mark.parametrize("share", [0.2, 0.6])
def test_random_labels_are_not_ready(tmp_path, share):
    y_true = drawn(share=share)
    y_score = np.random.default_rng(9).random(y_true.shape)
    found = verdict_of(tmp_path, y_true, y_score, bars=0.2)
    assert "trivial answers" in reasons(found, "not ready")


def test_one_epoch_that_says_yes_to_nearly_everything_is_not_ready(tmp_path):
    y_true = drawn(share=0.17, images=300)
    y_score = np.where(mostly_right(y_true, wrong=0.45) > 0.5, 0.9, 0.6)
    y_score[np.random.default_rng(3).random(y_true.shape) < 0.03] = 0.1
    found = verdict_of(tmp_path, y_true, y_score)
    said = reasons(found, "not ready")
    assert "trivial answers" in said and "two mistakes for every right yes" in said["level"]


@pytest.mark.parametrize(("images", "grade"), [(1, "not ready"), (20, "not ready"), (60, "ready")])
def test_few_test_photos_say_little(tmp_path, images, grade):
    y_true = np.tile(np.eye(2), (images, 1))[:images]
    found = verdict_of(tmp_path, y_true, y_true)
    assert found["grade"] == grade
    if grade == "not ready":
        said = reasons(found, grade)["test photos"]
        assert f"{images} test photos, fewer than 30" in said and "Label more" in said


@pytest.mark.parametrize(("leaks", "split", "grade"), [
    (10, "test", "not ready"), (1, "test", "with care"), (10, "val", "with care"),
])  # fmt: skip
def test_leaks_into_test_are_counted_against_its_photos(tmp_path, leaks, split, grade):
    audited(tmp_path, leaks, split)
    y_true = drawn()
    found = verdict_of(tmp_path, y_true, mostly_right(y_true))
    assert found["grade"] == grade
    assert f"{split} 0.jpg: the same file as train: x0.jpg" in reasons(found, grade)["audit"]


def test_a_class_that_was_never_learned_is_not_ready(tmp_path):
    audited(tmp_path, 1, "train", "class_missing")
    y_true = drawn()
    assert verdict_of(tmp_path, y_true, mostly_right(y_true))["grade"] == "not ready"


def test_an_absent_class_and_a_rare_one_are_named(tmp_path):
    y_true = drawn()
    y_true[:, 1] = 0
    y_true[:, 2] = np.arange(200) < 4
    write_json(tmp_path / "threshold_recommendation.json", {
        "task": "multilabel", "classes": [{"name": "<g>", "positives": 0, "integer": 3}],
    })  # fmt: skip
    y_score = np.where(y_true > 0.5, 0.9, 0.1)
    found = verdict_of(tmp_path, y_true, y_score)
    said = [one["words"] for one in found["reasons"] if one["rule"] == "classes without photos"]
    assert found["grade"] == "with care"
    assert [words.split(". ")[0] for words in said] == [
        "absent from test, so nobody judged them: b", "absent from val, so nobody tuned them: <g>",
        "judged on fewer than 10 test photos: c",
    ]  # fmt: skip


def test_the_weakest_class_is_named_with_its_interval(tmp_path):
    y_true = drawn()
    y_score = mostly_right(y_true, wrong=0.0)
    y_score[:, 3] = mostly_right(y_true, wrong=0.4)[:, 3]
    words = reasons(verdict_of(tmp_path, y_true, y_score), "with care")["weakest class"]
    assert (
        words.startswith("the weakest class is d: F1 0.") and "; below 0.5: d. Add photos" in words
    )


def test_a_file_too_large_or_slow_or_beyond_its_budget_is_with_care(tmp_path):
    beyond = LADDER.model_copy(update={"budget": "beyond"})
    write_json(tmp_path / LADDER.file, beyond.to_json())
    y_true = drawn()
    slow = [LATENCY[0] | {"p50_ms": 250.0}]
    found = verdict_of(tmp_path, y_true, mostly_right(y_true), megabytes=80, latency=slow)
    said = reasons(found, "with care")
    assert {"size", "latency", "8 bits"} == set(said) and "80.0 MB, 25 are allowed" in said["size"]


@pytest.mark.parametrize(("low", "grade"), [(0.06, "with care"), (0.01, "ready")])
def test_a_student_far_behind_its_teacher_is_with_care(tmp_path, low, grade):
    write_json(tmp_path / "teacher_comparison.json", {
        "other": "the student", "images": 90, "teacher_f1": 0.94, "other_f1": 0.84,
        "difference": 0.1, "interval": [low, 0.14],
    })  # fmt: skip
    y_true = drawn()
    found = verdict_of(tmp_path, y_true, mostly_right(y_true))
    assert "F1 macro on validation 0.840" in reasons(found, grade)["teacher"]


def single(right, images=200, seed=4):
    """One label a photo, of which this share is answered rightly."""
    rng = np.random.default_rng(seed)
    best = rng.integers(0, 4, images)
    said = np.where(rng.random(images) < right, best, rng.integers(0, 4, images))
    return np.eye(4)[best], 0.9 * np.eye(4)[said] + 0.025


@pytest.mark.parametrize(("right", "bar", "grade", "rule"), [
    (0.98, 0.5, "ready", "coverage"), (0.0, 0.5, "not ready", "trivial answers"),
    (0.98, 0.99, "not ready", "coverage"),
])  # fmt: skip
def test_a_single_label_is_held_against_its_most_frequent_class(tmp_path, right, bar, grade, rule):
    settings = Settings(task="single_label")
    found = verdict_of(tmp_path, *single(right), bars=bar, settings=settings)
    assert found["grade"] == grade and rule in reasons(found, grade)


def test_every_sentence_that_speaks_against_it_has_a_remedy(tmp_path):
    audited(tmp_path, 5)
    found = verdict_of(tmp_path, drawn(images=6), np.ones((6, 7)), megabytes=99)
    for one in found["reasons"]:
        if one["grade"] != "ready":
            assert len(one["words"].rstrip(".").split(". ")) > 1, one["words"]


def test_the_interval_of_the_gain_covers_the_true_gain():
    """Nominal 95 %: what always yes scores varies with the photos, paired with the answers."""
    shares, right = np.array([0.3, 0.15, 0.5]), 0.88
    tp, fp = shares * right, (1 - shares) * (1 - right)
    true = np.mean(2 * tp / (tp + fp + shares)) - np.mean(2 * shares / (1 + shares))
    held, rounds = 0, 120
    for seed in range(rounds):
        rng = np.random.default_rng(seed)
        y_true = (rng.random((150, 3)) < shares).astype(float)
        y_score = np.where((y_true > 0.5) ^ (rng.random(y_true.shape) >= right), 0.9, 0.1)
        answers = Answers.of(y_true, y_score, 0.5, None, "multilabel")
        low, high = trivial_answers(answers, replicates=150, seed=seed).interval
        held += low <= true <= high
    assert wilson(held, rounds, 0.99)[1] >= 0.95 and held / rounds > 0.88


@pytest.fixture
def worthless(run):
    """A run that says yes to everything, on photos that lie in train as well."""
    (run.folder / "audit.csv").write_text(HEADER + "<i>.jpg,test,leak,error,the same as <b>.jpg\n")
    y_true = drawn(images=40, share=0.6)
    write_json(run.folder / "metrics.json", judged(run.folder, y_true, np.ones(y_true.shape)))
    return run


def test_a_worthless_network_is_not_praised_in_the_last_lines_or_on_the_index(worthless):
    lines = closing_lines(worthless)
    last = lines[[line.startswith("Verdict: ") for line in lines].index(True) :]
    assert last[0] == "Verdict: NOT READY, nobody should rely on it yet"
    assert any("not ready, trivial answers: F1 macro 0.7" in line for line in last)
    page = render_index(worthless.folder)
    assert "<p class='verdict not-ready'><b>not ready</b>" in page
    assert page.index("verdict not-ready") < page.index("class='tile'")
    assert "test &lt;i&gt;.jpg: the same as &lt;b&gt;.jpg" in page and "<i>" not in page


def test_figures_of_an_older_version_are_not_shown_but_named(run):
    old = {"overall": {"f1_macro": {"value": 1.0, "interval": None}}, "classes": []}
    write_json(run.folder / "metrics.json", {"test": old, "verdict": {"grade": "fine"}})
    assert "Run 09_eval_report again" in render_index(run.folder)
    assert "Run 09_eval_report again" in "\n".join(closing_lines(run))


def test_a_run_without_a_verdict_says_so(run):
    assert "No verdict yet" in render_index(run.folder)
    assert "Run 09_eval_report first" in "\n".join(closing_lines(run))


def test_openings_of_the_test_split_are_counted_and_kept(run, monkeypatch):
    (run.folder / "splits").mkdir()
    table = run.folder / "splits/test_labels.csv"
    table.write_text("filepath,labels\na.jpg,x\n")
    monkeypatch.setattr(Run, "dataset", lambda self: SimpleNamespace(split=str))
    assert [run.open_test() for _ in range(4)] == ["test"] * 4
    write_run_metadata(run)
    assert read_json(run.path("run_metadata.json"))["test_split"]["opened"] == 4
    y_true = drawn()
    found = verdict_of(run.folder, y_true, mostly_right(y_true))
    assert "opened its test split 4 times" in reasons(found, "with care")["test openings"]
    table.write_text("filepath,labels\nb.jpg,x\n")
    run.open_test()
    assert read_json(run.path("run_metadata.json"))["test_split"]["opened"] == 1
