"""The live sliders of notebook 06: controls around a `Tuning`, which holds all the logic."""

from __future__ import annotations

import html
from collections.abc import Callable, Sequence
from datetime import UTC, datetime

import ipywidgets as ipw

from workbench.decide.levels import LevelCounts
from workbench.decide.recommendation import Thresholds
from workbench.show.sliders import Tuning
from workbench.show.tuner_charts import curve_chart, score_chart

RULES = (
    ("best balance (F1)", "f1_macro"),
    ("balance with a weight (F-beta)", "fbeta"),
    ("keep the yes right (precision floor)", "precision_floor"),
    ("find enough (recall floor)", "recall_floor"),
    ("lowest cost", "cost"),
    ("say yes as often as it occurs", "prevalence"),
)
KNOBS = {
    "beta": ("finding counts ×", ("fbeta",)),
    "floor": ("at least", ("precision_floor", "recall_floor")),
    "cost_false_positive": ("a wrong yes costs", ("cost",)),
    "cost_false_negative": ("a missed one costs", ("cost",)),
}


class ThresholdTuner(ipw.VBox):
    """Sliders over the thresholds; `save` hands the edited thresholds to `on_save`."""

    def __init__(
        self,
        counts: LevelCounts,
        thresholds: Thresholds,
        on_save: Callable[[Thresholds], str | None],
    ) -> None:
        self.tuning = Tuning(counts, thresholds)
        self.on_save = on_save
        self._quiet = False  # while the program, not the person, moves a control
        self._build()
        self._listen()
        self.show()
        super().__init__(self._layout())

    def _build(self) -> None:
        names = self.tuning.thresholds.names
        allowed = self.tuning.allowed
        self.classes = ipw.Select(
            options=[(printable(name), index) for index, name in enumerate(names)],
            value=0,
            rows=min(16, max(4, len(names))),
            description="Class",
        )
        self.slider = ipw.IntSlider(
            min=int(allowed[0]),
            max=int(allowed[-1]),
            description="Threshold",
            readout=False,
            layout=ipw.Layout(width="100%"),
        )
        self.words, self.charts, self.total, self.saved = (ipw.HTML() for _ in range(4))
        self.lock = ipw.Checkbox(description="Lock this class", indent=False)
        self.undo, self.reset, self.reset_all, self.use, self.use_all, self.save = (
            ipw.Button(description=text, layout=ipw.Layout(width="auto"))
            for text in (
                "Undo",
                "Back to the start",
                "All back to the start",
                "For this class",
                "For all that are not locked",
                "Save",
            )
        )
        self.rule = ipw.Dropdown(options=RULES, description="Rule")
        self.rule.value = self.tuning.thresholds.objective["name"]
        start = self.tuning.objective("f1_macro")
        self.knobs = {
            key: ipw.BoundedFloatText(value=getattr(start, key), min=0, max=1e6, description=text)
            for key, (text, _) in KNOBS.items()
        }
        self.who = ipw.Text(description="Your name")
        self.why = ipw.Text(description="Why", layout=ipw.Layout(width="28rem"))

    def _listen(self) -> None:
        self.classes.observe(lambda _: self.show(), "value")
        self.slider.observe(self._slide, "value")
        self.lock.observe(self._lock, "value")
        self.rule.observe(lambda _: self.show(), "value")
        self.undo.on_click(lambda _: self._after(self.tuning.undo()))
        self.reset.on_click(lambda _: self._after(self.tuning.reset([self.selected])))
        self.reset_all.on_click(lambda _: self._after(self.tuning.reset(self._every)))
        self.use.on_click(lambda _: self._follow([self.selected]))
        self.use_all.on_click(lambda _: self._follow(self._every))
        self.save.on_click(lambda _: self._save())

    def _layout(self) -> list[ipw.Widget]:
        detail = ipw.VBox(
            [
                self.words,
                self.slider,
                self.charts,
                ipw.HBox([self.undo, self.reset, self.reset_all, self.lock]),
            ],
            layout=ipw.Layout(width="100%"),
        )
        rules = ipw.HBox([self.rule, *self.knobs.values(), self.use, self.use_all])
        keep = ipw.HBox([self.who, self.why, self.save])
        for row in (rules, keep):
            row.layout.flex_flow = "row wrap"
        return [ipw.HBox([self.classes, detail]), self.total, rules, keep, self.saved]

    @property
    def selected(self) -> int:
        return self.classes.value

    @property
    def _every(self) -> range:
        return range(len(self.tuning.thresholds.classes))

    def _slide(self, change: dict) -> None:
        if not self._quiet:
            moved = self.tuning.set({self.selected: change["new"]}, sliding=self.selected)
            self._after(moved)

    def _lock(self, change: dict) -> None:
        if not self._quiet:
            {True: self.tuning.locked.add, False: self.tuning.locked.discard}[change["new"]](
                self.selected
            )
            self.show()

    def _follow(self, indices: Sequence[int]) -> None:
        figures = {key: knob.value for key, knob in self.knobs.items()}
        objective = self.tuning.objective(self.rule.value, **figures)
        self._after(self.tuning.follow(objective, indices))

    def _after(self, changed: bool) -> None:
        if changed:
            self.show()

    def show(self) -> None:
        """Bring every control in line with the state."""
        self._quiet = True
        index, tuning = self.selected, self.tuning
        self.slider.value = int(tuning.integers[index])
        self.slider.disabled = self.lock.value = index in tuning.locked
        self.undo.disabled = not tuning.can_undo
        self.words.value = describe(tuning, index)
        self.charts.value = (
            "<div style='display:flex;flex-wrap:wrap;gap:1rem'>"
            f"{score_chart(tuning, index)}{curve_chart(tuning, index)}</div>"
        )
        self.total.value = describe_total(tuning)
        for key, (_, rules) in KNOBS.items():
            self.knobs[key].layout.display = None if self.rule.value in rules else "none"
        self._quiet = False

    def _save(self) -> None:
        if not self.who.value.strip():
            self.saved.value = "Please give your name first: it is kept with the thresholds."
            return
        now = datetime.now(UTC).isoformat(timespec="seconds")
        edited = self.tuning.recommendation(self.who.value.strip(), now, self.why.value.strip())
        self.saved.value = html.escape(self.on_save(edited) or "Saved.")


