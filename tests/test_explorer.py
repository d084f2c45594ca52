"""The explorer in a real browser: in a page without a kernel, and live in JupyterLab."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.browser import Opened, chromium, lab, open_in_lab, page_of
from tests.conftest import write_notebook
from tests.decision_doubles import NAUGHTY, SCALE, ZERO_POINT, draw, flips, tuned, tuned_unknown
from workbench.decide.choice import accept
from workbench.decide.intervals import wilson
from workbench.decide.levels import LOWEST, count_levels
from workbench.decide.objectives import FLOORS, Objective
from workbench.decide.recommendation import from_json
from workbench.decide.thresholds import search
from workbench.decide.tuning import best
from workbench.errors import InputError
from workbench.settings import ThresholdSearchSettings
from workbench.show.explorer import explorer
from workbench.show.panel import MIME

COMMAND = "python -m workbench thresholds outputs/demo threshold_recommendation.json"


def say_nothing(_):
    return None


@pytest.fixture(scope="module")
def browser():
    with chromium() as started:
        yield started


@pytest.fixture
def show(browser, tmp_path):
    opened = []

    def show(*cases):
        panels = [
            explorer(counts, found, say_nothing, COMMAND, *worth) for counts, found, *worth in cases
        ]
        opened.append(Opened(browser, page_of(tmp_path, *panels)))
        return opened[-1]

    yield show
    for one in opened:
        one.page.close()


@pytest.fixture
def case():
    return tuned()


@pytest.fixture
def opened(show, case):
    return show(case)


@pytest.fixture
def with_photos(browser, tmp_path, case):
    panel = explorer(*case, say_nothing, COMMAND, None, flips(tmp_path))
    opened = Opened(browser, page_of(tmp_path, panel))
    yield opened
    opened.page.close()


def choose(opened, index):
    opened.page.locator(".te-list .te-row").nth(index).click()


def integer(opened):
    return int(opened.part("slider").input_value())


def download(opened, who="Ada", why="fewer false alarms"):
    opened.part("who").fill(who)
    opened.part("why").fill(why)
    with opened.page.expect_download() as found:
        opened.part("save").click()
    assert found.value.suggested_filename == "threshold_recommendation.json"
    return from_json(json.loads(Path(found.value.path()).read_text(encoding="utf-8")))


@pytest.mark.slow
def test_it_asks_for_nothing_and_complains_about_nothing(opened):
    opened.slide(20)
    assert len(opened.requests) == 1 and opened.requests[0].startswith("file:")
    assert opened.complaints == []


@pytest.mark.slow
def test_every_class_name_is_shown_as_text(opened):
    for index, name in enumerate(NAUGHTY):
        choose(opened, index)
        assert opened.part("name").inner_text() == name
    assert opened.page.title() == "06 tune_thresholds"


@pytest.mark.slow
def test_the_counts_are_those_of_the_answers(opened):
    y_true, raw = draw()
    for index, threshold in ((0, -40), (2, 5), (5, 60)):
        choose(opened, index)
        opened.slide(threshold)
        yes, there = raw[:, index] >= threshold, y_true[:, index]
        counted = {"tp": yes & there, "fp": yes & ~there, "fn": ~yes & there, "tn": ~yes & ~there}
        for name, images in counted.items():
            assert opened.part(name).inner_text() == str(images.sum()), name
        assert f"{100 * (yes & there).sum() / there.sum():.1f} %" in (
            opened.part("recall").inner_text()
        )


@pytest.mark.slow
def test_found_and_right_carry_the_intervals_of_the_report(opened):
    y_true, raw = draw()
    opened.slide(0)
    yes, there = raw[:, 0] >= 0, y_true[:, 0]
    for name, trials in (("recall", there), ("precision", yes)):
        low, high = wilson(np.array((yes & there).sum()), np.array(trials.sum()))
        words = f"95 %: {100 * low:.1f} % to {100 * high:.1f} %"
        assert opened.part(f"{name}-ends").inner_text() == words


@pytest.mark.slow
def test_the_f1_of_all_classes_follows_the_slider(opened, case):
    counts, thresholds = case
    opened.slide(-40)
    integers = np.array([-40, *thresholds.integer[1:]])
    tp, fp = (np.take_along_axis(a, integers[:, None] - LOWEST, 1)[:, 0] for a in counts.at_least())
    positives = counts.totals[0]
    occurs = positives > 0
    f1_macro = (2 * tp / (positives + tp + fp))[occurs].mean()
    assert f"F1 macro {f1_macro:.4f}" in opened.part("total").inner_text()


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
    occurs = counts.totals[0] > 0
    expected = np.where(occurs, expected, thresholds.integer)  # without images a class stays
    np.testing.assert_array_equal(download(opened).integer, expected)


@pytest.mark.slow
@pytest.mark.parametrize("name", FLOORS)
def test_its_floors_count_photos_of_a_group_as_the_search_does(show, case, name):
    counts, thresholds = case
    worth = np.linspace(0.2, 1, len(counts.positives))
    opened = show((*case, {name: worth.tolist()}))
    integers = thresholds.quantization.separable()
    objective = Objective(name, 2.0, 0.7, 3.0, 1.0)
    alone = best(objective.class_values(counts), integers)
    objective = replace(objective, worth=worth[:, None])
    expected = best(objective.class_values(counts), integers)
    opened.part("objective").select_option(name)
    opened.part("floor").evaluate("(input) => { input.value = 0.7 }")
    opened.part("use-all").click()
    occurs = counts.totals[0] > 0
    assert (expected != alone)[occurs].any()
    expected = np.where(occurs, expected, thresholds.integer)
    np.testing.assert_array_equal(download(opened).integer, expected)


@pytest.mark.slow
def test_only_the_knobs_of_the_chosen_rule_are_shown(opened):
    opened.part("objective").select_option("cost")
    assert opened.part("cost-fp").is_visible() and opened.part("cost-fn").is_visible()
    assert not opened.part("beta").is_visible() and not opened.part("floor").is_visible()


@pytest.mark.slow
def test_the_downloaded_file_is_accepted_by_the_run(opened, case):
    _, thresholds = case
    opened.slide(33)
    taken = accept(thresholds, download(opened))
    edit = taken.edits[0]
    assert taken == thresholds.edited({NAUGHTY[0]: 33}, "Ada", edit.when, "fewer false alarms")


@pytest.mark.slow
def test_a_class_may_be_called_like_a_property_of_every_object(show):
    y_true, raw = draw(classes=2)
    settings = ThresholdSearchSettings(bootstrap_replicates=20)
    found = search(y_true, raw, SCALE, ZERO_POINT, settings, ("__proto__", "constructor"), 0)
    opened = show((count_levels(y_true, raw), found))
    opened.slide(33)
    assert accept(found, download(opened)).integer.tolist() == [33, found.integer[1]]


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
    keyboard = opened.page.keyboard
    opened.part("list").focus()
    keyboard.press("ArrowDown")
    assert opened.part("name").inner_text() == NAUGHTY[1]
    keyboard.press("Tab")
    keyboard.press("ArrowRight")
    keyboard.press("ArrowRight")
    assert integer(opened) == thresholds.integer[1] + 2
    keyboard.press("Tab")
    keyboard.press("Enter")  # Undo takes both moves back
    assert integer(opened) == thresholds.integer[1]


@pytest.mark.slow
def test_moves_of_two_sliders_are_two_steps_of_undo(opened, case):
    _, thresholds = case
    opened.slide(10)
    opened.slide(11)
    choose(opened, 1)
    opened.slide(12)
    opened.part("undo").click()
    taken = download(opened)
    assert taken.integer[0] == 11 and taken.integer[1] == thresholds.integer[1]


@pytest.mark.slow
def test_a_locked_class_is_moved_by_nothing(opened, case):
    _, thresholds = case
    opened.part("lock").check()
    assert opened.part("slider").is_disabled()
    opened.part("objective").select_option("recall_floor")
    opened.part("use-all").click()
    taken = download(opened)
    assert taken.integer[0] == thresholds.integer[0]
    assert (taken.integer[1:] != thresholds.integer[1:]).any()


@pytest.mark.slow
def test_nothing_is_saved_once_all_is_back_at_the_start(opened, case):
    opened.slide(10)
    opened.part("reset-all").click()
    assert integer(opened) == case[1].integer[0]
    opened.part("who").fill("Ada")
    opened.part("save").click()
    assert "No threshold was moved" in opened.part("saved").inner_text()


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
        "[...document.querySelectorAll('section input, section select, section button')]"
        ".filter((one) => !(one.labels?.length || one.textContent.trim())).length"
    )
    assert nameless == 0


@pytest.mark.slow
def test_the_photos_that_a_slider_flips_are_shown_by_name(with_photos, case):
    y_true, raw = draw()
    start, level = int(case[1].integer[0]), raw[:, 0].astype(int)
    now = sorted(level[level < start])[-6]
    with_photos.slide(now)
    turned = (level >= now) & (level < start)
    shown = with_photos.page.locator('[data-te="strips"] img')
    named = {int(alt.split()[0]) for alt in shown.evaluate_all("all => all.map((one) => one.alt)")}
    assert named == set(np.flatnonzero(turned)) and turned.any()
    count = turned.sum()
    words = f"{count} image flips" if count == 1 else f"{count} images flip"
    assert with_photos.part("turned").inner_text() == words
    found = (turned & y_true[:, 0]).sum()
    assert f"Now found: {found}" in with_photos.part("strips").inner_text()


@pytest.mark.slow
def test_photos_with_hostile_names_do_nothing_and_the_page_opens_at_its_top(with_photos):
    for index in range(len(NAUGHTY)):
        choose(with_photos, index)
    page = with_photos.page
    assert page.locator('[data-te="strips"] img').first.get_attribute("alt").endswith(NAUGHTY[1])
    assert page.title() == "06 tune_thresholds" and with_photos.complaints == []
    page.set_viewport_size({"width": 400, "height": 700})
    page.reload()
    assert page.evaluate("[scrollY, document.documentElement.scrollWidth]") == [0, 400]


@pytest.mark.slow
def test_a_click_into_a_drawing_chooses_the_threshold_there(opened):
    choose(opened, 6)
    opened.page.locator('[data-te="scores"]').evaluate(
        "(svg) => { const at = new DOMPoint(48 + 354 / 2, 100).matrixTransform(svg.getScreenCTM());"
        "svg.dispatchEvent(new MouseEvent('click', { clientX: at.x, clientY: at.y })) }"
    )
    assert abs(integer(opened)) <= 1  # a pointer rests on whole pixels
    opened.page.locator('[data-te="curve"]').click(position={"x": 80, "y": 40})  # little found
    assert integer(opened) > 0


@pytest.mark.slow
def test_a_negative_cost_is_refused_in_words_and_moves_nothing(opened, case):
    opened.part("objective").select_option("cost")
    opened.part("cost-fp").fill("-3")
    opened.part("use-all").click()
    assert "“a wrong yes costs” is -3; it must be 0 or more." in opened.part("refused").inner_text()
    assert opened.part("cost-fp").get_attribute("aria-invalid") == "true"
    assert integer(opened) == case[1].integer[0]


@pytest.mark.slow
def test_a_thousand_photos_are_counted_at_a_share_and_cost_of_ones_own(opened):
    y_true, raw = draw()
    opened.slide(0)
    for name, number in (("cost-fp", 2), ("cost-fn", 10), ("share", 5)):
        opened.part(name).fill(str(number))
    yes, there = raw[:, 0] >= 0, y_true[:, 0]
    lost = 50 * (~yes & there).sum() / there.sum()
    wrong = 950 * (yes & ~there).sum() / (~there).sum()
    words = opened.part("yours").inner_text()
    assert words.startswith(f"50 show it: {50 - round(lost)} are found and {round(lost)} missed.")
    assert f"{round(wrong)} get a wrong yes. That costs {2 * wrong + 10 * lost:.1f};" in words


@pytest.mark.slow
def test_the_list_is_sorted_and_the_keyboard_follows_it(opened):
    opened.part("sort").select_option("f1")
    shown = opened.page.locator(".te-list .te-row span:nth-child(5)").all_inner_texts()
    known = [float(text) for text in shown if text != "–"]
    assert known == sorted(known) and shown[-1] == "–"
    opened.page.locator(".te-list .te-row").first.click()
    opened.part("list").press("ArrowDown")
    second = opened.page.locator(".te-list .te-row").nth(1)
    assert second.get_attribute("aria-selected") == "true"


@pytest.mark.slow
def test_a_figure_that_rose_on_these_photos_is_not_promised(opened):
    assert not opened.part("caution").is_visible()
    opened.part("use-all").click()
    assert opened.part("caution").is_visible()
    assert "others will give less" in opened.part("caution").inner_text()
    opened.part("reset-all").click()
    assert not opened.part("caution").is_visible()


@pytest.mark.slow
def test_who_saved_last_and_what_is_said(show, case):
    counts, thresholds = case
    edited = thresholds.edited({NAUGHTY[0]: 30}, "Ada", "2026-11-20T09:30:00+00:00", "calmer")
    opened = show((counts, edited))
    said = opened.part("last").inner_text()
    assert said.startswith("Last saved by Ada on 2026-11-20: ") and "(calmer)" in said
    before, after = thresholds.probability[0], edited.probability[0]
    assert f"{NAUGHTY[0]} {before:.3f} → {after:.3f}" in said


@pytest.mark.slow
def test_two_explorers_on_a_page_do_not_know_each_other(show, case):
    opened = show(case, (None, tuned_unknown()))
    first, second = (opened.page.locator("section").nth(place) for place in (0, 1))
    before = second.locator('[data-te="value"]').inner_text()
    first.locator('[data-te="slider"]').fill("33")
    assert second.locator('[data-te="value"]').inner_text() == before
    assert opened.complaints == []


@pytest.mark.slow
def test_the_confidence_of_a_single_label_moves_over_its_curve(show):
    threshold = tuned_unknown()
    opened = show((None, threshold))
    opened.slide(150)
    row = threshold.curve.iloc[150]
    assert f"{100 * row.coverage:.1f} %" in opened.part("coverage").inner_text()
    taken = accept(threshold, download(opened))
    assert taken == threshold.edited(row.threshold, "Ada", taken.edits[0].when, taken.edits[0].why)
    opened.part("reset").click()
    assert integer(opened) == int(threshold.curve.chosen.to_numpy().argmax())


def test_a_hundred_times_the_images_make_the_page_no_heavier():
    few, many = (
        len(json.dumps(explorer(*tuned(images), say_nothing, COMMAND).data))
        for images in (500, 50_000)
    )
    assert many < 1.2 * few


def test_saving_live_hands_over_the_edited_thresholds():
    saved = []
    counts, thresholds = tuned()
    panel = explorer(counts, thresholds, saved.append, COMMAND)
    edited = thresholds.edited({NAUGHTY[0]: 30}, "Ada", "2026-11-20T09:30:00+00:00", "why")
    assert panel.on_message({"recommendation": edited.model_dump(mode="json")}) == "Saved."
    assert saved == [edited]


def test_saving_live_refuses_the_thresholds_of_another_run():
    counts, thresholds = tuned()
    panel = explorer(counts, thresholds, say_nothing, COMMAND)
    with pytest.raises(InputError, match="belongs to another run"):
        panel.on_message({"recommendation": tuned(images=300)[1].model_dump(mode="json")})


def test_the_output_of_a_cell_holds_the_live_widget_and_the_page(case):
    data, _ = explorer(*case, say_nothing, COMMAND)._repr_mimebundle_()
    assert data[MIME]["module"] == "explorer"
    assert "application/vnd.jupyter.widget-view+json" in data
    assert "JupyterLab" in data["text/plain"]


LIVE = """\
from pathlib import Path
from tests.decision_doubles import flips, tuned
from workbench.show.explorer import explorer

