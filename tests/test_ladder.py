"""The ladder: which rung ships, the reason in words of each that does not, and what is written."""

import json
from hashlib import sha256
from types import SimpleNamespace

import numpy as np
import pytest

from tests.deploy_doubles import Labels, colour_file, colour_file_with_a_float
from workbench.artifacts import QuantizationLadder
from workbench.deploy import tflite
from workbench.errors import InputError, StepError
from workbench.files import write_json

pytestmark = pytest.mark.slow
RUNGS = ("qat", "qat_skip_worst", "ptq", "ptq_float_head", "float16")


@pytest.fixture(scope="module")
def ladder():
    from workbench.deploy import ladder

    return ladder


@pytest.fixture(scope="module")
def student(doubles):
    return doubles.trained_student()


@pytest.fixture(scope="module")
def dataset(doubles, tmp_path_factory):
    return doubles.write_dataset(tmp_path_factory.mktemp("data"))


@pytest.fixture
def tried(ladder, doubles, student, dataset, tmp_path):
    """Try rungs whose scores, or failures, are given; return the ladder and what was tried."""

    class Scripted(ladder.Ladder):
        def score(self, logits):
            return self.next_score

        def run(self, model):
            return self.next_raw, (self.next_raw * 0.05).astype(np.float32)

    def run(drops=(), make_file=colour_file, raw=(), ends=0.01, **groups):
        settings = doubles.small_settings(**{"ladder": {"max_drop": 0.02}, **groups})
        settings = settings.model_copy(
            update={"student": settings.student.model_copy(update={"input_size": 16})}
        )
        found, made = Scripted(small_network(), dataset, settings, tmp_path), []
        for name in RUNGS:
            if not found.needs(name):
                continue
            made.append(name)
            with found.rung(name) as rung:
                drop = dict(drops).get(name, 0.0)
                if isinstance(drop, str):
                    raise StepError(drop)
                loss = ladder.Loss(drop, (drop - ends, drop + ends), 1000)
                found.next_score = ladder.Score(0.9 - drop, 0.9, loss)
                found.next_raw = dict(raw).get(name, np.zeros((24, 3), np.int8))
                rung.offer(make_file())
        return found, made

    return run


def small_network():
    import tf_keras as keras

    image = keras.Input((16, 16, 3))
    pooled = keras.layers.GlobalAveragePooling2D()(image)
    return keras.Model(image, keras.layers.Dense(3)(pooled))


def rows(found) -> dict:
    return {rung.rung: rung for rung in found.choose().rungs}


def test_the_first_rung_that_holds_ships_and_ptq_is_scored_beside_it(tried):
    found, made = tried()
    shown = rows(found)
    assert made == ["qat", "ptq"]
    assert [shown[name].state for name in RUNGS] == ["shipped", *["not needed"] * 4]
    assert (shown["ptq"].f1_macro, shown["float16"].f1_macro) == (0.9, None)
    assert shown["ptq"].reason.startswith("not better beyond chance than QAT: +0.0000 F1")


@pytest.mark.parametrize("reason", ["QAT does not support fancy", "the loss became nan"])
def test_an_error_steps_down_to_the_next_rung_with_its_reason(tried, reason):
    found, made = tried({"qat": reason})
    assert made == ["qat", "qat_skip_worst", "ptq"]
    assert (rows(found)["qat"].state, rows(found)["qat"].reason) == ("failed", reason)


def test_a_collapsed_score_steps_down_with_the_drop_in_words(tried):
    found = rows(tried({"qat": 0.3, "qat_skip_worst": 0.2})[0])
    assert found["ptq"].state == "shipped"
    assert "0.3000 below the float student; ladder.max_drop allows 0.02" in found["qat"].reason


def test_every_rung_is_reached_when_those_above_fail(tried):
    for number, name in enumerate(RUNGS[2:], 2):
        found, made = tried(dict.fromkeys(RUNGS[:number], "no"))
        assert found.choose().chosen == name and made == list(RUNGS[: number + 1])


def test_with_all_rungs_failing_the_run_fails_and_names_every_reason(tried):
    reasons = dict(zip(RUNGS, ("one", "two", "three", "four", "five"), strict=True))
    with pytest.raises(StepError, match=r"gave a file, so nothing ships .*QAT: one.*float16: five"):
        tried(reasons)[0].choose()


