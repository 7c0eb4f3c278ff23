"""Costs by user and month: what is added up, where it is kept, and that it is forgotten with the user."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timezone
from typing import Any

import pytest

from program.errors import UnknownUserError
from program.store import UserStore
from program.usage import Usage

RECORD = {
    "usage": {
        "simulate": {"calls": 3, "input_tokens": 300, "output_tokens": 30, "usd": 0.25, "unpriced": 0},
        "update": {"calls": 1, "input_tokens": 100, "output_tokens": 10, "usd": 0.5, "unpriced": 1},
    },
    "steps": [
        {"simulations": [{"score": 1.0}, {"score": 0.0}, {"score": None}]},
        {"simulations": [{"score": 1.0}, {"score": 1.0}]},
    ],
}
ANSWER = Usage(calls=2, input_tokens=50, cached_tokens=20, output_tokens=5, usd=0.125, cache_hits=1)


@pytest.fixture
def month(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Sets the month in which everything happens from now on."""

    def choose(number: int) -> None:
        monkeypatch.setattr("program.store.users.now", lambda: datetime(2026, number, 5, tzinfo=timezone.utc))

    return choose


def align(store: UserStore, user_id: str, **ended: Any) -> None:
    store.finish_alignment(user_id, store.start_alignment(user_id, {}), RECORD, **ended)


def test_alignments_and_answers_of_a_month_are_one_sum(location: str, month: Any) -> None:
    month(11)
    with UserStore(location) as store:
        store.add_user("ana", task="free-text")
        align(store, "ana")
        store.record_answer("ana", ANSWER)
        store.record_answer("ana", ANSWER)
        store.fail_alignment(
            "ana", store.start_alignment("ana", {}), "down", usage={"simulate": Usage(calls=7, usd=1.0)}
        )
        (cost,) = store.costs("ana")
    assert (cost.user_id, cost.month) == ("ana", "2026-11")
    assert (cost.alignments, cost.failed, cost.answers) == (1, 1, 2)
    assert (cost.calls, cost.tokens, cost.cached_tokens) == (4 + 4 + 7, 440 + 110, 40)
    assert (cost.usd, cost.unpriced, cost.cache_hits) == (0.75 + 0.25 + 1.0, 1, 2)
    assert (cost.scored, cost.agreement) == (4, 0.75)
    assert cost.price == "at least $2.0000"


def test_months_come_in_order_and_users_do_not_mix(location: str, month: Any) -> None:
    with UserStore(location) as store:
        for user_id in ("ana", "ben", "chi"):
            store.add_user(user_id, task="free-text")
        for number, user_id in ((12, "ana"), (2, "ben"), (11, "ana"), (12, "ben")):
            month(number)
            align(store, user_id)
        assert [(cost.month, cost.calls) for cost in store.costs("ana")] == [("2026-11", 4), ("2026-12", 4)]
        assert store.costs("chi") == []
        assert [(cost.user_id, cost.calls) for cost in store.total_costs()] == [("ana", 8), ("ben", 8)]
        months = [(cost.month, cost.user_id, cost.alignments, cost.usd) for cost in store.monthly_costs()]
        assert months == [
            ("2026-02", None, 1, 0.75),
            ("2026-11", None, 1, 0.75),
            ("2026-12", None, 2, 1.5),
        ]
        total = store.cost("ana")
    assert (total.month, total.calls, total.scored, total.agreement) == (None, 8, 8, 0.75)


def test_sums_have_64_bits(location: str, month: Any) -> None:
    month(11)
    with UserStore(location) as store:
        for user_id in ("ana", "ben"):
            store.add_user(user_id, task="free-text")
            store.record_answer(user_id, Usage(calls=1, input_tokens=2**40))
            store.record_answer(user_id, Usage(calls=1, input_tokens=2**40))
        assert store.cost("ana").input_tokens == 2**41
        assert [cost.input_tokens for cost in store.monthly_costs()] == [2**42]


def test_no_answer_is_lost_if_many_are_recorded_at_once(location: str) -> None:
    with UserStore(location) as store:
        store.add_user("ana", task="free-text")
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda _: store.record_answer("ana", ANSWER), range(40)))
        cost = store.cost("ana")
    assert (cost.answers, cost.calls, cost.usd) == (40, 80, 5.0)


def test_forgotten_user_costs_nothing_any_more(location: str, month: Any) -> None:
    month(11)
    with UserStore(location) as store:
        for user_id in ("ana", "ben"):
            store.add_user(user_id, task="free-text")
            store.record_answer(user_id, ANSWER)
        store.forget("ana")
        assert [cost.user_id for cost in store.total_costs()] == ["ben"]
        assert [cost.answers for cost in store.monthly_costs()] == [1]
        with pytest.raises(UnknownUserError):
            store.costs("ana")
        with pytest.raises(UnknownUserError):
            store.record_answer("ana", ANSWER)


def test_alignment_without_a_record_counts_and_costs_nothing(location: str) -> None:
    with UserStore(location) as store:
        store.add_user("ana", task="free-text")
        store.finish_alignment("ana", store.start_alignment("ana", {}), {})
        cost = store.cost("ana")
    assert (cost.alignments, cost.calls, cost.usd, cost.agreement) == (1, 0, 0.0, None)


def test_what_was_paid_replaces_what_the_record_says(location: str) -> None:
    with UserStore(location) as store:
        store.add_user("ana", task="free-text")
        align(store, "ana", cost=Usage(calls=2, usd=0.1))
        cost = store.cost("ana")
        assert store.alignments("ana")[0].record["usage"] == RECORD["usage"]
    assert (cost.calls, cost.usd) == (2, 0.1)


def test_costs_are_paged_without_a_gap(location: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("program.store.user_store._PAGE", 2)
    with UserStore(location) as store:
        for number in range(5):
            store.add_user(f"u{number}", task="free-text")
            store.record_answer(f"u{number}", ANSWER)
        assert [cost.user_id for cost in store.total_costs()] == [f"u{number}" for number in range(5)]
