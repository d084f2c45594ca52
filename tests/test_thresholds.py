"""Thresholds are the best there are, the same in three forms, and no more than the data support."""

import itertools
import json

import numpy as np
import pytest
from scipy.stats import beta

from workbench.decide.intervals import assign_folds, discoveries, even_ends, interval, wilson
from workbench.decide.levels import LOWEST, NEVER, Quantization, count_levels, level_cells
from workbench.decide.objectives import Objective
from workbench.decide.thresholds import search
from workbench.decide.tuning import best, best_thresholds, candidates, rules_of, smooth
from workbench.decide.unknown import answers, search_unknown
from workbench.errors import InputError
from workbench.settings import SingleLabelSettings, ThresholdSearchSettings

SCALE, ZERO_POINT = 0.08, 10
OBJECTIVES = ("f1_macro", "fbeta", "precision_floor", "recall_floor", "cost", "prevalence")


def knobs(**changes):
    return ThresholdSearchSettings(**({"bootstrap_replicates": 200} | changes))


def draw(seed=0, images=400, classes=4, prevalence=0.2, shift=0.0):
    """Draw overlapping scores; `shift` moves the scores of each class."""
    rng = np.random.default_rng(seed)
    y_true = rng.random((images, classes)) < prevalence
    raw = rng.normal(-40, 30, (images, classes)) + 55 * y_true + shift
    return y_true, np.clip(raw, -128, 127).astype(np.int8)


def names(classes):
    return tuple(f"class {index}" for index in range(classes))


def find(y_true, raw, seed=0, settings=None, **options):
    return search(
        y_true, raw, SCALE, ZERO_POINT, settings or knobs(), names(raw.shape[1]), seed, **options
    )


def brute_value(objective, label, answer):
    """Judge answers as a textbook would, one image after the other."""
    tp = sum(1 for a, b in zip(label, answer, strict=True) if a and b)
    fp = sum(1 for a, b in zip(label, answer, strict=True) if b and not a)
    fn = sum(1 for a, b in zip(label, answer, strict=True) if a and not b)
    precision = tp / (tp + fp) if tp + fp else 0
    recall = tp / (tp + fn)
    beta = 1 if objective.name == "f1_macro" else objective.beta
    match objective.name:
        case "f1_macro" | "fbeta":
            below = beta**2 * precision + recall
            return (1 + beta**2) * precision * recall / below if below else 0
        case "precision_floor":
            return recall, float(wilson(tp, tp + fp, 0.9)[0])
        case "recall_floor":
            return precision, float(wilson(tp, tp + fn, 0.9)[0])
        case "cost":
            cost = fp * objective.cost_false_positive + fn * objective.cost_false_negative
            return -cost / len(label)
        case "prevalence":
            return -abs(sum(answer) - sum(label)) / len(label)


def brute_floor(objective, label, raw):
    """Value every threshold, -128 to 128, one after the other: is it asked, does it hold?"""
    found, missed, stricter = [], [], 0
    for one in range(NEVER, LOWEST - 1, -1):
        answer = raw >= one
        yes = int(answer.sum())
        wanted, least = brute_value(objective, label, answer)
        doubled = yes.bit_length() > stricter.bit_length()
        asked = doubled if objective.name == "precision_floor" else yes > 0
        found.append((wanted, least >= objective.floor, asked))
        missed.append(least - objective.floor if asked else -1)
        stricter = yes
    claimed = any(holds and asked for _, holds, asked in found)
    return [
        wanted if holds and claimed else less
        for (wanted, holds, _), less in zip(found[::-1], missed[::-1], strict=True)
    ]


def odd_case(rng):
    """Draw a small class: few distinct levels, so ties; sometimes all labels or scores alike."""
    images = int(rng.integers(1, 13))
    label = rng.random(images) < rng.choice([0.1, 0.5, 0.9])
    label[rng.integers(images)] = True
    levels = rng.choice([LOWEST, -3, 0, 4, 127], size=images)
    if rng.random() < 0.2:
        levels[:] = rng.choice([LOWEST, 7, 127])
    if rng.random() < 0.1:
        label[:] = True
    return label, levels.astype(np.int8)


