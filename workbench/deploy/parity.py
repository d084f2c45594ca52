"""Prove rung by rung that the phone computes what the notebook computed. NumPy only.

The rungs are logits and decisions for the same images; who computed them is `rehearsal`'s business.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import tf_keras as keras

from workbench.data.decode import decode_image
from workbench.data.tables import Split
from workbench.data.views import letterboxed
from workbench.decide import metrics
from workbench.decide import outcomes as answers
from workbench.decide.outcomes import probabilities
from workbench.deploy import tflite, verify
from workbench.deploy.convert import keras_logits
from workbench.deploy.fallbacks import Truth
from workbench.deploy.qat import float_twin
from workbench.deploy.quantize import choose_calibration
from workbench.errors import StepError
from workbench.settings import ParitySettings, Settings

log = logging.getLogger(__name__)

SHOWN_FLIPS = 50
# What changes from one rung to the next decides which budget holds.
Change = Literal["start", "training", "arithmetic", "runtime"]


@dataclass(frozen=True)
class Computed:
    """What one rung computed for the images."""

    name: str
    change: Change
    logits: np.ndarray  # float32 [N, C]
    decisions: np.ndarray  # bool [N, C]


@dataclass(frozen=True)
class Flip:
    """A decision that changed, with the logits on both sides of its threshold."""

    image: str
    label: str
    before: float
    after: float


@dataclass(frozen=True)
class Rung:
    """One rung beside the one before it."""

    name: str
    change: Change
    f1_macro: float | None
    map: float | None
    f1_drop: float | None  # against the rung before
    largest_difference: float | None  # of a logit, against the rung before
    flips: int  # decisions that changed
    flip_fraction: float
    flips_by_class: dict[str, int]
    verdict: str  # "" within the budget, else which rule it breaks
    flipped: tuple[Flip, ...] = ()  # the first SHOWN_FLIPS of them, each to be explained


@dataclass(frozen=True)
class Parity:
    """The rungs, in the order in which the arithmetic changes."""

    rungs: tuple[Rung, ...]
    images: int

    @property
    def broken(self) -> tuple[Rung, ...]:
        return tuple(rung for rung in self.rungs if rung.verdict)

    def table(self) -> pd.DataFrame:
        """One row a rung, for the report."""
        rows = pd.DataFrame([asdict(rung) for rung in self.rungs])
        return rows.drop(columns=["flips_by_class", "flipped"])

    def flips_table(self) -> pd.DataFrame:
        """Decisions that changed: a row a class, a column a rung."""
        return pd.DataFrame({rung.name: rung.flips_by_class for rung in self.rungs[1:]})

    def flipped_table(self) -> pd.DataFrame:
        """The decisions that changed, one row each: how close to the threshold they were."""
        rows = [{"rung": rung.name, **asdict(one)} for rung in self.rungs for one in rung.flipped]
        return pd.DataFrame(rows, columns=["rung", "image", "label", "before", "after"])

    def summary(self) -> dict[str, Any]:
        """Everything, JSON-able: what `parity.json` holds."""
        return {
            "passed": not self.broken,
            "images": self.images,
            "rungs": [asdict(rung) for rung in self.rungs],
        }


def decide(logits: np.ndarray, thresholds: np.ndarray, task: str) -> np.ndarray:
    """Say yes per class at logit thresholds [C]; for a single label, to the highest class whose
    softmax reaches `thresholds`. bool [N, C]
    """
    scores = logits if task == "multilabel" else probabilities(logits, task)
    return answers.decide(scores, thresholds, task)


def measure(
    computed: Sequence[Computed],
    truth: Truth,
    classes: Sequence[str],
    budget: ParitySettings,
    images: Sequence[str] | None = None,
) -> Parity:
    """Compare every rung with the one before it; `images` names the rows."""
    names = images if images is not None else [str(row) for row in range(len(truth.y_true))]
    befores = [None, *computed[:-1]]
    rungs = [
        _compare(before, after, truth, classes, budget, names)
        for before, after in zip(befores, computed, strict=True)
    ]
    for rung in rungs:
        log.info("parity, %s: %d decisions differ %s", rung.name, rung.flips, rung.verdict)
    return Parity(tuple(rungs), len(truth.y_true))


def require_parity(parity: Parity) -> None:
    """Fail the run when a rung exceeds its budget, naming the rung."""
    for rung in parity.broken:
        raise StepError(
            f'parity is lost at "{rung.name}": {rung.verdict}. Look at the layers in '
            "05_quantize_student, or widen the budget under parity knowingly."
        )


def _compare(
    before: Computed | None,
    after: Computed,
    truth: Truth,
    classes: Sequence[str],
    budget: ParitySettings,
    images: Sequence[str],
) -> Rung:
    f1 = metrics.f1_macro(truth.y_true, after.decisions, truth.mask)
    average = metrics.mean_average_precision(truth.y_true, after.logits, truth.mask)
    if before is None:
        nothing = dict.fromkeys(classes, 0)
        return Rung(after.name, after.change, f1, average, None, None, 0, 0.0, nothing, "")
    changed = after.decisions != before.decisions
    before_f1 = metrics.f1_macro(truth.y_true, before.decisions, truth.mask)
    drop = None if f1 is None or before_f1 is None else before_f1 - f1
    return Rung(
        name=after.name,
        change=after.change,
        f1_macro=f1,
        map=average,
        f1_drop=drop,
        largest_difference=float(np.abs(after.logits - before.logits).max()),
        flips=int(changed.sum()),
        flip_fraction=float(changed.mean()),
        flips_by_class={name: int(n) for name, n in zip(classes, changed.sum(0), strict=True)},
        verdict=_verdict(after.change, drop, changed, budget),
        flipped=_flipped(before, after, changed, classes, images),
    )


def _flipped(
    before: Computed,
    after: Computed,
    changed: np.ndarray,
    classes: Sequence[str],
    images: Sequence[str],
) -> tuple[Flip, ...]:
    return tuple(
        Flip(
            images[row],
            classes[column],
            float(before.logits[row, column]),
            float(after.logits[row, column]),
        )
        for row, column in np.argwhere(changed)[:SHOWN_FLIPS]
    )


def _verdict(
    change: Change, drop: float | None, changed: np.ndarray, budget: ParitySettings
) -> str:
    """Training may change decisions as long as F1 holds, arithmetic few, another runtime none."""
    flips, fraction = int(changed.sum()), float(changed.mean())
    if drop is not None and drop > budget.max_f1_drop:
        return f"F1 macro drops by {drop:.4f}; parity.max_f1_drop allows {budget.max_f1_drop:g}"
    if change == "runtime" and flips > budget.max_runtime_flips:
        return f"{flips} decisions flip; parity.max_runtime_flips allows {budget.max_runtime_flips}"
    if change == "arithmetic" and fraction > budget.max_flip_fraction:
        allowed = budget.max_flip_fraction
        return f"{fraction:.2%} of decisions flip; parity.max_flip_fraction allows {allowed:.2%}"
    return ""


# Compute the same images on every rung between the Keras student and the phone.


@dataclass(frozen=True)
class Networks:
    """The stations between notebook and phone; `quantized` is None for rungs without QAT."""

    student: keras.Model
    quantized: keras.Model | None
    candidate: Path  # as scored in 05
    shipped: Path  # as it leaves 07
    config: Mapping[str, Any]  # what the app reads: inference_config.json


def rehearse(
    settings: Settings, split: Split, networks: Networks, thresholds: np.ndarray
) -> Parity:
    """Measure parity on the validation images that `parity.images` allows.

    `thresholds` are the tuned ones of step 06 as logits [C], or the one confidence of a
    single-label run.
    """
    rows = choose_calibration(split, settings.parity.images, settings.seed)
    images = list(letterboxed(split, settings.student_size, settings, indices=rows))
    truth = Truth(split.targets[rows], split.mask[rows], settings.task)
    computed = [
        Computed(name, change, logits, decide(logits, thresholds, settings.task))
        for name, change, logits in _stations(networks, images, settings)
    ]
    computed.append(_phone(settings, split, rows, networks, computed[-1]))
    names = [split.filepaths[row] for row in rows]
    return measure(computed, truth, split.classes, settings.parity, names)


def _stations(networks: Networks, images: Sequence[np.ndarray], settings: Settings):
    """Yield (name, what changes, logits [N, C]) from the notebook's side to the phone's."""
    yield "Keras float", "start", keras_logits(networks.student, images)
    if networks.quantized is not None:
        twin = float_twin(networks.student, networks.quantized)
        yield "Keras float after QAT", "training", keras_logits(twin, images)
        yield "QAT fake-quant", "arithmetic", keras_logits(networks.quantized, images)
    model, threads = tflite.read_model(networks.candidate), settings.run.threads
    levels = tflite.output_quantization(model)
    reference = tflite.run_tflite(model, images, threads=threads, reference=True)
    yield "TFLite reference kernels", "arithmetic", tflite.logits_of(reference, *levels)
    fast = tflite.run_tflite(model, images, threads=threads)
    # XNNPACK rounds a layer's sums differently; after 80 layers a few levels come of it.
    yield "LiteRT with XNNPACK", "arithmetic", tflite.logits_of(fast, *levels)


def _phone(
    settings: Settings, split: Split, rows: np.ndarray, networks: Networks, before: Computed
) -> Computed:
    """Do what the app does, with the bundle's own code: letterbox, model, integer decisions.

    A file with folded thresholds or an activation inside has other numbers, but must decide alike.
    """
    config = networks.config
    interpreter = verify.open_model(networks.shipped.read_bytes())
    table = verify.input_table(config["input"])
    raw = np.stack(
        [
            verify.run_model(interpreter, table[verify.letterbox(image, settings.student_size)])
            for image in (decode_image(split.path(row), settings.dataset) for row in rows)
        ]
    )
    answers = verify.decide(raw, config)
    decisions = np.array([[name in found for name in config["labels"]] for found in answers])
    plain = config["output"]["is_logits"] and not config["thresholds"].get("folded")
    output = config["output"]["scale"], config["output"]["zero_point"]
    logits = tflite.logits_of(raw, *output) if plain else before.logits
    return Computed("phone harness", "runtime", logits, decisions)
