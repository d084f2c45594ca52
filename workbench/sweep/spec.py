"""The sweep file: read strictly, and taken apart into the runs that it asks for."""

from __future__ import annotations

import difflib
import hashlib
import itertools
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from workbench.artifacts import SweepRank
from workbench.errors import SettingsError
from workbench.parameters import flat_values, read_yaml
from workbench.run import check_run_name
from workbench.settings import SweepSettings
from workbench.steps import STEPS, Step, find_step

LONGEST_NAME = 80
Differences = dict[str, Any]  # dotted knobs and their values


def read_spec(path: Path) -> SweepSettings:
    values = read_yaml(path)
    check_run_name(path.stem)
    try:
        spec = SweepSettings.model_validate(values)
    except ValidationError as error:
        raise SettingsError("\n".join(_explain(error, path))) from None
    if not spec.search and not (spec.grid or spec.listed or spec.seeds or spec.folds):
        raise SettingsError(f"{path} varies nothing. Give it grid, list, seeds, folds or search")
    return spec


def _explain(error: ValidationError, path: Path) -> Iterator[str]:
    """Say key, value, rule and remedy, one line for all arms of a union."""
    found: dict[str, list[Mapping[str, Any]]] = {}
    for item in error.errors():
        found.setdefault(".".join(_place(item["loc"])), []).append(item)
    for key, items in found.items():
        value = items[0]["input"]
        if items[0]["type"] == "extra_forbidden":
            known = sorted(_keys(SweepSettings))
            near = difflib.get_close_matches(key, known, 1, 0.6)
            remedy = f'Did you mean "{near[0]}"?' if near else f"Known: {', '.join(known)}"
            yield f'{path}: unknown key "{key}". {remedy}'
            continue
        messages = (item["msg"].removeprefix("Value error, ") for item in items)
        rule = " or ".join(dict.fromkeys(messages)).replace("Input should", "It should")
        shown = "" if isinstance(value, dict) else f" is {value!r:.80}"
        yield f'{path}: "{key}"{shown}. {rule}' if key else f"{path}: {rule}"


def _place(loc: tuple) -> list[str]:
    """Drop what pydantic adds for the arms of a union."""
    parts = [str(part) for part in loc]
    kinds = ("int", "float", "str", "bool")
    return [part for part in parts if re.fullmatch(r"[\w.]+", part) and part not in kinds]


def _keys(kind: Any, prefix: str = "") -> Iterator[str]:
    from workbench.settings import RankSettings, SearchSettings

    inner = {"search": SearchSettings, "rank": RankSettings}
    for name, field in kind.model_fields.items():
        yield f"{prefix}{field.alias or name}"
        if name in inner:
            yield from _keys(inner[name], f"{name}.")


def steps_of(spec: SweepSettings, first: str | None, last: str | None) -> tuple[Step, ...]:
    """Return the steps that every run of the sweep does."""
    begin = STEPS.index(find_step(first)) if first else 0
    end = STEPS.index(find_step(last or spec.to)) + 1
    if begin >= end:
        raise SettingsError(f"--from {first} comes after the last step, {last or spec.to}")
    return STEPS[begin:end]


def rank_of(spec: SweepSettings, steps: tuple[Step, ...]) -> SweepRank:
    """Say which network's figure ranks: by itself the last that the steps make."""
    last = steps[-1].number
    made = "phone" if last >= "05" else "student" if last == "04" else "teacher"
    rank = SweepRank(figure=spec.rank.figure, of=made if spec.rank.of == "auto" else spec.rank.of)
    order = ["teacher", "student", "phone"]
    if last < "03" or order.index(rank.of) > order.index(made):
        raise SettingsError(f'rank.of is {rank.of}, but the steps end with {last}. Set "to" later')
    if rank.of == "phone" and rank.figure == "loss":
        raise SettingsError("the phone file has no loss. Rank by f1_macro or map")
    return rank


def variants(spec: SweepSettings) -> dict[str, Differences]:
    """List the runs of a grid, a list, seeds and folds, each under the name of its folder."""
    axes: list[list[Differences]] = [[_dotted(one) for one in spec.listed] or [{}]]
    axes += [[{key: value} for value in values] for key, values in spec.grid.items()]
    axes.append([{"seed": seed} for seed in spec.seeds] or [{}])
    folds = range(spec.folds)
    axes.append([{"dataset.folds": spec.folds, "dataset.fold": fold} for fold in folds] or [{}])
    found: dict[str, Differences] = {}
    for parts in itertools.product(*axes):
        differences = {key: value for part in parts for key, value in part.items()}
        found.setdefault(name_of(differences), differences)
    return found


def _dotted(values: Mapping[str, Any]) -> Differences:
    """Take knobs in either form: `teacher: {dropout: 0.2}` or `teacher.dropout: 0.2`."""
    return flat_values(values)


def name_of(differences: Differences) -> str:
    """Name a run by what differs, so that a changed sweep file finds its runs again."""
    told = {key: value for key, value in differences.items() if key != "dataset.folds"}
    full = "_".join(f"{key}-{_word(value)}" for key, value in told.items()) or "base"
    plain = re.sub(r"[^A-Za-z0-9._-]", "-", full)
    if plain == full and len(plain) <= LONGEST_NAME:
        return plain
    content = json.dumps(differences, sort_keys=True)
    return f"{plain[: LONGEST_NAME - 9]}-{hashlib.sha256(content.encode()).hexdigest()[:8]}"


def _word(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def assignments(differences: Differences) -> list[str]:
    """Write knobs as `--set` takes them."""
    return [f"{key}={json.dumps(value)}" for key, value in differences.items()]
