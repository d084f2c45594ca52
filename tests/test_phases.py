"""Teacher and student from settings and photos: two phases, their files, and what still stands."""

import json
import logging
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import tf_keras as keras

from tests.training_doubles import Place, train_role
from workbench import files
from workbench.data.tables import read_dataset
from workbench.errors import DatasetError, StepError, WeightsError
from workbench.nets.network import load_network, predict_logits, save_network
from workbench.nets.teacher import build_student, student_view
from workbench.nets.weights import load_weights_into, read_arrays
from workbench.settings import Settings
from workbench.train.checkpoints import accept, set_aside, standing
from workbench.train.loop import feed, fit
from workbench.train.losses import task_loss
from workbench.train.phases import phase_parts, phases, qat_phase

COLOURS = {"blue": (255, 0, 0), "green": (0, 255, 0), "red": (0, 0, 255)}  # as OpenCV writes them


def draw(folder: Path, classes: list[str], count: int = 12) -> Path:
    rng = np.random.default_rng(0)
    (folder / "images").mkdir(parents=True)
    for split in ("train", "val", "test"):
        lines = ["filepath,labels"]
        for index in range(count):
            there = [name for name in classes if rng.random() < 0.5]
            photo = rng.integers(0, 60, (40, 40, 3)).astype(np.uint8)
            for name in there:
                place = 10 * list(COLOURS).index(name)
                photo[place : place + 8, 4:36] = COLOURS[name]
            cv2.imwrite(str(folder / f"images/{split}{index}.png"), photo)
            lines.append(f"{split}{index}.png,{'|'.join(there)}")
        (folder / f"{split}_labels.csv").write_text("\n".join(lines) + "\n")
    return folder


NETWORK = {"weights": "none", "input_size": 32, "batch_size": 4, "lr_finetune": 3e-3}


def settings_with(teacher=(), student=(), **changed) -> Settings:
    return Settings.model_validate(
        {
            "num_classes": "auto",
            "training": {"tensorboard": False},
            "teacher": {
                "arch": "efficientnet_lite0",
                **NETWORK,
                "epochs_head": 1,
                "epochs_finetune": 1,
                **dict(teacher),
            },
            "student": {
                "variant": "lite0",
                **NETWORK,
                "epochs_head": 1,
                "epochs_finetune": 2,
                **dict(student),
            },
            **changed,
        }
    )


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    folder = draw(tmp_path_factory.mktemp("photos") / "three", list(COLOURS))
    return read_dataset(folder, settings_with())


def test_a_student_with_a_hidden_layer_comes_back_from_its_files(dataset, tmp_path):
    settings = settings_with(student={"hidden_units": 8})
    network, folder = build_student(settings, 3), with_manifest(tmp_path, dataset)
    save_network(network, folder / "student_finetuned.h5", folder / "student_network.json")
    back = load_network(tmp_path, "student", settings)
    assert [w.shape for w in back.weights] == [w.shape for w in network.weights]
    for one, two in zip(network.get_weights(), back.get_weights(), strict=True):
        np.testing.assert_array_equal(one, two)
    assert back.get_layer("head_hidden").units == 8


@pytest.fixture(scope="module")
def taught(dataset, tmp_path_factory):
    """A teacher and a student that later tests look at: (folder, teacher, student, history)."""
    folder = tmp_path_factory.mktemp("run")
    teacher, _history = train_role("teacher", settings_with(), dataset, folder)
    return folder, teacher, *train_role("student", settings_with(), dataset, folder, teacher)


def train_student(settings, dataset, folder, teacher=None, **changed):
    """Train in a kernel of its own: the network is built anew."""
    return train_role("student", settings, dataset, folder, teacher, **changed)


def same_weights(one, two) -> bool:
    return all(map(np.array_equal, one.get_weights(), two.get_weights()))


@pytest.mark.slow
def test_each_network_leaves_the_weights_of_both_phases(taught):
    names = {
        f"{role}_{phase}.h5" for role in ("teacher", "student") for phase in ("warmup", "finetuned")
    }
    assert {path.name for path in taught[0].glob("*.h5")} == names


