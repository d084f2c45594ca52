"""The settings of a run: its parameter file, and what notebooks and `--set` changed since.

`changes.json` is the one home of both; `training_config.json` is what they were resolved to, for
every reader. A change lasts until the knob it changed is said anew, wherever that is.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workbench import files
from workbench.errors import MissingInputError, SettingsError
from workbench.parameters import Layer, differences, flat_values, resolve, resolve_layers
from workbench.settings import Settings

log = logging.getLogger(__name__)

CONFIG_NAME = "training_config.json"
CHANGES_NAME = "changes.json"
KNOBS = {*flat_values(Settings().model_dump()), *Settings.model_fields}  # a group may be null


@dataclass(frozen=True)
class RunSettings:
    """Settings, what will be remembered of how they came about, and what to say of it."""

    settings: Settings
    changes: dict[str, Any]  # what changes.json will hold
    lines: tuple[str, ...]

    @property
    def line(self) -> str:
        return "; ".join(self.lines) or "no change"


def resolve_settings(
    root: Path, file: Path | None, last: list[Layer], before: Mapping[str, Any]
) -> RunSettings:
    """Merge every layer; what the caller changes is remembered as a change of this run.

    A remembered change holds as long as what it changed stands: a knob that its parameter file
    has been given since wins, for it was said later.
    """
    name = name_of(file, root) if file else before.get("parameters")
    file = file or (root / name if name else None)
    base = resolve_layers(file, {}, last, root).base
    own, lines = {}, []
    for key, change in before.get("changes", {}).items():
        if key in KNOBS and base.get(key) == change["from"]:
            own[key] = change["to"]
        elif key in base:
            lines.append(f"{name} says {key} {base[key]} now; the run's own {change['to']} goes")
    resolved = resolve_layers(file, own, last, root)
    values = flat_values(resolved.settings.model_dump())
    said = {key for layer in last for key in flat_values(layer.values)} | set(own)
    changed = {key: {"from": base.get(key), "to": values[key]}
               for key in sorted(said & values.keys())
               if key not in base or values[key] != base[key]}  # fmt: skip
    changes = {"schema": 1, "parameters": name, "changes": changed}
    return RunSettings(resolved.settings, changes, (*lines, *resolved.lines))


def name_of(file: Path, root: Path) -> str:
    file = file.resolve()
    return str(file.relative_to(root)) if file.is_relative_to(root) else str(file)


def read_changes(folder: Path, root: Path) -> dict[str, Any]:
    """Read what made the run's settings; a run that does not say holds all of them as changes."""
    path = folder / CHANGES_NAME
    if not path.exists():
        return _changes_of_settings(folder)
    held = files.read_json(path)
    try:
        kept = {key: {"from": one["from"], "to": one["to"]} for key, one in held["changes"].items()}
        if not isinstance(held["parameters"], str | None):
            raise TypeError
    except (KeyError, TypeError, AttributeError):
        raise SettingsError(f"{path} is damaged. Delete it and run again") from None
    if held["parameters"] and not (root / held["parameters"]).is_file():
        log.info("%s is gone; the run keeps the settings it has", held["parameters"])
        return _changes_of_settings(folder)
    return {"parameters": held["parameters"], "changes": kept}


def _changes_of_settings(folder: Path) -> dict[str, Any]:
    if not (folder / CONFIG_NAME).exists():
        return {}
    old, new = (flat_values(one.model_dump()) for one in (Settings(), saved_settings(folder)))
    changed = {key: {"from": old.get(key), "to": new[key]}
               for key in new if key not in old or new[key] != old[key]}  # fmt: skip
    return {"parameters": None, "changes": changed}


def saved_settings(folder: Path) -> Settings:
    """Read the settings that a run was last resolved to."""
    path = folder / CONFIG_NAME
    if not path.exists():
        raise MissingInputError(f"No {CONFIG_NAME} in {folder}: is it a run folder?")
    values = files.read_json(path)
    if not isinstance(values, dict):
        raise SettingsError(f"{path} holds no settings. Delete it and run again")
    return resolve([Layer(str(path), values)])


def describe_source(resolved: RunSettings) -> str:
    """Say in one line where the settings come from and how far they are from the defaults."""
    count = len(flat_values(differences(resolved.settings)))
    source = resolved.changes["parameters"] or "the defaults"
    return f"settings from {source}: {count} differ from the defaults"
