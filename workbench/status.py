"""status.json: what happened to each step. The file is checked before it is believed."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from workbench.errors import InputError
from workbench.files import check_relative, read_json, write_json
from workbench.lock import is_alive
from workbench.steps import Step

SCHEMA = 1
STATUS_NAME = "status.json"
NEEDED = {  # what a record must hold in each state
    "running": {"started", "process"},
    "ok": {"started", "finished", "seconds", "fingerprint", "outputs"},
    "failed": {"started", "finished", "reason"},
    "interrupted": {"started", "finished", "reason"},
    "skipped": {"reason"},
}


FileName = Annotated[str, AfterValidator(check_relative)]  # stays in the run folder
Digest = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class StepRecord(BaseModel):
    """What became of one step."""

    model_config = ConfigDict(extra="forbid")

    name: str
    state: Literal["running", "ok", "failed", "interrupted", "skipped"]
    started: str | None = None
    finished: str | None = None
    seconds: float | None = None
    reason: str | None = None
    process: dict[str, Any] | None = None
    fingerprint: dict[str, Any] | None = None  # its parts by name, settings with their values
    outputs: dict[FileName, Digest] | None = None  # sha256 by file or folder of the run
    devices: list[str] | None = None  # what TensorFlow listed, where the step loaded it
    page: dict[FileName, Digest] | None = None  # the executed notebook and its page, sha256 of each
    accepted: str | None = None  # when a person kept the result, and what had changed

    @model_validator(mode="after")
    def holds_what_its_state_needs(self) -> StepRecord:
        missing = [name for name in NEEDED[self.state] if getattr(self, name) is None]
        if missing:
            raise ValueError(f"a step that is {self.state} needs {', '.join(sorted(missing))}")
        return self


class Status(BaseModel):
    """The whole file."""

    model_config = ConfigDict(extra="forbid")

    schema_: Literal[1] = 1
    steps: dict[str, StepRecord]


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
    try:
        checked = Status.model_validate({"schema_": schema, "steps": status["steps"]})
    except (ValidationError, KeyError, TypeError):
        raise InputError(
            f"{path} is damaged. Delete it and run again: finished epochs are found once more"
        ) from None
    return {"schema": SCHEMA, "steps": checked.model_dump(exclude_none=True)["steps"]}


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


def record_failure(folder: Path, step: Step, reason: str, state: str = "failed") -> None:
    before = read_status(folder)["steps"].get(step.number, {})
    started = before.get("started", now())
    record(folder, step, state=state, started=started, finished=now(), reason=reason)


def forget(folder: Path, step: Step) -> None:
    """Take a step's record away: a fork computes it anew."""
    status = read_status(folder)
    if status["steps"].pop(step.number, None):
        write_json(folder / STATUS_NAME, status)


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
