"""Metrics say what scikit-learn says, and null where scikit-learn would warn."""

import numpy as np
import pytest
import sklearn.metrics as oracle

from workbench.decide import metrics


def draw(seed=0, images=200, classes=6, prevalence=0.2):
    rng = np.random.default_rng(seed)
    y_true = (rng.random((images, classes)) < prevalence).astype(np.float32)
    y_true[0], y_true[1] = 1, 0  # every class has both labels
    scores = np.clip(0.7 * rng.random((images, classes)) + 0.3 * y_true, 0, 1)
    return y_true, scores, [f"class {index}" for index in range(classes)]


@pytest.mark.parametrize("seed", range(5))
def test_overall_figures_equal_scikit_learn(seed):
    y_true, scores, classes = draw(seed)
    found = metrics.evaluate(y_true, scores, 0.6, classes, task="multilabel")
    answers = scores >= 0.6
    for average in ("macro", "micro"):
        for name in ("f1", "precision", "recall"):
            expected = getattr(oracle, f"{name}_score")(
                y_true, answers, average=average, zero_division=0
            )
            assert found.value(f"{name}_{average}") == pytest.approx(expected, abs=1e-12)
    expected = oracle.average_precision_score(y_true, scores, average="macro")
    assert found.value("map") == pytest.approx(expected, abs=1e-12)
