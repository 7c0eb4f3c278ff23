import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eval.contracts import EvalUser, Query
from eval.data import Selection
from program.memory.interaction import Interaction

LENGTHS = st.lists(st.integers(0, 9), max_size=12)


def user(history=5, queries=3):
    return EvalUser(
        user_id="ana",
        history=tuple(
            Interaction(id=f"h{n}", user_id="ana", query="q", response="r") for n in range(history)
        ),
        queries=tuple(Query(id=f"q{n}", user_id="ana", text="t") for n in range(queries)),
    )


@given(LENGTHS, st.integers(1, 14), st.sampled_from(["file", "most-active", "random"]), st.integers(0, 3))
@settings(max_examples=50)
def test_pick_returns_distinct_ascending_positions(lengths, users, order, seed):
    positions = Selection(users=users, order=order, seed=seed).pick(lengths)
    assert positions == sorted(set(positions))
    assert set(positions) <= set(range(len(lengths)))
    assert len(positions) == min(users, len(lengths))


@given(LENGTHS, st.integers(1, 12))
@settings(max_examples=50)
def test_most_active_users_have_no_shorter_history_than_the_rest(lengths, users):
    positions = set(Selection(users=users, order="most-active").pick(lengths))
    rest = [length for position, length in enumerate(lengths) if position not in positions]
    assert all(lengths[position] >= max(rest, default=0) for position in positions)


@given(LENGTHS)
@settings(max_examples=50)
def test_default_selection_picks_everyone(lengths):
    assert Selection().pick(lengths) == list(range(len(lengths)))


@given(st.integers(0, 7), st.integers(0, 7))
@settings(max_examples=50)
def test_latest_and_earliest_items_are_the_two_ends(history, limit):
    whole = user(history=history)
    latest = Selection(history=limit).cut(whole).history
    earliest = Selection(history=limit, history_from="first").cut(whole).history
    assert len(latest) == len(earliest) == min(limit, history)
    assert whole.history[len(whole.history) - len(latest) :] == latest
    assert whole.history[: len(earliest)] == earliest


def test_default_selection_cuts_nothing():
    assert Selection().cut(user(), repeats=frozenset({"h1"})) == user()


def test_repeats_are_dropped_before_the_history_limit_applies():
    selection = Selection(history=2, drop_repeats=True)
    assert [item.id for item in selection.cut(user(), frozenset({"h4"})).history] == ["h2", "h3"]


def test_query_limit_may_exceed_the_number_of_queries():
    assert len(Selection(queries=9).cut(user(queries=2)).queries) == 2


@pytest.mark.parametrize("order", ["file", "most-active", "random"])
def test_empty_data_set_has_no_positions(order):
    assert Selection(users=3, order=order).pick([]) == []
