"""The bundle: what an app developer receives, described, recorded and ready to compile."""

import json
import runpy
import shutil
import subprocess
import sys
from dataclasses import replace
from importlib.resources import files

import cv2
import jsonschema
import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter
from PIL import Image

from tests.deploy_doubles import (
    LABELS,
    LADDER,
    colour_file,
    fitted_lines,
    make_bundle,
    namespace,
    photos,
    recommendation,
)
from workbench.artifacts import InferenceConfig
from workbench.data.decode import decode_image
from workbench.deploy import sources, verify
from workbench.deploy.bundle import RIM, GoldenImage, choose_golden, seal, withdrawn_on_failure
from workbench.deploy.config import inference_config, model_metadata
from workbench.deploy.sources import c_string, kotlin_string, render, swift_string
from workbench.errors import MissingInputError, StepError
from workbench.files import write_bytes
from workbench.settings import Settings

KINDS = [
    {},
    {"tflite_export": {"fold_thresholds": True}},
    {"tflite_export": {"sigmoid_in_model": True}},
    {"tflite_export": {"fold_thresholds": True, "sigmoid_in_model": True}},
    {"task": "single_label"},
    {"task": "single_label", "tflite_export": {"sigmoid_in_model": True}},
]


def tuned(settings: Settings):
    if settings.task == "single_label":
        return namespace(
            unknown=namespace(probability=0.6),
            scores=namespace(aggregation=None),
            classes=list(LABELS),
        )
    return recommendation()


def schema(name: str) -> dict:
    return json.loads((files("workbench.deploy") / "schemas" / f"{name}.json").read_text("utf-8"))


def read(folder, name):
    return json.loads((folder / name).read_text("utf-8"))


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    folder = make_bundle(tmp_path_factory.mktemp("bundle"))
    seal(folder)
    return folder


@pytest.mark.parametrize("kind", KINDS)
def test_both_descriptions_follow_their_schemas(tmp_path, kind):
    settings = Settings.model_validate(kind)
    make_bundle(tmp_path, settings, tuned(settings))
    for name in ("inference_config", "model_metadata"):
        jsonschema.validate(read(tmp_path, f"{name}.json"), schema(name))


@pytest.mark.parametrize("name", ["inference_config", "model_metadata"])
def test_a_schema_refuses_what_it_does_not_know(packed, name):
    with pytest.raises(jsonschema.ValidationError, match="surprise"):
        jsonschema.validate(read(packed, f"{name}.json") | {"surprise": 1}, schema(name))


def test_model_metadata_has_the_fields_of_the_manual_first(packed):
    found = read(packed, "model_metadata.json")
    manual = {
        "preprocess": ["letterbox", "keep_aspect_ratio", "pad_color_rgb", "interpolation"],
        "output": ["dtype", "quantization", "is_logits", "softmax_in_model"],
    }
    assert list(found) == ["model_file", "labels_file", "input", "preprocess", "output"]
    for name, fields in manual.items():
        assert list(found[name])[: len(fields)] == fields
    assert found["output"]["softmax_in_model"] is False


def classified(folder, pixels: np.ndarray) -> list[str]:
    """Classify as an app whose author read nothing but model_metadata.json: no line of ours."""
    said = read(folder, "model_metadata.json")
    size, ready = said["input"]["width"], said["preprocess"]["normalization"]
    scale = size / max(pixels.shape[:2])
    height, width = (max(1, int(side * scale + 0.5)) for side in pixels.shape[:2])
    flags = cv2.INTER_LINEAR_EXACT
    square = np.full((size, size, 3), said["preprocess"]["pad_color_rgb"], np.float64)
    top, left = (size - height) // 2, (size - width) // 2
    small = cv2.resize(pixels, (width, height), interpolation=flags)
    square[top : top + height, left : left + width] = small
    real = (square - ready["mean_rgb"]) / ready["std_rgb"]
    levels = said["input"]["quantization"]
    tensor = np.rint(real / levels["scale"] + levels["zero_point"])
    model = Interpreter(model_content=(folder / said["model_file"]).read_bytes())
    model.allocate_tensors()
    model.set_tensor(model.get_input_details()[0]["index"], tensor[None].astype(np.uint8))
    model.invoke()
    raw = model.get_tensor(model.get_output_details()[0]["index"])[0].astype(int)
    labels = (folder / said["labels_file"]).read_text("utf-8").splitlines()
    integers = said["output"]["decision"]["integers"]
    return [label for label, value, least in zip(labels, raw, integers, strict=True)
            if value >= least]  # fmt: skip


