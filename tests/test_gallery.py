"""Galleries: small pictures with words, found by class and by mistake, in any browser."""

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from tests.browser import Opened, chromium, lab, open_in_lab, page_of
from tests.conftest import write_notebook
from tests.decision_doubles import NAUGHTY, SCALE, ZERO_POINT, draw, names
from workbench.data.tables import Split
from workbench.decide.levels import Quantization
from workbench.decide.outcomes import Answers, worst_mistakes
from workbench.settings import Settings
from workbench.show import gallery
from workbench.show.figures import alt_text
from workbench.show.gallery import Picture, choose, judge, photo_browser, picture_gallery


def mistakes(classes=3):
    y_true, raw = draw(classes=classes)
    scores = Quantization(SCALE, ZERO_POINT).probabilities(raw)
    files = [f"{number}.jpg" for number in range(len(y_true))]
    return worst_mistakes(y_true, scores, 0.5, names(classes), files, limit=5, task="multilabel")


def grey(_):
    return np.full((300, 200, 3), 128, np.uint8)


def test_the_error_gallery_shows_every_mistake_small():
    pictures = gallery.mistake_pictures(mistakes(), grey)
    assert len(pictures) == 10
    assert max(pictures[0].image.shape) == gallery.SIDE


def test_a_heat_map_is_laid_over_its_image():
    rows = mistakes()
    key = (rows.image[0], rows.class_index[0])
    heat = {key: np.eye(3, dtype=np.float32)}
    plain, hot = (gallery.mistake_pictures(rows, grey, maps)[0].image for maps in (None, heat))
    assert (plain == 128).all()
    assert hot[5, 5, 0] > hot[5, 5, 2] and hot[5, -5].max() < 128


def test_an_empty_gallery_says_so():
    assert "nothing to show" in picture_gallery([]).data["about"]
    assert "no pictures" in alt_text(gallery.gallery_figure([], "Worst mistakes"))


def answers(y_true, y_score, thresholds, task="multilabel"):
    return Answers.of(np.array(y_true), np.array(y_score), thresholds, None, task)


def test_how_wrong_an_answer_is_counts_from_its_threshold():
    thresholds = np.array([0.5, 0.2])
    found = judge(answers([[1, 0]], [[0.1, 0.9]], thresholds), thresholds, ("cat", "dog"))
    assert found[["class", "kind", "wrong"]].values.tolist() == [
        ["cat", "missed", 0.4],
        ["dog", "wrongly said", 0.7],
    ]


def test_a_right_answer_is_less_wrong_than_any_mistake():
    found = judge(answers([[1, 0]], [[0.9, 0.1]], 0.5), 0.5, ("cat", "dog"))
    assert found[["class", "kind", "wrong"]].values.tolist() == [["cat", "right", -0.4]]


def test_a_single_label_counts_from_the_best_other_class():
    found = judge(answers([[1, 0, 0]], [[0.3, 0.6, 0.1]], 0.0, "single_label"), 0.0, tuple("abc"))
    assert found[["class", "kind", "wrong"]].values.tolist() == [
        ["a", "missed", 0.3],
        ["b", "wrongly said", 0.3],
    ]


def test_every_class_comes_before_any_comes_twice():
    y_score = np.full((20, 2), 0.99)
    y_score[:, 1] = 0.6
    found = judge(answers(np.zeros((20, 2)), y_score, 0.5), 0.5, ("cat", "dog"))
    rare = judge(answers([[0, 1]], [[0.1, 0.4]], 0.5), 0.5, ("cat", "dog")).assign(image=20)
    both = pd.concat([found, rare])
    assert 20 in choose(both, limit=3)


@pytest.fixture
def photos(tmp_path):
    """A validation split of six photos, half of them with hostile names for classes."""
    files = tuple(f"{number}.png" for number in range(6))
    for number, name in enumerate(files):
        Image.new("RGB", (60, 40), (40 * number, 90, 120)).save(tmp_path / name)
    targets = np.eye(3, dtype=np.float32)[[0, 1, 2, 0, 1, 2]]
    return Split("val", files, tmp_path, NAUGHTY[:3], targets, np.ones((6, 3), np.float32))


LOGITS = np.array(
    [[3, -3, -3], [-3, 3, -3], [-3, -3, 3], [-4, -3, -3], [-3, -1, -3], [5, -3, 2]], np.float32
)


def test_the_photo_browser_is_capped_and_light(photos):
    panel = photo_browser(photos, LOGITS, Settings(), limit=2)
    pictures = panel.data["pictures"]
    assert len(pictures) == 2 and "2 of 6 photos" in panel.data["about"]
    assert all(len(picture["image"]) < 8_000 for picture in pictures)


def test_the_photo_browser_names_the_one_answer_of_a_single_label(photos):
    panel = photo_browser(photos, LOGITS, Settings(task="single_label"))
    by_title = {picture["title"]: picture["marks"] for picture in panel.data["pictures"]}
    assert [mark["kind"] for mark in by_title["3.png"]] == ["missed", "wrongly said"]
    assert [mark["kind"] for mark in by_title["0.png"]] == ["right"]


@pytest.fixture(scope="module")
def browser():
    with chromium() as started:
        yield started


@pytest.mark.slow
def test_photos_are_found_by_class_and_mistake_worst_first(browser, tmp_path, photos):
    panel = photo_browser(photos, LOGITS, Settings())
    opened = Opened(browser, page_of(tmp_path, panel))
    titles = opened.page.locator("figcaption b")
    assert titles.first.inner_text() == "5.png"  # says a class with .99 that is not there
    opened.part("kind").select_option("missed")
    assert sorted(titles.all_inner_texts()) == ["3.png", "4.png"]
    opened.part("class").select_option(NAUGHTY[1])
    assert titles.all_inner_texts() == ["4.png"]
    assert "1 of 6 shown" in opened.part("shown").inner_text()
    assert opened.complaints == [] and len(opened.requests) == 1


@pytest.mark.slow
def test_a_gallery_is_searched_by_words(browser, tmp_path):
    images = [Picture(grey(0), name, "seen", "missed", (name,)) for name in NAUGHTY[:3]]
    opened = Opened(browser, page_of(tmp_path, picture_gallery(images)))
    opened.part("find").fill("FRAC")
    assert opened.page.locator("figure:visible").count() == 1
    assert opened.page.title() == "06 tune_thresholds" and opened.complaints == []


LIVE = """\
import numpy as np
from workbench.show.gallery import Picture, picture_gallery

grey = np.full((90, 60, 3), 128, np.uint8)
kinds = ("blurred", "dark")
picture_gallery([Picture(grey, f"{kind}.jpg", "seen", kind, ("<b>cat",)) for kind in kinds])
"""


@pytest.mark.slow
def test_live_in_jupyterlab_a_gallery_is_filtered(browser, tmp_path):
    write_notebook(tmp_path / "live.ipynb", LIVE)
    with lab(tmp_path) as address:
        page = open_in_lab(browser, f"{address}/live.ipynb")
        page.locator(".jp-Notebook .cm-content").first.click()
        page.keyboard.press("Shift+Enter")
        page.locator('[data-part="class"]').select_option("<b>cat", timeout=120_000)
        page.locator('[data-part="kind"]').select_option("dark")
        assert page.locator("figcaption b").all_inner_texts() == ["dark.jpg"]
        page.close()
