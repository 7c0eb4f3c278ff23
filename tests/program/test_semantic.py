"""Facts are exact counts; prose is dropped if it may reveal later interactions."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timezone

import dspy
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from program.answers import Labels, Rating, Text
from program.errors import BudgetExceededError
from program.memory.episodic import EpisodicMemory
from program.memory.interaction import Interaction
from program.memory.semantic import Profile, count_facts, newest_within, render, render_facts
from program.memory.summary import build_profile
from program.models.scripted import scripted_lm
from program.task import Item, Task
from program.usage import Budget, UsageTracker, track_usage

LABELS = Labels(("a", "b", "c"))


def history(responses: Sequence[str], *, dated: bool = True) -> list[Interaction]:
    return [
        Interaction(
            id=f"i{n}",
            user_id="u",
            query=f"query {n}",
            response=response,
            timestamp=datetime(2025, 1, 1 + n, tzinfo=timezone.utc) if dated else None,
        )
        for n, response in enumerate(responses)
    ]


def task(answer: Labels | Rating | Text = LABELS) -> Task:
    return Task(
        name="t", question="Which?", answer=answer, read_item=lambda i: Item("", ""), read_query=str.strip
    )


def test_counts_are_sorted_by_frequency_and_recent_by_time() -> None:
    facts = count_facts(history(["a", "b", "a", "c", "a", "b"]), LABELS)
    assert facts.counts == (("a", 3), ("b", 2), ("c", 1))
    assert facts.recent == ("b", "a", "c", "a", "b")
    assert (facts.interactions, facts.mean) == (6, None)
    assert facts.first == datetime(2025, 1, 1, tzinfo=timezone.utc)
    assert facts.last == datetime(2025, 1, 6, tzinfo=timezone.utc)


def test_mean_and_spread_equal_values_computed_by_hand() -> None:
    facts = count_facts(history(["1", "3", "5", "5"]), Rating(1, 5))
    assert facts.mean == 3.5
    assert facts.spread == pytest.approx(1.6583123951777)  # sqrt((6.25 + .25 + 2.25 + 2.25) / 4)
    assert "Mean rating 3.50, standard deviation 1.66." in render_facts(facts)


def test_free_text_without_dates_has_neither_counts_nor_dates() -> None:
    facts = count_facts(history(["x", "y"], dated=False), Text())
    assert (facts.counts, facts.recent, facts.first) == ((), (), None)
    assert render_facts(facts) == "This user has answered 2 times."


def test_empty_history_renders_as_one_line() -> None:
    assert render(Profile(facts=count_facts([], LABELS))) == "Nothing is known about this user yet."


def test_rendered_counts_add_up() -> None:
    labels = Labels(tuple("abcdefghij"))
    text = render_facts(count_facts(history(list("aabcdefghij")), labels))
    assert "a (2), b (1)" in text
    assert "others (2)" in text


def test_restricted_profile_recounts_facts_and_drops_prose_from_outside() -> None:
    items = history(["a", "b", "a"])
    profile = Profile(facts=count_facts(items, LABELS), prose="Likes a.", interaction_ids=("i2", "i1"))
    earlier = profile.restricted_to(items[:2], LABELS)
    assert earlier.facts.counts == (("a", 1), ("b", 1))
    assert earlier.prose == ""
    assert profile.restricted_to(items, LABELS).prose == "Likes a."


def test_profile_is_stale_after_ten_percent_growth() -> None:
    profile = Profile(facts=count_facts(history(["a"] * 20), LABELS))
    assert not profile.is_stale(22)
    assert profile.is_stale(23)


def test_newest_within_returns_the_newest_interactions_that_fit() -> None:
    items = [Interaction(id=f"i{n}", user_id="u", query="x" * 91, response="a") for n in range(10)]
    assert [i.id for i in newest_within(items, max_tokens=75)] == ["i9", "i8", "i7"]
    assert [i.id for i in newest_within(items, max_tokens=1)] == ["i9"]


def test_profile_takes_one_call_and_renders_facts_before_prose() -> None:
    lm = scripted_lm(lambda system, user: "Prefers  a\nto b.")
    memory = EpisodicMemory("u", history(["a", "b", "a"]))
    with track_usage(UsageTracker(), lm) as tracker:
        profile = build_profile(memory, task())
    assert render(profile).endswith("Prefers a to b.")
    assert profile.interaction_ids == ("i2", "i1", "i0")
    assert tracker.by_stage()["profile"].calls == 1
    assert "- a: query 2\n- b: query 1\n- a: query 0" in lm.engine.prompts[0][1]


def test_empty_summary_leaves_only_the_facts(caplog: pytest.LogCaptureFixture) -> None:
    with dspy.context(lm=scripted_lm(lambda system, user: "  ")):
        profile = build_profile(EpisodicMemory("u", history(["a", "b"])), task())
    assert (profile.prose, profile.facts.interactions) == ("", 2)
    assert "cannot parse the summary" in caplog.text


def test_no_call_without_prose_or_history() -> None:
    lm = scripted_lm(lambda system, user: "never")
    with dspy.context(lm=lm):
        build_profile(EpisodicMemory("u", history(["a"])), task(), prose=False)
        build_profile(EpisodicMemory("u"), task())
    assert lm.engine.prompts == []


def test_budget_applies_to_the_summary() -> None:
    lm = scripted_lm(lambda system, user: "never")
    with track_usage(UsageTracker(Budget(max_calls=0)), lm), pytest.raises(BudgetExceededError):
        build_profile(EpisodicMemory("u", history(["a"])), task())
    assert lm.engine.prompts == []


def test_summary_is_cut_and_reads_at_most_400_characters_of_an_item() -> None:
    lm = scripted_lm(lambda system, user: "Likes long films and short books. " * 100)
    item = Interaction(id="i", user_id="u", query="x" * 1000, response="a")
    with dspy.context(lm=lm):
        profile = build_profile(EpisodicMemory("u", [item]), task(), max_chars=20)
    assert profile.prose == "Likes long films and"
    assert lm.engine.prompts[0][1].count("x") == 400


def test_model_may_decline_prose_and_the_caller_may_override_it() -> None:
    lm = scripted_lm(lambda system, user: "Likes a.")
    lm.summarises = False
    memory = EpisodicMemory("u", history(["a"]))
    with dspy.context(lm=lm):
        assert build_profile(memory, task()).prose == ""
        assert build_profile(memory, task(), prose=True).prose == "Likes a."
    assert len(lm.engine.prompts) == 1


def test_failure_of_the_model_propagates() -> None:
    def fail(system: str, user: str) -> str:
        raise RuntimeError("offline")

    with dspy.context(lm=scripted_lm(fail)), pytest.raises(dspy.LMError, match="offline"):
        build_profile(EpisodicMemory("u", history(["a"])), task())


def test_user_id_does_not_reach_the_prompt() -> None:
    lm = scripted_lm(lambda system, user: "Likes a.")
    item = Interaction(id="i", user_id="zebra", query="q", response="a")
    with dspy.context(lm=lm):
        build_profile(EpisodicMemory("zebra", [item]), task())
    assert "zebra" not in "".join(lm.engine.prompts[0])


def test_facts_without_recent_do_not_list_the_latest_answers() -> None:
    facts = count_facts(history(["a", "b"]), LABELS)
    assert "Latest answers, newest first: b, a." in render_facts(facts)
    assert "Latest" not in render_facts(facts, recent=False)


def test_first_and_last_ignore_missing_dates() -> None:
    dated, undated = history(["a"])[0], history(["a"], dated=False)[0]
    facts = count_facts([undated, dated], LABELS)
    assert facts.first == facts.last == dated.timestamp
    assert "between 2025-01-01 and 2025-01-01" in render_facts(facts)


def test_profile_of_an_empty_history_is_stale_after_the_first_interaction() -> None:
    empty = Profile(facts=count_facts([], LABELS))
    assert not empty.is_stale(0)
    assert empty.is_stale(1)


def test_old_name_of_restricted_to_warns() -> None:
    profile = Profile(facts=count_facts(history(["a"]), LABELS))
    with pytest.warns(DeprecationWarning, match="`Profile.seen_from` is now `Profile.restricted_to`"):
        assert profile.seen_from([], LABELS).facts.interactions == 0


@given(st.lists(st.sampled_from("abc"), max_size=20))
def test_counts_sum_to_the_interactions_and_are_sorted(responses: list[str]) -> None:
    facts = count_facts(history(responses), LABELS)
    frequencies = [count for _, count in facts.counts]
    assert sum(frequencies) == facts.interactions == len(responses)
    assert frequencies == sorted(frequencies, reverse=True)
    assert facts.recent == tuple(responses[::-1][:5])


@given(st.lists(st.integers(1, 5), min_size=1, max_size=20))
def test_mean_and_spread_equal_numpy(ratings: list[int]) -> None:
    facts = count_facts(history([str(rating) for rating in ratings]), Rating(1, 5))
    assert facts.mean == pytest.approx(np.mean(ratings))
    assert facts.spread == pytest.approx(np.std(ratings))


@given(sizes=st.lists(st.integers(0, 60), max_size=12), max_tokens=st.integers(1, 60))
def test_newest_within_is_the_longest_suffix_that_fits(sizes: list[int], max_tokens: int) -> None:
    items = [
        Interaction(id=str(n), user_id="u", query="x" * size, response="") for n, size in enumerate(sizes)
    ]
    newest = newest_within(items, max_tokens)
    assert newest == items[::-1][: len(newest)]
    chars = [len(item.query) + 8 for item in items[::-1]]
    assert len(newest) <= 1 or sum(chars[: len(newest)]) <= 4 * max_tokens
    if len(newest) < len(items):
        assert sum(chars[: len(newest) + 1]) > 4 * max_tokens


@given(responses=st.lists(st.sampled_from("abc"), min_size=1, max_size=10), size=st.integers(0, 10))
def test_restricted_profile_equals_one_built_from_that_part(responses: list[str], size: int) -> None:
    items = history(responses)
    profile = Profile(facts=count_facts(items, LABELS), prose="Likes a.", interaction_ids=(items[-1].id,))
    restricted = profile.restricted_to(items[:size], LABELS)
    assert restricted.facts == count_facts(items[:size], LABELS)
    assert bool(restricted.prose) == bool(restricted.interaction_ids) == (size >= len(items))
