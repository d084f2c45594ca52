"""A real browser for tests: pages opened from files, with all they ask for and complain about."""

import os
import shutil
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import nbformat
import pytest

from workbench.show.report import render_notebook
from workbench.steps import find_step

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or "/usr/bin/chromium"
ROOT = Path(__file__).parent.parent
IDLE = '.jp-Notebook-ExecutionIndicator[data-status="idle"]'


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


@contextmanager
def lab(folder):
    """Run JupyterLab over a folder, without this machine's settings; yield its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    private = folder / "private"
    names = ("CONFIG_DIR", "DATA_DIR", "RUNTIME_DIR", "WORKSPACES_DIR", "SETTINGS_DIR")
    folders = {f"JUPYTER_{name}": str(private / name.lower()) for name in names[:3]}
    folders |= {f"JUPYTERLAB_{name}": str(private / name.lower()) for name in names[3:]}
    command = (
        sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--ip=127.0.0.1",
        f"--port={port}", "--ServerApp.port_retries=0", "--IdentityProvider.token=",
        f"--ServerApp.root_dir={folder}", "--LabApp.news_url=None",
        "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
    )  # fmt: skip
    environment = {**os.environ, **folders, "PYTHONPATH": str(ROOT)}
    with open(folder / "lab.log", "w") as log:
        server = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    try:
        yield f"http://127.0.0.1:{port}/lab/tree"
    finally:
        server.terminate()
        server.wait(30)


def open_in_lab(browser, address, seconds=60):
    """Open a notebook as soon as the server answers, and wait until its kernel is ready."""
    page = browser.new_page(viewport={"width": 1400, "height": 1000})
    deadline = time.monotonic() + seconds
    while True:
        try:
            page.goto(address)
            break
        except Exception:
            if time.monotonic() > deadline:
                raise
            page.wait_for_timeout(200)
    page.wait_for_selector(IDLE, timeout=1000 * seconds, state="attached")
    page.get_by_text("(ipykernel) | Idle").wait_for(timeout=1000 * seconds)
    return page
