"""The model file: its labels, ports and golden images, from pixels to decisions."""

from __future__ import annotations

import io
import os
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from ai_edge_litert.interpreter import Interpreter

from .agreement import MismatchError, compare, same, same_array
from .answers import decide, in_floats, needed, pool, shown_probabilities
from .arithmetic import Tree
from .folder import Bundle
from .names import CONFIG, METADATA, METRICS, SCORES, VECTORS
from .pixels import letterbox, read_ppm

FLOAT_STEP = 1e-3  # of a float logit, which counts as a level
LEVELS = 8  # kernels of other CPUs round sums otherwise; TFLite's own differ by up to 6 levels


def model_file(bundle: Bundle) -> str:
    """Compare the model with the hash and size in the config."""
    stated, model = bundle.config["model"], bundle.model()
    same("bytes of the model", len(model), stated["bytes"])
    return f"{stated['file']}, {len(model)} bytes, sha256 {stated['sha256'][:12]}…"


def labels(bundle: Bundle) -> str:
    """Compare labels.txt, the config, the labels inside the model, and the number of outputs."""
    stated = bundle.config["labels"]
    name = bundle.config["labels_file"]["file"]
    written = bundle.bytes(name).decode("utf-8").split("\n")
    if written[-1] == "":
        written.pop()
    same(f"labels of {name}", written, stated)
    with zipfile.ZipFile(io.BytesIO(bundle.model())) as inside:
        carried = inside.read("labels.txt").decode("utf-8").split("\n")[:-1]
    same("labels inside the model", carried, stated)
    same(f"sha256 of {name}", bundle.sha256(name), bundle.config["labels_file"]["sha256"])
    outputs = open_model(bundle.model()).get_output_details()[0]["shape"][-1]
    same("number of outputs", int(outputs), len(stated))
    return f"{len(stated)} labels, the same in {name}, {CONFIG} and the model"


def ports(bundle: Bundle) -> str:
    """Compare shapes, types, scales and zero points of the model with both JSON files."""
    config, metadata = bundle.config, bundle.json(METADATA)
    interpreter = open_model(bundle.model())
    source, target = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
    shape = [1, config["input"]["height"], config["input"]["width"], config["input"]["channels"]]
    same("input shape", [int(side) for side in source["shape"]], shape)
    for side, details in (("input", source), ("output", target)):
        found = _port(details)
        same(f"{side} of {CONFIG}", {key: config[side][key] for key in found}, found)
        written = {"dtype": metadata[side]["dtype"], **metadata[side]["quantization"]}
        same(f"{side} of {METADATA}", {key: written[key] for key in found}, found)
    for side in ("width", "height", "channels"):
        same(f"{side} in {METADATA}", metadata["input"][side], config["input"][side])
    same(f"preprocess of {METADATA}", metadata["preprocess"], _preprocess(config))
    same(f"decision of {METADATA}", metadata["output"]["decision"], _decision(config))
    same(f"is_logits of {METADATA}", metadata["output"]["is_logits"], config["output"]["is_logits"])
    same(f"files in {METADATA}", metadata["model_file"], config["model"]["file"])
    return f"input {source['shape'].tolist()} {found_type(source)}, output {found_type(target)}"


def _preprocess(config: dict[str, Any]) -> dict[str, Any]:
    stated = config["preprocessing"]
    kept = ("keep_aspect_ratio", "pad_color_rgb", "interpolation", "exif")
    mean, std = ([float(stated["normalisation"][key])] * 3 for key in ("subtract", "divide"))
    normalization = {"pixel_range": [0, 255], "mean_rgb": mean, "std_rgb": std}
    same = {key: stated[key] for key in kept}
    return {"letterbox": stated["letterbox"] == "q8", **same, "normalization": normalization}


def _decision(config: dict[str, Any]) -> dict[str, Any]:
    stated = config["thresholds"]
    if config["task"] == "single_label":
        return {"integers": None, "logits": None, "unknown_below": stated["unknown_below"]}
    name, other = ("logits", "integers") if in_floats(config) else ("integers", "logits")
    return {name: needed(config), other: None, "unknown_below": None}


def golden(bundle: Bundle) -> str:
    """Run letterbox, model and decisions again on the recorded images."""
    recorded = bundle.json(VECTORS)
    vectors = recorded["vectors"]
    interpreter = open_model(bundle.model())
    gaps = [_check_vector(bundle, interpreter, vector) for vector in vectors]
    if "pooled" in recorded:
        clip = pooled_vector([vector["raw"] for vector in vectors], bundle.config)
        compare(f"{VECTORS}: pooled", recorded["pooled"], clip)
    return f"{len(vectors)} images from pixels to decisions; outputs differ by {max(gaps)} levels"


