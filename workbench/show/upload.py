"""Photos chosen in a notebook, answered by the file that ships; a page has no kernel to answer."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import ipywidgets as ipw

from workbench.predict import Classifier, Photos
from workbench.reference import reference_if_there
from workbench.show.answers import photo_panel

LONGEST_NAME = 60  # letters that are kept of a file's name: 240 bytes at most
NO_NAME = re.compile(r"[/\\\0]|^\.+")


def upload(folder: Path) -> ipw.VBox:
    """Return a button that takes photos, and below it what the app would say of them."""
    classifier = Classifier(folder, features=True)
    button = ipw.FileUpload(accept="image/*", multiple=True, description="Photos")
    answers = ipw.VBox()

    def answer(_change: Mapping[str, Any]) -> None:
        answers.children = _answers(classifier, button.value)

    button.observe(answer, "value")
    return ipw.VBox([button, answers])


def _answers(classifier: Classifier, chosen: Iterable[Mapping[str, Any]]) -> tuple[ipw.Widget, ...]:
    with tempfile.TemporaryDirectory(prefix="workbench_photos_") as place:
        found = classifier.answers(_keep(chosen, Path(place)))
        unread = [ipw.Label(f"not read: {name} {why}") for name, why in found.unread.items()]
        known = reference_if_there(classifier.folder, classifier)
        return (photo_panel(found, classifier, known), *unread)


def _keep(chosen: Iterable[Mapping[str, Any]], place: Path) -> Photos:
    """Write what was chosen under its own name, made harmless, once each."""
    names: list[str] = []
    for one in chosen:
        name = NO_NAME.sub("_", one["name"])[-LONGEST_NAME:]
        name = name if name not in names else f"{len(names)} {name}"[-LONGEST_NAME - 5 :]
        (place / name).write_bytes(one["content"])
        names.append(name)
    return Photos(place, tuple(names))
