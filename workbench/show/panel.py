"""The host of our ES modules: live in a notebook through anywidget, without a kernel in a page.

A module is one file, `export default { render({ model, el }) }`, and gets its data as JSON. A
cell's output carries the live widget and, for the rendered page, the module's name and its data.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import anywidget
import traitlets

from workbench.errors import InputError, WorkbenchError

MIME = "application/vnd.workbench.panel+json"
FOLDER = Path(__file__).parent
STYLE = (FOLDER / "panel.css").read_text(encoding="utf-8")
MODULES = {
    name: (FOLDER / f"{name}.js").read_text(encoding="utf-8") for name in ("explorer", "gallery")
}
# The element and the data stand right before the script, which is the same on every page.
_IN_PAGE = """"use strict";
(() => {
const data = document.currentScript.previousElementSibling;
const state = { data: JSON.parse(data.textContent) };
const model = {
  get: (key) => state[key],
  set: (key, value) => { state[key] = value; },
  on() {}, off() {}, save_changes() {}, send() {},
};
const module = (() => {
%s})();
module.render({ model, el: data.previousElementSibling });
})();
"""
SCRIPTS = {
    name: _IN_PAGE % text.replace("export default", "return") for name, text in MODULES.items()
}


class Panel(anywidget.AnyWidget):
    """A module with its data; `on_message` gets what a person sends, and answers words or data."""

    _esm = traitlets.Unicode().tag(sync=True)
    _css = STYLE
    data = traitlets.Dict().tag(sync=True)
    live = traitlets.Bool(True).tag(sync=True)  # a page has no kernel and does not know the key

    def __init__(
        self,
        module: str,
        data: dict[str, Any],
        on_message: Callable[[dict[str, Any]], str | dict[str, Any]] | None = None,
    ) -> None:
        super().__init__(data=data, _esm=MODULES[module])
        self.module, self.on_message = module, on_message
        if on_message:
            self.on_msg(lambda _, message, buffers: self.answer(message))

    def answer(self, message: dict[str, Any]) -> None:
        """Hand a message of the browser to `on_message` and send back what it says."""
        try:
            said = self.on_message(message)
        except WorkbenchError as error:
            said = str(error)
        except Exception as error:
            self.send({"said": f"{type(error).__name__}: {error}"})
            raise
        self.send(said if isinstance(said, dict) else {"said": said})

    def _repr_mimebundle_(self, **kwargs: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        bundle, metadata = super()._repr_mimebundle_(**kwargs)
        words = f"[{self.module}: shown in JupyterLab while the kernel runs, and in the page]"
        page = {"module": self.module, "data": self.data}
        return {**bundle, "text/plain": words, MIME: page}, metadata


def fragment(bundle: Mapping[str, Any]) -> str:
    """Return a panel as a piece of a page, whose policy must allow `SCRIPTS[module]`."""
    script = SCRIPTS.get(bundle.get("module"))
    if script is None:
        known = ", ".join(SCRIPTS)
        raise InputError(f"there is no panel {bundle.get('module')!r}; there are {known}")
    return (
        f"<style>{STYLE}</style><div>This part needs a browser that runs JavaScript.</div>"
        f'<script type="application/json">{script_json(bundle.get("data"))}</script>'
        f"<script>{script}</script>"
    )


def script_json(value: Any) -> str:
    """Write JSON that stays data inside a <script> element, whatever the names in it."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
