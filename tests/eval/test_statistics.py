import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm, t

from eval.metrics import get_metric
from eval.statistics import (
    Settings,
    difference,
    holm,
    interval,
    mcnemar,
    min_users,
    power,
)
from eval.tasks.lamp_2m import TASK as MOVIES
from program.errors import ConfigError

ACCURACY, MAE, F1 = get_metric("accuracy"), get_metric("mae"), get_metric("f1")


def rows(values):
    return np.array([[value, 1.0] for value in values])


def one_each(count):
    return [f"u{n}" for n in range(count)]


def test_value_is_the_mean_over_answers_not_over_users():
    ci = interval(rows([1, 0, 0, 0]), ["a", "b", "b", "b"], ACCURACY)
    assert ci.value == 0.25
    assert (ci.n, ci.users) == (4, 2)


def test_equal_seeds_give_equal_intervals():
    values, users = rows([1, 0, 1, 1, 0, 1, 0, 0]), one_each(8)
    assert interval(values, users, ACCURACY) == interval(values, users, ACCURACY)
    other = interval(values, users, ACCURACY, Settings(seed=1, resamples=317))
    assert other != interval(values, users, ACCURACY, Settings(seed=2, resamples=317))


def test_interval_is_the_t_interval_for_means_of_many_users():
    values = np.random.default_rng(0).normal(2.0, 1.0, size=200)
    ci = interval(rows(values), one_each(200), MAE, Settings(resamples=20000))
    half = t.ppf(0.975, 199) * values.std(ddof=1) / math.sqrt(200)
    assert ci.low == pytest.approx(values.mean() - half, abs=0.01)
    assert ci.high == pytest.approx(values.mean() + half, abs=0.01)


def test_copies_of_a_users_answers_do_not_narrow_the_interval():
    values, users = [1, 0, 1, 1, 0, 1, 0, 0, 1, 1], one_each(10)
    single = interval(rows(values), users, ACCURACY)
    repeated = interval(rows(values * 50), users * 50, ACCURACY)
    assert (repeated.low, repeated.high) == pytest.approx((single.low, single.high))


def test_answers_of_one_user_are_kept_together():
    # Users are all right or all wrong: the sample is 4 users, not 400 answers.
    users = [f"u{n // 100}" for n in range(400)]
    ci = interval(rows([1] * 200 + [0] * 200), users, ACCURACY)
    assert (ci.low, ci.high) == (0.0, 1.0)


def test_one_user_has_no_interval():
    ci = interval(rows([1, 0]), ["a", "a"], ACCURACY)
    assert (ci.value, ci.low, ci.high) == (0.5, None, None)
    assert ci.reason == "an interval needs at least two users"


def test_resamples_in_chunks_are_complete(monkeypatch):
    values, users = rows([1, 0, 1, 1, 0, 1, 0, 0]), one_each(8)
    monkeypatch.setattr("eval.statistics._CELLS_AT_ONCE", 80)
    ci = interval(values, users, ACCURACY, Settings(resamples=1003))
    assert 0.0 <= ci.low < ci.value < ci.high <= 1.0


def test_intervals_have_their_nominal_coverage():
    # 20 users with 1 to 9 answers each, their own chance of being right, mean chance 0.6.
    rng = np.random.default_rng(5)
    hits, trials = 0, 400
    for trial in range(trials):
        sizes = rng.integers(1, 10, size=20)
        chances = rng.beta(3, 2, size=20)
        users = np.repeat(one_each(20), sizes).tolist()
        right = rng.random(sizes.sum()) < np.repeat(chances, sizes)
        ci = interval(rows(right), users, ACCURACY, Settings(resamples=600, seed=trial))
        hits += ci.low <= 0.6 <= ci.high
    assert 0.92 <= hits / trials <= 0.98


