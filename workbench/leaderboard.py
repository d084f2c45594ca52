"""Many runs on the same validation images: how they differ, how good each is, and what it costs.

`leaderboard("outputs/my_sweep")` reads run folders and shows itself in a notebook. It trains
nothing, loads no network, and never reads what a run answered on test.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import h5py
import pandas as pd

from workbench import status
from workbench.artifacts import QuantizationLadder
from workbench.changes import CONFIG_NAME, saved_settings
from workbench.compare import (
    CANDIDATE,
    STAGES,
    run_folders,
    tuned_thresholds,
    validation_predictions,
)
from workbench.data.cells import csv_text
from workbench.decide.metrics import LOWER_IS_BETTER, Predictions
from workbench.decide.ranking import FIGURES, Ranking, rank
from workbench.effects import SeedSpread, effects, importance, seed_spread, shown
from workbench.errors import InputError, WorkbenchError
from workbench.files import check_folder, read_json
from workbench.folds import FOLD, Folds, find_folds, fold_predictions, over_folds, pool
from workbench.parameters import flat_values
from workbench.settings import Settings
from workbench.steps import STEPS

log = logging.getLogger(__name__)

SWEEP = "sweep.json"
WEIGHTS = {"teacher_scores.npz": "teacher_finetuned.h5"}  # all others: the student's
ALIKE = 1.05  # sizes this close are one size: files of one network differ by a few bytes


@dataclass(frozen=True)
class Cost:
    """What a run took and what its network weighs; None where its files do not say."""

    seconds: float | None = None
    parameters: int | None = None
    bytes: int | None = None


@dataclass(frozen=True)
class Entry:
    """A run, or the folds of one, as its files tell."""

    name: str
    folder: Path
    state: str
    reason: str = ""
    settings: Settings | None = None
    folds: Folds | None = None
    cost: Cost = field(default_factory=Cost)
    predictions: Predictions | None = None

    @property
    def knobs(self) -> dict[str, Any]:
        values = flat_values(self.settings.model_dump()) if self.settings else {}
        return {key: one for key, one in values.items() if not (self.folds and key == FOLD)}

    @property
    def folders(self) -> list[Path]:
        return list(self.folds.runs.values()) if self.folds else [self.folder]


@dataclass(frozen=True)
class Leaderboard:
    """Entries, the best first and those without a rank last, and what can be said over them."""

    title: str
    stage: str
    tuned: bool  # answers are given at each run's own thresholds
    entries: tuple[Entry, ...]
    ranking: Ranking
    chosen: str
    why: str
    effects: pd.DataFrame
    luck: SeedSpread | None
    importance: Mapping[str, float]
    folds: Mapping[str, tuple[pd.DataFrame, pd.DataFrame]]  # over all figures, over all classes

    @property
    def differing(self) -> list[str]:
        """Name the knobs that are not the same in all ranked runs."""
        known = [entry.knobs for entry in self.entries if entry.predictions]
        names = dict.fromkeys(name for knobs in known for name in knobs)
        return [name for name in names if len({repr(knobs.get(name)) for knobs in known}) > 1]

    @property
    def table(self) -> pd.DataFrame:
        """One row a run: rank, state, knobs that differ, figures with intervals, cost."""
        rows = pd.DataFrame([_row(self, entry) for entry in self.entries])
        return rows.astype(dict.fromkeys(("rank", "parameters", "bytes"), "Int64"))

    def csv(self) -> str:
        table = self.table.astype(object).where(self.table.notna(), None)
        return csv_text(table.columns, table.itertuples(index=False))

    def to_json(self) -> dict[str, Any]:
        table = self.table.astype(object).where(self.table.notna(), None)
        moved = self.effects.astype(object).where(self.effects.notna(), None)
        return {
            "figure": self.ranking.figure, "network": self.stage.removesuffix("_scores.npz"),
            "images": self.ranking.images, "best": self.ranking.best, "chosen": self.chosen,
            "why": self.why, "corrected": self.ranking.corrected,
            "runs": table.to_dict("records"), "effects": moved.to_dict("records"),
            "importance": dict(self.importance), "seed_deviation": getattr(self.luck, "deviation",
                                                                            None),
            "bootstrap_replicates": self.ranking.replicates, "seed": self.ranking.seed,
        }  # fmt: skip

    def _repr_html_(self) -> str:
        from workbench.show.standings import fragment

        return fragment(self)

    def __repr__(self) -> str:
        from workbench.show.standings import text

        return text(self)


def leaderboard(
    *places: str | Path, figure: str | None = None, network: str | None = None
) -> Leaderboard:
    """Rank run folders, or the runs in a folder, by a validation figure of their furthest network.

    `network` is teacher, student or candidate; runs that have not got as far are listed unranked.
    """
    sweep = _sweep_of(places)
    figure = figure or _asked(sweep, "figure", FIGURES) or "f1_macro"
    if figure not in FIGURES:
        raise InputError(f'runs are not ranked by "{figure}". Take one of {", ".join(FIGURES)}')
    entries = _unique(_with_folds([*_read_all(places), *_never_started(sweep, places)]))
    entries = [_told_by_sweep(entry, sweep) for entry in entries]
    stage = _stage(entries, network or _asked(sweep, "of", ("teacher", "student", "phone")))
    tuned = stage == CANDIDATE and all(_tuned(entry) for entry in entries if _has(entry, stage))
    entries = _comparable([_answered(entry, stage, tuned) for entry in entries])
    ranked = [entry for entry in entries if entry.predictions]
    settings = ranked[0].settings
    ranking = rank([entry.predictions for entry in ranked], figure, seed=settings.seed,
                   replicates=settings.evaluation.bootstrap_replicates)  # fmt: skip
    place = {name: number for number, name in enumerate(ranking.table["run"])}
    entries.sort(key=lambda entry: place.get(entry.name if entry.predictions else "", len(place)))
    chosen, why = recommend(ranking, {entry.name: entry.cost for entry in ranked})
    shared = set.intersection(*(set(entry.knobs) for entry in ranked))
    knobs = [{key: one for key, one in entry.knobs.items() if key in shared} for entry in ranked]
    values = [ranking.figures[entry.name][figure].value for entry in ranked]
    higher = figure not in LOWER_IS_BETTER
    return Leaderboard(
        Path(places[0]).resolve().name if len(places) == 1 else f"{len(entries)} runs", stage,
        tuned, tuple(entries), ranking, chosen, why, effects(knobs, values),
        seed_spread(knobs, values),
        importance(knobs, values, higher=higher) if _searched(sweep) else {},
        {entry.name: over_folds(fold_predictions(entry.folds, stage, tuned=tuned))
         for entry in ranked if entry.folds},
    )  # fmt: skip


def _read_all(places: Sequence[str | Path]) -> list[Entry]:
    if not places:
        raise InputError("Name run folders, or a folder that holds them")
    found = [folder.resolve() for place in places for folder in run_folders(Path(place))]
    if not found:
        raise InputError(f"{places[0]} holds no run folder ({CONFIG_NAME})")
    return [_read(folder) for folder in dict.fromkeys(found)]


def _read(folder: Path) -> Entry:
    """Read what a folder says of itself; whatever is wrong with it becomes its one line."""
    try:
        check_folder(folder)
        settings, (state, reason) = saved_settings(folder), _state(folder)
        return Entry(folder.name, folder, state, reason, settings, cost=Cost(_seconds(folder)))
    except (WorkbenchError, OSError) as error:
        return Entry(folder.name, folder, "unreadable", _line(error, folder))


def _line(error: Exception, folder: Path) -> str:
    """Return the first line of a message, its paths as they are in the folder it is about."""
    line = (str(error) or type(error).__name__).splitlines()[0]
    return line.replace(f"{folder}/", "")


def _state(folder: Path) -> tuple[str, str]:
    """Say how far a run has come, and why it went no further."""
    records = {step: status.state_of(folder, step) for step in STEPS}
    done = [step.number for step, record in records.items() if record["state"] == "ok"]
    for step, record in records.items():
        if record["state"] not in ("ok", "pending"):
            reason = record.get("reason", "").splitlines() or [""]
            return f"{record['state']} at {step.number}", reason[0]
    if len(done) == len(STEPS):
        return "done", ""
    return (f"to {max(done)}" if done else "not run"), ""


def _seconds(folder: Path) -> float | None:
    records = [status.state_of(folder, step) for step in STEPS]
    told = [record["seconds"] for record in records if "seconds" in record]
    return sum(told) if told else None


def _sweep_of(places: Sequence[str | Path]) -> dict[str, Any]:
    path = Path(places[0]) / SWEEP if len(places) == 1 else None
    if path is None or not path.exists():
        return {}
    try:
        held = read_json(path)
    except (InputError, OSError) as error:
        log.warning("%s; the runs are read without it", error)
        return {}
    return held if isinstance(held, dict) else {}


def _asked(sweep: Mapping[str, Any], key: str, known: Iterable[str]) -> str | None:
    """Take from a sweep what it ranks by; what this page cannot do is left out, with a word."""
    asked = sweep.get("rank")
    value = asked.get(key) if isinstance(asked, dict) else None
    if value is not None and value not in known:
        log.info("the sweep ranks by %s, this page by the default", value)
        return None
    return value


def _searched(sweep: Mapping[str, Any]) -> bool:
    spec = sweep.get("spec")
    return isinstance(spec, dict) and bool(spec.get("search"))


def _trials(sweep: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Give what a sweep says of each run, by the name of its folder."""
    held = sweep.get("trials")
    rows = held.items() if isinstance(held, dict) else enumerate(held or ())
    found = {}
    for key, row in rows if isinstance(held, dict | list) else ():
        if isinstance(row, dict):
            found[str(row.get("name", row.get("run", key)))] = row
    return found


