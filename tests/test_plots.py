"""Figures draw what they are given, at 2 and at 80 classes, whatever the classes are called."""

import io

import numpy as np
import pandas as pd
import pytest
from matplotlib import _pylab_helpers
from matplotlib.figure import Figure
from PIL import Image

from tests.conftest import promised
from tests.decision_doubles import SCALE, ZERO_POINT, draw, names, tuned, tuned_unknown
from workbench.decide.calibration import reliability
from workbench.decide.levels import Quantization
from workbench.decide.metrics import evaluate
from workbench.show import plots
from workbench.show.figures import (
    alt_text,
    class_colour,
    contrast_on_white,
    described,
    display_image,
    html_image,
    keep,
    plain,
    png,
)
from workbench.status import state_of
from workbench.steps import find_step


def answers(classes):
    y_true, raw = draw(classes=classes)
    return y_true, Quantization(SCALE, ZERO_POINT).probabilities(raw), names(classes)


def history():
    epochs = np.arange(6)
    columns = {"loss": 1 / (1 + epochs), "val_loss": 1.1 / (1 + epochs), "val_f1_macro": epochs / 6}
    return pd.DataFrame({"phase": ["warmup"] * 2 + ["finetune"] * 4, "epoch": epochs, **columns})


def every_figure(classes):
    y_true, scores, known = answers(classes)
    _, thresholds = tuned(classes=classes)
    table = evaluate(y_true, scores, 0.5, known, task="multilabel", replicates=10).table
    one_hot = np.eye(classes)[np.arange(len(y_true)) % classes]
    single = evaluate(one_hot, scores, 0.5, known, task="single_label")
    return {
        "precision_recall": plots.precision_recall(y_true, scores, known, thresholds=0.5),
        "roc": plots.roc(y_true, scores, known),
        "threshold_curve": plots.threshold_curve(thresholds.curve, interval=(0.4, 0.6)),
        "unknown_curve": plots.unknown_curve(tuned_unknown().curve),
        "class_thresholds": plots.class_thresholds(thresholds),
        "class_bars": plots.class_bars({"float": table, "INT8": table}),
        "confusion_bars": plots.confusion_bars(table),
        "confusion_matrix": plots.confusion_matrix(single.confusion, known),
        "confused_pairs": plots.confused_pairs(single.confused_pairs, known),
        "co_occurrence": plots.co_occurrence(y_true, known),
        "reliability_diagram": plots.reliability_diagram({"INT8": reliability(y_true, scores)}),
        "confidence_histogram": plots.confidence_histogram(y_true, scores, threshold=0.5),
        "training_curves": plots.training_curves(history()),
    }


@pytest.fixture(scope="module", params=[2, pytest.param(80, marks=pytest.mark.slow)])
def figures(request):
    return every_figure(request.param)


def test_every_figure_is_drawn_with_its_words_inside(figures):
    for name, figure in figures.items():
        image = Image.open(io.BytesIO(png(figure)))
        assert image.width > 300, name
        assert image.text["Description"] == alt_text(figure), name
        assert alt_text(figure).endswith("."), name


def test_no_figure_touches_global_state(figures):
    assert figures and not _pylab_helpers.Gcf.figs


def test_a_figure_is_drawn_into_given_axes():
    ax = Figure().add_subplot()
    y_true, scores, known = answers(2)
    assert plots.roc(y_true, scores, known, ax=ax) is ax.figure


def test_titles_and_axes_take_any_name_as_text():
    ax = Figure().add_subplot()
    png(described(plain(ax, r"$\frac{$", r"$\frac{$", r"$\frac{$"), "Nothing."))


def test_a_kept_figure_belongs_to_what_its_step_leaves(run):
    run.begin("01")
    for name in promised(find_step("01")):
        run.path(name).mkdir() if "." not in name else run.path(name).write_text("x")
    shown = keep(run, "training", plots.training_curves(history()))
    run.finish()
    assert run.path("training.png").read_bytes() == shown.data
    assert "training.png" in state_of(run.folder, find_step("01"))["outputs"]


def test_the_same_figure_is_the_same_bytes():
    y_true, scores, known = answers(3)
    first, second = (png(plots.roc(y_true, scores, known)) for _ in range(2))
    assert first == second


def test_a_matrix_says_which_side_is_which_and_takes_names_as_text():
    figure = plots.confusion_matrix(np.array([[3, 1], [0, 2]]), [r"$\frac{$", "dog"])
    ax = figure.axes[0]
    png(figure)
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("said", "really")
    assert [label.get_text() for label in ax.get_yticklabels()] == [r"$\frac{$", "dog"]


def test_classes_that_never_occur_are_survived():
    nothing, scores = np.zeros((5, 2)), np.full((5, 2), 0.5)
    assert "no class occurs" in alt_text(plots.roc(nothing, scores, ["a", "b"]))
    assert "no class occurs" in alt_text(plots.precision_recall(nothing, scores, ["a", "b"]))
    table = evaluate(nothing, scores, 0.5, ["a", "b"], task="multilabel").table
    assert "undefined" in alt_text(plots.class_bars({"INT8": table}))


def test_a_precision_recall_dot_stands_where_the_threshold_is():
    y_true, scores = np.array([[0], [1], [1], [1]]), np.array([[0.8], [0.9], [0.6], [0.1]])
    figure = plots.precision_recall(y_true, scores, ["a"], thresholds=np.array([0.5]))
    dot = next(line for line in figure.axes[0].get_lines() if line.get_marker() == "o")
    assert (dot.get_xdata()[0], dot.get_ydata()[0]) == pytest.approx((2 / 3, 2 / 3))


def test_a_class_keeps_its_colour_and_neighbours_differ():
    colours = [class_colour(index) for index in range(80)]
    assert len(set(colours)) == 80
    assert colours == [class_colour(index) for index in range(80)]


def test_every_class_colour_stands_out_from_white():
    for index in range(200):
        colour = class_colour(index)
        rgb = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
        assert contrast_on_white(rgb) >= 2.95, (index, colour)  # rounding to bytes costs a little


def test_contrast_is_what_the_standard_says():
    assert contrast_on_white((0, 0, 0)) == pytest.approx(21)
    assert contrast_on_white((1, 1, 1)) == pytest.approx(1)


def test_alt_text_is_escaped_in_html():
    y_true, scores, known = answers(2)
    text = html_image(plots.roc(y_true, scores, known))
    assert "<script" not in text and text.count("<") == 1


def test_a_notebook_shows_the_alt_text():
    y_true, scores, known = answers(2)
    figure = plots.roc(y_true, scores, known)
    _, metadata = display_image(figure)._repr_mimebundle_()
    assert metadata["image/png"]["alt"] == alt_text(figure)
