"""Verify: every number of a bundle derived again, and the right words when one differs."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.deploy_doubles import LABELS, colour_file, make_bundle, photos, recommendation
from workbench.decide import metrics
from workbench.decide.outcomes import decide, probabilities
from workbench.deploy import bundle, tflite
from workbench.deploy.bundle import write_test_scores
from workbench.deploy.verify import sealed_files, verify
from workbench.deploy.verify.agreement import MismatchError, compare
from workbench.deploy.verify.answers import Answers
from workbench.deploy.verify.evaluation import evaluate
from workbench.files import sha256, write_json, write_text
from workbench.settings import Settings
from workbench.steps import STEPS


@pytest.fixture(scope="module")
def packed(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("bundle")
    make_bundle(folder)
    write_metrics(folder, images=40)
    bundle.seal(folder)
    return folder


@pytest.fixture
def copy(packed, tmp_path) -> Path:
    return Path(shutil.copytree(packed, tmp_path / "copy"))


def write_metrics(folder: Path, images: int) -> None:
    """Write what 09 leaves, computed by decide.metrics rather than by verify."""
    pixels = photos(images, seed=9)
    raw = tflite.run_tflite(colour_file(), pixels)
    rng = np.random.default_rng(5)
    y_true = ((raw > 0) ^ (rng.random(raw.shape) < 0.2)).astype(np.float32)
    mask = (rng.random(raw.shape) < 0.9).astype(np.float32)
    chosen = recommendation().classes
    scores = probabilities(tflite.logits_of(raw, *tflite.output_quantization(colour_file())),
                           "multilabel")  # fmt: skip
    found = metrics.evaluate(
        y_true, scores, np.array([entry.probability for entry in chosen]), LABELS,
        mask=mask, task="multilabel",
    )  # fmt: skip
    entry = write_test_scores(
        folder / "test_scores.npz", raw, y_true, mask, [f"{n}.jpg" for n in range(images)],
        lambda rows: [pixels[row] for row in rows], spot_checks=4, seed=1,
    )  # fmt: skip
    write_json(
        folder / "metrics.json", {"schema": 1, "test": found.to_json(), "test_scores": entry}
    )


def broken(folder: Path) -> dict[str, str]:
    return {check.name: check.detail for check in verify(folder).checks if check.passed is False}


def change_json(path: Path, change) -> None:
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


def flip_bit(path: Path, place: int = 100) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


def test_an_untouched_bundle_passes_every_check(packed):
    assert verify(packed).passed, verify(packed).text


def test_figures_that_other_code_computed_are_derived_to_the_last_digit(packed):
    detail = {check.name: check.detail for check in verify(packed).checks}
    assert "figures derived" in detail["metrics.json"]
    assert detail["test answers"] == "4 of 40 test images run again"


def test_one_flipped_bit_of_the_model_is_named(copy):
    flip_bit(copy / "model_qat_int8.tflite", 700)
    assert "the model was changed or damaged" in broken(copy)["model"]


def test_a_changed_label_is_named(copy):
    path = copy / "labels.txt"
    path.write_text(path.read_text().replace("ant", "wasp"))
    assert "labels of labels.txt differ: ['wasp'" in broken(copy)["labels"]


def test_labels_of_another_run_are_told_from_those_inside_the_model(copy):
    change_json(copy / "inference_config.json", lambda c: c["labels"].__setitem__(0, "wasp"))
    (copy / "labels.txt").write_text("\n".join(("wasp", *LABELS[1:])) + "\n")
    assert "labels inside the model" in broken(copy)["labels"]


def test_a_changed_threshold_of_the_config_is_named(copy):
    def change(config):
        config["thresholds"]["classes"][1]["integer"] += 1

    change_json(copy / "inference_config.json", change)
    assert "threshold of bee: logit" in broken(copy)["thresholds"]


def test_a_threshold_tuned_after_the_bundle_was_made_is_named(copy):
    def change(tuned):
        tuned["classes"][0].update(vars(recommendation(integers=(9, 0, 12)).classes[0]))

    change_json(copy / "threshold_recommendation.json", change)
    assert "integer of ant" in broken(copy)["thresholds"]


def test_a_changed_scale_is_named(copy):
    change_json(copy / "model_metadata.json", lambda m: m["output"]["quantization"].update(scale=1))
    assert "output of model_metadata.json" in broken(copy)["ports"]


@pytest.mark.parametrize("part", ["source.ppm", "letterbox.ppm", "input.bin", "output.bin", "png"])
def test_one_flipped_bit_of_a_golden_file_is_named(copy, part):
    flip_bit(copy / f"golden/image_1.{part}", 1)
    assert f"golden/image_1.{part}" in broken(copy)["golden"]


def test_a_golden_file_changed_together_with_its_hash_still_contradicts_the_letterbox(copy):
    flip_bit(copy / "golden/image_1.letterbox.ppm", 300)

    def change(vectors):
        digest = sha256(copy / "golden/image_1.letterbox.ppm")
        vectors["vectors"][1]["letterbox"]["sha256"] = digest

    change_json(copy / "golden/vectors.json", change)
    assert broken(copy)["golden"] == "image_1: letterbox differs from the recorded bytes"


def test_a_changed_decision_is_named(copy):
    change_json(copy / "golden/vectors.json", lambda v: v["vectors"][0].update(decisions=["x"]))
    assert "image_0: decisions" in broken(copy)["golden"]


def test_a_test_figure_that_nobody_measured_is_named(copy):
    def change(found):
        found["test"]["overall"]["f1_macro"]["value"] += 0.001

    change_json(copy / "metrics.json", change)
    assert broken(copy)["metrics.json"].startswith(
        "metrics.json, test, overall, f1_macro, value is"
    )


def test_test_scores_of_another_model_are_named(copy):
    path = copy / "test_scores.npz"
    with np.load(path) as scores:
        arrays = dict(scores)
    arrays["raw"] = (arrays["raw"] // 2).astype(np.int8)
    np.savez(path, **arrays)
    change_json(copy / "metrics.json", lambda m: m.pop("test_scores"))
    assert "levels off test_scores.npz" in broken(copy)["test answers"]


def test_a_missing_file_is_named(copy):
    (copy / "golden/image_0.input.bin").unlink()
    assert "golden/image_0.input.bin cannot be read" in broken(copy)["golden"]


def test_a_golden_file_outside_the_folder_is_not_read(copy):
    change_json(
        copy / "golden/vectors.json", lambda v: v["vectors"][0]["source"].update(file="/dev/zero")
    )
    assert broken(copy)["golden"] == "/dev/zero leads out of the folder"


def damage(data: bytes, rng: np.random.Generator) -> bytes:
    """Flip a bit, cut the end off, or put noise in the middle."""
    kind, place = rng.integers(3), int(rng.integers(len(data)))
    if kind == 0:
        return data[:place] + bytes([data[place] ^ (1 << rng.integers(8))]) + data[place + 1 :]
    return data[:place] if kind == 1 else data[:place] + rng.bytes(20) + data[place + 20 :]


def test_whatever_is_damaged_is_found_and_nothing_crashes(copy):
    rng = np.random.default_rng(11)
    names = [path for path in sorted(copy.rglob("*")) if path.is_file()]
    for path in (names[number] for number in rng.integers(0, len(names), 120)):
        whole = path.read_bytes()
        path.write_bytes(damage(whole, rng))
        if path.read_bytes() != whole:
            assert not verify(copy).passed, path
        path.write_bytes(whole)
    assert verify(copy).passed


def test_half_a_config_is_refused_in_words(copy):
    path = copy / "inference_config.json"
    path.write_text(path.read_text()[:200])
    assert "inference_config.json is not valid JSON" in verify(copy).text


def test_a_folder_that_is_no_bundle_is_refused_in_words(tmp_path):
    assert "inference_config.json cannot be read" in verify(tmp_path).text


def test_any_changed_file_is_named_by_the_sums(copy):
    (copy / "app/c/classifier.c").write_text("int main(void) { return 0; }\n")
    assert broken(copy) == {"hashes": "changed since they were written: app/c/classifier.c"}


def test_a_file_that_the_sums_leave_out_is_named(copy):
    path = copy / "SHA256SUMS"
    path.write_text("\n".join(path.read_text().splitlines()[:-1]) + "\n")
    assert broken(copy)["hashes"].startswith("SHA256SUMS does not list verify/verdict.py")


def test_all_that_the_steps_leave_is_sealed_but_weights(tmp_path):
    handed_on = {name.rstrip("?") for step in STEPS for name in step.writes}
    handed_on -= {name for name in handed_on if name.endswith(".h5")} | {"candidates"}
    inside = {name if "." in name else f"{name}/part.bin" for name in handed_on}
    for name in inside | {f"html/{step.page}" for step in STEPS}:
        write_text(tmp_path / name, "made")
    assert set(sealed_files(tmp_path)) >= inside | {f"html/{step.page}" for step in STEPS}


def test_a_page_changed_after_the_seal_is_named(copy):
    write_text(copy / "html/09_eval_report.html", "F1 0.93")
    bundle.seal(copy)
    write_text(copy / "html/09_eval_report.html", "F1 0.98")
    assert broken(copy)["hashes"].endswith("since they were written: html/09_eval_report.html")


def test_what_python_leaves_beside_a_sealed_file_is_no_part_of_the_bundle(copy):
    write_text(copy / "verify/__pycache__/pages.pyc", "")
    assert broken(copy) == {}


def test_a_run_that_was_packed_with_verify_in_one_file_is_judged_as_it_was(copy):
    shutil.rmtree(copy / "verify")
    write_text(copy / "verify.py", "former = True")
    bundle.seal(copy)
    assert broken(copy) == {}
    write_text(copy / "verify.py", "former = False")
    assert broken(copy) == {"hashes": "changed since they were written: verify.py"}


def test_a_finished_run_without_a_seal_is_named(copy):
    (copy / "SHA256SUMS").unlink()
    assert "SHA256SUMS cannot be read" in broken(copy)["hashes"]


def test_a_bundle_before_the_evaluation_has_no_test_figures_to_check(tmp_path):
    make_bundle(tmp_path)
    assert verify(tmp_path).passed
    assert "09_eval_report has not run" in verify(tmp_path).text


@pytest.mark.parametrize(
    "export",
    [
        {"fold_thresholds": True},
        {"sigmoid_in_model": True},
        {"fold_thresholds": True, "sigmoid_in_model": True},
    ],
)
def test_folded_thresholds_and_probabilities_inside_pass_every_check(tmp_path, export):
    make_bundle(tmp_path, Settings(tflite_export=export))
    assert verify(tmp_path).passed, verify(tmp_path).text


def test_the_copy_in_the_bundle_needs_litert_and_numpy_only_and_leaves_nothing(packed, tmp_path):
    blocked = ["tensorflow", "tf_keras", "workbench", "cv2", "pandas", "scipy", "pydantic", "PIL"]
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({blocked!r})); "
        f"import runpy; runpy.run_path({str(packed / 'verify')!r}, run_name='__main__')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.stdout.splitlines()[-1].startswith(f"{packed}: every check passed"), done.stderr
    assert not (packed / "verify/__pycache__").exists()


def test_a_failed_check_is_the_exit_code(copy):
    flip_bit(copy / "labels.txt", 0)
    done = subprocess.run([sys.executable, "verify"], cwd=copy, capture_output=True, text=True)
    assert done.returncode == 1 and "FAILED" in done.stdout


@pytest.mark.parametrize("task", ["multilabel", "single_label"])
@pytest.mark.parametrize("clips", [None, 12])
def test_intervals_are_derived_from_the_answers_alone(task, clips):
    rng = np.random.default_rng(4)
    y_true = np.eye(4)[rng.integers(0, 3, 60)]  # the last class never occurs
    y_score = rng.dirichlet(np.ones(4), 60) * 0.5 + y_true * 0.5
    mask = (rng.random(y_true.shape) < 0.9).astype(float)
    groups = None if clips is None else rng.integers(0, clips, 60)
    stated = metrics.evaluate(
        y_true, y_score, 0.6, ["a", "b", "c", "d"], mask=mask, task=task, replicates=5,
        groups=groups,
    ).to_json()  # fmt: skip
    said = decide(y_score, 0.6, task)
    config = {"labels": ["a", "b", "c", "d"], "task": task}
    answers = Answers(y_true > 0, mask > 0, y_score, said, config, groups)
    derived = evaluate(answers, 0.6, stated)
    figures, left = compare("metrics", stated, derived)
    assert figures > 100
    assert [place for place in left if place.endswith(("interval", "_low", "_high"))] == []
    stated["classes"][0]["f1_low"] += 0.01
    with pytest.raises(MismatchError, match="f1_low"):
        compare("metrics", stated, derived)