def test_the_metadata_alone_suffices_to_classify_every_golden_image(tmp_path):
    images = [GoldenImage(str(n), one, ()) for n, one in enumerate(photos(60, size=48))]
    make_bundle(tmp_path, images=images)
    wanted = [vector["decisions"] for vector in read(tmp_path, "golden/vectors.json")["vectors"]]
    assert len({tuple(one) for one in wanted}) > 2
    assert [classified(tmp_path, one.pixels) for one in images] == wanted


def test_the_config_names_the_rung_that_ships(packed):
    shipped = read(packed, "inference_config.json")["shipped"]
    about = {"network": "student", "rung": "ptq", "title": LADDER.title}
    assert shipped == about | {"forced": False, "full_integer": True}


def test_labels_are_one_a_line_in_the_order_of_the_outputs(packed):
    assert (packed / "labels.txt").read_bytes().decode().split("\n") == [*LABELS, ""]


def test_labels_that_do_not_fit_the_outputs_are_refused(packed):
    with pytest.raises(StepError, match=r"3 outputs but labels.txt has 2 labels"):
        inference_config(packed, Settings(), LABELS[:2], recommendation(), LADDER, {})


def test_a_class_without_a_threshold_is_named(packed):
    known = recommendation(labels=("ant", "bee", "other"))
    with pytest.raises(StepError, match="has no threshold for 'café"):
        inference_config(packed, Settings(), LABELS, known, LADDER, {})


def test_folded_thresholds_keep_the_tuned_ones_beside_them(tmp_path):
    settings = Settings(tflite_export={"fold_thresholds": True})
    make_bundle(tmp_path, settings)
    entry = read(tmp_path, "inference_config.json")["thresholds"]["classes"][2]
    assert (entry["integer"], entry["logit"], entry["tuned"]["integer"]) == (0, 0.0, 12)


def test_thresholds_follow_a_sigmoid_inside_the_model(tmp_path):
    make_bundle(tmp_path, Settings(tflite_export={"sigmoid_in_model": True}))
    config = read(tmp_path, "inference_config.json")
    tuned_logit = recommendation().classes[2].logit
    found = config["thresholds"]["classes"][2]["probability"]
    assert found == pytest.approx(1 / (1 + np.exp(-tuned_logit)), abs=1.5 / 256)


def test_a_bundle_written_twice_is_the_same_bytes(tmp_path):
    first, second = (make_bundle(tmp_path / name) for name in ("first", "second"))
    names = sorted(path.relative_to(first) for path in first.rglob("*") if path.is_file())
    assert all((first / name).read_bytes() == (second / name).read_bytes() for name in names)


def test_golden_files_of_an_earlier_bundle_are_gone(tmp_path):
    make_bundle(tmp_path)
    (tmp_path / "golden/old.source.ppm").write_text("old")
    make_bundle(tmp_path)
    assert not (tmp_path / "golden/old.source.ppm").exists()


def test_a_golden_image_is_recorded_from_pixels_to_output(packed):
    vector = read(packed, "golden/vectors.json")["vectors"][0]
    parts = ("source", "picture", "letterbox", "input", "output")
    assert all((packed / vector[part]["file"]).exists() for part in parts)
    assert vector["true_labels"] == ["ant"]


