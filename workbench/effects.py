"""What a knob did over many runs: the figure by value, its spread, and what cannot be told apart.

Averages over whatever runs there are. It plans no runs and calls nothing significant.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

MOST_VALUES = 6  # of a number that are shown one by one; more are put in quarters
SEED = "seed"
LEAST_RUNS = 10  # below, a share of importance is a guess
WIDE = 100.0  # a positive number that spans this factor was searched by its logarithm


@dataclass(frozen=True)
class SeedSpread:
    """How far runs lie apart that differ in nothing but the seed."""

    deviation: float
    settings: int
    runs: int


def effects(knobs: Sequence[Mapping[str, Any]], values: Sequence[float]) -> pd.DataFrame:
    """Mean figure by value of each knob that differs, the knob that moves it most first.

    Knobs that always change together stand in one row: nothing tells their effects apart. `spread`
    is the standard deviation over the runs with that value, whatever the other knobs were.
    """
    figure = pd.Series(values, dtype=float)
    names = [name for name in knobs[0] if len({_text(run[name]) for run in knobs}) > 1]
    parts = {name: _parts([run[name] for run in knobs]) for name in names}
    tables = []
    for together in _confounded(parts):
        labels = [", ".join(parts[name][run] for name in together) for run in range(len(knobs))]
        order = list(dict.fromkeys(sorted(labels, key=dict(zip(labels, _ranks(knobs, together),
                                                               strict=True)).get)))  # fmt: skip
        found = figure.groupby(np.array(labels)).agg(["size", "mean", "std", "min", "max"])
        found = found.loc[order].reset_index(names="value")
        found.insert(0, "knob", ", ".join(together))
        tables.append(found)
    tables.sort(key=lambda table: table["mean"].min() - table["mean"].max())
    columns = {"size": "runs", "std": "spread", "min": "lowest", "max": "highest"}
    empty = pd.DataFrame(columns=["knob", "value", "size", "mean", "std", "min", "max"])
    return pd.concat(tables or [empty], ignore_index=True).rename(columns=columns)


def _text(value: Any) -> str:
    return repr(value)


def shown(value: Any) -> str:
    """Write a value as a parameter file would."""
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    return f"{value:g}" if isinstance(value, float) else str(value)


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _parts(values: list[Any]) -> list[str]:
    """Name the value of each run, or the quarter it lies in where there are too many."""
    if len(set(map(_text, values))) <= MOST_VALUES or not all(map(_number, values)):
        return [shown(value) for value in values]
    quarter = pd.qcut(pd.Series(values, dtype=float), 4, labels=False, duplicates="drop")
    ends = pd.Series(values, dtype=float).groupby(quarter).agg(["min", "max"])
    return ["{:g} to {:g}".format(*ends.loc[place]) for place in quarter]


def _ranks(knobs: Sequence[Mapping[str, Any]], together: Sequence[str]) -> list[tuple]:
    first = [run[together[0]] for run in knobs]
    return [(not _number(value), value if _number(value) else 0, _text(value)) for value in first]


def _confounded(parts: Mapping[str, list[str]]) -> list[list[str]]:
    """Gather the knobs that part the runs in the same way."""
    alike: dict[tuple[int, ...], list[str]] = {}
    for name, labels in parts.items():
        place = {label: number for number, label in enumerate(dict.fromkeys(labels))}
        alike.setdefault(tuple(place[label] for label in labels), []).append(name)
    return list(alike.values())


def seed_spread(knobs: Sequence[Mapping[str, Any]], values: Sequence[float]) -> SeedSpread | None:
    """Measure what luck alone does: None where no two runs differ in the seed only."""
    alike: dict[str, list[float]] = {}
    for run, value in zip(knobs, values, strict=True):
        rest = _text({name: one for name, one in run.items() if name != SEED})
        alike.setdefault(rest, []).append(value)
    repeated = [group for group in alike.values() if len(group) > 1]
    if not repeated:
        return None
    within = sum(np.square(np.array(group) - np.mean(group)).sum() for group in repeated)
    runs = sum(map(len, repeated))
    return SeedSpread(float(np.sqrt(within / (runs - len(repeated)))), len(repeated), runs)


def importance(
    knobs: Sequence[Mapping[str, Any]], values: Sequence[float], *, higher: bool = True
) -> dict[str, float]:
    """Share of the figure's variance that Optuna's fANOVA gives to each knob that was searched."""
    import optuna

    names = [name for name in knobs[0]
             if name != SEED and len({_text(run[name]) for run in knobs}) > 1]  # fmt: skip
    if len(knobs) < LEAST_RUNS or not names or np.ptp(values) == 0:
        return {}
    ranges = {name: _range([run[name] for run in knobs]) for name in names}
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="maximize" if higher else "minimize")
    for run, value in zip(knobs, values, strict=True):
        chosen = {name: run[name] if _number(run[name]) else _text(run[name]) for name in names}
        study.add_trial(
            optuna.trial.create_trial(params=chosen, distributions=ranges, value=float(value))
        )
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
    found = optuna.importance.get_param_importances(study, evaluator=evaluator)
    return {name: float(share) for name, share in found.items()}


def _range(values: list[Any]) -> Any:
    from optuna.distributions import CategoricalDistribution, FloatDistribution

    if not all(map(_number, values)):
        return CategoricalDistribution(sorted({v if _number(v) else _text(v) for v in values}))
    low, high = float(min(values)), float(max(values))
    return FloatDistribution(low, high, log=low > 0 and high / low >= WIDE)
