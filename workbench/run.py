"""The run folder: settings, files and status of one chain of steps, and how a notebook opens it."""

from __future__ import annotations

import logging
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench import files, freshness, status
from workbench.changes import (
    CHANGES_NAME,
    CONFIG_NAME,
    describe_source,
    read_changes,
    resolve_settings,
    saved_settings,
)
from workbench.data import remote
from workbench.errors import MissingInputError, PlainLines, SettingsError, StepError
from workbench.lock import LOCK_NAME, describe_process, held_by_parent, locked
from workbench.notebook import CellWatcher, read_cells
from workbench.parameters import Layer, describe_changes, flat_values, layers_of, resolve
from workbench.settings import Settings
from workbench.steps import STEPS, Step, find_step, writer_of

if TYPE_CHECKING:
    from workbench.data.tables import Dataset, Split
    from workbench.leaderboard import Leaderboard
    from workbench.show.tables import Table

log = logging.getLogger(__name__)

METADATA = "run_metadata.json"
LOG_MARK = "\u2063"  # invisible; the command line takes it away again
OF_THE_CHAIN = ("html", "notebooks", "SHA256SUMS", "*.zip")  # pages, seal, zip: of a whole run
RUN_NAME_RULE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


def project_root(start: Path | None = None) -> Path:
    """Find the folder that holds notebooks/ and parameters/, from here upwards."""
    here = (start or Path.cwd()).resolve()
    for folder in (here, *here.parents):
        if (folder / "notebooks").is_dir() and (folder / "parameters").is_dir():
            return folder
    return here


def required_project(file: Path | None = None) -> Path:
    """Find the project that a run or a sweep needs; say where it is, if the parameter file does."""
    root = project_root()
    if (root / "notebooks").is_dir():
        return root
    other = project_root(file.parent) if file else root
    known = f"go to the one of {file}: cd {other}" if other != root else "go to yours"
    known = known if (other / "notebooks").is_dir() else "go to yours"
    raise SettingsError(
        f"{root} is no project: neither it nor a folder above it holds notebooks/ and parameters/. "
        f"Either {known}, or start one: python -m workbench new my_project --from PHOTOS"
    )