def describe(tuning: Tuning, index: int) -> str:
    """Say in words, as escaped HTML, what the threshold of one class does."""
    figures = {name: values[index] for name, values in tuning.figures().items()}
    before = {name: v[index] for name, v in tuning.figures(tuning.thresholds.integer).items()}
    integer = tuning.integers[index]
    probability = float(tuning.thresholds.quantization.threshold_probabilities(integer))
    found = "No image here has this class."
    if tuning.positives[index]:
        found = (
            f"Of {tuning.positives[index]:,} images with this class the app finds "
            f"{figures['tp']:,} and misses {figures['fn']:,}."
        )
    yes = figures["tp"] + figures["fp"]
    right = f"It says yes to {yes:,}: {figures['tp']:,} rightly and {figures['fp']:,} wrongly."
    rows = "".join(
        f"<td style='padding:0 1.2rem 0 0'>{word} <b>{figures[name]:.3f}</b> "
        f"<small>({figures[name] - before[name]:+.3f})</small></td>"
        for word, name in (("found", "recall"), ("right", "precision"), ("F1", "f1"))
    )
    return (
        f"<b>{html.escape(tuning.thresholds.names[index])}</b> says yes from probability "
        f"<b>{probability:.3f}</b> on (integer {integer}).<br>{found} {right}"
        f"<table><tr>{rows}</tr></table>"
    )


def describe_total(tuning: Tuning) -> str:
    now, before = tuning.f1_macro(), tuning.f1_macro(tuning.thresholds.integer)
    return (
        f"All classes: F1 macro <b>{now:.4f}</b>; it was {before:.4f}. "
        f"{len(tuning.changed)} changed, {len(tuning.locked)} locked."
    )


def printable(name: str) -> str:
    """Class names go into options as text; control characters would only confuse."""
    return "".join(letter if letter.isprintable() else "?" for letter in name)
