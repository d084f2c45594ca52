"""A sweep from its file to its ranking: hands ready stretches to free workers, and keeps the books.

`sweep.json` is written at every change. What has to be done is told from the run folders and the
study, so the same command goes on after whatever ended the one before.
"""

from __future__ import annotations

import logging
import queue
import uuid
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from workbench import batch, freshness
from workbench.artifacts import Sweep, SweepRank, SweepTrial
from workbench.errors import InputError, MissingInputError, SettingsError
from workbench.files import write_json
from workbench.lock import locked
from workbench.machine import minutes
from workbench.parameters import resolve_layers
from workbench.run import Run, check_run_name, resolve_run
from workbench.settings import SweepSettings
from workbench.steps import STEPS, Step, find_step
from workbench.sweep import spec as sweep_file
from workbench.sweep.progress import final_value
from workbench.sweep.sharing import Keys, Sharing, Stretch, computed
from workbench.sweep.spec import Differences, assignments
from workbench.sweep.trial import Job, Outcome

log = logging.getLogger(__name__)
TICK_SECONDS = 2
FAILURES_IN_A_ROW = 3  # of a search: what is wrong is wrong for all


@dataclass(frozen=True)
class Plan:
    """What a sweep is going to do, as far as it is known before."""

    folder: Path
    root: Path
    spec: SweepSettings
    steps: tuple[Step, ...]
    rank: SweepRank
    trials: dict[str, Differences]  # none of a search, which draws them

    def open(self, name: str, differences: Differences) -> Run:
        base = self.root / self.spec.base
        return resolve_run(self.folder / name, self.root, base, assignments(differences))[0]


def plan(
    spec: SweepSettings, name: str, root: Path, first: str | None = None, last: str | None = None
) -> Plan:
    """Check the whole sweep before any of it runs: every run's settings, steps and rank."""
    check_run_name(name)
    steps = sweep_file.steps_of(spec, first, last)
    made = Plan(root / "outputs" / name, root, spec, steps, sweep_file.rank_of(spec, steps),
                {} if spec.search else sweep_file.variants(spec))  # fmt: skip
    for name, differences in (made.trials or _corners(spec)).items():
        try:
            made.open(name, differences)
        except SettingsError as error:
            raise SettingsError(f"run {name} of the sweep: {error}") from None
    return made


def _corners(spec: SweepSettings) -> dict[str, Differences]:
    """Name the settings at both ends of every range of a search, and each choice."""
    space = spec.search.space
    usual = {knob: one.low if one.choices is None else one.choices[0]
             for knob, one in space.items()}  # fmt: skip
    found = {"at the low ends": usual}
    for knob, one in space.items():
        for value in [one.high] if one.choices is None else one.choices:
            found[f"with {knob}={value}"] = usual | {knob: value}
    return found


class _Keys:
    """The keys of runs; a dataset is stamped once."""

    def __init__(self, plan: Plan) -> None:
        from workbench.data.layouts import stamp_dataset

        self.plan, self.stamp = plan, cache(stamp_dataset)

    def of(self, name: str, differences: Differences) -> Keys:
        run = self.plan.open(name, differences)
        return freshness.keys(run, self.stamp(run.dataset_folder))

    def sharing(self) -> tuple[Sharing, dict[str, Keys]]:
        """Begin to share out steps; of a search, those that its ranges leave alone."""
        if self.plan.spec.search:
            return Sharing(self.plan.steps, self._left_alone()), {}
        keys = {name: self.of(name, one) for name, one in self.plan.trials.items()}
        users: dict[tuple[str, str], list[str]] = {}
        for name, found in keys.items():
            for item in found.items():
                users.setdefault(item, []).append(name)
        shared = {item: names for item, names in users.items() if len(names) > 1}
        return Sharing(self.plan.steps, lambda *item: shared.get(item, ())), keys

    def _left_alone(self) -> Any:
        space = self.plan.spec.search.space
        low = {knob: one.low if one.choices is None else one.choices[0]
               for knob, one in space.items()}  # fmt: skip
        high = low | {knob: one.high for knob, one in space.items() if one.choices is None}
        ends = self.of("low", low), self.of("high", high)
        same = {number for number in ends[0] if ends[0][number] == ends[1][number]}
        return lambda number, _key: ("others",) if number in same else ()


