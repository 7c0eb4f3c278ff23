"""Tests of usage totals, and of the circuit breaker that guards the tracer."""

from __future__ import annotations

import copy
import logging
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from program.tracing.weave.circuit_breaker import CircuitBreaker
from program.tracing.weave.usage_totals import add, of_call

TOTALS = st.recursive(
    st.dictionaries(st.sampled_from("ab"), st.integers(0, 9), max_size=2),
    lambda inner: st.dictionaries(st.sampled_from("xy"), inner, max_size=2),
    max_leaves=4,
)


def leaf_sum(totals: Any) -> int:
    return sum(map(leaf_sum, totals.values())) if isinstance(totals, dict) else int(totals)


@given(st.lists(TOTALS, max_size=4))
def test_sum_over_all_leaves_is_the_sum_of_the_sums(parts: list[dict[str, Any]]) -> None:
    total: dict[str, Any] = {}
    for part in parts:
        add(total, part)
    assert leaf_sum(total) == sum(map(leaf_sum, parts))


@given(TOTALS, TOTALS)
def test_addition_does_not_depend_on_the_order(first: dict[str, Any], second: dict[str, Any]) -> None:
    there, back = copy.deepcopy(first), copy.deepcopy(second)
    add(there, second)
    add(back, first)
    assert there == back


def test_adding_does_not_share_state_with_the_summary() -> None:
    summary = {"usage": {"m": {"requests": 1}}}
    total: dict[str, Any] = {}
    add(total, summary)
    add(total, summary)
    assert total == {"usage": {"m": {"requests": 2}}}
    assert summary == {"usage": {"m": {"requests": 1}}}


@pytest.mark.parametrize("foreign", [{"usage": 3}, {"usage": {"m": "text"}}, {"title": "step 1", "x": None}])
def test_foreign_summaries_do_not_break_the_totals(foreign: dict[str, Any]) -> None:
    total: dict[str, Any] = {"usage": {"m": {"requests": 1}}}
    add(total, foreign)
    assert total["usage"]["m"] == {"requests": 1}


@pytest.mark.parametrize(
    ("entry", "cost"),
    [
        ({"usage": {"prompt_tokens": 7, "completion_tokens": 2}, "cost": 0.5}, (0.5, 0, 0)),
        ({"usage": {"prompt_tokens": 7, "completion_tokens": 2}, "cost": None}, (0.0, 1, 0)),
        ({"usage": {"prompt_tokens": 7}, "cost": 0.5, "cache_hit": True}, (0.0, 0, 1)),
        # DSPy clears the usage of an answer from its own cache.
        ({"usage": {}, "cost": 0.5}, (0.0, 0, 1)),
        ({"usage": None}, (0.0, 0, 1)),
    ],
)
def test_cost_of_a_call_is_its_price_unless_cached(entry: dict[str, Any], cost: tuple[Any, ...]) -> None:
    totals = of_call({"model": "m", **entry})
    assert tuple(totals["cost"].values()) == cost
    assert list(totals["cost"]) == ["usd", "unpriced", "cache_hits"]


def test_tokens_of_a_call_are_counted_by_model() -> None:
    totals = of_call({"model": "m", "usage": {"prompt_tokens": 7, "completion_tokens": 2}, "cost": 0})
    assert totals["usage"] == {
        "m": {"requests": 1, "prompt_tokens": 7, "completion_tokens": 2, "total_tokens": 9}
    }


def fail() -> None:
    raise OSError("No space left on device: my secret")


def test_two_failures_in_a_row_do_not_pause() -> None:
    breaker, runs = CircuitBreaker(), []
    for _ in range(3):
        breaker.attempt(fail)
        breaker.attempt(fail)
        breaker.attempt(lambda: runs.append(1))
    assert (breaker.failed, len(runs)) == (6, 3)


def test_pause_skips_working_actions_and_counts_them(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr("program.tracing.weave.circuit_breaker.time.monotonic", lambda: clock[0])
    breaker, runs = CircuitBreaker(), []
    for _ in range(3):
        breaker.attempt(fail)
    breaker.attempt(lambda: runs.append(1))
    assert (breaker.failed, runs) == (4, [])
    clock[0] = 5.0
    breaker.attempt(lambda: runs.append(1))
    assert (breaker.failed, runs) == (4, [1])


def test_longest_pause_is_five_minutes(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, attempts = [0.0], []
    monkeypatch.setattr("program.tracing.weave.circuit_breaker.time.monotonic", lambda: clock[0])
    breaker = CircuitBreaker()

    def attempt() -> None:
        attempts.append(clock[0])
        fail()

    for second in range(3000):
        clock[0] = float(second)
        breaker.attempt(attempt)
    assert max(b - a for a, b in pairwise(attempts)) == 300.0


def test_only_the_first_failure_is_logged_and_without_its_message(caplog: pytest.LogCaptureFixture) -> None:
    breaker = CircuitBreaker()
    with caplog.at_level(logging.WARNING), ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: breaker.attempt(fail), range(40)))
    assert breaker.failed == 40
    assert [record.message for record in caplog.records] == [
        "tracing failed (OSError); the run goes on without its trace"
    ]


def test_interrupts_pass_through() -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    breaker = CircuitBreaker()
    with pytest.raises(KeyboardInterrupt):
        breaker.attempt(interrupt)
    assert breaker.failed == 0
