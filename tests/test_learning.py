"""The steps of 03 and 04: what they hand to the trainings."""

from workbench.run import Run
from workbench.settings import Settings
from workbench.steps.learning import located


def run_with(root, **network) -> Run:
    settings = Settings.model_validate({"teacher": network, "student": {"weights": "none"}})
    return Run(root / "outputs/mine", settings, root)


def test_a_weights_file_is_named_from_the_project_wherever_the_notebook_runs(tmp_path):
    run = run_with(tmp_path, weights="outputs/earlier/teacher_finetuned.h5")
    expected = str(tmp_path / "outputs/earlier/teacher_finetuned.h5")
    assert located(run).teacher.weights == expected


def test_an_absolute_weights_file_stays_where_it_is(tmp_path):
    assert located(run_with(tmp_path, weights="/weights/b3.h5")).teacher.weights == "/weights/b3.h5"


def test_imagenet_and_none_are_no_files(tmp_path):
    settings = located(run_with(tmp_path, weights="imagenet"))
    assert (settings.teacher.weights, settings.student.weights) == ("imagenet", "none")