def test_a_large_photo_is_thinned_out_for_the_recording(tmp_path):
    huge = GoldenImage("huge", np.zeros((2000, 1500, 3), np.uint8), ())
    make_bundle(tmp_path, images=[huge])
    vector = read(tmp_path, "golden/vectors.json")["vectors"][0]
    assert (vector["width"], vector["height"]) == (375, 500)


@pytest.mark.slow
def test_golden_images_cover_the_classes_and_the_odd_sizes(tmp_path):
    from tests.quantization_doubles import write_dataset

    split = write_dataset(tmp_path).split("val")
    images = choose_golden(split, Settings())
    covered = {name for image in images for name in image.labels}
    assert covered == set(split.classes) and {image.name for image in images} >= set(RIM)


@pytest.mark.slow
def test_a_golden_image_of_any_name_has_a_file_name_that_c_can_open(tmp_path):
    from tests.quantization_doubles import write_dataset

    split = write_dataset(tmp_path).split("val")
    odd = (tmp_path / "images" / split.filepaths[0]).rename(tmp_path / "images/ça va %s ..png")
    split = replace(split, filepaths=(odd.name, *split.filepaths[1:]))
    images = choose_golden(split, Settings(tflite_export={"golden_images": len(split)}))
    assert images[0].name == "0000__a_va__s__"


def test_sums_cover_every_file_but_themselves(packed):
    listed = {line.split("  ", 1)[1] for line in (packed / "SHA256SUMS").read_text().splitlines()}
    there = {p.relative_to(packed).as_posix() for p in packed.rglob("*") if p.is_file()}
    assert there - listed == {"SHA256SUMS"}


def test_a_bundle_written_anew_takes_the_seal_away(tmp_path):
    seal(make_bundle(tmp_path))
    make_bundle(tmp_path)
    assert not (tmp_path / "SHA256SUMS").exists()


def test_a_bundle_written_anew_leaves_nothing_of_how_verify_lay_there_before(tmp_path):
    make_bundle(tmp_path)
    (tmp_path / "verify.py").write_text("former = True")
    (tmp_path / "verify/former.py").write_text("former = True")
    make_bundle(tmp_path)
    assert (tmp_path / "verify/__main__.py").exists()
    assert not list(tmp_path.rglob("former.py")) + list(tmp_path.glob("verify.py"))


def test_sealing_again_takes_in_what_came_later(tmp_path):
    make_bundle(tmp_path)
    (tmp_path / "metrics.json").write_text("{}")
    seal(tmp_path)
    assert "metrics.json" in (tmp_path / "SHA256SUMS").read_text()


def withdrawn(folder, failure: Exception) -> set[str]:
    """Fail while a bundle lies there, and return the files that are left."""
    make_bundle(folder)
    with pytest.raises(type(failure)), withdrawn_on_failure(folder):
        raise failure
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_a_run_that_ships_nothing_leaves_no_older_bundle_behind(tmp_path):
    left = withdrawn(tmp_path, StepError("no rung of the ladder holds"))
    assert left == {"labels.txt", "threshold_recommendation.json"}


def test_a_missing_dataset_does_not_cost_the_bundle_of_a_finished_run(tmp_path):
    assert verify.MODEL in withdrawn(tmp_path, MissingInputError("No photos"))


def test_c_strings_survive_quotes_trigraphs_and_accents():
    assert c_string('a"\\??/é') == '"a\\042\\134\\077\\077/\\303\\251"'


def test_kotlin_strings_do_not_start_expressions():
    assert kotlin_string('${x} "é"') == '"\\u0024{x} \\"\\u00e9\\""'


def test_swift_strings_do_not_interpolate():
    assert swift_string("\\(x) é") == '"\\u{5c}(x) \\u{e9}"'


def test_a_place_without_a_value_is_refused():
    with pytest.raises(StepError, match=r"golden.h.tmpl: nothing to put at @VECTORS@"):
        render("golden.h.tmpl", {})


