"""A run folder as 05 to 09 leave it, of drawn answers; the workbench computes every figure."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tests.deploy_doubles import LABELS, Labels, colour_file, make_bundle, namespace, photos
from workbench import status
from workbench.artifacts import QuantizationLadder
from workbench.decide import metrics
from workbench.decide.calibration import Calibration, Scores, calibrate, read_scores
from workbench.decide.clips import Clips
from workbench.decide.float_thresholds import FILE, float_thresholds
from workbench.decide.metrics import Predictions
from workbench.decide.outcomes import probabilities, worst_mistakes
from workbench.decide.recommendation import AnyThresholds
from workbench.decide.thresholds import floor_worth, search_scores
from workbench.decide.trivial import trivial_answers
from workbench.deploy import bundle, parity, tflite, verify
from workbench.deploy.bundle import write_test_scores
from workbench.evidence import with_verdict
from workbench.files import sha256, write_json, write_text
from workbench.settings import Settings
from workbench.show import final, gallery, threshold_figures
from workbench.show.explorer import explorer_data
from workbench.show.flips import Flips
from workbench.show.index import render_index
from workbench.show.panel import fragment
from workbench.show.tables import Table, file_table, knobs, table
from workbench.steps import STEPS

REPLICATES = 40
LEVELS = tflite.output_quantization(colour_file())
OPENED = {"test_split": {"opened": 3}}
LATENCY = [{"threads": n, "repeats": 30, "p50_ms": 0.5 / n, "p95_ms": 0.8 / n} for n in (1, 2)]


def make_run(
    folder: Path, kind: dict | None = None, images: int = 60, clips: int | None = None
) -> Path:
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
    write_json(folder / verify.SETTINGS, settings.model_dump(mode="json"))
    ladder = _quantize(folder, settings, images, clips)
    pooled = settings.evaluation.pool != "none"
    scores = read_scores(folder / verify.VALIDATION, settings.task, pooled)
    found = search_scores(scores, LABELS, settings)
    make_bundle(folder, settings, found, ladder=ladder)
    write_json(folder / verify.RECOMMENDATION, found.model_dump(mode="json"))
    found.curve.to_csv(folder / verify.CURVE, index=False)
    calibrated = calibrate(scores, LABELS, settings.calibration, settings.seed)
    write_json(folder / verify.CALIBRATION, calibrated.to_json())
    in_float = {"float student": np.load(folder / verify.STUDENT)["logits"],
                "float twin": np.load(folder / verify.VALIDATION)["twin_logits"]}  # fmt: skip
    in_float = {name: scores.clips.logits(logits) for name, logits in in_float.items()}
    write_json(folder / FILE, float_thresholds(in_float, scores, LABELS, settings))
    _compare_runtimes(folder, settings, scores, found, ladder)
    _write_page_06(folder, settings, scores, found, calibrated)
    _evaluate(folder, settings, ladder, images, clips)
    _record_steps(folder)
    write_text(folder / verify.INDEX, render_index(folder))
    bundle.seal(folder)
    return folder


def _record_steps(folder: Path) -> None:
    """Say what the steps took, as the run and its index do."""
    names = (verify.MODEL, verify.LABELS, verify.CONFIG, verify.RECOMMENDATION, verify.METRICS)
    outputs = {name: sha256(folder / name) for name in names}
    for step in STEPS:
        status.record(folder, step, state="ok", started="", finished="", fingerprint={},
                      seconds=7.0 + int(step.number), outputs=outputs)  # fmt: skip
    steps = {step.number: status.state_of(folder, step) for step in STEPS}
    write_json(folder / verify.RUN, {"steps": steps, **OPENED})


def labels(
    raw: np.ndarray, settings: Settings, seed: int, clips: int | None = None
) -> Labels:  # fmt: skip
    """Draw labels that often agree with the answers, some of them unknown."""
    rng = np.random.default_rng(seed)
    groups = None if clips is None else rng.integers(0, clips, len(raw))
    if settings.task == "single_label":
        best = np.where(rng.random(len(raw)) < 0.7, raw.argmax(1), rng.integers(0, 3, len(raw)))
        y_true, mask = np.eye(raw.shape[1], dtype=np.float32)[best], np.ones(raw.shape, np.float32)
    else:
        y_true = ((raw > 0) ^ (rng.random(raw.shape) < 0.2)).astype(np.float32)
        mask = (rng.random(raw.shape) < 0.9).astype(np.float32)
    if settings.evaluation.pool != "none":  # frames of a clip share their labels
        _, first, place = np.unique(groups, return_index=True, return_inverse=True)
        y_true = y_true[first][place]
    return Labels(y_true, mask, groups)


def answers(model: bytes, images: int, seed: int) -> tuple[list[np.ndarray], np.ndarray]:
    pixels = photos(images, seed=seed)
    return pixels, tflite.run_tflite(model, pixels)


def noisy(raw: np.ndarray, seed: int) -> np.ndarray:
    """Logits as a network in float might give them."""
    noise = np.random.default_rng(seed).normal(0, 0.3, raw.shape)
    return (tflite.logits_of(raw, *LEVELS) + noise).astype(np.float32)


def _quantize(
    folder: Path, settings: Settings, images: int, clips: int | None
) -> QuantizationLadder:
    """Let the ladder judge a QAT and a PTQ, of drawn answers, and write what it does."""
    from workbench.deploy.ladder import Ladder  # it loads TensorFlow

    _, raw = answers(colour_file(), images, seed=3)
    changed = np.clip(raw + np.random.default_rng(8).normal(0, 6, raw.shape), -128, 127)
    of_rung = {"qat": changed.astype(np.int8), "ptq": raw}

    class Drawn(Ladder):
        def __init__(self) -> None:
            self.settings, self.folder = settings, folder
            self.labels = labels(raw, settings, 4, clips)
            self.reference = noisy(raw, seed=6)
            self.tried, self.refused, self.trained = {}, {}, None
            self.chosen = self.rival = None
            self.forced = settings.ladder.force_rung

        def run(self, model):
            given = of_rung[next(reversed(self.tried))]
            return given, tflite.logits_of(given, *LEVELS)

    ladder = Drawn()
    for name in of_rung:
        with ladder.rung(name) as rung:
            rung.offer(colour_file())
    known = {"y_true": ladder.labels.targets, "mask": ladder.labels.mask}
    grouped = {} if clips is None else {"groups": ladder.labels.groups}
    np.savez(folder / verify.STUDENT, logits=ladder.reference, **known, **grouped)
    return ladder.choose()


def _compare_runtimes(
    folder: Path, settings: Settings, scores: Scores, found: AnyThresholds,
    ladder: QuantizationLadder,
) -> None:  # fmt: skip
    """Compare runtimes that differ a little, and keep what they said, as 07 does."""
    cut = found.probability if settings.task == "single_label" else found.logit
    logits = {parity.KERAS: noisy(scores.raw, seed=6), parity.REFERENCE: scores.logits,
              parity.LITERT: scores.logits + 0.05 * (scores.raw % 3 == 0),
              parity.PHONE: scores.logits}  # fmt: skip
    said = {name: parity.decide_logits(values, settings.task, cut)
            for name, values in logits.items()}  # fmt: skip
    rows = np.arange(len(scores.raw))[::2]
    names = [f"{row}.jpg" for row in rows]
    split = namespace(targets=scores.y_true, mask=scores.mask, groups=scores.groups,
                      filepaths=[f"{row}.jpg" for row in range(len(scores.raw))])  # fmt: skip
    logits, said = ({name: side[rows] for name, side in one.items()} for one in (logits, said))
    report = parity.measure_parity(
        logits, said, scores.y_true[rows], scores.mask[rows], LABELS, names,
        settings.parity, simulated=ladder.ships_qat,
    )  # fmt: skip
    write_json(folder / verify.PARITY, report.to_json())
    parity.keep_scores(folder / verify.PARITY_SCORES, logits, said[parity.PHONE], split, rows)


def _write_page_06(
    folder: Path, settings: Settings, scores: Scores, found: AnyThresholds, calibrated: Calibration
) -> None:
    """Show the tables and the sliders as the notebook does."""
    search = "single_label" if settings.task == "single_label" else "threshold_search"
    levels = f"(raw {-scores.zero_point:+d}) * {scores.scale:.4f}"
    about = {"shape": scores.raw.shape, "logit": levels, "labels": (scores.mask > 0).sum()}
    choices = {"one half": 0.5, "searched": found.probability, "in use": found.probability}
    tables = [
        knobs(settings, search, "calibration"), table(about), table(found.table),
        threshold_figures.side_by_side(scores, choices, LABELS), threshold_figures.expected(found),
        threshold_figures.calibration_errors(calibrated),
        file_table(folder, [verify.RECOMMENDATION, verify.CALIBRATION]),
    ]  # fmt: skip
    nowhere = namespace(path=lambda row: folder / "no photo.jpg")
    flips = Flips(scores, nowhere, settings)
    data = explorer_data(scores.counts, found, "", floor_worth(scores), flips)
    sliders = {"module": "explorer", "data": data}
    write_text(folder / verify.PAGE_06, _page(tables) + fragment(sliders))


def _page(tables: list[Table]) -> str:
    return "".join(one._repr_html_() for one in tables)


def _evaluate(
    folder: Path, settings: Settings, ladder: QuantizationLadder, images: int, clips: int | None
) -> None:
    """Write the figures of the test split and their page."""
    write_json(folder / verify.RUN, OPENED)
    model = folder / verify.MODEL
    pixels, raw = answers(model.read_bytes(), images, seed=9)
    split = labels(raw, settings, 5, clips)
    frames, pooling = split, Clips.of(split.groups, settings.evaluation.pool != "none")
    if pooling.pools:
        split = Labels(*pooling.labels(split.targets, split.mask))
    config, own = verify.Bundle(folder).config, verify.Bundle(folder).json(FILE)
    files = tuple(f"{number}.jpg" for number in range(images))
    names = tuple(files[row] for row in pooling.first) if pooling.pools else files
    known = {"mask": split.mask, "task": settings.task, "groups": split.groups}
    resampling = {"replicates": REPLICATES, "seed": settings.seed}
    sides = {
        "phone file": (
            verify.probabilities(pooling.raw(raw), config), verify.probability_thresholds(config),
        ),
    }  # fmt: skip
    sides |= {
        name: (probabilities(pooling.logits(noisy(raw, seed)), settings.task), own[name])
        for name, seed in (("float student", 7), ("float twin", 2))
    }
    found = {
        name: Predictions(name, names, LABELS, split.targets, score, np.asarray(bars), **known)
        for name, (score, bars) in sides.items()
    }
    costs = final.costs(found, **resampling)
    test, float_test = (
        metrics.evaluate(split.targets, score, np.asarray(bars), LABELS, **known, **resampling)
        for score, bars in (sides["phone file"], sides["float student"])
    )
    grouped = {} if frames.groups is None else {"groups": frames.groups}
    entry = write_test_scores(
        folder / verify.SCORES, raw, frames.targets, frames.mask, files,
        lambda rows: [pixels[row] for row in rows], spot_checks=4, seed=1,
        float_probability=sides["float student"][0], twin_probability=sides["float twin"][0],
        **grouped,
    )  # fmt: skip
    record = final.metrics_record(test, float_test, costs, ladder.to_json(), model, LATENCY, entry)
    trivial = trivial_answers(found["phone file"].answers(), **resampling)
    record = with_verdict(record, trivial, folder, settings)
    write_json(folder / verify.METRICS, record)
    tables = [
        knobs(settings, "evaluation"), table(final.overall(test)), table(final.per_class(test)),
        table(final.cost_table(costs)), table(final.sizes(model, LATENCY)),
        table(trivial.rows), table(record["verdict"]["reasons"]),
        file_table(folder, [verify.METRICS]),
    ]  # fmt: skip
    mistakes = worst_mistakes(
        split.targets, *sides["phone file"], LABELS, names, mask=split.mask, task=settings.task,
        limit=settings.evaluation.gallery_size, per_class=settings.evaluation.gallery_per_class,
    )  # fmt: skip
    pictures = gallery.mistake_pictures(mistakes, lambda name: pixels[files.index(name)])
    panel = {"module": "gallery", "data": gallery.picture_gallery(pictures).data}
    write_text(folder / verify.PAGE_09, _page(tables) + fragment(panel))
