"""The audit's figures hold for 2 classes and for 80, for odd names and for empty datasets."""

import matplotlib
import matplotlib._pylab_helpers
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from workbench.data.audit.report import audit_dataset
from workbench.data.tables import Dataset
from workbench.settings import Settings
from workbench.show import audit_plots
from workbench.show.figures import alt_text, png

FIGURES = (
    audit_plots.findings_overview,
    audit_plots.class_counts,
    audit_plots.labels_per_image,
    audit_plots.co_occurrence,
    audit_plots.split_drift,
    audit_plots.image_sizes,
    audit_plots.light_and_sharpness,
    audit_plots.gallery,
)
ODD_NAMES = (r"$\frac{$", "<script>alert(1)</script>", "a" * 300, "naïve café", "_x^{2}$")


def report_of(tmp_path, classes: tuple[str, ...], images: int = 40, pictures: bool = False):
    """Audit a dataset of random labels; without pictures every file is missing."""
    from PIL import Image

    rng = np.random.default_rng(0)
    names = np.array(classes, dtype=object)
    chosen = rng.random((images, len(classes))) < 2 / len(classes)
    rows = pd.DataFrame(
        {
            "split": rng.choice(["train", "val", "test"], images),
            "filepath": [f"{number}.png" for number in range(images)],
            "labels": [tuple(names[row]) for row in chosen],
            "unknown": [()] * images,
            "source": "drawn",
            "line": range(2, images + 2),
        }
    )
    for name in rows["filepath"][::2] if pictures else ():
        size = rng.integers(20, 90, 2)
        Image.fromarray(rng.integers(0, 255, (*size, 3), np.uint8)).save(tmp_path / name)
    return audit_dataset(Dataset(tmp_path, classes, rows), Settings(num_classes="auto"))


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return report_of(tmp_path_factory.mktemp("small"), ("cat", "dog"), pictures=True)


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    classes = tuple(f"class {number:03d} with a longish name" for number in range(120))
    return report_of(tmp_path_factory.mktemp("large"), classes, 400)


@pytest.fixture(scope="module")
def odd(tmp_path_factory):
    return report_of(tmp_path_factory.mktemp("odd"), ODD_NAMES, pictures=True)


@pytest.mark.parametrize("draw", FIGURES)
@pytest.mark.parametrize("name", ["small", "large", "odd"])
def test_every_figure_can_be_drawn(draw, name, request):
    assert png(draw(request.getfixturevalue(name))).startswith(b"\x89PNG")


@pytest.mark.parametrize("draw", FIGURES)
def test_every_figure_says_in_words_what_it_shows(draw, small):
    words = alt_text(draw(small))
    assert words.endswith(".") and len(words) > 20


@pytest.mark.parametrize("draw", FIGURES[:-1])
def test_a_figure_is_drawn_on_the_axes_given(draw, small):
    ax = Figure().add_subplot()
    assert draw(small, ax=ax) is ax.figure


@pytest.mark.parametrize("draw", FIGURES)
def test_no_figure_touches_global_state(draw, small):
    before = {key: value for key, value in matplotlib.rcParams.items() if key != "backend"}
    draw(small)
    assert before == {key: value for key, value in matplotlib.rcParams.items() if key != "backend"}
    assert not matplotlib._pylab_helpers.Gcf.figs


def test_many_classes_are_cut_to_the_most_frequent_and_the_title_says_so(large):
    figure = audit_plots.class_counts(large)
    assert "(80 of 120)" in figure.axes[0].get_title(loc="left")


def test_an_empty_dataset_still_has_figures(tmp_path):
    report = report_of(tmp_path, ("cat", "dog"), images=0)
    for draw in FIGURES:
        assert png(draw(report)).startswith(b"\x89PNG")


def test_pictures_carry_the_labels_that_a_gallery_filters_by(small):
    pictures = audit_plots.audit_pictures(small)
    assert pictures and {name for picture in pictures for name in picture.classes} <= {"cat", "dog"}
