"""The ladder: which rung ships, and the reason in words of each that does not."""

import json

import numpy as np
import pytest

from tests.deploy_doubles import colour_file, colour_file_with_a_float, photos
from workbench.deploy import fallbacks as rungs
from workbench.deploy import tflite
from workbench.deploy.fallbacks import (
    RUNGS,
    Score,
    Truth,
    climb_down,
    decide_neutrally,
    score_logits,
)
from workbench.errors import StepError
from workbench.settings import LadderSettings


def scored(drop: float) -> Score:
    return Score(f1_macro=0.9 - drop, map=0.9, drop=drop, drop_interval=(drop - 0.01, drop + 0.01))


def climb(
    drops: dict[str, float | str],
    settings: LadderSettings | None = None,
    without=(),
    make_file=colour_file,
):
    """Climb down with rungs that score a drop or fail with a reason; return what became of each."""
    current: list[str] = []

    def maker(name):
        def make() -> bytes:
            current.append(name)
            outcome = drops.get(name, 0.0)
            if isinstance(outcome, str):
                raise StepError(outcome)
            return make_file()

        return make

    found, made = climb_down(
        {name: maker(name) for name in RUNGS if name not in without},
        run=lambda model: tflite.run_tflite(model, photos(2)),
        judge=lambda logits: scored(drops.get(current[-1], 0.0)),
        settings=settings or LadderSettings(),
    )
    return {rung.name: rung for rung in found}, made, current


def states(found) -> list[str]:
    return [found[name].state for name in RUNGS]


def test_the_first_rung_that_holds_ships_and_the_rest_is_not_needed():
    found, _, tried = climb({})
    assert states(found) == ["shipped", *["not needed"] * 4]
    assert tried == ["qat"]


@pytest.mark.parametrize("reason", ["QAT does not support fancy", "the loss became nan"])
def test_an_error_steps_down_to_the_next_rung_with_its_reason(reason):
    found, _, tried = climb({"qat": reason})
    assert (found["qat"].state, found["qat"].reason) == ("failed", reason)
    assert tried == ["qat", "qat_skip_worst"]


def test_a_collapsed_score_steps_down_with_the_drop_in_words():
    found, _, _ = climb({"qat": 0.3, "qat_skip_worst": 0.2})
    assert found["ptq"].state == "shipped"
    assert "0.3000 below the float student; ladder.max_drop allows 0.02" in found["qat"].reason


def test_every_rung_is_reached_when_those_above_fail():
    for number, name in enumerate(RUNGS):
        found, _, tried = climb(dict.fromkeys(RUNGS[:number], "no"))
        assert found[name].state == "shipped" and tried == list(RUNGS[: number + 1])


def test_with_all_rungs_failing_the_run_fails_and_names_every_reason():
    with pytest.raises(StepError, match=r"nothing ships .*QAT: one.*float16: five"):
        climb(dict(zip(RUNGS, ("one", "two", "three", "four", "five"), strict=True)))


def test_a_gain_is_called_a_gain():
    found, _, _ = climb({"qat": -0.01})
    assert "0.0100 above the float student" in found["qat"].reason


def test_a_forced_rung_ships_whatever_it_scores():
    settings = LadderSettings(force_rung="ptq_float_head")
    found, _, tried = climb({"ptq_float_head": 0.5}, settings)
    assert tried == ["ptq_float_head"]
    assert found["ptq_float_head"].reason.startswith("forced by ladder.force_rung")


def test_a_forced_rung_that_cannot_be_made_fails_the_run():
    with pytest.raises(StepError, match="PTQ with float head: the converter refused"):
        settings = LadderSettings(force_rung="ptq_float_head")
        climb({"ptq_float_head": "the converter refused"}, settings)


def test_a_forced_rung_that_fails_is_the_only_one_that_is_blamed():
    with pytest.raises(StepError) as failure:
        climb({"ptq": "no image to calibrate on"}, LadderSettings(force_rung="ptq"))
    assert "(PTQ, class-covering calibration: no image to calibrate on)" in str(failure.value)


def test_without_qat_the_ladder_starts_at_ptq_and_says_so():
    found, _, tried = climb({}, without=("qat", "qat_skip_worst"))
    assert tried == ["ptq"] and found["qat"].reason == "qat.enabled is off"


def test_logits_that_are_not_numbers_fail_the_rung(monkeypatch):
    numbers = iter([np.nan, 0.0])
    monkeypatch.setattr(
        rungs.tflite, "logits_of", lambda raw, *levels: np.full(raw.shape, next(numbers))
    )
    found, _, _ = climb({})
    assert found["qat"].reason == "6 logits are NaN or infinite"


def test_a_float_tensor_in_an_integer_file_fails_the_rung_by_its_name():
    found, _, _ = climb({}, make_file=colour_file_with_a_float)
    assert "left in a full-integer file (leftover (float32)" in found["ptq"].reason
    assert found["ptq_float_head"].state == "shipped"


def test_a_mistake_of_ours_is_no_reason_to_step_down():
    with pytest.raises(ZeroDivisionError):
        climb_down({"qat": lambda: 1 // 0}, None, None, LadderSettings())


def test_what_ships_is_described_by_hash_size_and_ports():
    found, (model, raw), _ = climb({})
    shipped = rungs.row(found["qat"])
    assert (shipped["bytes"], shipped["input_type"], shipped["output_type"]) == (
        len(model),
        "uint8",
        "int8",
    )
    assert raw.dtype == np.int8 and len(shipped["sha256"]) == 64


def test_rows_are_strict_json():
    found, _, _ = climb({"qat": "no", "qat_skip_worst": 0.4})
    assert json.dumps([rungs.row(rung) for rung in found.values()], allow_nan=False)


def test_a_score_is_paired_with_the_float_students_on_the_same_images():
    rng = np.random.default_rng(0)
    y_true = (rng.random((400, 3)) < 0.4).astype(np.float32)
    reference = (y_true * 4 - 2 + rng.normal(0, 1, y_true.shape)).astype(np.float32)
    worse = np.where(rng.random(y_true.shape) < 0.1, -reference, reference)
    truth = Truth(y_true, np.ones_like(y_true), "multilabel")
    score = score_logits(worse, reference, truth, replicates=200, seed=1)
    low, high = score.drop_interval
    assert 0 < low < score.drop < high


def test_equal_scores_drop_by_nothing_and_the_interval_knows():
    y_true = np.eye(3, dtype=np.float32).repeat(5, axis=0)
    truth = Truth(y_true, np.ones_like(y_true), "single_label")
    score = score_logits(y_true, y_true, truth, replicates=50, seed=1)
    assert (score.drop, score.drop_interval) == (0.0, (0.0, 0.0))


def test_a_class_without_positives_is_left_out_of_the_interval():
    y_true = np.array([[1, 0], [1, 0], [0, 0]], np.float32)
    truth = Truth(y_true, np.ones_like(y_true), "multilabel")
    score = score_logits(y_true - 0.5, y_true - 0.5, truth, replicates=20, seed=1)
    assert score.f1_macro == 1.0 and score.drop_interval == (0.0, 0.0)


def test_a_single_label_is_decided_for_the_highest_class():
    logits = np.array([[-3.0, -1.0, -2.0]])
    assert decide_neutrally(logits, "single_label").tolist() == [[False, True, False]]
