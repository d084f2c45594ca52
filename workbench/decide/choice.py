"""A person's own thresholds beside a run: kept, put on top of every later search, or refused."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from workbench.decide.recommendation import RECOMMENDATION, AnyThresholds, Thresholds, read
from workbench.errors import InputError, MissingInputError
from workbench.files import write_json

CHOICE = "threshold_choice.json"  # apart from the recommendation, so that a new search keeps it

log = logging.getLogger(__name__)


def accept(searched: AnyThresholds, edited: AnyThresholds) -> AnyThresholds:
    """Put a person's edits on top of a search, if they are about the same scores."""
    check_fits(searched, edited)
    return searched.with_edits_of(edited)


def check_fits(current: AnyThresholds, edited: AnyThresholds) -> None:
    """Refuse edits that were made for other scores."""
    if edited.task != current.task:
        raise InputError("the edited recommendation is for the other task; tune this run again")
    theirs = edited.identity()
    for name, own in current.identity().items():
        if own != theirs[name]:
            raise InputError(
                f"the edited recommendation belongs to another run: its {name} is {theirs[name]!r},"
                f" here it is {own!r}. Open the explorer of this run and edit there."
            )


def with_saved_choice(searched: AnyThresholds, folder: Path) -> AnyThresholds:
    """Put the choice that a person saved in a run folder on top; say so where it does not fit."""
    path = folder / CHOICE
    if not path.exists():
        return searched
    try:
        return accept(searched, read(path))
    except InputError as error:
        log.warning(
            "%s was not applied: %s The searched thresholds are used; the file stays as it is.",
            CHOICE, str(error).rstrip(".") + ".",
        )  # fmt: skip
        return searched


def own_thresholds(
    thresholds: AnyThresholds, probabilities: Mapping[str, float], who: str, why: str = ""
) -> AnyThresholds:
    """Put thresholds of one's own on top, by class; a single label has one, "unknown"."""
    if not probabilities:
        return thresholds
    today = datetime.now(UTC).date().isoformat()
    if isinstance(thresholds, Thresholds):
        nearest = {name: thresholds.nearest_integer(p) for name, p in probabilities.items()}
        return thresholds.edited(nearest, who, today, why)
    if set(probabilities) != {"unknown"}:
        raise InputError(
            f'thresholds for {list(probabilities)}: a single label has one, {{"unknown": 0.8}}'
        )
    return thresholds.edited(probabilities["unknown"], who, today, why)


def apply_choice(folder: Path, choice: Path) -> str:
    """Keep the thresholds that a person saved from the explorer's page beside the run."""
    if not (folder / RECOMMENDATION).exists():
        raise MissingInputError(f"No {RECOMMENDATION} in {folder}. Run 06_tune_thresholds first")
    chosen = read(choice)
    check_fits(read(folder / RECOMMENDATION), chosen)
    if not chosen.edits:
        raise InputError(
            f"{choice} changes no threshold: a person's change needs an entry in edits. "
            "Move a slider in the explorer, then save"
        )
    return keep_choice(folder, chosen)


def keep_choice(folder: Path, chosen: AnyThresholds) -> str:
    """Keep a person's thresholds, where every later search meets them, and apply them.

    What 07 to 09 read holds them from now on; 06 need not run first.
    """
    for name in (CHOICE, RECOMMENDATION):
        write_json(folder / name, chosen.model_dump(mode="json"))
    return (
        f"Saved and applied to {folder.name}: 07 to 09 take it from here, nothing is trained. "
        f"For the app's files and all pages: python -m workbench run {_named(folder)} --from 06"
    )


def _named(folder: Path) -> str:
    """Name a run as the command line does: those of a sweep lie deeper than outputs/."""
    inside = folder.parent.name == "outputs" or not folder.is_absolute()
    return f"--run {folder.name}" if inside else f"--out {folder}"


def choice_command(folder: Path) -> str:
    """Return the command that applies what the explorer of a rendered page downloads."""
    return f"python -m workbench thresholds outputs/{folder.name} {RECOMMENDATION}"