def _told_by_sweep(entry: Entry, sweep: Mapping[str, Any]) -> Entry:
    """Let the sweep say why a run was stopped: it was not the run itself that did."""
    told = _trials(sweep).get(entry.folder.name, {})
    if told.get("state") in ("pruned", "failed", "killed"):
        return replace(entry, state=str(told["state"]), reason=str(told.get("reason") or ""))
    return entry


def _never_started(sweep: Mapping[str, Any], places: Sequence[str | Path]) -> list[Entry]:
    return [
        Entry(name, Path(places[0]) / name, str(row.get("state", "not run")),
              str(row.get("reason") or ""))
        for name, row in _trials(sweep).items() if not (Path(places[0]) / name).exists()
    ]  # fmt: skip


def _with_folds(entries: Sequence[Entry]) -> list[Entry]:
    """Put one entry in place of the folds of a k-fold."""
    found = find_folds((one.folder, one.settings) for one in entries if one.settings)
    inside = {folder: folds for folds in found for folder in folds.runs.values()}
    by_folder = {one.folder: one for one in entries}
    joined = {id(folds): _joined(folds, by_folder) for folds in found}
    rows = [joined[id(inside[one.folder])] if one.folder in inside else one for one in entries]
    return list({id(row): row for row in rows}.values())


