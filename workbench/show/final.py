"""The tables and figures of notebook 09, for either task."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from workbench.decide.calibration import reliability as reliability_table
from workbench.decide.metrics import Evaluation
from workbench.show import gallery, plots
from workbench.show.gallery import Picture
from workbench.steps.final_test import Tested

GALLERY = "The worst mistakes"


def overall(evaluation: Evaluation) -> pd.DataFrame:
    """One row a figure, with the ends of its 95 % interval."""
    rows = [
        {"figure": name, "value": figure.value, **_ends(figure)}
        for name, figure in evaluation.overall.items()
    ]
    return pd.DataFrame(rows)


def _ends(figure) -> dict[str, float | None]:
    low, high = figure.interval or (None, None)
    return {"from": low, "to": high}


def per_class(evaluation: Evaluation) -> pd.DataFrame:
    """One row a class: what it found and missed, and F1 with its interval."""
    table = evaluation.table
    counts = table[["class", "positives", "threshold", "tp", "fp", "fn"]]
    figures = table[["precision", "recall", "f1", "f1_low", "f1_high", "average_precision"]]
    return counts.rename(columns={"tp": "found", "fp": "wrongly said", "fn": "missed"}).join(
        figures
    )


def confusions(tested: Tested) -> dict[str, Figure]:
    """Draw what was mistaken for what: one matrix, or right and wrong a class and the pairs."""
    evaluation = tested.evaluation
    if evaluation.task == "single_label":
        matrix = plots.confusion_matrix(evaluation.confusion, evaluation.classes)
        return {"confusion_matrix": matrix}
    pairs = plots.confused_pairs(evaluation.confused_pairs, evaluation.classes)
    return {"confusion_matrix": plots.confusion_bars(evaluation.table), "confused_pairs": pairs}


def curves(tested: Tested) -> dict[str, Figure]:
    """Draw precision against recall with the points that ship, and found against wrongly said."""
    split = tested.split
    shown = (split.targets, tested.probability, split.classes)
    points = tested.thresholds if tested.evaluation.task == "multilabel" else None
    return {
        "precision_recall": plots.precision_recall(*shown, mask=split.mask, thresholds=points),
        "roc": plots.roc(*shown, mask=split.mask),
    }


def reliability(tested: Tested) -> Figure:
    """Draw promised against real frequency: before INT8, after it, and corrected."""
    scores = {"float student": tested.float_probability, "phone file": tested.probability}
    if tested.corrected is not None:
        scores["phone file, corrected"] = tested.corrected
    split = tested.split
    return plots.reliability_diagram(
        {name: reliability_table(split.targets, p, split.mask) for name, p in scores.items()}
    )


def against_float(tested: Tested) -> Figure:
    """Draw F1 of each class before INT8 and after."""
    tables = {"float student": tested.float_evaluation.table, "phone file": tested.evaluation.table}
    return plots.class_bars(tables)


def mistakes(tested: Tested) -> list[Picture]:
    return gallery.mistake_pictures(tested.mistakes, tested.load, tested.heatmaps)


def mistakes_figure(pictures: list[Picture]) -> Figure:
    return gallery.gallery_figure(pictures, GALLERY)
