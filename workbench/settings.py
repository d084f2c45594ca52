"""Every knob of the workbench: its type, default, bounds and reason on one line.

Values only. `parameters.py` reads them from YAML files; `parameters/default.yaml` is written from
this file by `make parameters` and a test keeps the two equal.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from workbench.errors import SettingsError

# Native input sizes, in pixels: what `input_size: auto` means.
TEACHER_SIZES = {
    "efficientnet_b0": 224,
    "efficientnet_b1": 240,
    "efficientnet_b2": 260,
    "efficientnet_b3": 300,
    "efficientnet_b4": 380,
    "efficientnet_b5": 456,
    "efficientnet_b6": 528,
    "efficientnet_b7": 600,
    "resnet101": 224,
    "resnet152": 224,
    "mobilenet_v2": 224,
    "efficientnet_lite0": 224,
    "efficientnet_lite1": 240,
    "efficientnet_lite2": 260,
    "efficientnet_lite3": 280,
    "efficientnet_lite4": 300,
}
STUDENT_SIZES = {"lite0": 224, "lite1": 240, "lite2": 260, "lite3": 280, "lite4": 300}

TeacherArch = Literal[tuple(TEACHER_SIZES)]
StudentVariant = Literal[tuple(STUDENT_SIZES)]
InputSize = Annotated[int, Field(ge=32, le=1024)] | Literal["auto"]
Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0, le=1e6)]
NotNegative = Annotated[float, Field(ge=0, le=1e6)]
LearningRate = Annotated[float, Field(gt=0, le=10)]
Count = Annotated[int, Field(ge=1, le=10_000_000)]
CountOrNone = Annotated[int, Field(ge=0, le=10_000_000)]
Separator = Annotated[str, Field(pattern=r"^[,;|\t/ ]$")]  # one that people use
Patience = Count | None  # epochs; null waits for ever


@dataclass(frozen=True)
class Product:
    """What a run hands on, and how its answers are written: every step after 05 asks here."""

    network: Literal["student", "teacher"]
    title: str
    model: str  # the file that ships
    scores: str  # its answers on validation
    quantized: bool  # integers on 256 levels, compared with integers; else logits with logits


PHONE_FILE = Product(
    "student", "phone file", "model_qat_int8.tflite", "candidate_scores.npz", True
)
LARGE_NETWORK = Product(
    "teacher", "large network", "model_float16.tflite", "teacher_scores.npz", False
)


class Group(BaseModel):
    """Refuse what is unknown, lax or changed after reading."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


def knob(default: Any, reason: str) -> Any:
    return Field(default=default, description=reason, validate_default=True)


def group(kind: type[Group], reason: str) -> Any:
    return Field(default_factory=kind, description=reason)


class DatasetSettings(Group):
    dir: Annotated[str, Field(max_length=1000, pattern=r"^[^\x00]+$")] = knob("data", "folder with images/ and the label tables, relative to the project; s3://, gs://, https://, file:// are copied first")
    layout: Literal["auto", "csv", "txt", "table", "coco", "roboflow", "imagefolder", "edge_impulse", "fiftyone", "label_studio", "folders"] = knob("auto", "auto looks for *_labels.csv, *.txt, labels.csv, the exports in the order given here, then class folders")
    separator: Separator = knob(",", "between the columns of CSV tables")
    label_separator: Separator = knob("|", "between the labels of a photo")
    unlabeled: str | None = knob(None, "folder with photos that nobody labelled, as seen from dir: the student learns what the teacher says of them; those that a table names are left out")
    exif: Literal["apply", "ignore"] = knob("apply", "phones store photos sideways and say so in EXIF; people see them upright")
    max_pixels: Annotated[int, Field(ge=1, le=178_956_970)] = knob(100_000_000, "checked in the header, before a decompression bomb is decoded")
    on_bad_image: Literal["fail", "quarantine"] = knob("fail", "quarantine goes on without the bad ones and lists every one of them")
    allow_empty_labels: bool = knob(True, "an image with none of the classes teaches the network to say nothing")
    train_frac: Fraction = knob(0.8, "only for layouts that come without splits")
    val_frac: Fraction = knob(0.1, "thresholds and every choice are made on it")
    test_frac: Fraction = knob(0.1, "opened once, by notebook 09")
    folds: Annotated[int, Field(ge=0, le=20)] = knob(0, "k-fold for small datasets: train and val are dealt anew into this many parts; 0 keeps the splits")
    fold: Annotated[int, Field(ge=0, le=19)] = knob(0, "the part that validates; one run a part (see sweep)")
    cache: Literal["none", "memory", "disk"] = knob("none", "keep decoded, letterboxed evaluation images: faster epochs for memory or disk")

    @model_validator(mode="after")
    def separators_differ(self) -> DatasetSettings:
        if self.separator == self.label_separator:
            raise ValueError(f"separator and label_separator are both {self.separator!r}; a table "
                             "needs one between columns and another between labels")  # fmt: skip
        return self

    @model_validator(mode="after")
    def fractions_sum_to_one(self) -> DatasetSettings:
        total = self.train_frac + self.val_frac + self.test_frac
        if not math.isclose(total, 1, abs_tol=1e-6):
            raise ValueError(f"train_frac + val_frac + test_frac is {total:g}; they must sum to 1")
        return self

    @model_validator(mode="after")
    def fold_is_one_of_the_folds(self) -> DatasetSettings:
        if self.folds == 1:
            raise ValueError("folds is 1; at least 2 parts make a k-fold, 0 keeps the splits")
        if self.fold and self.fold >= self.folds:
            raise ValueError(f"fold is {self.fold}, folds {self.folds}; parts are counted from 0")
        return self


