"""Put what an app developer needs into one zip: the sealed bundle, words about it, its own sums.

The zip of a run is the same to the byte each time: order, times and permissions are fixed. Nothing
of the run goes in that the seal does not list, and nothing whose bytes are no longer those.
"""

from __future__ import annotations

import hashlib
import json
import re
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workbench import web
from workbench.artifacts import Figure, InferenceConfig, TestFigures
from workbench.deploy import verify
from workbench.deploy.bundle import FILES, FOLDERS
from workbench.deploy.sources import render
from workbench.errors import InputError, StepError
from workbench.evidence import Judged
from workbench.files import read_json, writing
from workbench.run import project_root, zip_of

README, CARD, CHANGES, LICENCE = "README.md", "MODEL_CARD.md", "CHANGES.md", "LICENSE"
PAGE = "try_it.html"
RUN_SUMS = "RUN_SHA256SUMS"  # the seal of the run, as it was when the zip was made
BEGINNING = (1980, 1, 1, 0, 0, 0)  # of time, in a zip
READABLE = 0o644 << 16
TOP = 3  # classes of a golden photo that the README names
LARGEST_SEEN = 1 << 24  # bytes of a member of an older zip; more is none of ours
FIGURES = {"F1 macro": "f1_macro", "F1 micro": "f1_micro", "precision": "precision_macro",
           "recall": "recall_macro", "mAP": "map", "accuracy": "accuracy"}  # fmt: skip
PAGES = (  # what an app starts from, and the page that goes on from there
    ("Android", "a `Bitmap`, a file or a stream", "app/kotlin/README.md"),
    ("iPhone, iPad, Mac", "a `UIImage` or a file", "app/swift/README.md"),
    ("C and C++", "RGB bytes", "app/c/README.md"),
    ("the browser, Node.js", "a file, an `ImageBitmap`, RGBA bytes", "app/javascript/README.md"),
    ("Python", "a file", "app/python/README.md"),
    ("a reviewer, in any browser", "a photo that is dragged in", PAGE),
)


@dataclass(frozen=True)
class Handover:
    """A zip that was written."""

    path: Path
    files: int
    sha256: str
    changes: str

    @property
    def words(self) -> str:
        size = self.path.stat().st_size / 1e6
        return f"{self.path}: {self.files} files, {size:.1f} MB, sha256 {self.sha256}"

    @property
    def figures(self) -> dict[str, Any]:
        size = self.path.stat().st_size
        return {"file": str(self.path), "files": self.files, "bytes": size, "sha256": self.sha256}


def hand_over(folder: Path, out: Path | None = None, *, page: bool = False) -> Handover:
    """Check a sealed run and write its zip; what lies at that place is what changes refer to.

    With `page` it holds one more, which runs the model in a browser.
    """
    path = out or zip_of(folder)
    if path.suffix != ".zip" or path.is_dir():
        raise InputError(f"{path} is no name for a zip. Give one that ends in .zip")
    _check(folder)
    parts = _sealed_parts(folder)
    if page:
        parts[PAGE] = web.page(folder.name, parts, web.runtime(folder.parent)).encode()
    parts[CHANGES] = _changes(parts, _members(path)).encode()
    parts[LICENCE] = (project_root(Path(__file__).parent) / LICENCE).read_bytes()
    parts[CARD] = _card(folder, parts).encode()
    parts[README] = _readme(folder.name, parts).encode()
    sums = "".join(f"{_sha256(parts[name])}  {name}\n" for name in sorted(parts))
    parts[verify.SUMS] = sums.encode()
    _write(path, folder.name, parts)
    digest = _sha256(path.read_bytes())
    return Handover(path, len(parts), digest, parts[CHANGES].decode())


def _check(folder: Path) -> None:
    """Refuse a run that is not sealed, was edited, or whose model answers otherwise."""
    if not (folder / verify.SUMS).exists():
        raise InputError(f"{folder} is not sealed: run it to the end, which seals it")
    found = verify.verify(folder, (verify.CHECKS[0], *verify.BUNDLE_CHECKS))
    wrong = [f"{check.name}: {check.detail}" for check in found.checks if check.passed is False]
    if wrong:
        raise StepError(
            f"{folder} is not as it was sealed, so nothing is handed over. {'; '.join(wrong)}. "
            "Run it again, or take back what was changed"
        )


def _sealed_parts(folder: Path) -> dict[str, bytes]:
    """Read the files of the bundle that the seal lists, each of the bytes that it states."""
    seal = (folder / verify.SUMS).read_bytes()
    parts = {RUN_SUMS: seal}
    for stated, name in _sums(seal):
        if name in FILES or name.split("/")[0] in FOLDERS:
            parts[name] = (folder / name).read_bytes()
            if _sha256(parts[name]) != stated:
                raise StepError(
                    f"{folder / name} changed while it was read. Give the command again"
                )
    return parts


