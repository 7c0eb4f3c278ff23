from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eval.contracts import EvalUser, Query, UserView
from eval.methods.baselines import CitedBefore, Constant, GlobalMajority, Lead, UserMajority, UserMedian
from eval.tasks.lamp_1 import question_text
from eval.user_view import scan_users, user_views
from program.errors import ConfigError
from program.memory.interaction import Interaction
from program.task import get_task


def user(task: str, *responses: str, others: dict[str, int] | None = None) -> UserView:
    history = [
        Interaction(id=str(i), user_id="u", query=f"item {i}", response=response)
        for i, response in enumerate(responses)
    ]
    return UserView(user_id="u", task=get_task(task), history=history, seed=0, others=others or {})


def answer(method: Any, of: UserView, text: str = "anything") -> str:
    method.check(of.task)
    opened = method.open(of, method.prepare(of))
    return str(method.answer(opened, Query(id="q", user_id="u", text=text)).text)


def test_constant_defaults_to_first_label_or_middle_of_scale() -> None:
    assert answer(Constant(), user("LaMP-2M")) == "sci-fi"
    assert answer(Constant(), user("LaMP-3")) == "3"
    assert answer(Constant(value="5"), user("LaMP-3")) == "5"


def test_constant_refuses_value_that_is_not_an_answer() -> None:
    with pytest.raises(ConfigError, match="not an answer to `LaMP-3`"):
        Constant(value="6").check(get_task("LaMP-3"))
    with pytest.raises(ConfigError, match="needs a `value`"):
        Constant().check(get_task("LaMP-4"))


def test_user_majority_breaks_ties_by_latest_response() -> None:
    assert answer(UserMajority(), user("LaMP-2M", "action", "comedy", "comedy", "action")) == "action"
    assert answer(UserMajority(), user("LaMP-2M", "action", "comedy", "comedy")) == "comedy"


def test_global_majority_counts_only_other_users() -> None:
    assert (
        answer(GlobalMajority(), user("LaMP-2M", "action", others={"comedy": 2, "classic": 2})) == "classic"
    )


def test_user_without_history_falls_back_to_others_then_constant() -> None:
    assert answer(UserMajority(), user("LaMP-2M", others={"comedy": 1})) == "comedy"
    assert answer(UserMajority(), user("LaMP-2M")) == "sci-fi"
    assert answer(UserMedian(), user("LaMP-3")) == "3"


def test_user_median_of_even_count_is_lower_middle() -> None:
    assert answer(UserMedian(), user("LaMP-3", "5", "1", "4", "3")) == "3"


def test_cited_before_chooses_cited_option_or_first() -> None:
    cites = user("LaMP-1", "Old  Paper", "")
    assert answer(CitedBefore(), cites, question_text("new", "other", "old paper")) == "[2]"
    assert answer(CitedBefore(), cites, question_text("new", "Old Paper", "other")) == "[1]"
    assert answer(CitedBefore(), cites, question_text("new", "a", "b")) == "[1]"
    assert answer(CitedBefore(), cites, "no options at all") == "[1]"


def test_lead_returns_first_words() -> None:
    assert answer(Lead(words=3), user("LaMP-4"), "one two three four") == "one two three"


@pytest.mark.parametrize(
    ("method", "task"),
    [
        (UserMajority(), "LaMP-1"),
        (GlobalMajority(), "LaMP-4"),
        (UserMedian(), "LaMP-2M"),
        (CitedBefore(), "LaMP-3"),
        (Lead(), "LaMP-2N"),
    ],
)
def test_baseline_refuses_unsuitable_task(method: Any, task: str) -> None:
    with pytest.raises(ConfigError, match=task):
        method.check(get_task(task))


def test_text_responses_of_others_are_hidden() -> None:
    task = get_task("LaMP-4")
    users = [
        EvalUser(
            user_id=name,
            history=(replace(user("LaMP-4", f"{name} wrote").history[0], user_id=name),),
            queries=(),
        )
        for name in ("a", "b")
    ]
    _, responses = scan_users(users, task)
    assert [dict(view.others) for view, _ in user_views(users, task, 0, responses)] == [{}, {}]


def test_responses_of_others_after_first_query_are_not_counted() -> None:
    def day(number: int) -> datetime:
        return datetime(2024, 1, number, tzinfo=timezone.utc)

    def user(name: str, query_day: int, *responses: tuple[str, int | None]) -> EvalUser:
        history = tuple(
            Interaction(
                id=f"{name}{i}",
                user_id=name,
                query="a film",
                response=tag,
                timestamp=None if number is None else day(number),
            )
            for i, (tag, number) in enumerate(responses)
        )
        queries = (Query(id="q", user_id=name, text="a new film", timestamp=day(query_day)),)
        return EvalUser(user_id=name, history=history, queries=queries)

    task = get_task("LaMP-2M")
    users = [
        user("early", 5, ("comedy", 1), ("action", 4)),
        user("late", 20, ("comedy", 2), ("action", 5), ("action", 9), ("classic", None)),
    ]
    _, responses = scan_users(users, task)
    others = [view.others for view, _ in user_views(users, task, 0, responses)]
    assert others == [{"comedy": 1, "classic": 1}, {"comedy": 1, "action": 1}]


@given(st.lists(st.sampled_from(["comedy", "action", "classic"]), min_size=1, max_size=12))
def test_user_majority_is_the_mode_that_occurs_last(responses: list[str]) -> None:
    most = max(responses.count(tag) for tag in responses)
    modes = [tag for tag in responses if responses.count(tag) == most]
    assert answer(UserMajority(), user("LaMP-2M", *responses)) == modes[-1]


@given(st.lists(st.integers(1, 5), min_size=1, max_size=12))
def test_user_median_minimises_mae_among_constants(ratings: list[int]) -> None:
    def error(constant: int) -> int:
        return sum(abs(rating - constant) for rating in ratings)

    median = int(answer(UserMedian(), user("LaMP-3", *map(str, ratings))))
    assert median in ratings
    assert error(median) == min(map(error, range(1, 6)))


@given(st.dictionaries(st.sampled_from(["comedy", "action", "classic"]), st.integers(1, 5), min_size=1))
def test_global_majority_does_not_depend_on_order(others: dict[str, int]) -> None:
    backwards = dict(reversed(others.items()))
    expected = sorted(others, key=lambda tag: (-others[tag], tag))[0]
    assert answer(GlobalMajority(), user("LaMP-2M", others=others)) == expected
    assert answer(GlobalMajority(), user("LaMP-2M", others=backwards)) == expected


def test_lead_returns_short_text_whole() -> None:
    assert answer(Lead(words=5), user("LaMP-4"), "  two\n words ") == "two words"


def test_constant_text_is_accepted_for_text_tasks() -> None:
    assert answer(Constant(value="Breaking news"), user("LaMP-4")) == "Breaking news"


def test_cited_before_chooses_first_if_both_options_were_cited() -> None:
    cites = user("LaMP-1", "one paper", "other paper")
    assert answer(CitedBefore(), cites, question_text("new", "one paper", "other paper")) == "[1]"
