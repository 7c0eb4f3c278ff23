"""Usage is counted once for each call, stage and run; a budget stops the next call."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import Any

import dspy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from program.errors import BudgetExceededError
from program.models.scripted import scripted_lm
from program.usage import (
    Budget,
    Usage,
    UsageTracker,
    current_tracker,
    reserve_call,
    stage,
    track_if_untracked,
    track_lm,
    track_usage,
)

ECHO = dspy.Predict("question -> answer")


def lm() -> Any:
    return scripted_lm(lambda system, user: "[[ ## answer ## ]]\nyes\n\n[[ ## completed ## ]]")


def ask(number: int = 0) -> str:
    reserve_call()
    return str(ECHO(question=str(number)).answer)


def test_counts_calls_and_tokens_by_stage() -> None:
    with track_usage(UsageTracker(), lm()) as tracker:
        with stage("one"):
            ask()
        with stage("two"):
            ask()
            ask()
    stages = tracker.by_stage()
    assert {name: usage.calls for name, usage in stages.items()} == {"one": 1, "two": 2}
    assert stages["two"].output_tokens == 2 * stages["one"].output_tokens > 0
    assert tracker.total().calls == 3
    assert tracker.total().unpriced == 3


def test_counts_in_threads_and_asyncio() -> None:
    async def many() -> None:
        await asyncio.gather(*(ECHO.acall(question=str(n)) for n in range(20)))

    with track_usage(UsageTracker(), lm()) as tracker:
        with ThreadPoolExecutor(8) as pool:
            futures = [pool.submit(copy_context().run, ask, n) for n in range(40)]
            assert {future.result() for future in futures} == {"yes"}
        asyncio.run(many())
    assert tracker.total().calls == 60


def test_inner_run_also_counts_in_the_outer_run() -> None:
    with track_usage(UsageTracker(Budget(max_calls=3)), lm()) as outer:
        ask()
        with track_usage(UsageTracker(parent=current_tracker())) as inner:
            ask()
            ask()
            with pytest.raises(BudgetExceededError):
                ask()
    assert (inner.total().calls, outer.total().calls) == (2, 3)


def test_budget_applies_across_threads() -> None:
    model = lm()
    with track_usage(UsageTracker(Budget(max_calls=10)), model) as tracker, ThreadPoolExecutor(8) as pool:
        futures = [pool.submit(copy_context().run, ask, n) for n in range(30)]
        refused = sum(isinstance(future.exception(), BudgetExceededError) for future in futures)
    assert refused == 20
    assert len(model.engine.prompts) == tracker.total().calls == 10


def test_reached_max_usd_stops_the_next_call() -> None:
    tracker = UsageTracker(Budget(max_usd=0.01))
    tracker.record({"usage": {"prompt_tokens": 5, "completion_tokens": 1}, "cost": 0.02})
    with pytest.raises(BudgetExceededError, match=r"stopped at \$0.0200: the limit is \$0.01"):
        tracker.reserve()


def test_cache_hit_costs_nothing() -> None:
    tracker = UsageTracker()
    tracker.record({"usage": {}, "cost": 0.5, "cache_hit": True})
    total = tracker.total()
    assert (total.calls, total.cache_hits, total.usd, total.unpriced) == (1, 1, 0.0, 0)


@pytest.mark.parametrize(
    "usage",
    [
        None,
        {},
        {"prompt_tokens": None, "completion_tokens": None},
        {"prompt_tokens": 0, "completion_tokens": 0},
        {"prompt_tokens": -5, "completion_tokens": 3},
        {"prompt_tokens": "many", "completion_tokens": "few"},
    ],
)
def test_a_reply_without_usable_token_counts_has_an_unknown_price(usage: Any) -> None:
    tracker = UsageTracker(Budget(max_usd=1.0))
    tracker.record({"usage": usage, "cost": 0.0})
    total = tracker.total()
    assert (total.calls, total.cache_hits, total.unpriced) == (1, 0, 1)
    with pytest.raises(BudgetExceededError, match="cannot enforce `max_usd`: no known price for 1 call"):
        tracker.reserve()


def test_calls_outside_a_tracker_leave_no_history() -> None:
    from dspy.clients.base_lm import GLOBAL_HISTORY

    model, before = lm(), len(GLOBAL_HISTORY)
    predict = dspy.Predict("question -> answer")
    with dspy.context(lm=model, disable_history=False), track_if_untracked():
        assert dspy.settings.lm is not model
        predict(question="q")
    assert len(GLOBAL_HISTORY) == before
    assert model.history == []
    assert predict.history == []


def test_an_optimizer_s_trace_goes_on_outside_a_tracker() -> None:
    with dspy.context(lm=lm(), trace=[]), track_if_untracked():
        dspy.Predict("question -> answer")(question="q")
        assert len(dspy.settings.trace) == 1


def test_dspy_history_is_not_written() -> None:
    from dspy.clients.base_lm import GLOBAL_HISTORY

    before = len(GLOBAL_HISTORY)
    model = lm()
    with dspy.context(disable_history=False), track_usage(UsageTracker(), model):
        ask()
    assert len(GLOBAL_HISTORY) == before
    assert model.history == []


def test_track_lm_does_not_change_the_model() -> None:
    model = lm()
    copied = track_lm(model, UsageTracker())
    assert copied is not model
    assert "update_history" not in vars(model)


def test_max_usd_stops_after_a_call_without_a_price() -> None:
    tracker = UsageTracker(Budget(max_usd=1.0))
    with track_usage(tracker, lm()):
        ask(1)
        with pytest.raises(
            BudgetExceededError, match="`max_usd`: no known price for 1 call; use `max_calls`"
        ):
            ask(2)
    assert tracker.total().calls == 1


@pytest.mark.parametrize(
    ("usage", "line"),
    [
        (Usage(), "0 calls, 0 tokens, $0.0000"),
        (Usage(calls=2, input_tokens=1200, output_tokens=34, usd=0.5), "2 calls, 1,234 tokens, $0.5000"),
        (Usage(calls=1, cached_tokens=9, unpriced=1), "1 call, 0 tokens, price unknown"),
    ],
)
def test_usage_is_one_line(usage: Usage, line: str) -> None:
    assert str(usage) == line


@given(st.lists(st.builds(Usage, calls=st.integers(0, 9), input_tokens=st.integers(0, 99)), max_size=6))
def test_added_usage_is_the_sum(parts: list[Usage]) -> None:
    total = Usage()
    for part in parts:
        total.add(part)
    assert total.calls == sum(part.calls for part in parts)
    assert total.tokens == sum(part.input_tokens for part in parts)


def test_recorded_call_has_the_tokens_and_the_price_of_its_entry() -> None:
    tracker = UsageTracker()
    details = {"cached_tokens": 60}
    usage = {"prompt_tokens": 100, "prompt_tokens_details": details, "completion_tokens": 7}
    with stage("profile"):
        tracker.record({"usage": usage, "cost": 0.25})
        tracker.record({"usage": usage, "cost": 0.25, "cache_hit": True})
        tracker.record({"usage": {"prompt_tokens": None}, "cost": None})
    assert tracker.by_stage() == {
        "profile": Usage(
            calls=3, input_tokens=200, cached_tokens=120, output_tokens=14, usd=0.25, unpriced=1, cache_hits=1
        )
    }


def test_copied_stage_totals_do_not_change_the_tracker() -> None:
    tracker = UsageTracker()
    tracker.record({"usage": {"prompt_tokens": 1}, "cost": 0.0})
    tracker.by_stage()["answer"].calls = 99
    tracker.total().calls = 99
    assert tracker.total().calls == 1


def test_stage_and_tracker_are_restored_after_an_error() -> None:
    with pytest.raises(ZeroDivisionError), track_usage(UsageTracker(), lm()), stage("broken"):
        raise ZeroDivisionError
    assert current_tracker() is None
    reserve_call()
    tracker = UsageTracker()
    tracker.record({"usage": {"prompt_tokens": 1}, "cost": 0.0})
    assert list(tracker.by_stage()) == ["answer"]


def test_budget_of_zero_calls_refuses_the_first_call() -> None:
    model = lm()
    with track_usage(UsageTracker(Budget(max_calls=0)), model):
        with pytest.raises(BudgetExceededError, match="stopped before call 1: the limit is 0 calls"):
            ask()
    assert model.engine.prompts == []


def test_unpriced_calls_are_accepted_without_max_usd() -> None:
    Budget().check_prices(3)
    Budget(max_calls=1).check_prices(3)
    Budget(max_usd=1.0).check_prices(0)
    with pytest.raises(BudgetExceededError, match="no known price for 3 calls"):
        Budget(max_usd=1.0).check_prices(3)
