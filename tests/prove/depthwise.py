"""Does training simulate the depthwise channels of the phone file?

The channels of a Lite0 are rescaled, batch norm takes it back, and the float network stays as it
was. A range for each channel cannot notice; one range for all of them does. Then, on real photos,
Lite0 trained with three seeds: the QAT file and the PTQ file against the float student.

    WORKBENCH_SHARED=/folder python -m tests.prove depthwise

Without that folder (data/sign_digits, data/blood_cells, weights/lite0_imagenet_approx_notop.h5) the
weights are drawn and nothing is trained.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd

import workbench  # noqa: F401

# isort: split
import tf_keras as keras

from tests.prove import transfer
from workbench.deploy import convert, quantize, tflite
from workbench.deploy.layers import fused_groups
from workbench.settings import Settings

SPREADS = (0.0, 1.0, 1.5)  # standard deviation of the logarithm of a channel's factor
SIDE, CLASSES = 128, 7
EXPORT = Settings().tflite_export


def run(*, images: int = 32, seeds: int = 3) -> dict[str, Any]:
    """Rescale a Lite0; where real photos are, train with `seeds` seeds, 0 leaves that out."""
    shared = os.environ.get("WORKBENCH_SHARED")
    calibration, photos = blobs(2 * images, SIDE, seed=0), blobs(images, SIDE, seed=1)
    network = lite0(shared, calibration)
    rows = [
        {"log_sd": spread, **errors(network, rescaled(network, spread), photos, calibration)}
        for spread in SPREADS
    ]
    trained: list[dict[str, Any]] = []
    for name in transfer.DATASETS if shared else ():
        for seed in range(seeds):
            with tempfile.TemporaryDirectory(prefix="workbench_depthwise_") as folder:
                trained.append(_trained(Path(shared), name, seed, Path(folder)))
    return {"rescaled": rows, "trained": trained}


def table(figures: dict[str, Any]) -> str:
    parts = [pd.DataFrame(rows).to_string(index=False) for rows in figures.values() if rows]
    return "\n\n".join(parts)


def blobs(count: int, side: int, seed: int) -> list[np.ndarray]:
    """Draw grey noise with a patch of some colour in each picture."""
    rng = np.random.default_rng(seed)
    pictures = rng.integers(90, 160, (count, side, side, 3)).astype(np.uint8)
    for picture in pictures:
        y, x = rng.integers(0, side // 2, 2)
        picture[y : y + side // 2, x : x + side // 2] = rng.integers(0, 256, 3)
    return list(pictures)


def lite0(shared: str | None, pictures: list[np.ndarray]) -> keras.Model:
    """Return a Lite0 that computes sensibly: with the backbone of `shared`, or drawn."""
    from workbench.nets.lite import build_lite
    from workbench.nets.weights import load_weights_into

    keras.utils.set_random_seed(0)
    network = build_lite(
        "lite0", CLASSES, input_size=SIDE, drop_connect=0.0, normalization_momentum=0.5
    )
    if shared:
        load_weights_into(network, Path(shared) / transfer.WEIGHTS, backbone_only=True)
    return settled(network, pictures)


def settled(network: keras.Model, pictures: list[np.ndarray]) -> keras.Model:
    """Let batch norm see the pictures until its means are theirs."""
    batch = convert.network_input(np.stack(pictures))
    for _ in range(12):
        network(batch, training=True)
    return network


def rescaled(network: keras.Model, log_sd: float, seed: int = 0) -> keras.Model:
    """Multiply the depthwise channels of a copy; its batch norm divides by the same factors."""
    rng = np.random.default_rng(seed)
    copy = keras.models.clone_model(network)
    copy.set_weights(network.get_weights())
    for conv, norm, *_ in fused_groups(network)[:-1]:
        layer, after = copy.get_layer(conv), copy.get_layer(norm)
        if not isinstance(layer, keras.layers.DepthwiseConv2D):
            continue
        (kernel,) = layer.get_weights()
        factor = np.exp(rng.normal(0, log_sd, kernel.shape[2])).astype(np.float32)
        gamma, beta, mean, variance = after.get_weights()
        gain = gamma / np.sqrt(variance + after.epsilon) / factor
        mean, variance = mean * factor, variance * factor**2
        layer.set_weights([kernel * factor[:, None]])
        after.set_weights([gain * np.sqrt(variance + after.epsilon), beta, mean, variance])
    return copy


def errors(
    plain: keras.Model, network: keras.Model, photos: list[np.ndarray], calibration: list
) -> dict[str, float]:
    """Measure how far the logits of both files lie from the float network's."""
    wanted = convert.keras_logits(network, photos)
    quantized = quantize.fake_quantize(network, calibration)
    quantize.cover_logits(network, quantized, calibration)
    qat = convert.convert_quantized(quantized, EXPORT)
    ptq = convert.convert_full_integer(network, calibration, EXPORT)
    found = {
        "float_moved": float(np.abs(wanted - convert.keras_logits(plain, photos)).max()),
        "qat": _error(qat, photos, wanted),
        "ptq": _error(ptq, photos, wanted),
        "qat_reference_kernels": _error(qat, photos, wanted, reference=True),
    }
    simulated = convert.keras_logits(quantized, photos)
    found["simulated"] = float(np.sqrt(np.mean((simulated - wanted) ** 2)))
    return {**found, "qat_to_ptq": found["qat"] / found["ptq"]}


