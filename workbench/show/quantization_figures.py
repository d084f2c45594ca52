"""What notebooks 05 and 07 show: rungs with their reasons, layers with their losses, runtimes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from workbench.artifacts import LadderRung, ParityReport, QuantizationLadder
from workbench.show.figures import BAD, CHOSEN, QUIET, described, new_axes, plain
from workbench.show.tables import Table, table

if TYPE_CHECKING:
    import ipywidgets

    from workbench.deploy.ladder import Ladder

SHOWN = 25
LOSSES = {"not shown": "not shown to be within the budget", "within": "within the budget",
          "beyond": "beyond the budget"}  # fmt: skip
VISIBLE_DB = 10.0  # below this the rounding is a tenth of the signal's power


def rungs(ladder: QuantizationLadder) -> Table:
    """Show each rung: what it is worth, how far below float, and why it ships or not."""
    return table(
        pd.DataFrame(
            {
                "rung": rung.title,
                "state": rung.state,
                "F1 macro": rung.f1_macro,
                "mAP": rung.map,
                "below float": _drop(rung),
                "loss": LOSSES.get(rung.budget, "–"),
                "megabytes": rung.bytes / 1e6 if rung.bytes else None,
                "why": rung.reason,
            }
            for rung in ladder.rungs
        )
    )


def _drop(rung: LadderRung) -> str:
    if rung.drop is None:
        return "–"
    ends = [end for end in rung.drop_interval if end is not None]
    interval = " [{:+.3f}, {:+.3f}]".format(*ends) if ends else ""
    return f"{rung.drop:+.3f}{interval}"


def ptq_beside_qat(ladder: QuantizationLadder) -> str:
    """Say in a sentence what PTQ scores beside QAT, and what follows from it."""
    found = ladder.ptq_against_qat
    if found is None:
        return "PTQ and QAT were not both scored."
    low, high = found.interval or (float("nan"), float("nan"))
    which = "so PTQ ships" if ladder.chosen == "ptq" else "so PTQ is not shown to be better"
    return (
        f"F1 macro of PTQ less that of QAT, on the same images: {found.difference:+.4f} "
        f"[{low:+.4f}, {high:+.4f}], {which}."
    )


def layer_errors(layers: pd.DataFrame, *, ax: Axes | None = None) -> Figure:
    """Draw the worst layers first; `layers` has columns `layer` and `sqnr_db`."""
    worst = _worst(layers)
    ax = plain(
        new_axes(height=1.2 + 0.24 * len(worst), ax=ax),
        f"The {len(worst)} layers that 8 bits cost most, of {len(layers)}",
        "signal over rounding, decibel (longer is better)",
    )
    colours = [BAD if value < VISIBLE_DB else CHOSEN for value in worst["sqnr_db"]]
    ax.barh(range(len(worst)), worst["sqnr_db"], color=colours)
    ax.set_yticks(range(len(worst)), worst["layer"], fontsize=8, parse_math=False)
    ax.axvline(VISIBLE_DB, color=BAD, linewidth=0.8)
    if not len(layers):
        return described(ax, "No layer could be compared.")
    row = layers.loc[layers["sqnr_db"].idxmin()]
    return described(ax, f"Worst layer: {row['layer']} with {row['sqnr_db']:.1f} decibel.")


def layer_ranges(layers: pd.DataFrame, *, ax: Axes | None = None) -> Figure:
    """Draw what the 256 levels of each layer cover, and what its float outputs reach."""
    worst = _worst(layers)
    places = range(len(worst))
    ax = plain(
        new_axes(height=1.6 + 0.24 * len(worst), ax=ax),
        "What the levels of a layer cover, and what its outputs reach",
        "output of the layer",
    )
    ax.hlines(places, worst["low"], worst["high"], color=QUIET, linewidth=6, label="256 levels",
              alpha=0.45)  # fmt: skip
    cut = worst["saturated"] > 0
    colours = [BAD if outside else CHOSEN for outside in cut]
    ax.hlines(places, worst["float_low"], worst["float_high"], color=colours, linewidth=2,
              label="float outputs")  # fmt: skip
    ax.set_yticks(places, worst["layer"], fontsize=8, parse_math=False)
    if not len(worst):
        return described(ax, "No layer could be compared.")
    ax.legend(loc="lower right", fontsize=8, frameon=False)
    row = layers.loc[layers["saturated"].idxmax()]
    share = f"{row['saturated']:.2%} of the outputs of {row['layer']}"
    return described(ax, f"At most {share} lie outside the levels.")


def _worst(layers: pd.DataFrame) -> pd.DataFrame:
    return layers.sort_values("sqnr_db").head(SHOWN).iloc[::-1]


def skip_layer_panel(ladder: Ladder, layers: pd.DataFrame, calibration: Any) -> ipywidgets.VBox:
    """Return a list of layers and a button: what would it score with that one left in float?

    Nothing is computed before somebody clicks, and nothing is written.
    """
    import ipywidgets as ipw

    options = [("every layer quantised", ()), *((name, (name,)) for name in layers["layer"])]
    choice = ipw.Dropdown(options=options, description="In float")
    button, answer = ipw.Button(description="Score it"), ipw.HTML()

    def compute(_: object) -> None:
        button.disabled, answer.value = True, "<p>computing …</p>"
        try:
            answer.value = skip_layer_table(ladder, choice.value, calibration)._repr_html_()
        finally:
            button.disabled = False

    button.on_click(compute)
    return ipw.VBox([ipw.HBox([choice, button]), answer])


def skip_layer_table(ladder: Ladder, layers: tuple[str, ...], calibration: Any) -> Table:
    """Compare what ships with its fake-quantised network where some layers stay in float."""
    without = f"fake-quantised, {', '.join(layers)} in float" if layers else "fake-quantised"
    scores = {
        "ships": ladder.tried[ladder.chosen].score,
        without: ladder.score_without(layers, calibration),
    }
    return table(
        pd.DataFrame(
            {
                "network": name,
                "F1 macro": score.f1_macro,
                "mAP": score.map,
                "below float": score.loss.value,
            }
            for name, score in scores.items()
        )
    )


def runtimes(parity: ParityReport) -> Table:
    """Show each runtime beside the one before it."""
    hidden = {"flips_by_class", "flipped"}
    return table(pd.DataFrame(rung.model_dump(exclude=hidden) for rung in parity.rungs))


def flips(parity: ParityReport) -> Table:
    """Show decisions that changed: a row a class, a column a runtime."""
    found = pd.DataFrame({rung.name: rung.flips_by_class for rung in parity.rungs[1:]})
    return table(found.rename_axis("class").reset_index())


def flipped(parity: ParityReport) -> Table:
    """Show the decisions that changed, one row each: how close to the threshold they were."""
    rows = [{"rung": rung.name, **vars(one)} for rung in parity.rungs for one in rung.flipped]
    return table(pd.DataFrame(rows, columns=["rung", "image", "label", "before", "after"]))