@pytest.mark.slow
def test_the_file_holds_what_the_network_ends_with(taught, dataset):
    folder, _teacher, pupil, _history = taught
    copy = build_student(settings_with(), len(dataset.classes))
    load_weights_into(copy, folder / "student_finetuned.h5", backbone_only=False)
    assert same_weights(copy, pupil)


@pytest.mark.slow
def test_the_history_tells_both_phases_in_order(taught):
    history = taught[3]
    assert list(history["phase"]) == ["student_warmup", "student_finetuned", "student_finetuned"]
    assert list(history["epoch"]) == [1, 1, 2]


@pytest.mark.slow
def test_warmup_leaves_the_backbone_alone_and_finetuning_does_not(taught, dataset):
    folder = taught[0]
    warmup, finetuned = (read_arrays(folder / f"student_{n}.h5") for n in ("warmup", "finetuned"))
    network = build_student(settings_with(), len(dataset.classes))
    for name in ("stem_conv/kernel", "stem_bn/moving_mean", "top_conv/kernel"):
        layer, weight = name.split("/")
        fresh = getattr(network.get_layer(layer), weight).numpy()
        np.testing.assert_array_equal(warmup[name], fresh)
        assert not np.array_equal(finetuned[name], fresh)


@pytest.mark.slow
def test_the_same_command_again_trains_nothing_and_changes_no_file(taught, dataset, caplog):
    folder, teacher, pupil, history = taught
    before = {path: files.sha256(path) for path in folder.rglob("*.h5")}
    with caplog.at_level(logging.INFO):
        again, found = train_student(settings_with(), dataset, folder, teacher)
    assert "student_finetuned was finished after epoch 2" in caplog.text
    assert same_weights(again, pupil)
    assert {path: files.sha256(path) for path in folder.rglob("*.h5")} == before
    assert found.equals(history)


@pytest.mark.slow
def test_zero_epochs_skip_a_phase_and_still_write_its_file(dataset, tmp_path, caplog):
    settings = settings_with(student={"epochs_head": 0, "epochs_finetune": 1})
    with caplog.at_level(logging.INFO):
        _network, history = train_student(settings, dataset, tmp_path)
    assert "student_warmup has 0 epochs" in caplog.text
    assert (tmp_path / "student_warmup.h5").is_file()
    assert list(history["phase"]) == ["student_finetuned"]
    assert history["loss"].dtype == np.float64


@pytest.mark.slow
def test_a_run_with_other_classes_goes_on_from_an_own_model(taught, tmp_path, caplog):
    own = str(taught[0] / "student_finetuned.h5")
    data = draw(tmp_path / "two", ["blue", "green"])
    settings = settings_with(student={"weights": own, "epochs_head": 0, "epochs_finetune": 0})
    with caplog.at_level(logging.INFO):
        pupil, _history = train_student(settings, read_dataset(data, settings), tmp_path)
    assert "new head: its own is for another number of classes" in caplog.text
    arrays = read_arrays(Path(own))
    np.testing.assert_array_equal(pupil.get_layer("top_conv").kernel, arrays["top_conv/kernel"])
    assert pupil.output_shape == (None, 2)


@pytest.mark.slow
def test_the_gate_shuts_out_a_class_the_teacher_does_not_know(taught, dataset, tmp_path, caplog):
    distillation = {"gate": True, "gate_min_positives": 1000}
    settings = settings_with(
        student={"epochs_head": 1, "epochs_finetune": 0}, distillation=distillation
    )
    with caplog.at_level(logging.INFO):
        train_student(settings, dataset, tmp_path, taught[1])
    assert "distillation gate: not for blue, green, red" in caplog.text


@pytest.mark.slow
def test_mixed_precision_leaves_a_float32_network(taught, dataset, tmp_path):
    settings = settings_with(
        student={"epochs_head": 1, "epochs_finetune": 0}, precision="mixed_bfloat16"
    )
    pupil, _history = train_student(settings, dataset, tmp_path, taught[1])
    assert pupil.layers[2].compute_dtype == "bfloat16"
    loaded = load_network(with_manifest(tmp_path, dataset), "student", settings)
    assert {layer.compute_dtype for layer in loaded.layers} == {"float32"}
    assert same_weights(loaded, pupil)
    view, validation = student_view(settings), dataset.split("val")
    ours, theirs = (predict_logits(n, validation, view, settings) for n in (pupil, loaded))
    np.testing.assert_allclose(ours, theirs, atol=1e-5)