def test_generated_sources_leave_no_place_open(packed):
    for path in (packed / "app").rglob("*.*"):
        assert not sources.PLACE.search(path.read_text("utf-8")), path


def flips(folder):
    """Yield each file of a golden image with one bit of one byte flipped, a byte at a time."""
    for part in ("output.bin", "letterbox.ppm", "input.bin", "source.ppm"):
        path = folder / f"golden/image_1.{part}"
        whole = path.read_bytes()
        for place in range(len(whole)) if len(whole) < 10 else range(0, len(whole), 37):
            changed = bytearray(whole)
            changed[place] ^= 1 << (place % 8)
            path.write_bytes(changed)
            yield f"{part} byte {place}"
        path.write_bytes(whole)


def compile_app(folder, compiler: str = "cc"):
    program = folder / "self_test"
    command = [compiler, "-std=c99", "-Wall", "-Wextra", "-Werror"]
    names = sorted(str(path) for path in (folder / "app/c").glob("*.c"))
    subprocess.run([*command, *names, "-lm", "-o", str(program)], check=True)
    return program


def run_app(folder, compiler: str = "cc") -> subprocess.CompletedProcess:
    command = [str(compile_app(folder, compiler)), str(folder / "golden")]
    return subprocess.run(command, capture_output=True, text=True)


needs_compiler = pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler")
COMPILERS = [
    pytest.param(name, marks=pytest.mark.skipif(shutil.which(name) is None, reason=f"no {name}"))
    for name in ("gcc", "clang")
]


@pytest.mark.slow
@pytest.mark.parametrize("compiler", COMPILERS)
@pytest.mark.parametrize("kind", KINDS)
def test_the_c_self_test_compiles_without_a_warning_and_agrees(tmp_path, kind, compiler):
    settings = Settings.model_validate(kind)
    done = run_app(
        make_bundle(tmp_path, settings, tuned(settings), fitted=fitted_lines()), compiler
    )
    assert (done.returncode, done.stdout) == (
        0,
        "3 images from pixels to decisions, 0 differences\n",
    )


@pytest.mark.slow
@needs_compiler
def test_the_c_self_test_finds_a_changed_letterbox(tmp_path):
    make_bundle(tmp_path)
    path = tmp_path / "app/c/letterbox.c"
    path.write_text(path.read_text().replace("32768", "32767"))
    done = run_app(tmp_path)
    assert done.returncode == 1 and "letterbox differs" in done.stdout


@pytest.mark.slow
@needs_compiler
def test_the_c_self_test_finds_a_flipped_bit_in_every_golden_file(tmp_path):
    command = [str(compile_app(make_bundle(tmp_path))), str(tmp_path / "golden")]
    assert subprocess.run(command, capture_output=True).returncode == 0
    missed = [what for what in flips(tmp_path)
              if subprocess.run(command, capture_output=True).returncode == 0]  # fmt: skip
    assert missed == []


@pytest.mark.slow
@needs_compiler
def test_the_c_self_test_finds_a_changed_threshold(tmp_path):
    make_bundle(tmp_path)
    path = tmp_path / "app/c/model_config.c"
    path.write_text(path.read_text().replace("{-3, 0, 12}", "{127, 127, -128}"))
    done = run_app(tmp_path)
    assert done.returncode == 1 and "decision differs" in done.stdout


def test_the_python_snippet_runs_the_model_on_photos_and_folders(packed, tmp_path):
    (tmp_path / "torn.jpg").write_bytes(b"no photo")
    picture = packed / "golden/image_0.png"
    shutil.copy(picture, tmp_path / "in_a_folder.PNG")
    command = [sys.executable, str(packed / "app/python/classify.py")]
    done = subprocess.run([*command, str(picture), str(tmp_path)], capture_output=True, text=True)
    vector = read(packed, "golden/vectors.json")["vectors"][0]
    shown = dict(zip(LABELS, vector["probabilities"], strict=True))
    best = max(shown, key=shown.get)
    none = f"none of the classes (most likely {best} {shown[best]:.0%})"
    wanted = ", ".join(f"{name} {shown[name]:.0%}" for name in vector["decisions"]) or none
    assert done.stdout == f"{picture}: {wanted}\n{tmp_path / 'in_a_folder.PNG'}: {wanted}\n"
    assert done.returncode == 1 and "torn.jpg: cannot be read" in done.stderr