class AuditSettings(Group):
    near_duplicate_bits: Annotated[int, Field(ge=0, le=32)] = knob(10, "perceptual hashes this close are checked as near-duplicates")
    min_positives: Count = knob(10, "a class with fewer positives in training or validation is too small to learn, or to tune a threshold on")
    tiny_pixels: Count = knob(32, "a shorter side below this shows too little to recognise anything")
    max_letterbox_waste: Fraction = knob(0.6, "share of the model input that may be black border")
    max_imbalance: Positive = knob(20.0, "most frequent class against the rarest, in one split")
    outlier_deviations: Positive = knob(5.0, "robust deviations from the median before light or sharpness is an outlier")
    gallery_size: Annotated[int, Field(ge=1, le=200)] = knob(24, "how many of the worst images the gallery shows")
    on_errors: Literal["stop", "go_on"] = knob("stop", "whether `run` stops after 01 where the audit found errors: with a leak, say, every later figure is too good")
    label_errors: bool = knob(True, "ask cleanlab for suspected label errors once teacher scores exist")


class RunSettings(Group):
    deterministic: Literal["auto"] | bool = knob("auto", "same parameters, data and machine give the same file; auto: where no GPU is, whose quantisation kernels refuse it")
    threads: Annotated[int, Field(ge=0, le=1024)] = knob(0, "CPU threads; 0 takes every core")
    cell_timeout_minutes: NotNegative = knob(0, "a cell that runs longer fails; 0 means no limit, trainings are long")


class MultiGpuSettings(Group):
    enabled: bool = knob(True, "no effect, and one line saying so, on one device")
    strategy: Literal["mirrored", "multi_worker"] = knob("mirrored", "mirrored: one machine; multi_worker: several, through TF_CONFIG, each with a run folder of its own")


class NetworkSettings(Group):
    """What teacher and student share."""

    weights: str = knob("imagenet", "imagenet | none | path of a weights file (.h5, .weights.h5, .npz), from the project's folder")
    early_stopping_patience: Patience = knob(10, "epochs without a better monitor before finetuning stops; null never stops early")
    reduce_lr_patience: Count = knob(5, "epochs without a better monitor before the learning rate drops")
    reduce_lr_factor: Annotated[float, Field(gt=0, lt=1)] = knob(0.5, "how far it drops")
    weight_decay: NotNegative = knob(1.0e-4, "AdamW, not on biases and batch norm")
    drop_connect: Annotated[float, Field(ge=0, lt=1)] = knob(0.2, "residual branches left out at random, more of them towards the top (EfficientNets); 0 for short runs from random weights")
    hidden_units: Annotated[int, Field(ge=0, le=8192)] = knob(0, "a hidden layer of so many in the head, before the dropout; 0 is none")
    normalization_momentum: Annotated[float, Field(ge=0, lt=1)] | None = knob(None, "null keeps the network's own; short runs from random weights need 0.9")


