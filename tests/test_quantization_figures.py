"""What 05 and 07 show: rungs, layers, runtimes, and a what-if that waits for a click."""

from types import SimpleNamespace

import pandas as pd

from tests.deploy_doubles import LADDER
from workbench.artifacts import LadderRung, PairedDifference
from workbench.show import quantization_figures as figures
from workbench.show.figures import alt_text

LAYERS = pd.DataFrame(
    {
        "layer": ["stem_conv", "$x_conv"], "sqnr_db": [35.0, 8.0], "low": [0.0, -2.0],
        "high": [6.0, 2.0], "float_low": [0.0, -3.0], "float_high": [6.0, 3.0],
        "saturated": [0.0, 0.01],
    }
)  # fmt: skip


def test_a_rung_that_was_scored_shows_its_drop_with_the_interval():
    scored = LADDER.rungs[0].model_copy(
        update={"drop": 0.01, "drop_interval": (-0.02, 0.04), "budget": "not shown"}
    )
    skipped = LadderRung(rung="float16", title="float16", state="not needed", reason="no need")
    frame = figures.rungs(LADDER.model_copy(update={"rungs": (scored, skipped)})).frame
    assert frame["below float"].tolist() == ["+0.010 [-0.020, +0.040]", "–"]
    assert frame["loss"].tolist() == ["not shown to be within the budget", "–"]


def test_ptq_is_shown_beside_qat_with_its_interval():
    found = PairedDifference(difference=0.012, interval=(0.002, 0.02))
    words = figures.ptq_beside_qat(LADDER.model_copy(update={"ptq_against_qat": found}))
    assert "+0.0120 [+0.0020, +0.0200], so PTQ ships" in words


def test_the_worst_layer_is_named_in_words():
    assert "$x_conv with 8.0 decibel" in alt_text(figures.layer_errors(LAYERS))


def test_outputs_outside_the_levels_are_named_in_words():
    assert "1.00% of the outputs of $x_conv" in alt_text(figures.layer_ranges(LAYERS))


def test_without_layers_the_figures_say_so():
    for draw in (figures.layer_errors, figures.layer_ranges):
        assert alt_text(draw(LAYERS.head(0))) == "No layer could be compared."


class Scored:
    """As much of a ladder as the what-if asks."""

    chosen = "ptq"

    def __init__(self):
        score = SimpleNamespace(f1_macro=0.9, map=None, loss=SimpleNamespace(value=0.0))
        self.tried, self.asked = {"ptq": SimpleNamespace(score=score)}, []

    def score_without(self, layers, calibration):
        self.asked.append(layers)
        loss = SimpleNamespace(value=-0.05)
        return SimpleNamespace(f1_macro=0.95, map=None, loss=loss)


def test_the_what_if_computes_nothing_before_a_click():
    ladder = Scored()
    panel = figures.skip_layer_panel(ladder, LAYERS, [])
    (choice, button), answer = panel.children[0].children, panel.children[1]
    choice.value = ("stem_conv",)
    assert ladder.asked == []
    button.click()
    assert ladder.asked == [("stem_conv",)] and "0.950" in answer.value
