"""A real browser for tests: pages opened from files, with all they ask for and complain about."""

import os
import shutil
from contextlib import contextmanager

import nbformat
import pytest

from workbench.chain import find_step
from workbench.show.report import render_notebook

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or "/usr/bin/chromium"


@contextmanager
def chromium():
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if not os.path.exists(CHROMIUM):
        pytest.skip(f"no Chromium at {CHROMIUM}")
    with playwright.sync_playwright() as runner:
        started = runner.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield started
        started.close()


def page_of(folder, *panels):
    """Write the rendered page of a notebook whose outputs are these panels."""
    cells = [nbformat.v4.new_code_cell("show", outputs=[output_of(panel)]) for panel in panels]
    notebook, page = folder / "panels.ipynb", folder / "panels.html"
    nbformat.write(nbformat.v4.new_notebook(cells=cells), notebook)
    page.write_text(render_notebook(notebook, find_step("06")), encoding="utf-8")
    return page


def output_of(panel):
    data, metadata = panel._repr_mimebundle_()
    return nbformat.v4.new_output("display_data", data=data, metadata=metadata)


class Opened:
    """A page of panels in the browser."""

    def __init__(self, browser, path):
        self.page = browser.new_page(viewport={"width": 1200, "height": 900})
        self.requests, self.complaints = [], []
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.goto(path.as_uri())

    def part(self, name):
        return self.page.locator(f'[data-te="{name}"], [data-part="{name}"]')

    def slide(self, integer):
        """Move the slider as a person does: it fires while it moves."""
        self.part("slider").fill(str(integer))