def _sums(text: bytes) -> Iterator[tuple[str, str]]:
    for line in text.decode("utf-8").splitlines():
        stated, _, name = line.partition("  ")
        yield stated, name


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _write(path: Path, top: str, parts: Mapping[str, bytes]) -> None:
    with writing(path) as temporary, zipfile.ZipFile(temporary, "w") as packed:
        for name in sorted(parts):
            about = zipfile.ZipInfo(f"{top}/{name}", BEGINNING)
            about.create_system, about.external_attr = 3, READABLE
            packed.writestr(about, parts[name], zipfile.ZIP_DEFLATED, 9)


# What is new since the zip that lies there.


def _members(path: Path) -> dict[str, bytes]:
    """Read an older zip without unpacking it; anything else tells nothing."""
    try:
        with zipfile.ZipFile(path) as packed:
            inside = [one for one in packed.infolist() if one.file_size <= LARGEST_SEEN]
            wanted = {README, CHANGES, RUN_SUMS, verify.SUMS, verify.CONFIG}
            named = {one.filename.partition("/")[2]: one for one in inside}
            return {name: packed.read(named[name]) for name in wanted & named.keys()}
    except (OSError, ValueError, zipfile.BadZipFile, NotImplementedError, RuntimeError):
        return {}


def _changes(now: Mapping[str, bytes], before: Mapping[str, bytes]) -> str:
    """Say what differs from the last zip; of the same run it stays as it was."""
    if before.get(RUN_SUMS) == now[RUN_SUMS] and CHANGES in before:
        return before[CHANGES].decode("utf-8", "replace")
    try:
        old = InferenceConfig.model_validate_json(before[verify.CONFIG])
    except (KeyError, ValueError):
        return "# What changed\n\nNo earlier zip was there when this one was made.\n"
    new = InferenceConfig.model_validate_json(now[verify.CONFIG])
    lines = [*_different(old, new), *_different_files(now, before)] or [
        "Nothing that an app reads."
    ]
    since = f"Since the zip whose run was sealed as {_sha256(before.get(RUN_SUMS, b''))[:12]}…:"
    return f"# What changed\n\n{since}\n\n" + "".join(f"- {line}\n" for line in lines)


def _different(old: InferenceConfig, new: InferenceConfig) -> Iterator[str]:
    if old.model.sha256 != new.model.sha256:
        yield f"The model is another one: {new.model.file}, {new.model.bytes / 1e6:.1f} MB."
    if gone := [one for one in old.labels if one not in new.labels]:
        yield f"Labels that are gone: {_named(gone)}."
    if more := [one for one in new.labels if one not in old.labels]:
        yield f"New labels: {_named(more)}."
    if not gone and not more and old.labels != new.labels:
        yield "The labels stand in another order: take labels.txt anew."
    for part, words in (("task", "task"), ("input", "input tensor"), ("output", "output tensor"),
                        ("preprocessing", "preprocessing"), ("calibration", "calibration"),
                        ("aggregation", "pooling of frames")):  # fmt: skip
        if getattr(old, part) != getattr(new, part):
            yield f"The {words} changed: the sources of the app carry it."
    yield from _moved(_bars(old), _bars(new))


def _bars(config: InferenceConfig) -> dict[str, float]:
    """Return what raw outputs are compared with, by label."""
    if config.single_label:
        return {"unknown": config.thresholds.unknown_below}
    rows = config.thresholds.classes
    return {row.label: row.logit if row.integer is None else row.integer for row in rows}


def _moved(old: Mapping[str, float], new: Mapping[str, float]) -> Iterator[str]:
    both = [name for name in new if name in old and old[name] != new[name]]
    moved = [f"{_code(name)} {old[name]:g} → {new[name]:g}" for name in both]
    if moved:
        yield f"Thresholds on the raw output: {', '.join(moved)}."


def _different_files(now: Mapping[str, bytes], before: Mapping[str, bytes]) -> Iterator[str]:
    stated = {name: digest for digest, name in _sums(before.get(verify.SUMS, b""))}
    sources = sorted(name for name in now if name.startswith("app/"))
    changed = [name for name in sources if stated.get(name) != _sha256(now[name])]
    gone = [name for name in stated if name.startswith("app/") and name not in now]
    if changed:
        yield f"Sources to take anew: {', '.join(map(_code, changed))}."
    if gone:
        yield f"Sources that are gone: {', '.join(map(_code, gone))}."


# The words around it.