def _joined(folds: Folds, by_folder: Mapping[Path, Entry]) -> Entry:
    parts = [by_folder[folder] for folder in folds.runs.values()]
    states = dict.fromkeys(part.state for part in parts)
    told = [part.cost.seconds for part in parts if part.cost.seconds is not None]
    reason = "; ".join(f"{part.folder.name}: {part.reason}" for part in parts if part.reason)
    return Entry(
        folds.name, parts[0].folder, f"{folds.count}, {', '.join(states)}", reason,
        folds.settings, folds, Cost(sum(told) if told else None),
    )  # fmt: skip


def _unique(entries: Sequence[Entry]) -> list[Entry]:
    """Name runs by their folders; the folder above too, where two have one name."""
    names = [entry.name for entry in entries]
    found = []
    for entry in entries:
        name = entry.name
        if names.count(name) > 1:
            name = f"{entry.folder.parent.name}/{entry.folder.name}"
        while name in [one.name for one in found]:
            name += "'"
        found.append(replace(entry, name=name))
    return found


def _has(entry: Entry, stage: str) -> bool:
    complete = not (entry.folds and entry.folds.missing)
    return complete and all((folder / stage).exists() for folder in entry.folders)


def _stage(entries: Sequence[Entry], network: str | None) -> str:
    """Choose the furthest network that two runs have scored; with one run, that of the one."""
    if network:
        return CANDIDATE if network in ("phone", "candidate") else f"{network}_scores.npz"
    counts = {stage: sum(_has(entry, stage) for entry in entries) for stage in STAGES}
    for least in (2, 1):
        for stage, count in counts.items():
            if count >= least:
                return stage
    raise InputError("No run has answered its validation images yet. Run 03_train_teacher first")


def _tuned(entry: Entry) -> bool:
    try:
        return all(tuned_thresholds(folder) is not None for folder in entry.folders)
    except (WorkbenchError, OSError):
        return False


def _answered(entry: Entry, stage: str, tuned: bool) -> Entry:
    """Add what a run answered on validation, and what its network weighs; or why it has no rank."""
    if entry.settings is None or not _has(entry, stage):
        lacks = f"no {stage}" if entry.settings else ""
        if entry.folds and entry.folds.missing:
            lacks = f"lacks fold {', '.join(map(str, entry.folds.missing))}"
        return replace(entry, reason=entry.reason or lacks)
    try:
        if entry.folds:
            found = pool(entry.name, fold_predictions(entry.folds, stage, tuned=tuned))
        else:
            own = tuned_thresholds(entry.folder) if tuned else None
            found = replace(validation_predictions(entry.folder, stage, own), name=entry.name)
        found.answers()  # refuses scores that are none
        cost = _weighed(entry.folder, stage)
        return replace(entry, predictions=found, cost=replace(cost, seconds=entry.cost.seconds))
    except (WorkbenchError, OSError, ValueError, TypeError) as error:  # of files made elsewhere
        return replace(entry, state="unreadable", reason=_line(error, entry.folder))


