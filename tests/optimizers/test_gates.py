"""The gate `evidence`: its outcomes, its guarantee, and when it stops early."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from optimizers.betting import fit_prior
from optimizers.contracts import Decision, Trial
from optimizers.gates import GATES, TwoKeys
from program.errors import ConfigError

LIKELY = Trial(bound=0.25)
GOOD = fit_prior([(6, 1)] * 30)
BAD = fit_prior([(1, 6)] * 30)
PAIRS = st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), max_size=14)
RANK = {"rolled back": 0, "refused": 0, "undecided": 1, "provisional": 1, "confirmed": 2}


def judge(gains: Sequence[float], gate: TwoKeys | None = None, **trial: object) -> Decision:
    """Judge a rewrite with these gains, each in units of the bound."""
    parent = [0.5] * len(gains)
    candidate = [0.5 + 0.25 * gain for gain in gains]
    return (gate or TwoKeys()).judge(parent, candidate, Trial(bound=0.25, **trial))  # type: ignore[arg-type]


def test_the_gate_is_named_evidence() -> None:
    assert GATES.make("evidence") == TwoKeys()
    assert GATES.make("evidence:alpha=0.1,check_items=20") == TwoKeys(alpha=0.1, check_items=20)
    assert GATES.spec_of(TwoKeys(gain=0.2)) == "evidence:gain=0.2"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"alpha": 0.0}, "`alpha` must be above 0 and below 1"),
        ({"alpha": 1.0}, "`alpha` must be above 0 and below 1"),
        ({"alpha": float("nan")}, "`alpha` must be above 0 and below 1"),
        ({"gain": 1.0}, "`gain` must be 0 or more and below 1"),
        ({"gain": -0.1}, "`gain` must be 0 or more and below 1"),
        ({"min_items": 0}, "`min_items` must be 1 or more"),
        ({"check_items": 4}, r"`check_items` must be `min_items` \(5\) or more"),
        ({"check_items": 10**15}, "`check_items` must be at most"),
    ],
)
def test_a_setting_out_of_range_is_refused(settings: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        TwoKeys(**settings)  # type: ignore[arg-type]


def test_eight_full_gains_confirm_a_rewrite_and_five_leave_it_provisional() -> None:
    assert judge([1] * 8).outcome == "confirmed"
    five = judge([1] * 5)
    assert (five.outcome, five.accept) == ("provisional", True)
    assert five.reason == "5 check items are too few to know (8 needed); expected gain +0.58"


def test_a_gain_that_other_users_make_likely_is_provisional_until_this_user_shows_it() -> None:
    mixed = judge([1, 1, 1, -1, 1, -1, 0, 1, 0, 1])
    assert mixed.outcome == "provisional"
    assert mixed.reason == (
        "expected gain +0.20, not yet shown for this user: gains 6.0, losses 2.0 on 10 check items"
    )


def test_no_gain_and_a_loss_are_refused() -> None:
    for gains in ([0] * 9, [-1] * 9, [1, -1] * 4):
        decision = judge(gains)
        assert (decision.outcome, decision.accept) == ("refused", False)
        assert decision.reason.startswith("no gain to expect")


@pytest.mark.parametrize("n", range(1, 5))
def test_with_fewer_than_five_items_nothing_is_confirmed_and_the_reason_says_so(n: int) -> None:
    certain = (0.0,) * 38 + (1.0,)
    gate = TwoKeys(alpha=0.9)  # so easy that wealth alone would do
    for gains in ([1.0] * n, [-1.0] * n):
        decision = judge(gains, gate, prior=certain if gains[0] > 0 else ())
        assert decision.outcome == ("provisional" if gains[0] > 0 else "refused")
        assert "too few to know" in decision.reason


@pytest.mark.parametrize("prior", [(), GOOD], ids=["cold", "good"])
def test_without_any_comparable_item_a_rewrite_is_refused_whatever_other_users_gained(
    prior: tuple[float, ...],
) -> None:
    decision = TwoKeys().judge([], [], Trial(prior=prior))
    assert decision.outcome == "refused"
    assert decision.reason == "no interaction could be scored under both personas"


def test_deciding_without_a_trial_is_the_first_trial_of_a_user_about_whom_nothing_is_known() -> None:
    scores = [0.0] * 9, [1.0] * 9
    assert TwoKeys().decide(*scores) == TwoKeys().judge(*scores, Trial())


def test_other_users_tip_a_close_decision() -> None:
    close = [1, 0, 0, 0, 0]
    assert judge(close, prior=GOOD).accept
    assert not judge(close, prior=BAD).accept


def test_each_further_rewrite_needs_more_evidence() -> None:
    assert judge([1] * 8).outcome == "confirmed"
    assert judge([1] * 8, n_before=1).outcome == "provisional"
    assert judge([1] * 8, n_candidates=8).outcome == "provisional"
    assert judge([1] * 12, n_before=1).outcome == "confirmed"


def test_the_numbers_are_those_of_both_keys_and_are_json() -> None:
    numbers = judge([1, 1, -0.5, 0, 1]).numbers
    assert list(numbers) == ["n", "n_plus", "n_minus", "gain", "wealth", "level"]
    assert (numbers["n"], numbers["n_plus"], numbers["n_minus"]) == (5, 3, 0.5)
    assert numbers["level"] == pytest.approx(0.05 * 6 / 3.14159265**2)
    assert json.loads(json.dumps(judge([1] * 5000).numbers, allow_nan=False))["wealth"] > 1e300


@given(PAIRS, st.booleans(), st.integers(0, 3))
def test_a_better_candidate_is_never_judged_worse(
    pairs: list[tuple[float, float]], more: bool, n_before: int
) -> None:
    parent, candidate = [before for before, _ in pairs], [after for _, after in pairs]
    better = [min(1.0, after + 0.2) for after in candidate]
    trial = Trial(bound=0.25, more=more, n_before=n_before)
    first, second = (TwoKeys().judge(parent, scores, trial) for scores in (candidate, better))
    assert RANK[second.outcome] >= RANK[first.outcome]


@given(PAIRS, st.randoms(use_true_random=False))
def test_the_order_of_the_items_does_not_change_the_outcome(
    pairs: list[tuple[float, float]], rng: random.Random
) -> None:
    first, second = (
        TwoKeys().judge([before for before, _ in some], [after for _, after in some], LIKELY)
        for some in (pairs, rng.sample(pairs, len(pairs)))
    )
    assert first.outcome == second.outcome
    assert first.numbers["gain"] == second.numbers["gain"]


@pytest.mark.parametrize("prior", [(), GOOD], ids=["cold", "good"])
def test_rewrites_without_gain_are_confirmed_for_at_most_alpha_of_the_users(
    prior: tuple[float, ...],
) -> None:
    # Three rewrites for each user, a look after every item, and the hardest null: a coin for every item.
    rng, gate, users, confirmed = random.Random(1), TwoKeys(alpha=0.2, check_items=16), 150, 0
    for _ in range(users):
        for n_before in range(3):
            gains = [rng.choice((-1.0, 1.0)) for _ in range(16)]
            confirmed += any(
                judge(gains[:n], gate, prior=prior, n_before=n_before).outcome == "confirmed"
                for n in range(5, 17)
            )
    assert confirmed <= 0.2 * users


def test_a_rewrite_is_undecided_only_while_more_items_may_come() -> None:
    some = [1, 0, 1, 0, 0, 1]
    waiting = judge(some, more=True)
    assert (waiting.outcome, waiting.accept) == ("undecided", False)
    assert waiting.reason == "needs more check items: gains 3.0, losses 0.0 on 6 check items"
    assert judge(some).outcome == "provisional"
    assert judge([1, 0] * 6, more=True).outcome == "provisional"  # all 12 are there


def test_nothing_scored_yet_is_undecided_while_items_may_come() -> None:
    assert judge([], more=True).outcome == "undecided"


def test_it_stops_as_soon_as_a_rewrite_is_confirmed() -> None:
    outcomes = [judge([1] * n, more=True).outcome for n in range(1, 9)]
    assert outcomes == ["undecided"] * 7 + ["confirmed"]


def test_it_stops_as_soon_as_a_loss_is_as_sure_as_a_gain_would_have_to_be() -> None:
    outcomes = [judge([-1] * n, more=True).outcome for n in range(1, 6)]
    assert outcomes == ["undecided"] * 4 + ["refused"]


def test_it_stops_as_soon_as_no_further_item_can_change_the_outcome() -> None:
    # One item is left: even a full gain gives no more than 1 to 5.
    assert judge([-1, 0, -1, -1, 0, 0, -1, 0, -1, 0, 0], TwoKeys(gain=0.2), more=True).outcome == "refused"
    # One item is left: it cannot confirm, and even a full loss leaves 6 to 1.
    nearly = [1, 0, 1, 1, 0, 1, 0, 0, 1, 1, 0]
    assert judge(nearly, more=True).outcome == "provisional"


@given(PAIRS)
def test_stopping_early_because_nothing_can_change_agrees_with_every_full_check(
    pairs: list[tuple[float, float]],
) -> None:
    gate = TwoKeys(check_items=14)
    parent, candidate = [before for before, _ in pairs], [after for _, after in pairs]
    decision = gate.judge(parent, candidate, Trial(bound=0.25, more=True))
    if decision.outcome == "provisional":
        left = 14 - len(pairs)
        for end in (0.0, 1.0):
            full = gate.judge([*parent, *[0.5] * left], [*candidate, *[end] * left], LIKELY)
            assert full.outcome == "provisional"


def test_a_kept_rewrite_is_confirmed_once_later_interactions_show_its_gain() -> None:
    gains = [1] * 5
    assert judge(gains).outcome == "provisional"
    decision = TwoKeys().review([0.1] * 8, [0.5] * 8, LIKELY, later=3)
    assert (decision.outcome, decision.accept) == ("confirmed", True)


def test_a_confirmed_rewrite_is_rolled_back_if_later_interactions_alone_show_a_loss() -> None:
    parent, candidate = [0.1] * 12 + [0.5] * 8, [0.5] * 12 + [0.1] * 8
    decision = TwoKeys().review(parent, candidate, LIKELY, later=8)
    assert (decision.outcome, decision.accept) == ("rolled back", False)
    assert decision.reason == "later interactions speak against it: gains 12.0, losses 8.0 on 20 check items"
    assert TwoKeys().review(parent, candidate, LIKELY, later=7).outcome != "rolled back"


def test_a_provisional_rewrite_is_rolled_back_as_soon_as_a_loss_is_to_be_expected() -> None:
    parent, candidate = [0.1] * 2 + [0.5] * 3, [0.5] * 2 + [0.1] * 3
    assert TwoKeys().review(parent, candidate, LIKELY, later=3).outcome == "rolled back"
    assert TwoKeys().review(parent[:4], candidate[:4], LIKELY, later=2).outcome == "provisional"


def test_a_review_needs_the_later_items_to_be_among_all_items() -> None:
    for later in (-1, 3):
        with pytest.raises(ConfigError, match="`later` must be 0 to 2"):
            TwoKeys().review([0.5] * 2, [0.5] * 2, LIKELY, later=later)


def test_a_decision_without_an_outcome_stays_as_it_was() -> None:
    assert Decision(accept=True, reason="kept").outcome == ""
