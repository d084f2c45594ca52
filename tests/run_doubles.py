"""A run folder as 05 to 09 leave it, of drawn answers; every figure is computed by decide."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from tests.deploy_doubles import LABELS, LADDER, colour_file, make_bundle, photos
from workbench.artifacts import FloatScore
from workbench.decide import metrics
from workbench.decide.calibration import Scores, calibrate
from workbench.decide.metrics import Predictions
from workbench.decide.outcomes import decide, probabilities
from workbench.decide.thresholds import search_scores
from workbench.deploy import bundle, tflite, verify
from workbench.deploy.bundle import write_test_scores
from workbench.files import read_json, sha256, write_json, write_text
from workbench.settings import Settings
from workbench.show import final
from workbench.show.explorer import explorer_data
from workbench.show.panel import fragment
from workbench.show.tables import table

REPLICATES = 40
LEVELS = tflite.output_quantization(colour_file())


def make_run(folder: Path, kind: dict | None = None, images: int = 60) -> Path:
    """Write what verify derives figures from, and the figures; seal it."""
    shorter = {"evaluation": {"bootstrap_replicates": REPLICATES},
               "threshold_search": {"bootstrap_replicates": REPLICATES},
               "calibration": {"bootstrap_replicates": REPLICATES}}  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    given = kind or {}
    settings = Settings.model_validate(
        {key: shorter.get(key, {}) | given.get(key, {}) for key in shorter}
        | {key: value for key, value in given.items() if key not in shorter}
    )
    scores = _validation(folder, settings, images)
    found = search_scores(scores, LABELS, settings)
    make_bundle(folder, settings, found)
    write_json(folder / "training_config.json", settings.model_dump(mode="json"))
    write_json(folder / verify.RECOMMENDATION, found.model_dump(mode="json"))
    found.curve.to_csv(folder / verify.CURVE, index=False)
    calibrated = calibrate(scores, LABELS, settings.calibration, settings.seed)
    write_json(folder / "calibration.json", calibrated.to_json())
    _write_ladder(folder, scores, settings)
    costs = _write_metrics(folder, found, settings, images)
    _write_pages(folder, scores, found, costs)
    bundle.seal(folder)
    return folder


def _write_pages(folder: Path, scores: Scores, found, costs: dict) -> None:
    """Write the tables and tiles of the pages, and the sliders, as notebooks and index do."""
    test = read_json(folder / verify.METRICS)["test"]
    spans = [one["interval"] or (None, None) for one in test["overall"].values()]
    overall = pd.DataFrame({
        "figure": list(test["overall"]),
        "value": [one["value"] for one in test["overall"].values()],
        "from": [low for low, _ in spans], "to": [high for _, high in spans],
    })  # fmt: skip
    words = {"tp": "found", "fp": "wrongly said", "fn": "missed"}
    shown = ["class", "positives", "threshold", *words.values(), "precision", "recall", "f1",
             "f1_low", "f1_high", "average_precision"]  # fmt: skip
    per_class = pd.DataFrame(test["classes"]).rename(columns=words)[shown]
    frames = (overall, per_class, final.cost_table(costs))
    tables = [table(one)._repr_html_() for one in frames]
    write_text(folder / verify.PAGE_09, "".join(tables))
    sliders = {"module": "explorer", "data": explorer_data(scores.counts, found, "")}
    write_text(folder / verify.PAGE_06, table(found.table)._repr_html_() + fragment(sliders))
    tiles = []
    for title, name in verify.TITLES.items():
        one = test["overall"][name]
        span = "{:.3f} to {:.3f}".format(*one["interval"]) if one["interval"] else "undefined"
        text = f"<b>{one['value']:.3f}</b><span>{title}</span><small>{span}</small>"
        tiles.append(f"<div class='tile'>{text}</div>")
    write_text(folder / verify.INDEX, "".join(tiles))


def labels(raw: np.ndarray, settings: Settings, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw labels that often agree with the answers, some of them unknown."""
    rng = np.random.default_rng(seed)
    if settings.task == "single_label":
        best = np.where(rng.random(len(raw)) < 0.7, raw.argmax(1), rng.integers(0, 3, len(raw)))
        return np.eye(raw.shape[1], dtype=np.float32)[best], np.ones(raw.shape, np.float32)
    y_true = ((raw > 0) ^ (rng.random(raw.shape) < 0.2)).astype(np.float32)
    return y_true, (rng.random(raw.shape) < 0.9).astype(np.float32)