def pooled_vector(raws: Sequence[Sequence[int]], config: dict[str, Any]) -> Tree:
    """Return what an app must answer if these outputs are those of one clip's frames."""
    raw = pool(np.array(raws, config["output"]["dtype"]))[None]
    shown = shown_probabilities(raw, config)[0].tolist()
    return {"raw": raw[0].tolist(), "decisions": decide(raw, config)[0], "probabilities": shown}


def _check_vector(bundle: Bundle, interpreter: Interpreter, vector: dict[str, Any]) -> int:
    """Return by how many levels the output differs from the recorded one."""
    name = vector["name"]
    for part in ("source", "picture", "letterbox", "input", "output"):
        stated = vector[part]
        same(f"sha256 of {stated['file']}", bundle.sha256(stated["file"]), stated["sha256"])
    pixels = read_ppm(bundle.bytes(vector["source"]["file"]))
    same(f"{name}: CRC-32 of the source", vector["source_crc32"], zlib.crc32(pixels))
    same(f"{name}: size", [vector["height"], vector["width"]], list(pixels.shape[:2]))
    boxed = letterbox(pixels, bundle.config["input"]["width"])
    same_array(f"{name}: letterbox", boxed, read_ppm(bundle.bytes(vector["letterbox"]["file"])))
    tensor = input_table(bundle.config["input"])[boxed]
    same(f"{name}: input tensor", tensor.tobytes(), bundle.bytes(vector["input"]["file"]))
    raw = run_model(interpreter, tensor)
    recorded = np.frombuffer(bundle.bytes(vector["output"]["file"]), dtype=raw.dtype)
    same(f"{name}: raw answers", vector["raw"], recorded.tolist())
    gap = _gap(raw, recorded)
    if gap > LEVELS:
        raise MismatchError(f"{name}: the output is {gap} levels off the recorded one")
    for values, what in ((recorded, "recorded"), (raw, "computed")):
        found = decide(values[None], bundle.config)[0]
        same(f"{name}: decisions of the {what} output", found, vector["decisions"])
    compare(f"{name}: probabilities to show", vector["probabilities"],
            shown_probabilities(recorded[None], bundle.config)[0].tolist())  # fmt: skip
    return gap


def _gap(raw: np.ndarray, recorded: np.ndarray) -> int:
    step = FLOAT_STEP if raw.dtype == np.float32 else 1
    return int(np.abs(raw.astype(np.float64) - recorded.astype(np.float64)).max() / step)


def test_answers(bundle: Bundle) -> str:
    """Run the model on the few test images whose pixels are there."""
    if not bundle.has(METRICS):
        return f"not here: no {METRICS}, 09_eval_report has not run"
    arrays = bundle.frames(SCORES)
    if "images" not in arrays:
        return f"{SCORES} keeps no pixels to run again"
    interpreter = open_model(bundle.model())
    table = input_table(bundle.config["input"])
    for row, image in zip(arrays["rows"], arrays["images"], strict=True):
        gap = _gap(run_model(interpreter, table[image]), arrays["raw"][row])
        if gap > LEVELS:
            raise MismatchError(f"test image {row}: the model is {gap} levels off {SCORES}")
    return f"{len(arrays['rows'])} of {len(arrays['raw'])} test images run again"


def open_model(model: bytes) -> Interpreter:
    try:
        with _hushed():
            interpreter = Interpreter(model_content=model, num_threads=1)
            interpreter.allocate_tensors()
    except (ValueError, RuntimeError) as error:
        raise MismatchError(f"LiteRT cannot open the model ({error})") from None
    return interpreter


@contextmanager
def _hushed() -> Iterator[None]:
    """Keep the runtime's greeting, which it writes to the descriptor, out of the answer."""
    saved, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(nowhere)


def run_model(interpreter: Interpreter, tensor: np.ndarray) -> np.ndarray:
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], tensor[None])
    interpreter.invoke()
    return interpreter.get_tensor(interpreter.get_output_details()[0]["index"])[0].copy()


def input_table(port: dict[str, Any]) -> np.ndarray:
    """Return the input value of each byte 0…255: (x - 127) / 128 as integers, or a float."""
    if port["dtype"] == "float32":
        return ((np.arange(256) - port["zero_point"]) * port["scale"]).astype(np.float32)
    limits = np.iinfo(port["dtype"])
    levels = np.floor((np.arange(256) - 127) / 128 / port["scale"] + 0.5) + port["zero_point"]
    return np.clip(levels, limits.min, limits.max).astype(port["dtype"])


def _port(details: dict[str, Any]) -> dict[str, Any]:
    scale, zero_point = details["quantization"]
    name = np.dtype(details["dtype"]).name
    if name == "float32":  # has no levels
        return {"dtype": name}
    return {"dtype": name, "scale": float(scale), "zero_point": int(zero_point)}


def found_type(details: dict[str, Any]) -> str:
    port = _port(details)
    if "scale" not in port:
        return port["dtype"]
    return f"{port['dtype']} (scale {port['scale']:g}, zero point {port['zero_point']})"
