"""Does training simulate the depthwise channels of the phone file?

The channels of a Lite0 are rescaled, batch norm takes it back, and the float network stays as it
was. A range for each channel cannot notice; one range for all of them does. Then, on real photos,
Lite0 trained with three seeds: the QAT file against the PTQ file on the same test photos.

    WORKBENCH_SHARED=/folder python -m tests.prove depthwise answers=outputs/depthwise

Without that folder (data/sign_digits, data/blood_cells, weights/lite0_imagenet_approx_notop.h5) the
weights are drawn and nothing is trained. `answers` keeps what the trained files said, and reads
what is there already instead of training again.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd

import workbench  # noqa: F401

# isort: split
import tf_keras as keras

from tests.prove import transfer
from workbench.decide.budget import Loss, paired_loss
from workbench.decide.metrics import f1_macro
from workbench.deploy import convert, quantize, tflite
from workbench.deploy.layers import fused_groups
from workbench.deploy.parity import decide_logits
from workbench.settings import Settings

SPREADS = (0.0, 1.0, 1.5)  # standard deviation of the logarithm of a channel's factor
SIDE, CLASSES = 128, 7
EXPORT = Settings().tflite_export
REPLICATES = 1000
Arrays = dict[str, np.ndarray]  # what the files of one training said of the test photos


def run(*, images: int = 32, seeds: int = 3, answers: str = "") -> dict[str, Any]:
    """Rescale a Lite0; where real photos are, train with `seeds` seeds, 0 leaves that out."""
    shared = os.environ.get("WORKBENCH_SHARED")
    calibration, photos = blobs(2 * images, SIDE, seed=0), blobs(images, SIDE, seed=1)
    network = lite0(shared, calibration)
    rows = [
        {"log_sd": spread, **errors(network, rescaled(network, spread), photos, calibration)}
        for spread in SPREADS
    ]
    trained, paired = [], []
    for name in transfer.DATASETS if shared and seeds else ():
        said = [_answers(Path(shared), name, seed, answers) for seed in range(seeds)]
        trained += [{"dataset": name, "seed": seed} | figures(one) for seed, one in enumerate(said)]
        paired += [{"dataset": name} | row for row in qat_minus_ptq(said)]
    return {"rescaled": rows, "trained": trained, "qat_minus_ptq": paired}


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


def figures(said: Arrays) -> dict[str, Any]:
    """F1 of both files, how far each lies below the float student, and from its own float twin."""
    row: dict[str, Any] = {"test_images": len(said["targets"])}
    for kind in ("qat", "ptq"):
        below = _paired([said], "student", kind)
        error = np.sqrt(np.mean((said[kind] - said[f"{kind}_float"]) ** 2))
        row |= {f"{kind}_f1": f1_macro(said["targets"], _decided(said, kind)),
                f"{kind}_below_float": below.value, f"{kind}_interval": below.interval,
                f"{kind}_logit_error": float(error)}  # fmt: skip
    return row


def qat_minus_ptq(said: Sequence[Arrays]) -> list[dict[str, Any]]:
    """F1 that QAT has more than PTQ: each seed, and the mean of all, which has two intervals.

    Other photos would change it, so these are resampled, and another training would: Student's t.
    """
    rows = []
    for seed, one in enumerate(said):
        gain = _paired([one], "qat", "ptq")
        rows.append({"seed": seed, "difference": gain.value, "over_photos": gain.interval})
    mean = _paired(said, "qat", "ptq")
    over = transfer.interval(pd.Series([row["difference"] for row in rows]))
    whole = {"difference": mean.value, "over_photos": mean.interval, "over_trainings": over}
    return [*rows, {"seed": "all", **whole}]


def _paired(said: Sequence[Arrays], first: str, second: str) -> Loss:
    """Compare the mean F1 macro of several trainings, whose photos are drawn together."""
    decided = [np.hstack([_decided(one, kind) for one in said]) for kind in (first, second)]
    targets = np.hstack([one["targets"] for one in said])
    return paired_loss(*decided, targets, None, replicates=REPLICATES, seed=0)


def _decided(said: Arrays, kind: str) -> np.ndarray:
    return decide_logits(said[kind], str(said["task"]))


def _answers(shared: Path, name: str, seed: int, answers: str) -> Arrays:
    """Read what the files of this training said, or train."""
    kept = Path(answers) / f"{name}_{seed}.npz"
    if not (answers and kept.exists()):
        with tempfile.TemporaryDirectory(prefix="workbench_depthwise_") as folder:
            said = _trained(shared, name, seed, Path(folder))
        if not answers:
            return said
        kept.parent.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(kept, **said)
    with np.load(kept) as held:
        return dict(held)


def _trained(shared: Path, name: str, seed: int, folder: Path) -> Arrays:
    """Train Lite0, go on under fake quantisation, and ask both files about the test split."""
    from tests.training_doubles import train_role
    from workbench.data.tables import read_dataset
    from workbench.data.views import letterboxed
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
    said = {"task": np.array(settings.task), "targets": test.targets,
            "student": convert.keras_logits(student, photos)}  # fmt: skip
    for kind, (network, model) in files.items():
        said[kind] = tflite.tflite_logits(model, photos)
        said[f"{kind}_float"] = convert.keras_logits(network, photos)
    return said
