"""The sources an app takes in: C, Kotlin, Swift, JavaScript and Python, filled from the config."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from workbench import data
from workbench.artifacts import InferenceConfig
from workbench.decide.levels import NEVER
from workbench.deploy import verify
from workbench.errors import StepError

log = logging.getLogger(__name__)

TEMPLATES = Path(__file__).parent / "templates"
C_SOURCES = ("classifier.c", "classifier.h", "self_test.c")
LETTERBOX = ("letterbox.c", "letterbox.h")
PLACE = re.compile(r"@([A-Z0-9_]+)@")
TABLE_COLUMNS = 16
EXIF_WORDS = {
    "apply": " turned as its EXIF orientation says",
    "ignore": " left as it is stored: this model was trained without EXIF",
}


def app_sources(config: InferenceConfig, vectors: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Return the text of every file under `app/`; `vectors` are the golden ones."""
    in_python = {"python/classify.py": _read(TEMPLATES / "classify.py"), **_rendered("python", {})}
    if config.output.dtype == "float32":
        log.info("left out: sources in C, Kotlin, Swift and JavaScript, which compare integers; "
                 "this file gives float logits, see classify.py")  # fmt: skip
        return in_python
    return {
        **{f"c/{name}": _read(TEMPLATES / name) for name in C_SOURCES},
        **{f"c/{name}": _read(Path(data.__path__[0]) / name) for name in LETTERBOX},
        **_generated_c(config, vectors),
        **_rendered("c", _shared(config)),
        **_rendered("kotlin", _kotlin(config, vectors)),
        **_rendered("swift", _swift(config)),
        **_rendered("javascript", _javascript(config)),
        **in_python,
    }


def _rendered(language: str, values: Mapping[str, Any]) -> dict[str, str]:
    """Fill every template of a language."""
    names = sorted(f"{language}/{path.name}" for path in (TEMPLATES / language).glob("*.tmpl"))
    return {name.removesuffix(".tmpl"): render(name, values) for name in names}


def render(template: str, values: Mapping[str, Any]) -> str:
    """Fill a template; a place without a value is a mistake of ours and refused."""

    def fill(place: re.Match[str]) -> str:
        if place[1] not in values:
            raise StepError(f"{template}: nothing to put at @{place[1]}@")
        return str(values[place[1]])

    return PLACE.sub(fill, _read(TEMPLATES / template))


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def _shared(config: InferenceConfig) -> dict[str, Any]:
    """What every language writes alike."""
    return {
        "MODEL_FILE": config.model.file,
        "MODEL_SHA256": config.model.sha256,
        "INPUT_SIZE": config.input.width,
        "CLASSES": len(config.labels),
        "OUTPUT_SCALE": repr(config.output.scale),
        "OUTPUT_ZERO_POINT": config.output.zero_point,
        "CALIBRATED": int(config.calibration is not None),
        "POOLED_FRAMES": config.aggregation.frames if config.aggregation else 0,
        "FAINTEST": repr(verify.FAINTEST),
        **_lines_shown(config),
        "THRESHOLDS": ", ".join(str(integer) for integer in _integers(config)),
        "EXIF": str(config.preprocessing.exif == "apply").lower(),
        "EXIF_WORDS": EXIF_WORDS[config.preprocessing.exif],
        "VALUE_IS": "a logit" if config.output.is_logits else "a probability",
        "UNKNOWN_NOTE": ", or unknown" if config.single_label else "",
    }


def _lines_shown(config: InferenceConfig) -> dict[str, str]:
    """Write the slope and the intercept of each class; 1 and 0 where nothing is corrected."""
    rows = config.calibration.classes if config.calibration else ()
    lines = {row.label: (row.slope, row.intercept) for row in rows if row.slope is not None}
    pairs = [lines.get(label, (1.0, 0.0)) for label in config.labels]
    columns = zip(("SLOPES", "INTERCEPTS"), zip(*pairs, strict=True), strict=True)
    return {name: ", ".join(map(repr, column)) for name, column in columns}


def _integers(config: InferenceConfig) -> list[int]:
    if config.single_label:
        return [NEVER] * len(config.labels)
    return [entry.integer for entry in config.thresholds.classes]