class TeacherSettings(NetworkSettings):
    arch: TeacherArch = knob("efficientnet_b3", "the largest that trains in reasonable time on one ordinary card")
    input_size: InputSize = knob(300, "pixels a side; auto picks the native size of the architecture")
    batch_size: Count = knob(16, "per device; the manual's totals over 1, 2, 4, 8 GPUs: 16, 32, 64, 128")
    epochs_head: CountOrNone = knob(10, "warmup: backbone frozen, only the head learns")
    epochs_finetune: CountOrNone = knob(30, "finetune: the top of the backbone learns as well")
    lr_head: LearningRate = knob(1.0e-3, "a fresh head stands a large step")
    lr_finetune: LearningRate = knob(1.0e-4, "pretrained layers do not")
    dropout: Annotated[float, Field(ge=0, lt=1)] = knob(0.4, "before the head")
    unfreeze_fraction: Fraction = knob(0.3, "share of the backbone's layers, from the top, that finetuning trains")
    members: Annotated[list[str], Field(max_length=20)] = knob([], "finished runs whose mean probability is the teacher, in place of training one: run folders, whose teachers count, or the student_finetuned.h5 in one")


class StudentSettings(NetworkSettings):
    variant: StudentVariant = knob("lite1", "lite0 is faster, lite4 is better; all of them quantise")
    input_size: InputSize = knob(240, "pixels a side; auto picks the native size of the variant")
    batch_size: Count = knob(16, "per device; the manual's totals over 1, 2, 4, 8 GPUs: 32, 64, 128, 256")
    epochs_head: CountOrNone = knob(10, "warmup: backbone frozen, only the head learns")
    epochs_finetune: CountOrNone = knob(40, "finetune: the top of the backbone learns as well")
    lr_head: LearningRate = knob(1.0e-3, "a fresh head stands a large step")
    lr_finetune: LearningRate = knob(1.0e-4, "pretrained layers do not")
    dropout: Annotated[float, Field(ge=0, lt=1)] = knob(0.3, "before the head")
    unfreeze_fraction: Fraction = knob(1.0, "the student is small: all of it follows the teacher")


class LossSettings(Group):
    name: Literal["bce", "focal", "asymmetric"] = knob("bce", "multi-label loss from logits; single_label always uses softmax cross-entropy")
    class_weights: Literal["none", "inverse", "effective"] = knob("none", "weigh rare labels up; multilabel: a class's yes against its no; mean 1 over the training labels, absent class 0")
    label_smoothing: Annotated[float, Field(ge=0, lt=0.5)] = knob(0.0, "0.05 helps when labels are noisy")
    focal_gamma: NotNegative = knob(2.0, "0 makes focal equal to bce")
    asymmetric_gamma_positive: NotNegative = knob(0.0, "keep every positive at full weight")
    asymmetric_gamma_negative: NotNegative = knob(4.0, "easy negatives fade")
    asymmetric_clip: Annotated[float, Field(ge=0, lt=1)] = knob(0.05, "negatives below this probability count nothing")


class ScheduleSettings(Group):
    name: Literal["reduce_on_plateau", "cosine"] = knob("reduce_on_plateau", "cosine: linear warmup, then cosine decay to min_lr")
    warmup_fraction: Fraction = knob(0.1, "share of the steps that climb to the full rate (cosine)")
    min_lr: NotNegative = knob(1.0e-6, "neither schedule goes below")


