"""The training loop: what it keeps, what it writes, when it stops."""

import json
import logging

import numpy as np
import pandas as pd
import pytest
import tensorflow as tf

from tests.training_doubles import CLASSES, SIDE, Place, even_loss, small_feed, small_network
from workbench.errors import StepError
from workbench.nets.devices import seed_everything
from workbench.nets.network import inference
from workbench.nets.weights import load_weights_into
from workbench.settings import Settings
from workbench.train.logs import Examples, displayable, paced, score_table
from workbench.train.loop import Validation, fit, validation_figures
from workbench.train.phases import Phase
from workbench.train.step import FIGURES, TrainingStep, _count_right


def settings_with(**training) -> Settings:
    quiet = {"tensorboard": False}
    return Settings.model_validate({"training": {**quiet, **training}})


def phase(epochs=3, rate=1e-2, **changed) -> Phase:
    return Phase(
        **{
            "name": "small_warmup",
            "epochs": epochs,
            "learning_rate": rate,
            "weight_decay": 1e-4,
            "early_stopping_patience": 10,
            "reduce_lr_patience": 5,
            "reduce_lr_factor": 0.5,
            **changed,
        }
    )


def train(folder, settings=None, feed=None, network=None, loss=None, **changed):
    settings = settings or settings_with()
    seed_everything(settings)
    network, loss = network or small_network(), loss or even_loss(settings)
    fitted = fit(phase(**changed), network, loss, feed or small_feed(), Place(folder, settings))
    return network, fitted


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """One training that several tests look at."""
    folder = tmp_path_factory.mktemp("trained")
    network, fitted = train(folder, settings_with(tensorboard=True, keep_every_epochs=2), epochs=4)
    return folder, network, fitted


def test_training_learns(trained):
    _folder, _network, fitted = trained
    losses = fitted.history["val_loss"].to_numpy()
    assert losses[-1] < 0.7 * losses[0]
    assert fitted.best["val_f1_macro"] == fitted.history["val_f1_macro"].max()


def test_a_phase_traces_its_step_once(trained):
    assert trained[2].traces == 1


def test_the_history_has_a_row_an_epoch(trained):
    history = trained[2].history
    assert list(history["epoch"]) == [1, 2, 3, 4]
    assert set(history["phase"]) == {"small_warmup"}
    assert (history["seconds"] > 0).all()


