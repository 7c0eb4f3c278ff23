"""The arithmetic of the gate `evidence`: what few scores say, and how sure it is."""

from __future__ import annotations

import math
import random
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from optimizers import betting
from optimizers.betting import COLD_PRIOR, RHO, evidence, fit_prior, gain_over_users, level, log_wealth
from program.errors import ConfigError

GAINS = st.lists(st.floats(-1, 1), max_size=20)
SUMS = st.floats(0, 20)
PRIORS = st.lists(st.floats(0, 1), min_size=39, max_size=39).filter(lambda weights: sum(weights) > 1e-6)
ONLY = {rho: tuple(float(value == rho) for value in RHO) for rho in (0.25, 0.5, 0.75)}


def half_and_half(low: float, high: float) -> list[float]:
    return [0.5 * (rho in (low, high)) for rho in RHO]


def test_the_win_rates_are_39_steps_of_a_fortieth_around_one_half() -> None:
    assert (len(RHO), RHO[0], RHO[19], RHO[-1]) == (39, 0.025, 0.5, 0.975)


def test_a_difference_counts_up_to_the_bound() -> None:
    found = evidence([0.0, 0.5, 0.9, 0.3], [1.0, 0.625, 0.4, 0.3], bound=0.25)
    assert found == ((1.0, 0.5, -1.0, 0.0), 1.5, 1.0)
    assert evidence([0.0, 1.0], [1.0, 1.0]) == ((1.0, 0.0), 1.0, 0.0)


@pytest.mark.parametrize("bound", [0.0, -1.0, 1.5, math.nan])
def test_a_bound_out_of_range_is_refused(bound: float) -> None:
    with pytest.raises(ConfigError, match="`bound` must be above 0 and at most 1"):
        evidence([0.0], [1.0], bound)


def test_scores_that_cannot_be_compared_are_refused() -> None:
    with pytest.raises(ValueError, match="a score for each interaction, got 2 and 1"):
        evidence([0.0, 1.0], [1.0])
    with pytest.raises(ValueError, match="scores must be numbers"):
        evidence([0.0], [math.nan])


@pytest.mark.parametrize(
    ("n_plus", "n_minus", "gain"),
    [
        (0, 0, 0.0),
        (1, 0, 0.25),  # (.75 - .25) / (.75 + .25), times 2 x .75 - 1
        (2, 0, 0.4),  # (.5625 - .0625) / (.5625 + .0625) / 2
        (1, 1, 0.0),
        (0, 1, -0.25),
    ],
)
def test_the_expected_gain_is_the_one_worked_out_by_hand(n_plus: int, n_minus: int, gain: float) -> None:
    assert gain_over_users(n_plus, n_minus, half_and_half(0.25, 0.75)) == pytest.approx(gain)


@pytest.mark.parametrize("n", [1, 2, 3.5, 7, 100])
def test_as_many_gains_as_losses_are_exactly_no_gain(n: float) -> None:
    assert gain_over_users(n, n) == 0


def test_wealth_is_the_one_worked_out_by_hand() -> None:
    # Half on the prior's .75, which stakes .5; half alike on .525, ..., .975, which stake .05, ..., .95.
    stakes = [step / 20 for step in range(1, 20)]
    both = 0.5 * 1.5 * 0.75 + 0.5 * sum((1 + stake) * (1 - stake / 2) for stake in stakes) / 19
    assert math.exp(log_wealth([1.0, -0.5], ONLY[0.75])) == pytest.approx(both)
    # A prior without any gain leaves the even half.
    assert math.exp(log_wealth([1.0], ONLY[0.25])) == pytest.approx(1.5)
    assert log_wealth([], ONLY[0.75]) == 0.0


def test_wealth_of_a_thousand_items_stays_a_number() -> None:
    huge = log_wealth([1.0] * 5000)
    assert math.isfinite(huge)
    assert math.isfinite(betting.wealth(huge))
    assert math.isfinite(log_wealth([-1.0] * 5000))
    assert gain_over_users(5000, 0) == pytest.approx(0.95)


@given(SUMS, SUMS, st.floats(0, 5), PRIORS)
def test_more_gains_never_lower_the_expected_gain_and_more_losses_never_raise_it(
    n_plus: float, n_minus: float, more: float, prior: list[float]
) -> None:
    gain = gain_over_users(n_plus, n_minus, prior)
    assert -1 < gain < 1
    assert gain_over_users(n_plus + more, n_minus, prior) >= gain - 1e-9
    assert gain_over_users(n_plus, n_minus + more, prior) <= gain + 1e-9


@given(SUMS, SUMS, PRIORS)
def test_swapping_the_personas_turns_the_sign_of_the_expected_gain(
    n_plus: float, n_minus: float, prior: list[float]
) -> None:
    gain = gain_over_users(n_plus, n_minus, prior)
    assert gain_over_users(n_minus, n_plus, prior[::-1]) == pytest.approx(-gain, abs=1e-9)


@given(GAINS, PRIORS, st.randoms(use_true_random=False))
def test_the_order_of_the_items_has_no_influence(
    gains: list[float], prior: list[float], rng: random.Random
) -> None:
    mixed = rng.sample(gains, len(gains))
    first, second = (evidence([0.0] * len(d), d) for d in (gains, mixed))
    assert (first.n_plus, first.n_minus) == (second.n_plus, second.n_minus)
    assert log_wealth(gains, prior) == pytest.approx(log_wealth(mixed, prior), abs=1e-9)


