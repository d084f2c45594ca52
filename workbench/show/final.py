"""The tables and figures of notebook 09, for either task."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from workbench.decide.metrics import Evaluation
from workbench.run import Run
from workbench.show import gallery, plots
from workbench.show.gallery import Picture
from workbench.steps.final_test import Tested


def overall(evaluation: Evaluation) -> pd.DataFrame:
    """One row a figure, with the ends of its 95 % interval."""
    rows = [
        {"figure": name, "value": figure.value, **_ends(figure)}
        for name, figure in evaluation.overall.items()
    ]
    return pd.DataFrame(rows)


def _ends(figure) -> dict[str, float | None]:
    low, high = figure.interval.to_json() or (None, None)
    return {"from": low, "to": high}


def per_class(evaluation: Evaluation) -> pd.DataFrame:
    """One row a class: what it found and missed, and F1 with its interval."""
    table = evaluation.table
    counts = table[["class", "positives", "threshold", "tp", "fp", "fn"]]
    figures = table[["precision", "recall", "f1", "f1_low", "f1_high", "average_precision"]]
    return counts.rename(columns={"tp": "found", "fp": "wrongly said", "fn": "missed"}).join(
        figures
    )


def confusion(tested: Tested) -> Figure:
    evaluation = tested.evaluation
    if evaluation.task == "single_label":
        return plots.confusion_matrix(evaluation.confusion, evaluation.classes)
    return plots.confusion_bars(evaluation.table)


def precision_recall(tested: Tested) -> Figure:
    thresholds = tested.thresholds if tested.evaluation.task == "multilabel" else None
    split = tested.split
    return plots.precision_recall(
        split.targets, tested.probability, split.classes, mask=split.mask, thresholds=thresholds
    )


GALLERY = "The worst mistakes"


def mistakes(run: Run, tested: Tested) -> list[Picture]:
    """Make the error gallery, and leave one that filters by class for the rendered page."""
    pictures = gallery.mistake_pictures(tested.mistakes, tested.load, tested.heatmaps)
    run.save_piece("error gallery", gallery.fragment(pictures, GALLERY))
    return pictures


def mistakes_figure(pictures: list[Picture]) -> Figure:
    return gallery.gallery_figure(pictures, GALLERY)