class TrainingSettings(Group):
    monitor: Literal["f1_macro", "map", "accuracy", "loss"] = knob("f1_macro", "the validation figure that picks the best epoch; accuracy: share of photos that are all right, with several labels every known one of them")
    sampling: Literal["all", "balanced"] = knob("all", "all: an epoch is every training photo once; balanced: as many draws, a class as often as any other and a rare photo several times, each time another view")
    head_early_stopping_patience: Patience = knob(5, "warmup stops after this many epochs without a better monitor; null never stops early")
    head_views: Annotated[int, Field(ge=0, le=1000)] = knob(0, "warmup sees this many augmented views of a photo in turn, whose features are computed once and kept; 0 draws new ones each epoch")
    clip_norm: NotNegative = knob(1.0, "global gradient norm; 0 turns clipping off")
    beta_2: Annotated[float, Field(ge=0.5, lt=1)] = knob(0.999, "AdamW's memory of gradient sizes; short runs learn faster with 0.99")
    ema_decay: Annotated[float, Field(ge=0, lt=1)] = knob(0.0, "exponential moving average of the weights, 0.999 is usual; 0 is off")
    checkpoint_every_epochs: Count = knob(1, "a killed run loses at most this many epochs")
    keep_every_epochs: CountOrNone = knob(0, "also keep the weights of every Nth epoch for good; 0 keeps none")
    tensorboard: bool = knob(True, "loss, metrics and learning rate under logs/tensorboard")
    tensorboard_images: Annotated[int, Field(ge=0, le=64)] = knob(8, "example images with labels and scores per epoch")
    tensorboard_histograms: bool = knob(False, "weight histograms: large files")


class DistillationSettings(Group):
    enabled: bool = knob(True, "off trains the student on the labels alone")
    alpha: Fraction = knob(0.7, "weight of the labels; 1 - alpha goes to the teacher")
    temperature: Annotated[float, Field(gt=0, le=100)] = knob(2.0, "softens both sides; the soft part is scaled by its square")
    gate: bool = knob(False, "do not distill a class whose teacher is worse on validation than the student's start")
    gate_min_positives: CountOrNone = knob(5, "nor one with fewer training positives than this")
    keep_answers: bool = knob(False, "keep the teacher's answers to every augmented view (float16, outputs/.answers) for later runs with this teacher, seed and augmentation; one run alone gains nothing")
    unlabeled_share: Annotated[float, Field(ge=0, lt=1)] = knob(0.5, "of a batch that photos without labels fill, where there are any: the teacher's answer is all that is learned from them; 0 leaves them out")
    rounds: Annotated[int, Field(ge=1, le=10)] = knob(1, "above 1 the student becomes the teacher of a fresh student, so often")
    control: bool = knob(False, "train the student once more on the labels alone, with as many steps, and compare the two on validation")


class QatSettings(Group):
    enabled: bool = knob(True, "off starts the ladder at post-training quantisation")
    epochs: Count = knob(10, "a few are enough: the student has learned already")
    lr: LearningRate = knob(1.0e-5, "larger undoes what the student learned")
    batch_size: Count | None = knob(None, "null takes the student's")
    early_stopping_patience: Patience = knob(5, "epochs without a better monitor; null never stops early")
    distill: bool = knob(True, "the teacher goes on helping through the fake quantisation")
    skip_layers: list[str] = knob(
        [], "layers that QAT trains in float, quantised afterwards (see the chart in 05)"
    )


class LadderSettings(Group):
    """The rungs of quantisation, tried in this order until one holds."""

    max_drop: Fraction = knob(0.02, "F1 macro on validation that 8 bits may cost, at one half, against the float student: more and the next rung is tried")
    worst_layers: Count = knob(3, "how many layers the second rung leaves out of QAT")
    force_rung: Literal["qat", "qat_skip_worst", "ptq", "ptq_float_head", "float16"] | None = knob(None, "ship this rung whatever the others score; null lets validation choose")


class ColorJitter(Group):
    brightness: Fraction = knob(0.15, "up to this much lighter or darker")
    contrast: Fraction = knob(0.15, "around the mean of the image")
    saturation: Fraction = knob(0.15, "towards and away from grey")
    hue: Annotated[float, Field(ge=0, le=0.5)] = knob(0.0, "in turns of the colour wheel; small, colours often carry the label")


class Cutout(Group):
    num_patches: CountOrNone = knob(2, "grey squares an image; 0 is off")
    patch_size_ratio: Fraction = knob(0.10, "side of a square as a share of the shorter side")


class Mixup(Group):
    enabled: bool = knob(False, "blends pairs of images and their labels")
    alpha: Positive = knob(0.2, "of the Beta distribution the blend is drawn from")


