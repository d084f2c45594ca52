"""Search the thresholds again, and judge the choice on images drawn again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import NormalDist
from typing import Any

import numpy as np

from .arithmetic import (
    DEALS,
    Arrays,
    Tree,
    count_levels,
    deal,
    draw_weights,
    ends,
    from_above,
    labels_of,
    mean_of_defined,
    share_or_0,
    share_or_none,
    sigmoid,
    student_quantile,
    student_share,
    units_of,
    wilson,
    worth_of,
)

LUCKY = 0.15  # of the adoptions, as the test says that errs to the safe side


@dataclass(frozen=True)
class Choice:
    """What a search chose, and what the same search chose on resampled images."""

    shared: int
    own: np.ndarray  # [C]
    value: np.ndarray  # [C], of the own thresholds on the images that chose
    adopted: np.ndarray  # bool [C]: who keeps a threshold of its own
    adopted_in: np.ndarray  # bool [R, C]
    gain: np.ndarray  # [3, C]: without the luck of choosing, and its ends
    expected: Tree
    drawn_shared: np.ndarray  # [R]
    drawn_own: np.ndarray  # [R, C]
    held_out: tuple[np.ndarray, np.ndarray] | None  # hits and trials [C], where there is a floor

    @property
    def integers(self) -> np.ndarray:
        return np.where(self.adopted, self.own, self.shared)


@dataclass(frozen=True)
class Search:
    """Validation images by class and level, [C, 256] each, and the rule that chooses."""

    positives: np.ndarray
    negatives: np.ndarray
    scale: float
    zero_point: int
    knobs: dict[str, Any]
    arrays: Arrays
    seed: int

    @classmethod
    def of(cls, arrays: Arrays, knobs: dict[str, Any], seed: int = 0) -> Search:
        levels = arrays["scale"].item(), arrays["zero_point"].item()
        return cls(*count_levels(arrays), *levels, knobs, arrays, seed)

    def forms(self, integer: int, ends: Sequence[int]) -> Tree:
        """Derive logit and probabilities of a threshold: halfway between two levels."""
        logits = (np.array([integer, *ends]) - 0.5 - self.zero_point) * self.scale
        probability, *both = sigmoid(logits).tolist()
        return {"integer": integer, "logit": logits[0], "probability": probability,
                "probability_interval": both, "integer_interval": list(ends)}  # fmt: skip

    def reason(self, i: int) -> str:
        """Say why a class has the threshold that it has."""
        choice, knobs = self.choice, self.knobs
        if self.positives[i].any() and not self.negatives[i].any():
            return "global threshold: without negatives there is nothing to tune on"
        if choice.held_out:
            return self._floor_reason(i, *(side[i] for side in choice.held_out))
        gain, low, high = choice.gain[:, i]
        times = f"{choice.adopted_in[:, i].sum()} of {len(choice.adopted_in)} resamplings"
        found = f"{gain:+.3f} ({low:+.3f} to {high:+.3f}), adopted in {times}"
        least = knobs["per_class_improvement_threshold"]
        if choice.adopted[i]:
            return f"own threshold: gains {found}"
        if not knobs["per_class_enabled"]:
            why = "per_class_enabled is false"
        elif np.isnan(gain):
            why = "there is nothing to tune on"
        elif choice.own[i] == choice.shared:
            why = "it is also the best for this class"
        elif np.isnan(low):
            why = "one of its own changes no answer that could tell them apart"
        else:
            few = f"less than {least:g}" if gain < least else "which may be luck"
            why = f"its own would gain {found}, {few}"
        return f"global threshold: {why}"

    def _floor_reason(self, i: int, hits: float, trials: float) -> str:
        floor, value = self.knobs["floor"], self.choice.value[i]
        if np.isnan(value):
            return "global threshold: there is nothing to tune on"
        if value < 0:
            return (f"global threshold: {floor:.0%} cannot be promised with these images; "
                    f"at best {max(floor + value, 0):.1%} is sure")  # fmt: skip
        if not self.knobs["per_class_enabled"]:
            return "global threshold: per_class_enabled is false"
        which = "own threshold" if self.choice.adopted[i] else "global threshold, also its own"
        if not trials:
            return f"{which}: aimed at {floor:.0%}, chosen on all images; too few to hold some out"
        low, high = wilson(self.worth[i, 0] * hits, self.worth[i, 0] * trials)
        kept = f"held-out {hits / trials:.1%} [{low:.1%}, {high:.1%}]"
        return f"{which}: aimed at {floor:.0%}, {kept}"

    @property
    def probabilities(self) -> list[float]:
        """What the chosen thresholds mean."""
        return sigmoid((self.choice.integers - 0.5 - self.zero_point) * self.scale).tolist()

    @cached_property
    def yes(self) -> tuple[np.ndarray, np.ndarray]:
        """True and false positives of every threshold, -128 to 128: [C, 257] each."""
        return from_above(self.positives), from_above(self.negatives)

    @cached_property
    def apart(self) -> np.ndarray:
        """Thresholds whose probability decides as they do."""
        every = np.arange(-128, 129)
        between = sigmoid((every - 0.5 - self.zero_point) * self.scale)
        below, here = (sigmoid((every - one - self.zero_point) * self.scale) for one in (1, 0))
        margin = 8 * np.finfo(float).eps * np.maximum(here, np.finfo(float).tiny)
        apart = (between - below > margin) & ((here - between > margin) | (every == 128))
        apart[0] = True
        return every[apart]

    @cached_property
    def integers(self) -> np.ndarray:
        """Thresholds that the method may choose."""
        if self.knobs["method"] == "exact":
            return self.apart
        low, high, step = (self.knobs[f"grid_{name}"] for name in ("min", "max", "step"))
        grid = low + step * np.arange(int(np.floor((high - low) / step + 1e-9)) + 1)
        levels = sigmoid((np.arange(-128, 128) - self.zero_point) * self.scale)
        chosen = np.unique(np.searchsorted(levels, grid - 1e-12)) - 128
        return chosen[np.isin(chosen, self.apart)]

    def values(self, tp, fp, positives, negatives, worth=1.0) -> np.ndarray:
        """Rate thresholds by the objective; NaN where a class does not occur."""
        knobs, name = self.knobs, self.knobs["objective"]
        if name in ("f1_macro", "fbeta"):
            weight = 1.0 if name == "f1_macro" else knobs["beta"] ** 2
            found = share_or_0((1 + weight) * tp, weight * positives + tp + fp)
        elif name in ("precision_floor", "recall_floor"):
            trials, wanted = tp + fp, share_or_0(tp, positives)
            if name == "recall_floor":
                trials, wanted = positives, share_or_0(tp, tp + fp)
            asked = tp + fp > 0
            if name == "precision_floor":  # where the number of yes doubles
                length = np.searchsorted(2.0 ** np.arange(64), tp + fp, side="right")
                asked = length > np.append(length[..., 1:], length[..., :1] * 0, axis=-1)
            least = self._surely(worth * tp, worth * trials, asked)
            holds = least >= knobs["floor"]
            claimed = (holds & asked).any(-1)[..., None]
            missed = np.where(asked, least - knobs["floor"], -1.0)
            found = np.where(holds & claimed, wanted, missed)
        elif name == "cost":
            costs = knobs["cost_false_positive"] * fp
            costs = costs + knobs["cost_false_negative"] * (positives - tp)
            found = -share_or_0(costs, positives + negatives)
        else:
            found = -share_or_0(np.abs(tp + fp - positives), positives + negatives)
        return np.where(positives > 0, found, np.nan)

    def _surely(self, hits: np.ndarray, trials: np.ndarray, asked: np.ndarray) -> np.ndarray:
        """Lower ends of what is kept of a floor; the fewer classes claim it, the farther out."""
        floor = self.knobs["floor"]
        above = share_or_0(hits - floor * trials, np.sqrt(floor * (1 - floor) * trials))
        above = np.where(asked, above, -np.inf).max(-1)
        classes, tail = above.shape[-1], np.zeros((*above.shape[:-1], 1, 1))
        for number in range(classes, 0, -1):
            share = 0.05 * number / classes
            together = (above >= NormalDist().inv_cdf(1 - share)).sum(-1) >= number
            tail = np.where((tail == 0) & (together | (number == 1))[..., None, None], share, tail)
        shares, which = np.unique(tail, return_inverse=True)
        z = np.array([NormalDist().inv_cdf(1 - share) for share in shares])
        return wilson(hits, trials, z[which].reshape(tail.shape))[0]

    @cached_property
    def worth(self) -> np.ndarray:
        """Share of the images that the floor of the settings counts: [C, 1]."""
        return self.floor_worth(self.knobs["objective"])

    def floor_worth(self, floor: str) -> np.ndarray:
        """Share of the images that a floor counts, where groups err together: [C, 1].

        At the threshold that says yes as often as the class occurs.
        """
        worth = np.ones((len(self.positives), 1))
        known = labels_of(self.arrays)
        for i in range(len(worth) if floor.endswith("floor") and "groups" in self.arrays else 0):
            rows = known["known"][:, i]
            true, raw = known["y_true"][rows, i] > 0, self.arrays["raw"][rows, i]
            often = np.sort(raw)[::-1][: max(int(true.sum()), 1)]
            yes = raw >= often[-1] if len(raw) else true
            tried = yes if floor == "precision_floor" else true
            hit = true & yes
            residual = np.where(tried, hit - share_or_none(hit.sum(), max(tried.sum(), 1)), 0.0)
            worth[i] = worth_of(residual[:, None], self.arrays["groups"][rows])
        return worth

    @property
    def has_floor(self) -> bool:
        return self.knobs["objective"].endswith("floor")

    def tune(self, positives: np.ndarray, negatives: np.ndarray) -> tuple[np.ndarray, ...]:
        """Tune on counts [..., C, 256]: the best for all, for each class, and all values."""
        sides = from_above(positives), from_above(negatives)
        totals = positives.sum(-1), negatives.sum(-1)
        values = self.values(*sides, *(total[..., None] for total in totals), self.worth)
        pooled = mean_of_defined(np.moveaxis(values, -2, 0))
        if self.has_floor:
            pooled = self.together(*sides, *totals)
        neutral = self._nearest(np.array(self.zero_point))
        shared = np.where(np.isnan(pooled[..., 0]), neutral, self._optimum(pooled))
        every = np.broadcast_to(shared[..., None], totals[0].shape)
        own = np.where(np.isnan(values[..., 0]), every, self._optimum(values))
        pull = 0.0 if self.has_floor else self.knobs["smoothing_positives"]
        if pull:
            trust = totals[0] / (totals[0] + pull)
            own = self._nearest(trust * own + (1 - trust) * every)
        return shared, own, values

    def together(self, tp, fp, positives, negatives) -> np.ndarray:
        """Rate thresholds for the answers of all classes as if they were those of one."""
        sides = (side.sum(-2, keepdims=True) for side in (tp, fp))
        totals = (total.sum(-1)[..., None, None] for total in (positives, negatives))
        return self.values(*sides, *totals, self.worth.min())[..., 0, :]

    def _optimum(self, values: np.ndarray) -> np.ndarray:
        """Pick the middle of the longest run of equally good thresholds."""
        values = np.nan_to_num(values[..., self.integers + 128], nan=-np.inf)
        good = values >= values.max(-1, keepdims=True) - 1e-12
        longest = end = length = np.zeros(values.shape[:-1], int)
        for place in range(values.shape[-1]):
            length = np.where(good[..., place], length + 1, 0)
            end = np.where(length > longest, place, end)
            longest = np.maximum(length, longest)
        return self.integers[end - longest // 2]

    def _nearest(self, wanted: np.ndarray) -> np.ndarray:
        return self.integers[np.abs(self.integers - wanted[..., None]).argmin(-1)]

    def _resampled(self, rng: np.random.Generator) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Count levels on drawn images again: [B, C, 256] with and without the class."""
        known = labels_of(self.arrays)
        units = units_of(len(self.arrays["raw"]), known.get("groups"))
        cells = self.arrays["raw"].astype(int) + 128 + 256 * known["y_true"]
        cells[~known["known"]] = 512
        for weights in draw_weights(units, self.knobs["bootstrap_replicates"], rng):
            counts = [weights @ (column[:, None] == np.arange(512)) for column in cells.T]
            found = np.stack(counts, axis=1)
            yield found[..., 256:], found[..., :256]

    @cached_property
    def choice(self) -> Choice:
        """Choose, and take off what choosing on the same images makes of it."""
        shared, own, truth = self.tune(self.positives, self.negatives)
        blocks, rng = [], np.random.default_rng(self.seed)
        for counts in self._resampled(rng):
            both = self.tune(*counts)
            blocks.append((*both[:2], *_looked_up(*both), *_looked_up(*both[:2], truth)))
        drawn_shared, drawn_own, seems, seems_shared, is_own, is_shared = map(
            np.concatenate, zip(*blocks, strict=True)
        )
        value, other = (one[0] for one in _looked_up(shared[None], own[None], truth))
        luck = (seems - seems_shared) - (is_own - is_shared)
        mean = mean_of_defined(luck)
        spread = np.sqrt(mean_of_defined((luck - mean) ** 2) * (1 + 1 / len(luck)))
        about = mean, spread, mean_of_defined(is_own - is_shared), len(luck)
        adopted = self._adopts(value, value - other, own != shared, *about)
        adopted &= (self.positives.sum(1) > 0) & (self.negatives.sum(1) > 0)
        differs = drawn_own != drawn_shared[:, None]
        again = self._adopts(seems, seems - seems_shared, differs, *about)
        tail = np.where(adopted, adopted.mean(), 1.0) * 0.025
        half = student_quantile(1 - tail, max(len(luck) - 1, 1)) * spread
        half = np.where((half > 0) & (own != shared), half, np.nan)  # nothing that could vary
        gain = value - other - mean
        gain = np.where((own == shared) & ~np.isnan(gain), 0.0, gain)
        gain = np.full(gain.shape, np.nan) if self.has_floor else gain
        seen, real = np.where(again, seems, seems_shared), np.where(again, is_own, is_shared)
        optimism = mean_of_defined(seen.T) - mean_of_defined(real.T)
        apparent = mean_of_defined(np.where(adopted, value, other))
        return Choice(
            shared=int(shared), own=own, value=value, adopted=adopted, adopted_in=again,
            held_out=self._held_out(rng) if self.has_floor else None,
            gain=np.stack([gain, gain - half, gain + half]),
            expected=_expected(apparent, optimism), drawn_shared=drawn_shared, drawn_own=drawn_own,
        )  # fmt: skip

    def _held_out(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Count what is kept of a floor on images that did not choose: hits and trials, [C]."""
        hits, trials, known = [], [], labels_of(self.arrays)
        for _ in range(DEALS):
            folds = deal(known["y_true"], rng, known.get("groups"))
            for fold in range(folds.max() + 1):
                positives, negatives = count_levels(self.arrays, folds == fold)
                own = self.tune(*count_levels(self.arrays, folds != fold))[1][:, None] + 128
                tp, fp = (np.take_along_axis(from_above(side), own, -1)[:, 0]
                          for side in (positives, negatives))  # fmt: skip
                precise = self.knobs["objective"] == "precision_floor"
                hits.append(tp)
                trials.append(tp + fp if precise else positives.sum(1))
        return np.sum(hits, axis=0) / DEALS, np.sum(trials, axis=0) / DEALS

    def _adopts(self, value, gain, differs, mean, spread, again, replicates) -> np.ndarray:
        """Tell which classes [..., C] keep their own threshold: few of them by luck."""
        if not self.knobs["per_class_enabled"]:
            return np.zeros(gain.shape, bool)
        if self.has_floor:
            return differs & (value >= 0)
        doubted = np.broadcast_to((spread > 0) & (replicates > 1), gain.shape)
        least = np.minimum(gain - mean, again)
        surprise = np.where(doubted, least / np.where(spread > 0, spread, 1), -np.inf)
        luck = 1 - student_share(surprise, max(replicates - 1, 1))
        luck = np.where(differs & ~np.isnan(luck), luck, 1.0)
        classes, allowed = luck.shape[-1], LUCKY / (1 + LUCKY)
        first = _step_up(luck, np.full(luck.shape[:-1], allowed)).sum(-1)
        second = _step_up(luck, allowed * classes / np.maximum(classes - first, 1))
        enough = gain - mean >= self.knobs["per_class_improvement_threshold"]
        return second & (luck <= LUCKY) & enough


def _looked_up(shared: np.ndarray, own: np.ndarray, values: np.ndarray) -> tuple:
    """Return what own and shared thresholds give in values [..., C, 257]: [B, C] each."""
    values = np.broadcast_to(values, (*own.shape, 257))
    both = own, np.broadcast_to(shared[..., None], own.shape)
    return tuple(np.take_along_axis(values, one[..., None] + 128, -1)[..., 0] for one in both)


def _step_up(luck: np.ndarray, allowed: np.ndarray) -> np.ndarray:
    """Accept all up to the last p-value that lies below its share of what is allowed."""
    ordered, place = np.sort(luck, axis=-1), np.arange(1, luck.shape[-1] + 1) / luck.shape[-1]
    last = np.where(ordered <= allowed[..., None] * place, ordered, -1).max(-1)
    return luck <= last[..., None]


def _expected(apparent: np.ndarray, optimism: np.ndarray) -> Tree:
    mean, span = mean_of_defined(optimism), ends(optimism)
    values = {"apparent": apparent, "optimism": mean, "corrected": apparent - mean}
    found = {name: None if np.isnan(one) else float(one) for name, one in values.items()}
    told = span is not None and found["apparent"] is not None
    found["corrected_interval"] = [apparent - span[1], apparent - span[0]] if told else None
    return found
