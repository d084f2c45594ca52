"""Parameter files: read strictly, layered, refused with file, key, value, rule and remedy.

Later layers win: code defaults, the parameter file, the dataset's own config.yaml, what the run
has changed before, the notebook or `--set`. What a knob may be is said in `settings.py` alone.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.constructor import DuplicateKeyError
from ruamel.yaml.error import YAMLError

from workbench.errors import SettingsError
from workbench.settings import Group, Settings

MAX_BYTES = 1 << 20
MAX_DEPTH = 20
MAX_VALUES = 20_000  # keys and values of one file; our largest has some hundreds
MAX_CHARACTERS = 2_000  # of one value: a path is shorter, and a number that long has no meaning
COMMENT_COLUMN = 46


@dataclass(frozen=True)
class Layer:
    """Some values and where they came from, for messages."""

    source: str
    values: dict[str, Any]
    title: str = ""  # shorter than the source, where that is a path


@dataclass(frozen=True)
class Resolved:
    """Settings, and what each layer after the parameter file changed, in words."""

    settings: Settings
    base: dict[str, Any]  # dotted keys and values before the run and the caller had their say
    lines: tuple[str, ...]


def read_settings(
    file: Path | None = None,
    assignments: Iterable[str] = (),
    given: Mapping[str, Any] | None = None,
    root: Path = Path("."),
) -> Settings:
    """Resolve what the caller starts from, a parameter file, the dataset's config and `--set`."""
    start = [Layer("the command", dict(given))] if given else []
    return resolve_layers(file, {}, layers_of(assignments), root, start).settings


def layers_of(assignments: Iterable[str] = (), given: Mapping[str, Any] | None = None) -> list:
    """Make layers of what a notebook's parameters cell and `--set` say."""
    cell = [Layer("notebook", dict(given))] if given else []
    return [*cell, *(Layer(f"--set {text}", read_assignment(text)) for text in assignments)]


def resolve_layers(
    file: Path | None,
    own: Mapping[str, Any],
    last: list[Layer],
    root: Path,
    start: Iterable[Layer] = (),
) -> Resolved:
    """Merge defaults, file, dataset config, the run's `own` changes (dotted) and the `last`."""
    first = [*start, *([] if file is None else [Layer(str(file), read_yaml(file))])]
    kept = [Layer("this run", nested(own))] if own else []
    dataset = _dataset_layer(resolve([*first, *kept, *last]), root)
    layers = [*first, *dataset, *kept, *last]
    settings = resolve(layers)
    states = [flat_values(_merged(layers[:count])) for count in range(len(layers) + 1)]
    later = range(len(first), len(layers))
    lines = [_change_line(layers[n], states[n], states[n + 1]) for n in later]
    base = states[len(first) + len(dataset)]
    return Resolved(settings, base, (*(line for line in lines if line), *_unused(settings)))


def _unused(settings: Settings) -> Iterable[str]:
    """Name knobs that were changed and that another one keeps from being read."""
    search, usual = settings.threshold_search, Settings().threshold_search
    grid = [knob for knob in ("grid_min", "grid_max", "grid_step")
            if getattr(search, knob) != getattr(usual, knob)]  # fmt: skip
    if grid and search.method == "exact":
        yield (
            f"not used: threshold_search.{', '.join(grid)}, since method exact tries all 256 INT8 "
            "levels. Set threshold_search.method: grid to keep to the grid"
        )


def _merged(layers: Iterable[Layer]) -> dict[str, Any]:
    merged = Settings().model_dump()
    for layer in layers:
        merged = merge(merged, layer.values)
    return merged


