"""Parameter files: read strictly, refused with file, key, value, rule and remedy."""

from pathlib import Path

import numpy as np
import pytest

from workbench.errors import SettingsError
from workbench.parameters import Layer, differences, read_settings, resolve_layers
from workbench.settings import Settings
from workbench.train.phases import phases
from workbench.train.schedule import make_schedule

ROOT = Path(__file__).parent.parent


def refusal(tmp_path: Path, text: str | bytes, *assignments: str) -> str:
    file = tmp_path / "mine.yaml"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(SettingsError) as caught:
        read_settings(file, assignments, root=tmp_path)
    return str(caught.value)


SHIPPED = [file for file in sorted(ROOT.glob("parameters/*.yaml")) if "sweep" not in file.stem]


@pytest.mark.parametrize("file", SHIPPED, ids=lambda f: f.stem)
def test_every_parameter_file_that_ships_is_valid(file):
    assert read_settings(file, root=ROOT)


def test_the_recipe_for_finetuning_climbs_once_and_falls_over_the_whole_training():
    settings = read_settings(ROOT / "parameters/finetune.yaml", root=ROOT)
    warmup, finetune = phases(settings, "teacher")
    schedule = make_schedule(settings.schedule, finetune, steps=200)
    rates = np.array([schedule.rate(step) for step in range(200)])
    assert warmup.epochs == 0 and finetune.weight_decay == 0.05 and finetune.fraction == 1
    assert rates.argmax() == 19 and (np.diff(rates[19:]) <= 0).all() and rates[-1] < 1e-4 * 0.02
    assert (settings.loss.label_smoothing, settings.training.monitor) == (0.1, "loss")


def test_the_recipe_for_strong_augmentation_only_adds_to_the_default():
    plain = Settings().augmentation
    strong = read_settings(ROOT / "parameters/strong_augmentation.yaml", root=ROOT).augmentation
    assert strong.mixup.enabled and strong.random_crop_scale < plain.random_crop_scale
    names = ("random_rotation_factor", "random_zoom_factor", "gaussian_noise_stddev")
    assert all(getattr(strong, name) > getattr(plain, name) for name in names)


def test_an_unknown_key_is_refused_with_the_nearest_right_one(tmp_path):
    message = refusal(tmp_path, "teacher: {epoch_head: 2}")
    assert message.endswith('mine.yaml: unknown key "teacher.epoch_head". '
                            'Did you mean "epochs_head"?')  # fmt: skip


def test_a_key_in_the_wrong_group_is_pointed_to_the_right_one(tmp_path):
    assert 'Did you mean "distillation.temperature"?' in refusal(tmp_path, "temperature: 3.0")


def test_a_key_written_twice_is_refused_with_its_line(tmp_path):
    assert 'line 2: key "seed" is written twice' in refusal(tmp_path, "seed: 1\nseed: 2\n")


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("seed: true", '"seed" is True. It should be a valid integer'),
        ("seed: '3'", "valid integer"),
        ("teacher: {epochs_head: 3.0}", "valid integer"),
        ("qat: {enabled: no}", "\"qat.enabled\" is 'no'"),
        ("qat: {enabled: on}", "valid boolean"),
        ("teacher: {lr_head: .nan}", "finite number"),
        ("teacher: {lr_head: .inf}", "finite number"),
        ("teacher: {lr_head: -1.0}", "greater than 0"),
        ("teacher: {batch_size: 0}", "greater than or equal to 1"),
        ("teacher: {batch_size: 99999999999}", "less than or equal to"),
        ("distillation: {alpha: 1.5}", "less than or equal to 1"),
        ("teacher: {arch: resnet}", "efficientnet_b3"),
        ("threshold_search: {grid_step: 0}", "greater than 0"),
        ("threshold_search: {grid_min: .9, grid_max: .1}", "grid_min 0.9 is above grid_max 0.1"),
        ("dataset: {train_frac: .9}", "they must sum to 1"),
        ("teacher: {epochs_head: 0, epochs_finetune: 0}", "would never train"),
        ("student: {variant: lite2}", "input_size: auto"),
        ("teacher: 3", '"teacher" is 3. It should be a group of keys, like teacher: {arch: …}'),
        ("augmentation: {cutout: }", "group of keys, like cutout: {num_patches: …}"),
        ("", "is empty"),
        ("- a\n- b\n", "must be a mapping"),
        ("teacher:\n\tarch: x\n", "not valid YAML"),
        ("seed: !!python/object/apply:os.system ['true']", "a YAML tag (tag:yaml.org,2002:python/"),
        ("a: &x [1]\nb: *x\n", "alias"),
        ("seed: " + "[" * 5000 + "]" * 5000, "nested too deeply"),
        ("seed: [", "not valid YAML"),
        ("\"x = __import__('os').abort()\": 1", "unknown key"),
        ("1: 2\n", "Keys should be strings"),
        ("seed: !!int ''", "Write a plain value"),
        ("seed: !!bool foo", "Write a plain value"),
        ("!!omap [a: 1, a: 2]", "Write a plain value"),
        ("seed: 0x" + "f" * 200_000, "more than 2000 characters"),
        ("%YAML 1.3\n---\nseed: 1", "not valid YAML"),
        ("%YAML 1.1\n---\nqat: {enabled: yes}", "Remove it: files are YAML 1.2"),
        ("%TAG ! tag:example.com,2000:\n---\nseed: 1", "Remove it: files are YAML 1.2"),
        ("seed: [" + "1," * 400_000 + "]", "more than 20000 keys and values"),
        ('dataset: {dir: "a\\0b"}', "dataset.dir"),
        (f"dataset: {{dir: {'a' * 1500}}}", "at most 1000 characters"),
    ],
)
def test_a_wrong_value_is_refused_with_its_rule(tmp_path, text, rule):
    assert rule in refusal(tmp_path, text)


