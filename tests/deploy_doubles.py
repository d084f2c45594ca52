"""Stand-ins for the deploy tests: a phone file built by hand and a small network for QAT."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from workbench.artifacts import FloatScore, LadderRung, QuantizationLadder
from workbench.deploy import flatbuffer, verify
from workbench.deploy.bundle import GoldenImage, write_bundle, write_golden
from workbench.deploy.config import inference_config
from workbench.deploy.flatbuffer import LABELS_FILE, export_model, labels_text
from workbench.deploy.sources import app_sources
from workbench.files import write_bytes, write_json, write_text
from workbench.settings import Settings

SIZE = 16
LABELS = ("ant", "bee", 'café ??/ $x "q" \\n')
INTEGERS = (-3, 0, 12)
OUTPUT = {"scale": 0.05, "zero_point": -4}


def colour_file(classes: int = 3, size: int = SIZE) -> bytes:
    """A full-integer classifier of the mean colour: QUANTIZE, MEAN, FULLY_CONNECTED."""
    tree = schema.ModelT()
    tree.version, tree.description = 3, "stand-in"
    tree.operatorCodes, tree.signatureDefs = [], []
    tree.buffers = [schema.BufferT()]
    graph = schema.SubGraphT()
    graph.tensors, graph.operators = [], []
    tree.subgraphs = [graph]
    kinds = flatbuffer.TensorType
    image, pooled = np.array([1, size, size, 3], np.int32), np.array([1, 3], np.int32)
    levels = {"scale": 1 / 128, "zero_point": -1}
    source = flatbuffer.add_tensor(
        graph, "image", kinds.UINT8, image, scale=1 / 128, zero_point=127
    )
    signed = flatbuffer.add_tensor(graph, "signed", kinds.INT8, image, **levels)
    mean = flatbuffer.add_tensor(graph, "mean", kinds.INT8, pooled, **levels)
    target = flatbuffer.add_tensor(
        graph, "net/logits/MatMul", kinds.INT8, np.array([1, classes], np.int32), **OUTPUT
    )
    weights = np.random.default_rng(3).integers(-127, 128, (classes, 3)).astype(np.int8)
    axes = flatbuffer.add_constant(tree, "axes", np.array([1, 2], np.int32))
    kernel = flatbuffer.add_constant(tree, "kernel", weights, scale=0.02)
    bias = flatbuffer.add_constant(tree, "bias", np.zeros(classes, np.int32), scale=0.02 / 128)
    code = flatbuffer.Operator
    average = flatbuffer.make_operator(tree, code.MEAN, signed, mean)
    average.inputs = [signed, axes]
    average.builtinOptionsType = schema.BuiltinOptions.ReducerOptions
    average.builtinOptions = schema.ReducerOptionsT()
    dense = flatbuffer.make_operator(tree, code.FULLY_CONNECTED, mean, target)
    dense.inputs = [mean, kernel, bias]
    dense.builtinOptionsType = schema.BuiltinOptions.FullyConnectedOptions
    dense.builtinOptions = schema.FullyConnectedOptionsT()
    tree.operatorCodes[-1].version = 4  # the first FULLY_CONNECTED that takes int8
    graph.operators = [flatbuffer.make_operator(tree, code.QUANTIZE, source, signed)]
    graph.operators += [average, dense]
    graph.inputs, graph.outputs = [source], [target]
    return flatbuffer.pack(tree)


def colour_file_with_a_float() -> bytes:
    """The same, but somebody left a float tensor in it."""
    tree = flatbuffer.parse(colour_file())
    shape = np.array([1], np.int32)
    flatbuffer.add_tensor(tree.subgraphs[0], "leftover", flatbuffer.TensorType.FLOAT32, shape)
    return flatbuffer.pack(tree)


def photos(count: int, seed: int = 0, size: int = SIZE) -> list[np.ndarray]:
    """Noise around a colour of its own, so that the stand-in has something to tell apart."""
    rng = np.random.default_rng(seed)
    colours = rng.integers(0, 256, (count, 1, 1, 3))
    noise = rng.integers(-40, 41, (count, size, size, 3))
    return list(np.clip(colours + noise, 0, 255).astype(np.uint8))


def recommendation(labels=LABELS, integers=INTEGERS, output=OUTPUT) -> SimpleNamespace:
    """What step 06 recommends, as far as deploy reads it."""
    scale, zero_point = output["scale"], output["zero_point"]
    scale = float(np.float32(scale))
    logits = [(integer - 0.5 - zero_point) * scale for integer in integers]
    classes = [
        {
            "name": name,
            "integer": integer,
            "logit": logit,
            "probability": float(1 / (1 + np.exp(-logit))),
        }
        for name, integer, logit in zip(labels, integers, logits, strict=True)
    ]
    levels = {"scale": scale, "zero_point": zero_point, "aggregation": None}
    return namespace(scores=namespace(**levels), classes=[namespace(**one) for one in classes])


def as_json(value):
    """Turn namespaces into what a file holds."""
    return json.loads(json.dumps(value, default=vars))


PTQ = "PTQ, class-covering calibration"
LADDER = QuantizationLadder(
    chosen="ptq",
    title=PTQ,
    forced=False,
    budget="within",
    allowed_drop=0.02,
    candidate="candidates/ptq.tflite",
    qat_weights=None,
    skipped_layers=(),
    float=FloatScore(f1_macro=0.9, map=0.9),
    rungs=(
        LadderRung(rung="ptq", title=PTQ, state="shipped", reason="it holds", sha256="ab" * 32),
    ),
)


def make_bundle(
    folder: Path, settings: Settings | None = None, thresholds=None, images=None, fitted=None,
    ladder: QuantizationLadder = LADDER,
) -> Path:  # fmt: skip
    """Ship the stand-in file with everything around it."""
    settings = settings or Settings()
    thresholds = thresholds or recommendation()
    write_json(folder / "threshold_recommendation.json", as_json(thresholds))
    write_text(folder / LABELS_FILE, labels_text(LABELS))
    model = export_model(colour_file(), LABELS, {"name": "stand-in"}, settings, thresholds)
    write_bytes(folder / verify.MODEL, model)
    versions = {"workbench": "0"}
    config = inference_config(folder, settings, LABELS, thresholds, ladder, versions, fitted)
    images = images or [
        GoldenImage(f"image_{number}", photo[: 25 + number], ("ant",))
        for number, photo in enumerate(photos(3, size=40))
    ]
    write_bundle(folder, config, app_sources(config, write_golden(folder, config, images)))
    return folder


def fitted_lines(labels=LABELS) -> dict:
    """What calibration.json says: the second class is left as it is."""
    lines = [(1.5, -0.2, True), (1.0, 0.0, False), (0.4, 0.7, True)]
    rows = [
        {"class": name, "slope": slope, "intercept": intercept, "error_before": 0.1,
         "error_after": 0.02, "ships": ships}
        for name, (slope, intercept, ships) in zip(labels, lines, strict=True)
    ]  # fmt: skip
    pooled = {"class": "all classes", "slope": None, "intercept": None, "ships": None}
    return {"method": "platt", "classes": [*rows, pooled]}


@dataclass(frozen=True)
class Labels:
    """The part of a split that calibration needs."""

    targets: np.ndarray
    mask: np.ndarray
    groups: np.ndarray | None = None


def labels(rows: list[list[int]], classes: int) -> Labels:
    targets = np.zeros((len(rows), classes), np.float32)
    for row, present in enumerate(rows):
        targets[row, present] = 1
    return Labels(targets, np.ones_like(targets))


def namespace(**values) -> SimpleNamespace:
    return SimpleNamespace(**values)