def _change_line(layer: Layer, before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    changes = describe_changes(before, after)
    return f"{layer.title or layer.source}: {changes}" if changes else ""


def describe_changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    """Say which dotted keys changed, like `qat.epochs 2 → 3`."""
    changed = [key for key in after if key not in before or after[key] != before[key]]
    old = {key: _scalar(before[key]) if key in before else "…" for key in changed}
    return ", ".join(f"{key} {old[key]} → {_scalar(after[key])}" for key in changed)


def nested(dotted: Mapping[str, Any]) -> dict[str, Any]:
    """Turn dotted keys into the nested mapping that a parameter file would hold."""
    result: dict[str, Any] = {}
    for key, value in dotted.items():
        *groups, last = key.split(".")
        place = result
        for group in groups:
            place = place.setdefault(group, {})
        place[last] = value
    return result


def flat_values(values: Mapping[str, Any]) -> dict[str, Any]:
    return dict(_flatten(values))


def _dataset_layer(settings: Settings, root: Path) -> list[Layer]:
    path = root / settings.dataset.dir / "config.yaml"
    if not path.is_file():
        return []
    values = read_yaml(path)
    if "dir" in (values.get("dataset") or {}):
        raise SettingsError(f'{path}: "dataset.dir" cannot be set by the dataset itself. Remove it')
    return [Layer(str(path), values, "dataset config.yaml")]


def read_yaml(path: Path) -> dict[str, Any]:
    """Read one mapping from a YAML 1.2 file; nothing in it is ever executed."""
    path = Path(path)
    if path.is_dir():
        raise SettingsError(f"{path} is a folder. Name the parameter file in it")
    if not path.is_file():
        raise SettingsError(f"{path} does not exist. {_existing_beside(path)}")
    if path.stat().st_size > MAX_BYTES:
        raise SettingsError(f"{path} is larger than {MAX_BYTES} bytes: not a parameter file")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise SettingsError(f"{path} is not UTF-8 ({error.reason}). Save it as UTF-8") from None
    return _parse(text, str(path))


def _existing_beside(path: Path) -> str:
    names = sorted(other.name for other in path.parent.glob("*.yaml"))
    near = difflib.get_close_matches(path.name, names, 1)
    if near:
        return f'Did you mean "{path.parent / near[0]}"?'
    return f"There are: {', '.join(names)}" if names else "Write it, or take parameters/demo.yaml"


def _parse(text: str, source: str) -> dict[str, Any]:
    reader = YAML(typ="safe", pure=True)
    try:
        _refuse_what_is_not_plain(reader, text, source)
        value = reader.load(text)
    except DuplicateKeyError as error:
        line = error.problem_mark.line + 1
        key = text.splitlines()[line - 1].split(":")[0].strip()[:80]
        message = f'{source}, line {line}: key "{key}" is written twice. Keep one of them'
        raise SettingsError(message) from None
    except RecursionError:
        raise SettingsError(f"{source} is nested too deeply: at most {MAX_DEPTH} levels") from None
    except (YAMLError, ValueError, LookupError, AssertionError, TypeError, AttributeError) as error:
        raise SettingsError(f"{source} is not valid YAML: {_first_words(error)}") from None
    if value is None:
        raise SettingsError(f"{source} is empty. Write {{}} in it to take every default")
    if not isinstance(value, dict):
        kind = type(value).__name__
        raise SettingsError(f'{source} holds a {kind}; it must be a mapping like "seed: 1337"')
    return value


def _refuse_what_is_not_plain(reader: YAML, text: str, source: str) -> None:
    """Read the file's events before anything is built of them: plain values alone, and few."""
    depth = 0
    for count, event in enumerate(reader.parse(text)):
        kind = type(event).__name__
        depth += kind in ("MappingStartEvent", "SequenceStartEvent")
        depth -= kind in ("MappingEndEvent", "SequenceEndEvent")
        place = f"{source}, line {event.start_mark.line + 1}"
        if kind == "AliasEvent":
            raise SettingsError(f"{place}: a YAML alias (*name). Write the value out")
        if kind == "DocumentStartEvent" and (event.version or event.tags):
            raise SettingsError(f"{place}: a %YAML or %TAG line. Remove it: files are YAML 1.2")
        if getattr(event, "tag", None):
            raise SettingsError(f"{place}: a YAML tag ({event.tag}). Write a plain value")
        if len(getattr(event, "value", None) or "") > MAX_CHARACTERS:
            raise SettingsError(f"{place}: a value of more than {MAX_CHARACTERS} characters")
        if depth > MAX_DEPTH:
            raise SettingsError(f"{source} is nested too deeply: at most {MAX_DEPTH} levels")
        if count > MAX_VALUES:
            raise SettingsError(f"{source} holds more than {MAX_VALUES} keys and values")


def _first_words(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


def read_assignment(text: str) -> dict[str, Any]:
    """Turn `teacher.epochs_head=2` into the nested mapping it stands for."""
    key, equals, value = text.partition("=")
    if (
        not equals
        or "\n" in text
        or not all(part.isidentifier() for part in key.strip().split("."))
    ):
        raise SettingsError(f'--set {text}: write it as key=value, like "teacher.epochs_head=2"')
    nested: Any = _parse(f"value: {value}", f"--set {text}")["value"]
    for part in reversed(key.strip().split(".")):
        nested = {part: nested}
    return nested


def resolve(layers: Iterable[Layer]) -> Settings:
    """Merge the layers and validate the whole once; blame the layer that set the bad key."""
    layers = list(layers)
    merged: dict[str, Any] = {}
    for layer in layers:
        merged = merge(merged, layer.values)
    try:
        settings = Settings.model_validate(merged)
    except ValidationError as error:
        raise SettingsError("\n".join(_explain(error, layers))) from None
    _check_consistency(settings, merged, layers)
    return settings


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = merge(merged[key], value) if both else value
    return merged


def _explain(error: ValidationError, layers: list[Layer]) -> list[str]:
    lines: dict[tuple, list[dict]] = {}
    for item in error.errors():
        lines.setdefault(_known_part(item), []).append(item)
    return [_explain_one(place, items, layers) for place, items in lines.items()]


def _known_part(item: dict) -> tuple:
    """Drop what pydantic adds to the path for the arms of a union."""
    place = item["loc"]
    while len(place) > 1 and item["type"] != "extra_forbidden" and _group_at(place[:-1]) is None:
        place = place[:-1]
    return place


def _group_at(place: tuple) -> type[Group] | None:
    kind: Any = Settings
    for part in place:
        field = kind.model_fields.get(part) if _is_group(kind) else None
        if field is None:
            return None
        kind = next((one for one in get_args(field.annotation) if _is_group(one)), field.annotation)
    return kind if _is_group(kind) else None


def _is_group(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def _explain_one(place: tuple, items: list[dict], layers: list[Layer]) -> str:
    source, key = _source_of(place, layers), ".".join(map(str, place))
    if items[0]["type"] == "extra_forbidden":
        return f'{source}: unknown key "{key}". {nearest_key(place)}'
    rule = " or ".join(dict.fromkeys(_rule(item) for item in items))
    value = _shorten(items[0]["input"])
    return f'{source}: "{key}" is {value}. {rule}' if key else f"{source}: {rule}"


def _rule(item: dict) -> str:
    if item["type"] == "model_type":
        key = _own_first(_group_at(item["loc"]))[0]
        return f"It should be a group of keys, like {item['loc'][-1]}: {{{key}: …}}"
    message = item["msg"].removeprefix("Value error, ")
    return message.replace("Input should", "It should")


def _shorten(value: Any) -> str:
    text = "{…}" if isinstance(value, dict) else repr(value)
    return text if len(text) <= 80 else text[:77] + "…"


def _source_of(place: tuple, layers: list[Layer]) -> str:
    for layer in reversed(layers):
        value: Any = layer.values
        for part in place:
            value = value.get(part, _ABSENT) if isinstance(value, Mapping) else _ABSENT
        if value is not _ABSENT:
            return layer.source
    return layers[-1].source if layers else "settings"


_ABSENT = object()


def nearest_key(place: tuple) -> str:
    """Say the nearest right key, in the same group first and then anywhere."""
    wrong = str(place[-1])
    here = list((_group_at(place[:-1]) or Settings).model_fields)
    if near := difflib.get_close_matches(wrong, here, 1, 0.6):
        return f'Did you mean "{near[0]}"?'
    everywhere = dict(_flatten(Settings().model_dump()))
    for dotted in everywhere:
        if dotted.rsplit(".", 1)[-1] == wrong:
            return f'Did you mean "{dotted}"?'
    return f"Known here: {', '.join(here)}"


def _flatten(values: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _check_consistency(settings: Settings, merged: dict, layers: list[Layer]) -> None:
    """Refuse values that are right one by one and wrong together."""
    for network, choice in (("teacher", "arch"), ("student", "variant")):
        values = getattr(settings, network)
        if values is None:
            continue
        chosen = merged.get(network, {})
        if values.epochs_head + values.epochs_finetune == 0:
            source = _source_of((network, "epochs_finetune"), layers)
            raise SettingsError(
                f'{source}: "{network}.epochs_head" and "epochs_finetune" are both 0, so the '
                f"{network} would never train. Give one of them at least 1"
            )
        default = getattr(Settings(), network)
        picked = getattr(values, choice)
        if picked != getattr(default, choice) and "input_size" not in chosen:
            source = _source_of((network, choice), layers)
            raise SettingsError(
                f'{source}: "{network}.{choice}" is {picked}, but "input_size" is still '
                f"{default.input_size}, made for {getattr(default, choice)}. "
                f'Set "{network}.input_size: auto" for its native size'
            )


def differences(settings: Settings) -> dict[str, Any]:
    """Return only what differs from the defaults, nested as in a parameter file."""
    return _differences(settings.model_dump(), Settings().model_dump())


def _differences(values: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            inner = _differences(value, defaults[key])
            found |= {key: inner} if inner else {}
        elif value != defaults[key]:
            found[key] = value
    return found


def default_yaml() -> str:
    """Write every knob with its default and reason: the text of parameters/default.yaml."""
    head = (
        "# Every knob, its default and the reason for it. Other files hold only differences.\n"
        "# Written from workbench/settings.py by `make parameters`; edit it there.\n"
    )
    return head + "\n".join(_yaml_lines(Settings())) + "\n"


def _yaml_lines(values: Group, indent: str = "") -> Iterable[str]:
    for name in _own_first(type(values)):
        field, value = type(values).model_fields[name], getattr(values, name)
        if isinstance(value, Group):
            yield from [] if indent else [""]
            yield f"{indent}{name}:  # {field.description}"
            yield from _yaml_lines(value, indent + "  ")
        else:
            yield (
                f"{indent}{name}: {_scalar(value)}".ljust(COMMENT_COLUMN)
                + f"  # {field.description}"
            )


def _own_first(kind: type[Group]) -> list[str]:
    """Order the fields as a reader expects: `teacher.arch` before what networks share."""
    own = [name for name in kind.__annotations__ if name in kind.model_fields]
    return own + [name for name in kind.model_fields if name not in own]


def _scalar(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and 0 < abs(value) < 1e-3:
        return f"{value:.1e}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_scalar, value)) + "]"
    text = str(value)
    return text if any(map(str.isalnum, text)) else f'"{text}"'  # a comma alone is no YAML


def write_default(path: Path) -> None:
    from workbench.files import write_text

    write_text(path, default_yaml())
