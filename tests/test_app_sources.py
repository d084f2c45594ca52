"""The generated sources, compiled and run on the golden vectors where there is a compiler."""

import io
import re
import shutil
import subprocess

import numpy as np
import pytest
from PIL import Image, ImageOps

from tests.deploy_doubles import fitted_lines, make_bundle
from tests.test_bundle import KINDS, tuned
from workbench.deploy import verify
from workbench.deploy.bundle import RIM, GoldenImage
from workbench.deploy.sources import TEMPLATES, javascript_string
from workbench.settings import Settings

INT8_INPUT = {"tflite_export": {"input_type": "int8"}}
COMPILED = [{}, {"task": "single_label", "tflite_export": {"sigmoid_in_model": True}}]
SOURCES = {"kotlin": "Decisions.kt", "swift": "Decisions.swift", "javascript": "classifier.js"}
COMMANDS = {
    "kotlin": "kotlinc Decisions.kt GoldenTest.kt -include-runtime -d ../../golden.jar",
    "swift": "swiftc -parse-as-library Decisions.swift GoldenTest.swift -o ../../golden_test",
    "javascript": "node --version",
}
RUNS = {
    "kotlin": "java -jar ../../golden.jar",
    "swift": "../../golden_test",
    "javascript": "node golden_test.mjs",
}
LANGUAGES = [
    pytest.param(name, marks=[
        pytest.mark.skipif(not shutil.which(command.split()[0]), reason=f"no {command.split()[0]}"),
        *([pytest.mark.slow, pytest.mark.timeout(600)] if name != "javascript" else []),
    ])
    for name, command in COMMANDS.items()
]  # fmt: skip
NODE = pytest.mark.skipif(not shutil.which("node"), reason="there is no Node.js")
STUBS = {  # as much of Android as Classifier.kt touches
    "android.content": "class Assets { fun open(file: String): java.io.InputStream = TODO() }\n"
    "open class Context { val assets = Assets() }",
    "android.graphics": """class Bitmap(val width: Int, val height: Int) {
    enum class Config { ARGB_8888, HARDWARE }
    val config: Config? = null
    fun copy(config: Config, mutable: Boolean): Bitmap = this
    fun getPixels(to: IntArray, start: Int, stride: Int, x: Int, y: Int, w: Int, h: Int) {}
}
object BitmapFactory { fun decodeStream(stream: java.io.InputStream): Bitmap? = null }""",
    "androidx.exifinterface.media": """class ExifInterface(stream: java.io.InputStream) {
    fun getAttributeInt(tag: String, fallback: Int): Int = fallback
    companion object { const val TAG_ORIENTATION = "Orientation" }
}""",
    "org.tensorflow.lite": """class Interpreter(model: java.nio.ByteBuffer) : AutoCloseable {
    fun run(input: Any, output: Any) {}
    override fun close() {}
}""",
}


def bundle_with_odd_sizes(folder, kind):
    rng = np.random.default_rng(5)
    images = [GoldenImage(name, rng.integers(0, 256, (*size, 3), dtype=np.uint8), ("ant",))
              for name, size in RIM.items()]  # fmt: skip
    settings = Settings.model_validate(kind)
    return make_bundle(folder, settings, tuned(settings), images, fitted_lines())