def _weighed(folder: Path, stage: str) -> Cost:
    weights = folder / WEIGHTS.get(stage, "student_finetuned.h5")
    parameters, size = None, None
    if weights.exists():
        parameters, size = _count_numbers(weights), weights.stat().st_size
    if stage == CANDIDATE and (folder / QuantizationLadder.file).exists():
        ladder = QuantizationLadder.read(folder)
        size = next(rung.bytes for rung in ladder.rungs if rung.rung == ladder.chosen)
    return Cost(None, parameters, size)


def _count_numbers(path: Path) -> int | None:
    """Count the numbers in a weights file from its table of contents."""
    sizes: list[int] = []

    def add(_name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset) and item.dtype.kind == "f":
            sizes.append(int(item.size))

    try:
        with h5py.File(path, "r") as file:
            file.visititems(add)
    except (OSError, RuntimeError):
        return None
    return sum(sizes)


def _comparable(entries: Sequence[Entry]) -> list[Entry]:
    """Keep the answers of the runs that most others share their images, labels and classes with."""
    alike: dict[int, list[Entry]] = {}
    for entry in entries:
        if entry.predictions:
            alike.setdefault(_question(entry.predictions), []).append(entry)
    if not alike:
        why = next((entry.reason for entry in entries if entry.reason), "")
        raise InputError(f"None of {len(entries)} runs can be ranked. {why}")
    most = max(alike.values(), key=len)
    why = f"validated on other images, labels or classes than {len(most)} others"
    others = {entry.name for group in alike.values() if group is not most for entry in group}
    return [
        replace(entry, predictions=None, reason=why) if entry.name in others else entry
        for entry in entries
    ]


def _question(asked: Predictions) -> int:
    """Number what a run was asked: which images, classes and labels, in whatever order."""
    known = asked.y_true if asked.mask is None else asked.y_true * asked.mask
    mask = known * 0 + 1 if asked.mask is None else asked.mask
    columns = sorted(range(len(asked.classes)), key=lambda column: asked.classes[column])
    rows = zip(asked.filepaths, (known > 0.5)[:, columns], (mask > 0.5)[:, columns], strict=True)
    cells = sorted((path, label.tobytes(), there.tobytes()) for path, label, there in rows)
    return hash((asked.task, tuple(sorted(asked.classes)), tuple(cells)))


def recommend(ranking: Ranking, costs: Mapping[str, Cost]) -> tuple[str, str]:
    """Choose the smallest network among the runs not clearly worse than the best; say why."""
    near, best = ranking.not_worse, ranking.best
    sizes = {name: costs[name].bytes for name in near if costs[name].bytes}
    chosen = best
    if best in sizes:
        small = [name for name in near if sizes.get(name, 1e18) <= ALIKE * min(sizes.values())]
        chosen = best if best in small else small[0]
    if chosen != best:
        behind = ranking.table.set_index("run").loc[chosen, "difference"]
        return chosen, (
            f"not clearly worse than {best} ({behind:+.4f}), and {sizes[chosen] / 1e6:.2f} MB in "
            f"place of {sizes[best] / 1e6:.2f} MB"
        )
    if len(near) == len(ranking.table) == 1:
        return best, "the only run that can be ranked"
    if len(near) == 1:
        return best, "the best; all others are clearly worse"
    smaller = "none of them smaller" if best in sizes else "and no file says what they weigh"
    return best, f"the best; {len(near) - 1} more cannot be told from it, {smaller}"


def _row(board: Leaderboard, entry: Entry) -> dict[str, Any]:
    ranked = entry.predictions is not None
    found = board.ranking.table.set_index("run")
    row: dict[str, Any] = {
        "rank": found.index.get_loc(entry.name) + 1 if ranked else None, "run": entry.name,
        "chosen": entry.name == board.chosen, "state": entry.state, "reason": entry.reason,
    }  # fmt: skip
    for name in board.differing:
        row[name] = shown(entry.knobs[name]) if name in entry.knobs else None
    for name, figure in board.ranking.figures.get(entry.name, {}).items() if ranked else ():
        ends = figure.interval or (None, None)
        row |= {name: figure.value, f"{name}_low": ends[0], f"{name}_high": ends[1]}
    for name in ("difference", "difference_low", "difference_high", "verdict"):
        key = name.replace("difference", "difference_to_best")
        row[key] = found.loc[entry.name, name] if ranked else None
    cost = entry.cost
    return row | {"seconds": cost.seconds, "parameters": cost.parameters, "bytes": cost.bytes}
