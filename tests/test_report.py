"""Pages for a reviewer: inert, offline, and true to status.json."""

import base64
import hashlib
import re

import nbformat
import numpy as np
import pytest

from tests.browser import Opened, chromium
from workbench import status
from workbench.show.index import render_index
from workbench.show.panel import MIME, SCRIPTS
from workbench.show.report import render_notebook
from workbench.show.tables import table
from workbench.steps import STEPS, find_step

EVIL = "<script>alert(1)</script><img src=x onerror=alert(2)>{{ 7*7 }}$\\frac{$"


@pytest.fixture
def evil_notebook(tmp_path):
    """A notebook whose Markdown, output and stream are all called something nasty."""
    data = {"text/html": f"<table><tr><td>{EVIL}</td></tr></table>", "text/plain": EVIL}
    output = nbformat.v4.new_output("execute_result", data=data)
    stream = nbformat.v4.new_output("stream", text=EVIL)
    words = f"# {EVIL}\n\n[link](javascript:alert(3))\n"
    book = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_markdown_cell(words),
               nbformat.v4.new_code_cell("x", outputs=[output, stream])]
    )  # fmt: skip
    nbformat.write(book, tmp_path / "evil.ipynb")
    return tmp_path / "evil.ipynb"


def test_a_page_runs_no_script_and_asks_nobody(evil_notebook):
    page = render_notebook(evil_notebook, find_step("06"))
    assert "<script" not in page
    assert "script-src 'none'" in page
    assert not re.search(r"<[^>]*\bon(error|load)\s*=", page)
    assert "javascript:" not in re.sub(r"<(pre|code).*?</\1>", "", page, flags=re.DOTALL).replace(
        "[link](javascript:alert(3))", ""
    )
    assert not re.search(r'(src|href)="https?:', page)


def test_a_table_stays_a_table(evil_notebook):
    page = render_notebook(evil_notebook, find_step("06"))
    assert "<table><tbody><tr><td>" in page or "<table><tr><td>" in page


def write_book(folder, *outputs):
    cells = [nbformat.v4.new_code_cell("x", outputs=[output]) for output in outputs]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), folder / "book.ipynb")
    return folder / "book.ipynb"


def shown(**data):
    return nbformat.v4.new_output("display_data", data=data)


