"""Sliders over augmentation: the views change, and the lines to copy say how."""

import io

import ipywidgets as ipw
import numpy as np
import pytest
from PIL import Image

from tests.test_augment import picture
from workbench.parameters import read_settings
from workbench.settings import AugmentationSettings, ColorJitter, Settings
from workbench.show import augmentation
from workbench.show.figures import alt_text, png


@pytest.fixture
def panel() -> ipw.VBox:
    return augmentation.augmentation_panel(picture(), Settings())


def control(panel: ipw.VBox, name: str) -> ipw.Widget:
    return next(one for one in panel.children[0].children if one.description == name)


def test_a_slider_redraws_the_views(panel):
    before = panel.children[1].value
    control(panel, "random rotation factor").value = 0.2
    assert panel.children[1].value != before
    assert np.asarray(Image.open(io.BytesIO(panel.children[1].value))).shape == (300, 600, 3)


def test_the_lines_to_copy_name_the_changed_knobs_alone(panel):
    assert "as this run has it" in panel.children[2].value
    control(panel, "random flip vertical").value = True
    control(panel, "color jitter: hue").value = 0.1
    control(panel, "cutout: num patches").value = 4
    assert panel.children[2].value == (
        "<pre>augmentation:\n  random_flip_vertical: true\n  color_jitter: {hue: 0.1}\n"
        "  cutout: {num_patches: 4}</pre>"
    )


def test_the_lines_to_copy_are_a_parameter_file(tmp_path):
    chosen = AugmentationSettings(random_zoom_factor=0.3, color_jitter=ColorJitter(hue=0.2))
    path = tmp_path / "mine.yaml"
    path.write_text(augmentation.yaml_lines(AugmentationSettings(), chosen))
    assert read_settings(path, root=tmp_path).augmentation == chosen


def test_every_value_of_every_slider_is_a_setting_that_is_accepted(panel):
    for one in panel.children[0].children:
        if not isinstance(one, ipw.Checkbox):
            one.value = one.max
            one.value = one.min


def test_a_value_beyond_the_end_of_its_slider_is_kept():
    wild = Settings(augmentation=AugmentationSettings(random_rotation_factor=0.9))
    panel = augmentation.augmentation_panel(picture(), wild)
    assert control(panel, "random rotation factor").value == 0.9


def test_pictures_stand_side_by_side_under_their_names():
    figure = augmentation.pictures_figure({"as read": picture(), "student": picture(64, 64)})
    assert [ax.get_title() for ax in figure.axes] == ["as read", "student"]
    assert "as read" in alt_text(figure) and png(figure).startswith(b"\x89PNG")
