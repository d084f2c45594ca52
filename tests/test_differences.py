"""A comparison says who is better only where the images say so, in every form it is shown in."""

import json

import numpy as np
import pytest

from tests.decision_doubles import NAUGHTY
from workbench.benchmarks import thresholds as benchmark
from workbench.decide.metrics import Predictions, compare
from workbench.show import differences as shown


def run(name, lift, seed=0, classes=3):
    rng = np.random.default_rng(0)
    y_true = rng.random((400, classes)) < 0.3
    y_true[:, -1] = False
    noise = np.random.default_rng(seed).normal(0, 0.25, y_true.shape)
    scores = np.clip(0.4 + lift * y_true + noise, 0, 1)
    files = tuple(f"{number}.jpg" for number in range(400))
    return Predictions(name, files, NAUGHTY[:classes], y_true, scores, 0.6, "multilabel")


@pytest.fixture(scope="module")
def better():
    return compare(run("demo", 0.1), run("lite2 <b>", 0.4), replicates=100, seed=0)


@pytest.fixture(scope="module")
def alike():
    return compare(run("demo", 0.3), run("other", 0.3, seed=1), replicates=100, seed=0)


def test_the_first_line_is_the_answer(better, alike):
    assert shown.text([better]).startswith("lite2 <b> is better than demo: +")
    assert shown.text([alike]).startswith("These images do not tell demo and other apart")


def test_the_text_names_every_figure_and_the_classes_that_moved(better):
    text = shown.text([better], classes=1)
    assert "F1 macro" in text and "mAP" in text
    assert "F1 of the 1 classes that differ the most" in text


def test_no_line_of_the_text_is_wider_than_a_terminal(better):
    assert max(map(len, shown.text([better]).splitlines())) <= 110


def test_the_page_holds_names_as_text(better):
    page = shown.page([better])
    assert "lite2 <b>" not in page and "<script" not in page and "<img src=x" not in page
    assert "lite2 &lt;b&gt;" in page


def test_the_table_of_a_notebook_holds_every_figure_and_names_as_text(better):
    shown_table = shown.comparison_table(better)
    assert len(shown_table.frame) == len(better.overall)
    assert "lite2 &lt;b&gt;" in shown_table._repr_html_()
    assert "F1 macro" in repr(shown_table)


def test_several_runs_stand_below_each_other_each_against_the_first(better, alike):
    page, text = shown.page([better, alike]), shown.text([better, alike])
    assert page.count("Class by class") == 2 and "<h1>demo against lite2 &lt;b&gt;, other" in page
    assert "lite2 <b> is better than demo" in text and "tell demo and other apart" in text


def test_the_page_asks_for_nothing_from_outside(better):
    page = shown.page([better])
    assert "http:" not in page and "https:" not in page and "default-src 'none'" in page


def test_a_class_without_images_is_left_out_of_the_class_table(better):
    assert NAUGHTY[2] not in set(shown.moved_classes(better)["class"])


def test_figures_go_out_as_strict_json(better):
    json.dumps(better.to_json(), allow_nan=False)


def test_the_picture_counts_the_verdicts(better):
    assert "2 better, 0 worse" in shown.class_differences(better).get_label()


def test_the_threshold_benchmark_measures_and_prints():
    figures = benchmark.run(sizes=((2000, 4), (4000, 4)), replicates=20, loop_classes=1)
    json.dumps(figures, allow_nan=False)
    assert [row["images"] for row in figures["growth"]] == [2000, 4000]
    assert "times faster" in benchmark.table(figures)


@pytest.mark.slow
def test_the_exact_search_is_500_times_faster_than_the_loop_everybody_writes():
    figures = benchmark.run(sizes=((20_000, 80),), replicates=100, loop_classes=2)
    assert figures["exact_seconds"] < 0.050
    assert figures["times_faster"] > 500
    assert figures["bootstrap_seconds"] < 1.0  # a tenth of the 1 000 replicates in 10 seconds