def test_intervals_of_macro_f1_use_the_corpus_formula():
    predictions = ["comedy", "action", "comedy", "action"] * 5
    golds = ["comedy", "action", "action", "action"] * 5
    users = [f"u{n // 2}" for n in range(20)]
    ci = interval(F1.rows(predictions, golds, MOVIES), users, F1)
    # comedy: TP 5, FP 5 -> 2/3; action: TP 10, FN 5 -> 4/5; 13 classes at 0.
    assert ci.value == pytest.approx((2 / 3 + 4 / 5) / 15)
    assert ci.low < ci.value < ci.high


def test_difference_of_equal_methods_is_undecided():
    values = rows([1, 0, 1, 0, 1, 1, 0])
    comparison = difference(values, values, one_each(7), ACCURACY)
    assert (comparison.interval.value, comparison.interval.low, comparison.interval.high) == (0.0, 0.0, 0.0)
    assert comparison.verdict == "undecided"
    assert comparison.p == 1.0


def test_pairing_sees_what_two_intervals_do_not():
    base = np.arange(30) % 5
    a, b, users = rows(base + 0.2 + 0.01 * (np.arange(30) % 3)), rows(base), one_each(30)
    assert interval(a, users, MAE).low < interval(b, users, MAE).high
    assert difference(a, b, users, MAE).interval.low > 0.19


def test_verdict_follows_the_direction_of_the_metric():
    a, b, users = rows([1] * 18 + [0, 0]), rows([0] * 18 + [0, 1]), one_each(20)
    assert difference(a, b, users, ACCURACY).verdict == "better"
    assert difference(b, a, users, ACCURACY).verdict == "worse"
    assert difference(a, b, users, MAE).verdict == "worse"


def test_five_users_are_always_undecided():
    a, b = rows([1] * 5), rows([0] * 5)
    assert difference(a, b, one_each(5), ACCURACY).verdict == "undecided"
    assert difference(rows([1] * 6), rows([0] * 6), one_each(6), ACCURACY).verdict == "better"


@pytest.mark.parametrize(("confidence", "users"), [(0.95, 6), (0.99, 8), (0.5, 2)])
def test_min_users_makes_a_unanimous_sign_test_significant(confidence, users):
    assert min_users(confidence) == users
    assert 2 * 0.5**users <= 1 - confidence < 2 * 0.5 ** (users - 1)


def test_randomisation_p_is_the_share_of_swaps_as_extreme():
    # Six users all in A's favour: of 64 swaps, two are as extreme (no swap and all swaps): 2/64.
    comparison = difference(rows([1] * 6), rows([0] * 6), one_each(6), ACCURACY, Settings(resamples=50_000))
    assert comparison.p == pytest.approx(2 / 64, abs=0.003)


def test_equal_methods_rarely_differ_significantly():
    rng = np.random.default_rng(11)
    decided, significant = 0, 0
    for seed in range(300):
        users = [f"u{n // 4}" for n in range(80)]
        own = np.repeat(rng.random(20), 4)
        a, b = rows(rng.random(80) < own), rows(rng.random(80) < own)
        comparison = difference(a, b, users, ACCURACY, Settings(resamples=400, seed=seed))
        decided += comparison.verdict != "undecided"
        significant += comparison.p <= 0.05
    assert decided / 300 <= 0.08
    assert significant / 300 <= 0.08


def test_rejects_methods_with_different_queries():
    with pytest.raises(ConfigError, match="same queries, got 2 and 3"):
        difference(rows([1, 0]), rows([1, 0, 0]), ["a", "b"], ACCURACY)


def test_rejects_answers_without_user_id():
    with pytest.raises(ConfigError, match="got 2 answers and 1 user id"):
        interval(rows([1, 0]), ["a"], ACCURACY)


@pytest.mark.parametrize(
    ("only_a", "only_b", "p"),
    [(3, 0, 0.25), (0, 0, 1.0), (5, 5, 1.0), (1, 9, 2 * 11 / 1024), (6, 0, 2 / 64)],
)
def test_mcnemar_is_the_exact_binomial_test(only_a, only_b, p):
    a = [True] * only_a + [False] * only_b + [True, False]
    b = [False] * only_a + [True] * only_b + [True, False]
    test = mcnemar(a, b)
    assert (test.only_a, test.only_b, test.n) == (only_a, only_b, only_a + only_b + 2)
    assert test.p == pytest.approx(p)