def _generated_c(config: InferenceConfig, vectors: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    table = verify.input_table(config.input.model_dump()).view(np.uint8)
    values = {
        **_shared(config),
        "IS_LOGITS": int(config.output.is_logits),
        "SINGLE_LABEL": int(config.single_label),
        "UNKNOWN_BELOW": repr(_unknown_below(config) or 0.0),
        "LABELS": _lines(c_string(label) for label in config.labels),
        "INPUT_TABLE": _lines(", ".join(map(str, row)) for row in table.reshape(-1, TABLE_COLUMNS)),
        "VECTORS": _lines(_c_vector(vector, config.labels) for vector in vectors),
        "CLIP": _c_vector(_clip(vectors, config), config.labels),
    }
    return {
        f"c/{name}": render(f"{name}.tmpl", values)
        for name in ("model_config.h", "model_config.c", "golden.h")
    }


def _unknown_below(config: InferenceConfig) -> float | None:
    return config.thresholds.unknown_below if config.single_label else None


def _lines(items: Iterable[str], indent: int = 4) -> str:
    """Write one item a line, without a comma after the last: older compilers refuse it."""
    return ",\n".join(" " * indent + item for item in items)


def _clip(vectors: Sequence[Mapping[str, Any]], config: InferenceConfig) -> dict[str, Any]:
    """Take the golden images for frames of one clip; it has no picture of its own."""
    nothing = {"name": "the clip of all", "width": 0, "height": 0, "source_crc32": 0}
    raws = [vector["raw"] for vector in vectors]
    return nothing | verify.pooled_vector(raws, config.to_json())


def _c_vector(vector: Mapping[str, Any], labels: Sequence[str]) -> str:
    shown = [labels.index(label) for label in vector["decisions"]]
    size = f"{vector['width']}, {vector['height']}, {vector['source_crc32']}u"
    chances = _braced(map(repr, vector["probabilities"]))
    answers = f"{_braced(vector['raw'])}, {chances}, {len(shown)}, {_braced(shown or [0])}"
    return f"{{{c_string(vector['name'])}, {size}, {answers}}}"


def _braced(numbers: Iterable[Any]) -> str:
    return f"{{{', '.join(map(str, numbers))}}}"


def c_string(text: str) -> str:
    """Quote for C99: bytes beyond ASCII in octal, and no `??` that could be a trigraph."""
    plain = set(range(32, 127)) - set(b'"\\?')
    return (
        '"'
        + "".join(chr(byte) if byte in plain else f"\\{byte:03o}" for byte in text.encode("utf-8"))
        + '"'
    )


def kotlin_string(text: str) -> str:
    """Quote for Kotlin, where `$` would start an expression."""
    return json.dumps(text).replace("$", "\\u0024")


def javascript_string(text: str) -> str:
    """Quote for JavaScript, also inside of a page."""
    return json.dumps(text).replace("<", "\\u003c")


def swift_string(text: str) -> str:
    """Quote for Swift: code points beyond printable ASCII, quotes and backslashes in braces."""
    plain = set(map(chr, range(32, 127))) - set('"\\')
    return '"' + "".join(c if c in plain else f"\\u{{{ord(c):x}}}" for c in text) + '"'


def _kotlin_vector(vector: Mapping[str, Any], labels: Sequence[str]) -> str:
    said = [labels.index(label) for label in vector["decisions"]]
    lists = (vector["raw"], vector["probabilities"], said)
    numbers = ", ".join(f'"{" ".join(map(str, one))}"' for one in lists)
    return f'Golden("{vector["name"]}", {vector["width"]}, {vector["height"]}, {numbers})'


def _kotlin(config: InferenceConfig, vectors: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    signed, unknown = config.input.dtype == "int8", _unknown_below(config)
    several = "raw.indices.filter { raw[it] >= THRESHOLDS[it] }"
    one = f"raw.indices.filter {{ it == highest(raw) && confidence(raw, it) >= {unknown} }}"
    chance = f"value(raw[index]).coerceIn({verify.FAINTEST!r}, {1 - verify.FAINTEST!r})"
    return {
        **_shared(config),
        "LABELS": _lines(kotlin_string(label) for label in config.labels),
        "VECTORS": _lines(_kotlin_vector(vector, config.labels) for vector in vectors),
        "CLIP": _kotlin_vector(_clip(vectors, config), config.labels),
        "INPUT_BYTE": "(value - 128).toByte()" if signed else "value.toByte()",
        "DECIDE": one if config.single_label else several,
        **_probabilities(config, "raw.indices.sumOf {{ exp({}) }}", "it", chance, "ln"),
    }


def _swift(config: InferenceConfig) -> dict[str, Any]:
    signed, unknown = config.input.dtype == "int8", _unknown_below(config)
    several = "raw.indices.filter { Int(raw[$0]) >= thresholds[$0] }"
    one = (
        "let best = raw.indices.max { raw[$0] < raw[$1] || (raw[$0] == raw[$1] && $0 > $1) }!\n"
        f"        return confidence(raw, best) >= {unknown} ? [best] : []"
    )
    chance = f"min(max(value(raw[index]), {verify.FAINTEST!r}), {1 - verify.FAINTEST!r})"
    return {
        **_shared(config),
        "LABELS": _lines((swift_string(label) for label in config.labels), 8),
        "INPUT_BYTE": "UInt8(bitPattern: Int8(Int(value) - 128))" if signed else "value",
        "DECIDE": " " * 8 + (one if config.single_label else several),
        **_probabilities(config, "raw.indices.reduce(0) {{ $0 + exp({}) }}", "$1", chance, "log"),
    }


def _javascript(config: InferenceConfig) -> dict[str, Any]:
    signed, unknown = config.input.dtype == "int8", _unknown_below(config)
    several = "[...LABELS.keys()].filter((index) => raw[index] >= THRESHOLDS[index])"
    one = f"[highest(raw)].filter((index) => confidence(raw, index) >= {unknown})"
    chance = f"min(max(value(raw[index]), {verify.FAINTEST!r}), {1 - verify.FAINTEST!r})"
    return {
        **_shared(config),
        "LABELS": _lines((javascript_string(label) for label in config.labels), 2),
        "INPUT_BYTES": "Int8Array.from(square, (byte) => byte - 128)" if signed else "square",
        "DECIDE": one if config.single_label else several,
        **_probabilities(config, "raw.reduce((sum, _, i) => sum + exp({}), 0)", "i", chance, "log"),
    }


def _probabilities(
    config: InferenceConfig, total: str, each: str, chance: str, log: str
) -> dict[str, str]:
    """Write what decides, the logit and what is shown; `total` sums over `each` class."""
    logits, single, shown = config.output.is_logits, config.single_label, "line(raw, index)"
    odds = chance if single else f"{chance} / (1 - {chance})"

    def applied(value: str) -> str:
        if single:
            return f"exp({value}) / {total.format(value.replace('index', each))}"
        return f"1 / (1 + exp(-{value}))"

    confidence = applied("value(raw[index])") if logits else "value(raw[index])"
    return {
        "CONFIDENCE": confidence,
        "LOGIT": "value(raw[index])" if logits else f"{log}({odds})",
        "PROBABILITY": applied(shown) if config.calibration else "confidence(raw, index)",
    }