def dry_run(plan: Plan) -> Iterator[str]:
    """List the runs, what each computes and what it takes over."""
    from workbench.sweep.cluster import share_out

    last = plan.steps[-1]
    yield f"{plan.folder.name}: steps {plan.steps[0].number} to {last.number} of every run"
    yield f"best is {_rank_words(plan.rank)}"
    yield share_out(plan.spec, runs=len(plan.trials) or plan.spec.search.trials).words
    if plan.spec.search:
        search = plan.spec.search
        yield f"{search.trials} trials, drawn by {search.sampler}, pruned by {search.pruner}:"
        for knob, one in search.space.items():
            words = one.choices or f"{one.low} to {one.high}{', log' if one.log else ''}"
            yield f"  {knob}: {words}"
        return
    sharing, keys = _Keys(plan).sharing()
    stretches: list[Stretch] = []
    for name in plan.trials:
        added = sharing.add(name, keys[name])
        stretches += added
        yield f"  {name}{_taken_words(added)}"
    counts = computed(stretches)
    told = ", ".join(f"{number} {count} of {len(plan.trials)}" for number, count in counts.items())
    yield f"computed, of so many runs: {told}"


def _taken_words(stretches: list[Stretch]) -> str:
    owners: dict[str, list[str]] = {}
    for one in stretches:
        for step, owner in one.taken.items():
            owners.setdefault(owner, []).append(step)
    words = " and ".join(f"{', '.join(steps)} from {owner}" for owner, steps in owners.items())
    return f": takes over {words}" if words else ""


def _rank_words(rank: SweepRank) -> str:
    most = "highest" if rank.sign > 0 else "lowest"
    return f"the {most} {rank.figure} of the {rank.of} on validation"


class _Books:
    """sweep.json, written whole at every change."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.trials: dict[str, SweepTrial] = {}
        self.before = {one.name: one for one in _trials_before(plan.folder)}

    def enter(self, name: str, differences: Differences, **facts: Any) -> None:
        """Begin a run's record, or go on with the time that it has taken before."""
        seconds = self.before[name].seconds if name in self.before else None
        values = {"seconds": seconds} | facts
        self.trials[name] = SweepTrial(name=name, differences=differences, **values)

    def change(self, name: str, **facts: Any) -> None:
        self.trials[name] = self.trials[name].model_copy(update=facts)
        self.write()

    def add(self, name: str, outcome: Outcome) -> None:
        one = self.trials[name]
        seconds = round((one.seconds or 0) + outcome.seconds, 1)
        self.change(name, seconds=seconds, shared=one.shared | outcome.shared)

    def sweep(self) -> Sweep:
        plan = self.plan
        return Sweep(
            schema=1, name=plan.folder.name, spec=plan.spec.model_dump(by_alias=True),
            steps=tuple(step.number for step in plan.steps), rank=plan.rank,
            trials=tuple(self.trials.values()), best=next(iter(ranked(self)), None),
        )  # fmt: skip

    def write(self) -> None:
        write_json(self.plan.folder / Sweep.file, self.sweep().to_json())


def _trials_before(folder: Path) -> tuple[SweepTrial, ...]:
    """Read what an earlier command wrote; it tells times and reasons, nothing that decides."""
    try:
        return Sweep.read(folder).trials
    except MissingInputError:
        return ()
    except InputError as error:
        log.warning("%s; earlier times and reasons are lost", error)
        return ()


def ranked(books: _Books | Sweep) -> list[str]:
    """Name the finished runs, the best first."""
    trials = books.trials.values() if isinstance(books, _Books) else books.trials
    sign = (books.plan.rank if isinstance(books, _Books) else books.rank).sign
    done = [one for one in trials if one.state == "done" and one.value is not None]
    return [one.name for one in sorted(done, key=lambda one: -sign * one.value)]


@dataclass
class _Waiting:
    """A stretch that waits for others."""

    job: Job
    after: set[tuple[str, str]]  # (run, step) that must be done before


