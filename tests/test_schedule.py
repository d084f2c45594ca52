"""The learning rate over time, and which epoch is the best."""

import math

import pytest

from workbench.settings import ScheduleSettings
from workbench.train.phases import Phase
from workbench.train.schedule import Progress, ReduceOnPlateau, WarmupCosine, make_schedule


def cosine(**changed) -> WarmupCosine:
    given = {"peak": 1e-2, "min_lr": 1e-5, "warmup_steps": 10, "total_steps": 100}
    return WarmupCosine(**{**given, **changed})


def phase(peak: float) -> Phase:
    return Phase("small_warmup", 3, peak, 1e-4, 10, reduce_lr_patience=1, reduce_lr_factor=0.5)


def row(epoch, f1=0.5, loss=1.0, mean_precision=0.5):
    return {"epoch": epoch, "val_f1_macro": f1, "val_map": mean_precision, "val_loss": loss}


def test_the_rate_climbs_in_a_line_and_reaches_its_peak_when_warmup_ends():
    rates = [cosine().rate(step) for step in range(10)]
    assert rates == pytest.approx([1e-3 * (step + 1) for step in range(10)])
    assert cosine().rate(10) == pytest.approx(1e-2)


def test_the_rate_falls_along_a_half_cosine_to_min_lr():
    assert cosine().rate(55) == pytest.approx((1e-2 + 1e-5) / 2)
    assert cosine().rate(100) == pytest.approx(1e-5)


def test_the_rate_stays_at_min_lr_when_more_steps_come_than_planned():
    assert cosine().rate(1000) == pytest.approx(1e-5)


def test_a_schedule_without_warmup_starts_at_its_peak():
    assert cosine(warmup_steps=0).rate(0) == pytest.approx(1e-2)


def test_ten_percent_of_the_steps_warm_up_by_default():
    schedule = make_schedule(ScheduleSettings(name="cosine"), phase(peak=1e-3), steps=200)
    assert schedule.warmup_steps == 20
    assert schedule.total_steps == 200


def test_a_peak_below_min_lr_is_never_raised():
    for name in ("cosine", "reduce_on_plateau"):
        settings = ScheduleSettings(name=name, min_lr=1e-3)
        schedule = make_schedule(settings, phase(peak=1e-5), steps=10)
        for _epoch in range(3):
            schedule.observe(improved=False)
        assert max(schedule.rate(step) for step in range(11)) <= 1e-5


def test_the_rate_drops_after_patience_epochs_without_a_better_figure():
    schedule = ReduceOnPlateau(lr=1e-3, min_lr=1e-6, factor=0.5, patience=2)
    seen = []
    for improved in (True, False, True, False, False, False, False):
        schedule.observe(improved)
        seen.append(schedule.rate(0))
    assert seen == pytest.approx([1e-3, 1e-3, 1e-3, 1e-3, 5e-4, 5e-4, 2.5e-4])


def test_the_rate_stops_dropping_at_min_lr():
    schedule = ReduceOnPlateau(lr=1e-3, min_lr=4e-4, factor=0.5, patience=1)
    for _epoch in range(5):
        schedule.observe(improved=False)
    assert schedule.rate(0) == pytest.approx(4e-4)


def test_a_restored_plateau_goes_on_waiting_where_it_was():
    one = ReduceOnPlateau(lr=1e-3, min_lr=1e-6, factor=0.5, patience=2)
    one.observe(improved=False)
    two = ReduceOnPlateau(lr=1e-3, min_lr=1e-6, factor=0.5, patience=2)
    two.restore(one.state())
    two.observe(improved=False)
    assert two.rate(0) == pytest.approx(5e-4)


@pytest.mark.parametrize("monitor", ["f1_macro", "map", "loss"])
def test_each_monitor_picks_its_own_best_epoch(monitor):
    progress = Progress()
    progress.observe(row(1, f1=0.9, loss=3.0, mean_precision=0.1), monitor)
    progress.observe(row(2, f1=0.1, loss=2.0, mean_precision=0.9), monitor)
    progress.observe(row(3, f1=0.5, loss=1.0, mean_precision=0.5), monitor)
    assert progress.best["epoch"] == {"f1_macro": 1, "map": 2, "loss": 3}[monitor]


def test_equal_figures_are_told_apart_by_the_validation_loss():
    progress = Progress()
    progress.observe(row(1, f1=0.0, loss=2.0), "f1_macro")
    assert progress.observe(row(2, f1=0.0, loss=1.0), "f1_macro")
    assert not progress.observe(row(3, f1=0.0, loss=1.0), "f1_macro")
    assert (progress.best["epoch"], progress.wait) == (2, 1)


def test_an_undefined_figure_never_beats_a_defined_one():
    progress = Progress()
    progress.observe(row(1, f1=math.nan, loss=1.0), "f1_macro")
    assert progress.observe(row(2, f1=0.0, loss=9.0), "f1_macro")
    assert not progress.observe(row(3, f1=math.nan, loss=0.0), "f1_macro")