def test_the_python_snippet_explains_itself_and_what_is_missing(packed, capsys):
    main = runpy.run_path(str(packed / "app/python/classify.py"))["main"]
    with pytest.raises(SystemExit) as left:
        main(["--help"])
    assert left.value.code == 0 and "folders of them" in capsys.readouterr().out
    assert main(["nowhere.jpg"]) == 2
    assert "nowhere.jpg does not exist. Give photos or folders" in capsys.readouterr().err


@pytest.mark.slow
@needs_compiler
def test_the_c_self_test_finds_a_changed_calibration(tmp_path):
    make_bundle(tmp_path, fitted=fitted_lines())
    path = tmp_path / "app/c/model_config.c"
    path.write_text(path.read_text().replace("{1.5, 1.0, 0.4}", "{1.5, 1.0, 0.41}"))
    done = run_app(tmp_path)
    assert done.returncode == 1 and "probability differs in 1 places" in done.stdout


@pytest.mark.parametrize("kind", KINDS)
def test_the_golden_probabilities_are_those_of_the_lines_and_no_decision_moves(tmp_path, kind):
    settings = Settings.model_validate(kind)
    both = [make_bundle(tmp_path / name, settings, tuned(settings), fitted=lines)
            for name, lines in (("plain", None), ("corrected", fitted_lines()))]  # fmt: skip
    plain, found = (read(folder, "golden/vectors.json")["vectors"] for folder in both)
    assert [one["decisions"] for one in plain] == [one["decisions"] for one in found]
    output = read(both[1], "inference_config.json")["output"]
    levels = np.array([one["raw"] for one in found], np.float64)
    values = (levels - output["zero_point"]) * output["scale"]
    if not output["is_logits"]:
        chance = np.clip(values, 2**-12, 1 - 2**-12)
        values = np.log(chance if settings.task == "single_label" else chance / (1 - chance))
    if settings.tflite_export.fold_thresholds:
        scores = recommendation().scores
        integers = np.array([entry.integer for entry in recommendation().classes])
        values = values + (integers - scores.zero_point) * scores.scale
    lines = np.array([1.5, 1.0, 0.4]) * values + np.array([-0.2, 0.0, 0.7])
    softmax = np.exp(lines) / np.exp(lines).sum(1, keepdims=True)
    wanted = softmax if settings.task == "single_label" else 1 / (1 + np.exp(-lines))
    np.testing.assert_allclose([one["probabilities"] for one in found], wanted, atol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_the_python_snippet_compares_the_golden_vectors(tmp_path, kind):
    settings = Settings.model_validate(kind)
    folder = make_bundle(tmp_path, settings, tuned(settings), fitted=fitted_lines())
    command = [sys.executable, str(folder / "app/python/classify.py")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "3 images and their clip, 0 differ\n")
    path = folder / "inference_config.json"
    path.write_text(path.read_text().replace('"slope": 0.4', '"slope": 0.41'))
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, "3 images and their clip, 4 differ\n")


def draw_odd_pictures(folder) -> list[str]:
    """Draw photos whose pixels depend on who decodes: turned, transparent, of 16 bits."""
    rng = np.random.default_rng(4)
    rgba = rng.integers(0, 256, (20, 30, 4), dtype=np.uint8)
    turned = Image.Exif()
    turned[274] = 6
    palette = Image.fromarray(rgba[:, :, :3]).quantize(8)
    pictures = {
        "turned.jpg": (Image.fromarray(rgba[:, :, :3]), {"exif": turned}),
        "turned_and_transparent.png": (Image.fromarray(rgba), {"exif": turned}),
        "palette.png": (palette, {"transparency": 3}),
        "grey_alpha.png": (Image.fromarray(rgba[:, :, :2]), {}),
        "sixteen.png": (Image.fromarray(rgba.view(np.uint16)[:, :, 0]), {}),
    }
    for name, (picture, extra) in pictures.items():
        picture.save(folder / name, **extra)
    return list(pictures)


