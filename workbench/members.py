"""The finished runs whose networks teach together (`teacher.members`): found, checked, named.

A member that learned from photos which this run validates or tests on would make every figure that
follows too good, so that is looked at photo by photo. Loads no TensorFlow.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pandas as pd

from workbench import files, status
from workbench.changes import saved_settings
from workbench.data.layouts import GROUP, UNLABELED
from workbench.data.tables import MANIFEST, load_dataset
from workbench.errors import InputError
from workbench.settings import Settings
from workbench.steps import find_step

if TYPE_CHECKING:
    from workbench.run import Run

log = logging.getLogger(__name__)

STEPS = {"teacher": find_step("03"), "student": find_step("04")}
# What no member may have seen: training fits weights to photos, validation chooses among them.
SEEN = {"val": ("train", UNLABELED), "test": ("train", UNLABELED, "val")}


@dataclass(frozen=True)
class Place:
    """Where a network of another run lies."""

    name: str  # as teacher.members gives it
    folder: Path
    network: Literal["teacher", "student"]

    @property
    def files(self) -> list[Path]:
        """What the network is made of, and what says from which photos it learned."""
        names = f"{self.network}_finetuned.h5", f"{self.network}_network.json", MANIFEST
        return [self.folder / name for name in names]


@dataclass(frozen=True)
class Member(Place):
    """A network of a finished run that may teach here."""

    settings: Settings

    @property
    def size(self) -> int:
        return self.settings.input_sizes[self.network]


def digests(settings: Settings, root: Path) -> dict[str, str]:
    """Tell a member that changed: what the step that joins them depends on."""
    return {
        f"member {one.name}": " ".join(
            files.sha256(path) if files.is_plain_file(path) else "absent" for path in one.files
        )
        for one in _places(settings, root)
    }


def read_members(run: Run) -> list[Member]:
    """Find the networks of `teacher.members`, and refuse those that cannot teach this run."""
    members = []
    for place in _places(run.settings, run.root):
        one = _finished(place)
        _check_kind(one, run)
        _check_photos(one, run)
        if one.files in [other.files for other in members]:
            raise InputError(f"teacher.members: {one.name} is named twice; a member counts once")
        log.info("member %s: %s at %d pixels", one.name, one.network, one.size)
        members.append(one)
    own = run.settings.teacher_size
    if members and (size := max(one.size for one in members)) != own:
        raise InputError(
            f"teacher.input_size is {own}, and the largest input among the members is {size} "
            f"pixels. Set teacher.input_size: {size}"
        )
    return members


def _places(settings: Settings, root: Path) -> Iterator[Place]:
    for name in settings.teacher.members:
        path = Path(root, name).resolve()
        network = path.name.removesuffix("_finetuned.h5")
        inside = network in STEPS and not path.is_dir()
        yield Place(name, *((path.parent, network) if inside else (path, "teacher")))


def _finished(place: Place) -> Member:
    """Check that a network is what its run left, whoever made that."""
    if not place.folder.is_dir():
        raise InputError(f"teacher.members: {place.name} is no run folder and no network in one")
    files.check_folder(place.folder)
    record = status.state_of(place.folder, STEPS[place.network])
    why = "" if record["state"] == "ok" else f"its {place.network} is {record['state']}"
    for path in () if why else place.files:
        if not files.is_plain_file(path):
            why = f"{path.name} is missing"
        elif record["outputs"].get(path.name) not in (None, files.sha256(path)):
            why = f"{path.name} was changed since it was trained"
    if why:
        notebook = STEPS[place.network].notebook[:-6]
        raise InputError(f"teacher.members: {place.name}: {why}. Run {notebook} there")
    known = {field.name: getattr(place, field.name) for field in fields(place)}
    return Member(**known, settings=saved_settings(place.folder))


def _check_kind(member: Member, run: Run) -> None:
    """Answers have a mean where the question is the same."""
    if member.folder == run.folder.resolve():
        raise InputError(f"teacher.members holds {run.name}, the run itself. Name other runs")
    ours, theirs = (_manifest(folder) for folder in (run.folder, member.folder))
    if ours["task"] != theirs["task"]:
        raise InputError(
            f"member {member.name} is {theirs['task']}, this run {ours['task']}: probabilities of "
            "different tasks have no mean. Leave it out"
        )
    if ours["classes"] != theirs["classes"]:
        differing = ", ".join(sorted(set(ours["classes"]) ^ set(theirs["classes"]))[:5])
        raise InputError(
            f"member {member.name} knows other classes than this run ({differing or 'their order'}"
            "). Train it on the same labels, or leave it out"
        )


def _manifest(folder: Path) -> dict[str, Any]:
    found, needed = files.read_json(folder / MANIFEST), {"task", "classes", "content_sha256"}
    if not isinstance(found, dict) or not needed <= found.keys():
        raise InputError(f"{folder / MANIFEST} is damaged. Run 01_dataset_audit there")
    return found


def _check_photos(member: Member, run: Run) -> None:
    """Refuse a member that has seen photos on which thresholds or the final figures rest."""
    digests = {_manifest(folder)["content_sha256"] for folder in (run.folder, member.folder)}
    if len(digests) == 1 and member.network == "teacher":
        return  # the same photos with the same labels in the same splits
    held, seen = _rows(run.folder, run.root), _rows(member.folder, run.root)
    for split, learned in SEEN.items():
        kept, known = held[held["split"] == split], seen[seen["split"].isin(learned)]
        if found := _in_both(kept, known):
            raise InputError(
                f"member {member.name} has learned from {len(found)} photos that are {split} here, "
                f"the first {found[0]}: figures would be too good. Take a run with the same "
                "splits, or leave it out"
            )


def _rows(folder: Path, root: Path) -> pd.DataFrame:
    """List the photos of a run: split, the file itself, and its group, which is of one folder."""
    dataset = load_dataset(folder, root)
    rows, images = dataset.rows, dataset.images.resolve()
    groups = [f"{images}\0{group}" if group else "" for group in rows[GROUP]]
    paths = [images / name for name in rows["filepath"]]
    return pd.DataFrame({"split": rows["split"], "file": paths, "group": groups})


def _in_both(kept: pd.DataFrame, known: pd.DataFrame) -> list[str]:
    """Name photos that lie among the others, byte for byte, or whose group does."""
    for path in known["file"]:
        if not path.is_file():
            raise InputError(
                f"{path} is gone, and a member has learned from it: nobody can tell whether it is "
                "a photo of this run as well. Put it back, or leave the member out"
            )
    sizes = {path.stat().st_size for path in kept["file"]}
    near = [path for path in known["file"] if path.stat().st_size in sizes]
    copies, groups = set(map(files.sha256, near)), set(known["group"]) - {""}
    pairs = zip(kept["file"], kept["group"], strict=True)
    return [path.name for path, group in pairs
            if group in groups or (copies and files.sha256(path) in copies)]  # fmt: skip
