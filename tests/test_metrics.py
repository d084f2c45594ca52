"""Metrics say what scikit-learn says, and null where scikit-learn would warn."""

import json
import tracemalloc

import numpy as np
import pytest
import sklearn.metrics as oracle
from scipy.special import softmax

from workbench.decide import metrics
from workbench.decide.levels import count_levels
from workbench.decide.outcomes import average_precisions, roc_aucs, worst_mistakes
from workbench.errors import InputError

EXACT = {"rel": 0, "abs": 1e-12}


def draw(seed=0, images=200, classes=6, prevalence=0.2, levels=None):
    rng = np.random.default_rng(seed)
    y_true = (rng.random((images, classes)) < prevalence).astype(np.float32)
    y_true[0], y_true[1] = 1, 0  # every class has both labels
    scores = np.clip(0.7 * rng.random((images, classes)) + 0.3 * y_true, 0, 1)
    scores = scores if levels is None else np.round(scores * levels) / levels
    return y_true, scores, names(classes)


def names(classes):
    return [f"class {index}" for index in range(classes)]


def evaluate(y_true, scores, thresholds=0.6, **options):
    options = {"task": "multilabel"} | options
    return metrics.evaluate(y_true, scores, thresholds, names(y_true.shape[1]), **options)


@pytest.mark.parametrize("levels", [None, 16])
@pytest.mark.parametrize("seed", range(10))
def test_overall_figures_equal_scikit_learn(seed, levels):
    y_true, scores, _ = draw(seed, levels=levels)
    found, answers = evaluate(y_true, scores), scores >= 0.6
    expected = {
        f"{name}_{average}": getattr(oracle, f"{name}_score")(
            y_true, answers, average=average, zero_division=0
        )
        for name in ("f1", "precision", "recall")
        for average in ("macro", "micro")
    } | {
        "f1_samples": oracle.f1_score(y_true, answers, average="samples", zero_division=1),
        "map": oracle.average_precision_score(y_true, scores, average="macro"),
        "roc_auc_macro": oracle.roc_auc_score(y_true, scores, average="macro"),
        "hamming_loss": oracle.hamming_loss(y_true, answers),
        "exact_match": oracle.accuracy_score(y_true, answers),
    }
    for name, value in expected.items():
        assert found.value(name) == pytest.approx(value, **EXACT), name


@pytest.mark.parametrize("seed", range(5))
def test_class_figures_and_counts_equal_scikit_learn(seed):
    y_true, scores, _ = draw(seed, levels=16)
    found, answers = evaluate(y_true, scores), scores >= 0.6
    precision, recall, f1, _ = oracle.precision_recall_fscore_support(
        y_true, answers, zero_division=np.nan
    )
    np.testing.assert_allclose(found.table.precision, precision, rtol=0, atol=1e-12)
    np.testing.assert_allclose(found.table.recall, recall, rtol=0, atol=1e-12)
    np.testing.assert_allclose(found.table.f1, f1, rtol=0, atol=1e-12)
    expected = oracle.multilabel_confusion_matrix(y_true, answers)
    np.testing.assert_array_equal(found.confusion, expected)


@pytest.mark.parametrize("seed", range(5))
def test_single_label_figures_equal_scikit_learn(seed):
    rng = np.random.default_rng(seed)
    label = np.append(np.arange(8), rng.integers(0, 8, 300))
    scores = softmax(rng.normal(0, 1, (308, 8)) + 1.5 * np.eye(8)[label], axis=1)
    found = evaluate(np.eye(8)[label], scores, 0.0, task="single_label")
    assert found.value("accuracy") == pytest.approx(
        oracle.accuracy_score(label, scores.argmax(1)), **EXACT
    )
    assert found.value("top5") == pytest.approx(
        oracle.top_k_accuracy_score(label, scores, k=5), **EXACT
    )
    assert found.value("f1_macro") == pytest.approx(
        oracle.f1_score(label, scores.argmax(1), average="macro"), **EXACT
    )
    expected = oracle.confusion_matrix(label, scores.argmax(1))
    np.testing.assert_array_equal(found.confusion[:, :-1], expected)