def _error(model: bytes, photos: list, wanted: np.ndarray, *, reference: bool = False) -> float:
    found = tflite.tflite_logits(model, photos, reference=reference)
    return float(np.sqrt(np.mean((found - wanted) ** 2)))


def _trained(shared: Path, name: str, seed: int, folder: Path) -> dict[str, Any]:
    """Train Lite0, go on under fake quantisation, and score both files on the test split."""
    from tests.training_doubles import train_role
    from workbench.data.tables import read_dataset
    from workbench.data.views import letterboxed
    from workbench.deploy.ladder import score_logits
    from workbench.nets.teacher import student_view
    from workbench.train.loop import feed, fit
    from workbench.train.losses import task_loss
    from workbench.train.phases import qat_phase

    settings = transfer._settings(shared, name, seed, "transfer")
    qat = settings.qat.model_copy(update={"epochs": 3, "distill": False})
    settings = settings.model_copy(update={"qat": qat})
    dataset = read_dataset(shared / "data" / name, settings)
    student, _ = train_role("student", settings, dataset, folder)
    calibration = quantize.calibration_images(dataset, settings)
    batches = feed(dataset, (student_view(settings),), settings, batch_size=32)
    loss = task_loss(settings, dataset.split("train"))
    quantized = quantize.fake_quantize(student, calibration)
    fit(qat_phase(settings), quantized, loss, batches,
        SimpleNamespace(folder=folder, settings=settings))  # fmt: skip
    quantize.cover_logits(student, quantized, calibration)
    files = {
        "qat": (
            quantize.float_twin(student, quantized),
            convert.convert_quantized(quantized, EXPORT),
        ),
        "ptq": (student, convert.convert_full_integer(student, calibration, EXPORT)),
    }  # fmt: skip
    test = dataset.split("test")
    photos = list(letterboxed(test, settings.student_size, settings))
    reference = convert.keras_logits(student, photos)
    row: dict[str, Any] = {"dataset": name, "seed": seed, "test_images": len(photos)}
    for kind, (network, model) in files.items():
        logits = tflite.tflite_logits(model, photos)
        score = score_logits(logits, reference, test, settings.task, replicates=1000, seed=seed)
        same = convert.keras_logits(network, photos)
        row |= {f"{kind}_f1": score.f1_macro, f"{kind}_below_float": score.loss.value,
                f"{kind}_interval": score.loss.interval,
                f"{kind}_logit_error": float(np.sqrt(np.mean((logits - same) ** 2)))}  # fmt: skip
    return row
