"""The nine steps as a table: what each reads, writes and depends on. No step runs here.

The batch door decides from this table what is up to date; notebooks print it.
"""

from __future__ import annotations

from dataclasses import dataclass

from workbench.errors import SettingsError


@dataclass(frozen=True)
class Step:
    number: str
    name: str
    question: str
    knobs: tuple[str, ...]  # settings groups or keys whose change makes the step run again
    reads: tuple[str, ...]  # files of the run folder
    writes: tuple[str, ...]  # files and folders of the run folder, all of them mandatory
    code: tuple[str, ...]  # modules and rooms of the workbench whose change counts
    reads_if: tuple[tuple[str, str], ...] = ()  # (knob, file): read only where the knob is on

    @property
    def notebook(self) -> str:
        return f"{self.number}_{self.name}.ipynb"

    @property
    def title(self) -> str:
        return f"{self.number} {self.name}"


DATA_CODE = ("data", "steps/data.py")
# What a step computes with; of decide, what scores a network and not what tunes its thresholds.
SCORING = tuple(
    f"decide/{name}.py" for name in ("calibration", "intervals", "levels", "metrics", "outcomes")
)
TRAIN_CODE = (*DATA_CODE, "nets", "train", *SCORING, "steps/learning.py")
LADDER_CODE = tuple(f"deploy/{name}.py" for name in (
    "convert", "fallbacks", "layers", "qat", "quantize", "tflite"))  # fmt: skip
DATA_KNOBS = ("seed", "task", "num_classes", "dataset")
TRAINING_KNOBS = ("seed", "task", "precision", "run.deterministic", "multi_gpu", "loss",
                  "schedule", "training", "augmentation")  # fmt: skip
DATA_FILES = ("dataset_manifest.json", "labels.txt")

STEPS: tuple[Step, ...] = (
    Step(
        "01", "dataset_audit", "Is this dataset fit to train on?",
        knobs=(*DATA_KNOBS, "audit"),
        reads=(),
        writes=("dataset_manifest.json", "labels.txt", "splits", "audit.csv", "audit.json",
                "quarantine.csv"),
        code=DATA_CODE,
    ),
    Step(
        "02", "build_datasets", "What exactly do the networks see?",
        knobs=("seed", "dataset.exif", "dataset.max_pixels", "augmentation", "teacher.arch",
               "teacher.input_size", "student.variant", "student.input_size"),
        reads=DATA_FILES,
        writes=("pipeline_check.json",),
        code=(*DATA_CODE, "nets"),
    ),
    Step(
        "03", "train_teacher", "How good can a large network get here?",
        knobs=(*TRAINING_KNOBS, "dataset.exif", "teacher"),
        reads=DATA_FILES,
        writes=("teacher_warmup.h5", "teacher_finetuned.h5", "teacher_scores.npz"),
        code=TRAIN_CODE,
    ),
    Step(
        "04", "distill_student", "How much of that fits in a phone-sized network?",
        knobs=(*TRAINING_KNOBS, "dataset.exif", "teacher.arch", "teacher.input_size", "student",
               "distillation"),
        reads=(*DATA_FILES, "teacher_finetuned.h5"),
        writes=("student_warmup.h5", "student_finetuned.h5", "student_scores.npz"),
        code=TRAIN_CODE,
    ),
    Step(
        "05", "quantize_student", "What does 8-bit arithmetic cost?",
        knobs=(*TRAINING_KNOBS, "dataset.exif", "teacher.arch", "teacher.input_size", "student",
               "distillation", "qat", "ladder", "tflite_export.input_type",
               "tflite_export.output_type", "tflite_export.representative_dataset_size"),
        reads=(*DATA_FILES, "teacher_finetuned.h5", "student_finetuned.h5"),
        writes=("candidates", "quantization_ladder.json", "candidate_scores.npz"),
        code=(*TRAIN_CODE, *LADDER_CODE, "steps/quantization.py"),
    ),
    Step(
        "06", "tune_thresholds", "When should the app say yes, class by class?",
        knobs=("seed", "task", "threshold_search", "single_label", "calibration"),
        reads=("labels.txt", "candidate_scores.npz", "student_scores.npz",
               "threshold_choice.json?"),
        writes=("threshold_recommendation.json", "threshold_curve.csv", "calibration.json"),
        code=("decide", "steps/thresholds.py"),
    ),
    Step(
        "07", "export_tflite", "Does the phone file compute what the notebook computed?",
        knobs=("task", "dataset.exif", "tflite_export", "parity", "student.variant",
               "student.input_size"),
        reads=("labels.txt", "candidates", "quantization_ladder.json", "candidate_scores.npz",
               "student_finetuned.h5", "dataset_manifest.json"),
        writes=("model_qat_int8.tflite", "parity.json"),
        code=(*DATA_CODE, "nets", "deploy", *SCORING, "steps/export.py"),
        reads_if=(("tflite_export.fold_thresholds", "threshold_recommendation.json"),),
    ),
    Step(
        "08", "inference_config", "What does the app developer receive?",
        knobs=("task", "dataset.exif", "tflite_export"),
        reads=("labels.txt", "dataset_manifest.json", "quantization_ladder.json",
               "model_qat_int8.tflite", "threshold_recommendation.json", "calibration.json"),
        writes=("inference_config.json", "model_metadata.json", "golden"),
        code=("data/decode.py", "data/letterbox.py", "data/letterbox.py", "data/letterbox.c",
              "data/letterbox.h", "deploy", "steps/bundle.py"),
    ),
    Step(
        "09", "eval_report", "What should we expect on images nobody has tuned on?",
        knobs=("seed", "task", "dataset.exif", "evaluation"),
        reads=("labels.txt", "dataset_manifest.json", "inference_config.json",
               "model_qat_int8.tflite", "student_finetuned.h5", "threshold_recommendation.json"),
        writes=("metrics.json", "test_scores.npz"),
        code=(*DATA_CODE, "nets", "train/predict.py", "decide", "deploy", "steps/final_test.py"),
    ),
)  # fmt: skip

MANDATORY = (
    "model_qat_int8.tflite",
    "labels.txt",
    "metrics.json",
    "threshold_recommendation.json",
    "inference_config.json",
)


def find_step(text: str) -> Step:
    """Find a step by `04`, `4`, `distill_student` or `04_distill_student`."""
    wanted = text.removesuffix(".ipynb")
    for step in STEPS:
        if wanted in (step.number, step.number.lstrip("0"), step.name, step.notebook[:-6]):
            return step
    raise SettingsError(f'there is no step "{text}". Steps are {STEPS[0].number} … 09')


def writer_of(file: str) -> Step:
    """Tell which step writes a file, to name its notebook when it is missing."""
    return next(step for step in STEPS if file.rstrip("?") in step.writes)