@pytest.mark.slow
def test_one_label_an_image_is_distilled_as_well(taught, dataset, tmp_path):
    rows = dataset.rows.assign(labels=[("blue",), ("green",), ("red",)] * 12)
    single = type(dataset)(dataset.images, dataset.classes, rows)
    settings = settings_with(student={"epochs_head": 1, "epochs_finetune": 0}, task="single_label")
    _network, history = train_student(settings, single, tmp_path, taught[1])
    assert np.isfinite(history[["loss", "val_loss"]].to_numpy()).all()


def test_a_missing_weights_file_is_named(dataset, tmp_path):
    settings = settings_with(student={"weights": str(tmp_path / "gone.h5")})
    with pytest.raises(WeightsError, match=r"gone\.h5 does not exist"):
        train_student(settings, dataset, tmp_path)


def with_manifest(folder: Path, dataset) -> Path:
    manifest = {"classes": list(dataset.classes), "content_sha256": "1"}
    (folder / "dataset_manifest.json").write_text(json.dumps(manifest))
    return folder


# What a person changes, and what is trained anew for it.


def train_small(settings, dataset, folder, **changed):
    """Train in a kernel of its own a network that is quickly built."""
    keras.utils.set_random_seed(1)
    network = changed.pop("network", None) or own_network()
    return train_role("student", settings, dataset, folder, network=network, **changed)


@pytest.fixture
def finished(dataset, tmp_path):
    """A folder with a finished student of one epoch a phase."""
    train_small(short(), dataset, tmp_path)
    return tmp_path


def short(**changed):
    return settings_with(student={"epochs_finetune": 1, **changed.pop("student", {})}, **changed)


def lines(caplog) -> str:
    return "\n".join(record.getMessage() for record in caplog.records)


def aside(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("checkpoints/*.aside-*"))


def test_more_epochs_of_finetuning_keep_the_warmup_and_go_on(finished, dataset, caplog):
    with caplog.at_level(logging.INFO):
        _network, history = train_small(short(student={"epochs_finetune": 2}), dataset, finished)
    assert "student_warmup was finished after epoch 1" in lines(caplog)
    assert "student_finetuned goes on after epoch 1" in lines(caplog)
    assert list(history["epoch"]) == [1, 1, 2]
    assert aside(finished) == []


def test_more_epochs_under_cosine_train_anew_and_say_why(dataset, tmp_path, caplog):
    cosine = {"schedule": {"name": "cosine"}}
    train_small(short(**cosine), dataset, tmp_path)
    with caplog.at_level(logging.INFO):
        train_small(short(student={"epochs_finetune": 2}, **cosine), dataset, tmp_path)
    assert "student_warmup was finished after epoch 1" in lines(caplog)
    expected = "student_finetuned is trained anew: student.epochs_finetune 1 → 2, and cosine runs"
    assert expected in lines(caplog)
    assert aside(tmp_path) == ["student_finetuned.aside-1"]


def test_fewer_epochs_than_are_done_train_anew(finished, dataset, caplog):
    train_small(short(student={"epochs_finetune": 2}), dataset, finished)
    train_small(short(), dataset, finished)
    assert "student.epochs_finetune is 1, and 2 epochs are done" in lines(caplog)


def test_another_loss_trains_anew_with_the_reason_and_keeps_the_old_weights(
    finished, dataset, caplog
):
    before = files.sha256(finished / "student_finetuned.h5")
    loss = task_loss(short(), dataset.split("train"))
    train_small(short(), dataset, finished, loss=lambda *given: 100 * loss(*given))
    assert "student_warmup is trained anew: the loss changed" in lines(caplog)
    assert files.sha256(finished / "student_finetuned.h5") != before
    kept = finished / "checkpoints/student_finetuned.aside-1/student_finetuned.h5"
    assert files.sha256(kept) == before


