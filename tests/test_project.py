"""A new project around photos: understood as a person would, written so that the run reads it."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from workbench import machine, project
from workbench.cli.main import main
from workbench.data.survey import survey
from workbench.errors import InputError
from workbench.parameters import read_settings

ROOT = Path(__file__).parents[1]


def draw(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    seed = sum(map(ord, str(path)))
    pixels = np.random.default_rng(seed).integers(0, 256, (32, 32, 3), np.uint8)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def pets(tmp_path) -> Path:
    for name in ("cat", "dog"):
        for number in range(20):
            draw(tmp_path / "my pets" / name / f"{number}.png")
    return tmp_path / "my pets"


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch):
    """TensorFlow takes seconds to list what a test of words need not wait for."""
    monkeypatch.setattr(project, "devices", lambda: ["CPU"])
    monkeypatch.setattr(project, "is_downloaded", lambda network: False)


def new(folder: Path, photos: Path, *flags: str) -> int:
    return main(["new", str(folder), "--from", str(photos), *flags])


def settings_of(folder: Path):
    return read_settings(folder / "parameters/mine.yaml", root=folder)


def test_class_folders_become_a_project_of_one_label_a_photo(tmp_path, pets, capsys):
    before = {path: path.stat().st_mtime_ns for path in pets.rglob("*")}
    assert new(tmp_path / "p", pets) == 0
    said, settings = capsys.readouterr().out, settings_of(tmp_path / "p")
    assert (settings.task, settings.num_classes) == ("single_label", 2)
    assert (settings.dataset.dir, settings.dataset.layout) == ("../my pets", "folders")
    assert "one folder a class: 40 photos" in said and "cat 20, dog 20" in said
    assert "preset: laptop, because TensorFlow lists no GPU" in said
    assert f"audit '{pets}'" in said and "run parameters/mine.yaml --dry-run" in said
    assert {path: path.stat().st_mtime_ns for path in pets.rglob("*")} == before


def test_tables_of_several_labels_become_a_project_of_them(tmp_path, capsys):
    rows = ["filepath,labels"]
    for number in range(40):
        draw(tmp_path / f"data/images/{number}.png")
        rows.append(f"{number}.png,{['a', 'b', 'a|b', ''][number % 4]}")
    (tmp_path / "data/labels.csv").write_text("\n".join(rows))
    assert new(tmp_path / "p", tmp_path / "data") == 0
    settings = settings_of(tmp_path / "p")
    assert (settings.task, settings.dataset.layout) == ("multilabel", "table")
    assert "odd: 10 photos have none of the classes" in capsys.readouterr().out


@pytest.mark.parametrize("marks", [";|", "\t,", ",;", ",/"])
def test_other_separators_are_found_and_written_down(tmp_path, marks):
    column, label = marks
    rows = [f"filepath{column}labels"]
    for number in range(12):
        draw(tmp_path / f"data/images/{number}.png")
        rows.append(f"{number}.png{column}{label.join(['a', 'b', 'c'][: 1 + number % 3])}")
    (tmp_path / "data/labels.csv").write_text("\n".join(rows))
    assert new(tmp_path / "p", tmp_path / "data") == 0
    dataset = settings_of(tmp_path / "p").dataset
    assert (dataset.separator, dataset.label_separator) == (column, label)


def test_the_preset_counts_photos_and_a_run_of_it_sees_as_many(tmp_path, pets):
    assert new(tmp_path / "p", pets) == 0
    student = settings_of(tmp_path / "p").student
    assert student.epochs_finetune == project.MOST_EPOCHS and student.input_size == 160
    for number in range(20, 1000):
        (pets / "cat" / f"{number}.png").write_bytes(b"%d" % number)
    assert new(tmp_path / "q", pets) == 0
    assert settings_of(tmp_path / "q").student.epochs_finetune == round(20 * 800 / 816)


def test_the_laptop_preset_is_expected_to_end_in_a_quarter_of_an_hour(monkeypatch):
    monkeypatch.setattr(machine, "count_cores", lambda wanted: 2)
    for recipe in (project.LAPTOP, project.UNTRAINED):
        settings = read_settings(ROOT / f"parameters/{recipe}.yaml")
        assert 300 < machine.guess_seconds(settings, project.RECIPE_IMAGES) < 900, recipe
    full = read_settings(ROOT / "parameters/default.yaml")
    assert machine.guess_seconds(full, project.RECIPE_IMAGES) > 9_000


def test_a_gpu_takes_the_networks_of_the_manual(tmp_path, pets, monkeypatch, capsys):
    monkeypatch.setattr(project, "devices", lambda: ["A card"])
    assert new(tmp_path / "p", pets) == 0
    assert "preset: small_dataset, because TensorFlow lists A card" in capsys.readouterr().out
    settings = settings_of(tmp_path / "p")
    assert (settings.teacher.arch, settings.student.variant) == ("efficientnet_b3", "lite1")


def test_weights_are_named_where_they_lie(tmp_path, pets):
    (tmp_path / "w").mkdir()
    for name in ("lite0_notop.h5", "efficientnetb3_notop.h5", "efficientnet_lite_b1_notop.h5"):
        (tmp_path / "w" / name).touch()
    assert new(tmp_path / "p", pets, "--weights", str(tmp_path / "w")) == 0
    settings = settings_of(tmp_path / "p")
    assert {settings.teacher.weights, settings.student.weights} == {
        str(tmp_path / "w/lite0_notop.h5")
    }
    assert new(tmp_path / "q", pets, "--weights", str(tmp_path / "w"), "--preset", "full") == 0
    settings = settings_of(tmp_path / "q")
    assert Path(settings.teacher.weights).name == "efficientnetb3_notop.h5"
    assert Path(settings.student.weights).name == "efficientnet_lite_b1_notop.h5"


def test_without_weights_the_networks_learn_from_the_photos_alone(tmp_path, pets, capsys):
    assert new(tmp_path / "p", pets, "--weights", "none") == 0
    settings = settings_of(tmp_path / "p")
    assert (settings.teacher.weights, settings.student.weights) == ("none", "none")
    assert "preset: laptop_untrained" in capsys.readouterr().out
    assert new(tmp_path / "q", pets) == 0
    assert "Without a network: --weights DIR" in capsys.readouterr().out


@pytest.mark.parametrize(("flags", "words"), [
    (["--weights", "nowhere"], "holds no weights of efficientnet_lite0"),
    (["--from", "nowhere"], "is not a folder"),
])  # fmt: skip
def test_what_cannot_be_started_leaves_nothing_behind(tmp_path, pets, capsys, flags, words):
    assert new(tmp_path / "p", pets, *flags) == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "p").exists()


def test_flags_about_photos_need_photos(tmp_path, capsys):
    assert main(["new", str(tmp_path / "p"), "--preset", "laptop"]) == 2
    assert "--from" in capsys.readouterr().err


def test_photos_without_labels_are_told_what_to_do(tmp_path, capsys):
    draw(tmp_path / "photos/1.png")
    assert new(tmp_path / "p", tmp_path / "photos") == 2
    assert "1 photos without labels" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["pets: b #", '"x"', "[1, 2]", "no", "{{x}}", "'", "日本"])
def test_hostile_names_of_folders_and_classes_are_written_as_text(tmp_path, name, capsys):
    for label in (name, "other"):
        for number in range(5):
            draw(tmp_path / f"d {name}" / label / f"{number}.png")
    assert new(tmp_path / "p", tmp_path / f"d {name}") == 0
    assert settings_of(tmp_path / "p").dataset.dir == f"../d {name}"


def test_photos_far_away_are_named_by_their_whole_path(tmp_path):
    assert project.seen_from(tmp_path / "p", "/elsewhere/photos") == "/elsewhere/photos"


def test_what_is_odd_is_said(tmp_path):
    for name, count, side in (("cat", 25, 2000), ("dog", 1, 8)):
        (tmp_path / name).mkdir()
        for number in range(count):
            Image.new("1", (side, 2)).save(tmp_path / name / f"{number}.png")
    odd = "\n".join(survey(tmp_path).lines())
    assert "odd: 2 classes have few photos, too few to tune and to judge: cat, dog" in odd
    assert "odd: the most frequent class has 25 photos, the rarest 1" in odd
    assert "odd: photos are large, typically 2000 pixels" in odd


def test_one_odd_label_makes_a_dataset_of_several(tmp_path):
    samples = []
    for number in range(20):
        draw(tmp_path / f"data/{number}.png")
        labels = ["a", "b"] if number == 7 else ["ab"[number % 2]]
        truth = [{"_cls": "Classification", "label": label} for label in labels]
        truth = {"_cls": "Classifications", "classifications": truth}
        samples.append({"filepath": f"data/{number}.png", "ground_truth": truth})
    (tmp_path / "samples.json").write_text(json.dumps({"samples": samples}))
    assert survey(tmp_path).task == "multilabel"
    samples[7]["ground_truth"] = samples[8]["ground_truth"]
    (tmp_path / "samples.json").write_text(json.dumps({"samples": samples}))
    assert survey(tmp_path).task == "single_label"


def test_weights_of_another_network_are_not_taken(tmp_path):
    (tmp_path / "efficientnet_lite_b3.h5").touch()
    assert project.find_weights(tmp_path, "efficientnet_b3") is None
    assert project.find_weights(tmp_path, "efficientnet_lite3").name == "efficientnet_lite_b3.h5"
    with pytest.raises(InputError):
        project.choose_weights(str(tmp_path), ("efficientnet_b3", "efficientnet_lite1"))