def test_mcnemar_rejects_different_lengths():
    with pytest.raises(ConfigError, match="got 1 and 2 answers"):
        mcnemar([True], [True, False])


def test_holm_matches_hand_computed_values():
    assert holm({"x": 0.03, "y": 0.01, "z": 0.04, "w": 0.005}) == pytest.approx(
        {"x": 0.06, "y": 0.03, "z": 0.06, "w": 0.02}
    )


def test_holm_is_at_most_one_and_keeps_the_order():
    adjusted = holm({"b": 0.9, "a": 0.6})
    assert list(adjusted) == ["b", "a"]
    assert adjusted == {"b": 1.0, "a": 1.0}
    assert holm({}) == {}


def test_power_of_one_answer_per_user_is_the_textbook_formula():
    differences = np.array([1.0, 0.0, 0.0, 1.0, -1.0, 1.0, 0.0, 0.0, 1.0, 0.0])
    estimate = power(rows(differences), rows(np.zeros(10)), one_each(10), MAE)
    z = norm.ppf(0.975) + norm.ppf(0.8)
    deviation = differences.std(ddof=1)
    assert estimate.users_needed == math.ceil((z * deviation / 0.3) ** 2)
    assert estimate.detectable == pytest.approx(z * deviation / math.sqrt(10))


def test_power_counts_users_not_answers():
    differences = [1.0, 0.0, 0.0, 1.0, -1.0, 1.0, 0.0, 0.0, 1.0, 0.0]
    users = one_each(10)
    single = power(rows(differences), rows([0.0] * 10), users, MAE)
    repeated = power(rows(differences * 20), rows([0.0] * 200), users * 20, MAE)
    assert repeated.users_needed == single.users_needed


def test_needed_users_detect_the_difference_at_the_target_power():
    pilot = np.random.default_rng(2).normal(0.3, 1.0, size=60)
    n = power(rows(pilot), rows(np.zeros(60)), one_each(60), MAE).users_needed
    rng = np.random.default_rng(3)
    detected = 0
    for seed in range(200):
        sample, zero = rows(rng.choice(pilot, size=n)), rows(np.zeros(n))
        detected += (
            difference(sample, zero, one_each(n), MAE, Settings(resamples=300, seed=seed)).interval.low > 0
        )
    assert 0.7 <= detected / 200 <= 0.9


def test_power_of_a_zero_difference_is_unknown():
    estimate = power(rows([1, 0]), rows([0, 1]), one_each(2), ACCURACY)
    assert (estimate.users_needed, estimate.reason) == (None, "the observed difference is zero")


def test_power_of_one_user_is_unknown():
    estimate = power(rows([1, 1]), rows([0, 1]), ["a", "a"], ACCURACY)
    assert (estimate.users_needed, estimate.detectable, estimate.reason) == (
        None,
        None,
        "the variance needs at least two users",
    )


@pytest.mark.parametrize("wrong", [{"resamples": 99}, {"confidence": 1.0}, {"confidence": 0.0}])
def test_rejects_invalid_settings(wrong):
    with pytest.raises(ConfigError, match=f"`{next(iter(wrong))}` must be"):
        Settings(**wrong)


P_VALUES = st.dictionaries(st.text(max_size=2), st.floats(0, 1), max_size=6)


@given(P_VALUES)
@settings(max_examples=50)
def test_holm_lies_between_the_raw_p_and_bonferroni(p_values):
    adjusted = holm(p_values)
    assert list(adjusted) == list(p_values)
    for name, p in p_values.items():
        assert p <= adjusted[name] <= min(1.0, len(p_values) * p) + 1e-12


@given(P_VALUES)
@settings(max_examples=50)
def test_holm_keeps_the_ranking(p_values):
    adjusted = holm(p_values)
    ranked = sorted(p_values, key=lambda name: p_values[name])
    assert [adjusted[name] for name in ranked] == sorted(adjusted.values())