class AugmentationSettings(Group):
    random_flip_horizontal: bool = knob(True, "turn off where left and right mean something")
    random_flip_vertical: bool = knob(False, "for photos without an up")
    random_rotation_factor: Fraction = knob(0.03, "of a full turn, either way")
    random_zoom_factor: Annotated[float, Field(ge=0, lt=1)] = knob(0.10, "in and out")
    random_crop_scale: Annotated[float, Field(gt=0, le=1)] = knob(1.0, "smallest share of the area that a random resized crop keeps; 1 is off")
    random_shift_factor: Annotated[float, Field(ge=0, lt=1)] = knob(0.0, "of width and height")
    perspective: Annotated[float, Field(ge=0, lt=0.5)] = knob(0.0, "how far corners move, as a share of the side")
    color_jitter: ColorJitter = group(ColorJitter, "light and colour")
    gaussian_noise_stddev: Fraction = knob(0.02, "of the full range")
    blur_probability: Fraction = knob(0.0, "a 3 x 3 or 5 x 5 Gaussian")
    sharpen_probability: Fraction = knob(0.0, "unsharp mask")
    clahe_probability: Fraction = knob(0.0, "local contrast equalisation")
    cutout: Cutout = group(Cutout, "hide patches so that no single detail decides")
    mixup: Mixup = group(Mixup, "soft labels from pairs")


class ThresholdSearchSettings(Group):
    grid_min: Fraction = knob(0.05, "lowest threshold of the grid")
    grid_max: Fraction = knob(0.95, "highest")
    grid_step: Annotated[float, Field(gt=0, le=1)] = knob(0.01, "between two candidates")
    method: Literal["exact", "grid"] = knob("exact", "exact: every one of the 256 INT8 levels; grid: the three values above")
    objective: Literal["f1_macro", "fbeta", "precision_floor", "recall_floor", "cost", "prevalence"] = knob("f1_macro", "what a good threshold is")
    beta: Positive = knob(1.0, "of F-beta: 2 favours recall, 0.5 precision")
    floor: Fraction = knob(0.9, "precision or recall to keep, for the floor objectives")
    cost_false_positive: NotNegative = knob(1.0, "for cost: what a wrong yes costs")
    cost_false_negative: NotNegative = knob(1.0, "for cost: what a wrong no costs")
    per_class_enabled: bool = knob(True, "one threshold a class where that is a real gain")
    per_class_improvement_threshold: Fraction = knob(0.005, "smaller gains keep the global threshold")
    smoothing_positives: NotNegative = knob(10.0, "pull of the global threshold on rare classes, in positives; 0 is off")
    bootstrap_replicates: Count = knob(1000, "for the interval of each threshold and of its gain")

    @model_validator(mode="after")
    def grid_is_not_empty(self) -> ThresholdSearchSettings:
        if self.grid_min > self.grid_max:
            raise ValueError(f"grid_min {self.grid_min:g} is above grid_max {self.grid_max:g}")
        return self


class SingleLabelSettings(Group):
    threshold_target_accept_accuracy: Fraction = knob(0.95, "accuracy wanted among the answers that are not unknown")
    threshold_min_coverage: Fraction = knob(0.60, "share of images that must get an answer")
    threshold_penalty_incorrect: NotNegative = knob(3.0, "what a wrong answer costs against an unknown")


class CalibrationSettings(Group):
    method: Literal["none", "temperature", "platt"] = knob("temperature", "of the percentages an app may show; decisions never change. platt: also an offset a class")
    bootstrap_replicates: Annotated[int, Field(ge=0, le=100_000)] = knob(200, "for the intervals of the calibration errors; 0 leaves them out")


class TfliteExportSettings(Group):
    input_type: Literal["uint8", "int8"] = knob("uint8", "uint8 takes the bytes of the image as they are")
    output_type: Literal["int8"] = knob("int8", "logits in 256 levels")
    representative_dataset_size: Count = knob(200, "training images that calibrate the ranges, every class among them")
    sigmoid_in_model: bool = knob(False, "logits are simpler; the app applies the activation")
    fold_thresholds: bool = knob(False, "bake the thresholds into the last layer: every class fires at logit 0")
    golden_images: Count = knob(6, "validation images that the bundle carries from pixels to decisions")
    extra_formats: list[Literal["float16", "dynamic_range", "onnx", "torchscript"]] = knob([], "more files of the student beside the INT8 one")


