"""The explorer in a real browser: offline, without a kernel, under its policy, at the keyboard."""

import json
import os
import re
from pathlib import Path

import numpy as np
import pytest

from tests.decision_doubles import NAUGHTY, tuned, tuned_unknown
from tests.prove.slider import CHROMIUM
from workbench.decide.choice import accept
from workbench.decide.levels import Objective, best
from workbench.decide.recommendation import from_json
from workbench.show import explorer, gallery
from workbench.show.figures import contrast_on_white
from workbench.show.gallery import Picture
from workbench.show.sliders import Tuning

COMMAND = "python -m workbench thresholds outputs/demo threshold_recommendation.json"
OUTSIDE = re.compile(r"^(?!file:|data:|blob:)")


def test_the_data_cannot_leave_its_script_element():
    data = explorer.script_json({"name": "</script><!--<script>&amp;"})
    assert "<" not in data and "&" not in data
    assert json.loads(data) == {"name": "</script><!--<script>&amp;"}


def test_the_page_names_nothing_outside():
    page = explorer.page(*tuned(), COMMAND, "Thresholds")
    page = re.sub(r'<script type="application/json">.*?</script>', "", page, flags=re.DOTALL)
    assert "src=" not in page and "@import" not in page and "url(" not in page.split("<script>")[0]
    links = set(re.findall(r"https?://[^\"' ]+", page))
    assert links <= {"http://www.w3.org/2000/svg"}  # a name space, never fetched


def test_the_page_has_no_style_or_handler_inline():
    page = explorer.page(*tuned(), COMMAND, "Thresholds")
    markup = page[: page.index('<script type="application/json">')]
    assert not re.search(r"\s(style|on[a-z]+)=", markup)


def test_every_colour_of_words_is_readable_on_white():
    style = (Path(explorer.__file__).parent / "explorer.css").read_text(encoding="utf-8")
    for name in ("ink", "soft", "yes", "no", "chosen"):
        colour = re.search(rf"--{name}: #([0-9a-f]{{6}})", style)[1]
        rgb = [int(colour[place : place + 2], 16) / 255 for place in (0, 2, 4)]
        assert contrast_on_white(rgb) >= 4.5, name


def test_the_title_is_text():
    assert "<title>&lt;b&gt;" in explorer.page(*tuned(), COMMAND, "<b>")


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if not os.path.exists(CHROMIUM):
        pytest.skip(f"no Chromium at {CHROMIUM}")
    with playwright.sync_playwright() as runner:
        started = runner.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield started
        started.close()


class Opened:
    """A page in the browser, with all it asked for and complained about."""

    def __init__(self, browser, path: Path) -> None:
        self.page = browser.new_page(viewport={"width": 1200, "height": 900})
        self.requests, self.complaints = [], []
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.goto(path.as_uri())

    def part(self, name):
        return self.page.locator(f'[data-te="{name}"]')

    def slide(self, integer):
        self.part("slider").evaluate(
            "(slider, to) => { slider.value = to; slider.dispatchEvent(new Event('input')); }",
            integer,
        )

    def state(self, expression):
        return self.page.evaluate(
            f"document.querySelector('.threshold-explorer').explorer.{expression}"
        )

    def download(self, who="Ada", why="fewer false alarms"):
        self.part("who").fill(who)
        self.part("why").fill(why)
        with self.page.expect_download() as download:
            self.part("save").click()
        assert download.value.suggested_filename == "threshold_recommendation.json"
        return json.loads(Path(download.value.path()).read_text(encoding="utf-8"))


@pytest.fixture
def show(browser, tmp_path):
    opened = []

    def show(counts, thresholds, command=COMMAND):
        path = tmp_path / "explorer.html"
        path.write_text(explorer.page(counts, thresholds, command, "Thresholds"), "utf-8")
        opened.append(Opened(browser, path))
        return opened[-1]

    yield show
    for one in opened:
        one.page.close()


@pytest.fixture
def case():
    return tuned()


@pytest.fixture
def opened(show, case):
    return show(*case)


@pytest.mark.slow
def test_it_asks_for_nothing_and_complains_about_nothing(opened):
    opened.slide(20)
    opened.page.screenshot()
    assert len(opened.requests) == 1 and not OUTSIDE.match(opened.requests[0])
    assert opened.complaints == []


@pytest.mark.slow
def test_no_class_name_runs(opened):
    for index in range(len(NAUGHTY)):
        opened.state(f"select({index})")
        assert opened.part("name").inner_text() == NAUGHTY[index]
    assert opened.page.title() == "Thresholds"


@pytest.mark.slow
def test_its_policy_blocks_a_script_that_is_not_its_own(opened):
    opened.page.evaluate(
        "() => { const s = document.createElement('script'); s.textContent = 'window.owned = 1';"
        " document.body.append(s); }"
    )
    assert opened.page.evaluate("window.owned") is None


