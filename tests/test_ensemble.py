"""Finished networks as one teacher: their mean, its way through a file, and whom it refuses."""

import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras
from PIL import Image

from tests.training_doubles import CLASSES, SIDE, Place, small_feed, small_network
from workbench import status
from workbench.compare import compare_with_members, ensemble_record
from workbench.data.tables import read_dataset, write_dataset
from workbench.data.views import View
from workbench.decide.outcomes import probabilities
from workbench.deploy.gradcam import gradcam
from workbench.errors import InputError, WeightsError
from workbench.files import read_json, sha256, write_json
from workbench.freshness import fingerprint
from workbench.members import read_members
from workbench.nets.ensemble import MeanProbability, join_networks, parts_of
from workbench.nets.network import inference, load_network, save_network
from workbench.run import Run
from workbench.settings import Settings
from workbench.show.figures import alt_text
from workbench.show.final import training_history
from workbench.show.plots import training_curves
from workbench.steps import find_step
from workbench.train.logs import history_table
from workbench.train.loop import fit
from workbench.train.phases import phases
from workbench.train.scores import write_scores

LABELS = ("cat", "dog", "owl")
SIZE = 32
TIMES = SIZE // SIDE
TASKS = ("multilabel", "single_label")


def settings(*members: str, task: str = "multilabel", size: int = SIZE, **groups) -> Settings:
    teacher = {"members": list(members), "input_size": size, "weights": "none"}
    known = {"teacher": teacher, "task": task, "num_classes": "auto"}
    return Settings.model_validate(known | groups)


# One network of several.


def odd_network() -> keras.Model:
    """A network with what Keras describes in part only: statistics, and channels reversed."""
    image = keras.Input((SIZE, SIZE, 3), name="image")
    statistics = keras.layers.Normalization(name="normalization")
    x = keras.layers.Conv2D(4, 3, name="conv")(statistics(image[..., ::-1]))
    x = keras.layers.GlobalAveragePooling2D(name="avg_pool")(x)
    network = keras.Model(image, keras.layers.Dense(CLASSES, name="logits")(x))
    statistics.set_weights([np.array([90.0, 120, 150]), np.array([900.0, 400, 100]), np.array(0)])
    return network


VIEWS = (View(SIZE, "none"), View(SIDE, "none"), View(SIDE, "lite"))


@pytest.fixture(scope="module")
def networks() -> list[keras.Model]:
    keras.utils.set_random_seed(5)
    return [odd_network(), small_network(), small_network(norm=False)]


def pictures(count: int = 5) -> np.ndarray:
    """Bytes in blocks: the small image inside is the same to any resizing."""
    rng = np.random.default_rng(3)
    small = rng.integers(0, 256, (count, SIDE, SIDE, 3))
    return small.repeat(TIMES, axis=1).repeat(TIMES, axis=2).astype(np.float32)


def mean_of(networks: list[keras.Model], images: np.ndarray, task: str) -> np.ndarray:
    small = images[:, ::TIMES, ::TIMES]
    seen = [images, small, (small - 127) / 128]
    answers = [network(view, training=False) for network, view in zip(networks, seen, strict=True)]
    return np.mean([probabilities(one.numpy(), task) for one in answers], axis=0)