@dataclass
class _Execution:
    """A sweep under way."""

    plan: Plan
    client: Any
    books: _Books
    search: Any = None
    memory: float = 0  # bytes a run
    waiting: list[_Waiting] = field(default_factory=list)
    under_way: dict[Any, Job] = field(default_factory=dict)  # by future
    left: Counter = field(default_factory=Counter)  # stretches to come, by run
    done: set[tuple[str, str]] = field(default_factory=set)  # (run, step)
    numbers: dict[str, int] = field(default_factory=dict)  # of drawn trials
    failures: int = 0
    slots: int = 1  # runs at a time

    def __post_init__(self) -> None:
        self.keys = _Keys(self.plan)
        self.sharing, known = self.keys.sharing()
        self.events: queue.Queue = queue.Queue()
        self.topic = f"sweep-{uuid.uuid4().hex}"
        self.client.subscribe_topic(self.topic, lambda event: self.events.put(event[1]))
        for name, differences in self.plan.trials.items():
            self.books.enter(name, differences)
            self._line_up(name, differences, known[name])
        if self.search:
            self._take_up_the_study()
        self.books.write()

    def to_the_end(self) -> None:
        from workbench.sweep.cluster import slots

        if not self.client.nthreads():
            log.info("no worker is there yet; they may come at any time")
        try:
            while True:
                self.slots = slots(self.client)
                while len(self.under_way) < self.slots and self._start_one():
                    continue
                if not self.under_way:
                    break
                self._take_note()
            if self.search and self.failures >= FAILURES_IN_A_ROW:
                log.warning("%d trials in a row failed: no more are drawn", self.failures)
        finally:
            for job in self.under_way.values():
                self.books.change(job.stretch.run, state="waiting")

    def _take_up_the_study(self) -> None:
        """Enter what the study knows; what nobody finished goes on under its old number."""
        states = {"COMPLETE": "done", "PRUNED": "pruned", "FAIL": "failed"}
        for one in self.search.known():
            name = f"trial_{one.number:03d}"
            before = self.books.before.get(name)
            if one.state.name not in states:
                continue
            reason = before.reason if before else None
            facts = {"state": states[one.state.name], "value": one.value, "reason": reason}
            self.books.enter(name, one.params, **facts, shared=before.shared if before else {})
            self._offer(name, one.params)
        for drawn in self.search.open_trials():
            self._enter_drawn(drawn)

    def _offer(self, name: str, differences: Differences) -> None:
        """Let others take over the finished steps of a run of an earlier time."""
        run = self.plan.open(name, differences)
        if run.folder.exists():
            for number, key in self.keys.of(name, differences).items():
                if batch.judge(run, find_step(number)).fresh:
                    self.sharing.owners.setdefault((number, key), name)
                    self.done.add((name, number))

    def _enter_drawn(self, drawn: Any) -> None:
        self.numbers[drawn.name] = drawn.number
        self.books.enter(drawn.name, drawn.knobs)
        try:
            self._line_up(drawn.name, drawn.knobs, self.keys.of(drawn.name, drawn.knobs))
        except SettingsError as error:  # knobs that are right one by one and wrong together
            self._record(drawn.name, "failed", None, str(error))

    def _line_up(self, name: str, differences: Differences, keys: Keys) -> None:
        plan, spec, before = self.plan, self.plan.spec, set()
        for stretch in self.sharing.add(name, keys):
            job = Job(
                plan.root, plan.folder, stretch, spec.base, differences, plan.rank, spec.threads,
                self.memory, spec.retries, spec.search, self.numbers.get(name, 0),
            )  # fmt: skip
            others = {(owner, step) for step, owner in stretch.taken.items()}
            self.waiting.append(_Waiting(job, before | others))
            self.left[name] += 1
            before = {(name, stretch.steps[-1])}

    def _start_one(self) -> bool:
        ready = [one for one in self.waiting if one.after <= self.done]
        if not ready and self._draw():
            return self._start_one()
        if not ready:
            return False
        one = max(ready, key=self._awaited)
        self.waiting.remove(one)
        self._submit(one.job)
        return True

    def _awaited(self, one: _Waiting) -> int:
        """Count the stretches that wait for this one: first what keeps others waiting."""
        mine = {(one.job.stretch.run, step) for step in one.job.stretch.steps}
        return sum(bool(mine & other.after) for other in self.waiting)

    def _draw(self) -> bool:
        """Draw a trial for a free worker: one drawn early would have less to learn from."""
        if not self.search or self.failures >= FAILURES_IN_A_ROW:
            return False
        begun = {one.job.stretch.run for one in self.waiting}
        begun |= {job.stretch.run for job in self.under_way.values()}
        if len(begun) >= self.slots:
            return False
        if self.search.counted() >= self.plan.spec.search.trials:
            return False
        drawn = self.search.draw()
        if drawn is None:
            return False
        self._enter_drawn(drawn)
        return True

    def _submit(self, job: Job) -> None:
        from workbench.sweep import cluster

        future = self.client.submit(
            cluster.on_worker, job, self.topic, cluster.neighbours(self.client),
            key=f"{job.stretch.name} {uuid.uuid4().hex[:8]}", pure=False,
            resources=cluster.needs(self.client),
        )  # fmt: skip
        self.under_way[future] = job
        future.add_done_callback(self.events.put)

    def _take_note(self) -> None:
        """Wait for the next thing that happens, a while at most: workers come and go."""
        try:
            event = self.events.get(timeout=TICK_SECONDS)
        except queue.Empty:
            return
        if isinstance(event, str):
            if self.books.trials[event].state == "waiting":
                self.books.change(event, state="running")
            return
        self._finish(self.under_way.pop(event), _outcome(event))

    def _finish(self, job: Job, outcome: Outcome) -> None:
        name = job.stretch.run
        self.books.add(name, outcome)
        self.left[name] -= 1
        if outcome.state != "done":
            self._give_up(name, outcome)
            return
        self.done |= {(name, step) for step in job.stretch.steps}
        if not self.left[name]:
            self._conclude(name)

    def _give_up(self, name: str, outcome: Outcome) -> None:
        """Record why a run ends early, and end those that wait for what it will not compute."""
        self._record(name, outcome.state, None, outcome.reason)
        ended = {name}
        for one in list(self.waiting):
            others = {owner for owner, _ in one.after} & ended
            run = one.job.stretch.run
            if run in ended or others:
                self.waiting.remove(one)
                if run not in ended:
                    ended.add(run)
                    words = f"takes over steps of {min(others)}, which {outcome.state}: "
                    self._record(run, outcome.state, None, words + str(outcome.reason))

    def _conclude(self, name: str) -> None:
        run = self.plan.open(name, self.books.trials[name].differences)
        value = final_value(run, self.plan.rank)
        if value is None:
            words = f"{self.plan.rank.figure} of its {self.plan.rank.of} is undefined on validation"
            self._record(name, "failed" if self.search else "done", None, words)
        else:
            self._record(name, "done", value, None)

    def _record(self, name: str, state: str, value: float | None, reason: str | None) -> None:
        if self.search and state != "waiting":
            self.search.tell(self.numbers[name], state, value)
        self.failures = self.failures + 1 if state == "failed" else 0
        self.books.change(name, state=state, value=value, reason=reason)
        figure = f" {self.plan.rank.figure} {value:.4f}" if value is not None else ""
        log.info("%s %s%s%s", name, state, figure, f": {reason}" if reason else "")