def golden_test(folder, language):
    """Compile and run the golden test of a language as its page says."""
    place = folder / "app" / language
    page = (place / "README.md").read_text()
    assert RUNS[language] in page and (language == "javascript" or COMMANDS[language] in page)
    built = subprocess.run(COMMANDS[language].split(), cwd=place, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    command = [*RUNS[language].split(), "../../golden"]
    return subprocess.run(command, cwd=place, capture_output=True, text=True)


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("kind", COMPILED)
def test_every_language_agrees_with_the_recording(tmp_path, kind, language):
    done = golden_test(bundle_with_odd_sizes(tmp_path, kind), language)
    assert done.stdout == "4 images from pixels to decisions, 0 differences\n", done.stderr
    assert done.returncode == 0


@NODE
@pytest.mark.parametrize("kind", [*KINDS, INT8_INPUT])
def test_javascript_agrees_for_every_kind_of_file(tmp_path, kind):
    done = golden_test(bundle_with_odd_sizes(tmp_path, kind), "javascript")
    assert done.stdout == "4 images from pixels to decisions, 0 differences\n", done.stderr


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_golden_test_finds_what_is_wrong_with_an_app(tmp_path, language):
    folder = bundle_with_odd_sizes(tmp_path, {})
    path = folder / "app" / language / SOURCES[language]
    text = path.read_text()
    for right, wrong in (("32768", "32767"), ("1.0, 0.4", "1.0, 0.41"), (">= ", "< ")):
        assert right in text
        text = text.replace(right, wrong)
    path.write_text(text)
    done = golden_test(folder, language)
    assert done.returncode == 1
    for what in ("letterbox", "probability", "decision"):
        assert f"{what} differs" in done.stdout


@NODE
def test_the_letterbox_of_javascript_is_that_of_the_contract(tmp_path):
    place = bundle_with_odd_sizes(tmp_path, {}) / "app/javascript"
    rng = np.random.default_rng(8)
    shapes = [tuple(rng.integers(1, 90, 2)) for _ in range(25)]
    pictures = [rng.integers(0, 256, (*shape, 4), dtype=np.uint8) for shape in shapes]
    (place / "pixels.bin").write_bytes(b"".join(map(bytes, pictures)))
    (place / "all.mjs").write_text(f"""
import {{ readFileSync, writeFileSync }} from "node:fs";
import {{ letterbox }} from "./classifier.js";
const all = readFileSync("pixels.bin"), squares = [];
let start = 0;
for (const [height, width] of {[list(map(int, one)) for one in shapes]}) {{
  squares.push(letterbox(all.subarray(start, start += height * width * 4), width, height, 4, 33));
}}
writeFileSync("squares.bin", Buffer.concat(squares));
""")
    subprocess.run(["node", "all.mjs"], cwd=place, check=True)
    wanted = b"".join(verify.letterbox(one[:, :, :3], 33).tobytes() for one in pictures)
    assert (place / "squares.bin").read_bytes() == wanted


def test_orientations_are_those_that_pillow_knows():
    found = []
    for orientation in range(1, 9):
        exif, file = Image.Exif(), io.BytesIO()
        exif[274] = orientation
        Image.fromarray(np.arange(6, dtype=np.uint8).reshape(3, 2)).save(file, "PNG", exif=exif)
        turned = ImageOps.exif_transpose(Image.open(file))
        found.append("".join(map(str, np.asarray(turned).ravel())))
    for name in ("kotlin/GoldenTest.kt.tmpl", "swift/GoldenTest.swift.tmpl"):
        table = re.search(r'"012345".*"', (TEMPLATES / name).read_text())[0]
        assert table.replace('"', "").split(", ") == found


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.skipif(not shutil.which("kotlinc"), reason="no kotlinc")
def test_what_android_adds_compiles_against_as_much_of_android_as_it_touches(tmp_path):
    place = bundle_with_odd_sizes(tmp_path, {}) / "app/kotlin"
    for package, text in STUBS.items():
        (place / f"{package}.kt").write_text(f"package {package}\n{text}\n")
    names = ["Decisions.kt", "Classifier.kt", *(f"{package}.kt" for package in STUBS)]
    command = ["kotlinc", *names, "-include-runtime", "-d", "android.jar"]
    done = subprocess.run(command, cwd=place, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("exif", ["apply", "ignore"])
def test_sources_and_pages_say_whether_photos_are_turned(tmp_path, exif):
    folder = bundle_with_odd_sizes(tmp_path, {"dataset": {"exif": exif}}) / "app"
    turned = str(exif == "apply").lower()
    assert f"const val EXIF = {turned}" in (folder / "kotlin/Decisions.kt").read_text()
    assert f"static let exif = {turned}" in (folder / "swift/Decisions.swift").read_text()
    assert f"export const EXIF = {turned}" in (folder / "javascript/classifier.js").read_text()
    assert ("trained without EXIF" in (folder / "c/README.md").read_text()) == (exif == "ignore")


def test_a_label_cannot_end_the_script_it_stands_in():
    assert javascript_string('</script>"') == '"\\u003c/script>\\""'
