"""The static figures: data and an optional `ax` in, a described Figure out. One door to all."""

from workbench.show.figures import alt_text, display_image, html_image, png, save
from workbench.show.metric_plots import (
    class_bars,
    class_thresholds,
    co_occurrence,
    confidence_histogram,
    confused_pairs,
    confusion_bars,
    confusion_matrix,
    precision_recall,
    reliability_diagram,
    roc,
    threshold_curve,
    training_curves,
    unknown_curve,
)

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
