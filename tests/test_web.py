"""The page that runs the phone file in a browser: what it holds, and that it answers to the bit."""

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.browser import Opened, chromium
from tests.deploy_doubles import LABELS
from tests.test_app_sources import bundle_with_odd_sizes
from workbench import web
from workbench.data.decode import decode_image
from workbench.deploy import verify
from workbench.errors import InputError, StepError
from workbench.run import project_root
from workbench.settings import Settings

RUNS = project_root(Path(web.__file__).parent) / "outputs"
PRETEND = {web.GLUE: b"var ModuleFactory;", web.WASM: b"\0asm"}
needs_runtime = pytest.mark.skipif(
    not web._is_pinned(RUNS / web.FOLDER / "node_modules" / web.PACKAGE / "wasm"),
    reason=f"no LiteRT.js in outputs/{web.FOLDER}: `bundle RUN --page` brings it",
)


def parts_of(folder):
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    return parts_of(bundle_with_odd_sizes(tmp_path_factory.mktemp("page"), {}))


def test_the_page_is_the_same_text_each_time_and_asks_for_nothing(parts):
    page = web.page("shapes", parts, PRETEND)
    assert page == web.page("shapes", parts, PRETEND)
    assert "http" not in page.replace("http-equiv", "") and " src=" not in page
    assert "default-src 'none'" in page and "script-src 'wasm-unsafe-eval' 'sha256-" in page


def test_nothing_in_the_data_ends_its_script(parts):
    page = web.page("</script><b>", parts, PRETEND)
    assert page.count("</script>") == 3 and "<title>&lt;/script&gt;" in page


def test_a_network_in_floats_has_no_page(parts):
    without = {name: data for name, data in parts.items() if not name.startswith("app/javascript")}
    with pytest.raises(InputError, match="ships float logits"):
        web.page("large", without, PRETEND)


def test_without_npm_the_message_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(InputError, match=r"there is no npm\. Install Node\.js"):
        web.runtime(tmp_path)


def test_what_npm_brings_is_held_to_its_hashes(tmp_path, monkeypatch):
    place = tmp_path / web.FOLDER / "node_modules" / web.PACKAGE / "wasm"

    def bring(*_, **__):
        place.mkdir(parents=True)
        for name, data in PRETEND.items():
            (place / name).write_bytes(data)
        return subprocess.CompletedProcess([], 0, "", "")

    monkeypatch.setattr(shutil, "which", lambda name: name)
    monkeypatch.setattr(subprocess, "run", bring)
    with pytest.raises(StepError, match=r"does not hold @litertjs/core 2\.5\.3 as it is known"):
        web.runtime(tmp_path)


def test_what_npm_says_is_passed_on(tmp_path, monkeypatch):
    failed = subprocess.CompletedProcess([], 1, "", "npm error network\nENOTFOUND")
    monkeypatch.setattr(shutil, "which", lambda name: name)
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: failed)
    with pytest.raises(StepError, match="npm error network ENOTFOUND"):
        web.runtime(tmp_path)


@needs_runtime
@pytest.mark.slow
@pytest.mark.parametrize("exif", ["apply", "ignore"])
def test_a_photo_dragged_in_is_answered_as_it_was_recorded(tmp_path, exif):
    kind = {"dataset": {"exif": exif}}
    if exif == "ignore":
        kind |= {"tflite_export": {"input_type": "int8"}}
    folder = bundle_with_odd_sizes(tmp_path, kind)
    page = tmp_path / "page.html"
    page.write_text(web.page("shapes", parts_of(folder), web.runtime(RUNS)), encoding="utf-8")
    vectors = json.loads((folder / "golden/vectors.json").read_text())["vectors"]
    with chromium() as browser:
        opened = Opened(browser, page)
        opened.page.get_by_text("4 of 4 golden photos are answered to the bit").wait_for()
        for vector in vectors:
            drop(opened.page, folder / vector["picture"]["file"])
            card = opened.page.locator("section[data-raw]").first
            card.get_by_role("heading", name=f"{vector['name']}.png", exact=True).wait_for()
            assert card.get_attribute("data-raw") == " ".join(map(str, vector["raw"]))
            assert sorted(card.locator(".said").all_inner_texts()) == sorted(vector["decisions"])
            assert card.locator("dt").count() == len(LABELS)
        photo = draw_turned_photo(tmp_path)
        drop(opened.page, photo)
        found = opened.page.locator("section[data-raw]").first.get_attribute("data-raw")
        assert found == " ".join(map(str, answer(folder, photo, Settings.model_validate(kind))))
        drop(opened.page, folder / "labels.txt")
        opened.page.get_by_text("cannot open it as a photo").wait_for()
        opened.page.set_viewport_size({"width": 400, "height": 800})
        assert opened.page.evaluate("document.documentElement.scrollWidth") <= 400
        assert opened.complaints == [] and opened.requests == [page.as_uri()]


def draw_turned_photo(folder):
    """Draw a JPEG whose left half is red and upper half bright, to be turned by its EXIF."""
    pixels = np.zeros((32, 64, 3), np.uint8)
    pixels[:, :32, 0], pixels[:16, :, 1] = 250, 200
    exif = Image.Exif()
    exif[274] = 6
    Image.fromarray(pixels).save(folder / "turned.jpg", exif=exif, quality=95)
    return folder / "turned.jpg"


def answer(folder, photo, settings):
    """Answer a photo as training decoded it, in LiteRT on this machine."""
    config = json.loads((folder / verify.CONFIG).read_text())
    model = verify.open_model((folder / config["model"]["file"]).read_bytes())
    square = verify.letterbox(decode_image(photo, settings.dataset), config["input"]["width"])
    return verify.run_model(model, verify.input_table(config["input"])[square]).tolist()


def drop(page, path):
    """Drop a file on the page, as a hand does."""
    data = list(path.read_bytes())
    make = (
        "([data, name]) => { const all = new DataTransfer();"
        "all.items.add(new File([new Uint8Array(data)], name)); return all; }"
    )
    transfer = page.evaluate_handle(make, [data, path.name])
    before = page.locator("section").count()
    page.dispatch_event("body", "drop", {"dataTransfer": transfer})
    page.locator("section[data-raw]").nth(before).wait_for()
