"""The training benchmark measures what it says, on networks small enough to wait for."""

import pytest

import workbench  # noqa: F401
from workbench.benchmarks import train
from workbench.settings import Settings


@pytest.mark.slow
def test_the_benchmark_compares_every_kind_of_step():
    settings = Settings.model_validate(
        {
            "student": {"variant": "lite0", "input_size": 32, "batch_size": 2},
            "teacher": {"arch": "efficientnet_lite0", "input_size": 32},
        }
    )
    figures = train.run(count=1, settings=settings)
    assert set(figures["traces"].values()) == {1}
    assert figures["epoch_to_bare"] > 0
    assert "bare train_on_batch" in train.table(figures)
