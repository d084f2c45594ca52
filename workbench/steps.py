"""The nine steps as a table: what each reads, writes and depends on. No step runs here.

The command line and the notebooks decide from this table what is up to date.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from workbench.errors import SettingsError

if TYPE_CHECKING:
    from workbench.settings import Product, Settings
    from workbench.train.phases import Phase


@dataclass(frozen=True)
class Files:
    """What a step reads and writes in a run without a student."""

    reads: tuple[str, ...]
    writes: tuple[str, ...]


@dataclass(frozen=True)
class Step:
    number: str
    name: str
    question: str
    knobs: tuple[str, ...]  # settings groups or keys that the step reads beside its trainings
    reads: tuple[str, ...]  # files of the run folder; with "?" where they may be absent
    writes: tuple[str, ...]  # files and folders it must leave; with "?" where it may
    code: tuple[str, ...]  # modules and packages of the workbench whose change counts
    trains: tuple[str, ...] = ()  # roles whose phases train here
    reads_if: tuple[tuple[str, str], ...] = ()  # (knob, file): read only where the knob is on
    needs_student: bool = False
    alone: Files | None = None  # where the teacher is the product; None: the same files

    @property
    def notebook(self) -> str:
        return f"{self.number}_{self.name}.ipynb"

    @property
    def page(self) -> str:
        return f"{self.number}_{self.name}.html"

    @property
    def title(self) -> str:
        return f"{self.number} {self.name}"

    def under(self, settings: Settings) -> Step:
        """Return the step with the files that it reads and writes in a run of these settings."""
        if settings.student or not self.alone:
            return self
        return replace(self, reads=self.alone.reads, writes=self.alone.writes, reads_if=())

    def skipped(self, settings: Settings) -> str:
        """Say why a run of these settings leaves the step out; empty where it does not."""
        none = self.needs_student and not settings.student
        return "no student: the teacher is the product" if none else ""

    def phases(self, settings: Settings) -> list[Phase]:
        """List the trainings of this step under these settings."""
        from workbench.train.phases import all_phases, qat_phase

        found: list[Phase] = []
        for role in () if self.skipped(settings) else self.trains:
            if role != "qat":
                found += all_phases(settings, role)
            elif settings.qat.enabled:
                found.append(qat_phase(settings))
        return found


PIXELS = ("data.decode", "data.letterbox", "data.pipeline", "data.tables", "data.views")
SCORING = ("decide.intervals", "decide.metrics")  # what scores a network, not what tunes thresholds
DATA_KNOBS = ("seed", "task", "num_classes", "dataset")
PIXEL_KNOBS = ("dataset.exif", "dataset.max_pixels")
NETWORK_KNOBS = ("seed", "task", "precision", "teacher.arch", "teacher.input_size",
                 "teacher.members", "student.variant", "student.input_size", "product")  # fmt: skip
DATA_FILES = ("dataset_manifest.json", "labels.txt")
UNLABELED = "unlabeled_manifest.json?"  # photos that a teacher answers: none of them trains 03
FOUND = ("audit.csv", "threshold_recommendation.json", "parity.json")  # what a verdict rests on
STUDENT = ("student_finetuned.h5", "student_network.json")
LARGE = ("teacher_finetuned.h5", "teacher_network.json")
TEACHER = (("distillation.enabled", "teacher_finetuned.h5"),
           ("distillation.enabled", "teacher_network.json"))  # fmt: skip

STEPS: tuple[Step, ...] = (
    Step(
        "01", "dataset_audit", "Is this dataset fit to train on?",
        knobs=(*DATA_KNOBS, "audit"),
        reads=(),
        writes=("dataset_manifest.json", "labels.txt", "splits", "audit.csv", "audit.json",
                "quarantine.csv", UNLABELED),
        code=("data",),
    ),
    Step(
        "02", "build_datasets", "What exactly do the networks see?",
        knobs=("augmentation", *PIXEL_KNOBS, *NETWORK_KNOBS),
        reads=DATA_FILES,
        writes=("pipeline_check.json",),
        code=PIXELS,
    ),
    Step(
        "03", "train_teacher", "How good can a large network get here?",
        knobs=(*PIXEL_KNOBS, "task", "teacher.members", "audit.label_errors"),
        reads=DATA_FILES,
        writes=("teacher_warmup.h5", "teacher_finetuned.h5", "teacher_network.json",
                "teacher_scores.npz", "label_errors.csv?", "ensemble.json?", "member_scores.npz?"),
        code=("nets", *SCORING),
        trains=("teacher",),
    ),
    Step(
        "04", "distill_student", "How much of that fits in a phone-sized network?",
        knobs=(*PIXEL_KNOBS, *NETWORK_KNOBS, "distillation"),
        reads=(*DATA_FILES, UNLABELED),
        writes=("student_warmup.h5", "student_finetuned.h5", "student_network.json",
                "student_scores.npz", "teacher_comparison.json?", "control_scores.npz?",
                "control_comparison.json?"),
        code=("nets", *SCORING),
        trains=("student",),
        reads_if=TEACHER,
        needs_student=True,
    ),
    Step(
        "05", "quantize_student", "What does 8-bit arithmetic cost?",
        knobs=(*PIXEL_KNOBS, *NETWORK_KNOBS, "distillation.enabled", "qat", "ladder",
               "tflite_export.input_type", "tflite_export.output_type",
               "tflite_export.representative_dataset_size"),
        reads=(*DATA_FILES, *STUDENT, UNLABELED, "refused_rungs.json?"),
        writes=("candidates", "quantization_ladder.json", "candidate_scores.npz",
                "student_qat.h5?", "student_qat_skip_worst.h5?"),
        code=("nets", "deploy", *SCORING),
        trains=("qat",),
        reads_if=TEACHER,
        needs_student=True,
    ),
    Step(
        "06", "tune_thresholds", "When should the app say yes, class by class?",
        knobs=("seed", "task", "product", "threshold_search", "single_label", "calibration",
               "evaluation.pool"),
        reads=("labels.txt", "candidate_scores.npz", "student_scores.npz",
               "threshold_choice.json?"),
        writes=("threshold_recommendation.json", "threshold_curve.csv?", "calibration.json",
                "float_thresholds.json"),
        code=("decide",),
        alone=Files(
            reads=("labels.txt", "teacher_scores.npz", "threshold_choice.json?"),
            writes=("threshold_recommendation.json", "threshold_curve.csv?", "calibration.json",
                    "float_thresholds.json"),
        ),
    ),
    Step(
        "07", "export_tflite", "Does the phone file compute what the notebook computed?",
        knobs=("task", "product", "dataset.exif", "tflite_export", "parity", "student.variant",
               "student.input_size"),
        reads=(*DATA_FILES, "candidates", "quantization_ladder.json", "candidate_scores.npz",
               *STUDENT, "student_qat.h5?", "threshold_recommendation.json"),
        writes=("model_qat_int8.tflite", "parity.json", "parity_scores.npz"),
        code=(*PIXELS, "nets", "deploy", *SCORING),
        alone=Files(
            reads=(*DATA_FILES, *LARGE, "threshold_recommendation.json"),
            writes=("model_float16.tflite", "parity.json", "parity_scores.npz"),
        ),
    ),
    Step(
        "08", "inference_config", "What does the app developer receive?",
        knobs=("task", "product", "dataset.exif", "tflite_export"),
        reads=(*DATA_FILES, "quantization_ladder.json", "model_qat_int8.tflite",
               "threshold_recommendation.json", "calibration.json"),
        writes=("inference_config.json", "model_metadata.json", "golden", "app", "verify"),
        code=(*PIXELS, "deploy"),
        alone=Files(
            reads=(*DATA_FILES, "model_float16.tflite", "threshold_recommendation.json",
                   "calibration.json"),
            writes=("inference_config.json", "model_metadata.json", "golden", "app", "verify"),
        ),
    ),
    Step(
        "09", "eval_report", "What should we expect on images nobody has tuned on?",
        knobs=("seed", "task", "product", "dataset.exif", "evaluation", "verdict",
               "single_label.threshold_min_coverage"),
        reads=(*DATA_FILES, "inference_config.json", "model_qat_int8.tflite", *STUDENT,
               "student_qat.h5?", "quantization_ladder.json", "float_thresholds.json",
               *FOUND, "teacher_comparison.json?"),
        writes=("metrics.json", "test_scores.npz"),
        code=(*PIXELS, "nets", "decide", "deploy"),
        alone=Files(
            reads=(*DATA_FILES, "inference_config.json", "model_float16.tflite", *LARGE,
                   "float_thresholds.json", *FOUND),
            writes=("metrics.json", "test_scores.npz"),
        ),
    ),
)  # fmt: skip

MANDATORY = (  # beside the file that ships
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


def mandatory(product: Product) -> tuple[str, ...]:
    """List what a finished run has to hold."""
    return (product.model, *MANDATORY)


def writer_of(file: str) -> Step:
    """Tell which step writes a file, to name its notebook when it is missing."""
    every = ((step, (*step.writes, *(step.alone.writes if step.alone else ()))) for step in STEPS)
    return next(step for step, names in every if file in {name.rstrip("?") for name in names})