def test_an_unsure_answer_is_unknown_and_counts_in_the_last_column():
    y_true = np.eye(3)[[0, 1, 2]]
    scores = np.array([[0.9, 0.05, 0.05], [0.1, 0.8, 0.1], [0.3, 0.3, 0.4]])
    found = evaluate(y_true, scores, 0.5, task="single_label")
    assert found.confusion[2, 3] == 1
    assert found.value("coverage") == pytest.approx(2 / 3)
    assert found.value("accepted_accuracy") == 1


def test_an_image_whose_one_class_is_unknown_is_not_judged():
    y_true = np.array([[1, 0], [0, 0]], float)
    mask = np.array([[1, 1], [0, 1]], float)
    scores = np.array([[0.9, 0.1], [0.2, 0.8]])
    found = evaluate(y_true, scores, 0.5, task="single_label", mask=mask)
    assert found.value("accepted_accuracy") == 1


def test_masked_labels_are_left_out():
    y_true, scores, _ = draw(3)
    mask = (np.random.default_rng(1).random(y_true.shape) < 0.7).astype(np.float32)
    found = evaluate(y_true, scores, mask=mask)
    for index in range(y_true.shape[1]):
        known = mask[:, index] > 0
        label, score = y_true[known, index], scores[known, index]
        row = found.table.iloc[index]
        assert row.f1 == pytest.approx(oracle.f1_score(label, score >= 0.6), **EXACT)
        assert row.average_precision == pytest.approx(
            oracle.average_precision_score(label, score), **EXACT
        )
    assert found.unknown_labels == (mask == 0).sum()


def test_what_is_under_the_mask_changes_nothing():
    y_true, scores, _ = draw(4)
    mask = (np.random.default_rng(2).random(y_true.shape) < 0.7).astype(np.float32)
    first = evaluate(y_true, scores, mask=mask, replicates=20, seed=1)
    y_true = np.where(mask > 0, y_true, 1 - y_true)
    scores = np.where(mask > 0, scores, 1 - scores)
    second = evaluate(y_true, scores, mask=mask, replicates=20, seed=1)
    assert json.dumps(first.to_json()["classes"]) == json.dumps(second.to_json()["classes"])


def test_a_class_without_positives_is_null_and_leaves_the_means_alone():
    y_true, scores, _ = draw(0)
    without = y_true.copy()
    without[:, 2] = 0
    found = evaluate(without, scores)
    row = found.to_json()["classes"][2]
    assert row["recall"] is row["f1"] is row["average_precision"] is None
    others = [0, 1, 3, 4, 5]
    expected = oracle.f1_score(y_true[:, others], scores[:, others] >= 0.6, average="macro")
    assert found.value("f1_macro") == pytest.approx(expected, **EXACT)


DEGENERATE = {
    "no positives": (np.zeros((5, 3)), np.full((5, 3), 0.5)),
    "only positives": (np.ones((5, 3)), np.full((5, 3), 0.5)),
    "all scores 0": (np.eye(5, 3), np.zeros((5, 3))),
    "all scores 1": (np.eye(5, 3), np.ones((5, 3))),
    "one image": (np.array([[1.0, 0.0]]), np.array([[0.3, 0.7]])),
    "one class": (np.array([[1.0], [0.0]]), np.array([[0.3], [0.7]])),
}


@pytest.mark.parametrize("task", ["multilabel", "single_label"])
@pytest.mark.parametrize("case", DEGENERATE)
def test_degenerate_inputs_give_numbers_or_null_but_never_nan(case, task):
    y_true, scores = DEGENERATE[case]
    found = evaluate(y_true, scores, 0.5, replicates=10, task=task)
    json.dumps(found.to_json(), allow_nan=False)


def test_everything_masked_is_null_everywhere():
    y_true, scores, _ = draw(images=5)
    found = evaluate(y_true, scores, mask=np.zeros_like(y_true), replicates=10)
    assert found.value("f1_macro") is None
    assert found.value("exact_match") is None
    json.dumps(found.to_json(), allow_nan=False)


def test_top5_says_nothing_about_five_classes():
    y_true, scores, _ = draw(classes=5)
    assert evaluate(y_true, scores).value("top5") is None


def test_an_image_without_classes_that_gets_no_answer_is_right():
    found = evaluate(np.zeros((1, 2)), np.zeros((1, 2)), 0.5)
    assert found.value("f1_samples") == found.value("exact_match") == 1
    assert found.value("no_label_rate") == found.value("true_no_label_rate") == 1