class ParitySettings(Group):
    """How far two runtimes of the same weights may differ, at the thresholds that ship.

    What quantisation itself costs has its own budget, `ladder.max_drop`.
    """

    images: Count = knob(200, "validation images computed on every rung; the plain kernels are slow")
    max_f1_drop: Fraction = knob(0.02, "between one runtime and the next; more and the next rung of 05 is taken")
    max_flip_fraction: Fraction = knob(0.03, "decisions that change between one runtime and the next")
    max_runtime_flips: CountOrNone = knob(0, "between LiteRT and the phone's code around it: they compute the same integers")


class EvaluationSettings(Group):
    pool: Literal["none", "mean_logits"] = knob("none", "06, 08, 09: one answer a group of the label tables, from the mean of its photos' logits: clips, bursts; the order in time is not learned")
    bootstrap_replicates: Count = knob(1000, "for the 95 % intervals")
    gallery_size: Annotated[int, Field(ge=0, le=200)] = knob(12, "worst false positives and negatives shown")
    gallery_per_class: Count = knob(3, "of these, at most so many of one class")
    gradcam: bool = knob(True, "show where the network looked")
    latency_repeats: Count = knob(30, "timed runs of the phone file on this machine")
    spot_checks: Count = knob(8, "test images whose pixels are kept, for verify to run the file on")


class VerdictSettings(Group):
    """When a result may be handed on: *not ready* is what nobody should ship, *with care* what whoever ships it has to know."""

    min_test_images: Count = knob(30, "not ready below: where none of 30 photos went wrong, one in ten still may")
    max_interval_width: Fraction = knob(0.2, "of the F1 macro; with care above: between .7 and .9 lies every decision")
    min_gain: Fraction = knob(0.05, "F1 macro, or accuracy of a single label, above the best answers that ignore the photo; not ready where less was gained or the interval holds 0, with care where it holds less than this")
    min_f1: Fraction = knob(0.5, "F1 macro; not ready below: at one half there are two mistakes for every right yes")
    min_class_f1: Fraction = knob(0.5, "of the weakest class; with care below, for the same reason")
    min_class_images: Count = knob(10, "test photos of a class; with care below: one photo moves its recall by more than a tenth")
    max_constant_share: Fraction = knob(0.5, "of the classes whose answer never depends on the photo; not ready from here on, with care where there is one")
    max_leaked_share: Fraction = knob(0.01, "of the test photos that another split holds as well; not ready above: every figure may be off by as much; with care where there is any leak")
    max_behind_teacher: Fraction = knob(0.05, "F1 macro on validation that the student surely lacks beside its teacher; with care above: the large network shows that more can be had")
    max_megabytes: Positive = knob(25.0, "of the file that ships; with care above: people notice what an app adds to their phone")
    max_milliseconds: Positive = knob(100.0, "median an image on one thread of this machine; with care above: people see the wait, and most phones are slower")
    max_test_openings: Count = knob(3, "of the test split by one run; with care above: who looks more often has begun to choose on it")


