"""The files of quantisation, export and bundle as models: one truth for writer, reader and app."""

import json

import pytest
from pydantic import ValidationError

from tests.deploy_doubles import LADDER, make_bundle
from workbench.artifacts import ARTIFACTS, SCHEMAS, InferenceConfig, QuantizationLadder, schema_text
from workbench.errors import InputError, MissingInputError
from workbench.files import write_json


@pytest.mark.parametrize("artifact", ARTIFACTS)
def test_the_shipped_schema_is_that_of_the_model(artifact):
    shipped = (SCHEMAS / artifact.file).read_text("utf-8")
    assert shipped == schema_text(artifact), (
        'run: python -c "from workbench.artifacts import write_schemas; write_schemas()"'
    )


def test_a_config_is_read_back_as_it_was_written(tmp_path):
    written = json.loads((make_bundle(tmp_path) / "inference_config.json").read_text("utf-8"))
    assert InferenceConfig.read(tmp_path).to_json() == written and written["schema"] == 1


def test_a_missing_file_names_the_notebook_that_writes_it(tmp_path):
    with pytest.raises(
        MissingInputError, match=r"No quantization_ladder\.json.*05_quantize_student"
    ):
        QuantizationLadder.read(tmp_path)


def test_a_key_that_nobody_knows_is_named_with_the_remedy(tmp_path):
    write_json(tmp_path / LADDER.file, LADDER.to_json() | {"surprise": 1})
    with pytest.raises(InputError, match=r"surprise is not as .* Run 05_quantize_student again"):
        QuantizationLadder.read(tmp_path)


def test_an_artifact_cannot_be_changed_on_the_way():
    with pytest.raises(ValidationError):
        LADDER.chosen = "qat"
