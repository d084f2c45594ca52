"""Is a step up to date? One fingerprint a step, of settings, inputs and the code it computes with.

The parts of a training come from `train.phases.phase_parts`, which its checkpoints use as well, so
the chain and the checkpoints cannot disagree. No step runs here.
"""

from __future__ import annotations

import ast
import hashlib
import json
from dataclasses import dataclass
from functools import cache
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench import status
from workbench.files import digest_of, read_json
from workbench.fingerprint import code_digest, syntax
from workbench.notebook import what_if_cells
from workbench.parameters import describe_changes, flat_values
from workbench.steps import STEPS, Step

if TYPE_CHECKING:
    from workbench.run import Run
    from workbench.settings import Settings


PACKAGE = Path(__file__).parent
COMPUTING = ("data", "nets", "train", "deploy", "decide")  # settings and records count by value


@dataclass(frozen=True)
class Verdict:
    """Whether a step may be left as it is, and why or why not, in words."""

    fresh: bool
    reason: str
    skipped: bool = False  # this run has no use for the step

    @property
    def words(self) -> str:
        return f"{'skipped' if self.skipped else 'up to date'}: {self.reason}"


def fingerprint(run: Run, step: Step) -> dict[str, Any]:
    """Gather, part by part, everything the step's result depends on, as of now.

    Settings stand with their values, so that a verdict can say what they were before.
    """
    from workbench.data.layouts import stamp_dataset

    paths = {name: run.path(name) for name in files_read(step, run.settings)}
    read = {name: digest_of(path) if path.exists() else "absent" for name, path in paths.items()}
    stamp = "" if step.reads else stamp_dataset(run.dataset_folder, run.folder)
    return _parts(run, step, read, stamp)


def keys(run: Run, stamp: str) -> dict[str, str]:
    """Give each step a key before anything has run: of two runs, equal keys mean equal results.

    In place of the files that a step reads stand the keys of the steps that write them; `stamp`
    is that of the dataset.
    """
    steps = [step.under(run.settings) for step in STEPS]
    writers = {name.rstrip("?"): step.number for step in steps for name in step.writes}
    found: dict[str, str] = {}
    for step in STEPS:
        names = files_read(step, run.settings)
        read = {name: found.get(writers.get(name, ""), "absent") for name in names}
        parts = json.dumps(_parts(run, step, read, stamp), sort_keys=True, default=str)
        found[step.number] = hashlib.sha256(parts.encode()).hexdigest()
    return found


def _parts(run: Run, step: Step, read: dict[str, str], stamp: str) -> dict[str, Any]:
    from workbench.data.layouts import stamp_dataset

    parts: dict[str, Any] = {"settings": step_settings(run.settings, step)}
    parts |= {f"file {name}": value for name, value in read.items()}
    for phase in step.phases(run.settings):
        found = _phase_parts(phase, run.settings) | {"epochs": str(phase.epochs)}
        parts |= {f"{phase.name}, {part}": value for part, value in found.items()}
    if "teacher" in step.trains and run.settings.teacher.members:
        from workbench.members import digests

        parts |= digests(run.settings, run.root)
    parts |= {f"code of {name}": code_digest(*names) for name, names in code_behind(step).items()}
    parts["notebook"] = notebook_digest(run.root / "notebooks" / step.notebook)
    if not step.reads:
        parts["dataset"] = stamp
        unlabeled = run.settings.dataset.unlabeled
        if unlabeled and (run.dataset_folder / unlabeled).is_dir():
            photos = stamp_dataset(run.dataset_folder / unlabeled, run.folder)
            parts["photos without labels"] = photos
    return parts


def code_behind(step: Step) -> dict[str, list[str]]:
    """List the modules that a step computes with, by package: those it names and their imports."""
    found: set[Path] = set()
    ahead = [path for name in step.code for path in _modules(name)]
    while ahead:
        path = ahead.pop()
        if path not in found:
            found.add(path)
            ahead += _imported(path, path.stat().st_mtime_ns)
    names = sorted(
        str(path.relative_to(PACKAGE).with_suffix("")).replace("/", ".") for path in found
    )
    return {key: list(group) for key, group in groupby(names, lambda name: name.split(".")[0])}


def _modules(name: str) -> list[Path]:
    base = PACKAGE / name.replace(".", "/")
    if base.is_dir():
        return [path for path in base.rglob("*.py") if "templates" not in path.parts]
    return [base.with_suffix(".py")] if base.with_suffix(".py").exists() else []


@cache
def _imported(path: Path, _changed: int) -> list[Path]:
    """List the modules of the computing packages that a module imports, also inside functions."""
    found: list[Path] = []
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("workbench"):
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
            inner = [name.removeprefix("workbench").removeprefix(".") for name in names]
            found += [module for name in inner if name.split(".")[0] in COMPUTING and "." in name
                      for module in _modules(name)]  # fmt: skip
    return found


def _phase_parts(phase: Any, settings: Settings) -> dict[str, str]:
    from workbench.train.phases import phase_parts

    return phase_parts(phase, settings)