class Settings(Group):
    seed: Annotated[int, Field(ge=0, le=2**31 - 1)] = knob(1337, "of Python, NumPy and TensorFlow")
    task: Literal["multilabel", "single_label"] = knob("multilabel", "several classes at once, or exactly one and an unknown")
    num_classes: Annotated[int, Field(ge=1, le=10_000)] | Literal["auto"] = knob(7, "checked against the labels; or auto")
    precision: Literal["auto", "float32", "mixed_float16", "mixed_bfloat16"] = knob("auto", "auto: mixed_float16 on a GPU that has it, float32 elsewhere")
    dataset: DatasetSettings = group(DatasetSettings, "where the photos are and how they are read")
    audit: AuditSettings = group(AuditSettings, "01: what counts as a finding")
    run: RunSettings = group(RunSettings, "how the machine is used")
    multi_gpu: MultiGpuSettings = group(MultiGpuSettings, "several devices")
    teacher: TeacherSettings = group(TeacherSettings, "03: the large network")
    student: StudentSettings | None = group(StudentSettings, "04: the network for the phone; null: the teacher is the product, 04 and 05 are skipped")
    loss: LossSettings = group(LossSettings, "03, 04, 05: what training minimises")
    schedule: ScheduleSettings = group(ScheduleSettings, "03, 04: the learning rate over time")
    training: TrainingSettings = group(TrainingSettings, "03, 04, 05: the loop")
    distillation: DistillationSettings = group(DistillationSettings, "04: how much the student listens to the teacher")
    qat: QatSettings = group(QatSettings, "05: quantization-aware training")
    ladder: LadderSettings = group(LadderSettings, "05: which quantisation ships")
    augmentation: AugmentationSettings = group(AugmentationSettings, "02: training images only, a function of (seed, epoch, image)")
    threshold_search: ThresholdSearchSettings = group(ThresholdSearchSettings, "06: when to say yes")
    single_label: SingleLabelSettings = group(SingleLabelSettings, "06: when to say unknown")
    calibration: CalibrationSettings = group(CalibrationSettings, "06: does 80 % mean 80 %")
    tflite_export: TfliteExportSettings = group(TfliteExportSettings, "05, 07: the phone file")
    parity: ParitySettings = group(ParitySettings, "07: budgets")
    evaluation: EvaluationSettings = group(EvaluationSettings, "09: the final figures")
    verdict: VerdictSettings = group(VerdictSettings, "09: when the result is ready to hand on")

    @model_validator(mode="after")
    def logits_can_be_pooled(self) -> Settings:
        export, pool = self.tflite_export, self.evaluation.pool
        for name in ("sigmoid_in_model", "fold_thresholds"):
            if pool != "none" and getattr(export, name):
                raise ValueError(
                    f"evaluation.pool is {pool} and tflite_export.{name} true; a mean of logits "
                    f"needs the logits as they were tuned: set tflite_export.{name}: false"
                )
        return self

    @model_validator(mode="after")
    def integers_need_a_phone_file(self) -> Settings:
        if self.student is None and self.evaluation.pool != "none":
            raise ValueError("evaluation.pool pools integers of a phone file, and student is null")
        for name in ("fold_thresholds", "sigmoid_in_model"):
            if self.student is None and getattr(self.tflite_export, name):
                raise ValueError(
                    f"student is null, so what ships gives float logits; tflite_export.{name} "
                    "changes the integers of a phone file. Set it to false"
                )
        return self

    @property
    def teacher_is_lite(self) -> bool:
        """Does the teacher want its pixels scaled, as a student does? All others do so inside."""
        return self.teacher.arch.startswith("efficientnet_lite") and not self.teacher.members

    @property
    def teacher_size(self) -> int:
        size = self.teacher.input_size
        return TEACHER_SIZES[self.teacher.arch] if size == "auto" else size

    @property
    def student_size(self) -> int:
        if self.student is None:
            raise SettingsError(
                "this run has no student, its teacher is the product (student: null). Set "
                "student: {} in the parameter file to have one"
            )
        size = self.student.input_size
        return STUDENT_SIZES[self.student.variant] if size == "auto" else size

    @property
    def product(self) -> Product:
        return PHONE_FILE if self.student else LARGE_NETWORK

    @property
    def input_sizes(self) -> dict[str, int]:
        """Pixels a side of each network of the run; what ships comes last."""
        student = {"student": self.student_size} if self.student else {}
        return {"teacher": self.teacher_size, **student}

    @property
    def product_scaling(self) -> tuple[int, int]:
        """What is taken from a byte, and what the rest is divided by, before the network sees it.

        Teachers that are no Lite carry their own preprocessing inside.
        """
        inside = not (self.student or self.teacher_is_lite)
        return (0, 1) if inside else (127, 128)

    @property
    def product_size(self) -> int:
        return self.input_sizes[self.product.network]


# A sweep: many runs from one base. Its file is read by sweep/spec.py; no run holds these.


