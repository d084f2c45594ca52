"""The files that quantisation, export and bundle leave, as models of what they hold.

One truth for writer, reader and app developer: notebooks pass these objects on, the files are their
JSON, and the JSON schemas in deploy/schemas come from them (`write_schemas`). Needs no TensorFlow.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from workbench import files
from workbench.errors import InputError, MissingInputError
from workbench.settings import LARGE_NETWORK, PHONE_FILE, Product

RungName = Literal["qat", "qat_skip_worst", "ptq", "ptq_float_head", "float16"]
RungState = Literal["shipped", "failed", "not needed"]
Budget = Literal["within", "not shown", "beyond"]  # the rule is in decide/budget.py
Change = Literal["start", "training", "quantisation", "arithmetic", "runtime"]
Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
Text = Annotated[str, Field(min_length=1)]
Count = Annotated[int, Field(ge=0)]
Positive = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, le=1)]
Scale = Annotated[float, Field(gt=0)]
ZeroPoint = Annotated[int, Field(ge=-128, le=255)]
SCHEMA_DIALECT = "https://json-schema.org/draft/2020-12/schema"


class Part(BaseModel):
    """A group of values inside a file."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Artifact(Part):
    """A whole file of the run folder."""

    file: ClassVar[str]
    notebook: ClassVar[str]  # that writes it

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read the file of a run folder; the message names the notebook that writes it."""
        path = Path(folder) / cls.file
        if not path.exists():
            raise MissingInputError(f"No {cls.file} in {folder}. Run {cls.notebook} first")
        try:
            return cls.model_validate(files.read_json(path))
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(map(str, first["loc"])) or "the file"
            raise InputError(
                f"{path}: {place} is not as this version writes it ({first['msg']}). "
                f"Run {cls.notebook} again"
            ) from None

    def to_json(self) -> dict[str, Any]:
        return self.model_dump(mode="json", by_alias=True)

    @classmethod
    def schema_json(cls) -> dict[str, Any]:
        """Return the JSON schema that ships."""
        found = cls.model_json_schema(by_alias=True)
        return {"$schema": SCHEMA_DIALECT, **found, "title": cls.file}


# What pages, closing lines and the verdict read of files that `decide` writes: the rest they leave.


class Excerpt(Part):
    """Some values of a group that holds more."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)


class FileExcerpt(Artifact):
    """Some values of a file that holds more."""

    model_config = Excerpt.model_config

    @classmethod
    def read_if_there(cls, folder: Path) -> Self:
        """Read them, or what stands for a file that is not there."""
        return cls.read(folder) if (Path(folder) / cls.file).exists() else cls()


class Figure(Part):
    """A figure with its interval, or why it has none."""

    value: float | None
    interval: tuple[float, float] | None
    withheld: str


class TestedClass(Excerpt):
    """How often a class was there on test, and how often the phone said so."""

    name: str = Field(alias="class")
    positives: Count
    negatives: Count
    tp: Count
    fp: Count
    f1: float | None = None
    f1_low: float | None = None
    f1_high: float | None = None

    @property
    def span(self) -> tuple[float, float] | None:
        return None if self.f1_low is None or self.f1_high is None else (self.f1_low, self.f1_high)


class Tested(Excerpt):
    images: Count = 0
    macro_means: str
    overall: dict[str, Figure]
    classes: tuple[TestedClass, ...]


class TestFigures(FileExcerpt):
    """The figures of the phone file on the test split."""

    file: ClassVar[str] = "metrics.json"
    notebook: ClassVar[str] = "09_eval_report"
    __test__: ClassVar[bool] = False  # no test, though it begins like one

    test: Tested = Tested(macro_means="", overall={}, classes=())


class TunedClass(Excerpt):
    name: str
    positives: Count
    integer: Annotated[int, Field(ge=-128, le=128)] | None = None


class TunedClasses(FileExcerpt):
    """What 06 tuned on: how often each class was there, and its threshold; only names for a single
    label."""

    file: ClassVar[str] = "threshold_recommendation.json"
    notebook: ClassVar[str] = "06_tune_thresholds"

    task: str = ""
    classes: tuple[TunedClass | str, ...] = ()


class AuditAnswer(FileExcerpt):
    """Whether 01 found the dataset fit to train on; if not, why, and what to do."""

    file: ClassVar[str] = "audit.json"
    notebook: ClassVar[str] = "01_dataset_audit"

    fit: bool = True
    because: tuple[str, ...] = ()
    next: tuple[str, ...] = ()

    @property
    def words(self) -> str:
        return f"not fit, because {'; '.join(self.because)}; next: {'; '.join(self.next)}"


class TestSplit(Excerpt):
    opened: Count = 0
    __test__: ClassVar[bool] = False


