"""The live slider of single-label runs: from which confidence on does the app answer?"""

from __future__ import annotations

import html
from collections.abc import Callable
from datetime import UTC, datetime

import ipywidgets as ipw

from workbench.decide.recommendation import UnknownThreshold


class UnknownTuner(ipw.VBox):
    """One slider over the rows of the curve; `save` hands the edited threshold to `on_save`."""

    def __init__(
        self, threshold: UnknownThreshold, on_save: Callable[[UnknownThreshold], str | None]
    ) -> None:
        self.threshold, self.on_save = threshold, on_save
        self.start = int(threshold.curve.chosen.to_numpy().argmax())
        self.slider = ipw.IntSlider(
            value=self.start,
            max=len(threshold.curve) - 1,
            readout=False,
            description="Threshold",
            layout=ipw.Layout(width="100%"),
        )
        self.words, self.saved = ipw.HTML(), ipw.HTML()
        self.reset = ipw.Button(description="Back to the start", layout=ipw.Layout(width="auto"))
        self.who = ipw.Text(description="Your name")
        self.why = ipw.Text(description="Why", layout=ipw.Layout(width="28rem"))
        self.save = ipw.Button(description="Save")
        self.slider.observe(lambda _: self.show(), "value")
        self.reset.on_click(lambda _: setattr(self.slider, "value", self.start))
        self.save.on_click(lambda _: self._save())
        self.show()
        keep = ipw.HBox([self.who, self.why, self.save], layout=ipw.Layout(flex_flow="row wrap"))
        super().__init__([self.words, self.slider, self.reset, keep, self.saved])

    def show(self) -> None:
        """Say what the threshold under the slider does."""
        self.words.value = describe(self.threshold, self.slider.value)

    def _save(self) -> None:
        if not self.who.value.strip():
            self.saved.value = "Please give your name first: it is kept with the threshold."
            return
        row = self.threshold.curve.iloc[self.slider.value]
        now = datetime.now(UTC).isoformat(timespec="seconds")
        edited = self.threshold.edited(
            float(row.threshold), self.who.value.strip(), now, self.why.value.strip()
        )
        self.saved.value = html.escape(self.on_save(edited) or "Saved.")


def describe(threshold: UnknownThreshold, place: int) -> str:
    """Say in words, as HTML, what a row of the curve means."""
    row = threshold.curve.iloc[place]
    right = f"{row.accepted_accuracy:.1%}" if row.answered else "none"
    kept = "Both promises are kept." if row.meets_target else "Not both promises are kept."
    return (
        f"Below confidence <b>{row.threshold:.3f}</b> the answer is <b>unknown</b>.<br>"
        f"Of {threshold.scores.images:,} images {row.answered:,} get an answer: "
        f"{row.correct:,} right and {row.incorrect:,} wrong.<br>"
        f"answered <b>{row.coverage:.1%}</b> · right <b>{right}</b> · "
        f"{kept} Wanted: {threshold.objective.target_accept_accuracy:.0%} right, "
        f"{threshold.objective.min_coverage:.0%} answered."
    )
