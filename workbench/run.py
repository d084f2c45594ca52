"""The run folder: where a chain of steps keeps its settings, files and status.

`open_run` is how a notebook finds its run; rooms never see this class, steps do.
"""

from __future__ import annotations

import json
import logging
import re
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workbench import files, status
from workbench.chain import STEPS, Step, find_step, writer_of
from workbench.errors import MissingInputError, SettingsError
from workbench.lock import locked
from workbench.parameters import Layer, differences, nearest_key, read_settings, resolve
from workbench.settings import Settings

log = logging.getLogger(__name__)

CONFIG_NAME = "training_config.json"
PIECES = "html/pieces"
RUN_NAME_RULE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


def project_root(start: Path | None = None) -> Path:
    """Find the folder that holds notebooks/ and parameters/, from here upwards."""
    here = (start or Path.cwd()).resolve()
    for folder in (here, *here.parents):
        if (folder / "notebooks").is_dir() and (folder / "parameters").is_dir():
            return folder
    return here


@dataclass(frozen=True)
class Run:
    """A run folder with the settings it works under."""

    folder: Path
    settings: Settings
    root: Path

    @property
    def name(self) -> str:
        return self.folder.name

    def path(self, name: str) -> Path:
        return self.folder / name

    def need(self, name: str) -> Path:
        """Return the path of an earlier step's file, or say which notebook makes it."""
        path = self.folder / name
        if not path.exists():
            step = writer_of(name)
            raise MissingInputError(f"No {name} in {self.folder}. Run {step.notebook[:-6]} first")
        return path

    def read_json(self, name: str) -> Any:
        return files.read_json(self.need(name))

    def write_json(self, name: str, value: Any) -> None:
        files.write_json(self.folder / name, value)

    @property
    def dataset_folder(self) -> Path:
        return self.root / self.settings.dataset.dir

    def save_settings(self) -> None:
        self.write_json(CONFIG_NAME, self.settings.model_dump())

    def prints(self, step: Step) -> dict[str, str]:
        """Fingerprint what a step depends on, as of now."""
        from workbench.data.stamp import stamp_dataset

        digest = "" if step.reads else stamp_dataset(self.dataset_folder, self.folder)
        notebook = self.root / "notebooks" / step.notebook
        return status.fingerprint(self.folder, step, self.settings, notebook, digest)

    @contextmanager
    def step(self, number: str) -> Iterator[None]:
        """Hold the folder, and record in status.json what becomes of the step."""
        step = find_step(number)
        for name in step.reads:
            if not name.endswith("?"):
                self.need(name)
        with locked(self.folder):
            self._warn_of_stale_inputs(step)
            prints = self.prints(step)
            status.record_start(self.folder, step)
            started = time.monotonic()
            try:
                yield
                status.record_end(self.folder, step, time.monotonic() - started, prints)
            except KeyboardInterrupt:
                status.record_failure(self.folder, step, "interrupted by a person", "interrupted")
                raise
            except Exception as error:
                status.record_failure(self.folder, step, f"{type(error).__name__}: {error}")
                raise

    def _warn_of_stale_inputs(self, step: Step) -> None:
        """Say which earlier steps would run again: a notebook may be run alone or out of order."""
        for earlier in STEPS[: STEPS.index(step)]:
            if set(earlier.writes) & {name.rstrip("?") for name in step.reads}:
                verdict = status.judge(self.folder, earlier, self.prints(earlier))
                if not verdict.fresh:
                    log.warning("%s is out of date (%s): %s builds on what it left",
                                earlier.title, verdict.reason, step.title)  # fmt: skip

    def save_piece(self, name: str, html: str) -> None:
        """Keep a living piece of a page (its own script in it) for the rendered notebook."""
        files.write_text(self.folder / PIECES / f"{name}.html", html)

    def pieces(self) -> dict[str, str]:
        found = sorted((self.folder / PIECES).glob("*.html"))
        return {path.stem: path.read_text(encoding="utf-8") for path in found}


def open_run(namespace: Mapping[str, Any]) -> Run:
    """Open the run a notebook's `parameters` cell names, under the settings given there.

    Whatever papermill injected lies in the notebook's namespace. Names that are no settings are
    refused: papermill itself only warns about a mistyped key.
    """
    configure_logging()
    given = _given_settings(namespace)
    root = project_root()
    folder = run_folder(namespace["run_dir"], root)
    saved = saved_settings(folder) if (folder / CONFIG_NAME).exists() else None
    if saved and (not given or given == differences(saved)):
        run = Run(folder, saved, root)
    else:
        run = Run(folder, read_settings(None, (), given, root), root)
        folder.mkdir(parents=True, exist_ok=True)
        run.save_settings()
    prepare_process(run.settings)
    return run


def saved_settings(folder: Path) -> Settings:
    path = folder / CONFIG_NAME
    if not path.exists():
        raise MissingInputError(f"No {CONFIG_NAME} in {folder}: is it a run folder?")
    values = files.read_json(path)
    if not isinstance(values, dict):
        raise SettingsError(f"{path} holds no settings. Delete it and run again")
    # What the dataset's config.yaml had to say is in it already, and so is what --set changed.
    return resolve([Layer(str(path), values)])


def _given_settings(namespace: Mapping[str, Any]) -> dict[str, Any]:
    shell = namespace.get("get_ipython")
    hidden = set(shell().user_ns_hidden) if shell else set()
    names = {
        name: value
        for name, value in namespace.items()
        if not name.startswith("_")
        and name not in hidden | {"run_dir", "In", "Out", "exit", "quit", "get_ipython", "open"}
        and not callable(value)
        and not isinstance(value, type(sys))
    }
    hidden_by_import = {name for name in Settings.model_fields if name in namespace} - set(names)
    if hidden_by_import:
        raise SettingsError(
            f'notebook: an import hides the setting "{min(hidden_by_import)}". Import it under '
            "another name, or call open_run before it"
        )
    for name in names:
        if name not in Settings.model_fields:
            raise SettingsError(
                f'notebook parameters: unknown key "{name}". {nearest_key((name,))}'
            )
    return names


def run_folder(run_dir: str, root: Path) -> Path:
    folder = Path(run_dir)
    check_run_name(folder.name)
    return folder if folder.is_absolute() else root / folder


def check_run_name(name: str) -> None:
    if not RUN_NAME_RULE.fullmatch(name):
        raise SettingsError(
            f'"{name}" cannot name a run: letters, digits, ".", "_" and "-", at most 100'
        )


def configure_logging() -> None:
    """One plain line a decision, on standard output, where notebooks and batch logs show it."""
    room = logging.getLogger("workbench")
    if not room.handlers:
        handler = logging.StreamHandler(sys.stdout)
        handler.setFormatter(logging.Formatter("%(message)s"))
        room.addHandler(handler)
        room.setLevel(logging.INFO)
        room.propagate = False


def prepare_process(settings: Settings) -> None:
    """Keep third-party start-up chatter out of notebooks and reports."""
    import warnings

    warnings.filterwarnings("ignore", category=DeprecationWarning)
    warnings.filterwarnings("ignore", module="PIL")  # names no file; the audit does
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    logging.getLogger("absl").setLevel(logging.ERROR)


def describe_settings(settings: Settings) -> str:
    """Say in one line what differs from the defaults."""
    changed = differences(settings)
    return json.dumps(changed) if changed else "the defaults"