def test_the_exact_search_equals_brute_force_on_1000_random_cases():
    rng = np.random.default_rng(0)
    quantization, integers = Quantization(0.1, 0), np.arange(LOWEST, NEVER + 1)
    for case, name in zip(range(1000), itertools.cycle(OBJECTIVES), strict=False):
        objective = Objective(name, 2.0, float(rng.choice([0.5, 0.75, 1.0])), 2.0, 3.0)
        label, raw = odd_case(rng)
        values = objective.class_values(count_levels(label[:, None], raw[:, None]))[0]
        chosen = int(best(values, integers))
        if objective.has_floor:
            every = brute_floor(objective, label, raw.astype(int))
        else:
            every = [brute_value(objective, label, raw.astype(int) >= one) for one in integers]
        assert every[chosen - LOWEST] == pytest.approx(max(every), abs=1e-12), (case, name)
        np.testing.assert_allclose(values, every, rtol=0, atol=1e-12)
    assert len(quantization.separable()) == len(integers)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_the_shared_threshold_is_the_best_of_all_257(name):
    y_true, raw = draw(3)
    found = find(y_true, raw, settings=knobs(objective=name, beta=2.0, floor=0.6))
    curve = found.curve
    assert curve.objective[curve.chosen].item() == pytest.approx(curve.objective.max(), abs=1e-12)


def test_of_equal_thresholds_the_middle_of_the_longest_gap_is_taken():
    label = np.array([[0], [0], [1], [1]])
    raw = np.array([[-100], [-21], [80], [100]], np.int8)
    values = Objective("f1_macro", 1, 0, 1, 1).class_values(count_levels(label, raw))
    assert best(values, np.arange(LOWEST, NEVER + 1)).item() in (29, 30)


def test_counts_by_level_leave_masked_labels_out():
    y_true, raw = draw(1)
    mask = np.random.default_rng(0).random(raw.shape) < 0.5
    counts = count_levels(y_true, raw, mask)
    assert counts.positives.sum() == (y_true & mask).sum()
    assert counts.negatives.sum() == (~y_true & mask).sum()
    assert level_cells(y_true, raw, mask)[~mask].min() == 512


def test_the_grid_search_takes_only_levels_of_the_grid():
    y_true, raw = draw(2)
    settings = knobs(method="grid", grid_min=0.2, grid_max=0.6, grid_step=0.2)
    found = find(y_true, raw, settings=settings)
    levels = Quantization(SCALE, ZERO_POINT).probabilities(np.arange(LOWEST, 128))
    allowed = {int(np.flatnonzero(levels >= bar)[0]) + LOWEST for bar in (0.2, 0.4, 0.6)}
    assert set(found.integer.tolist()) <= allowed


def test_a_grid_value_of_one_half_says_yes_at_one_half():
    settings = knobs(method="grid", grid_min=0.5, grid_max=0.5)
    assert candidates(settings, Quantization(0.1, 3)).tolist() == [3]


@pytest.mark.parametrize("seed", range(40))
def test_integer_logit_and_probability_decide_alike_at_every_level(seed):
    rng = np.random.default_rng(seed)
    scale = float(np.float32(10 ** rng.uniform(-4, 0.3)))
    quantization = Quantization(scale, int(rng.integers(-128, 128)))
    integers, levels = quantization.separable(), np.arange(LOWEST, 128)
    decided = levels >= integers[:, None]
    by_logit = quantization.logits(levels) >= quantization.threshold_logits(integers)[:, None]
    np.testing.assert_array_equal(by_logit, decided)
    bars = quantization.threshold_probabilities(integers)[:, None]
    np.testing.assert_array_equal(quantization.probabilities(levels) >= bars, decided)
    plain_sigmoid = 1 / (1 + np.exp(-quantization.logits(levels)))
    np.testing.assert_array_equal(plain_sigmoid >= bars, decided)