def test_a_third_change_deletes_nothing(finished, dataset):
    for rate in (1e-4, 2e-4, 3e-4):
        train_small(short(student={"lr_finetune": rate}), dataset, finished)
    assert aside(finished) == [f"student_finetuned.aside-{number}" for number in (1, 2, 3)]
    assert all(
        (finished / "checkpoints" / name / "student_finetuned.h5").exists()
        for name in aside(finished)
    )


def test_other_photos_under_the_same_names_train_anew(finished, dataset, caplog):
    with_manifest(finished, dataset)
    train_small(short(), dataset, finished)
    assert "student_warmup is trained anew: the images, labels or augmentation" in lines(caplog)


def test_an_own_network_is_trained_saved_and_found_by_later_notebooks(dataset, tmp_path):
    network, _history = train_small(short(), dataset, tmp_path)
    with_manifest(tmp_path, dataset)
    loaded = load_network(tmp_path, "student", short())
    assert [type(layer) for layer in loaded.layers] == [type(layer) for layer in network.layers]
    assert same_weights(loaded, network)


def test_a_network_built_again_in_the_same_kernel_leaves_its_files_alone(dataset, tmp_path):
    names = ("student_warmup.h5", "student_finetuned.h5", "student_network.json")
    train_small(short(), dataset, tmp_path)
    before = [(tmp_path / name).read_bytes() for name in names]
    train_small(short(), dataset, tmp_path)  # Keras calls its layers conv2d_1, dense_1
    assert [(tmp_path / name).read_bytes() for name in names] == before
    path = tmp_path / "student_finetuned.h5"
    path.write_bytes(path.read_bytes()[:5000])
    train_small(short(), dataset, tmp_path)
    assert same_weights(load_network(with_manifest(tmp_path, dataset), "student", short()),
                        train_small(short(), dataset, tmp_path)[0])  # fmt: skip


def own_network(*extra) -> keras.Model:
    image = keras.Input((32, 32, 3))
    x = keras.layers.Conv2D(8, 3, strides=2, activation="relu")(image)
    for layer in (*extra, keras.layers.Flatten()):
        x = layer(x)
    return keras.Model(image, keras.layers.Dense(3)(x))


def test_a_network_with_code_inside_is_named_when_it_is_loaded(dataset, tmp_path):
    network = own_network(keras.layers.Lambda(lambda x: 2 * x, name="twice"))
    train_small(short(), dataset, tmp_path, network=network)
    with_manifest(tmp_path, dataset)
    with pytest.raises(
        WeightsError, match=r'"twice" \(Lambda\).*Build the network in this notebook'
    ):
        load_network(tmp_path, "student", short())


def test_a_structure_that_would_fill_the_memory_is_refused(dataset, tmp_path):
    train_small(short(), dataset, tmp_path)
    path = with_manifest(tmp_path, dataset) / "student_network.json"
    path.write_text(path.read_text().replace('"filters": 8', '"filters": 900000000'))
    with pytest.raises(WeightsError, match=r"describes \d+ weights; at most"):
        load_network(tmp_path, "student", short())


def test_a_structure_that_names_code_of_somebody_else_is_refused(dataset, tmp_path):
    train_small(short(), dataset, tmp_path)
    path = with_manifest(tmp_path, dataset) / "student_network.json"
    path.write_text(path.read_text().replace("keras.initializers", "os.path"))
    saved = json.loads(path.read_text())
    path.write_text(json.dumps(saved | {"digest": "other"}))
    with pytest.raises(WeightsError, match=r"os\.path"):
        load_network(tmp_path, "student", short())


def test_a_network_with_too_few_logits_is_refused(dataset, tmp_path):
    image = keras.Input((32, 32, 3))
    narrow = keras.Model(image, keras.layers.Dense(2)(keras.layers.Flatten()(image)))
    with pytest.raises(StepError, match=r"a logit for each of the 3 classes"):
        train_small(short(), dataset, tmp_path, network=narrow)