def test_a_panel_lives_on_in_the_page_and_its_script_alone_may_run(tmp_path):
    panel = {"module": "gallery", "data": {"title": EVIL, "about": "", "pictures": []}}
    page = render_notebook(write_book(tmp_path, shown(**{MIME: panel})), find_step("06"))
    assert page.count("<script>") == 1 and SCRIPTS["gallery"] in page
    digest = base64.b64encode(hashlib.sha256(SCRIPTS["gallery"].encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'\"" in page
    assert "<img src=x" not in page


def test_a_panel_of_an_unknown_module_stays_text(tmp_path):
    output = shown(**{MIME: {"module": EVIL, "data": {}}, "text/plain": "a panel"})
    page = render_notebook(write_book(tmp_path, output), find_step("06"))
    assert "<script" not in page and "a panel" in page


def test_a_plain_control_leaves_a_word_in_the_page(tmp_path):
    view = {"model_id": "1", "version_major": 2, "version_minor": 0}
    output = shown(**{"application/vnd.jupyter.widget-view+json": view, "text/plain": "VBox()"})
    page = render_notebook(write_book(tmp_path, output), find_step("06"))
    assert "A control lives here in JupyterLab" in page and "VBox" not in page


def test_a_broken_notebook_shows_where_it_broke(tmp_path):
    error = nbformat.v4.new_output(
        "error", ename="InputError", evalue=EVIL, traceback=[f"\x1b[31mInputError\x1b[0m: {EVIL}"]
    )
    page = render_notebook(write_book(tmp_path, error), find_step("06"))
    assert "InputError" in page and "&lt;script&gt;alert(1)" in page and "<script" not in page


def test_the_index_links_the_pages_that_exist_and_says_what_failed(run):
    status.record_failure(run.folder, find_step("02"), "disk <b>full</b>")
    page = render_index(run.folder)
    assert "failed: disk &lt;b&gt;full&lt;/b&gt;" in page
    assert page.count("<tr>") >= len(STEPS)
    assert "<a href" not in page


def test_the_index_names_the_next_step(run):
    assert "0 of 9 steps are done. Next: 01 dataset_audit." in render_index(run.folder)


def test_the_index_says_that_a_result_was_kept_knowingly(run):
    done = {"started": "a", "finished": "b", "seconds": 1.0, "fingerprint": {}, "outputs": {}}
    words = "2026-11-21, setting <seed> changed"
    status.record(run.folder, find_step("03"), state="ok", accepted=words, **done)
    assert "done; accepted 2026-11-21, setting &lt;seed&gt; changed" in render_index(run.folder)


def test_a_figure_keeps_its_alt_text(tmp_path):
    figure = shown(**{"image/png": "iVBORw0KGgo=", "text/plain": "a figure"})
    figure.metadata = {"image/png": {"alt": 'Two "lines" fall'}}
    page = render_notebook(write_book(tmp_path, figure), find_step("06"))
    assert 'alt="Two &quot;lines&quot; fall" src="data:image/png;base64,iVBORw0KGgo="' in page


def stream(text):
    return nbformat.v4.new_output("stream", text=text)


def test_answers_come_first_and_code_knobs_and_long_logs_are_folded(tmp_path):
    cells = [
        nbformat.v4.new_markdown_cell("# Title\n\n**Is it good?**"),
        nbformat.v4.new_code_cell("knobs(run.settings)", outputs=[stream("a knob")]),
        nbformat.v4.new_markdown_cell("## One\n\n## Two"),
        nbformat.v4.new_code_cell("fit()", outputs=[stream("epoch\n" * 9)]),
        nbformat.v4.new_code_cell("table(answer)", outputs=[stream("yes, it is")]),
    ]
    cells[-1].metadata["tags"] = ["answer"]
    path = tmp_path / "book.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    page = render_notebook(path, find_step("06"))
    order = (
        "Is it good?",
        "yes, it is",
        "Settings of this step",
        "a knob",
        "<summary>Log",
        "epoch",
    )
    places = [page.index(words) for words in order]
    assert places == sorted(places)
    assert page.count('<details class="code">') == 3 and "<details open" not in page
    assert '<a href="#One">One</a>' in page and 'id="Two"' in page


def test_a_failure_stands_in_one_box_above_its_folded_traceback(tmp_path):
    error = nbformat.v4.new_output(
        "error", ename="DatasetError", evalue=f"row 3: {EVIL} is no file. Remove the row",
        traceback=["far below"],
    )  # fmt: skip
    page = render_notebook(write_book(tmp_path, stream("went well"), error), find_step("06"))
    box = page.index(
        '<div class="failure" role="alert"><b>DatasetError</b><p>row 3: &lt;script&gt;'
    )
    assert (
        box < page.index("went well") < page.index("<summary>Traceback") < page.index("far below")
    )


def test_numbers_stand_on_the_right_words_on_the_left_and_nothing_is_a_dash():
    rows = [{"<b>": "x", "n": 1.23456, "count": 3, "yes": True},
            {"<b>": None, "n": np.nan, "count": None, "yes": False}]  # fmt: skip
    shown = table(rows)._repr_html_()
    assert '<td>x</td><td class="n">1.235</td><td class="n">3' in shown and "&lt;b&gt;" in shown
    assert '<td>–</td><td class="n">–</td><td class="n">–</td><td>False</td>' in shown


def test_pages_and_prints_keep_every_column_on_the_screen(tmp_path):
    wide = table([{f"column {n}": 0.123 for n in range(13)} | {"reason": "a long reason " * 12}])
    shows = shown(**{"text/html": wide._repr_html_(), "text/plain": ""})
    page = tmp_path / "page.html"
    page.write_text(render_notebook(write_book(tmp_path, shows), find_step("09")), "utf-8")
    with chromium() as browser:
        opened = Opened(browser, page)
        fits = "document.documentElement.scrollWidth <= innerWidth"
        opened.page.set_viewport_size({"width": 400, "height": 800})
        assert opened.page.evaluate(fits)
        opened.page.emulate_media(media="print")
        opened.page.set_viewport_size({"width": 700, "height": 900})
        reach = "document.querySelector('table.frame').getBoundingClientRect().right <= innerWidth"
        assert opened.page.evaluate(fits) and opened.page.evaluate(reach)
        assert opened.complaints == []