@pytest.mark.parametrize("seed", range(20))
def test_a_phone_that_computes_in_float32_decides_alike(seed):
    rng = np.random.default_rng(seed)
    quantization = Quantization(float(rng.uniform(0.01, 0.09)), int(rng.integers(-20, 20)))
    integers, levels = quantization.separable(), np.arange(LOWEST, 128)
    logits = (levels - quantization.zero_point).astype(np.float32) * np.float32(quantization.scale)
    bars = quantization.threshold_logits(integers).astype(np.float32)[:, None]
    np.testing.assert_array_equal(logits >= bars, levels >= integers[:, None])
    near = np.abs(quantization.threshold_logits(integers)) < 11  # beyond, float32 sigmoid is flat
    bars = quantization.threshold_probabilities(integers[near]).astype(np.float32)[:, None]
    probabilities = np.float32(1) / (np.float32(1) + np.exp(-logits))
    np.testing.assert_array_equal(probabilities >= bars, levels >= integers[near][:, None])


def test_a_sigmoid_too_flat_to_decide_offers_no_threshold():
    separable = Quantization(1.0, 0).separable()
    assert LOWEST in separable and NEVER not in separable
    assert separable.max() < 37  # sigmoid(37) is 1 in double precision


def test_the_decisions_of_the_three_forms_agree_on_every_image():
    y_true, raw = draw(5)
    found = find(y_true, raw)
    quantization = Quantization(SCALE, ZERO_POINT)
    np.testing.assert_array_equal(found.decide(raw), quantization.logits(raw) >= found.logit)
    np.testing.assert_array_equal(
        found.decide(raw), quantization.probabilities(raw) >= found.probability
    )


def test_a_class_without_examples_keeps_the_global_threshold():
    y_true, raw = draw(0)
    y_true[:, 1] = False
    entry = find(y_true, raw).classes[1]
    assert (entry.integer, entry.adopted) == (find(y_true, raw).shared.integer, False)
    assert "no image with this class" in entry.note


def test_a_class_that_every_image_has_keeps_the_global_threshold():
    y_true, raw = draw(0)
    y_true[:, 1] = True
    entry = find(y_true, raw).classes[1]
    assert not entry.adopted and "every image" in entry.note
    assert entry.reason == "global threshold: without negatives there is nothing to tune on"


@pytest.mark.parametrize("value", [LOWEST, 0, 127])
def test_constant_scores_give_strict_json(value):
    y_true, raw = draw(0)
    found = find(y_true, np.full_like(raw, value))
    json.dumps(found.model_dump(), allow_nan=False)


def test_no_positive_anywhere_gives_strict_json():
    y_true, raw = draw(0)
    found = find(np.zeros_like(y_true), raw)
    assert found.expected.apparent is None
    json.dumps(found.model_dump(), allow_nan=False)


def test_where_nothing_can_be_tuned_the_threshold_is_one_half():
    y_true, raw = draw(0)
    found = find(np.zeros_like(y_true), raw)
    np.testing.assert_array_equal(
        found.decide(raw), Quantization(SCALE, ZERO_POINT).probabilities(raw) >= 0.5
    )


def test_one_image_gives_strict_json():
    json.dumps(find(*draw(0, images=1)).model_dump(), allow_nan=False)


def test_a_class_whose_scores_lie_elsewhere_gets_a_threshold_of_its_own():
    y_true, raw = draw(0, images=3000, shift=np.array([0, 0, 0, 40]))
    found = find(y_true, raw)
    assert found.adopted[3]
    assert found.classes[3].gain > 0.05
    assert found.classes[3].gain_interval[0] > 0