def test_a_ladder_that_holds_nothing_leaves_no_older_bundle(tried, tmp_path):
    (tmp_path / "inference_config.json").write_text("{}")
    with pytest.raises(StepError):
        tried(dict.fromkeys(RUNGS, "no"))[0].choose()
    assert not (tmp_path / "inference_config.json").exists()


def test_a_new_ladder_forgets_what_an_earlier_one_left(tried, tmp_path):
    tried()[0].choose()
    tried()
    left = ("candidates", "quantization_ladder.json", "candidate_scores.npz")
    assert not any((tmp_path / name).exists() for name in left)


def answers(dataset, wrong: int) -> np.ndarray:
    """Integers that say what is true of every validation image but the first `wrong`."""
    raw = (dataset.split("val").targets * 80 - 40).astype(np.int8)
    raw[:wrong] *= -1
    return raw


def test_ptq_that_is_better_beyond_the_interval_ships_and_every_rung_says_so(tried, dataset):
    raw = {"qat": answers(dataset, 8), "ptq": answers(dataset, 0)}
    found, _ = tried(raw=raw)
    written = found.choose()
    shown = {rung.rung: rung for rung in written.rungs}
    assert written.chosen == "ptq" and written.qat_weights is None and not written.ships_qat
    assert written.ptq_against_qat.interval[0] > 0
    assert shown["ptq"].reason.startswith("better than QAT by +0.")
    assert shown["qat"].state == "not needed"
    assert shown["qat"].reason.startswith("PTQ is better by +0.")


def test_ptq_that_is_better_by_chance_does_not_ship(tried, dataset):
    found, _ = tried(raw={"qat": answers(dataset, 1), "ptq": answers(dataset, 0)})
    written = found.choose()
    assert written.chosen == "qat" and written.ptq_against_qat.difference > 0


def test_a_forced_qat_ships_beside_a_better_ptq_that_is_shown(tried, dataset):
    raw = {"qat": answers(dataset, 8), "ptq": answers(dataset, 0)}
    found, made = tried(raw=raw, ladder={"force_rung": "qat"})
    assert made == ["qat", "ptq"] and found.choose().chosen == "qat"
    assert rows(found)["ptq"].reason.startswith("better than QAT: +0.")


def test_a_wide_interval_is_no_evidence_that_nothing_was_lost(tried):
    written = tried(ends=0.05)[0].choose()
    assert (written.chosen, written.budget) == ("qat", "not shown")
    assert "not shown to be within the budget" in written.rungs[0].reason
    assert "the interval reaches 0.0500" in written.rungs[0].reason


def test_where_every_file_loses_too_much_the_least_loss_ships_and_says_so(tried):
    drops = dict(zip(RUNGS, (0.5, 0.3, 0.1, 0.2, 0.4), strict=True))
    written = tried(drops)[0].choose()
    assert (written.chosen, written.budget) == ("ptq", "beyond")
    assert written.rungs[2].reason.startswith("no rung holds, and this one loses least")


def test_a_file_that_07_refused_is_left_out_and_the_next_rung_ships(tried, tmp_path):
    digest = sha256(colour_file()).hexdigest()
    write_json(tmp_path / "refused_rungs.json", {digest: "07 lost parity at x"})
    files = iter([colour_file(), *[colour_file(size=8)] * 4])
    written = tried(make_file=lambda: next(files))[0].choose()
    assert written.chosen == "qat_skip_worst"
    assert written.rungs[0].reason.startswith("07 lost parity at x; F1 macro")


def test_a_refused_file_ships_where_no_other_is_left(tried, tmp_path):
    digest = sha256(colour_file()).hexdigest()
    write_json(tmp_path / "refused_rungs.json", {digest: "07 lost parity at x"})
    assert tried()[0].choose().rungs[0].reason.startswith("no rung holds, and this one loses least")


def test_a_gain_is_called_a_gain(tried):
    assert "0.0100 above the float student" in rows(tried({"qat": -0.01})[0])["qat"].reason


def test_a_forced_rung_ships_whatever_it_scores(tried):
    force = {"ladder": {"force_rung": "ptq_float_head"}}
    found, made = tried({"ptq_float_head": 0.5}, **force)
    assert made == ["ptq_float_head"] and found.choose().forced
    assert rows(found)["ptq_float_head"].reason.startswith("forced by ladder.force_rung")
    assert rows(found)["ptq"].reason == "ladder.force_rung asks for ptq_float_head"