def step_settings(settings: Settings, step: Step) -> dict[str, Any]:
    """List the dotted knobs that a step reads itself, with their values."""
    values = flat_values(settings.model_dump()) | {"product": settings.product.title}
    return {key: value for key, value in values.items() if _reads(step, key)}


def _reads(step: Step, key: str) -> bool:
    return any(key == knob or key.startswith(f"{knob}.") for knob in step.knobs)


def files_read(step: Step, settings: Settings) -> list[str]:
    """List the files of the run folder that a step reads under these settings."""
    step, values = step.under(settings), flat_values(settings.model_dump())
    asked = (file for knob, file in step.reads_if if values[knob])
    return [name.rstrip("?") for name in (*step.reads, *asked)]


def notebook_digest(path: Path) -> str:
    """Hash what the cells compute, but parameters and what-ifs: words and knobs do not count."""
    if not path.exists():
        return "absent"
    cells = [cell for cell in read_json(path)["cells"] if cell["cell_type"] == "code"]
    code = ["".join(cell["source"]) for cell in cells
            if "parameters" not in cell["metadata"].get("tags", [])]  # fmt: skip
    aside = what_if_cells(code)
    trees = [_program(source) for place, source in enumerate(code) if place not in aside]
    counted = [tree for tree in trees if tree != syntax("")]
    return hashlib.sha256(json.dumps(counted).encode()).hexdigest()


def _program(source: str) -> str:
    try:
        return syntax(source)
    except SyntaxError:  # of IPython's own words, like %matplotlib
        return source


def judge(run: Run, step: Step, parts: dict[str, Any] | None = None) -> Verdict:
    """Say whether the step must run, and why."""
    if why := step.skipped(run.settings):
        return Verdict(True, why, skipped=True)
    before = status.state_of(run.folder, step)
    if before["state"] != "ok":
        reasons = {"pending": "not run yet", "failed": "failed last time"}
        return Verdict(False, reasons.get(before["state"], f"was {before['state']}"))
    changed = changes(before["fingerprint"], fingerprint(run, step) if parts is None else parts)
    if changed:
        more = f" and {len(changed) - 2} more" if len(changed) > 2 else ""
        return Verdict(False, "; ".join(changed[:2]) + more)
    for name, value in before["outputs"].items():
        path = run.path(name)
        if not path.exists() or digest_of(path) != value:
            return Verdict(False, f"{name} is missing or was changed")
    accepted = f" (accepted: {before['accepted']})" if "accepted" in before else ""
    return Verdict(True, f"settings, inputs, code and outputs are unchanged{accepted}")


def changes(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Name the parts of a fingerprint that differ, settings with their values."""
    found = []
    if settings := describe_changes(before.get("settings", {}), now["settings"]):
        found.append(settings)
    names = [name for name in now if name != "settings" and before.get(name) != now[name]]
    return [*found, *(_change(name, before.get(name), now[name]) for name in names)]


def _change(name: str, before: Any, now: Any) -> str:
    """A part that is a value is shown before and after; of the others there are only hashes."""
    phase, _, part = name.partition(", ")
    if before is None or not (part == "epochs" or part.startswith("setting ")):
        return f"{name} changed"
    return f"{phase}: {part.removeprefix('setting ')} {before} → {now}"


def outdated(run: Run) -> dict[str, str]:
    """Give each step that a run of the whole chain would or may do now, with the reason.

    A step that reads what an outdated one writes may follow; it is left alone in the end where
    the same bytes come out again.
    """
    found: dict[str, str] = {}
    written: dict[str, Step] = {}
    for step in STEPS:
        verdict = judge(run, step)
        sources = [written[n] for n in files_read(step, run.settings) if n in written]
        if not verdict.fresh:
            found[step.number] = verdict.reason
        elif sources and not verdict.skipped:
            found[step.number] = f"reads what {sources[0].title} writes"
        if step.number in found:
            names = step.under(run.settings).writes
            written |= {name.rstrip("?"): step for name in names}
    return found


def accept(run: Run, step: Step) -> str:
    """Keep a finished result although its code or settings changed; say what was accepted."""
    from workbench.errors import InputError

    record = status.state_of(run.folder, step)
    if record["state"] != "ok":
        raise InputError(f"{step.title} has no finished result to accept: it {record['state']}")
    for name, value in record["outputs"].items():
        if not run.path(name).exists() or digest_of(run.path(name)) != value:
            raise InputError(f"{step.title} cannot be accepted: {name} is missing or was changed")
    now = fingerprint(run, step)
    changed = changes(record["fingerprint"], now)
    if not changed:
        return f"{step.title} is up to date; there is nothing to accept"
    for phase in step.phases(run.settings):
        from workbench.train import checkpoints

        checkpoints.accept(run.folder, phase, run.settings)
    words = f"{status.now()[:10]}, {'; '.join(changed)}"
    status.record(run.folder, step, **(record | {"fingerprint": now, "accepted": words}))
    return f"{step.title} accepted: {'; '.join(changed)}"