def answers(model: bytes, images: int, seed: int) -> tuple[list[np.ndarray], np.ndarray]:
    pixels = photos(images, seed=seed)
    return pixels, tflite.run_tflite(model, pixels)


def _validation(folder: Path, settings: Settings, images: int) -> Scores:
    _, raw = answers(colour_file(), images, seed=3)
    y_true, mask = labels(raw, settings, seed=4)
    levels = dict(zip(("scale", "zero_point"), LEVELS, strict=True))
    known = {"y_true": y_true, "mask": mask}
    path = folder / verify.VALIDATION
    np.savez(path, raw=raw, **known, **{key: np.array(value) for key, value in levels.items()})
    noise = np.random.default_rng(6).normal(0, 0.3, raw.shape)
    np.savez(folder / verify.STUDENT, logits=tflite.logits_of(raw, *LEVELS) + noise, **known)
    return Scores(raw, **levels, **known, task=settings.task, source_sha256=sha256(path))


def _write_ladder(folder: Path, scores: Scores, settings: Settings) -> None:
    float_logits = np.load(folder / verify.STUDENT)["logits"]
    rated = []
    for logits in (scores.logits, float_logits):
        level = 0.0 if settings.task == "single_label" else 0.5
        said = decide(probabilities(logits, settings.task), level, settings.task)
        known = scores.y_true, logits, scores.mask
        f1 = metrics.f1_macro(scores.y_true, said, scores.mask)
        rated.append({"f1_macro": f1, "map": metrics.mean_average_precision(*known)})
    ours, theirs = rated
    drop = theirs["f1_macro"] - ours["f1_macro"]
    rung = LADDER.rungs[0].model_copy(update=ours | {"drop": drop})
    ladder = LADDER.model_copy(update={"float": FloatScore(**theirs), "rungs": (rung,)})
    write_json(folder / verify.LADDER, ladder.to_json())


def _write_metrics(folder: Path, found, settings: Settings, images: int) -> dict:
    pixels, raw = answers((folder / verify.MODEL).read_bytes(), images, seed=9)
    y_true, mask = labels(raw, settings, seed=5)
    config = verify.Bundle(folder).config
    twin = probabilities(tflite.logits_of(raw, *LEVELS), settings.task)
    float_score = probabilities(
        tflite.logits_of(raw, *LEVELS) + np.random.default_rng(7).normal(0, 0.3, raw.shape),
        settings.task,
    )
    known = {"mask": mask, "task": settings.task}
    resampling = {"replicates": REPLICATES, "seed": settings.seed}
    names = tuple(f"{number}.jpg" for number in range(images))
    sides = {
        "float student": (float_score, found.probability),
        "float twin": (twin, found.probability),
        "phone file": (verify.probabilities(raw, config), verify.probability_thresholds(config)),
    }
    costs = final.costs({
        name: Predictions(name, names, LABELS, y_true, score, bars, **known)
        for name, (score, bars) in sides.items()
    }, **resampling)  # fmt: skip
    float_test, test = (
        metrics.evaluate(y_true, *sides[name], LABELS, **known, **resampling)
        for name in ("float student", "phone file")
    )
    entry = write_test_scores(
        folder / verify.SCORES, raw, y_true, mask, names,
        lambda rows: [pixels[row] for row in rows], spot_checks=4, seed=1,
        float_probability=float_score, float_thresholds=np.asarray(found.probability),
        twin_probability=twin, twin_thresholds=np.asarray(found.probability),
    )  # fmt: skip
    ladder = verify.Bundle(folder).json(verify.LADDER)
    write_json(folder / verify.METRICS, final.metrics_record(
        test, float_test, costs, ladder, folder / verify.MODEL, [], entry
    ))  # fmt: skip
    return costs
