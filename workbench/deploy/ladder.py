"""Which quantisation ships: rungs scored on validation beside the float student, with reasons.

Rungs, best first: QAT, QAT without its worst layers, PTQ, PTQ with a float head, float16. The first
one that holds ships; PTQ is scored beside a QAT that holds, to be compared with it, and
`ladder.force_rung` ships one whatever it scores.
"""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import tf_keras as keras

from workbench.artifacts import FloatScore, LadderRung, QuantizationLadder
from workbench.data.tables import Dataset
from workbench.data.views import letterboxed
from workbench.decide import metrics, outcomes
from workbench.decide.intervals import count_cells, image_weights, interval
from workbench.deploy import tflite
from workbench.deploy.bundle import withdraw
from workbench.deploy.convert import (
    convert_float16,
    convert_float_head,
    convert_full_integer,
    convert_quantized,
    keras_logits,
)
from workbench.deploy.coverage import Labelled
from workbench.deploy.layers import COLUMNS, layer_errors, worst_layers
from workbench.deploy.parity import decide_logits
from workbench.deploy.quantize import (
    cover_logits,
    fake_quantize,
    float_twin,
    skipped_layers,
    unsupported_layers,
)
from workbench.errors import InputError, StepError
from workbench.files import write_bytes, write_json, writing
from workbench.nets.weights import save_weights
from workbench.settings import Settings
from workbench.train.loop import fit
from workbench.train.phases import qat_phase

log = logging.getLogger(__name__)

TITLES = {
    "qat": "QAT",
    "qat_skip_worst": "QAT without the worst layers",
    "ptq": "PTQ, class-covering calibration",
    "ptq_float_head": "PTQ with float head",
    "float16": "float16",
}
RUNGS = tuple(TITLES)
FULL_INTEGER = ("qat", "qat_skip_worst", "ptq")
QAT_WEIGHTS, SKIP_WORST = "student_qat.h5", "student_qat_skip_worst"
TRAINED = (QAT_WEIGHTS, f"{SKIP_WORST}.h5")  # the second is what the phase of that name ended with
SCORES = "candidate_scores.npz"
RANKING_IMAGES = 16  # enough to see ranges; the outputs of every layer are held for them


@dataclass(frozen=True)
class Score:
    """F1 and mAP, and how far F1 lies below the float student's; a negative drop is a gain."""

    f1_macro: float
    map: float | None
    drop: float
    drop_interval: tuple[float | None, float | None]


def score_logits(
    logits: np.ndarray,
    reference: np.ndarray,
    labels: Labelled,
    task: str,
    *,
    replicates: int,
    seed: int,
) -> Score:
    """Compare logits [N, C] with the float student's on the same images, at one half."""
    ours, theirs = (decide_logits(scores, task) for scores in (logits, reference))
    f1 = _f1_macro(ours, labels)
    return Score(
        f1,
        metrics.mean_average_precision(labels.targets, logits, labels.mask),
        _f1_macro(theirs, labels) - f1,
        _drop_interval(ours, theirs, labels, replicates, np.random.default_rng(seed)),
    )


def _f1_macro(decisions: np.ndarray, labels: Labelled) -> float:
    value = metrics.f1_macro(labels.targets, decisions, labels.mask)
    return 0.0 if value is None else float(value)


def _drop_interval(
    ours: np.ndarray,
    theirs: np.ndarray,
    labels: Labelled,
    replicates: int,
    rng: np.random.Generator,
) -> tuple[float | None, float | None]:
    """95 % interval of the paired difference: both sides see the same resampled images."""
    before, after = (
        outcomes.outcome_cells(labels.targets, side, labels.mask) for side in (theirs, ours)
    )
    differences = [
        _resampled_f1(before, weights) - _resampled_f1(after, weights)
        for weights in image_weights(len(ours), replicates, rng, groups=labels.groups)
    ]
    return interval(np.concatenate(differences)) or (None, None)


