"""Which quantisation ships: rungs scored on validation beside the float student, with reasons.

Rungs, best first: QAT, QAT without its worst layers, PTQ, PTQ with a float head, float16. The first
one that is not beyond the budget (`decide.budget`, `ladder.max_drop`) ships. PTQ is always scored
beside QAT, and ships in its place where it is better beyond the paired interval.
`ladder.force_rung` ships one whatever it scores. Where every file is beyond the budget, the one
that loses least ships and says so: no run ends without a file.
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

from workbench.artifacts import FloatScore, LadderRung, PairedDifference, QuantizationLadder
from workbench.data.tables import Dataset
from workbench.data.views import letterboxed
from workbench.decide import metrics
from workbench.decide.budget import Loss, Verdict, paired_loss
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
from workbench.deploy.parity import decide_logits, refused_files
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
    """F1 and mAP on validation, and the loss of F1 against the float student."""

    f1_macro: float
    map: float | None
    loss: Loss


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
    known = labels.targets, labels.mask
    drawn = {"replicates": replicates, "seed": seed, "groups": labels.groups}
    return Score(
        _f1_macro(ours, labels),
        metrics.mean_average_precision(labels.targets, logits, labels.mask),
        paired_loss(theirs, ours, *known, **drawn),
    )


def _f1_macro(decisions: np.ndarray, labels: Labelled) -> float:
    value = metrics.f1_macro(labels.targets, decisions, labels.mask)
    return 0.0 if value is None else float(value)


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
        self.budget: Verdict | None = None

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
        self.budget, self.reason = self.ladder.verdict(self.score)
        self.holds = self.budget != "beyond" and not self.refusal
        if self.refusal:
            self.reason = f"{self.refusal}; {self.reason}"
        if self.name == self.ladder.forced:
            self.holds, self.reason = True, f"forced by ladder.force_rung; {self.reason}"

    @property
    def refusal(self) -> str | None:
        """Say why 07 refused this very file, if it did."""
        return self.model and self.ladder.refused.get(sha256(self.model).hexdigest())

    def describe(self, ladder: Ladder) -> LadderRung:
        """Say what became of it once it is known which rung ships."""
        state, reason = "failed", self.reason
        if self.name == ladder.chosen:
            state = "shipped"
        elif self.holds:
            state, reason = "not needed", f"{ladder.why_not(self.name)}; {reason}"
        figures = {} if self.score is None else {**self._figures(), **_ports(self.model)}
        return LadderRung(
            rung=self.name, title=TITLES[self.name], state=state, reason=reason, **figures
        )

    def _figures(self) -> dict[str, Any]:
        loss = self.score.loss
        scored = {"f1_macro": self.score.f1_macro, "map": self.score.map, "budget": self.budget}
        return {**scored, "drop": loss.value, "drop_interval": loss.interval or (None, None)}


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
        self.rival: Loss | None = None  # what the QAT that holds lacks beside PTQ
        self.forced = settings.ladder.force_rung
        self.refused = refused_files(self.folder)
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
        force, above = self.forced, RUNGS[: RUNGS.index(name)]
        compared = name == "ptq" and (force is None or force.startswith("qat"))
        state = "not needed"
        if force and force != name and not compared:
            reason = f"ladder.force_rung asks for {force}"
        elif not compared and any(self._holds(one) for one in above):
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
        return score_logits(
            logits, self.reference, self.labels, self.settings.task, **self._resampling
        )

    def verdict(self, score: Score) -> tuple[Verdict, str]:
        """Judge a score by the one budget of quantisation, in a word and in a sentence."""
        loss, allowed = score.loss, self.settings.ladder.max_drop
        side = "below" if loss.value >= 0 else "above"
        drop = f"F1 macro {score.f1_macro:.4f}, {abs(loss.value):.4f} {side} the float student"
        found = loss.verdict(allowed)
        words = f"ladder.max_drop allows {allowed:g}"
        if found == "not shown":
            until = (
                f"the interval reaches {loss.interval[1]:.4f}" if loss.interval else "no interval"
            )
            few = f"{loss.images} images leave {3 / loss.images:.4f} open"
            why = few if loss.interval and loss.interval[1] <= allowed else until
            words = f"not shown to be within the budget: {words}, {why}"
        return found, f"{drop}; {words}"

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
        """Choose a rung; write its file, its scores, and the reason of each."""
        self.chosen = self._best()
        rungs = tuple(self._describe(name) for name in RUNGS)
        if self.chosen is None:
            withdraw(self.folder)
            raise StepError(_nothing_holds(rungs))
        shipped, trained = self.tried[self.chosen], self.trained
        found = QuantizationLadder(
            chosen=self.chosen,
            title=TITLES[self.chosen],
            forced=self.forced is not None,
            budget=shipped.budget,
            allowed_drop=self.settings.ladder.max_drop,
            ptq_against_qat=self.rival
            and PairedDifference(difference=self.rival.value, interval=self.rival.interval),
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
        log.info("%s ships, judged by what 8 bits cost: %s", found.title, shipped.reason)
        return found

    def _best(self) -> str | None:
        """Name the first rung that holds, or a PTQ that beats it, or the least of all losses."""
        holding = [self.forced] if self.forced else RUNGS
        first = next((name for name in holding if self._holds(name)), None)
        if first is None:
            return None if self.forced else self._least_loss()
        ptq = self.tried.get("ptq")
        if first.startswith("qat") and ptq and ptq.score:
            self.rival = paired_loss(
                *(decide_logits(self.tried[name].logits, self.settings.task)
                  for name in ("ptq", first)),
                self.labels.targets, self.labels.mask, groups=self.labels.groups,
                **self._resampling,
            )  # fmt: skip
            if self.rival.certain and ptq.holds and not self.forced:
                ptq.reason = f"better than {TITLES[first]} by {self._gain}; {ptq.reason}"
                return "ptq"
        return first

    def _least_loss(self) -> str | None:
        """Name the rung that loses least where all lose too much; files that 07 refused last."""
        made = [rung for rung in self.tried.values() if rung.score is not None]
        if not made:
            return None
        least = min(made, key=lambda rung: (bool(rung.refusal), rung.score.loss.value))
        least.reason = f"no rung holds, and this one loses least; {least.reason}"
        return least.name

    @property
    def _gain(self) -> str:
        low, high = self.rival.interval
        return f"{self.rival.value:+.4f} F1 [{low:+.4f}, {high:+.4f}] on the same images"

    @property
    def _resampling(self) -> dict[str, int]:
        replicates = self.settings.evaluation.bootstrap_replicates
        return {"replicates": replicates, "seed": self.settings.seed}

    def why_not(self, name: str) -> str:
        """Say why a rung that holds does not ship."""
        compared = self.rival is not None and self.rival.interval is not None
        if compared and self.chosen == "ptq":
            return f"PTQ is better by {self._gain}"
        if compared and name == "ptq":
            beats = "better than" if self.rival.certain else "not better beyond chance than"
            return f"{beats} {TITLES[self.chosen]}: {self._gain}"
        return "a rung above holds"

    def _describe(self, name: str) -> LadderRung:
        if name in self.tried:
            return self.tried[name].describe(self)
        found = LadderRung(rung=name, title=TITLES[name], state="failed", reason="was not tried")
        return self._spared(name) or found

    def _write_scores(self, rung: Rung) -> None:
        """Keep the candidate's raw integers: thresholds are tuned on exactly these.

        Beside them the logits of the same weights in float, for 09 to tell what 8 bits cost, and
        those of all that was scored here, for `verify` to judge the rungs again.
        """
        scale, zero_point = tflite.output_quantization(rung.model)
        scored = {f"{name}_logits": one.logits for name, one in self.tried.items() if one.score}
        grouped = {} if self.labels.groups is None else {"groups": self.labels.groups}
        with writing(self.folder / SCORES) as temporary, open(temporary, "wb") as file:
            np.savez(
                file, raw=rung.raw, scale=np.float64(scale), zero_point=np.int64(zero_point),
                y_true=self.labels.targets, mask=self.labels.mask, **grouped,
                twin_logits=self._twin_logits(rung),
                float_logits=self.reference, **scored,
            )  # fmt: skip

    def _twin_logits(self, rung: Rung) -> np.ndarray:
        if rung.network is None:
            return self.reference
        return keras_logits(self._weights_of(rung), self.images)

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
        f"no rung of the ladder gave a file, so nothing ships ({tried}). Mend the first reason; "
        "qat.enabled: false starts at PTQ."
    )
