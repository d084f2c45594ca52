"""Compute the same images on every rung between the Keras student and the phone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import workbench  # noqa: F401  (selects legacy Keras before TensorFlow loads)

# isort: split
import numpy as np
import tf_keras as keras

from workbench.data.decode import decode_image
from workbench.data.pipeline import letterboxed
from workbench.data.tables import Split
from workbench.deploy import tflite, verify
from workbench.deploy.calibrate import choose_calibration
from workbench.deploy.convert import keras_logits
from workbench.deploy.parity import Computed, Parity, decide, measure
from workbench.deploy.qat import float_twin
from workbench.deploy.scores import Truth
from workbench.settings import Settings


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
