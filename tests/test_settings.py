"""The knobs: the manual's keys and defaults, and a default file equal to the code."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from workbench.parameters import default_yaml, read_yaml
from workbench.settings import STUDENT_SIZES, TEACHER_SIZES, Settings

ROOT = Path(__file__).parent.parent

# Spelled out once more on purpose: a renamed knob breaks somebody's script.
MANUAL = {
    "seed": 1337,
    "num_classes": 7,
    "multi_gpu": {"enabled": True, "strategy": "mirrored"},
    "teacher": {
        "arch": "efficientnet_b3", "input_size": 300, "batch_size": 16, "epochs_head": 10,
        "epochs_finetune": 30, "lr_head": 1.0e-3, "lr_finetune": 1.0e-4, "dropout": 0.4,
        "weight_decay": 1.0e-4, "early_stopping_patience": 10, "reduce_lr_patience": 5,
        "reduce_lr_factor": 0.5,
    },
    "student": {
        "variant": "lite1", "input_size": 240, "batch_size": 16, "epochs_head": 10,
        "epochs_finetune": 40, "lr_head": 1.0e-3, "lr_finetune": 1.0e-4, "dropout": 0.3,
        "weight_decay": 1.0e-4, "early_stopping_patience": 10, "reduce_lr_patience": 5,
        "reduce_lr_factor": 0.5,
    },
    "distillation": {"alpha": 0.7, "temperature": 2.0},
    "qat": {"epochs": 10, "lr": 1.0e-5, "early_stopping_patience": 5},
    "augmentation": {
        "random_flip_horizontal": True, "random_rotation_factor": 0.03,
        "random_zoom_factor": 0.10,
        "color_jitter": {"brightness": 0.15, "contrast": 0.15, "saturation": 0.15},
        "gaussian_noise_stddev": 0.02, "cutout": {"num_patches": 2, "patch_size_ratio": 0.10},
        "mixup": {"enabled": False, "alpha": 0.2},
    },
    "threshold_search": {
        "grid_min": 0.05, "grid_max": 0.95, "grid_step": 0.01, "objective": "f1_macro",
        "per_class_enabled": True, "per_class_improvement_threshold": 0.005,
    },
    "tflite_export": {
        "input_type": "uint8", "output_type": "int8", "representative_dataset_size": 200,
    },
}  # fmt: skip


def missing_or_different(promised: dict, found: dict, prefix: str = "") -> list[str]:
    wrong = []
    for key, value in promised.items():
        if isinstance(value, dict):
            wrong += missing_or_different(value, found[key], f"{prefix}{key}.")
        elif found.get(key) != value or type(found[key]) is not type(value):
            wrong.append(f"{prefix}{key}")
    return wrong


def test_the_manuals_keys_and_defaults_are_kept_to_the_letter():
    assert missing_or_different(MANUAL, Settings().model_dump()) == []


def test_the_default_file_is_what_the_code_says():
    written = (ROOT / "parameters/default.yaml").read_text(encoding="utf-8")
    assert written == default_yaml(), "run: make parameters"


def test_the_default_file_reads_back_as_the_defaults():
    values = read_yaml(ROOT / "parameters/default.yaml")
    assert Settings.model_validate(values) == Settings()


def test_every_line_of_the_default_file_gives_a_reason():
    lines = (ROOT / "parameters/default.yaml").read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if line and "#" not in line] == []


def test_settings_cannot_be_changed_after_reading():
    with pytest.raises(ValidationError, match="frozen"):
        Settings().seed = 1


@pytest.mark.parametrize(("arch", "pixels"), TEACHER_SIZES.items())
def test_auto_picks_the_native_size_of_a_teacher(arch, pixels):
    settings = Settings.model_validate({"teacher": {"arch": arch, "input_size": "auto"}})
    assert settings.teacher_size == pixels


@pytest.mark.parametrize(("variant", "pixels"), STUDENT_SIZES.items())
def test_auto_picks_the_native_size_of_a_student(variant, pixels):
    settings = Settings.model_validate({"student": {"variant": variant, "input_size": "auto"}})
    assert settings.student_size == pixels
