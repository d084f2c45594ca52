"""Run folders side by side, from the files they left. No network is loaded.

`compare_runs` is for finished runs and their test images; `compare_on_validation` is for a what-if
that has got as far as a teacher, a student or an 8-bit candidate. `judge_teacher` holds the two
networks of one run against each other.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zipfile import BadZipFile

import numpy as np

from workbench.artifacts import ControlComparison, Ensemble, EnsembleMember, TeacherComparison
from workbench.changes import CONFIG_NAME, saved_settings
from workbench.data.tables import TABLES, Split, read_tables
from workbench.decide.clips import Clips
from workbench.decide.intervals import or_none
from workbench.decide.levels import Quantization
from workbench.decide.metrics import Comparison, Predictions, compare
from workbench.decide.outcomes import probabilities
from workbench.decide.recommendation import RECOMMENDATION, read
from workbench.deploy import verify
from workbench.errors import InputError, MissingInputError
from workbench.files import read_json, sha256
from workbench.settings import Settings
from workbench.status import STATUS_NAME
from workbench.steps import writer_of

if TYPE_CHECKING:
    from workbench.members import Member

log = logging.getLogger(__name__)

CANDIDATE = "candidate_scores.npz"
EVERY_PHOTO = Clips()
STAGES = {  # the furthest first
    CANDIDATE: "the 8-bit candidates",
    "student_scores.npz": "the students",
    "teacher_scores.npz": "the teachers",
}


def compare_runs(first: str | Path, *others: str | Path) -> list[Comparison]:
    """Compare the phone files of finished runs with that of the first, on test, paired.

    They come in the order they are named in. Test images rank nothing: see `leaderboard`.
    """
    ours = phone_predictions(Path(first))
    return [_compare(Path(first), ours, phone_predictions(Path(other))) for other in others]


def compare_on_validation(first: str | Path, second: str | Path) -> Comparison:
    """Compare the furthest networks that both runs have scored on validation images, paired.

    Candidates answer at each run's own thresholds where 06 has tuned both, else at one half.
    """
    folders = Path(first), Path(second)
    stage = _furthest_stage(*folders)
    own = [tuned_thresholds(folder, stage) for folder in folders]
    tuned = all(thresholds is not None for thresholds in own)
    at = "each at the thresholds tuned on them" if tuned else "all at one half"
    log.info("compared on validation: %s, %s", STAGES[stage], at)
    sides = (
        validation_predictions(folder, stage, thresholds if tuned else None)
        for folder, thresholds in zip(folders, own, strict=True)
    )
    return _compare(folders[0], *sides)


def _compare(folder: Path, first: Predictions, second: Predictions) -> Comparison:
    settings = saved_settings(folder)
    replicates = settings.evaluation.bootstrap_replicates
    return compare(first, second, replicates=replicates, seed=settings.seed)


def run_folders(place: Path) -> list[Path]:
    """List the run folders that a place stands for: itself, or those in it."""
    if not place.is_dir():
        raise InputError(f"{place} is not a folder. Give run folders, or a folder that holds them")
    if (place / CONFIG_NAME).exists() or (place / STATUS_NAME).exists():
        return [place]
    inner = [path for path in sorted(place.iterdir()) if path.is_dir() and path.name[0] != "."]
    signs = (CONFIG_NAME, STATUS_NAME)
    return [path for path in inner if any((path / sign).exists() for sign in signs)]


def judge_teacher(folder: str | Path) -> TeacherComparison:
    """Hold the teacher of a run against its student; before there is one, against a constant."""
    folder = Path(folder)
    teacher = validation_predictions(folder, "teacher_scores.npz")
    try:
        other, name = validation_predictions(folder, "student_scores.npz"), "the student"
    except (MissingInputError, InputError):  # none yet, or one of other images
        other, name = _ignoring_the_photo(teacher), "answers that ignore the photo"
    found = _compare(folder, other, teacher)
    row = found.overall.set_index("figure").loc["f1_macro"]
    ends = row["low"], row["high"]
    judged = TeacherComparison(
        other=name, images=found.images, teacher_f1=or_none(row["second"]),
        other_f1=or_none(row["first"]), difference=or_none(row["difference"]),
        interval=None if np.isnan(ends).any() else ends,
    )  # fmt: skip
    taught = saved_settings(folder).student is not None
    log.info("%s", judged.words if taught else judged.words_of_a_product)
    return judged


def compare_with_control(folder: str | Path) -> Comparison:
    """Compare the student of a run with the one that learned from labels alone, paired."""
    folder = Path(folder)
    names = {"control_scores.npz": "labels alone", "student_scores.npz": "student"}
    sides = (replace(validation_predictions(folder, file), name=name)
             for file, name in names.items())  # fmt: skip
    return _compare(folder, *sides)


def compare_with_members(folder: str | Path, logits: Mapping[str, np.ndarray]) -> list[Comparison]:
    """Compare the ensemble of a run with each member, which answered the same views; paired."""
    folder = Path(folder)
    whole = replace(validation_predictions(folder, "teacher_scores.npz"), name="ensemble")
    sides = [replace(whole, name=name, y_score=probabilities(values, whole.task))
             for name, values in logits.items()]  # fmt: skip
    return [_compare(folder, one, whole) for one in sides]


def ensemble_record(members: Sequence[Member], found: Sequence[Comparison]) -> Ensemble:
    """Turn the comparisons with the members into what 03 leaves."""
    entries = [
        EnsembleMember(
            name=one.name, network=one.network, input_size=one.size,
            weights_sha256=sha256(one.files[0]),
            figures=_paired(compared, ("figure", "member", "ensemble")),
        )
        for one, compared in zip(members, found, strict=True)
    ]  # fmt: skip
    return Ensemble(images=found[0].images, members=entries)


def _paired(found: Comparison, names: tuple[str, ...]) -> list[dict[str, Any]]:
    """List the figures of a comparison under these names; null where one is undefined."""
    rows = found.overall[["figure", "first", "second", "difference", "low", "high"]]
    names = (*names, "difference", "low", "high")
    return [dict(zip(names, (row[0], *map(or_none, row[1:])), strict=True))
            for row in rows.itertuples(index=False, name=None)]  # fmt: skip


def control_record(found: Comparison) -> ControlComparison:
    """Turn the comparison with the control into what 04 leaves."""
    figures = _paired(found, ("figure", "labels_alone", "student"))
    return ControlComparison(images=found.images, figures=figures)


def _ignoring_the_photo(answers: Predictions) -> Predictions:
    """Say yes to every class, or the most frequent one where only one can be true."""
    scores = np.ones(answers.y_true.shape)
    if answers.task == "single_label":
        scores = np.eye(len(answers.classes))[np.full(len(scores), answers.y_true.sum(0).argmax())]
    return replace(answers, y_score=scores)


def phone_predictions(folder: Path) -> Predictions:
    """Read what the phone file of a run answered on test, and at which thresholds."""
    settings = saved_settings(folder)
    raw = _arrays(folder, "test_scores.npz", "raw")["raw"]
    config = read_json(_need(folder, verify.CONFIG))
    split = _split(folder, "test", len(raw))
    try:
        clips = Clips.of(split.groups, pooled=config.get("aggregation") is not None)
        scores, thresholds = (
            verify.probabilities(clips.raw(raw), config),
            verify.probability_thresholds(config),
        )
    except (KeyError, TypeError, ValueError, AttributeError):
        raise InputError(f"{folder / verify.CONFIG} is damaged. Run 08 again") from None
    return _predictions(folder, clips.split(split), scores, thresholds, settings)


def validation_predictions(
    folder: Path, stage: str, thresholds: np.ndarray | float | None = None
) -> Predictions:
    """Read what a network of a run answered on validation: one of `STAGES`.

    Where the run pools, tuned thresholds are for clips; without any a row is a photo.
    """
    settings = saved_settings(folder)
    pooled = thresholds is not None and settings.evaluation.pool != "none"
    if thresholds is None:
        thresholds = 0.5 if settings.task == "multilabel" else 0.0  # no answer is "unknown"
    split = _split(folder, "val", len(stage_logits(folder, stage)))
    clips = Clips.of(split.groups, pooled)
    scores = probabilities(stage_logits(folder, stage, clips), settings.task)
    return _predictions(folder, clips.split(split), scores, thresholds, settings)


def _furthest_stage(first: Path, second: Path) -> str:
    for stage in STAGES:
        if (first / stage).exists() and (second / stage).exists():
            return stage
    lacking = second if any((first / stage).exists() for stage in STAGES) else first
    raise MissingInputError(
        f"{first.name} and {second.name} have no scores on validation in common. "
        f"Run 03_train_teacher in {lacking} first, or fork a run that has one"
    )


def tuned_thresholds(folder: Path, stage: str = CANDIDATE) -> np.ndarray | float | None:
    """Read from which probability it is a yes; None where 06 has not tuned it on these scores."""
    path, scores = folder / RECOMMENDATION, folder / stage
    if not (path.exists() and scores.exists()):
        return None
    found = read(path)
    current = found.scores.source_sha256 == sha256(scores)
    return found.probability if current else None


def stage_logits(folder: Path, stage: str, clips: Clips = EVERY_PHOTO) -> np.ndarray:
    """Read the logits of a network on validation; those of an 8-bit candidate from its levels."""
    if stage != CANDIDATE:
        return clips.logits(_arrays(folder, stage, "logits")["logits"])
    held = _arrays(folder, stage, "raw", "scale", "zero_point")
    levels = Quantization(float(held["scale"]), int(held["zero_point"]))
    return levels.logits(clips.raw(held["raw"]))


def _arrays(folder: Path, name: str, *keys: str) -> dict[str, np.ndarray]:
    path = _need(folder, name)
    try:
        with np.load(path, allow_pickle=False) as held:
            return {key: held[key] for key in keys}
    except (ValueError, EOFError, KeyError, BadZipFile):
        notebook = writer_of(name).notebook[:-6]
        raise InputError(f"{path} is damaged. Run {notebook} again") from None


def _need(folder: Path, name: str) -> Path:
    path = folder / name
    if not path.exists():
        notebook = writer_of(name).notebook[:-6]
        raise MissingInputError(f"No {name} in {folder}. Run {notebook} first")
    return path


def _split(folder: Path, name: str, answers: int) -> Split:
    """Read a split without asking for its images: the answers to them are all that counts."""
    split = read_tables(_need(folder, TABLES), folder).split(name)
    if answers != len(split):
        raise InputError(
            f"{folder} holds {answers} answers to {len(split)} {name} images: its "
            "dataset changed since. Run the steps that are out of date again"
        )
    return split


def _predictions(
    folder: Path, split: Split, scores: np.ndarray, thresholds: np.ndarray | float,
    settings: Settings,
) -> Predictions:  # fmt: skip
    name = folder.resolve().name
    return Predictions(
        name, split.filepaths, split.classes, split.targets, scores, thresholds, settings.task,
        split.mask, split.groups,
    )  # fmt: skip
