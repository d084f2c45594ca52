"""Parity: rung by rung, what changed, and which budget it breaks."""

import json

import numpy as np
import pytest

from workbench.deploy.fallbacks import Truth
from workbench.deploy.parity import Computed, decide, measure, require_parity
from workbench.errors import StepError
from workbench.settings import ParitySettings

CLASSES = ("ant", "bee")


def truth(images: int = 100, task: str = "multilabel") -> Truth:
    y_true = np.random.default_rng(1).integers(0, 2, (images, 2)).astype(np.float32)
    return Truth(y_true, np.ones_like(y_true), task)


def perfect(known: Truth) -> np.ndarray:
    return (known.y_true * 4 - 2).astype(np.float32)


def rungs(known: Truth, *later: tuple[str, str, np.ndarray]) -> list[Computed]:
    start = ("Keras float", "start", perfect(known))
    return [
        Computed(name, change, logits, decide(logits, np.zeros(2), known.task))
        for name, change, logits in (start, *later)
    ]


def flipped(known: Truth, cells: int) -> np.ndarray:
    logits = perfect(known)
    logits[:cells, 1] *= -1
    return logits


def test_equal_rungs_differ_in_nothing():
    known = truth()
    parity = measure(
        rungs(known, ("TFLite", "arithmetic", perfect(known))), known, CLASSES, ParitySettings()
    )
    assert (parity.rungs[1].flips, parity.rungs[1].largest_difference) == (0, 0.0)


def test_flips_are_counted_per_class():
    known = truth()
    parity = measure(
        rungs(known, ("TFLite", "arithmetic", flipped(known, 3))), known, CLASSES, ParitySettings()
    )
    assert parity.rungs[1].flips_by_class == {"ant": 0, "bee": 3}


def test_each_flip_is_shown_with_the_logits_on_both_sides():
    known = truth(images=3)
    later = ("TFLite", "arithmetic", flipped(known, 1))
    names = ["a.jpg", "b.jpg", "c.jpg"]
    parity = measure(rungs(known, later), known, CLASSES, ParitySettings(), names)
    row = parity.flipped_table().iloc[0]
    assert (row["image"], row["label"], row["before"]) == ("a.jpg", "bee", -row["after"])


def test_too_many_flips_fail_and_name_the_rung():
    known = truth()
    later = ("QAT fake-quant", "arithmetic", flipped(known, 9))
    budget = ParitySettings(max_f1_drop=1.0)
    parity = measure(rungs(known, later), known, CLASSES, budget)
    with pytest.raises(StepError, match=r'lost at "QAT fake-quant": 4.50%.*max_flip_fraction'):
        require_parity(parity)


def test_a_drop_of_f1_fails_and_names_the_rung():
    known = truth()
    later = ("TFLite reference kernels", "arithmetic", flipped(known, 20))
    parity = measure(rungs(known, later), known, CLASSES, ParitySettings(max_flip_fraction=1.0))
    with pytest.raises(StepError, match=r"TFLite reference kernels.*F1 macro drops"):
        require_parity(parity)


def test_one_flip_between_runtimes_is_one_too_many():
    known = truth()
    later = ("phone harness", "runtime", flipped(known, 1))
    parity = measure(rungs(known, later), known, CLASSES, ParitySettings())
    with pytest.raises(StepError, match=r"phone harness.*1 decisions flip"):
        require_parity(parity)


def test_training_may_change_decisions_as_long_as_f1_holds():
    known = truth()
    worse = rungs(known, ("Keras float after QAT", "training", flipped(known, 9)))
    parity = measure(worse[::-1], known, CLASSES, ParitySettings())
    assert not parity.broken and parity.rungs[1].flips == 9


def test_a_rung_is_compared_with_the_one_before_not_with_the_first():
    known = truth()
    later = [(name, "arithmetic", flipped(known, 4)) for name in ("one", "two")]
    parity = measure(rungs(known, *later), known, CLASSES, ParitySettings())
    assert [rung.flips for rung in parity.rungs] == [0, 4, 0]


def test_a_single_label_flips_when_the_answer_becomes_unknown():
    known = truth(task="single_label")
    sure, unsure = np.array([[3.0, 0.0]]), np.array([[0.1, 0.0]])
    answers = [decide(logits, np.float64(0.8), known.task).tolist() for logits in (sure, unsure)]
    assert answers == [[[True, False]], [[False, False]]]


def test_the_summary_is_strict_json():
    known = truth()
    parity = measure(rungs(known), known, CLASSES, ParitySettings())
    assert json.loads(json.dumps(parity.summary(), allow_nan=False))["passed"] is True


def test_the_tables_have_a_row_a_rung_and_a_row_a_class():
    known = truth()
    parity = measure(
        rungs(known, ("TFLite", "arithmetic", perfect(known))), known, CLASSES, ParitySettings()
    )
    assert (len(parity.table()), parity.flips_table().index.tolist()) == (2, list(CLASSES))