def test_the_history_is_written_as_csv_and_as_strict_json_lines(trained):
    folder, _network, fitted = trained
    pd.testing.assert_frame_equal(
        pd.read_csv(folder / "logs/small_warmup.csv"), fitted.history, check_exact=False
    )
    lines = (folder / "logs/small_warmup.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == [1, 2, 3, 4]


def test_every_nth_epoch_is_kept_for_good(trained):
    folder = trained[0] / "checkpoints/small_warmup"
    assert sorted(path.name for path in folder.glob("*.h5")) == ["kept_00002.h5", "kept_00004.h5"]
    load_weights_into(small_network(), folder / "kept_00002.h5", backbone_only=False)


def test_the_last_two_checkpoints_stay(trained):
    folder = trained[0] / "checkpoints/small_warmup"
    names = ["epoch_00003.npz", "epoch_00004.npz"]
    assert sorted(path.name for path in folder.glob("*.npz")) == names


def test_tensorboard_gets_curves_pictures_and_scores(trained):
    tags, scores = set(), ""
    for file in (trained[0] / "logs/tensorboard/small_warmup").iterdir():
        for event in tf.compat.v1.train.summary_iterator(str(file)):
            for value in event.summary.value:
                tags.add(value.tag)
                if value.tag == "examples/scores":
                    scores = tf.make_ndarray(value.tensor).item().decode()
    names = ("loss", "accuracy", "gradient_norm", "val_loss", "val_f1_macro", "val_map")
    curves = {f"epoch/{name}" for name in (*names, "val_accuracy", "lr")}
    curves |= {f"batch/{name}" for name in ("loss", "gradient_norm", "lr")}
    assert tags == curves | {"examples", "examples/scores"}
    assert "class 0" in scores


def test_class_names_cannot_format_the_tensorboard_table(tmp_path):

    names = ("<script>alert(1)</script>", "a|b\n# c", "[x](javascript:1)")
    table = score_table(Examples(None, np.eye(3), np.zeros((3, 3)), names))
    assert len(table.splitlines()) == 5
    assert not set("<[(") & set(table)


def test_tensorboard_writes_the_probability_of_a_label_that_is_there_in_bold():

    table = score_table(Examples(None, np.array([[1, 0]]), np.array([[0.75, 0.25]]), ("a", "b")))
    assert table.splitlines()[-1] == "| 0 | **0.75** | 0.25 |"


@pytest.mark.parametrize(("task", "total"), [("multilabel", 1.5), ("single_label", 1.0)])
def test_the_scores_of_examples_are_the_probabilities_of_the_task(task, total):

    settings = Settings.model_validate({"task": task})
    validation = Validation(small_feed(), even_loss(settings), settings)
    network = small_network()
    network.set_weights([np.zeros(w.shape) for w in network.weights])
    validation.figures(network)
    assert validation.examples.scores.sum(axis=1) == pytest.approx(total)


@pytest.mark.parametrize("bright", [[0, 255], [200, 255]])
@pytest.mark.parametrize("normalization", ["none", "lite"])
def test_tensorboard_shows_pictures_as_bright_as_they_are(normalization, bright):

    from workbench.data.views import normalize

    pixels = np.full((1, 1, 3), bright[1], np.uint8)
    pixels[..., 0] = bright[0]
    seen = np.empty(pixels.shape, np.float32)
    normalize(pixels, normalization, out=seen)
    np.testing.assert_allclose(displayable(seen), pixels / 255, atol=0.005)


def test_histograms_of_the_weights_are_written_when_they_are_asked_for(tmp_path):
    train(tmp_path, settings_with(tensorboard=True, tensorboard_histograms=True), epochs=1)
    (file,) = (tmp_path / "logs/tensorboard/small_warmup").iterdir()
    events = tf.compat.v1.train.summary_iterator(str(file))
    tags = {value.tag for event in events for value in event.summary.value}
    assert {weight.name for weight in small_network().weights} <= tags


def test_the_network_ends_with_the_weights_of_the_best_epoch(tmp_path):
    rising = 8.0  # a rate that soon ruins the network

    class Ruin:
        def rate(self, step):
            return 1e-2 if step < 12 else rising

        def observe(self, improved): ...
        def state(self):
            return {}

    from workbench.train import loop

    original = loop.make_schedule
    loop.make_schedule = lambda *_args, **_kwargs: Ruin()
    try:
        network, fitted = train(tmp_path, settings_with(monitor="loss"), epochs=4)
    finally:
        loop.make_schedule = original
    assert fitted.best["epoch"] == 2
    logits = validation_logits(network)
    loss = even_loss(settings_with())(logits, small_feed().targets, small_feed().mask)
    assert np.mean(loss) == pytest.approx(fitted.best["val_loss"], rel=1e-5)


def validation_logits(network):
    compiled = inference(network)
    return tf.concat([compiled(views[-1]) for views, _y, _m in small_feed().validation], 0)


def test_training_stops_when_the_monitor_stands_still(tmp_path):
    _network, fitted = train(tmp_path, rate=1e-9, epochs=9, early_stopping_patience=2)
    assert len(fitted.history) < 9


def test_the_rate_drops_when_the_monitor_stands_still(tmp_path):
    settings = settings_with(monitor="f1_macro")
    _network, fitted = train(tmp_path, settings, rate=1e-4, epochs=6, reduce_lr_patience=1)
    rates = fitted.history["lr"].to_numpy()
    assert rates[-1] < rates[0]


def test_one_line_an_epoch_tells_figures_and_the_time_left(tmp_path, caplog):
    with caplog.at_level(logging.INFO):
        train(tmp_path, epochs=2)
    lines = [r.getMessage() for r in caplog.records if "epoch 1/2" in r.getMessage()]
    assert len(lines) == 1
    words = ("loss", "accuracy", "val_loss", "F1", "mAP", "val_accuracy", "gradient", "lr", "left")
    assert all(word in lines[0] for word in words)


def followed(folder) -> list[str]:
    """The lines of the log that can be followed, without their time."""
    lines = (folder / "logs/training.log").read_text().splitlines()
    return [line.split(" ", 2)[2] for line in lines]


def test_the_log_that_can_be_followed_names_the_best_epoch_and_no_path(tmp_path):
    _network, fitted = train(tmp_path, epochs=2)
    start, first, second, end = followed(tmp_path)
    assert start.startswith("small_warmup trains on ") and start.endswith("float32")
    assert first.startswith("small_warmup epoch 1/2: loss ") and "epoch 2/2" in second
    best = f"the best of 2 epochs is {fitted.best['epoch']}, val_f1_macro "
    assert end == f"small_warmup is finished: {best}{fitted.best['val_f1_macro']:.4f}"
    assert str(tmp_path) not in "".join(followed(tmp_path))


def test_a_training_that_goes_on_grows_its_log_in_the_same_file(tmp_path):
    log = tmp_path / "logs/training.log"
    train(tmp_path, epochs=1)
    with open(log) as follower:  # what `tail -f` holds
        follower.read()
        with open(log, "a") as torn:
            torn.write("2026-01-01 00:00:00 small_warmup epo")  # a kill inside a line
        train(tmp_path, epochs=2)
        seen = follower.read().splitlines()
    assert seen[1].endswith("small_warmup goes on after epoch 1")
    epochs = [line for line in followed(tmp_path) if " epoch 2/2: " in line]
    assert len(epochs) == 1 and seen[-1].endswith(followed(tmp_path)[-1])


def test_accuracy_is_that_of_the_top_class_or_of_every_known_label():
    logits = np.array([[2.0, 1.0, -1.0], [-1.0, -2.0, -3.0], [3.0, -1.0, -1.0]])
    targets = np.array([[1.0, 0, 0], [1, 0, 0], [0, 1, 0]])
    mask = np.array([[1.0, 0, 1], [1, 1, 1], [1, 1, 1]])  # what is unknown cannot be wrong
    several = validation_figures(logits, targets, mask, single_label=False)
    assert several["val_accuracy"] == pytest.approx(1 / 3)
    one = validation_figures(logits, targets, np.ones((3, 3)), single_label=True)
    assert one["val_accuracy"] == pytest.approx(2 / 3)


@pytest.mark.parametrize("task", ["multilabel", "single_label"])
def test_training_and_validation_count_the_same_images_as_right(task):
    rng = np.random.default_rng(4)
    logits = rng.normal(size=(60, 3)).astype(np.float32)
    targets = (np.eye(3)[rng.integers(0, 3, 60)]).astype(np.float32)
    mask = np.ones((60, 3)) if task == "single_label" else rng.integers(0, 2, (60, 3))
    right, judged = _count_right(*map(tf.constant, (logits, targets)), tf.constant(mask), task)
    single = task == "single_label"
    figures = validation_figures(logits, targets, mask, single_label=single)
    assert float(right) / float(judged) == pytest.approx(figures["val_accuracy"])


def test_the_best_epoch_is_chosen_by_accuracy_where_that_is_the_monitor(tmp_path):
    _network, fitted = train(tmp_path, settings_with(monitor="accuracy"), epochs=5)
    assert fitted.best["val_accuracy"] == fitted.history["val_accuracy"].max()
    assert fitted.history["accuracy"].between(0, 1).all()


def test_the_bar_and_the_lines_of_a_long_epoch_tell_how_it_goes(monkeypatch, capsys, caplog):
    clock = iter(range(0, 10_000, 61))
    monkeypatch.setattr("workbench.train.logs.time.monotonic", lambda: next(clock))
    for bar in (True, False):
        with caplog.at_level(logging.INFO):
            assert list(paced(3, "epoch", lambda: "accuracy 0.812", bar)) == [0, 1, 2]
    assert "accuracy 0.812" in capsys.readouterr().err
    assert "epoch: step 2/3, accuracy 0.812, 1 min 01 s left" in caplog.text


def test_without_patience_no_training_stops_early(tmp_path):
    _network, fitted = train(tmp_path, rate=1e-9, epochs=7, early_stopping_patience=None)
    assert len(fitted.history) == 7


class Poison:
    """A loss that becomes NaN at a given call."""

    def __init__(self, loss, call):
        self.loss, self.call = loss, call
        self.seen = tf.Variable(0, trainable=False)

    def __call__(self, *args):
        bad = self.seen.assign_add(1) >= self.call
        return self.loss(*args) + tf.where(bad, np.nan, 0.0)


def test_a_loss_that_is_no_number_stops_and_keeps_the_epoch_before(tmp_path):
    goal = Poison(even_loss(settings_with()), call=10)  # six steps an epoch, and one validation
    with pytest.raises(StepError, match=r"nan in epoch 2, step 3.*learning rate"):
        train(tmp_path, loss=goal)
    kept = (tmp_path / "checkpoints/small_warmup").glob("*.npz")
    assert [path.name for path in kept] == ["epoch_00001.npz"]


def test_running_out_of_memory_says_which_batch_size_to_try(tmp_path):
    def exhausted(*_args):
        raise tf.errors.ResourceExhaustedError(None, None, "OOM when allocating")

    with pytest.raises(StepError, match=r"batch of 8 .* try batch_size 4.*find-batch-size"):
        train(tmp_path, loss=exhausted)


def test_a_device_that_cannot_compute_deterministically_says_which_setting_to_turn(tmp_path):
    def refused(*_args):
        words = "Determinism is not yet supported in GPU implementation of FakeQuant."
        raise tf.errors.UnimplementedError(None, None, words)

    with pytest.raises(StepError, match=r"FakeQuant.*run\.deterministic: false"):
        train(tmp_path, loss=refused)


def test_a_batch_of_one_and_a_set_smaller_than_a_batch_train(tmp_path):
    _network, fitted = train(tmp_path / "one", feed=small_feed(count=3, batch_size=1), epochs=1)
    assert np.isfinite(fitted.history["loss"]).all()
    _network, fitted = train(tmp_path / "few", feed=small_feed(count=3, batch_size=64), epochs=1)
    assert np.isfinite(fitted.history["loss"]).all()


def test_a_validation_set_without_positives_leaves_the_figures_null(tmp_path):
    feed = small_feed()
    feed.targets[:] = 0
    _network, fitted = train(tmp_path, feed=feed, epochs=1)
    assert fitted.history["val_map"].isna().all()
    line = (tmp_path / "logs/small_warmup.jsonl").read_text()
    assert json.loads(line)["val_map"] is None


# the step


def one_step(settings, network, goal=None, rate=0.1, weight_decay=0.0):
    strategy = tf.distribute.get_strategy()
    goal = goal or even_loss(settings)
    step = TrainingStep(network, goal, settings.training, weight_decay, strategy)
    step.set_rate(rate)
    step.run(iter(small_feed().training(0, None).dataset))
    return step


def test_weight_decay_spares_biases_and_batch_norm():
    settings = settings_with(clip_norm=0)
    silent = lambda logits, _targets, _mask: 0 * tf.reduce_sum(logits, -1)  # noqa: E731
    network = small_network(dropout=0.0)
    network.set_weights([np.ones(w.shape) for w in network.weights])
    one_step(settings, network, silent, rate=0.1, weight_decay=0.5)
    for weight in network.trainable_weights:
        expected = 0.95 if weight.shape.rank > 1 else 1.0
        np.testing.assert_allclose(weight, expected, rtol=1e-6)


def test_gradients_are_clipped_by_their_global_norm(monkeypatch):
    seen = []
    settings, network = settings_with(clip_norm=0.01), small_network(dropout=0.0)
    step = TrainingStep(
        network, even_loss(settings), settings.training, 0.0, tf.distribute.get_strategy()
    )

    def note(pairs, **_kwargs):
        seen.append(tf.linalg.global_norm([gradient for gradient, _variable in pairs]))

    monkeypatch.setattr(step.optimizer, "apply_gradients", note)
    monkeypatch.setattr(step, "run", step._run)  # eager, so that numbers can be seen
    figures = step.run(iter(small_feed().training(0, None).dataset))
    assert float(seen[0]) == pytest.approx(0.01, rel=1e-5)
    assert float(figures[FIGURES.index("gradient_norm")]) > 0.02  # as it was before the clipping


def test_the_average_of_the_weights_trails_them_and_is_what_validation_sees():
    settings = settings_with(ema_decay=0.5)
    network = small_network(dropout=0.0)
    start = network.get_weights()
    step = one_step(settings, network)
    trained = network.get_weights()
    with step.averaged():
        averaged = network.get_weights()
    decay = min(0.5, 2 / 11)  # after one step the memory is still short
    for begin, end, mean in zip(start, trained, averaged, strict=True):
        np.testing.assert_allclose(mean, decay * begin + (1 - decay) * end, rtol=1e-4, atol=1e-6)
    for one, two in zip(trained, network.get_weights(), strict=True):
        np.testing.assert_array_equal(one, two)


def test_the_loss_of_a_step_is_the_mean_over_the_images():
    settings, network = settings_with(), small_network(dropout=0.0)
    images, targets, mask = next(iter(small_feed().training(0, None).dataset))
    expected = even_loss(settings)(network(images[-1], training=True), targets, mask)
    step = TrainingStep(
        network, even_loss(settings), settings.training, 0.0, tf.distribute.get_strategy()
    )
    step.set_rate(0.0)
    loss = step.run(iter(small_feed().training(0, None).dataset))[0]
    assert float(loss) == pytest.approx(float(np.mean(expected)), rel=1e-5)


def test_inference_is_compiled_once_a_network_and_for_every_batch_size():
    network = small_network()
    compiled = inference(network)
    for count in (1, 5, 8):
        assert compiled(np.zeros((count, SIDE, SIDE, 3), np.float32)).shape == (count, CLASSES)
    assert inference(network) is compiled
    assert compiled.experimental_get_tracing_count() == 1


def test_a_network_nobody_uses_is_forgotten():
    import gc

    from workbench.nets import network as networks

    network = small_network()
    inference(network)(np.zeros((1, SIDE, SIDE, 3), np.float32))
    before = len(networks._compiled)
    del network
    gc.collect()
    assert len(networks._compiled) < before


def test_a_quantized_phase_says_that_it_keeps_no_average(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("workbench"), "propagate", True)
    caplog.set_level(logging.INFO, "workbench")
    train(tmp_path, settings_with(ema_decay=0.9), name="small_qat", epochs=0)
    assert "small_qat: training.ema_decay has no effect" in caplog.text
    caplog.clear()
    train(tmp_path, settings_with(ema_decay=0.9), epochs=0)
    assert "has no effect" not in caplog.text
