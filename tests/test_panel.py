"""The host of ES modules: data stays data, and only scripts of our own stand in a page."""

import json
import os
import re

import pytest

from tests.browser import CHROMIUM
from tests.prove import slider
from workbench.errors import InputError
from workbench.show.figures import contrast_on_white
from workbench.show.panel import SCRIPTS, STYLE, Panel, fragment, script_json


def test_the_data_cannot_leave_its_script_element():
    data = script_json({"name": "</script><!--<script>&amp;"})
    assert "<" not in data and "&" not in data
    assert json.loads(data) == {"name": "</script><!--<script>&amp;"}


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_fits_into_a_page_and_names_nothing_outside(name):
    script = SCRIPTS[name]
    assert "</script" not in script and "<!--" not in script and "export" not in script
    assert set(re.findall(r"https?://[^\"' ]+", script)) <= {"http://www.w3.org/2000/svg"}
    assert not re.search(r"\s(style|on[a-z]+)=\"", script)  # the policy forbids both
    assert "url(" not in STYLE and "@import" not in STYLE


def test_the_script_is_the_same_whatever_the_data():
    pieces = [fragment({"module": "gallery", "data": {"title": title}}) for title in "ab"]
    assert all(f"<script>{SCRIPTS['gallery']}</script>" in piece for piece in pieces)


def test_an_unknown_module_is_refused():
    with pytest.raises(InputError, match="no panel 'evil'; there are explorer, gallery"):
        fragment({"module": "evil", "data": {}})


def test_every_colour_of_words_is_readable_on_white():
    for name in ("ink", "soft", "yes", "no", "chosen"):
        colour = re.search(rf"--{name}: #([0-9a-f]{{6}})", STYLE)[1]
        rgb = [int(colour[place : place + 2], 16) / 255 for place in (0, 2, 4)]
        assert contrast_on_white(rgb) >= 4.5, name


@pytest.fixture
def said(monkeypatch):
    heard = []
    monkeypatch.setattr(Panel, "send", lambda self, message: heard.append(message["said"]))
    return heard


def test_what_on_message_answers_goes_back(said):
    Panel("gallery", {}, lambda message: f"got {message['n']}").answer({"n": 3})
    assert said == ["got 3"]


def test_a_refusal_is_told_to_the_person(said):
    def refuse(_):
        raise InputError("that cannot be a threshold")

    Panel("gallery", {}, refuse).answer({})
    assert said == ["that cannot be a threshold"]


def test_any_other_error_is_told_as_well(said):
    with pytest.raises(KeyError):
        Panel("gallery", {}, lambda message: message["missing"]).answer({})
    assert said == ["KeyError: 'missing'"]


@pytest.mark.slow
def test_the_proof_of_the_slider_times_what_there_is():
    found = slider.run(images=500, classes=3, moves=4)
    assert (found["p50"] is None) == (not os.path.exists(CHROMIUM))