class Distilled(Excerpt):
    enabled: bool = True


class Training(FileExcerpt):
    """Whether there is a student, and whether it had a teacher."""

    file: ClassVar[str] = "training_config.json"
    notebook: ClassVar[str] = "04_distill_student"

    student: dict[str, Any] | None = {}
    distillation: Distilled = Distilled()

    @property
    def product(self) -> Product:
        return LARGE_NETWORK if self.student is None else PHONE_FILE


class Openings(FileExcerpt):
    """How often a run opened its test split."""

    file: ClassVar[str] = "run_metadata.json"
    notebook: ClassVar[str] = "09_eval_report"

    test_split: TestSplit = TestSplit()


# 03: is the mean of finished networks better than each of them?


class MemberFigure(Part):
    """A figure of a member and of the ensemble on the same images; null where it is undefined."""

    figure: Text
    member: float | None
    ensemble: float | None
    difference: float | None
    low: float | None
    high: float | None


class EnsembleMember(Part):
    name: Text
    network: Literal["teacher", "student"]
    input_size: Positive
    weights_sha256: Sha256
    figures: list[MemberFigure]


class Ensemble(Artifact):
    """Whose mean the teacher is, and how each of them answers the same validation images alone."""

    file: ClassVar[str] = "ensemble.json"
    notebook: ClassVar[str] = "03_train_teacher"

    images: Positive
    members: list[EnsembleMember]


# 04: is there something to learn from the teacher?


class TeacherComparison(Artifact):
    """Is the teacher better than the student it taught, or than answers that ignore the photo?"""

    file: ClassVar[str] = "teacher_comparison.json"
    notebook: ClassVar[str] = "04_distill_student"

    other: Text
    images: Positive
    teacher_f1: Share | None
    other_f1: Share | None
    difference: float | None
    interval: tuple[float, float] | None

    @property
    def can_teach(self) -> bool:
        return self.interval is not None and self.interval[0] > 0

    @property
    def words(self) -> str:
        """Say whether it can teach."""
        return self._with("it has something to teach", (
            "it is not clearly better, so it cannot teach. Train it longer or on larger images, "
            "or set distillation.enabled: false"
        ))  # fmt: skip

    @property
    def words_of_a_product(self) -> str:
        """Say whether it answers better than a constant: nobody learns from it."""
        return self._with("it is better", (
            "it is not clearly better, so it is no product yet. Train it longer or on larger images"
        ))  # fmt: skip

    def _with(self, better: str, not_clearly: str) -> str:
        if self.interval is None or self.difference is None:
            return f"teacher against {self.other}: F1 macro cannot be compared on these images"
        verdict = better if self.can_teach else not_clearly
        return (
            f"teacher against {self.other}: F1 macro {self.teacher_f1:.3f} against "
            f"{self.other_f1:.3f}, {self.difference:+.3f} ({self.interval[0]:+.3f} to "
            f"{self.interval[1]:+.3f}) on {self.images} validation images: {verdict}"
        )


class PairedFigure(Part):
    """A figure of two networks on the same images; null where it is not defined."""

    figure: Text
    labels_alone: float | None
    student: float | None
    difference: float | None
    low: float | None
    high: float | None


class ControlComparison(Artifact):
    """What did the teacher give? The student, and the same with as many steps on labels alone."""

    file: ClassVar[str] = "control_comparison.json"
    notebook: ClassVar[str] = "04_distill_student"

    images: Positive
    figures: list[PairedFigure]


# 05: which quantisation ships, and why no better one did.


class FloatScore(Part):
    f1_macro: Share
    map: Share | None


class LadderRung(Part):
    """A rung and what became of it; figures are null where it was not computed."""

    rung: RungName
    title: str
    state: RungState
    f1_macro: Share | None = None
    map: Share | None = None
    drop: float | None = Field(None, description="F1 macro below the float student's")
    drop_interval: tuple[float | None, float | None] | None = None
    budget: Budget | None = Field(None, description="is the drop within ladder.max_drop")
    bytes: Positive | None = None
    sha256: Sha256 | None = None
    input_type: str | None = None
    output_type: str | None = None
    float_tensors: Count | None = None
    reason: str


class PairedDifference(Part):
    """How two files differ on the same images, with the 95 % interval."""

    difference: float
    interval: tuple[float, float] | None


