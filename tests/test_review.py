"""A reviewer's signature: on a run that agrees with itself, and void once a file changed."""

import json
import shutil
from pathlib import Path

import pytest

from tests.deploy_doubles import make_bundle
from workbench.deploy.bundle import seal
from workbench.deploy.review import Review, sign
from workbench.deploy.verify import verify
from workbench.errors import InputError, MissingInputError


@pytest.fixture(scope="module")
def sealed(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    make_bundle(folder)
    seal(folder)
    return folder


@pytest.fixture
def run(sealed, tmp_path) -> Path:
    return Path(shutil.copytree(sealed, tmp_path / "run"))


def review_of(folder: Path) -> tuple[bool | None, str]:
    return next((one.passed, one.detail) for one in verify(folder).checks if one.name == "review")


def test_nobody_has_to_sign(run):
    assert review_of(run) == (None, "not here: nobody signed") and verify(run).passed


def test_a_signature_is_found_and_leaves_the_seal_as_it_is(run):
    said = sign(run, "with care", " Ada ", "rare classes are guesses")
    kept = Review.read(run)
    assert (kept.verdict, kept.name, kept.note) == ("with care", "Ada", "rare classes are guesses")
    assert '"with care"' in said and set(kept.reviewed) >= {"SHA256SUMS", "model_qat_int8.tflite"}
    passed, words = review_of(run)
    assert passed and words.startswith("'Ada' says 'with care' of these")
    assert verify(run).passed


def test_a_run_that_was_sealed_anew_with_something_changed_must_be_signed_again(run):
    sign(run, "ready", "Ada")
    (run / "app/c/classifier.c").write_text("int main(void) { return 0; }\n")
    seal(run)
    passed, words = review_of(run)
    assert passed is False and words.startswith("changed since 'Ada' signed: SHA256SUMS.")
    sign(run, "ready", "Ada")
    assert review_of(run)[0]


@pytest.mark.parametrize(("key", "value"), [("verdict", "superb"), ("reviewed", {})])
def test_a_signature_that_says_nothing_is_named(run, key, value):
    sign(run, "ready", "Ada")
    path = run / "review.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
    assert review_of(run)[0] is False and "is no verdict on a sealed run" in review_of(run)[1]


def test_nothing_is_signed_that_does_not_agree_with_itself_or_is_not_whole(run):
    (run / "labels.txt").write_text("wasp\n")
    with pytest.raises(InputError, match="hashes: changed since"):
        sign(run, "ready", "Ada")
    (run / "SHA256SUMS").unlink()
    with pytest.raises(MissingInputError, match="is not sealed"):
        sign(run, "ready", "Ada")
    assert not (run / "review.json").exists()


@pytest.mark.parametrize("name", ["", "   ", "Ada\x1b[2J", "Ada\u202etxt"])
def test_a_name_that_is_none_or_redraws_a_terminal_is_refused(run, name):
    with pytest.raises(InputError, match="name is"):
        sign(run, "ready", name)