def _outcome(future: Any) -> Outcome:
    if future.status == "finished":
        return future.result()
    if future.status != "error":
        return Outcome("waiting", "its worker or the scheduler was lost")
    error = future.exception()
    return Outcome("failed", f"{type(error).__name__}: {error}")


def run(plan: Plan, scheduler: str | None = None, workers: int | None = None) -> Sweep:
    """Do what is left of a sweep; say what became of it."""
    from workbench.sweep import cluster

    if scheduler and workers:
        raise InputError("--workers counts those of this machine; a scheduler has its own")
    if workers is not None and workers < 1:
        raise InputError(f"--workers is {workers}; at least one has to work")
    runs = len(plan.trials) or plan.spec.search.trials
    share = cluster.share_out(plan.spec, workers, runs)
    with locked(plan.folder), batch.terminate_as_interrupt():
        batch.refuse_foreign_kernel()
        books, search = _Books(plan), _open_search(plan)
        log.info("%s: %s", plan.folder.name, scheduler or share.words)
        if plan.steps[-1] == STEPS[-1]:
            log.info("every run opens the test split: rank on validation, look at one of them")
        with cluster.at(scheduler) if scheduler else cluster.on_this_machine(share) as client:
            memory = plan.spec.memory_gib * 2**30 if scheduler else share.memory
            _Execution(plan, client, books, search, memory).to_the_end()
    return books.sweep()


def _open_search(plan: Plan) -> Any:
    if not plan.spec.search:
        return None
    from workbench.sweep.study import Search

    search = Search(plan.folder, plan.spec.search, plan.rank)
    base = resolve_layers(plan.root / plan.spec.base, {}, [], plan.root)
    search.claim(base.settings.model_dump(exclude={"run"}))
    return search


def closing_lines(sweep: Sweep) -> Iterator[str]:
    """Rank what is finished, and say why the rest is not."""
    trials = {one.name: one for one in sweep.trials}
    yield f"{len(trials)} runs; best is {_rank_words(sweep.rank)}:"
    for place, name in enumerate(ranked(sweep), 1):
        one = trials[name]
        yield f"{place:>3}  {one.value:.4f}  {minutes(one.seconds or 0):>10}  {name}"
    for one in trials.values():
        if one.state != "done" or one.value is None:
            yield f"  {one.state}: {one.name}: {one.reason or 'the same command takes it up'}"
    yield f"Compare them: python -m workbench leaderboard outputs/{sweep.name}"
    if sweep.best and sweep.steps[-1] != STEPS[-1].number:
        yield f"Finish the best: python -m workbench run --out outputs/{sweep.name}/{sweep.best}"