def _resampled_f1(cells: np.ndarray, weights: np.ndarray) -> np.ndarray:
    counts = count_cells(cells, outcomes.OUTCOMES, weights).astype(np.float64)
    return outcomes.overall_figures(counts)["f1_macro"]


class Rung:
    """One way to quantise, while it is tried."""

    def __init__(self, ladder: Ladder, name: str) -> None:
        self.ladder, self.name = ladder, name
        self.holds = False
        self.reason = "no file was offered: end the block with rung.offer(…)"
        self.model: bytes | None = None
        self.network: keras.Model | None = None  # the fake-quantised one, where QAT trained it
        self.raw: np.ndarray | None = None  # int8 [N, C] on validation
        self.logits: np.ndarray | None = None  # [N, C]
        self.score: Score | None = None

    def offer(self, model: bytes, network: keras.Model | None = None) -> None:
        """Score a file on validation; `network` is the fake-quantised one that it came from."""
        self.model, self.network = model, network
        if network is not None:
            self.ladder.trained = self
            save_weights(network, self.ladder.folder / QAT_WEIGHTS)
        if self.name in FULL_INTEGER:
            tflite.require_full_integer(model)
        self.raw, self.logits = self.ladder.run(model)
        if not np.isfinite(self.logits).all():
            wrong = int((~np.isfinite(self.logits)).sum())
            raise StepError(f"{wrong} logits are NaN or infinite")
        self.score = self.ladder.score(self.logits)
        self.holds, self.reason = self.ladder.verdict(self.score)

    def describe(self, chosen: str) -> LadderRung:
        """Say what became of it once it is known which rung ships."""
        state, reason = "failed", self.reason
        if self.holds:
            state = "shipped" if self.name == chosen else "not needed"
            reason = reason if self.name == chosen else f"a rung above holds; {reason}"
        figures = {} if self.score is None else {**vars(self.score), **_ports(self.model)}
        return LadderRung(
            rung=self.name, title=TITLES[self.name], state=state, reason=reason, **figures,
        )  # fmt: skip


def _ports(model: bytes) -> dict[str, Any]:
    return {
        "bytes": len(model),
        "sha256": sha256(model).hexdigest(),
        "input_type": tflite.input_port(model).dtype,
        "output_type": tflite.output_port(model).dtype,
        "float_tensors": len(tflite.scan_tensors(model).float_tensors),
    }


