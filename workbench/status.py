"""status.json: what truly happened to each step, and whether it is up to date."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from workbench.chain import STEPS, Step
from workbench.errors import InputError, StepError
from workbench.files import read_json, sha256, write_json
from workbench.lock import describe_process, is_alive
from workbench.settings import Settings

SCHEMA = 1
STATUS_NAME = "status.json"
# What a record must hold in each state.
NEEDED = {
    "running": {"started", "process"},
    "ok": {"started", "finished", "seconds", "fingerprint", "outputs"},
    "failed": {"started", "finished", "reason"},
    "interrupted": {"started", "finished", "reason"},
}
PACKAGE = Path(__file__).resolve().parent


def read_status(folder: Path) -> dict[str, Any]:
    path = folder / STATUS_NAME
    if not path.exists():
        return {"schema": SCHEMA, "steps": {}}
    status = read_json(path)
    schema = status.get("schema") if isinstance(status, dict) else None
    if schema not in (None, SCHEMA):
        raise InputError(
            f"{path} has schema {schema}, this version reads {SCHEMA}. "
            "Take another run name with --run, or delete the folder"
        )
    if schema is None or not _is_whole(status):
        raise InputError(
            f"{path} is damaged. Delete it and run again: finished epochs are found once more"
        )
    return status


def _is_whole(status: dict[str, Any]) -> bool:
    steps = status.get("steps")
    return isinstance(steps, dict) and all(
        isinstance(record, dict) and NEEDED.get(record.get("state"), {"?"}) <= record.keys()
        for record in steps.values()
    )


def state_of(folder: Path, step: Step) -> dict[str, Any]:
    """Return the step's record; a step whose process is gone was interrupted, not running."""
    record = read_status(folder)["steps"].get(step.number, {"state": "pending"})
    if record["state"] == "running" and not is_alive(record["process"]):
        return record | {"state": "interrupted"}
    return record


def record(folder: Path, step: Step, **facts: Any) -> None:
    status = read_status(folder)
    status["steps"][step.number] = {"name": step.name} | facts
    write_json(folder / STATUS_NAME, status)


def record_start(folder: Path, step: Step) -> None:
    record(folder, step, state="running", started=now(), process=describe_process())


def record_end(folder: Path, step: Step, seconds: float, prints: dict[str, str]) -> None:
    """Record success; `seconds` come from a clock that nobody sets."""
    started = state_of(folder, step)["started"]
    record(
        folder, step, state="ok", started=started, finished=now(), seconds=round(seconds, 1),
        fingerprint=prints, outputs=hash_outputs(folder, step),
    )  # fmt: skip


def record_failure(folder: Path, step: Step, reason: str, state: str = "failed") -> None:
    before = read_status(folder)["steps"].get(step.number, {})
    started = before.get("started", now())
    record(folder, step, state=state, started=started, finished=now(), reason=reason)


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def hash_outputs(folder: Path, step: Step) -> dict[str, str]:
    """Hash everything the step promised; a promise not kept is an error."""
    missing = [name for name in step.writes if not (folder / name).exists()]
    if missing:
        raise StepError(f"{step.title} did not write {', '.join(missing)} in {folder}")
    return {name: digest_of(folder / name) for name in step.writes}


def digest_of(path: Path) -> str:
    """Hash a file, or a folder with its names."""
    if path.is_file():
        return sha256(path)
    digest = hashlib.sha256()
    for inner in sorted(file for file in path.rglob("*") if file.is_file()):
        digest.update(f"{inner.relative_to(path)}\0{sha256(inner)}\n".encode())
    return digest.hexdigest()


def fingerprint(
    folder: Path, step: Step, settings: Settings, notebook: Path, dataset_digest: str
) -> dict[str, str]:
    """Hash, one by one, everything the step's result depends on."""
    values = settings.model_dump()
    prints = {f"setting {knob}": _digest(_knob(values, knob)) for knob in step.knobs}
    for name in files_read(step, settings):
        path = folder / name
        prints[f"file {name}"] = digest_of(path) if path.exists() else "absent"
    prints |= {f"code workbench/{name}": _code_digest(name) for name in step.code}
    prints["notebook"] = _notebook_digest(notebook)
    if not step.reads:
        prints["dataset"] = dataset_digest
    return prints


def files_read(step: Step, settings: Settings) -> list[str]:
    """List the files of the run folder that a step reads under these settings."""
    values = settings.model_dump()
    asked = (file for knob, file in step.reads_if if _knob(values, knob))
    return [name.rstrip("?") for name in (*step.reads, *asked)]


def _knob(values: dict[str, Any], dotted: str) -> Any:
    for part in dotted.split("."):
        values = values[part]
    return values


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _code_digest(name: str) -> str:
    path = PACKAGE / name
    if path.is_file():
        return sha256(path)
    digest = hashlib.sha256()
    for inner in sorted(path.rglob("*")):
        # what was compiled from this code has other bytes on every machine
        compiled = inner.suffix == ".so" or "__pycache__" in inner.parts
        if inner.is_file() and not compiled:
            digest.update(f"{inner.relative_to(path)}\0{sha256(inner)}\n".encode())
    return digest.hexdigest()


def _notebook_digest(path: Path) -> str:
    """Hash the code cells only: new words in a notebook do not call for a new training."""
    cells = read_json(path)["cells"]
    return _digest(["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"])


@dataclass(frozen=True)
class Verdict:
    fresh: bool
    reason: str


def judge(folder: Path, step: Step, prints: dict[str, str]) -> Verdict:
    """Say whether the step must run, and why, in words."""
    before = state_of(folder, step)
    if before["state"] != "ok":
        reasons = {"pending": "not run yet", "failed": "failed last time"}
        return Verdict(False, reasons.get(before["state"], f"was {before['state']}"))
    changed = [name for name, value in prints.items() if before["fingerprint"].get(name) != value]
    if changed:
        more = f" and {len(changed) - 1} more" if len(changed) > 1 else ""
        return Verdict(False, f"{changed[0]} changed{more}")
    for name, value in before["outputs"].items():
        path = folder / name
        if not path.exists() or digest_of(path) != value:
            return Verdict(False, f"{name} is missing or was changed")
    return Verdict(True, "settings, inputs, code and outputs are unchanged")


def steps_after(step: Step) -> tuple[Step, ...]:
    return STEPS[STEPS.index(step) + 1 :]