def test_classes_that_score_alike_share_one_threshold():
    y_true, raw = draw(0, images=3000)
    assert not find(y_true, raw).adopted.any()


def test_a_gain_below_the_setting_is_not_adopted():
    y_true, raw = draw(0, images=3000, shift=np.array([0, 0, 0, 40]))
    found = find(y_true, raw, settings=knobs(per_class_improvement_threshold=0.9))
    assert not found.adopted.any() and "less than 0.9" in found.classes[3].reason


def test_per_class_can_be_turned_off():
    y_true, raw = draw(0, images=3000, shift=np.array([0, 0, 0, 40]))
    found = find(y_true, raw, settings=knobs(per_class_enabled=False))
    assert set(found.integer.tolist()) == {found.shared.integer}


def test_a_class_seen_as_often_as_the_pull_goes_half_the_way():
    rules = rules_of(knobs(smoothing_positives=10.0), Quantization(SCALE, ZERO_POINT))
    own, shared, positives = np.array([100, 100, 100]), np.array([0]), np.array([10, 1, 990])
    assert smooth(own, shared, positives, rules).tolist() == [50, 9, 99]


def macro_f1(y_true, answers):
    hits = (y_true & answers).sum(0)
    return (2 * hits / np.maximum(1, y_true.sum(0) + answers.sum(0))).mean()


@pytest.mark.slow
def test_where_the_plain_grid_overfits_ours_does_not_over_50_seeds():
    """20 classes that score alike, about 12 positives each: any own threshold is luck."""
    plain_loses, ours_beats_plain, ours_against_global = 0, 0, []
    for seed in range(50):
        y_true, raw = draw(2 * seed, images=300, classes=20, prevalence=0.04)
        test_true, test_raw = draw(2 * seed + 1, images=10_000, classes=20, prevalence=0.04)
        plain = best_thresholds(y_true, raw, knobs(method="grid"), Quantization(SCALE, ZERO_POINT))
        ours = find(y_true, raw, seed)
        scores = [
            macro_f1(test_true, test_raw >= integers)
            for integers in (plain, ours.integer, ours.shared.integer)
        ]
        plain_loses += scores[0] < scores[2]
        ours_beats_plain += scores[1] > scores[0]
        ours_against_global.append(scores[1] - scores[2])
    assert plain_loses >= 45
    assert ours_beats_plain >= 45
    assert np.mean(ours_against_global) > -0.001


def test_the_corrected_value_is_nearer_to_the_truth_than_the_apparent_one():
    errors = []
    for seed in range(20):
        y_true, raw = draw(2 * seed, images=300, classes=10, prevalence=0.05)
        test_true, test_raw = draw(2 * seed + 1, images=10_000, classes=10, prevalence=0.05)
        found = find(y_true, raw, seed, settings=knobs(per_class_improvement_threshold=0.0))
        truth = macro_f1(test_true, found.decide(test_raw))
        errors.append((found.expected.apparent - truth, found.expected.corrected - truth))
    apparent, corrected = np.mean(errors, axis=0)
    assert apparent > 0
    assert abs(corrected) < apparent / 2


def test_the_luck_of_choosing_is_taken_off_a_gain():
    """Where classes score alike, tuning gains on its own images and cannot on others."""
    gains, seeming, rules = [], [], knobs(bootstrap_replicates=50, smoothing_positives=0.0)
    for seed in range(10):
        y_true, raw = draw(seed, images=300, classes=10, prevalence=0.05)
        found = find(y_true, raw, seed, settings=rules)
        values = Objective("f1_macro", 1, 0, 1, 1).class_values(count_levels(y_true, raw))
        own = best(values, np.arange(LOWEST, NEVER + 1)) - LOWEST
        shared = values[:, found.shared.integer - LOWEST]
        seeming += list(np.take_along_axis(values, own[:, None], -1)[:, 0] - shared)
        gains += [entry.gain for entry in found.classes]
    assert np.mean(seeming) > 0.05 and np.mean(gains) < np.mean(seeming) / 2