def test_text_that_is_not_utf8_is_refused(tmp_path):
    assert "not UTF-8" in refusal(tmp_path, "seed: 1 # caf\xe9".encode("latin-1"))


def test_a_byte_order_mark_is_harmless(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_bytes(b"\xef\xbb\xbfseed: 5\n")
    assert read_settings(file, root=tmp_path).seed == 5


def test_scientific_notation_without_a_point_is_a_number(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("teacher: {lr_head: 1e-2}")
    assert read_settings(file, root=tmp_path).teacher.lr_head == 0.01


def test_a_missing_file_names_its_neighbour(tmp_path):
    (tmp_path / "demo.yaml").write_text("seed: 1")
    with pytest.raises(SettingsError, match=r'Did you mean ".*demo\.yaml"'):
        read_settings(tmp_path / "demos.yaml")


def test_all_mistakes_are_told_at_once(tmp_path):
    assert len(refusal(tmp_path, "seed: x\nteacher: {dropot: 1}").splitlines()) == 2


def test_an_assignment_wins_over_the_file(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("teacher: {epochs_head: 4, dropout: 0.1}")
    teacher = read_settings(file, ["teacher.epochs_head=2"], root=tmp_path).teacher
    assert (teacher.epochs_head, teacher.dropout) == (2, 0.1)


def test_a_bad_assignment_is_blamed_and_not_the_file(tmp_path):
    message = refusal(tmp_path, "seed: 4", "teacher.epochs_head=two")
    assert message.startswith("--set teacher.epochs_head=two:")


@pytest.mark.parametrize("text", ["epochs", "=3", "a b=3", "teacher.=3", "__import__('os')=1",
                                  "seed=1\nx: 2"])  # fmt: skip
def test_an_assignment_that_is_none_is_refused(text):
    with pytest.raises(SettingsError, match="write it as key=value"):
        read_settings(None, [text])


def test_the_datasets_own_config_wins_over_the_file_and_loses_to_an_assignment(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data/config.yaml").write_text("seed: 2\nnum_classes: 3\n")
    file = tmp_path / "mine.yaml"
    file.write_text("seed: 1\nnum_classes: 9\n")
    settings = read_settings(file, ["num_classes=4"], root=tmp_path)
    assert (settings.seed, settings.num_classes) == (2, 4)


def test_a_dataset_cannot_send_the_workbench_elsewhere(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data/config.yaml").write_text("dataset: {dir: /etc}\n")
    with pytest.raises(SettingsError, match="cannot be set by the dataset itself"):
        read_settings(None, root=tmp_path)


def test_differences_hold_only_what_was_changed_and_read_back():
    settings = read_settings(None, ["teacher.epochs_head=2", "augmentation.mixup.enabled=true"])
    changed = differences(settings)
    assert changed == {"teacher": {"epochs_head": 2}, "augmentation": {"mixup": {"enabled": True}}}
    assert Settings.model_validate(changed) == settings


@pytest.mark.parametrize(
    ("search", "said"),
    [
        ({"grid_max": 0.8, "grid_step": 0.05}, "not used: threshold_search.grid_max, grid_step,"),
        ({"grid_max": 0.8, "method": "grid"}, None),
        ({"objective": "fbeta"}, None),
    ],
)
def test_a_grid_beside_the_exact_method_is_said_not_to_be_used(tmp_path, search, said):
    layer = Layer("notebook", {"threshold_search": search})
    lines = resolve_layers(None, {}, [layer], tmp_path).lines
    assert [line for line in lines if line.startswith("not used")] == (
        [next(line for line in lines if said in line)] if said else []
    )