def _readme(name: str, parts: Mapping[str, bytes]) -> str:
    config = InferenceConfig.model_validate_json(parts[verify.CONFIG])
    recorded = json.loads(parts[verify.VECTORS])
    rows = [row for row in PAGES if row[2] in parts]
    return render("README.md.tmpl", {
        "NAME": name, "TASK": _task(config), "LABELS": _named(config.labels),
        "MODEL_FILE": config.model.file, "MEGABYTES": f"{config.model.bytes / 1e6:.1f}",
        "INPUT_SIZE": config.input.width,
        "PLATFORMS": _table(("for", "starts from", "page"),
                            [(what, start, f"[{page}]({page})") for what, start, page in rows]),
        "EXPECTED": _table(("golden photo", "the app shows", "most probable"),
                           _expected(recorded["vectors"], config.labels)),
        "SEAL": _sha256(parts[RUN_SUMS]),
    })  # fmt: skip


def _task(config: InferenceConfig) -> str:
    if config.single_label:
        below = config.thresholds.unknown_below
        return f"Exactly one label is true of a photo; below {below:.0%} the answer is *unknown*."
    return "Several labels can be true of a photo at once, or none; each has its own threshold."


def _expected(vectors: Sequence[Mapping[str, Any]], labels: Sequence[str]) -> Iterator[list[str]]:
    """Say for each golden photo what an app must show: labels, and the highest probabilities."""
    for vector in vectors:
        chances = list(zip(vector["probabilities"], labels, strict=True))
        top = sorted(chances, key=lambda pair: -pair[0])[:TOP]
        picture = vector["picture"]["file"]
        yield [
            f"[{_code(vector['name'])}]({picture})",
            _named(vector["decisions"]) or "nothing",
            ", ".join(f"{_code(label)} {chance:.1%}" for chance, label in top),
        ]


def _card(folder: Path, parts: Mapping[str, bytes]) -> str:
    config = InferenceConfig.model_validate_json(parts[verify.CONFIG])
    test = TestFigures.read(folder).test
    measured = read_json(folder / TestFigures.file)["test"]
    rows = [(name, *_figure(test.overall[key])) for name, key in FIGURES.items()
            if key in test.overall]  # fmt: skip
    judged = Judged.read(folder).verdict
    lines = judged.lines if judged else ["Verdict: none, 09 was run by an earlier version"]
    verdict = "".join(f"- {_plain(line.strip())}\n" for line in lines)
    return render("MODEL_CARD.md.tmpl", {
        "NAME": folder.name, "TASK": _task(config), "LABELS": _named(config.labels),
        "MODEL_FILE": config.model.file, "MODEL_SHA256": config.model.sha256,
        "RUNG": config.shipped.title, "NETWORK": config.shipped.network,
        "INPUT_SIZE": config.input.width, "EXIF": config.preprocessing.exif,
        "CALIBRATED": "corrected by a calibration where it helped on held-out photos"
                      if config.calibration else "those of the network, not corrected",
        "IMAGES": measured["images"], "MEANS": _plain(test.macro_means),
        "FIGURES": _table(("figure", "value", "95 % interval"), rows),
        "CLASSES": _table(("label", "photos with it", "found", "missed", "wrongly said", "F1"),
                          map(_class_row, measured["classes"])),
        "VERDICT": verdict,
        "VERSIONS": ", ".join(f"{name} {one}" for name, one in config.versions.items()),
        "SEAL": _sha256(parts[RUN_SUMS]),
    })  # fmt: skip


def _figure(figure: Figure) -> tuple[str, str]:
    value = "undefined" if figure.value is None else f"{figure.value:.3f}"
    span = "{:.3f} to {:.3f}".format(*figure.interval) if figure.interval else figure.withheld
    return value, span


def _class_row(row: Mapping[str, Any]) -> list[str]:
    f1 = "undefined" if row["f1"] is None else f"{row['f1']:.3f}"
    counts = (row[key] for key in ("positives", "tp", "fn", "fp"))
    return [_code(row["class"]), *map(str, counts), f1]


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _named(labels: Iterable[str]) -> str:
    return ", ".join(map(_code, labels))


def _plain(text: str) -> str:
    """Write a sentence, which may name labels, so that no sign in it is Markdown or HTML."""
    return re.sub(r"([\\`*<>\[\]|&~$])", r"\\\1", text)


def _code(text: str) -> str:
    """Write a name so that no sign in it is Markdown or HTML, also in a table."""
    longest = max(map(len, re.findall("`+", text)), default=0)
    fence, space = "`" * (longest + 1), " " if longest else ""
    return f"{fence}{space}{text}{space}{fence}".replace("|", "\\|")