def test_a_class_says_in_how_many_resamplings_it_would_keep_its_own():
    y_true, raw = draw(0, images=3000, shift=np.array([0, 0, 0, 40]))
    found = find(y_true, raw)
    assert found.classes[3].adopted_in > 190 > found.classes[0].adopted_in
    assert f"adopted in {found.classes[3].adopted_in} of 200 resamplings" in found.classes[3].reason


def test_another_seed_decides_alike():
    y_true, raw = draw(0, images=1000, shift=np.array([0, 5, 15, 40]))
    choices = [find(y_true, raw, seed).integer.tolist() for seed in range(8)]
    assert all(choice == choices[0] for choice in choices)


def test_one_resampling_proves_nothing():
    y_true, raw = draw(0, images=3000, shift=np.array([0, 0, 0, 40]))
    assert not find(y_true, raw, settings=knobs(bootstrap_replicates=1)).adopted.any()


def test_luck_over_many_classes_is_no_discovery():
    drawn = np.random.default_rng(0).random((4000, 40))
    assert discoveries(drawn).any(-1).mean() == pytest.approx(0.05, abs=0.01)


def test_what_is_no_luck_is_found_beside_what_may_be():
    luck = np.array([0.0001, 0.9, 0.002, 0.3, 0.06])
    assert discoveries(luck).tolist() == [True, False, True, False, False]
    assert not discoveries(np.full(5, 0.06)).any()


def test_a_floor_is_promised_only_where_its_lower_end_holds():
    label = np.repeat([True, False], [46, 400])[:, None]
    raw = np.where(label, 100, -100).astype(np.int8)
    settings = knobs(objective="precision_floor", floor=0.95)
    entry = find(label, raw, settings=settings).classes[0]
    assert not entry.adopted
    assert "95% cannot be promised" in entry.reason and "at best 94.4% is sure" in entry.reason
    kept = find(label, raw, settings=knobs(objective="precision_floor", floor=0.9)).classes[0]
    assert "aimed at 90%, held-out 100.0% [92.3%, 100.0%]" in kept.reason


def lucky(classes=7):
    """Draw no class but the first whose surest answers are right: 30 of 30."""
    raw = np.tile(np.arange(-100, 100, dtype=np.int8)[:, None], (1, classes))
    y_true = np.tile(np.arange(200)[:, None] % 2 == 1, (1, classes))
    y_true[170:, 0] = True
    return y_true, raw


def test_what_one_of_many_classes_shows_must_be_surer_than_what_one_alone_does():
    settings = knobs(objective="precision_floor", floor=0.85, bootstrap_replicates=1)
    y_true, raw = lucky()
    assert "aimed at 85%" in find(y_true[:, :1], raw[:, :1], settings=settings).classes[0].reason
    assert "cannot be promised" in find(y_true, raw, settings=settings).classes[0].reason
    every = np.repeat(y_true[:, :1], 7, 1)  # all of them show it: luck does not do that
    assert all("aimed at 85%" in one.reason for one in find(every, raw, settings=settings).classes)


def test_a_class_claims_a_precision_only_where_its_yes_double():
    raw = np.arange(99, -101, -1, dtype=np.int8)[:, None]  # the surest first
    settings = knobs(objective="precision_floor", floor=0.93, method="exact")
    reasons = [
        find((np.arange(200) < right)[:, None], raw, settings=settings).classes[0].reason
        for right in (56, 64)
    ]
    assert float(wilson(56, 56, 0.9)[0]) > 0.93 and "cannot be promised" in reasons[0]
    assert "aimed at 93%" in reasons[1]