@pytest.mark.parametrize("exif", ["apply", "ignore"])
def test_the_python_snippet_sees_the_pixels_that_training_saw(tmp_path, exif):
    settings = Settings(dataset={"exif": exif})
    snippet = runpy.run_path(str(make_bundle(tmp_path, settings) / "app/python/classify.py"))
    for name in draw_odd_pictures(tmp_path):
        trained_on = decode_image(tmp_path / name, settings.dataset)
        seen = snippet["read_image"](tmp_path / name, read(tmp_path, "inference_config.json"))
        np.testing.assert_array_equal(seen, trained_on, err_msg=name)


def test_a_file_with_another_input_scale_is_refused(tmp_path):
    from workbench.deploy import flatbuffer

    tree = flatbuffer.parse(colour_file())
    tree.subgraphs[0].tensors[0].quantization.scale = np.array([0.02], np.float32)
    write_bytes(tmp_path / verify.MODEL, flatbuffer.pack(tree))
    write_bytes(tmp_path / "labels.txt", b"")
    with pytest.raises(StepError, match=r"input scale is 0.01999.*bytes of an image as they are"):
        inference_config(tmp_path, Settings(), LABELS, recommendation(), LADDER, {})


def test_descriptions_of_a_single_label_apply_softmax(tmp_path):
    settings = Settings(task="single_label")
    make_bundle(tmp_path, settings, tuned(settings))
    config = InferenceConfig.read(tmp_path)
    assert config.output.activation == "softmax"
    assert model_metadata(config).output.softmax_in_model is False


def described(folder, kind: dict, fitted=None, known=None):
    settings = Settings.model_validate(kind)
    make_bundle(folder, settings, known or tuned(settings))
    known = known or tuned(settings)
    return inference_config(
        folder, settings, LABELS, known, LADDER, {}, fitted or fitted_lines()
    ).to_json()


@pytest.mark.parametrize("kind", KINDS)
def test_the_lines_that_correct_a_percentage_follow_the_schema(tmp_path, kind):
    config = described(tmp_path, kind)
    jsonschema.validate(config, schema("inference_config"))
    assert [row["label"] for row in config["calibration"]["classes"]] == list(LABELS)


def test_folding_thresholds_leaves_the_corrected_percentage_as_it_was(tmp_path):
    plain = described(tmp_path / "plain", {})["calibration"]["classes"]
    folded = described(tmp_path / "folded", {"tflite_export": {"fold_thresholds": True}})
    for before, after, entry in zip(
        plain, folded["calibration"]["classes"], recommendation().classes, strict=True
    ):
        scores = recommendation().scores
        moved = (entry.integer - scores.zero_point) * scores.scale
        logit = 0.7
        ours = after["slope"] * (logit - moved) + after["intercept"]
        assert ours == pytest.approx(before["slope"] * logit + before["intercept"])


def test_a_class_pushed_off_the_scale_by_folding_has_no_correction(tmp_path):
    known = recommendation(integers=(-128, 0, 128))
    kind = {"tflite_export": {"fold_thresholds": True}}
    lines = described(tmp_path, kind, known=known)["calibration"]["classes"]
    assert [row["slope"] for row in lines] == [None, 1.0, None]


def test_without_a_correction_the_config_says_null(tmp_path):
    fitted = fitted_lines()
    for row in fitted["classes"]:
        row["ships"] = False
    assert described(tmp_path, {}, fitted)["calibration"] is None