@pytest.mark.parametrize("task", TASKS)
def test_the_ensemble_answers_the_mean_probability_of_its_members(networks, task):
    joined = join_networks(networks, VIEWS, settings(task=task))
    found = probabilities(inference(joined)(pictures()).numpy(), task)
    np.testing.assert_allclose(found, mean_of(networks, pictures(), task), rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("task", TASKS)
def test_a_mean_of_far_logits_stays_a_number(task):
    logits = np.array([[-300.0, 0, 250], [40, -40, 90]], np.float32)
    mean = MeanProbability(task == "single_label")([logits, logits + 1, logits - 1]).numpy()
    assert np.isfinite(mean).all()
    expected = np.mean([probabilities(logits + by, task) for by in (0, 1, -1)], axis=0)
    np.testing.assert_allclose(probabilities(mean, task), expected, rtol=1e-4, atol=1e-30)


def test_an_ensemble_goes_through_a_file_like_any_network(networks, tmp_path):
    """03 writes it without an epoch; 04 to 09 rebuild it from the run folder alone."""
    asked = settings("one", "two", "three", size=SIZE)
    joined = join_networks(networks, VIEWS, asked)
    place = Place(tmp_path, asked)
    feed = small_feed()
    seen = tf.data.Dataset.from_tensor_slices(((pictures(24),), feed.targets, feed.mask))
    feed = replace(feed, validation=seen.batch(8))
    for phase in phases(asked, "teacher"):
        assert phase.epochs == 0
        fit(phase, joined, lambda logits, targets, mask: logits[:, 0], feed, place)
    write_json(tmp_path / "dataset_manifest.json", {"classes": LABELS})
    rebuilt = load_network(tmp_path, "teacher", asked)
    images = pictures()
    np.testing.assert_array_equal(inference(rebuilt)(images), inference(joined)(images))
    assert len(parts_of(rebuilt)) == 3


def test_a_foreign_layer_of_the_same_name_is_refused(networks, tmp_path):
    asked = settings("one", "two", "three")
    joined = join_networks(networks, VIEWS, asked)
    save_network(joined, tmp_path / "teacher_finetuned.h5", tmp_path / "teacher_network.json")
    write_json(tmp_path / "dataset_manifest.json", {"classes": LABELS})
    described = read_json(tmp_path / "teacher_network.json")
    described["config"]["layers"][-1]["module"] = "somebody.elses"
    write_json(tmp_path / "teacher_network.json", described)
    with pytest.raises(WeightsError, match=r"somebody\.elses\.MeanProbability"):
        load_network(tmp_path, "teacher", asked)


def test_grad_cam_looks_where_all_members_look(networks):
    joined = join_networks(networks, VIEWS, settings())
    images, classes = pictures(), [0, 1, 2, 0, 1]
    maps = gradcam(joined, images, classes)
    assert maps.shape[0] == len(images) and maps.min() >= 0 and maps.max() <= 1
    alone = [gradcam(part, images, classes) for part in parts_of(joined)]
    assert not any(one.shape == maps.shape and np.allclose(one, maps) for one in alone)


def test_an_ensemble_trains_nothing_and_takes_no_time():
    asked = settings("outputs/one")
    assert find_step("03").phases(asked) == []
    assert (
        not asked.teacher_is_lite
        and not Settings.model_validate(
            {"teacher": {"members": ["a"], "arch": "efficientnet_lite0"}}
        ).teacher_is_lite
    )


def test_a_run_that_trained_nothing_draws_a_history_without_epochs(tmp_path):
    drawn = alt_text(training_curves(training_history(tmp_path)))
    assert drawn.startswith("Training over 0 epochs")
    assert alt_text(training_curves(history_table([]))) == drawn


# Who may teach: photos of a project, and runs on them.


def draw(path: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(rng.integers(0, 256, (12, 12, 3), dtype=np.uint8)).save(path)


def draw_data(folder: Path, splits: dict[str, range], group: str = "", labels=LABELS) -> Path:
    for split, numbers in splits.items():
        rows = ["filepath,labels,group"]
        for number in numbers:
            draw(folder / f"images/{number}.png", number)
            rows.append(f"{number}.png,{labels[number % 3]},{group and f'{group}{number % 5}'}")
        (folder / f"{split}_labels.csv").write_text("\n".join(rows))
    return folder


SPLITS = {"train": range(12), "val": range(12, 18), "test": range(18, 24)}


@pytest.fixture
def project(tmp_path) -> Path:
    draw_data(tmp_path / "data", SPLITS)
    return tmp_path


def make_run(project: Path, name: str, data: str = "data", **groups) -> Run:
    """Leave what 01, 03 and 04 leave, as far as a member is asked for it."""
    dataset = {"dir": data, **groups.pop("dataset", {})}
    own = settings(dataset=dataset, student={"input_size": 64}, **groups)
    run = Run(project / "outputs" / name, own, project)
    run.folder.mkdir(parents=True)
    run.save_settings()
    dataset = read_dataset(project / data, own)
    hashes = {n: sha256(dataset.images / n) for n in dataset.rows["filepath"]}
    write_dataset(dataset, run.folder, project, task=own.task, sha256=hashes)
    for role, number in (("teacher", "03"), ("student", "04")):
        names = [f"{role}_finetuned.h5", f"{role}_network.json"]
        for one in names:
            (run.folder / one).write_text(f"{one} of {name}")
        outputs = {one: sha256(run.folder / one) for one in names}
        facts = {"started": "", "finished": "", "seconds": 1.0, "fingerprint": {}}
        status.record(run.folder, find_step(number), state="ok", outputs=outputs, **facts)
    return run


def asked(project: Path, *members: str, size: int = SIZE, **groups) -> Run:
    run, task = make_run(project, "ours", **groups), groups.get("task", "multilabel")
    return replace(run, settings=settings(*members, size=size, task=task))


def test_run_folders_give_their_teachers_and_a_weights_file_its_network(project):
    make_run(project, "one")
    make_run(project, "two")
    run = asked(project, "outputs/one", "outputs/two/student_finetuned.h5", size=64)
    found = read_members(run)
    assert [(one.name, one.network, one.size) for one in found] == [
        ("outputs/one", "teacher", SIZE), ("outputs/two/student_finetuned.h5", "student", 64),
    ]  # fmt: skip


def test_the_input_has_to_be_as_large_as_that_of_the_largest_member(project):
    make_run(project, "one")
    with pytest.raises(InputError, match=f"Set teacher.input_size: {SIZE}"):
        read_members(asked(project, "outputs/one", size=96))


def refused(project: Path, *members: str, **groups) -> str:
    with pytest.raises(InputError) as error:
        read_members(asked(project, *members, **groups))
    return str(error.value)


def test_what_is_no_finished_run_is_refused(project):
    assert "outputs/none is no run folder" in refused(project, "outputs/none")
    shutil.rmtree(project / "outputs/ours")
    one = make_run(project, "one")
    status.forget(one.folder, find_step("03"))
    assert "its teacher is pending. Run 03_train_teacher there" in refused(project, "outputs/one")


def test_a_network_that_was_changed_since_is_refused(project):
    one = make_run(project, "one")
    (one.folder / "teacher_finetuned.h5").write_text("other weights")
    assert "teacher_finetuned.h5 was changed" in refused(project, "outputs/one")


def test_a_run_folder_that_leads_out_is_refused(project):
    one = make_run(project, "one")
    os.symlink("/etc", one.folder / "logs")
    assert "a link to outside" in refused(project, "outputs/one")


def test_a_member_counts_once(project):
    make_run(project, "one")
    named = ("outputs/one", "outputs/./one/teacher_finetuned.h5")
    assert "outputs/./one/teacher_finetuned.h5 is named twice" in refused(project, *named)


def test_the_run_itself_is_no_member(project):
    assert "the run itself" in refused(project, "outputs/ours")


def test_other_classes_and_other_tasks_are_refused(project):
    draw_data(project / "birds", SPLITS, labels=("cat", "dog", "wren"))
    make_run(project, "birds", data="birds")
    assert "knows other classes than this run (owl, wren)" in refused(project, "outputs/birds")
    shutil.rmtree(project / "outputs/ours")
    make_run(project, "single", task="single_label")
    assert "is single_label, this run multilabel" in refused(project, "outputs/single")


@pytest.mark.parametrize(("split", "number"), [("val", 12), ("test", 20)])
def test_a_member_that_learned_from_photos_held_here_is_refused(project, split, number):
    """In another folder under another name: the bytes tell."""
    draw_data(project / "more", {"train": range(30, 40), "val": range(40, 45),
                                 "test": range(45, 50)})  # fmt: skip
    shutil.copy(project / f"data/images/{number}.png", project / "more/images/30.png")
    make_run(project, "more", data="more")
    words = f"has learned from 1 photos that are {split} here, the first {number}.png"
    assert words in refused(project, "outputs/more")


def test_a_fold_of_the_same_photos_is_refused(project):
    make_run(project, "fold", dataset={"folds": 3, "fold": 1})
    assert "photos that are val here" in refused(project, "outputs/fold")


def test_photos_chosen_on_are_no_test(project):
    """Validation chose the member's best epoch: here it must not be test."""
    draw_data(project / "turned", {"train": range(12), "val": range(18, 24), "test": range(12, 18)})
    make_run(project, "turned", data="turned")
    assert "6 photos that are test here" in refused(project, "outputs/turned")


def test_other_photos_of_a_group_held_here_are_refused(project):
    data = draw_data(project / "clips", {**SPLITS, "val": range(12, 15)}, group="clip")
    for name in ("train", "val", "test"):  # groups of train, val and test are apart
        table = data / f"{name}_labels.csv"
        table.write_text(table.read_text().replace("clip", f"{name}-"))
    make_run(project, "clips", data="clips")
    table = data / "test_labels.csv"
    table.write_text(table.read_text().replace("test-", "train-", 1))
    assert "that are test here" in refused(project, "outputs/clips", data="clips")


def test_members_of_other_photos_may_teach(project):
    draw_data(project / "more", {"train": range(30, 40), "val": range(40, 45),
                                 "test": range(45, 50)})  # fmt: skip
    make_run(project, "more", data="more")
    assert len(read_members(asked(project, "outputs/more"))) == 1
    (project / "more/images/33.png").unlink()
    shutil.rmtree(project / "outputs/ours")
    assert "33.png is gone" in refused(project, "outputs/more")


def test_a_member_that_trained_on_makes_the_teacher_out_of_date(project):
    one, step = make_run(project, "one"), find_step("03")
    run = asked(project, "outputs/one")
    (project / "notebooks").mkdir()
    before = fingerprint(run, step)
    (one.folder / "teacher_finetuned.h5").write_text("other weights")
    after = fingerprint(run, step)
    assert {name for name in after if after[name] != before[name]} == {"member outputs/one"}
    shutil.rmtree(one.folder)
    assert fingerprint(run, step)["member outputs/one"] != after["member outputs/one"]


@pytest.mark.parametrize("task", TASKS)
def test_the_members_are_compared_with_their_mean_on_the_same_photos(project, task):
    make_run(project, "one", task=task)
    run = asked(project, "outputs/one", task=task)
    run.save_settings()
    validation, members = run.dataset().split("val"), read_members(run)
    perfect = validation.targets * 8 - 4
    write_scores(run.path("teacher_scores.npz"), perfect, validation)
    found = compare_with_members(run.folder, {"one": -perfect})
    record = ensemble_record(members, found)
    figures = {one.figure: one for one in record.members[0].figures}
    assert record.members[0].weights_sha256 == sha256(project / "outputs/one/teacher_finetuned.h5")
    assert figures["f1_macro"].ensemble == 1 and figures["f1_macro"].difference > 0