def test_a_loss_that_takes_the_mean_itself_is_refused(dataset, tmp_path):
    with pytest.raises(StepError, match=r"a value per image, \[N\].*reduction='none'"):
        keras_loss = keras.losses.BinaryCrossentropy(from_logits=True)
        train_small(short(), dataset, tmp_path, loss=lambda z, y, _mask: keras_loss(y, z))


def test_a_photo_damaged_after_the_audit_is_named(tmp_path):
    data = draw(tmp_path / "data", list(COLOURS))
    dataset = read_dataset(data, short())
    (data / "images/train3.png").write_bytes(b"not a photo")
    with pytest.raises(DatasetError, match=r"train3\.png.*run 01_dataset_audit again"):
        train_small(short(), dataset, tmp_path)


# What is known before anything is built.


def of(name, **changed):
    warmup, finetune = phases(settings_with(**changed), "student")
    return {"warmup": warmup, "finetune": finetune}[name]


def parts(name="finetune", **changed):
    return phase_parts(of(name, **changed), settings_with(**changed))


def test_the_parts_change_with_what_is_learned_and_not_with_what_is_logged():
    same = parts()
    assert same == parts(training={"tensorboard": True, "keep_every_epochs": 3})
    assert same == parts(qat={"epochs": 3})
    assert same != parts(seed=1)
    assert same != parts(loss={"name": "focal"})
    assert same != parts(augmentation={"random_rotation_factor": 0.2})


def test_each_phase_names_its_own_knobs_only():
    assert parts("warmup") == parts(
        "warmup", student={"lr_finetune": 1e-5, "unfreeze_fraction": 0.5}
    )
    assert parts("finetune") == parts("finetune", student={"lr_head": 1e-5})
    assert "setting student.lr_head" in parts("warmup")
    assert "setting student.lr_finetune" in parts("finetune")


def test_epochs_are_part_of_a_phase_under_cosine_only():
    assert parts() == parts(student={"epochs_finetune": 9})
    cosine = {"schedule": {"name": "cosine"}}
    assert parts(**cosine) != parts(student={"epochs_finetune": 9}, **cosine)


def test_quantization_aware_training_has_its_own_knobs():
    def of_qat(**changed):
        return phase_parts(qat_phase(settings_with(**changed)), settings_with(**changed))

    assert of_qat() == of_qat(student={"lr_finetune": 1e-5})
    assert of_qat() == of_qat(precision="mixed_float16")  # it trains in float32
    assert of_qat() != of_qat(qat={"lr": 1e-6})


def test_a_weights_file_counts_by_its_content_wherever_it_lies(tmp_path):
    places = [tmp_path / "here.h5", tmp_path / "there.h5"]
    for path in places:
        path.write_bytes(b"the same")
    one, two = (parts(student={"weights": str(path)}) for path in places)
    places[1].write_bytes(b"another")
    assert one == two != parts(student={"weights": str(places[1])})


def test_a_weights_file_is_named_from_the_project_wherever_the_notebook_runs(tmp_path, monkeypatch):
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "start.h5").write_bytes(b"weights")
    monkeypatch.chdir(tmp_path / "notebooks")
    assert (
        files.sha256(tmp_path / "start.h5")
        in parts(student={"weights": "start.h5"})["setting student.weights"]
    )


@pytest.mark.slow
def test_the_standing_of_a_training_is_told_without_training(taught):
    folder, phase = taught[0], of("finetune")
    found = standing(folder, phase, settings_with())
    assert (found.epoch, found.finished, found.changed) == (2, True, ())
    assert found.words == "finished after epoch 2"
    assert found.seconds > 0
    assert (
        standing(folder, replace(phase, epochs=3), settings_with()).words == "goes on after epoch 2"
    )
    other = settings_with(loss={"name": "focal"})
    assert "trained anew: loss changed" in standing(folder, phase, other).words


def test_nothing_is_known_of_a_training_that_never_was(tmp_path):
    assert standing(tmp_path, of("warmup"), settings_with()).words == "nothing is trained yet"


