"""The search: Optuna draws knobs and stops what lags behind; its study is a file in the folder.

The journal file is shared by all processes and machines that see the folder. Whoever opens it goes
on where the study stands: a trial that nobody finished keeps its number, its knobs and its folder.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import statistics
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, Trial, TrialState

from workbench.artifacts import SweepRank
from workbench.errors import SettingsError
from workbench.settings import KnobRange, SearchSettings
from workbench.sweep.progress import Epoch

JOURNAL = "study.journal"
SMALLEST_SHARE = 2  # halving keeps the best half


def distribution(knob: KnobRange) -> BaseDistribution:
    if knob.choices is not None:
        return CategoricalDistribution(knob.choices)
    if knob.whole:
        return IntDistribution(knob.low, knob.high, log=knob.log, step=knob.step or 1)
    return FloatDistribution(knob.low, knob.high, log=knob.log, step=knob.step)


def _grid(knob: KnobRange) -> list[Any]:
    if knob.choices is not None:
        return list(knob.choices)
    step = knob.step or 1
    count = int((knob.high - knob.low) / step + 1e-9) + 1
    return [knob.low + place * step for place in range(count)]


def _sampler(search: SearchSettings, number: int) -> optuna.samplers.BaseSampler:
    """Seed each draw by its number: a study taken up again does not repeat its first draws."""
    seed = (search.seed + number) % 2**32
    kind = optuna.samplers.TPESampler if search.sampler == "tpe" else optuna.samplers.RandomSampler
    return kind(seed=seed)


def _pruner(search: SearchSettings) -> optuna.pruners.BasePruner:
    if search.pruner == "none":
        return optuna.pruners.NopPruner()
    if search.pruner == "median":
        return optuna.pruners.MedianPruner(search.pruner_trials, max(0, search.pruner_epochs - 1))
    return optuna.pruners.SuccessiveHalvingPruner(
        min_resource=max(1, search.pruner_epochs), reduction_factor=SMALLEST_SHARE
    )


@dataclass(frozen=True)
class Drawn:
    """A trial of the study."""

    number: int
    knobs: dict[str, Any]

    @property
    def name(self) -> str:
        return f"trial_{self.number:03d}"


class Search:
    """A study and the settings it is searched under."""

    def __init__(self, folder: Path, search: SearchSettings, rank: SweepRank) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.search, self.rank = search, rank
        self.study = optuna.create_study(
            storage=JournalStorage(JournalFileBackend(str(folder / JOURNAL))),
            study_name=folder.name, load_if_exists=True, pruner=_pruner(search),
            direction="maximize" if rank.sign > 0 else "minimize",
        )  # fmt: skip

    def claim(self, base: dict[str, Any]) -> None:
        """Refuse to go on with a study of other runs: their figures would not compare."""
        about = {"base": base, "rank": self.rank.model_dump(), "space": self.search.model_dump()}
        about["space"] = about["space"]["space"]
        digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()
        if self.study.user_attrs.setdefault("about", digest) != digest:
            raise SettingsError(
                f"{JOURNAL} of {self.study.study_name} holds trials of another base, space or "
                "rank. Name a new folder with --run, or delete this one"
            )
        self.study.set_user_attr("about", digest)

    def open_trials(self) -> list[Drawn]:
        """List the trials that were begun and are neither finished nor pruned."""
        found = self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        return [Drawn(one.number, one.params) for one in found]

    def known(self) -> list[FrozenTrial]:
        return self.study.get_trials(deepcopy=False)

    def counted(self) -> int:
        """Count the trials that are under way, finished or pruned; failed ones are made up for."""
        return sum(one.state != TrialState.FAIL for one in self.known())

    def draw(self) -> Drawn | None:
        """Draw the next trial, None where a grid has nothing left."""
        known = self.known()
        if self.search.sampler == "grid":
            told = [one.params for one in known if one.state != TrialState.FAIL]
            left = (one for one in self._combinations() if one not in told)
            if (following := next(left, None)) is None:
                return None
            self.study.enqueue_trial(following, skip_if_exists=True)
        self.study.sampler = _sampler(self.search, len(known))
        space = {name: distribution(knob) for name, knob in self.search.space.items()}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            trial = self.study.ask(fixed_distributions=space)
        return Drawn(trial.number, trial.params)

    def _combinations(self) -> Iterator[dict[str, Any]]:
        names = list(self.search.space)
        for values in itertools.product(*map(_grid, self.search.space.values())):
            yield dict(zip(names, values, strict=True))

    def tell(self, number: int, state: str, value: float | None) -> None:
        states = {"done": TrialState.COMPLETE, "pruned": TrialState.PRUNED}
        found = states.get(state, TrialState.FAIL)
        told = value if found == TrialState.COMPLETE else None
        self.study.tell(number, told, state=found, skip_if_finished=True)


class Pruning:
    """Reports the epochs of one trial and asks whether it should go on."""

    def __init__(self, search: Search, number: int) -> None:
        self.search, study = search, search.study
        frozen = study.get_trials(deepcopy=False)[number]
        self.trial = Trial(study, frozen._trial_id)
        self.reported = set(frozen.intermediate_values)

    def report(self, epochs: list[Epoch]) -> Iterator[Epoch]:
        """Report what is new, epoch by epoch; others are compared with it."""
        for epoch in epochs:
            if epoch.number not in self.reported:
                self.reported.add(epoch.number)
                self.trial.report(epoch.value, epoch.number)
                yield epoch

    def judge(self, epochs: list[Epoch]) -> str:
        """Report what is new; return why the trial should stop, "" where it should not."""
        late = (epoch for epoch in self.report(epochs) if self.trial.should_prune())
        return next(map(self._words, late), "")

    def _words(self, epoch: Epoch) -> str:
        """Say which figure, at which epoch, against what."""
        trials = self.search.study.get_trials(deepcopy=False)
        others = [one.intermediate_values[epoch.number] for one in trials
                  if one.number != self.trial.number and epoch.number in one.intermediate_values
                  and (self.search.search.pruner == "halving"
                       or one.state == TrialState.COMPLETE)]  # fmt: skip
        rank = self.search.rank
        best = (max if rank.sign > 0 else min)(
            [epoch.value, *trials[self.trial.number].intermediate_values.values()]
        )
        figure = f"{rank.figure} on validation {best:.4f} at best up to {epoch.title}"
        if self.search.search.pruner == "median":
            return f"{figure}; the median of {len(others)} finished trials there is " + (
                f"{statistics.median(others):.4f}" if others else "undefined"
            )
        return f"{figure}; not among the best half of the {len(others) + 1} trials that got there"