@dataclass
class Run:
    """A run folder with the settings it works under."""

    folder: Path
    settings: Settings
    root: Path
    step: Step | None = None  # what the notebook that opened it works on
    _written: set[str] = field(default_factory=set, repr=False)
    _parts: dict[str, Any] = field(default_factory=dict, repr=False)
    _started: str = field(default="", repr=False)

    @property
    def name(self) -> str:
        return self.folder.name

    def path(self, name: str) -> Path:
        return self.folder / name

    def need(self, name: str) -> Path:
        """Return the path of an earlier step's file, or say which notebook makes it."""
        path = self.folder / name
        if not path.exists():
            raise MissingInputError(
                f"No {name} in {self.folder}. Run {writer_of(name).notebook[:-6]} first"
            )
        return path

    def read_json(self, name: str) -> Any:
        return files.read_json(self.need(name))

    def write_json(self, name: str, value: Any) -> None:
        files.write_json(self.folder / name, value)
        self.wrote(name)

    def wrote(self, *names: str) -> None:
        """Count files or folders of the run folder among what this step leaves."""
        self._written |= set(names)

    @property
    def dataset_folder(self) -> Path:
        """Say where the dataset lies: of a URL its copy."""
        return remote.local_folder(self.settings.dataset.dir, self.root)

    def fetch_dataset(self) -> None:
        """Bring the copy of a dataset that lies elsewhere up to date."""
        if remote.is_remote(self.settings.dataset.dir):
            remote.copy_dataset(self.settings.dataset.dir, self.root)

    def dataset(self) -> Dataset:
        """Read back the dataset as 01 wrote it."""
        from workbench.data.tables import load_dataset

        self.need("dataset_manifest.json")
        return load_dataset(self.folder, self.root)

    def open_test(self) -> Split:
        """Return the test split, and count in run_metadata.json that this run opened it.

        Whoever writes that file keeps the count, and a fork inherits it: what a person saw of a
        test split cannot be unseen by a copy of the run. Another split starts at 1.
        """
        dataset = self.dataset()
        split = {"sha256": files.digest_of(self.path("splits/test_labels.csv"))}
        with self.locked():
            path = self.path(METADATA)
            known = files.read_json(path) if path.exists() else {}
            counted = known.get("test_split", {})
            opened = counted["opened"] + 1 if counted.get("sha256") == split["sha256"] else 1
            files.write_json(path, known | {"test_split": split | {"opened": opened}})
        log.info("times this run has opened the test split: %d", opened)
        return dataset.split("test")

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Let nobody else write in this run folder meanwhile."""
        with locked(self.folder):
            yield

    def save_settings(self) -> None:
        self.write_json(CONFIG_NAME, self.settings.model_dump())

    def begin(self, number: str) -> None:
        """Mark a step as running; what it reads must be there, and is named where it is old."""
        self.step = find_step(number).under(self.settings)
        if why := self.step.skipped(self.settings):
            raise StepError(f"{self.step.title} is left out of {self.name}: {why}")
        for name in freshness.files_read(self.step, self.settings):
            if f"{name}?" not in self.step.reads:
                self.need(name)
        if not self.step.reads and not held_by_parent(self.folder):  # else the chain has done so
            self.fetch_dataset()
        with self.locked():
            self._warn_of_old_inputs()
            self._parts = freshness.fingerprint(self, self.step)
            self._started = status.now()
            self._written = set()
            facts = {"state": "running", "started": self._started, "process": describe_process()}
            status.record(self.folder, self.step, **facts)
        _watch(self)

    def finish(self) -> Table:
        """Record the step as done with the hashes of what it left, and show that as a table."""
        from workbench.show.tables import file_table

        if self.step is None:
            raise StepError('no step is open. Open the run with open_run(run_dir, step="01")')
        with self.locked():
            outputs = self._hash_outputs()
            status.record(
                self.folder, self.step, state="ok", started=self._started,
                finished=status.now(), seconds=round(_busy_seconds(self), 1),
                fingerprint=self._parts, outputs=outputs, **_devices(),
            )  # fmt: skip
        _unwatch(self)
        return file_table(self.folder, outputs)

    def _hash_outputs(self) -> dict[str, str]:
        due = [name for name in self.step.writes if not name.endswith("?")]
        missing = [name for name in due if not self.path(name).exists()]
        if missing:
            raise StepError(
                f"{self.step.title} did not write {', '.join(missing)} in {self.folder}. "
                "Run the cells above that write it"
            )
        number = self.step.number
        others = {one.rstrip("?") for step in STEPS if step.number != number
                  for one in step.under(self.settings).writes}  # fmt: skip
        names = {name.rstrip("?") for name in self.step.writes} | (self._written - others)
        found = sorted(name for name in names if self.path(name).exists())
        return {name: files.digest_of(self.path(name)) for name in found}

    def _warn_of_old_inputs(self) -> None:
        """Say which earlier steps would run again: a notebook may be opened out of order."""
        reads = set(freshness.files_read(self.step, self.settings))
        for earlier in (step for step in STEPS if step.number < self.step.number):
            if {name.rstrip("?") for name in earlier.under(self.settings).writes} & reads:
                verdict = freshness.judge(self, earlier)
                if not verdict.fresh:
                    log.warning("%s is out of date (%s): %s builds on what it left",
                                earlier.title, verdict.reason, self.step.title)  # fmt: skip

    def fork(self, name: str, **knobs: Any) -> Run:
        """Start a what-if beside this run, like `run.fork("more_qat", qat={"epochs": 3})`.

        Steps before the change are taken over as they are, the rest is computed anew by
        `compute`. The same fork again is opened, not made twice.
        """
        folder = run_folder(str(self.folder.with_name(name)), self.root)
        if folder.exists():
            return self._existing_fork(folder, knobs)
        changes = read_changes(self.folder, self.root)
        resolved = resolve_settings(self.root, None, layers_of((), knobs), changes)
        partial = folder.with_name(f"{files.PARTIAL}{name}")
        shutil.rmtree(partial, ignore_errors=True)
        skip = shutil.ignore_patterns(LOCK_NAME, f"{files.PARTIAL}*", *OF_THE_CHAIN)
        with self.locked():
            shutil.copytree(self.folder, partial, ignore=skip)
        made = Run(partial, resolved.settings, self.root)
        made.save_settings()
        files.write_json(partial / CHANGES_NAME, resolved.changes)
        old = freshness.outdated(made)
        for step in STEPS:
            if step.number in old:
                made._drop(step)
        partial.rename(folder)
        made.folder = folder
        first = min(old, default="none")
        log.info("%s: %s; computed anew from %s on", name, resolved.line, first)
        return made

    def compare(self, *others: Run) -> Table | Leaderboard:
        """Compare the answers of runs on validation, image by image, with intervals.

        One other is held against this run, figure by figure; more make a leaderboard.
        """
        from workbench.compare import compare_on_validation
        from workbench.leaderboard import leaderboard
        from workbench.show.differences import comparison_table

        if len(others) == 1:
            return comparison_table(compare_on_validation(self.folder, others[0].folder))
        return leaderboard(self.folder, *(other.folder for other in others))

    def _existing_fork(self, folder: Path, knobs: Mapping[str, Any]) -> Run:
        run = existing_run(folder, self.root)
        asked = resolve([Layer("the fork", run.settings.model_dump()), *layers_of((), knobs)])
        if asked != run.settings:
            found = describe_changes(*(flat_values(one.model_dump())
                                       for one in (asked, run.settings)))  # fmt: skip
            raise SettingsError(
                f"{folder} exists with other settings: {found}. Take another name, or delete it"
            )
        return run

    def _drop(self, step: Step) -> None:
        """Remove what a step left: in a fork it would be another run's result."""
        record = status.read_status(self.folder)["steps"].get(step.number, {})
        for name in record.get("outputs", _names(step.under(self.settings))):
            path = self.path(name)
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
        status.forget(self.folder, step)

    def compute(self, *, to: str = "") -> None:
        """Run the steps that are not up to date, as the command line does, and show its lines.

        It starts at the first outdated one: what was taken over is not executed again for its page.
        """
        start = min(freshness.outdated(self), default="")
        if not start or (to and to < start):
            log.info("%s is up to date%s", self.name, f" up to {to}" if to else "")
            return
        words = ["run", "--run", self.name, "--from", start]
        words += ["--to", to] if to else []
        with subprocess.Popen(
            [sys.executable, "-m", "workbench", *words], cwd=self.root, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        ) as process:  # fmt: skip
            lines = []
            for line in process.stdout:
                lines.append(line)
                log.info("%s", line.rstrip())
        if process.returncode:
            raise StepError(f"{self.name} stopped: {lines[-1].strip() if lines else 'no word'}")