def test_a_forced_rung_that_fails_is_the_only_one_that_is_blamed(tried):
    found, _ = tried({"ptq": "no image"}, ladder={"force_rung": "ptq"})
    with pytest.raises(StepError) as failure:
        found.choose()
    assert "(PTQ, class-covering calibration: no image)" in str(failure.value)


def test_without_qat_the_ladder_starts_at_ptq_and_says_so(tried):
    found, made = tried(qat={"enabled": False})
    assert made == ["ptq"] and rows(found)["qat"].reason == "qat.enabled is off"


def test_a_rung_that_was_left_out_says_so(tried):
    found, _ = tried({"qat": "no", "qat_skip_worst": "no"})
    del found.tried["qat"]
    assert rows(found)["qat"].reason == "was not tried"


def test_a_rung_that_is_tried_again_replaces_what_it_was(tried):
    found, _ = tried({"qat": "no", "qat_skip_worst": "no"})
    assert found.choose().chosen == "ptq"
    with found.rung("qat") as rung:
        rung.offer(colour_file())
    assert found.choose().chosen == "qat"


def test_a_block_without_an_offer_fails_its_rung(tried):
    found, _ = tried()
    with found.rung("qat"):
        pass
    assert "end the block with rung.offer" in rows(found)["qat"].reason


def test_a_mistyped_rung_is_refused_with_those_that_exist(tried):
    with pytest.raises(InputError, match=r'no rung "qta"\. Rungs are qat, qat_skip_worst'):
        tried()[0].needs("qta")


def test_a_float_tensor_in_an_integer_file_fails_the_rung_by_its_name(tried):
    found = rows(tried(make_file=colour_file_with_a_float)[0])
    assert "left in a full-integer file (leftover (float32)" in found["ptq"].reason
    assert found["ptq_float_head"].state == "shipped"


def test_a_mistake_of_ours_is_no_reason_to_step_down(tried):
    with pytest.raises(ZeroDivisionError), tried()[0].rung("qat"):
        raise ZeroDivisionError


def test_what_ships_is_described_by_hash_size_and_ports(tried):
    shipped = rows(tried()[0])["qat"]
    assert (shipped.bytes, shipped.input_type, shipped.output_type, shipped.float_tensors) == (
        len(colour_file()), "uint8", "int8", 0,
    )  # fmt: skip
    assert len(shipped.sha256) == 64


def test_the_file_is_read_back_as_it_was_written(tried, tmp_path):
    written = tried({"qat": "no", "qat_skip_worst": 0.4})[0].choose()
    assert QuantizationLadder.read(tmp_path) == written
    assert json.dumps(written.to_json(), allow_nan=False)


def score(ladder, y_true, reference, logits, task="multilabel", replicates=50):
    known = Labels(y_true, np.ones_like(y_true))
    return ladder.score_logits(logits, reference, known, task, replicates=replicates, seed=1)


def test_a_score_is_paired_with_the_float_students_on_the_same_images(ladder):
    rng = np.random.default_rng(0)
    y_true = (rng.random((400, 3)) < 0.4).astype(np.float32)
    reference = (y_true * 4 - 2 + rng.normal(0, 1, y_true.shape)).astype(np.float32)
    worse = np.where(rng.random(y_true.shape) < 0.1, -reference, reference)
    found = score(ladder, y_true, reference, worse, replicates=200)
    low, high = found.loss.interval
    assert 0 < low < found.loss.value < high


def test_equal_scores_drop_by_nothing_and_the_interval_knows(ladder):
    y_true = np.eye(3, dtype=np.float32).repeat(5, axis=0)
    found = score(ladder, y_true, y_true, y_true, "single_label")
    assert (found.loss.value, found.loss.interval) == (0.0, (0.0, 0.0))


def test_a_class_without_positives_is_left_out_of_the_interval(ladder):
    y_true = np.array([[1, 0], [1, 0], [0, 0]], np.float32)
    found = score(ladder, y_true, y_true - 0.5, y_true - 0.5)
    assert found.f1_macro == 1.0 and found.loss.interval == (0.0, 0.0)