@given(GAINS, PRIORS, st.floats(-1, 1))
def test_the_bet_is_fair_if_an_item_gains_nothing_on_average(
    gains: list[float], prior: list[float], gain: float
) -> None:
    won, lost = (math.exp(log_wealth([*gains, d], prior)) for d in (gain, -gain))
    assert (won + lost) / 2 == pytest.approx(math.exp(log_wealth(gains, prior)), rel=1e-6)


@given(GAINS, PRIORS, st.floats(0, 1))
def test_a_gain_never_lowers_wealth(gains: list[float], prior: list[float], gain: float) -> None:
    assert log_wealth([*gains, gain], prior) >= log_wealth(gains, prior) - 1e-9


@pytest.mark.parametrize("prior", [COLD_PRIOR, fit_prior([(6, 1)] * 30)], ids=["cold", "good"])
def test_wealth_of_symmetric_items_seldom_reaches_its_limit_however_often_one_looks(
    prior: tuple[float, ...],
) -> None:
    rng = random.Random(0)
    reached = 0
    for _ in range(400):
        gains = [rng.choice((-1.0, -0.5, 0.5, 1.0)) for _ in range(30)]
        reached += any(log_wealth(gains[:n], prior) >= math.log(10) for n in range(1, 31))
    assert 0 < reached <= 40  # a level of .1


def test_the_levels_of_all_rewrites_of_a_user_sum_to_alpha() -> None:
    levels = [level(0.05, n_before) for n_before in range(100_000)]
    assert sum(levels) == pytest.approx(0.05, rel=1e-4)
    assert sum(levels) < 0.05
    assert level(0.05, 2, 4) == pytest.approx(levels[2] / 4)


@pytest.mark.parametrize(("n_before", "n_candidates"), [(-1, 1), (0, 0)])
def test_impossible_counts_of_rewrites_are_refused(n_before: int, n_candidates: int) -> None:
    with pytest.raises(ConfigError, match="`n_before` of 0 or more and `n_candidates` of 1 or more"):
        level(0.05, n_before, n_candidates)


def test_items_needed_is_the_first_number_of_full_gains_that_reaches_the_level() -> None:
    needed = betting.items_needed(level(0.05))
    assert log_wealth([1.0] * needed) >= -math.log(level(0.05)) > log_wealth([1.0] * (needed - 1))


def test_five_items_never_confirm_a_rewrite_at_the_default_level_whatever_the_prior() -> None:
    surest = [0.0] * 38 + [1.0]
    assert betting.items_needed(level(0.05), surest) == 6


def test_a_prior_without_trials_is_the_cold_one_which_can_still_be_moved() -> None:
    assert fit_prior([]) == COLD_PRIOR
    assert sum(COLD_PRIOR) == pytest.approx(1)
    assert gain_over_users(0, 0, COLD_PRIOR) == pytest.approx(0)
    assert gain_over_users(1, 0, COLD_PRIOR) > 0.1
    # A point at one half alone keeps nothing, ever.
    assert gain_over_users(20, 0, ONLY[0.5]) == 0


def test_one_other_user_moves_the_prior_little_and_many_move_it_far() -> None:
    one, many = fit_prior([(5, 0)]), fit_prior([(5, 0)] * 50)
    assert 0 < gain_over_users(0, 0, one) < 0.35
    assert gain_over_users(0, 0, many) > 0.8
    assert gain_over_users(1, 0, fit_prior([(1, 5)] * 50)) < 0


@given(st.lists(st.tuples(SUMS, SUMS), max_size=10))
def test_a_fitted_prior_is_a_distribution_that_leaves_every_win_rate_possible(
    trials: list[tuple[float, float]],
) -> None:
    prior = fit_prior(trials)
    assert len(prior) == 39
    assert sum(prior) == pytest.approx(1)
    assert min(prior) > 0
    assert fit_prior(trials[::-1]) == pytest.approx(prior, abs=1e-9)


def test_a_fitted_prior_is_that_of_em_by_hand() -> None:
    trials = [(3.2, 0.4), (0.0, 2.5), (1.0, 1.0), (6.0, 0.1)]
    weights = list(COLD_PRIOR)
    for _ in range(100):
        fitted = [0.0] * 39
        for n_plus, n_minus in trials:
            joint = [w * rho**n_plus * (1 - rho) ** n_minus for w, rho in zip(weights, RHO, strict=True)]
            fitted = [old + new / sum(joint) for old, new in zip(fitted, joint, strict=True)]
        # Beside the trials, one user whose rewrite changes nothing and one who may have any win rate.
        pseudo = [1 / 39 + (1 if rho == 0.5 else 0) for rho in RHO]
        weights = [(old + new) / (len(trials) + 2) for old, new in zip(fitted, pseudo, strict=True)]
    assert fit_prior(trials) == pytest.approx(weights, rel=1e-9)


@pytest.mark.parametrize("pair", [(-1.0, 0.0), (math.nan, 0.0), (0.0, math.inf)])
def test_a_trial_without_proper_sums_is_refused(pair: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="two sums of 0 or more"):
        fit_prior([pair])


@pytest.mark.parametrize("prior", [[1.0], [0.0] * 39, [-1.0] + [1.0] * 38, [math.nan] * 39])
def test_a_prior_that_is_no_distribution_is_refused(prior: list[float]) -> None:
    with pytest.raises(ConfigError, match="a prior needs 39 weights"):
        gain_over_users(1, 0, prior)


def test_importing_the_gates_imports_no_numpy_or_scipy_of_their_own() -> None:
    code = (
        "import sys, dspy; before = {'numpy', 'scipy'} & set(sys.modules)\n"
        "import optimizers.gates; print({'numpy', 'scipy'} & set(sys.modules) - before)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "set()"