def _names(step: Step) -> list[str]:
    return [name.rstrip("?") for name in step.writes]


_watched: dict[str, tuple[Run, CellWatcher]] = {}  # what this kernel works on: one step at a time


def _watch(run: Run) -> None:
    """Record a cell that fails, until the step is done."""

    def fail(error: BaseException) -> None:
        by_person = isinstance(error, KeyboardInterrupt)
        reason = "interrupted by a person" if by_person else f"{type(error).__name__}: {error}"
        with suppress(Exception):  # the cell's own error is what a person has to read
            state = "interrupted" if by_person else "failed"
            status.record_failure(run.folder, run.step, reason, state)

    if "now" in _watched:
        _watched.pop("now")[1].stop()
    watcher = CellWatcher(fail)
    watcher.start()
    _watched["now"] = run, watcher


def _unwatch(run: Run) -> None:
    if "now" in _watched and _watched["now"][0] is run:
        _watched["now"][1].stop()


def _busy_seconds(run: Run) -> float:
    watched, watcher = _watched["now"]
    return watcher.busy_seconds() if watched is run else 0.0


def open_run(
    run_dir: str | Path,
    parameters: str | None = None,
    *,
    step: str | None = None,
    knobs: Mapping[str, Any] | None = None,
) -> Run:
    """Open the run of a notebook under its settings, and say what they change.

    Settings are the defaults, the parameter file, the dataset's config.yaml, what the run has
    changed before, and the knobs of the parameters cell (or `knobs`). A run remembers the file it
    was made from; `parameters` counts where the run is new.
    """
    root = project_root()
    folder = run_folder(run_dir, root)
    configure_logging(LOG_MARK if held_by_parent(folder) else "")
    _refuse_a_new_folder(folder, root, step, parameters)
    file, given = _what_the_cells_say(folder, root, parameters, knobs)
    resolved = resolve_settings(root, file, layers_of((), given), read_changes(folder, root))
    run = Run(folder, resolved.settings, root)
    before = saved_settings(folder) if run.path(CONFIG_NAME).exists() else None
    log.info("%s", describe_source(resolved))
    for line in resolved.lines:
        log.info("%s", line)
    if before is None or before != resolved.settings or not run.path(CHANGES_NAME).exists():
        folder.mkdir(parents=True, exist_ok=True)
        with run.locked():
            run.save_settings()
            files.write_json(run.path(CHANGES_NAME), resolved.changes)
    if before and before != resolved.settings:
        _say_what_is_old(run, before)
    prepare_process(run.settings)
    if step:
        run.begin(step)
    return run