def test_an_accepted_training_stands_under_the_new_settings(finished, dataset, caplog):
    other = short(student={"lr_finetune": 1e-4})
    phase = phases(other, "student")[1]
    assert standing(finished, phase, other).changed
    accept(finished, phase, other)
    assert standing(finished, phase, other).changed == ()
    with caplog.at_level(logging.INFO):
        train_small(other, dataset, finished)
    assert "student_finetuned was finished" in lines(caplog)


def test_new_code_that_is_accepted_leaves_loss_and_network_as_they_were(finished, dataset, caplog):
    for phase in phases(short(), "student"):
        path = finished / f"checkpoints/{phase.name}/fingerprint.json"
        path.write_text(json.dumps(files.read_json(path) | {"code": "earlier"}))
        assert standing(finished, phase, short()).changed == ("the code that trains changed",)
        accept(finished, phase, short())
    with caplog.at_level(logging.INFO):
        train_small(short(), dataset, finished)
    assert "student_finetuned was finished" in lines(caplog)


def test_force_sets_a_training_aside_and_deletes_nothing(finished, dataset):
    before = files.sha256(finished / "student_finetuned.h5")
    moved = set_aside(finished, "student_finetuned")
    assert files.sha256(moved / "student_finetuned.h5") == before
    assert not (finished / "student_finetuned.h5").exists()
    assert set_aside(finished, "student_finetuned") is None
    train_small(short(), dataset, finished)
    assert (finished / "student_finetuned.h5").exists()


# What a person does in one kernel: cells run again, in any order.


@pytest.fixture
def kernel(dataset, tmp_path):
    """A network, and the two cells that train it."""
    keras.utils.set_random_seed(1)
    network, settings = own_network(), short()
    loss = task_loss(settings, dataset.split("train"))
    batches = feed(dataset, (student_view(settings),), settings, batch_size=4)

    def cell(phase, loss=loss):
        return fit(phase, network, loss, batches, Place(tmp_path, settings))

    return network, cell, tmp_path


def test_cells_that_are_run_again_find_their_training_in_any_order(kernel, caplog):
    network, cell, folder = kernel
    warmup, finetune = phases(short(), "student")
    cell(warmup)
    cell(finetune)
    trained = network.get_weights()
    for phase in (finetune, warmup, finetune, finetune):
        assert cell(phase).traces == 0
    assert all(map(np.array_equal, network.get_weights(), trained))
    assert aside(folder) == []


def test_a_changed_loss_in_the_same_kernel_trains_both_phases_anew(kernel, dataset):
    _network, cell, folder = kernel
    warmup, finetune = phases(short(), "student")
    cell(warmup)
    cell(finetune)
    softer = task_loss(short(loss={"label_smoothing": 0.2}), dataset.split("train"))
    cell(warmup, softer)
    assert cell(finetune, softer).traces == 1
    assert aside(folder) == ["student_finetuned.aside-1", "student_warmup.aside-1"]


def test_an_interrupted_cell_goes_on_when_it_is_run_again(kernel, caplog):
    _network, cell, folder = kernel
    warmup = replace(phases(short(), "student")[0], epochs=2)
    press = CtrlC()
    logging.getLogger("workbench.train.loop").addHandler(press)
    with caplog.at_level(logging.INFO), pytest.raises(KeyboardInterrupt):
        cell(warmup)
    logging.getLogger("workbench.train.loop").removeHandler(press)
    with caplog.at_level(logging.INFO):
        cell(warmup)
    assert "student_warmup goes on after epoch 1" in lines(caplog)
    assert aside(folder) == []


class CtrlC(logging.Handler):
    """A person who reads the line of the first epoch and presses Ctrl-C."""

    def emit(self, record):
        if "epoch 1/2" in record.getMessage():
            raise KeyboardInterrupt


def test_weights_that_a_person_sets_are_where_training_begins(kernel, caplog):
    network, cell, folder = kernel
    warmup, _finetune = phases(short(), "student")
    cell(warmup)
    network.set_weights([0.5 * weight for weight in network.get_weights()])
    cell(warmup)
    assert "the weights it starts from changed" in lines(caplog)
    assert aside(folder) == ["student_warmup.aside-1"]
