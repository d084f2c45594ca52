"""Pages for a reviewer: inert, offline, and true to status.json."""

import re

import nbformat
import pytest

from workbench import status
from workbench.chain import STEPS, find_step
from workbench.show.report import place_of, render_index, render_notebook

EVIL = "<script>alert(1)</script><img src=x onerror=alert(2)>{{ 7*7 }}$\\frac{$"


@pytest.fixture
def evil_notebook(tmp_path):
    """A notebook whose Markdown, output and stream are all called something nasty."""
    data = {"text/html": f"<table><tr><td>{EVIL}</td></tr></table>", "text/plain": EVIL}
    output = nbformat.v4.new_output("execute_result", data=data)
    stream = nbformat.v4.new_output("stream", text=EVIL)
    words = f"# {EVIL}\n\n[link](javascript:alert(3))\n\n{place_of('explorer')}\n"
    book = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_markdown_cell(words),
               nbformat.v4.new_code_cell("x", outputs=[output, stream])]
    )  # fmt: skip
    nbformat.write(book, tmp_path / "evil.ipynb")
    return tmp_path / "evil.ipynb"


def test_a_page_runs_no_script_and_asks_nobody(evil_notebook):
    page = render_notebook(evil_notebook, find_step("06"), {})
    assert "<script" not in page
    assert "script-src 'none'" in page
    assert not re.search(r"<[^>]*\bon(error|load)\s*=", page)
    assert "javascript:" not in re.sub(r"<(pre|code).*?</\1>", "", page, flags=re.DOTALL).replace(
        "[link](javascript:alert(3))", ""
    )
    assert not re.search(r'(src|href)="https?:', page)


def test_a_table_stays_a_table(evil_notebook):
    page = render_notebook(evil_notebook, find_step("06"), {})
    assert "<table><tbody><tr><td>" in page or "<table><tr><td>" in page


def test_a_living_piece_takes_its_place_and_its_script_alone_may_run(evil_notebook):
    piece = "<div>slider</div><script>let a = 1;</script>"
    page = render_notebook(evil_notebook, find_step("06"), {"explorer": piece})
    assert piece in page
    assert place_of("explorer") not in page
    assert page.count("<script>") == 1
    assert re.search(r"script-src 'sha256-[A-Za-z0-9+/=]{44}'", page)


def test_the_index_links_the_pages_that_exist_and_says_what_failed(run):
    status.record_failure(run.folder, find_step("02"), "disk <b>full</b>")
    page = render_index(run)
    assert "failed: disk &lt;b&gt;full&lt;/b&gt;" in page
    assert page.count("<tr>") >= len(STEPS)
    assert "<a href" not in page


def test_the_index_names_the_next_step(run):
    assert "0 of 9 steps are done. Next: 01 dataset_audit." in render_index(run)


def test_a_figure_keeps_its_alt_text(tmp_path):
    picture = nbformat.v4.new_output(
        "display_data",
        data={"image/png": "iVBORw0KGgo=", "text/plain": "a figure"},
        metadata={"image/png": {"alt": 'Two "lines" fall'}},
    )
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("x", outputs=[picture])])
    nbformat.write(book, tmp_path / "figure.ipynb")
    page = render_notebook(tmp_path / "figure.ipynb", find_step("06"), {})
    assert 'alt="Two &quot;lines&quot; fall"' in page
