"""Usage is counted once for each call, stage and run; a budget stops the next call."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import Any

import dspy
import pytest

from program.errors import BudgetExceededError
from program.models.scripted import scripted_lm
from program.usage import Budget, UsageTracker, current_tracker, reserve_call, stage, track_lm, track_usage

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
    tracker.record({"usage": {}, "cost": 0.5})
    total = tracker.total()
    assert (total.calls, total.cache_hits, total.usd, total.unpriced) == (1, 1, 0.0, 0)


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
            BudgetExceededError, match="`max_usd`: 1 calls have no known price; use `max_calls`"
        ):
            ask(2)
    assert tracker.total().calls == 1
