"""The phases of a training as values, and the named parts of what each depends on.

First the head learns on a frozen backbone (warmup), then the top of the backbone joins in
(finetune); quantization-aware training is a third. Loads no TensorFlow: the chain asks here whether
a training still stands, with the very parts that its checkpoints are kept under.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Any, Literal

from workbench import files
from workbench.fingerprint import code_digest
from workbench.settings import Settings

Role = Literal["teacher", "student"]
# What a training computes with. The loss, the network and the images count by value as well.
CODE = (
    "data.decode",
    "data.letterbox",
    "data.pipeline",
    "data.views",
    "decide.outcomes",
    "nets",
    "train.kept",
    "train.loop",
    "train.losses",
    "train.schedule",
    "train.step",
)
SHARED = ("seed", "task", "precision", "multi_gpu", "run.deterministic", "dataset.exif")
SHARED += ("augmentation", "loss")
TRAINING = ("monitor", "sampling", "clip_norm", "beta_2", "ema_decay")
SHARED += tuple(f"training.{name}" for name in TRAINING)
BUILD = ("arch", "variant", "input_size", "hidden_units", "dropout", "drop_connect")
BUILD += ("normalization_momentum",)


@dataclass(frozen=True)
class Phase:
    """How one phase trains; `dataclasses.replace(phase, epochs=2)` makes another."""

    name: str
    epochs: int
    learning_rate: float
    weight_decay: float
    early_stopping_patience: int | None
    reduce_lr_patience: int
    reduce_lr_factor: float
    first_epoch: int = 0  # where its augmentation epochs start to count
    fraction: float | None = None  # of the backbone that learns; None leaves layers as they are

    @property
    def role(self) -> str:
        return self.name.split("_")[0]

    @property
    def quantized(self) -> bool:
        return "_qat" in self.name

    @property
    def untaught(self) -> bool:
        """Does it learn from labels alone, whatever distillation says?"""
        return "_control" in self.name

    def adapted(self, settings: Settings) -> Settings:
        """Return the settings it trains under.

        Fake quantisation stands one device and float32 only, and an average of ranges is no range.
        """
        if not self.quantized:
            return settings
        training = settings.training.model_copy(update={"ema_decay": 0.0})
        multi_gpu = settings.multi_gpu.model_copy(update={"enabled": False})
        changed = {"training": training, "multi_gpu": multi_gpu, "precision": "float32"}
        return settings.model_copy(update=changed)


def phases(settings: Settings, role: Role, name: str = "") -> tuple[Phase, Phase]:
    """Return warmup and finetune of a teacher or a student; `name` may say more than the role.

    A teacher that is made of finished runs has no epochs: it is written as it is.
    """
    own, head_patience = getattr(settings, role), settings.training.head_early_stopping_patience
    same = {one: getattr(own, one) for one in ("reduce_lr_patience", "reduce_lr_factor")}
    warmup = Phase(
        f"{name or role}_warmup", own.epochs_head, own.lr_head, own.weight_decay, head_patience,
        **same, fraction=0.0,
    )  # fmt: skip
    finetune = Phase(
        f"{name or role}_finetuned", own.epochs_finetune, own.lr_finetune, own.weight_decay,
        own.early_stopping_patience, **same,
        first_epoch=own.epochs_head, fraction=own.unfreeze_fraction,
    )  # fmt: skip
    if role == "teacher" and own.members:
        return replace(warmup, epochs=0), replace(finetune, epochs=0)
    return warmup, finetune


def earlier_rounds(settings: Settings) -> list[tuple[Phase, Phase]]:
    """List the trainings of the students that only teach the next one (`distillation.rounds`)."""
    distillation = settings.distillation
    count = distillation.rounds if distillation.enabled else 1
    return [phases(settings, "student", f"student_round{one}") for one in range(1, count)]


def control_phases(settings: Settings) -> tuple[Phase, Phase]:
    """Return the training of the student that has labels alone (`distillation.control`)."""
    return phases(settings, "student", "student_control")


def all_phases(settings: Settings, role: Role) -> list[Phase]:
    """List every training of the notebook of a role."""
    if role == "teacher" and settings.teacher.members:
        return []
    distillation = settings.distillation
    controlled = role == "student" and distillation.enabled and distillation.control
    before = earlier_rounds(settings) if role == "student" else []
    groups = [*before, phases(settings, role), *([control_phases(settings)] if controlled else [])]
    return [phase for group in groups for phase in group]


def qat_phase(settings: Settings, name: str = "student_qat") -> Phase:
    """Return the phase of quantization-aware training; `name` may say more after student_qat."""
    student, qat = settings.student, settings.qat
    return Phase(
        name, qat.epochs, qat.lr, student.weight_decay, qat.early_stopping_patience,
        student.reduce_lr_patience, student.reduce_lr_factor,
        first_epoch=student.epochs_head + student.epochs_finetune,
    )  # fmt: skip


def phase_parts(phase: Phase, settings: Settings) -> dict[str, str]:
    """Name what the phase depends on, as far as it is known before anything is built.

    Epochs are no part of it where the learning rate does not depend on them: more go on then.
    """
    settings, role, knobs = phase.adapted(settings), phase.role, _knobs(phase)
    schedule = settings.schedule
    values = {name: _look_up(settings, name) for name in SHARED}
    values |= {knob: getattr(phase, field) for field, knob in knobs.items() if field != "epochs"}
    values[f"{role}.weight_decay"] = phase.weight_decay
    if phase.fraction == 0:
        values["training.head_views"] = settings.training.head_views
    if phase.first_epoch:
        values["epochs before this phase"] = phase.first_epoch
    values |= {"schedule.name": schedule.name, "schedule.min_lr": schedule.min_lr}
    if schedule.name == "cosine":  # its rate depends on how many epochs there will be
        values["schedule.warmup_fraction"] = schedule.warmup_fraction
        values[knobs["epochs"]] = phase.epochs
    else:
        values[f"{role}.reduce_lr_patience"] = phase.reduce_lr_patience
        values[f"{role}.reduce_lr_factor"] = phase.reduce_lr_factor
    if role in ("teacher", "student"):
        values |= _role_knobs(phase, settings)
    parts = {name: json.dumps(value, sort_keys=True) for name, value in values.items()}
    return {"code": code_digest(*CODE)} | {f"setting {name}": text for name, text in parts.items()}


def epochs_knob(phase: Phase) -> str:
    """Name the setting that holds the number of epochs."""
    return f"setting {_knobs(phase)['epochs']}"


def _knobs(phase: Phase) -> dict[str, str]:
    """Name the settings that the fields of the phase come from."""
    if phase.quantized:
        names = ("qat.epochs", "qat.lr", "qat.early_stopping_patience")
    elif phase.name.endswith("_warmup"):
        names = (f"{phase.role}.epochs_head", f"{phase.role}.lr_head",
                 "training.head_early_stopping_patience")  # fmt: skip
    else:
        fields = ("epochs_finetune", "lr_finetune", "early_stopping_patience", "unfreeze_fraction")
        names = tuple(f"{phase.role}.{name}" for name in fields)
    fields = ("epochs", "learning_rate", "early_stopping_patience", "fraction")
    return dict(zip(fields, names, strict=False))


def _role_knobs(phase: Phase, settings: Settings) -> dict[str, Any]:
    """List what shapes the network and its batches; a weights file counts by its content."""
    own = getattr(settings, phase.role)
    values = {f"{phase.role}.{name}": getattr(own, name) for name in BUILD if hasattr(own, name)}
    start = files.find_upwards(own.weights)
    values[f"{phase.role}.weights"] = files.sha256(start) if start.is_file() else own.weights
    batch = settings.qat.batch_size if phase.quantized else None
    values["qat.batch_size" if batch else f"{phase.role}.batch_size"] = batch or own.batch_size
    if phase.role == "student":
        distillation = settings.distillation
        used = distillation.enabled and (settings.qat.distill or not phase.quantized)
        kept = distillation.model_dump(exclude={"rounds", "control"})  # trainings of their own
        values["distillation"] = kept if used and not phase.untaught else False
    if phase.quantized:
        values["qat.skip_layers"] = settings.qat.skip_layers
    return values


def _look_up(settings: Settings, name: str) -> Any:
    value: Any = settings
    for key in name.split("."):
        value = getattr(value, key)
    return value.model_dump() if hasattr(value, "model_dump") else value
