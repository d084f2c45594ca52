"""The static figures: data and an optional `ax` in, a described Figure out. One door to all."""

from workbench.show.bars import class_bars, class_thresholds, confusion_bars
from workbench.show.curves import precision_recall, roc, threshold_curve, unknown_curve
from workbench.show.figures import alt_text, display_image, html_image, png, save
from workbench.show.history import training_curves
from workbench.show.matrices import co_occurrence, confused_pairs, confusion_matrix
from workbench.show.promises import confidence_histogram, reliability_diagram

__all__ = [
    "alt_text",
    "class_bars",
    "class_thresholds",
    "co_occurrence",
    "confidence_histogram",
    "confused_pairs",
    "confusion_bars",
    "confusion_matrix",
    "display_image",
    "html_image",
    "png",
    "precision_recall",
    "reliability_diagram",
    "roc",
    "save",
    "threshold_curve",
    "training_curves",
    "unknown_curve",
]