def _refuse_a_new_folder(
    folder: Path, root: Path, step: str | None, parameters: str | None
) -> None:
    """Let 01, or whoever names parameters, start a run: a mistyped run_dir must leave no folder."""
    starts = find_step(step) == STEPS[0] if step else parameters is not None
    known = folder.parent.is_dir() or folder.parent == root / "outputs"
    if folder.exists() or (starts and known):
        return
    if starts:
        raise MissingInputError(
            f"{folder.parent} does not exist, so no run starts in it. Runs lie in outputs/; make "
            "that folder first if it is meant"
        )
    there = sorted(path.parent.name for path in folder.parent.glob(f"*/{CONFIG_NAME}"))
    raise MissingInputError(
        f"{folder} does not exist. {STEPS[0].notebook[:-6]} starts a run; there are: "
        f"{', '.join(there) or 'none yet'}"
    )


def _what_the_cells_say(
    folder: Path, root: Path, parameters: str | None, knobs: Mapping[str, Any] | None
) -> tuple[Path | None, dict[str, Any]]:
    """Return the parameter file to start from and the knobs that are set on top of it."""
    remembered = read_changes(folder, root).get("parameters")
    new = not (folder / CONFIG_NAME).exists()
    if knobs is not None:
        return _file(parameters if new else remembered, root), dict(knobs)
    cells = read_cells()
    if not new and held_by_parent(folder):
        if cells.own.keys() - {"run_dir", "parameters"}:
            log.info("the command line has the settings; knobs in this notebook are left out")
        return _file(remembered, root), {}
    asked = cells.injected.get("parameters")
    if new and cells.injected.keys() - {"run_dir", "parameters"} and asked is None:
        return None, cells.knobs  # `papermill -f FILE` brings the whole file, over the defaults
    if not new and asked is None and parameters and parameters != remembered:
        log.info("%s was made from %s; parameters = %r counts for new runs",
                 folder.name, remembered or "the defaults", parameters)  # fmt: skip
    return _file(asked or (parameters if new else remembered), root), cells.knobs


def _file(name: str | None, root: Path) -> Path | None:
    return root / name if name else None


def resolve_run(
    folder: Path, root: Path, file: Path | None, assignments: Iterable[str] = ()
) -> tuple[Run, dict[str, Any], tuple[str, ...]]:
    """Resolve a run's settings for the command line: the run, its changes, and what to say."""
    resolved = resolve_settings(root, file, layers_of(assignments), read_changes(folder, root))
    return Run(folder, resolved.settings, root), resolved.changes, resolved.lines


def _say_what_is_old(run: Run, before: Settings) -> None:
    old, new = (flat_values(one.model_dump()) for one in (before, run.settings))
    log.info("changed in %s: %s", run.name, describe_changes(old, new))
    outdated = freshness.outdated(run)
    log.info("out of date now: %s", ", ".join(outdated) if outdated else "nothing")


def existing_run(folder: Path, root: Path | None = None) -> Run:
    """Open a run that may be somebody else's: files and folders, and nothing that leads out."""
    folder = folder.resolve()
    files.check_folder(folder)
    return Run(folder, saved_settings(folder), root or project_root())


def run_folder(run_dir: str | Path, root: Path) -> Path:
    folder = Path(run_dir)
    check_run_name(folder.name)
    return folder if folder.is_absolute() else root / folder


def zip_of(folder: Path) -> Path:
    """Name what is handed over of a run; it lies in the run folder, outside of what is sealed."""
    return folder / f"{folder.name}.zip"


def check_run_name(name: str) -> None:
    if not RUN_NAME_RULE.fullmatch(name):
        raise SettingsError(
            f'"{name}" cannot name a run: letters, digits, ".", "_" and "-", at most 100'
        )


def configure_logging(mark: str = "") -> None:
    """One plain line a decision, on standard output, where notebooks and batch logs show it.

    The command line has lines marked, to tell them from what a notebook prints beside them.
    """
    logger = logging.getLogger("workbench")
    if not logger.handlers:
        handler = logging.StreamHandler(sys.stdout)
        handler.setFormatter(PlainLines(mark))
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
        logger.propagate = False


def prepare_process(settings: Settings) -> None:
    """Keep third-party start-up chatter out of notebooks and reports."""
    import warnings

    warnings.filterwarnings("ignore", category=DeprecationWarning)
    warnings.filterwarnings("ignore", module="PIL")  # names no file; the audit does
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    logging.getLogger("absl").setLevel(logging.ERROR)


def _devices() -> dict[str, list[str]]:
    """Name what this process computes on, if it loaded TensorFlow; nobody else knows."""
    if "tensorflow" not in sys.modules:
        return {}
    from workbench.nets.devices import device_names

    return {"devices": device_names()}
