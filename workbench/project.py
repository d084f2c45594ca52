"""A new project around photos that lie somewhere: what they are, what this machine can do with
them, and the parameter file that follows from both.

Photos are referred to where they lie, never copied and never changed.
"""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from ruamel.yaml import YAML

from workbench import machine
from workbench.data.decode import count_cores
from workbench.data.survey import Survey, survey
from workbench.errors import InputError, printable
from workbench.files import write_text
from workbench.parameters import merge, read_settings
from workbench.settings import DatasetSettings

LAPTOP, UNTRAINED = "laptop", "laptop_untrained"
RECIPE_IMAGES = 800  # training photos that the laptop's epochs are for
LEAST_EPOCHS, MOST_EPOCHS = 3, 60
SMALL, LARGE = 1_000, 10_000  # where small_dataset and large_dataset begin to fit
WEIGHTS = (".h5", ".npz")


def start(source: Path, folder: Path) -> None:
    """Copy notebooks and parameter files into a new folder, and make its others."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder} is not an empty folder. Name a new one")
    for name in ("notebooks", "parameters"):
        shutil.copytree(source / name, folder / name, ignore=shutil.ignore_patterns(".*"))
    for name in ("data/images", "outputs"):
        (folder / name).mkdir(parents=True)
    text = (
        "# Only what differs from default.yaml\nnum_classes: auto\n"
        "# task: single_label              # where every photo has exactly one label\n"
    )
    write_text(folder / "parameters" / "mine.yaml", text)


def start_from(source: Path, folder: Path, photos: Path, preset: str, weights: str) -> str:
    """Start a project around photos; return what was found, chosen and comes next."""
    found = survey(photos)
    chosen = choose(found, preset, weights)
    start(source, folder)
    file = folder / "parameters" / "mine.yaml"
    write_text(file, parameter_text(found, chosen, source / "parameters", folder))
    settings = read_settings(file, root=folder)
    guess = machine.minutes(machine.guess_seconds(settings, found.training_images))
    python = command()
    return "\n".join([
        *found.lines(),
        f"preset: {chosen.recipe}, because {chosen.reason}; very roughly {guess} to the report",
        *chosen.lines,
        f"Project in {folder}. The photos stay where they lie, as parameters/mine.yaml says. Next:",
        f"  cd {folder}",
        f"  {python} audit {quoted(found.dataset.dir)} --parameters parameters/mine.yaml",
        f"  {python} run parameters/mine.yaml --dry-run",
        f"  {python} run parameters/mine.yaml",
    ])  # fmt: skip


def command() -> str:
    """Name the Python that runs this, in the words that run it again in any folder."""
    usual = shutil.which("python")
    same = usual and Path(usual).resolve() == Path(sys.executable).resolve()
    known = same and Path(usual).parent == Path(sys.executable).parent
    return f"{'python' if known else quoted(sys.executable)} -m workbench"


def quoted(text: str) -> str:
    return text if re.fullmatch(r"[\w@%+=:,./-]+", text) else "'" + text.replace("'", "'\\''") + "'"


@dataclass(frozen=True)
class Chosen:
    """A recipe of parameters/, why, and what is set beside it."""

    recipe: str  # "default" is none
    reason: str
    knobs: dict[str, Any]
    lines: tuple[str, ...]


def choose(found: Survey, preset: str, weights: str) -> Chosen:
    """Choose networks that this machine trains in reasonable time, and their weights."""
    images = found.training_images
    gpus = [name for name in devices() if name != "CPU"]
    if not preset:
        preset = "full" if gpus else LAPTOP
        reason = f"TensorFlow lists {', '.join(gpus)}" if gpus else "TensorFlow lists no GPU"
    else:
        reason = f"--preset {preset} says so"
    reason += f"; {describe_cores()}; {images} photos to learn from"
    if preset == "full":
        size = (
            "small_dataset" if images < SMALL else "large_dataset" if images > LARGE else "default"
        )
        knobs, lines = choose_weights(weights, ("efficientnet_b3", "efficientnet_lite1"))
        return Chosen(size, reason, knobs, lines)
    recipe = UNTRAINED if weights == "none" else LAPTOP
    usual = 40 if recipe == UNTRAINED else 20
    epochs = round(usual * RECIPE_IMAGES / images)
    knobs, lines = choose_weights(weights, ("efficientnet_lite0", "efficientnet_lite0"))
    own = {"student": {"epochs_finetune": min(max(epochs, LEAST_EPOCHS), MOST_EPOCHS)}}
    return Chosen(recipe, reason, merge(own, knobs), lines)


def devices() -> list[str]:
    """Ask TensorFlow: a card that it does not list trains nothing."""
    from workbench.nets.devices import device_names

    return device_names()


def describe_cores() -> str:
    """Name the cores that this process may use, and how busy they are with other things."""
    cores, load = count_cores(), psutil.getloadavg()[0]
    busy = f", busy now (load {load:.0f}: everything takes longer)" if load > cores else ""
    return f"{cores} CPU cores{busy}, {psutil.virtual_memory().available / 2**30:.0f} GiB free"


def choose_weights(
    place: str, networks: tuple[str, str]
) -> tuple[dict[str, dict[str, str]], tuple[str, ...]]:
    """Find the start weights of teacher and student: knobs, and lines that say where they are."""
    roles = dict(zip(("teacher", "student"), networks, strict=True))
    if place == "none":
        words = "weights: none, the networks learn from these photos alone"
        return {role: {"weights": "none"} for role in roles}, (words,)
    if place in ("", "imagenet"):
        missing = sorted({name for name in networks if not is_downloaded(name)})
        if not missing:
            return {}, ("weights: imagenet, downloaded already",)
        words = f"weights: imagenet, to be downloaded once by the training ({', '.join(missing)}). "
        return {}, (f"{words}Without a network: --weights DIR with the files, or --weights none",)
    found = {role: find_weights(Path(place), name) for role, name in roles.items()}
    if not any(found.values()):
        raise InputError(f"{place} holds no weights of {' or '.join(dict.fromkeys(networks))}: a "
                         f"{' or '.join(WEIGHTS)} file whose name says which network it is of, "
                         "like lite0 or efficientnetb3")  # fmt: skip
    lines = [f"{role}.weights: {path or 'imagenet, to be downloaded once'}"
             for role, path in found.items()]  # fmt: skip
    return {role: {"weights": str(path)} for role, path in found.items() if path}, tuple(lines)


def is_downloaded(network: str) -> bool:
    from workbench.nets.weights import CACHE, PUBLISHED

    return (CACHE / PUBLISHED[network].name).is_file()


def find_weights(place: Path, network: str) -> Path | None:
    """Find the file whose name says that it is of the network; the publishers' names all do."""
    files = [place] if place.is_file() else sorted(place.glob("*")) if place.is_dir() else []
    kind, number = re.fullmatch(r"efficientnet_(b|lite)(\d)", network).groups()
    pattern = f"lite_?b?{number}" if kind == "lite" else f"(?<!lite)(?<!lite_)b{number}"
    named = re.compile(rf"{pattern}(?!\d)")
    fitting = (path for path in files if path.suffix in WEIGHTS and named.search(path.name.lower()))
    found = next(fitting, None)
    return found and found.resolve()


