"""Notebook 09's tables, figures and metrics.json, from answers that are drawn here."""

import json

import numpy as np
import pandas as pd
import pytest

from tests.decision_doubles import SCALE, ZERO_POINT, draw, names
from tests.deploy_doubles import LADDER
from workbench.data.tables import Split
from workbench.decide.calibration import Scores
from workbench.decide.float_thresholds import float_thresholds
from workbench.decide.levels import Quantization
from workbench.decide.metrics import Predictions, evaluate
from workbench.settings import Settings
from workbench.show import final
from workbench.show.figures import alt_text

CLASSES = names(4)


@pytest.fixture(scope="module")
def split(tmp_path_factory):
    y_true, _ = draw(images=80, classes=4)
    files = tuple(f"{number}.jpg" for number in range(80))
    images = tmp_path_factory.mktemp("images")
    return Split("test", files, images, CLASSES, y_true.astype(np.float32), np.ones_like(y_true))


@pytest.fixture(scope="module")
def y_score():
    return Quantization(SCALE, ZERO_POINT).probabilities(draw(images=80, classes=4)[1])


@pytest.fixture(scope="module")
def evaluation(split, y_score):
    return evaluate(
        split.targets, y_score, 0.5, CLASSES, task="multilabel", replicates=20, seed=0
    )  # fmt: skip


def one_of_each(evaluation, images):
    return evaluate(
        np.eye(4)[np.arange(images) % 4], np.full((images, 4), 0.25), 0.5, CLASSES,
        task="single_label",
    )  # fmt: skip


def config(*lines, task="multilabel"):
    classes = [{"label": name, "slope": a, "intercept": b} for name, a, b in lines]
    shipped = {"classes": classes} if lines else None
    output = {"scale": 0.25, "zero_point": 0, "is_logits": True}
    return {"labels": list(CLASSES), "task": task, "calibration": shipped, "output": output}


def test_every_figure_stands_with_the_ends_of_its_interval(evaluation):
    row = final.overall(evaluation).set_index("figure").loc["f1_macro"]
    assert row["from"] <= row["value"] <= row["to"]


def test_a_figure_without_interval_leaves_its_ends_empty(split, y_score):
    found = evaluate(split.targets, y_score, 0.5, CLASSES, task="multilabel")
    assert final.overall(found)["from"].isna().all()


def test_the_class_table_says_found_and_missed_in_plain_words(evaluation):
    table = final.per_class(evaluation)
    assert list(table)[3:6] == ["found", "wrongly said", "missed"]
    assert (table["found"] + table["missed"] == table["positives"]).all()


def test_several_labels_are_shown_as_bars_and_pairs_and_one_label_as_a_matrix(evaluation):
    assert list(final.confusions(evaluation)) == ["confusion_matrix", "confused_pairs"]
    assert list(final.confusions(one_of_each(evaluation, 8))) == ["confusion_matrix"]


def test_only_thresholds_of_classes_are_points_on_a_curve(split, y_score):
    def dots(thresholds):
        figure = final.curves(split, y_score, thresholds)["precision_recall"]
        return sum(line.get_marker() == "o" for line in figure.axes[0].get_lines())

    assert dots(np.full(4, 0.5)) == 3  # the fourth class never occurs
    assert dots(0.5) == 0


def test_answers_that_do_not_ship_are_left_out_of_the_diagram(split, y_score):
    words = alt_text(final.reliability(split, {"phone file": y_score, "corrected": None}))
    assert "phone file" in words and "corrected" not in words


def test_probabilities_are_corrected_by_the_lines_that_ship():
    raw = np.arange(-8, 8, dtype=np.int8).reshape(4, 4)
    found = final.corrected(raw, config((CLASSES[1], 2.0, 1.0)))
    assert found[:, 1] == pytest.approx(1 / (1 + np.exp(-(0.5 * raw[:, 1] + 1))))
    assert found[:, [0, 2, 3]] == pytest.approx(1 / (1 + np.exp(-0.25 * raw[:, [0, 2, 3]])))