@pytest.mark.slow
def test_a_slider_move_counts_as_python_does(opened, case):
    counts, thresholds = case
    tuning = Tuning(counts, thresholds)
    for index, integer in ((0, -40), (2, 5), (5, 60)):
        opened.state(f"select({index})")
        opened.slide(integer)
        tuning.set({index: integer})
        figures = {name: values[index] for name, values in tuning.figures().items()}
        for name in ("tp", "fp", "fn", "tn"):
            assert int(opened.part(name).inner_text().replace(",", "")) == figures[name]
        assert f"{100 * figures['recall']:.1f} %" in opened.part("recall").inner_text()
        assert f"{figures['f1']:.3f}" in opened.part("f1").inner_text()
    assert f"F1 macro {tuning.f1_macro():.4f}" in opened.part("total").inner_text()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["f1_macro", "fbeta", "precision_floor", "recall_floor", "cost",
                                  "prevalence"])  # fmt: skip
def test_its_rules_are_those_of_the_search(opened, case, name):
    counts, thresholds = case
    objective = Objective(name, 2.0, 0.7, 3.0, 1.0)
    expected = best(objective.class_values(counts), thresholds.quantization.separable())
    for knob, value in (("beta", 2), ("floor", 0.7), ("cost-fp", 3), ("cost-fn", 1)):
        opened.part(knob).evaluate("(input, value) => { input.value = value }", value)
    opened.part("objective").select_option(name)
    opened.part("use-all").click()
    found = np.array(opened.state("integers"))
    occurs = counts.totals[0] > 0
    np.testing.assert_array_equal(found[occurs], expected[occurs])


@pytest.mark.slow
def test_the_downloaded_file_is_accepted_by_the_run(opened, case):
    _, thresholds = case
    opened.slide(33)
    value = opened.download()
    taken = accept(thresholds, from_json(value))
    assert taken.integer[0] == 33 and taken.integer[1] == thresholds.integer[1]
    assert (taken.edits[0].who, taken.edits[0].why) == ("Ada", "fewer false alarms")
    expected = thresholds.edited({NAUGHTY[0]: 33}, "Ada", taken.edits[0].when, "fewer false alarms")
    assert taken == expected


@pytest.mark.slow
def test_nothing_is_downloaded_without_a_name(opened):
    opened.part("save").click()
    assert "name" in opened.part("saved").inner_text()


@pytest.mark.slow
def test_the_command_that_applies_the_file_stands_below(opened):
    assert opened.part("command").inner_text() == COMMAND


@pytest.mark.slow
def test_everything_can_be_done_at_the_keyboard(opened, case):
    _, thresholds = case
    page = opened.page
    opened.part("list").focus()
    page.keyboard.press("ArrowDown")
    assert opened.part("name").inner_text() == NAUGHTY[1]
    page.keyboard.press("Tab")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    assert opened.state("integers")[1] == thresholds.integer[1] + 2
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")  # Undo takes both moves back
    assert opened.state("integers")[1] == thresholds.integer[1]


@pytest.mark.slow
def test_undo_reset_and_lock(opened, case):
    _, thresholds = case
    opened.slide(10)
    opened.slide(11)
    opened.part("undo").click()
    assert opened.state("integers") == thresholds.integer.tolist()
    opened.part("lock").check()
    assert opened.part("slider").is_disabled()
    opened.part("objective").select_option("recall_floor")
    opened.part("use-all").click()
    assert opened.state("integers")[0] == thresholds.integer[0]
    opened.part("reset-all").click()
    assert opened.state("integers") == thresholds.integer.tolist()


@pytest.mark.slow
def test_finding_a_class_hides_the_others(opened):
    opened.part("find").fill("frac")
    assert opened.page.locator(".te-list .te-row:visible").count() == 1


@pytest.mark.slow
def test_what_is_drawn_is_also_said(opened):
    opened.slide(0)
    assert "found" in opened.part("curve").get_attribute("aria-label")
    assert "integer 0" in opened.part("slider").get_attribute("aria-valuetext")
    assert opened.part("words").get_attribute("aria-live") == "polite"


@pytest.mark.slow
def test_every_control_has_a_name(opened):
    nameless = opened.page.evaluate(
        "[...document.querySelectorAll('input, select, button')].filter((one) => "
        "!(one.labels?.length || one.textContent.trim())).length"
    )
    assert nameless == 0


def test_a_hundred_times_the_images_make_the_page_no_heavier():
    few, many = (
        len(explorer.page(*tuned(images), COMMAND, "Thresholds")) for images in (500, 50_000)
    )
    assert many < 1.2 * few


@pytest.mark.slow
def test_the_unknown_explorer_moves_over_the_curve(show):
    threshold = tuned_unknown()
    opened = show(None, threshold)
    opened.slide(150)
    row = threshold.curve.iloc[150]
    assert f"{100 * row.coverage:.1f} %" in opened.part("coverage").inner_text()
    taken = accept(threshold, from_json(opened.download()))
    assert taken == threshold.edited(row.threshold, "Ada", taken.edits[0].when, taken.edits[0].why)
    assert opened.complaints == []


@pytest.mark.slow
def test_the_gallery_filters_in_the_page(browser, tmp_path):
    images = [
        Picture(np.zeros((4, 4, 3), np.uint8), name, "seen", "false positive", (name,))
        for name in NAUGHTY[:3]
    ]
    path = tmp_path / "gallery.html"
    path.write_text(f"<meta charset=utf-8>{gallery.fragment(images, 'Worst mistakes')}", "utf-8")
    opened = Opened(browser, path)
    opened.page.locator('[data-filter="class"]').select_option(NAUGHTY[1])
    assert opened.page.locator(".picture:visible").count() == 1
    assert opened.page.title() != "owned" and opened.complaints == []
