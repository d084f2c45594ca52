"""Teacher and student from settings and photos: two phases, their files, and what is taken up."""

import logging
from pathlib import Path

import cv2
import numpy as np
import pytest

import workbench  # noqa: F401
from workbench import files
from workbench.data.tables import read_dataset
from workbench.errors import WeightsError
from workbench.nets.weights import load_weights_into, read_arrays
from workbench.settings import Settings
from workbench.train import loop
from workbench.train.fingerprints import training_fingerprint
from workbench.train.student import build_student, train_student
from workbench.train.teacher import train_teacher

pytestmark = pytest.mark.slow
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


@pytest.fixture(scope="module")
def taught(dataset, tmp_path_factory):
    """A teacher and a student that later tests look at: (folder, teacher, student)."""
    folder = tmp_path_factory.mktemp("run")
    teacher = train_teacher(settings_with(), dataset, folder)
    return folder, teacher, train_student(settings_with(), dataset, teacher.model, folder)


def same_weights(one, two) -> bool:
    return all(map(np.array_equal, one.get_weights(), two.get_weights()))


def test_each_network_leaves_the_weights_of_both_phases(taught):
    folder, teacher, pupil = taught
    names = [path.name for path in (*teacher.files, *pupil.files)]
    assert names == [
        "teacher_warmup.h5",
        "teacher_finetuned.h5",
        "student_warmup.h5",
        "student_finetuned.h5",
    ]
    assert all((folder / name).is_file() for name in names)


def test_the_file_holds_what_the_network_ends_with(taught, dataset):
    folder, _teacher, pupil = taught
    copy = build_student(settings_with(), len(dataset.classes))
    load_weights_into(copy, folder / "student_finetuned.h5", backbone_only=False)
    assert same_weights(copy, pupil.model)


def test_the_history_tells_both_phases_in_order(taught):
    history = taught[2].history
    assert list(history["phase"]) == ["student_warmup", "student_finetuned", "student_finetuned"]
    assert list(history["epoch"]) == [1, 1, 2]


def test_warmup_leaves_the_backbone_alone_and_finetuning_does_not(taught, dataset):
    folder = taught[0]
    warmup, finetuned = (read_arrays(folder / f"student_{n}.h5") for n in ("warmup", "finetuned"))
    fresh = fresh_student(dataset)
    for name in ("stem_conv/kernel", "stem_bn/moving_mean", "top_conv/kernel"):
        np.testing.assert_array_equal(warmup[name], fresh[name])
        assert not np.array_equal(finetuned[name], fresh[name])


def fresh_student(dataset):
    from workbench.train.devices import seed_everything

    seed_everything(settings_with())
    network = build_student(settings_with(), len(dataset.classes))
    return {
        f"{layer.name}/{weight.name.split('/')[-1].split(':')[0]}": weight.numpy()
        for layer in network.layers
        for weight in layer.weights
    }


def test_the_same_command_again_trains_nothing_and_changes_no_file(taught, dataset, monkeypatch):
    folder, teacher, pupil = taught
    before = {path: files.sha256(path) for path in pupil.files}
    monkeypatch.setattr(loop._Fit, "_start", lambda *_args: pytest.fail("it trains again"))
    again = train_student(settings_with(), dataset, teacher.model, folder)
    assert same_weights(again.model, pupil.model)
    assert {path: files.sha256(path) for path in again.files} == before
    assert again.best == pupil.best


def test_zero_epochs_skip_a_phase_and_still_write_its_file(dataset, tmp_path, caplog):
    settings = settings_with(student={"epochs_head": 0, "epochs_finetune": 1})
    with caplog.at_level(logging.INFO):
        pupil = train_student(settings, dataset, None, tmp_path)
    assert "student_warmup has 0 epochs" in caplog.text
    assert (tmp_path / "student_warmup.h5").is_file()
    assert list(pupil.history["phase"]) == ["student_finetuned"]
    assert pupil.history["loss"].dtype == np.float64


def test_other_settings_set_the_checkpoints_aside(taught, dataset, tmp_path, caplog):
    settings = settings_with(student={"epochs_finetune": 0})
    train_student(settings, dataset, None, tmp_path)
    other = settings_with(student={"epochs_finetune": 0, "lr_head": 5e-4})
    train_student(other, dataset, None, tmp_path)
    assert "other settings" in caplog.text
    assert (tmp_path / "checkpoints/student_warmup.other_settings").is_dir()