class Ladder:
    """Rungs that were tried, and validation to judge them on.

    `student` is any Keras network for inputs (x - 127) / 128 with a logit a class. What an earlier
    quantisation left in `folder` goes: should no rung hold, nobody must find the one of then.
    """

    def __init__(
        self, student: keras.Model, dataset: Dataset, settings: Settings, folder: Path
    ) -> None:
        self.student, self.settings, self.folder = student, settings, Path(folder)
        self.labels = dataset.split("val")
        self.images = list(letterboxed(self.labels, settings.student_size, settings))
        self.reference = keras_logits(student, self.images)
        self.tried: dict[str, Rung] = {}
        self.trained: Rung | None = None  # the last one whose QAT gave a file
        self.chosen: str | None = None
        shutil.rmtree(self.folder / "candidates", ignore_errors=True)
        for name in (QuantizationLadder.file, SCORES, *TRAINED):
            (self.folder / name).unlink(missing_ok=True)

    @property
    def logits(self) -> dict[str, np.ndarray]:
        """Logits [N, C] on validation: of the float student, and of each rung that was scored."""
        scored = {n: rung.logits for n, rung in self.tried.items() if rung.logits is not None}
        return {"float": self.reference, **scored}

    @property
    def files(self) -> tuple[str, ...]:
        """What `choose` and QAT wrote into the folder."""
        trained = [name for name in TRAINED if (self.folder / name).exists()]
        return ("candidates", QuantizationLadder.file, SCORES, *trained)

    def needs(self, name: str) -> bool:
        """Tell whether a rung has to be made; PTQ is scored beside a QAT that holds as well."""
        return self._spared(name) is None

    def _spared(self, name: str) -> LadderRung | None:
        """Say why a rung need not be made."""
        if name not in TITLES:
            raise InputError(f'there is no rung "{name}". Rungs are {", ".join(RUNGS)}')
        force, above = self.settings.ladder.force_rung, RUNGS[: RUNGS.index(name)]
        state = "not needed"
        if force and force != name:
            reason = f"ladder.force_rung asks for {force}"
        elif name != "ptq" and any(self._holds(one) for one in above):
            reason = "a rung above holds"
        elif name.startswith("qat") and not self.settings.qat.enabled:
            state, reason = "failed", "qat.enabled is off"
        else:
            return None
        return LadderRung(rung=name, title=TITLES[name], state=state, reason=reason)

    def _holds(self, name: str) -> bool:
        return name in self.tried and self.tried[name].holds

    @contextmanager
    def rung(self, name: str) -> Iterator[Rung]:
        """Try a rung; a failure of training, conversion or score is written down as its reason."""
        self._spared(name)
        rung = self.tried[name] = Rung(self, name)
        started = time.monotonic()
        try:
            yield rung
        except StepError as error:
            rung.reason = str(error)
        verdict, seconds = "holds" if rung.holds else "fails", time.monotonic() - started
        log.info("%s %s after %.0f s: %s", TITLES[name], verdict, seconds, rung.reason)

    def run(self, model: bytes) -> tuple[np.ndarray, np.ndarray]:
        """Return the raw output and the logits of a file on validation, [N, C] each."""
        raw = tflite.run_tflite(model, self.images, threads=self.settings.run.threads)
        return raw, tflite.logits_of(raw, *tflite.output_quantization(model))

    def score(self, logits: np.ndarray) -> Score:
        """Judge logits on validation beside the float student's."""
        replicates, seed = self.settings.evaluation.bootstrap_replicates, self.settings.seed
        return score_logits(
            logits, self.reference, self.labels, self.settings.task,
            replicates=replicates, seed=seed,
        )  # fmt: skip

    def verdict(self, score: Score) -> tuple[bool, str]:
        """Tell whether a score holds, and why."""
        side = "below" if score.drop >= 0 else "above"
        drop = f"F1 macro {score.f1_macro:.4f}, {abs(score.drop):.4f} {side} the float student"
        if self.settings.ladder.force_rung:
            return True, f"forced by ladder.force_rung; {drop}"
        allowed = self.settings.ladder.max_drop
        return score.drop <= allowed, f"{drop}; ladder.max_drop allows {allowed:g}"

    def fall_back(
        self, calibration: Sequence[np.ndarray], objective: Any, batches: Any, run: Any
    ) -> None:
        """Make the rungs that are left, from the top, until one holds; none where one does."""
        export = self.settings.tflite_export
        if self.needs("qat_skip_worst"):
            with self.rung("qat_skip_worst") as rung:
                left_out = self._left_out(calibration)
                log.info("QAT leaves out %s", ", ".join(left_out))
                quantized = fake_quantize(self.student, calibration, skip_layers=left_out)
                phase = replace(qat_phase(self.settings), name=SKIP_WORST)
                fit(phase, quantized, objective, batches, run)
                cover_logits(self.student, quantized, calibration)
                rung.offer(convert_quantized(quantized, export, calibration), quantized)
        converters = {
            "ptq": convert_full_integer,
            "ptq_float_head": convert_float_head,
            "float16": convert_float16,
        }
        for name, convert in converters.items():
            if name not in self.tried and self.needs(name):
                with self.rung(name) as rung:
                    rung.offer(convert(self.student, calibration, export))

    def _left_out(self, calibration: Sequence[np.ndarray]) -> list[str]:
        """Name what settings leave out, what the toolkit refuses, and what loses most."""
        errors = self._ranked(self.trained, calibration, calibration[:RANKING_IMAGES])
        worst = worst_layers(errors, self.settings.ladder.worst_layers)
        return [*self.settings.qat.skip_layers, *unsupported_layers(self.student), *worst]

    def _ranked(self, rung: Rung | None, calibration, images) -> pd.DataFrame:
        """Rank the layers of a rung by what INT8 costs them; where it has none, those of a PTQ."""
        if rung is None or rung.name == "float16":
            export = self.settings.tflite_export
            return layer_errors(
                self.student, convert_full_integer(self.student, calibration, export), images
            )
        return layer_errors(self._weights_of(rung), rung.model, images)

    def _weights_of(self, rung: Rung) -> keras.Model:
        """Return the float network with the very weights that a rung quantised."""
        return self.student if rung.network is None else float_twin(self.student, rung.network)

    def choose(self) -> QuantizationLadder:
        """Take the first rung that holds; write its file, its scores, and the reason of each."""
        self.chosen = next((name for name in RUNGS if self._holds(name)), None)
        rungs = tuple(self._describe(name) for name in RUNGS)
        if self.chosen is None:
            withdraw(self.folder)
            raise StepError(_nothing_holds(rungs))
        shipped, trained = self.tried[self.chosen], self.trained
        found = QuantizationLadder(
            chosen=self.chosen,
            title=TITLES[self.chosen],
            forced=self.settings.ladder.force_rung is not None,
            candidate=f"candidates/{self.chosen}.tflite",
            qat_weights=QAT_WEIGHTS if trained else None,
            skipped_layers=skipped_layers(self.student, trained.network) if trained else (),
            float=FloatScore(
                f1_macro=_f1_macro(decide_logits(self.reference, self.settings.task), self.labels),
                map=metrics.mean_average_precision(
                    self.labels.targets, self.reference, self.labels.mask
                ),
            ),
            rungs=rungs,
        )
        write_bytes(self.folder / found.candidate, shipped.model)
        write_json(self.folder / found.file, found.to_json())
        self._write_scores(shipped)
        log.info("%s ships", found.title)
        return found

    def _describe(self, name: str) -> LadderRung:
        if name in self.tried:
            return self.tried[name].describe(self.chosen)
        found = LadderRung(rung=name, title=TITLES[name], state="failed", reason="was not tried")
        return self._spared(name) or found

    def _write_scores(self, rung: Rung) -> None:
        """Keep the candidate's raw integers: thresholds are tuned on exactly these."""
        scale, zero_point = tflite.output_quantization(rung.model)
        grouped = {} if self.labels.groups is None else {"groups": self.labels.groups}
        with writing(self.folder / SCORES) as temporary, open(temporary, "wb") as file:
            np.savez(
                file, raw=rung.raw, scale=np.float64(scale), zero_point=np.int64(zero_point),
                y_true=self.labels.targets, mask=self.labels.mask, **grouped,
            )  # fmt: skip

    def layer_errors(self, calibration: Sequence[np.ndarray]) -> pd.DataFrame:
        """Rank the layers of what ships by what INT8 costs them, on validation images."""
        images = self.images[:RANKING_IMAGES]
        try:
            return self._ranked(self.tried[self.chosen], calibration, images)
        except StepError as error:
            log.warning("the layers cannot be ranked: %s", error)
            return pd.DataFrame(columns=COLUMNS)

    def score_without(self, layers: Sequence[str], calibration: Sequence[np.ndarray]) -> Score:
        """Score what ships under fake quantisation with some layers left in float, untrained."""
        left_out = [*self.settings.qat.skip_layers, *layers]
        network = self._weights_of(self.tried[self.chosen])
        quantized = fake_quantize(network, calibration, skip_layers=left_out)
        return self.score(keras_logits(quantized, self.images))


def _nothing_holds(rungs: Sequence[LadderRung]) -> str:
    failed = (rung for rung in rungs if rung.state == "failed")
    tried = "; ".join(f"{rung.title}: {rung.reason}" for rung in failed)
    return (
        f"no rung of the ladder holds, so nothing ships ({tried}). Train the student longer, raise "
        "ladder.max_drop, or ship a rung knowingly with ladder.force_rung."
    )