class QuantizationLadder(Artifact):
    """Every rung of quantisation with its score on validation and its reason in words.

    No duration is among them: the same result has the same bytes, so later steps stand.
    """

    file: ClassVar[str] = "quantization_ladder.json"
    notebook: ClassVar[str] = "05_quantize_student"

    chosen: RungName
    title: str
    forced: bool
    budget: Budget = Field(description="of what ships: is its loss within allowed_drop")
    allowed_drop: float = Field(description="F1 macro that quantisation may cost")
    ptq_against_qat: PairedDifference | None = Field(
        None, description="F1 macro of PTQ less that of the QAT that holds; above 0 PTQ is better"
    )
    candidate: Text
    qat_weights: str | None = Field(description="of the last QAT that was trained")
    skipped_layers: tuple[str, ...] = Field(description="left in float while that QAT trained")
    float: FloatScore
    rungs: tuple[LadderRung, ...]

    @property
    def ships_qat(self) -> bool:
        return self.qat_weights is not None and self.chosen.startswith("qat")


# 07: does every runtime between Keras and the phone compute the same?


class Flip(Part):
    """A decision that changed, with the logits on both sides of its threshold."""

    image: str
    label: str
    before: float
    after: float


class ParityRung(Part):
    """One runtime beside the one before it."""

    name: str
    change: Change
    f1_macro: Share | None
    map: Share | None
    f1_drop: float | None = Field(description="against the rung before")
    largest_difference: float | None = Field(description="of a logit, against the rung before")
    flips: Count
    flip_fraction: Share
    flips_by_class: dict[str, int]
    verdict: str = Field(description="empty within the budget, else which rule it breaks")
    flipped: tuple[Flip, ...] = Field((), description="the first of them")


class ParityReport(Artifact):
    """The runtimes, in the order in which the arithmetic changes."""

    file: ClassVar[str] = "parity.json"
    notebook: ClassVar[str] = "07_export_tflite"

    passed: bool
    images: Count
    rungs: tuple[ParityRung, ...]


# 08: what an app reads.


class ModelFile(Part):
    file: Text
    sha256: Sha256
    bytes: Positive


class LabelsFile(Part):
    file: Text
    sha256: Sha256


class InputPort(Part):
    width: Positive
    height: Positive
    channels: Literal[3]
    dtype: Literal["uint8", "int8", "float32"] = Field(
        description="float32: feed (byte - zero_point) * scale"
    )
    scale: Scale
    zero_point: ZeroPoint


class Normalisation(Part):
    subtract: Literal[0, 127]
    divide: Literal[1, 128]
    inside_the_input_scale: bool = Field(
        description="feed the bytes of the image, the scale of the input does the rest"
    )


class Preprocessing(Part):
    color: Literal["RGB"]
    exif: Literal["apply", "ignore"]
    letterbox: Literal["q8"]
    keep_aspect_ratio: Literal[True]
    pad_color_rgb: tuple[Literal[0], Literal[0], Literal[0]]
    interpolation: Literal["bilinear"]
    normalisation: Normalisation


class OutputPort(Part):
    dtype: Literal["int8", "float32"] = Field(description="float32: the logits themselves")
    scale: Scale
    zero_point: Annotated[int, Field(ge=-128, le=127)]
    is_logits: bool
    activation: Literal["sigmoid", "softmax", "none"] = Field(
        description="what the app applies to get probabilities"
    )


class Level(Part):
    """A threshold in three scales; the integer decides, 128 is above every int8."""

    probability: Share
    logit: float
    integer: Annotated[int, Field(ge=-128, le=128)]


class ClassThreshold(Part):
    label: Text
    probability: Share
    logit: float
    integer: Annotated[int, Field(ge=-128, le=128)] | None = Field(
        description="null where the output is float: compare the logit"
    )


class TranslatedThreshold(ClassThreshold):
    """A threshold of a file whose outputs are not those that were tuned on."""

    tuned: Level


class ClassThresholds(Part):
    rule: Literal["yes when raw output >= integer", "yes when raw output >= logit"]
    folded: bool
    classes: Annotated[tuple[TranslatedThreshold | ClassThreshold, ...], Field(min_length=1)]


class ConfidenceThreshold(Part):
    rule: str
    unknown_below: Share


class CalibrationLine(Part):
    label: str
    slope: Annotated[float, Field(gt=0)] | None
    intercept: float | None
    error_before: Annotated[float, Field(ge=0)] | None
    error_after: Annotated[float, Field(ge=0)] | None


class CalibrationLines(Part):
    rule: str
    method: Literal["temperature", "platt"]
    classes: Annotated[tuple[CalibrationLine, ...], Field(min_length=1)]


class Aggregation(Part):
    """One answer for several photos: add up their raw outputs, divide by their number, round down.

    `frames` is how many most clips had on which the thresholds were tuned. Order says nothing.
    """

    method: Literal["mean_logits"]
    frames: Positive


class Shipped(Part):
    network: Literal["student", "teacher"] = "student"
    rung: RungName
    title: str
    forced: bool
    full_integer: bool