def parameter_text(found: Survey, chosen: Chosen, recipes: Path, folder: Path) -> str:
    """Write mine.yaml: the dataset as it was understood, then the recipe with its own reasons."""
    yaml = YAML()
    recipe = recipes / f"{chosen.recipe}.yaml"
    text = recipe.read_text("utf-8") if chosen.recipe != "default" else "num_classes: auto\n"
    values = yaml.load(text)
    for group, knobs in chosen.knobs.items():
        values.setdefault(group, {}).update(knobs)
    del values["num_classes"]
    written = io.StringIO()
    if values:
        yaml.dump(values, written)
    return "".join(f"{line}\n" for line in _head(found, folder)) + written.getvalue()


def seen_from(folder: Path, photos: str) -> str:
    """Name the photos as seen from the project, unless the two have nothing in common: both may
    move together, and no page says whose machine it was.
    """
    folder = folder.resolve()
    common = os.path.commonpath([folder, photos])
    return photos if common == folder.anchor else os.path.relpath(photos, folder)


def _head(found: Survey, folder: Path) -> Iterator[str]:
    usual, names = DatasetSettings().model_dump(), sorted(found.classes)
    shown = printable(", ".join(names))
    yield f"# Classes: {shown if len(shown) < 500 else f'{shown[:500]} …'}"
    yield f"task: {found.task}".ljust(33) + " # " + TASKS[found.task]
    yield f"num_classes: {len(names)}".ljust(33) + " # checked against the labels; or auto"
    yield "dataset:"
    dataset = found.dataset.model_copy(update={"dir": seen_from(folder, found.dataset.dir)})
    for name, value in dataset.model_dump().items():
        if value != usual[name]:
            yield f"  {name}: {json.dumps(value, ensure_ascii=False)}"


TASKS = {"single_label": "exactly one class a photo, and unknown where it is not sure",
         "multilabel": "any number of classes a photo"}  # fmt: skip
