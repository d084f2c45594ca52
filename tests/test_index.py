"""The first page of a run: what a reviewer asks, whatever classes are called, on any screen."""

import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from tests.browser import Opened, chromium
from tests.test_verdict import drawn, judged, mostly_right
from workbench import status
from workbench.files import read_json, sha256, write_json, write_text
from workbench.settings import Settings
from workbench.show import final
from workbench.show.index import render_index
from workbench.steps import find_step

HOSTILE = ("<script>alert(1)</script>", "' onmouseover='alert(2)", "</style><b>", "{{7*7}}",
           "</table></div>", "W" * 120, "مرحبا \u202e abc")  # fmt: skip
DONE = {"state": "ok", "started": "a", "finished": "2026-11-21T10", "seconds": 1.0,
        "fingerprint": {}}  # fmt: skip


def hostile_names() -> tuple[str, ...]:
    """Seven of ours, or, where the corpus is at hand, as many of its strings as fit on a page."""
    shared = os.environ.get("WORKBENCH_SHARED")
    if not shared:
        return HOSTILE
    lines = read_json(Path(shared) / "corpora/naughty-strings/blns.json")
    return HOSTILE + tuple(dict.fromkeys(line for line in lines if line.strip()))[:150]


@pytest.fixture
def finished(run, monkeypatch):
    """A run whose classes have hostile names, with a photo of each."""
    names = hostile_names()
    monkeypatch.setattr("tests.test_verdict.CLASSES", names)
    y_true = drawn(images=60, share=0.3, classes=len(names))
    write_json(run.folder / "metrics.json", judged(run.folder, y_true, mostly_right(y_true)))
    photo = np.full((8, 8, 3), 90, np.uint8)
    monkeypatch.setattr(final, "letterboxed", lambda *_, indices: [photo] * len(indices))
    split = SimpleNamespace(targets=y_true, mask=None)
    final.class_examples(SimpleNamespace(path=run.path, wrote=str, settings=Settings()),
                         split, y_true)  # fmt: skip
    Image.new("RGB", (900, 300)).save(run.path("error_gallery.png"))
    outputs = {name: sha256(run.path(name)) for name in (final.EXAMPLES, "error_gallery.png")}
    status.record(run.folder, find_step("09"), outputs=outputs, **DONE)
    write_text(run.path("html/index.html"), render_index(run.folder))
    return run.path("html/index.html")


def test_the_verdict_stands_before_all_else_and_a_done_step_is_not_green(finished):
    page = finished.read_text("utf-8")
    order = ("class='verdict", "class='tile'", "What it is", "What it recognises",
             "The worst mistakes", "<h2>Steps", "checksums")  # fmt: skip
    places = [page.index(words) for words in order]
    assert places == sorted(places)
    assert ">done<" in page and ".state.ok" not in page


def test_the_index_fits_every_screen_and_no_name_runs_or_asks(finished):
    with chromium() as browser:
        opened = Opened(browser, finished)
        page = opened.page
        for width in (1280, 400):
            page.set_viewport_size({"width": width, "height": 900})
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        assert page.locator(".classes tbody tr").count() == len(hostile_names())
        assert page.locator(".classes tbody td:first-child").first.inner_text() == HOSTILE[0]
        light = page.evaluate("getComputedStyle(document.body).backgroundColor")
        page.emulate_media(color_scheme="dark")
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") != light
        page.emulate_media(media="print", color_scheme="light")
        page.set_viewport_size({"width": 700, "height": 900})  # A4 less its margins
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        assert opened.complaints == []
        assert [url for url in opened.requests if not url.startswith(("file:", "data:"))] == []


def test_a_sheet_of_examples_that_was_changed_is_not_shown(finished):
    folder = finished.parents[1]
    Image.new("RGB", (960, 96), "red").save(folder / final.EXAMPLES)
    assert "class='example'" in finished.read_text("utf-8")
    assert "class='example'" not in render_index(folder)