class InferenceConfig(Artifact):
    """Everything an app needs to turn a photo into decisions as the workbench measured them."""

    file: ClassVar[str] = "inference_config.json"
    notebook: ClassVar[str] = "08_inference_config"

    version: Literal[1] = Field(1, alias="schema")
    task: Literal["multilabel", "single_label"]
    model: ModelFile
    labels_file: LabelsFile
    labels: Annotated[
        tuple[Text, ...], Field(min_length=1, json_schema_extra={"uniqueItems": True})
    ]
    input: InputPort
    preprocessing: Preprocessing
    output: OutputPort
    thresholds: ClassThresholds | ConfidenceThreshold
    calibration: CalibrationLines | None
    aggregation: Aggregation | None = Field(
        None, description="null: thresholds are for one photo; otherwise for the photos of a clip"
    )
    shipped: Shipped
    versions: dict[str, str]

    @property
    def single_label(self) -> bool:
        return self.task == "single_label"


class Quantization(Part):
    """real value = (integer - zero_point) * scale"""

    scale: Scale
    zero_point: ZeroPoint


class MetadataInput(Part):
    width: Positive
    height: Positive
    channels: Literal[3]
    dtype: Literal["uint8", "int8", "float32"]
    quantization: Quantization


class MetadataNormalization(Part):
    """input value = (pixel - mean) / std, which `quantization` turns into the input's integers"""

    pixel_range: tuple[Literal[0], Literal[255]]
    mean_rgb: tuple[float, float, float]
    std_rgb: tuple[float, float, float]


class MetadataPreprocess(Part):
    letterbox: Literal[True]
    keep_aspect_ratio: Literal[True]
    pad_color_rgb: tuple[Count, Count, Count]
    interpolation: Literal["bilinear"]
    exif: Literal["apply", "ignore"]
    normalization: MetadataNormalization


class MetadataDecision(Part):
    """Which labels to show: those whose raw output is at least `integers`, or `logits` where it is
    float, one a label; or the label of the highest probability, if at least `unknown_below`."""

    integers: tuple[Annotated[int, Field(ge=-128, le=128)], ...] | None
    logits: tuple[float, ...] | None = None
    unknown_below: Share | None


class MetadataOutput(Part):
    dtype: Literal["int8", "float32"]
    quantization: Quantization
    is_logits: bool
    softmax_in_model: bool
    decision: MetadataDecision


class ModelMetadata(Artifact):
    """What an app must know to feed the model and read its output."""

    file: ClassVar[str] = "model_metadata.json"
    notebook: ClassVar[str] = "08_inference_config"

    model_file: Text
    labels_file: Text
    input: MetadataInput
    preprocess: MetadataPreprocess
    output: MetadataOutput


# sweep.json: many runs side by side.


class SweepTrial(Part):
    """One run of a sweep and what became of it; its folder lies beside sweep.json."""

    name: Text
    differences: dict[str, Any]  # dotted knobs with their values, against the base
    state: Literal["waiting", "running", "done", "pruned", "failed"] = "waiting"
    reason: str | None = None  # why it was pruned or failed
    seconds: float | None = None  # of its own processes, without what it took over
    shared: dict[str, str] = Field(default_factory=dict)  # step: the trial that computed it
    value: float | None = None  # the figure that ranks, on validation


class SweepRank(Part):
    """Which validation figure says what is best; the test split never has a say."""

    figure: Literal["f1_macro", "map", "loss"]
    of: Literal["teacher", "student", "phone"]

    @property
    def sign(self) -> int:
        """Return 1 where more is better, -1 where less is."""
        return -1 if self.figure == "loss" else 1


class Sweep(Artifact):
    """The file of a sweep's folder; each trial is a run folder beside it."""

    file: ClassVar[str] = "sweep.json"
    notebook: ClassVar[str] = "python -m workbench sweep"

    version: Literal[1] = Field(1, alias="schema")
    name: Text
    spec: dict[str, Any]  # the sweep file as it was understood
    steps: tuple[str, ...]  # that every trial runs
    rank: SweepRank
    trials: tuple[SweepTrial, ...]
    best: str | None = None  # the trial whose figure is best so far


ARTIFACTS = (QuantizationLadder, ParityReport, InferenceConfig, ModelMetadata)
SCHEMAS = Path(__file__).parent / "deploy" / "schemas"


def schema_text(artifact: type[Artifact]) -> str:
    return json.dumps(artifact.schema_json(), indent=2) + "\n"


def write_schemas(folder: Path = SCHEMAS) -> None:
    """Write the JSON schemas that ship; a test asks for it where a model has changed."""
    for artifact in ARTIFACTS:
        files.write_text(folder / artifact.file, schema_text(artifact))