def test_nothing_is_corrected_where_no_line_ships():
    assert final.corrected(np.zeros((1, 4), np.int8), config()) is None


def test_the_history_joins_the_trainings_that_ran_in_their_order(tmp_path):
    (tmp_path / "logs").mkdir()
    for name in ("student_warmup", "teacher_warmup"):
        pd.DataFrame({"phase": [name], "loss": [1.0]}).to_csv(
            tmp_path / f"logs/{name}.csv", index=False
        )
    assert list(final.training_history(tmp_path)["phase"]) == ["teacher_warmup", "student_warmup"]


def test_sizes_leave_out_networks_that_are_not_there(tmp_path):
    model = tmp_path / "model_qat_int8.tflite"
    model.write_bytes(b"x" * 2_000_000)
    (tmp_path / "student_finetuned.h5").write_bytes(b"x")
    latency = [{"threads": 1, "repeats": 5, "p50_ms": 1.0, "p95_ms": 2.0}]
    table = final.sizes(model, latency)
    assert list(table["file"]) == ["student_finetuned.h5", "model_qat_int8.tflite"]
    assert table["megabytes"].iloc[1] == 2.0


def predictions(split, y_score):
    """The file says what it did; of the twin one answer is lost, of the student none is right."""
    known = (split.filepaths, CLASSES, split.targets)
    worse = y_score.copy()
    row, column = np.argwhere((split.targets > 0) & (y_score >= 0.5))[0]
    worse[row, column] = 0.0
    scores = {"phone file": y_score, "float twin": worse, "float student": 1 - y_score}
    return {
        name: Predictions(name, *known, score, 0.5, "multilabel", split.mask)
        for name, score in scores.items()
    }


def test_arithmetic_and_the_training_before_it_cost_apart(split, y_score):
    found = final.costs(predictions(split, y_score), replicates=20, seed=0)
    table = final.cost_table(found).set_index(["cost of", "figure"])["difference"]
    assert 0 < table["8-bit arithmetic", "f1_macro"] < 0.05
    assert table["training and arithmetic", "f1_macro"] > 0.2


def test_a_float_network_gets_thresholds_of_its_own(split):
    """Scores that are shifted by 2 logits need a threshold that is shifted by as much."""
    y_true, raw = draw(images=600, classes=4)
    mask = np.ones_like(y_true)
    scores = Scores(raw, SCALE, ZERO_POINT, y_true, mask, "multilabel")
    search = {"bootstrap_replicates": 20, "per_class_enabled": False}
    settings = Settings.model_validate({"threshold_search": search})
    logits = {"as it is": scores.logits, "shifted": scores.logits - 1.0}
    found = float_thresholds(logits, scores, CLASSES, settings)
    plain, shifted = (np.log(np.array(one) / (1 - np.array(one))) for one in found.values())
    assert plain - shifted == pytest.approx(1.0, abs=2 * SCALE)


def test_metrics_json_has_its_keys_to_the_letter(split, y_score, evaluation, tmp_path):
    model = tmp_path / "model.tflite"
    model.write_bytes(b"1234")
    costs = final.costs(predictions(split, y_score), replicates=20, seed=0)
    record = final.metrics_record(
        evaluation, evaluation, costs, LADDER.to_json(), model, [{"threads": 1}],
        {"file": "test_scores.npz", "sha256": "0"},
    )  # fmt: skip
    json.dumps(record, allow_nan=False)
    assert list(record) == [
        "schema", "test", "float_test", "float_against_int8", "float_twin_against_int8",
        "compared_at", "quantization", "validation_float", "model_bytes", "host_latency",
        "test_scores",
    ]  # fmt: skip
    assert list(record["quantization"]) == [
        "chosen", "title", "forced", "budget", "allowed_drop", "ptq_against_qat", "rungs",
    ]  # fmt: skip
    assert (record["schema"], record["model_bytes"]) == (1, 4)


def test_no_mistake_needs_no_heat_map():
    assert final.heatmaps(pd.DataFrame(), {}, None, (127, 128)) == {}