def test_intervals_hold_the_value_and_repeat_with_the_seed():
    y_true, scores, _ = draw(1)
    first, second = (evaluate(y_true, scores, replicates=200, seed=7) for _ in range(2))
    for name, figure in first.overall.items():
        if figure.value is not None:
            assert figure.interval[0] <= figure.value <= figure.interval[1], name
    assert first.overall == second.overall


def test_confused_pairs_count_a_missed_class_with_a_wrong_one():
    y_true, scores = np.array([[1, 0], [1, 0], [1, 0]]), np.array([[0, 1], [0, 1], [1, 0]], float)
    found = evaluate(y_true, scores, 0.5)
    assert found.confused_pairs.tolist() == [[0, 2], [0, 0]]
    assert found.to_json()["confused_pairs"] == [
        {"missed": "class 0", "said": "class 1", "images": 2}
    ]


@pytest.mark.parametrize("seed", range(3))
def test_areas_from_counts_per_level_equal_scikit_learn(seed):
    rng = np.random.default_rng(seed)
    y_true = rng.random((400, 4)) < 0.3
    raw = np.clip(rng.normal(0, 30, (400, 4)) + 40 * y_true, -128, 127).astype(np.int8)
    counts = count_levels(y_true, raw)
    expected = oracle.average_precision_score(y_true, raw, average=None)
    np.testing.assert_allclose(average_precisions(counts), expected, rtol=0, atol=1e-12)
    expected = oracle.roc_auc_score(y_true, raw, average=None)
    np.testing.assert_allclose(roc_aucs(counts), expected, rtol=0, atol=1e-12)


def test_training_monitors_equal_scikit_learn():
    y_true, scores, _ = draw(5)
    assert metrics.f1_macro(y_true, scores >= 0.5) == pytest.approx(
        oracle.f1_score(y_true, scores >= 0.5, average="macro"), **EXACT
    )
    assert metrics.mean_average_precision(y_true, scores) == pytest.approx(
        oracle.average_precision_score(y_true, scores), **EXACT
    )


def test_monitors_without_any_positive_are_none():
    assert metrics.f1_macro(np.zeros((3, 2)), np.zeros((3, 2))) is None
    assert metrics.mean_average_precision(np.zeros((3, 2)), np.zeros((3, 2))) is None


@pytest.mark.parametrize(
    ("scores", "words"),
    [
        (np.array([[np.nan, 0.5]]), "probabilities"),
        (np.array([[3.0, 0.5]]), "sigmoid or softmax"),
        (np.array([[0.5]]), r"\(1, 2\)"),
        (np.zeros((0, 2)), r"\(0, 2\)"),
    ],
)
def test_scores_that_are_no_probabilities_are_refused(scores, words):
    with pytest.raises(InputError, match=words):
        evaluate(np.zeros((len(scores), 2)), scores)


def test_counting_many_images_needs_memory_for_a_few():
    y_true, raw = np.zeros((400_000, 10), bool), np.zeros((400_000, 10), np.int8)
    tracemalloc.start()
    counts = count_levels(y_true, raw)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (counts.negatives[:, 128] == 400_000).all()
    assert peak < 10e6  # all cells at once would take 32 MB


def test_the_worst_mistakes_come_first_and_from_both_sides():
    y_true = np.array([[1, 0], [1, 0], [0, 0]])
    scores = np.array([[0.1, 0.9], [0.4, 0.1], [0.6, 0.2]])
    rows = worst_mistakes(
        y_true, scores, 0.5, ["a", "b"], ["x", "y", "z"], limit=1, task="multilabel"
    )
    assert rows.filepath.tolist() == ["x", "x"]
    assert rows["class"].tolist() == ["b", "a"]
    assert rows.kind.tolist() == ["false positive", "false negative"]


def test_one_class_cannot_fill_the_gallery_alone():
    scores = np.full((9, 2), [0.95, 0.9])
    rows = worst_mistakes(
        np.zeros((9, 2)), scores, 0.5, ["a", "b"], list("123456789"),
        limit=4, per_class=2, task="multilabel",
    )  # fmt: skip
    assert rows["class"].value_counts().to_dict() == {"a": 2, "b": 2}