def keep(edited):
    Path("kept.json").write_text(edited.model_dump_json())
    return "Kept <b>beside</b> the run."

explorer(*tuned(), keep, "unused", None, flips(Path(".")))
"""


@pytest.mark.slow
def test_live_in_jupyterlab_a_slider_is_moved_and_saved(browser, tmp_path, case):
    _, thresholds = case
    write_notebook(tmp_path / "live.ipynb", LIVE)
    with lab(tmp_path) as address:
        page = open_in_lab(browser, f"{address}/live.ipynb")
        page.locator(".jp-Notebook .cm-content").first.click()
        page.keyboard.press("Shift+Enter")
        slider = page.locator('.threshold-explorer [data-te="slider"]')
        slider.wait_for(timeout=120_000)
        assert page.locator('[data-te="name"]').inner_text() == NAUGHTY[0]
        page.locator('[data-te="list"]').focus()
        page.keyboard.press("ArrowDown")  # Lab's own arrow keys would leave the cell
        slider.focus()
        page.keyboard.press("ArrowRight")
        page.keyboard.press("ArrowRight")
        page.keyboard.press("End")  # more photos flip than the page holds: the kernel gives them
        page.locator('[data-te="strips"] img').nth(20).wait_for()
        page.locator('[data-te="undo"]').click()
        slider.focus()
        page.keyboard.press("ArrowRight")
        page.keyboard.press("ArrowRight")
        page.locator('[data-te="who"]').fill("Ada")
        page.locator('[data-te="save"]').click()
        page.locator('[data-te="saved"]', has_text="Kept <b>beside</b> the run.").wait_for()
        assert not page.locator('[data-te="command"]').is_visible()
        page.close()
    kept = from_json(json.loads((tmp_path / "kept.json").read_text(encoding="utf-8")))
    when = kept.edits[0].when
    integer = int(thresholds.integer[1]) + 2
    assert kept == thresholds.edited({NAUGHTY[1]: integer}, "Ada", when, "")