class KnobRange(Group):
    """What a search may set one knob to: `low` to `high`, or one of `choices`."""

    low: float | int | None = knob(None, "smallest value")
    high: float | int | None = knob(None, "largest value")
    step: float | int | None = knob(None, "between two values; null leaves none out")
    log: bool = knob(False, "draw the logarithm evenly: for rates that span powers of ten")
    choices: list[bool | int | float | str] | None = knob(None, "in place of low and high")

    @model_validator(mode="after")
    def is_a_range_or_a_choice(self) -> KnobRange:
        if (self.choices is None) == (self.low is None or self.high is None):
            raise ValueError("it needs low and high, or choices: [a, b], and not both")
        if self.choices is not None:
            if not self.choices:
                raise ValueError("choices is empty; name at least one value")
            return self
        if self.low > self.high:
            raise ValueError(f"low {self.low} is above high {self.high}")
        if self.log and (self.low <= 0 or self.step is not None):
            raise ValueError("log needs low above 0 and no step")
        return self

    @property
    def whole(self) -> bool:
        return all(isinstance(one, int | None) for one in (self.low, self.high, self.step))


class SearchSettings(Group):
    """Knobs that Optuna draws."""

    trials: Count = knob(20, "finished or pruned in all, over every time the command is given")
    sampler: Literal["tpe", "random", "grid"] = knob("tpe", "tpe learns from finished trials; grid tries every choice and step once")
    pruner: Literal["median", "halving", "none"] = knob("median", "median: stop what is worse than the median of the others at that epoch; halving: only the best half goes on at each doubling of epochs")
    pruner_trials: CountOrNone = knob(5, "finished trials before the median stops any")
    pruner_epochs: CountOrNone = knob(2, "epochs that every trial gets")
    seed: Annotated[int, Field(ge=0, le=2**31 - 1)] = knob(1337, "of the sampler")
    space: Annotated[dict[str, KnobRange], Field(min_length=1)] = Field(description="dotted knobs and what each may be")

    @model_validator(mode="after")
    def grid_is_finite(self) -> SearchSettings:
        endless = [name for name, one in self.space.items()
                   if one.choices is None and one.step is None and not (one.whole and not one.log)]
        if self.sampler == "grid" and endless:
            raise ValueError(f"sampler grid needs a step or choices for {', '.join(endless)}")
        return self


class RankSettings(Group):
    figure: Literal["f1_macro", "map", "loss"] = knob("f1_macro", "on validation; the test split never ranks")
    of: Literal["auto", "teacher", "student", "phone"] = knob("auto", "auto: the last network that the steps make")

    @model_validator(mode="after")
    def phone_has_no_loss(self) -> RankSettings:
        if self.of == "phone" and self.figure == "loss":
            raise ValueError("the phone file has no loss; rank by f1_macro or map")
        return self


class SweepSettings(Group):
    """A sweep file: what its runs share, how they differ, which is best, how they are computed."""

    base: str = Field(description="the parameter file that every run starts from; relative to the project")
    grid: dict[str, Annotated[list, Field(min_length=1)]] = knob({}, "every combination of these values of dotted knobs")
    listed: list[dict] = Field(default=[], alias="list", description="sets of knobs, a run each; with a grid, each of them over the whole grid")
    seeds: list[Annotated[int, Field(ge=0, le=2**31 - 1)]] = knob([], "every run once with each of these seeds")
    folds: Annotated[int, Field(ge=0, le=20)] = knob(0, "every run once with each fold of a k-fold")
    search: SearchSettings | None = knob(None, "in place of grid, list, seeds and folds: knobs that Optuna draws")
    rank: RankSettings = group(RankSettings, "what is best")
    to: str = knob("04", "the last step of every run; 03 makes teachers only, 09 opens the test split in every run")
    workers: Count | Literal["auto"] = knob("auto", "runs at a time on this machine; auto: one a GPU, else one for two cores and 4 GiB")
    threads: CountOrNone = knob(0, "CPU threads of a run; 0 shares the cores among the workers")
    memory_gib: NotNegative = knob(0, "a run that takes more is ended, with the reason; 0 shares the memory among the workers")
    retries: CountOrNone = knob(2, "how often a run that was killed is started again; it goes on from its checkpoints")

    @model_validator(mode="after")
    def search_stands_alone(self) -> SweepSettings:
        others = [name for name in ("grid", "list", "seeds", "folds") if getattr(self, {"list": "listed"}.get(name, name))]
        if self.search and others:
            raise ValueError(f"search draws one run a trial: leave out {', '.join(others)}, or make them choices of its space")
        return self