def test_a_run_with_other_classes_goes_on_from_an_own_model(taught, tmp_path, caplog):
    own = str(taught[0] / "student_finetuned.h5")
    data = draw(tmp_path / "two", ["blue", "green"])
    settings = settings_with(student={"weights": own, "epochs_head": 0, "epochs_finetune": 0})
    with caplog.at_level(logging.INFO):
        pupil = train_student(settings, read_dataset(data, settings), None, tmp_path)
    assert "with a new head" in caplog.text
    arrays = read_arrays(Path(own))
    np.testing.assert_array_equal(
        pupil.model.get_layer("top_conv").kernel, arrays["top_conv/kernel"]
    )
    assert pupil.model.output_shape == (None, 2)


def test_the_gate_shuts_out_a_class_the_teacher_does_not_know(taught, dataset, tmp_path, caplog):
    distillation = {"gate": True, "gate_min_positives": 1000}
    settings = settings_with(
        student={"epochs_head": 1, "epochs_finetune": 0}, distillation=distillation
    )
    with caplog.at_level(logging.INFO):
        train_student(settings, dataset, taught[1].model, tmp_path)
    assert "distillation gate: not for blue, green, red" in caplog.text


def test_mixed_precision_ends_in_a_float32_network(taught, dataset, tmp_path):
    settings = settings_with(
        student={"epochs_head": 1, "epochs_finetune": 0}, precision="mixed_bfloat16"
    )
    pupil = train_student(settings, dataset, taught[1].model, tmp_path)
    assert {layer.compute_dtype for layer in pupil.model.layers} == {"float32"}
    copy = build_student(settings, len(dataset.classes))
    load_weights_into(copy, tmp_path / "student_warmup.h5", backbone_only=False)
    assert same_weights(copy, pupil.model)


def test_one_label_an_image_is_distilled_as_well(taught, dataset, tmp_path):
    rows = dataset.rows.assign(labels=[("blue",), ("green",), ("red",)] * 12)
    single = type(dataset)(dataset.images, dataset.classes, rows)
    settings = settings_with(student={"epochs_head": 1, "epochs_finetune": 0}, task="single_label")
    pupil = train_student(settings, single, taught[1].model, tmp_path)
    assert np.isfinite(pupil.history[["loss", "val_loss"]].to_numpy()).all()


def fingerprint(dataset, role="student", **changed):
    return training_fingerprint(settings_with(**changed), dataset, role, extra="")


def test_a_fingerprint_changes_with_what_is_learned_and_not_with_what_is_logged(dataset):
    same = fingerprint(dataset)
    assert same == fingerprint(dataset)
    assert same == fingerprint(dataset, training={"tensorboard": True, "keep_every_epochs": 3})
    assert same == fingerprint(dataset, qat={"epochs": 3})
    assert same != fingerprint(dataset, seed=1)
    assert same != fingerprint(dataset, loss={"name": "focal"})
    assert same != fingerprint(dataset, role="teacher")
    rows = dataset.rows.assign(labels=[()] * len(dataset.rows))
    assert same != fingerprint(type(dataset)(dataset.images, dataset.classes, rows))


def test_a_fingerprint_changes_with_the_content_of_the_weights_it_starts_from(dataset, tmp_path):
    own = tmp_path / "own.h5"
    marks = []
    for content in (b"one", b"two"):
        own.write_bytes(content)
        marks.append(fingerprint(dataset, student={"weights": str(own)}))
    assert marks[0] != marks[1]


def test_a_fingerprint_does_not_change_when_the_weights_it_starts_from_move(dataset, tmp_path):
    places = [tmp_path / "here.h5", tmp_path / "there.h5"]
    for path in places:
        path.write_bytes(b"the same")
    one, two = (fingerprint(dataset, student={"weights": str(path)}) for path in places)
    assert one == two


def test_a_missing_weights_file_is_named(dataset, tmp_path):
    settings = settings_with(student={"weights": str(tmp_path / "gone.h5")})
    with pytest.raises(WeightsError, match=r"gone\.h5 does not exist"):
        train_student(settings, dataset, None, tmp_path)
