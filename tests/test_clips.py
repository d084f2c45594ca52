"""Clips: one answer from the answers to their frames, in integers as in Python."""

import ctypes
import shutil
import subprocess

import numpy as np
import pytest

from tests.deploy_doubles import LABELS, make_bundle
from workbench.data.tables import Split
from workbench.decide.calibration import read_scores
from workbench.decide.clips import Clips
from workbench.deploy import verify
from workbench.deploy.verify.answers import pooled
from workbench.errors import InputError, SettingsError
from workbench.parameters import read_settings


def frames_of(seed: int = 1, frames: int = 90) -> tuple[np.ndarray, np.ndarray]:
    """Raw outputs, extremes among them, and the clip of each: some have one frame, some many."""
    rng = np.random.default_rng(seed)
    raw = np.clip(rng.normal(0, 90, (frames, len(LABELS))), -128, 127).astype(np.int8)
    return raw, np.sort(rng.integers(0, 20, frames) ** 2)


def test_a_pooled_integer_reaches_a_threshold_exactly_where_the_mean_does():
    raw, groups = frames_of()
    pooled = Clips.of(groups, pooled=True).raw(raw)
    means = np.array([raw[groups == one].astype(float).mean(0) for one in np.unique(groups)])
    for threshold in range(-128, 129):
        said = pooled.astype(int) >= threshold
        np.testing.assert_array_equal(said, means >= threshold)


def test_without_pooling_or_without_groups_every_photo_stands_alone():
    raw, groups = frames_of()
    for clips in (Clips.of(groups, pooled=False), Clips.of(None, pooled=True)):
        assert clips.raw(raw) is raw and clips.logits(raw) is raw and not clips.pools


def test_a_clip_knows_what_one_of_its_frames_knows():
    clips = Clips(np.array([0, 0, 1]))
    y_true, mask = np.array([[1.0, 0], [0, 0], [0, 1]]), np.array([[1, 1], [0, 0], [1, 0]])
    found, known = clips.labels(y_true, mask)
    assert found.tolist() == [[1, 0], [0, 0]] and known.tolist() == [[1, 1], [1, 0]]


def test_frames_of_a_clip_that_disagree_on_a_label_are_refused_by_name(tmp_path):
    targets = np.array([[1.0], [0], [1]], np.float32)
    split = Split("val", ("a.jpg", "b.jpg", "c.jpg"), tmp_path, ("x",), targets,
                  np.ones_like(targets), np.array([0, 1, 1]))  # fmt: skip
    with pytest.raises(InputError, match=r"the group of b.jpg have different labels"):
        Clips.of(split.groups, pooled=True).split(split)


def test_a_pooled_split_is_named_by_first_frames_and_its_rows_are_independent(tmp_path):
    targets = np.ones((4, 1), np.float32)
    split = Split("val", ("a", "b", "c", "d"), tmp_path, ("x",), targets, targets,
                  np.array([5, 2, 5, 2]))  # fmt: skip
    found = Clips.of(split.groups, pooled=True).split(split)
    assert found.filepaths == ("b", "a") and found.groups is None and len(found.targets) == 2


def test_scores_are_read_a_row_a_clip(tmp_path):
    raw, groups = frames_of()
    known = {"y_true": np.ones(raw.shape), "mask": np.ones(raw.shape), "groups": groups}
    np.savez(tmp_path / "scores.npz", raw=raw, scale=0.1, zero_point=0, **known)
    scores = read_scores(tmp_path / "scores.npz", "multilabel", pooled=True)
    assert len(scores.raw) == len(np.unique(groups)) and scores.groups is None


@pytest.mark.parametrize("knob", ["sigmoid_in_model", "fold_thresholds"])
def test_outputs_that_are_no_tuned_logits_cannot_be_pooled(tmp_path, knob):
    text = f"evaluation: {{pool: mean_logits}}\ntflite_export: {{{knob}: true}}\n"
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(SettingsError, match=f"tflite_export.{knob}: false"):
        read_settings(tmp_path / "mine.yaml", root=tmp_path)


def test_verify_pools_by_other_code_to_the_same_integers():
    raw, groups = frames_of(seed=3)
    rng = np.random.default_rng(2)
    place = np.unique(groups, return_inverse=True)[1]
    y_true = rng.integers(0, 2, (place.max() + 1, len(LABELS)))[place]
    mask = rng.integers(0, 2, raw.shape)
    logits = rng.normal(size=raw.shape)
    arrays = {"raw": raw, "y_true": y_true, "mask": mask, "groups": groups, "logits": logits}
    found, clips = pooled(arrays), Clips.of(groups, pooled=True)
    np.testing.assert_array_equal(found["raw"], clips.raw(raw))
    np.testing.assert_array_equal(found["logits"], clips.logits(logits))
    for one, two in zip((found["y_true"], found["mask"]), clips.labels(y_true, mask), strict=True):
        np.testing.assert_array_equal(one, two)


@pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler")
def test_the_c_code_of_the_bundle_pools_to_the_integers_of_python(tmp_path):
    source = make_bundle(tmp_path) / "app/c"
    library = tmp_path / "classifier.so"
    names = [str(source / name) for name in ("classifier.c", "model_config.c")]
    command = ["cc", "-std=c99", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC"]
    subprocess.run([*command, *names, "-lm", "-o", str(library)], check=True)
    pool, rng = ctypes.CDLL(str(library)).wb_pool, np.random.default_rng(0)
    for count in (1, 2, 3, 7, 64, 1000):
        for low, high in ((-128, 128), (-128, -126), (126, 128), (-1, 2)):
            frames = rng.integers(low, high, (count, len(LABELS))).astype(np.int8)
            found = np.zeros(len(LABELS), np.int8)
            pool(frames.ctypes.data_as(ctypes.c_void_p), count,
                 found.ctypes.data_as(ctypes.c_void_p))  # fmt: skip
            np.testing.assert_array_equal(found, verify.pool(frames))