@given(st.lists(st.tuples(st.booleans(), st.booleans()), max_size=20))
@settings(max_examples=50)
def test_mcnemar_is_symmetric(pairs):
    a, b = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    forward, backward = mcnemar(a, b), mcnemar(b, a)
    assert (forward.only_a, forward.only_b, forward.p) == (backward.only_b, backward.only_a, backward.p)
    assert 0.0 < forward.p <= 1.0


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=2, max_size=12))
@settings(max_examples=20)
def test_difference_changes_sign_when_methods_are_swapped(pairs):
    a, b = rows([pair[0] for pair in pairs]), rows([pair[1] for pair in pairs])
    users, few = one_each(len(pairs)), Settings(resamples=100)
    forward, backward = difference(a, b, users, ACCURACY, few), difference(b, a, users, ACCURACY, few)
    assert forward.interval.value == pytest.approx(-backward.interval.value)
    assert forward.interval.low == pytest.approx(-backward.interval.high)
    assert forward.p == pytest.approx(backward.p)
    verdicts = {forward.verdict, backward.verdict}
    assert verdicts in ({"undecided"}, {"better", "worse"})


@given(st.permutations(range(6)))
@settings(max_examples=20)
def test_value_does_not_depend_on_the_order_of_answers(order):
    values, users = rows([1, 0, 1, 1, 0, 0]), ["a", "a", "b", "b", "b", "c"]
    ci = interval(values[order], [users[n] for n in order], ACCURACY, Settings(resamples=100))
    assert ci.value == 0.5
    assert ci.users == 3


def test_higher_confidence_gives_a_wider_interval():
    values, users = rows(np.random.default_rng(4).random(40)), one_each(40)
    widths = []
    for confidence in (0.5, 0.9, 0.99):
        ci = interval(values, users, MAE, Settings(confidence=confidence))
        widths.append(ci.high - ci.low)
    assert widths == sorted(widths)
    assert widths[0] > 0


def test_constant_answers_have_an_interval_of_width_zero():
    ci = interval(rows([0.25] * 9), one_each(9), MAE)
    assert (ci.low, ci.value, ci.high) == (0.25, 0.25, 0.25)


def test_intervals_of_a_share_stay_within_zero_and_one():
    ci = interval(rows([1, 1, 1, 0]), one_each(4), ACCURACY, Settings(confidence=0.999))
    assert 0.0 <= ci.low <= ci.value <= ci.high <= 1.0


def test_rejects_an_interval_without_answers():
    with pytest.raises(ConfigError, match="got 0 answers and 0 user ids"):
        interval(np.zeros((0, 2)), [], ACCURACY)


def test_p_is_never_zero():
    comparison = difference(rows([1] * 30), rows([0] * 30), one_each(30), ACCURACY, Settings(resamples=100))
    assert comparison.p == 1 / 101


def test_more_power_needs_more_users():
    a, users = rows([1.0, 0.0, 0.0, 1.0, -1.0, 1.0, 0.0, 0.0, 1.0, 0.0]), one_each(10)
    needed = [
        power(a, rows([0.0] * 10), users, MAE, target=target).users_needed for target in (0.5, 0.8, 0.95)
    ]
    assert needed == sorted(needed)
    assert needed[0] < needed[-1]


def test_needed_users_are_at_least_min_users():
    estimate = power(rows([1.0, 1.0, 0.999]), rows([0.0] * 3), one_each(3), MAE)
    assert estimate.users_needed == min_users()


def test_chunked_draws_equal_draws_at_once(monkeypatch):
    values, users = rows([1, 0, 1, 1, 0, 1, 0, 0]), one_each(8)
    at_once = interval(values, users, ACCURACY, Settings(resamples=500))
    monkeypatch.setattr("eval.statistics._CELLS_AT_ONCE", 500 * 8 - 1)
    chunked = interval(values, users, ACCURACY, Settings(resamples=500))
    assert (chunked.low, chunked.high) == (at_once.low, at_once.high)