@pytest.fixture
def quantize(ladder, doubles, student, dataset, tmp_path):
    """Do what notebook 05 does, with a real student; return the ladder and what ships."""
    from workbench.deploy import convert
    from workbench.deploy.quantize import calibration_images, cover_logits, fake_quantize

    def run(network=None, objective=None, **groups):
        settings = doubles.small_settings(**groups)
        batches, loss = doubles.feed_and_loss(dataset, settings)
        objective = objective or loss
        the_run = SimpleNamespace(folder=tmp_path, settings=settings)
        calibration = calibration_images(dataset, settings)
        model = network or student
        found = ladder.Ladder(model, dataset, settings, tmp_path)
        if found.needs("qat"):
            with found.rung("qat") as rung:
                skipped = settings.qat.skip_layers
                quantized = fake_quantize(model, calibration, skip_layers=skipped)
                ladder.fit(ladder.qat_phase(settings), quantized, objective, batches, the_run)
                cover_logits(model, quantized, calibration)
                file = convert.convert_quantized(quantized, settings.tflite_export, calibration)
                rung.offer(file, quantized)
        found.fall_back(calibration, objective, batches, the_run)
        return found, found.choose()

    return run


def reason(found, name: str) -> str:
    return next(rung.reason for rung in found.rungs if rung.rung == name)


def test_qat_ships_when_it_holds(quantize, tmp_path):
    ladder, found = quantize()
    assert found.chosen == "qat" and (tmp_path / "student_qat.h5").exists()
    assert set(ladder.logits) == {"float", "qat", "ptq"}
    assert set(ladder.files) == {
        "candidates", "quantization_ladder.json", "candidate_scores.npz", "student_qat.h5",
    }  # fmt: skip
    tflite.require_full_integer(tmp_path / found.candidate)


def test_the_scores_are_those_of_the_candidate_on_validation(quantize, doubles, tmp_path):
    _, found = quantize(ladder={"force_rung": "ptq"})
    images, _ = doubles.draw(doubles.SHARES["val"], seed=11)
    with np.load(tmp_path / "candidate_scores.npz") as scores:
        assert (tflite.run_tflite(tmp_path / found.candidate, images) == scores["raw"]).all()


def test_the_same_settings_give_the_same_file(quantize, tmp_path):
    first, again = ((tmp_path / quantize()[1].candidate).read_bytes() for _ in range(2))
    assert first == again


@pytest.mark.parametrize("name", RUNGS)
def test_every_rung_can_be_forced_and_runs(quantize, name, tmp_path):
    _, found = quantize(ladder={"force_rung": name}, qat={"epochs": 1})
    assert found.chosen == name and found.forced
    assert tflite.output_port(tmp_path / found.candidate).dtype == "int8"
    assert next(rung.f1_macro for rung in found.rungs if rung.rung == name) > 0.5


def test_an_unsupported_layer_is_left_out_by_the_second_rung(quantize, doubles):
    from tf_keras import layers

    _, found = quantize(doubles.trained_student(layers.GaussianNoise(0.1, name="odd")))
    assert "QAT does not support odd" in reason(found, "qat")
    assert found.chosen == "qat_skip_worst" and "odd" in found.skipped_layers


def test_a_loss_that_is_not_a_number_steps_down_with_its_reason(quantize):
    import tensorflow as tf

    def not_a_number(logits, *_):
        return tf.reduce_mean(logits, axis=-1) * np.nan

    _, found = quantize(objective=not_a_number)
    assert found.chosen == "ptq" and "the loss became nan" in reason(found, "qat")


def test_a_training_that_really_diverges_steps_down(quantize):
    _, found = quantize(qat={"lr": 10.0, "epochs": 1}, ladder={"max_drop": 0.05})
    assert found.chosen == "ptq"
    assert "below the float student" in reason(found, "qat") or "nan" in reason(found, "qat")


def test_a_layer_that_no_phone_knows_fails_every_rung_and_names_it(quantize, doubles, tmp_path):
    network = doubles.student_network(doubles.unknown_to_phones())
    with pytest.raises(StepError, match=r"nothing ships .*QAT does not support beta") as refused:
        quantize(network)
    assert str(refused.value).count("'tf.Betainc' op is neither") == 4
    assert not (tmp_path / "candidates").exists()


def test_the_layers_of_a_float_file_are_ranked_by_a_ptq(quantize, doubles):
    ladder, _ = quantize(ladder={"force_rung": "float16"})
    errors = ladder.layer_errors(list(doubles.draw(8, seed=5)[0]))
    assert "block_dwconv" in set(errors.layer)


def test_a_layer_left_out_is_scored_without_training(quantize, doubles):
    ladder, _ = quantize(ladder={"force_rung": "ptq"})
    calibration = list(doubles.draw(16, seed=5)[0])
    assert ladder.score_without(["top_conv"], calibration).f1_macro > 0.5
