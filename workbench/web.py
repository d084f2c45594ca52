"""One page that runs the phone file in a browser, offline: LiteRT.js, the model, the app's sources.

The runtime comes from npm once, is held to its hashes, and stays beside the runs.
"""

from __future__ import annotations

import base64
import gzip
import json
import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from workbench.deploy import verify
from workbench.deploy.sources import TEMPLATES, render
from workbench.errors import InputError, StepError
from workbench.files import sha256
from workbench.show.page import document

VERSION = "2.5.3"
PACKAGE = "@litertjs/core"
FOLDER = ".litert_js"  # beside the runs
GLUE, WASM = "litert_wasm_compat_internal.js", "litert_wasm_compat_internal.wasm"
PINNED = {
    GLUE: "4d8f894b7883654fd6e8439730aa41e79ceaab7d19184fc4f1f0b0f1a2a2c8a5",
    WASM: "5255c8ad06eabdbd2522cdebf6b22fc10faf74625c23a49b9e072570cd1fa41c",
}
MINUTES = 10  # that npm may take
SOURCE = "app/javascript/classifier.js"


def page(name: str, parts: Mapping[str, bytes], runtime: Mapping[str, bytes]) -> str:
    """Build the page of a bundle, given its files and those of the runtime."""
    if SOURCE not in parts:
        raise InputError("a page in the browser needs a phone file; this run ships float logits")
    config, recorded = json.loads(parts[verify.CONFIG]), json.loads(parts[verify.VECTORS])
    vectors = recorded["vectors"]
    payload = {
        "name": name, "wasm": _packed(runtime[WASM]),
        "model": _packed(parts[config["model"]["file"]]),
        "inputs": _packed(b"".join(parts[vector["input"]["file"]] for vector in vectors)),
        "raw": [vector["raw"] for vector in vectors],
    }  # fmt: skip
    own = re.sub(r"^export ", "", parts[SOURCE].decode(), flags=re.MULTILINE)
    own = f"(async () => {{\n{own}\n{(TEMPLATES / 'web/page.js').read_text('utf-8')}}})();\n"
    scripts = (runtime[GLUE].decode(), own)
    held = json.dumps(payload).replace("<", "\\u003c")
    body = (
        f'<script type="application/json" id="payload">{held}</script>'
        + render("web/page.html", {"VERSION": VERSION})
        + "".join(f"<script>{text}</script>" for text in scripts)
    )
    return document(name, body, scripts, wasm=True)


def _packed(data: bytes) -> str:
    return base64.b64encode(gzip.compress(data, 9, mtime=0)).decode()


def runtime(runs: Path) -> dict[str, bytes]:
    """Read LiteRT.js as it is kept beside the runs; where it is not there, npm brings it once."""
    folder = runs / FOLDER
    place = folder / "node_modules" / PACKAGE / "wasm"
    if not _is_pinned(place):
        _fetch(folder)
    if not _is_pinned(place):
        raise StepError(
            f"{place} does not hold {PACKAGE} {VERSION} as it is known. Delete {folder}"
        )
    return {name: (place / name).read_bytes() for name in PINNED}


def _is_pinned(place: Path) -> bool:
    return all((place / n).is_file() and sha256(place / n) == known for n, known in PINNED.items())


def _fetch(folder: Path) -> None:
    npm = shutil.which("npm")
    if not npm:
        raise InputError(
            f"The page needs {PACKAGE} {VERSION}, which npm brings once, and there is no npm. "
            f"Install Node.js, or unpack that package into {folder / 'node_modules' / PACKAGE}"
        )
    folder.mkdir(parents=True, exist_ok=True)
    options = ("--prefix", ".", "--ignore-scripts", "--no-audit", "--no-fund", "--no-save")
    command = [npm, "install", *options, f"{PACKAGE}@{VERSION}"]
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, timeout=60 * MINUTES, check=False
    )
    if done.returncode:
        last = " ".join(done.stderr.split()[-40:])
        raise StepError(f"npm did not bring {PACKAGE} {VERSION}: {last}")