@pytest.mark.parametrize("name", ["precision_floor", "recall_floor"])
def test_photos_of_a_clip_promise_no_more_than_one_of_them(name):
    y_true, raw = draw(2, images=60, classes=2, prevalence=0.4, shift=40.0)
    eight = [np.repeat(one, 8, axis=0) for one in (y_true, raw)]
    settings = knobs(objective=name, floor=0.8, bootstrap_replicates=1)
    one, many, clips = (
        find(*drawn, settings=settings, groups=groups)
        for drawn, groups in (
            ((y_true, raw), None), (eight, None), (eight, np.arange(480) // 8),
        )
    )  # fmt: skip
    assert [a.reason[:40] for a in clips.classes] == [a.reason[:40] for a in one.classes]
    assert clips.integer.tolist() == one.integer.tolist() != many.integer.tolist()


def test_masked_labels_change_nothing():
    y_true, raw = draw(6)
    mask = np.random.default_rng(0).random(raw.shape) < 0.8
    first = find(y_true, raw, mask=mask)
    second = find(y_true, np.where(mask, raw, 127).astype(np.int8), mask=mask)
    assert first == second
    assert first.scores.unknown_labels == (~mask).sum()


def test_the_same_seed_gives_the_same_answer():
    y_true, raw = draw(7)
    assert find(y_true, raw, 5) == find(y_true, raw, 5)


def test_the_interval_of_the_global_threshold_holds_it():
    found = find(*draw(8, images=2000))
    low, high = found.shared.integer_interval
    assert low <= found.shared.integer <= high


def test_folds_spread_a_rare_class_evenly():
    y_true = np.zeros((100, 2), bool)
    y_true[:10, 0], y_true[:50, 1] = True, True
    folds = assign_folds(y_true, 5, np.random.default_rng(0))
    assert np.bincount(folds[:10], minlength=5).tolist() == [2] * 5


def test_an_interval_of_nothing_is_null():
    assert interval(np.array([np.nan, np.nan])) is None


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"raw": np.zeros((3, 2))}, "float64"),
        ({"raw": np.zeros((3, 3), np.int8)}, r"\(3, 3\)"),
        ({"mask": np.ones((3, 1))}, "mask"),
        ({"scale": 0.0}, "scale"),
        ({"classes": ("a",)}, "1 class names for 2"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(change, words):
    given = {
        "y_true": np.zeros((3, 2)),
        "raw": np.zeros((3, 2), np.int8),
        "scale": 0.1,
        "zero_point": 0,
        "settings": knobs(),
        "classes": ("a", "b"),
        "seed": 0,
    } | change
    with pytest.raises(InputError, match=words):
        search(**given)


def draw_single(seed=0, images=600, strength=3.0):
    rng = np.random.default_rng(seed)
    label = rng.integers(0, 5, images)
    return np.eye(5)[label], rng.normal(0, 1, (images, 5)) + strength * np.eye(5)[label]


def find_unknown(y_true, logits, **options):
    settings = options.pop("settings", SingleLabelSettings())
    return search_unknown(y_true, logits, settings, names(5), 0, **options)


def test_the_unknown_threshold_meets_both_targets_where_it_can():
    found = find_unknown(*draw_single())
    assert found.unknown.meets_target
    assert found.unknown.accepted_accuracy >= 0.95 and found.unknown.coverage >= 0.60


@pytest.mark.parametrize("penalty", [0.0, 3.0, 100.0])
def test_of_the_cuts_that_keep_the_target_from_the_surest_on_the_most_useful_is_taken(penalty):
    y_true, logits = draw_single()
    settings = SingleLabelSettings(threshold_penalty_incorrect=penalty)
    found = find_unknown(y_true, logits, settings=settings)
    confidence, correct = answers(y_true, logits)
    ranked, utilities = correct[np.argsort(-confidence)], []
    for answered in range(360, 601, 30):  # 60, 65, ... 100 % of 600
        right = ranked[:answered].sum()
        if even_ends(right, answered)[0] < 0.95:
            break
        utilities.append((right - penalty * (answered - right)) / 600)
    assert found.unknown.utility == pytest.approx(max(utilities), abs=1e-12)


def test_when_the_target_cannot_be_promised_the_reason_says_what_is():
    found = find_unknown(*draw_single(strength=1.0)).unknown
    assert not found.meets_target and found.coverage >= 0.60
    assert found.reason.startswith("aimed at 95%, held out ")
    low = int(100 * found.accepted_accuracy_interval[0])
    assert f"95% cannot be promised from 600 images while 60% of them get an answer; promised " \
        f"instead: at least {low}% are right" in found.reason  # fmt: skip


def test_a_perfect_record_of_few_answers_promises_nothing():
    few, enough = (find_unknown(*draw_single(images=n, strength=9.0)).unknown for n in (52, 53))
    assert few.accepted_accuracy == enough.accepted_accuracy == 1.0
    assert not few.meets_target and enough.meets_target


def test_labels_do_not_place_the_cuts():
    y_true, logits = draw_single()
    none_right = find_unknown(np.roll(y_true, 1, axis=1), logits).unknown
    confidence, _ = answers(y_true, logits)
    share = (confidence >= none_right.probability).mean()
    assert np.abs(np.arange(0.60, 1.01, 0.05) - share).min() < 1e-9


def test_the_interval_is_that_of_the_cut_that_ships():
    found = find_unknown(*draw_single()).unknown
    row = find_unknown(*draw_single()).curve.query("chosen").iloc[0]
    jeffreys = beta(row.correct + 0.5, row.incorrect + 0.5).ppf([0.025, 0.975])
    assert (row.accuracy_low, row.accuracy_high) == pytest.approx(jeffreys, abs=5e-4)
    assert found.accepted_accuracy_interval == (row.accuracy_low, row.accuracy_high)
    assert (
        f"held out {found.held_out_accuracy:.1%}, here {row.accepted_accuracy:.1%}" in found.reason
    )


def test_the_curve_marks_the_chosen_row_and_spans_all_confidences():
    found = find_unknown(*draw_single())
    assert found.curve.chosen.sum() == 1
    assert found.curve.threshold.iloc[[0, -1]].tolist() == [0, 1]


@pytest.mark.parametrize("seed", range(8))
def test_float32_confidences_decide_as_the_search_did(seed):
    y_true, logits = draw_single(seed)
    found = find_unknown(y_true, logits)
    shifted = logits.astype(np.float32) - logits.max(1, keepdims=True).astype(np.float32)
    single = np.exp(shifted) / np.exp(shifted).sum(1, keepdims=True)
    accepted = single.max(1) >= np.float32(found.probability)
    assert accepted.mean() == pytest.approx(found.unknown.coverage, abs=1e-9)
    confidence, _ = answers(y_true, logits)
    assert np.abs(confidence - found.probability).min() > 3e-7


def test_images_whose_class_is_unknown_take_no_part():
    y_true, logits = draw_single()
    mask = np.ones_like(y_true)
    y_true[:100], mask[:100, 2] = 0, 0
    assert find_unknown(y_true, logits, mask=mask).scores.images == 500


def test_a_person_moves_the_unknown_threshold_to_a_row_of_the_curve():
    found = find_unknown(*draw_single()).edited(0.75, "Ada", "2026-11-20T10:00:00+00:00", "safer")
    row = found.curve[found.curve.chosen].iloc[0]
    assert found.probability == row.threshold == pytest.approx(0.75)
    assert found.unknown.coverage == row.coverage and found.created_by == "person"


def test_a_gain_that_no_resampling_changes_has_no_interval():
    label = np.repeat([True, False], [50, 50])[:, None]
    raw = np.where(label, [[100, 60]], [[-100, -20]]).astype(np.int8)
    entry = find(np.repeat(label, 2, axis=1), raw).classes[0]
    assert entry.gain == 0 and entry.gain_interval is None
    assert "changes no answer" in entry.reason or "also the best" in entry.reason
