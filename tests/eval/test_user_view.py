from __future__ import annotations

from collections import Counter
from dataclasses import replace
from datetime import datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eval.contracts import EvalUser, Query
from eval.user_view import scan_users, user_views
from program.errors import DataError
from program.memory.interaction import Interaction
from program.task import Task, get_task

START = datetime(2024, 1, 1, tzinfo=timezone.utc)
TAGS = ("comedy", "action", "classic")
DAYS = st.none() | st.integers(0, 20)


def day(number: int | None) -> datetime | None:
    return None if number is None else START + timedelta(days=number)


def make(name: str, query_day: int | None, responses: list[tuple[str, int | None]]) -> EvalUser:
    return EvalUser(
        user_id=name,
        history=tuple(
            Interaction(id=f"{name}{i}", user_id=name, query="a film", response=tag, timestamp=day(number))
            for i, (tag, number) in enumerate(responses)
        ),
        queries=(Query(id=f"{name}q", user_id=name, text="a new film", timestamp=day(query_day)),),
    )


@st.composite
def users(draw: st.DrawFn) -> list[EvalUser]:
    """Users whose histories are older than their queries."""
    drawn = []
    for number in range(draw(st.integers(1, 4))):
        query_day = draw(st.none() | st.integers(5, 20))
        days = DAYS if query_day is None else st.none() | st.integers(0, query_day)
        responses = draw(st.lists(st.tuples(st.sampled_from(TAGS), days), max_size=6))
        drawn.append(make(f"user{number}", query_day, responses))
    return drawn


@given(users())
def test_others_equal_a_direct_count_of_earlier_responses(data: list[EvalUser]) -> None:
    task = get_task("LaMP-2M")
    queries, responses = scan_users(data, task)
    assert [query.key for query in queries] == [(user.user_id, f"{user.user_id}q") for user in data]
    for user, (view, user_queries) in zip(data, user_views(data, task, 7, responses), strict=True):
        first = user.queries[0].timestamp
        expected = Counter(
            item.response
            for other in data
            if other is not user
            for item in other.history
            if first is None or item.timestamp is None or item.timestamp < first
        )
        assert Counter(view.others) == expected
        assert (view.user_id, view.seed, view.history) == (user.user_id, 7, user.history)
        assert user_queries == user.queries


def test_view_has_neither_queries_nor_golds() -> None:
    user = make("anna", 9, [("comedy", 1)])
    task = get_task("LaMP-2M")
    _, responses = scan_users([user], task)
    ((view, _),) = user_views([user], task, 0, responses)
    assert vars(view).keys() == {"user_id", "task", "history", "seed", "others"}


@pytest.mark.parametrize("task_name", ["LaMP-4", "LaMP-5", "LaMP-7", "free-text"])
def test_text_tasks_count_no_responses(task_name: str) -> None:
    _, responses = scan_users([make("anna", 9, [("my own words", 1)])], get_task(task_name))
    assert responses.times == {}


@pytest.fixture
def task() -> Task:
    return get_task("LaMP-2M")


@pytest.mark.parametrize("bad", ["newer", "query", "stranger"])
def test_leaking_history_is_refused_with_its_position(bad: str, task: Task) -> None:
    user = make("anna", 9, [("comedy", 1), ("action", 9)])
    leak = {
        "newer": replace(user.history[1], timestamp=day(10)),
        "query": replace(user.history[1], id="annaq"),
        "stranger": replace(user.history[1], user_id="bert"),
    }[bad]
    leaking = replace(user, history=(user.history[0], leak))
    _, responses = scan_users([leaking], task)
    with pytest.raises(DataError, match="history item 1 of a user"):
        list(user_views([leaking], task, 0, responses))


def test_history_item_at_the_time_of_the_query_is_accepted(task: Task) -> None:
    user = make("anna", 9, [("action", 9), ("comedy", None)])
    _, responses = scan_users([user], task)
    assert len(list(user_views([user], task, 0, responses))) == 1


def test_views_are_made_one_at_a_time(task: Task) -> None:
    read: list[str] = []

    class Stream:
        def __iter__(self):  # type: ignore[no-untyped-def]
            for name in ("anna", "bert"):
                read.append(name)
                yield make(name, 9, [("comedy", 1)])

    _, responses = scan_users(Stream(), task)
    read.clear()
    views = user_views(Stream(), task, 0, responses)
    next(views)
    assert read == ["anna"]
