"""Pages for a reviewer: inert, offline, and true to status.json."""

import base64
import hashlib
import re

import nbformat
import pytest

from workbench import status
from workbench.show.index import render_index
from workbench.show.panel import MIME, SCRIPTS
from workbench.show.report import render_notebook
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
