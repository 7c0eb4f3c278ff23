import copy
import json
import threading
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rank_bm25 import BM25Okapi

from program.errors import ConfigError
from program.memory.episodic import EpisodicMemory
from program.memory.interaction import Interaction
from program.memory.retrieval import Recency

DAY_ONE = datetime(2020, 1, 1, tzinfo=timezone.utc)


def interaction(number: int, query: str = "", *, day: int | None = None, user: str = "ann") -> Interaction:
    """Return interaction ``i<number>`` on day ``number`` or ``day``; ``day=-1`` means no timestamp."""
    day = number if day is None else day
    when = None if day < 0 else DAY_ONE + timedelta(days=day)
    return Interaction(id=f"i{number}", user_id=user, query=query, response="r", timestamp=when)


def ids(interactions: Sequence[Interaction]) -> list[str]:
    return [item.id for item in interactions]


class CountingRetriever(Recency):
    def __init__(self) -> None:
        super().__init__()
        self.extensions: list[list[str]] = []

    def extend(self, texts: Sequence[str]) -> None:
        self.extensions.append(list(texts))
        super().extend(texts)


def test_empty_memory_returns_empty_lists() -> None:
    memory = EpisodicMemory("ann")
    assert memory.search("anything", 3) == []
    assert memory.latest(3) == []
    assert list(memory) == []
    assert len(memory) == 0


def test_best_match_comes_first() -> None:
    memory = EpisodicMemory(
        "ann", [interaction(1, "red apple"), interaction(2, "blue sky"), interaction(3, "green leaf")]
    )
    assert ids(memory.search("blue sky", 1)) == ["i2"]


def test_equal_scores_are_newest_first() -> None:
    memory = EpisodicMemory("ann", [interaction(n, "same words") for n in (1, 2, 3)])
    assert ids(memory.search("no overlap", 3)) == ["i3", "i2", "i1"]
    assert ids(memory.search("same words", 2)) == ["i3", "i2"]


def test_late_interaction_is_inserted_in_time_order() -> None:
    memory = EpisodicMemory("ann", [interaction(1), interaction(3)])
    memory.search("x", 1)
    memory.append(interaction(2))
    assert ids(list(memory)) == ["i1", "i2", "i3"]
    assert ids(memory.search("x", 3)) == ["i3", "i2", "i1"]
    assert ids(memory.latest(before="i3")) == ["i1", "i2"]


def test_interactions_without_a_date_come_first_in_order_of_arrival() -> None:
    memory = EpisodicMemory(
        "ann", [interaction(1, day=5), interaction(2, day=-1), interaction(3, day=-1), interaction(4, day=5)]
    )
    assert ids(list(memory)) == ["i2", "i3", "i1", "i4"]
    assert ids(memory.latest(before=DAY_ONE)) == ["i2", "i3"]


def test_before_an_id_hides_it_and_all_later_interactions() -> None:
    memory = EpisodicMemory("ann", [interaction(n, "word") for n in range(5)])
    assert ids(memory.search("word", 9, before="i2")) == ["i1", "i0"]
    assert ids(memory.latest(1, before="i2")) == ["i1"]
    assert memory.search("word", 9, before="i0") == []


def test_before_a_time_returns_strictly_older_interactions() -> None:
    memory = EpisodicMemory("ann", [interaction(n, "word") for n in range(5)])
    assert ids(memory.search("word", 9, before=DAY_ONE + timedelta(days=2))) == ["i1", "i0"]
    assert ids(memory.latest(before=DAY_ONE + timedelta(days=2, seconds=1))) == ["i0", "i1", "i2"]


def test_same_time_is_ordered_by_arrival() -> None:
    memory = EpisodicMemory("ann", [interaction(n, day=0) for n in range(3)])
    assert ids(memory.latest(before="i2")) == ["i0", "i1"]
    assert memory.latest(before=DAY_ONE) == []


def test_excluded_interactions_are_replaced_by_the_next_best() -> None:
    memory = EpisodicMemory("ann", [interaction(n, "word") for n in range(5)])
    assert ids(memory.search("word", 2, exclude={"i4", "i3"})) == ["i2", "i1"]
    assert ids(memory.latest(2, exclude=["i4", "unknown"])) == ["i2", "i3"]


@pytest.mark.parametrize("n", [0, -1])
def test_limit_of_zero_or_less_returns_an_empty_list(n: int) -> None:
    memory = EpisodicMemory("ann", [interaction(1, "word")])
    assert memory.search("word", n) == []
    assert memory.latest(n) == []


def test_unknown_id_raises_config_error() -> None:
    memory = EpisodicMemory("ann", [interaction(1)])
    for look in (memory.latest, lambda before: memory.search("x", 1, before=before)):
        with pytest.raises(ConfigError, match="this memory has no interaction 'i9'"):
            look(before="i9")
    with pytest.raises(ConfigError, match="'i9'"):
        memory.get("i9")


def test_times_without_timezone_raise_config_error() -> None:
    naive = datetime(2020, 1, 1)  # noqa: DTZ001
    with pytest.raises(ConfigError, match="`timestamp` '2020-01-01T00:00:00' has no timezone"):
        EpisodicMemory("ann", [Interaction(id="1", user_id="ann", query="", response="", timestamp=naive)])
    with pytest.raises(ConfigError, match="`before`"):
        EpisodicMemory("ann", [interaction(1)]).latest(before=naive)


def test_interaction_of_another_user_raises_config_error() -> None:
    memory = EpisodicMemory("ann")
    with pytest.raises(ConfigError, match="cannot add interaction 'i1' of user 'bob' to the memory of 'ann'"):
        memory.append(interaction(1, "bob's secret", user="bob"))
    assert len(memory) == 0


def test_append_is_idempotent_by_id() -> None:
    memory = EpisodicMemory("ann", [interaction(1, "first")])
    assert not memory.append(interaction(1, "again"))
    assert memory.append(interaction(2))
    assert len(memory) == 2
    assert memory.get("i1").query == "first"


def test_unknown_retrieval_raises_before_any_search() -> None:
    with pytest.raises(ConfigError, match="unknown `retrieval` 'bm52'"):
        EpisodicMemory("ann", retrieval="bm52")


def test_first_search_builds_the_index_and_later_ones_extend_it() -> None:
    retriever = CountingRetriever()
    memory = EpisodicMemory(
        "ann", [interaction(1, "one"), interaction(2, "two")], retrieval=lambda: retriever
    )
    assert retriever.extensions == []
    memory.search("x", 1)
    memory.search("y", 1)
    memory.append(interaction(3, "three"))
    memory.append(interaction(4, "four"))
    assert ids(memory.search("x", 1)) == ["i4"]
    memory.search("y", 1)
    assert retriever.extensions == [["one", "two"], ["three", "four"]]


def test_deep_copy_is_the_same_object() -> None:
    memory = EpisodicMemory("ann", [interaction(1)])
    assert copy.deepcopy({"memory": memory})["memory"] is memory


def test_concurrent_search_and_append_lose_no_interaction() -> None:
    memory = EpisodicMemory("ann", [interaction(n, f"word{n % 7}") for n in range(50)])
    errors: list[object] = []

    def write(first: int) -> None:
        for number in range(first, first + 50):
            memory.append(interaction(number, f"word{number % 7}", day=5000 - number))

    def read() -> None:
        for number in range(100):
            interactions = memory.search(f"word{number % 7}", 5, before="i40")
            if len(interactions) != 5 or any(
                item.timestamp >= interaction(40).timestamp for item in interactions
            ):
                errors.append(interactions)

    workers = [threading.Thread(target=write, args=(1000 * n,)) for n in (1, 2, 3)]
    workers += [threading.Thread(target=read) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert errors == []
    assert len(memory) == 200
    times = [item.timestamp for item in memory]
    assert times == sorted(times)


@given(
    days=st.lists(st.integers(-1, 4), min_size=1, max_size=12),
    cut=st.integers(0, 11),
    words=st.lists(st.sampled_from(["a", "b", "c", ""]), min_size=12, max_size=12),
)
def test_search_before_an_id_returns_exactly_the_past(days: list[int], cut: int, words: list[str]) -> None:
    items = [interaction(n, words[n], day=day) for n, day in enumerate(days)]
    memory = EpisodicMemory("ann", items)
    simulated = items[cut % len(items)]
    order = sorted(items, key=lambda item: item.timestamp or datetime.min.replace(tzinfo=timezone.utc))
    past = ids(order)[: ids(order).index(simulated.id)]
    assert sorted(ids(memory.search("a b", 99, before=simulated.id))) == sorted(past)
    assert ids(memory.latest(before=simulated.id)) == past


@pytest.mark.real_histories
def test_ranking_equals_rank_bm25_on_real_histories(lamp_like: Path) -> None:
    users = json.loads((lamp_like / "LaMP_2M_like" / "user_top_100_history.json").read_text(encoding="utf-8"))
    for user in users[:5]:
        texts = [item["description"] for item in user["profile"]]
        history = [interaction(n, text) for n, text in enumerate(texts)]
        memory = EpisodicMemory("ann", history, retrieval="lamp-bm25")
        library = BM25Okapi([text.split() for text in texts])
        for query in user["query"][:5]:
            text = query["input"].partition("description:")[2]
            # LaMP's argsort()[::-1], made stable.
            expected = np.argsort(library.get_scores(text.split()), kind="stable")[::-1]
            assert ids(memory.search(text, 10)) == [f"i{n}" for n in expected[:10]]


class FailsOnce(CountingRetriever):
    """Fails at the first extension and works afterwards."""

    def extend(self, texts: Sequence[str]) -> None:
        super().extend(texts)
        if len(self.extensions) == 1:
            self._count = 0
            raise OSError("disk error")


def test_search_after_a_failed_extension_indexes_every_text_again() -> None:
    retriever = FailsOnce()
    memory = EpisodicMemory("ann", [interaction(1, "one")], retrieval=lambda: retriever)
    with pytest.raises(OSError, match="disk error"):
        memory.search("x", 1)
    memory.append(interaction(2, "two"))
    assert ids(memory.search("x", 2)) == ["i2", "i1"]
    assert retriever.extensions == [["one"], ["one", "two"]]


def test_indexed_chooses_the_text_that_a_search_compares() -> None:
    items = [replace(interaction(n, "same"), response=word) for n, word in enumerate(["cat", "dog", "fox"])]
    memory = EpisodicMemory("ann", items, indexed=lambda item: item.response)
    assert ids(memory.search("dog", 1)) == ["i1"]


def test_rejected_interaction_leaves_the_memory_unchanged() -> None:
    memory = EpisodicMemory("ann", [interaction(1, "word")])
    naive = datetime(2020, 1, 1)  # noqa: DTZ001
    with pytest.raises(ConfigError):
        memory.append(replace(interaction(2), timestamp=naive))
    assert ids(list(memory)) == ids(memory.search("word", 9)) == ["i1"]


def test_iteration_is_a_snapshot() -> None:
    memory = EpisodicMemory("ann", [interaction(1), interaction(2)])
    for item in memory:
        memory.append(replace(item, id=f"{item.id}-copy"))
    assert len(memory) == 4


def test_timestamps_of_different_timezones_are_ordered_by_instant() -> None:
    noon_utc = datetime(2020, 1, 1, 12, tzinfo=timezone.utc)
    earlier = datetime(2020, 1, 1, 13, tzinfo=timezone(timedelta(hours=2)))
    memory = EpisodicMemory(
        "ann",
        [replace(interaction(1), timestamp=noon_utc), replace(interaction(2), timestamp=earlier)],
    )
    assert ids(list(memory)) == ["i2", "i1"]


def test_repr_has_the_user_and_the_number_of_interactions() -> None:
    assert repr(EpisodicMemory("ann", [interaction(1)])) == "EpisodicMemory(user_id='ann', interactions=1)"


@given(days=st.permutations(list(range(6))), searches=st.sets(st.integers(0, 5)))
def test_order_of_arrival_does_not_change_searches(days: list[int], searches: set[int]) -> None:
    words = ["red apple", "blue sky", "green leaf", "red sky", "blue apple", "grey stone"]
    memory = EpisodicMemory("ann")
    for number, day in enumerate(days):
        memory.append(interaction(day, words[day]))
        if number in searches:
            memory.search("red", 1)
    in_order = EpisodicMemory("ann", [interaction(day, words[day]) for day in range(6)])
    assert ids(memory.search("red sky", 6)) == ids(in_order.search("red sky", 6))
    assert list(memory) == list(in_order)


@given(
    size=st.integers(0, 8),
    n=st.none() | st.integers(-2, 10),
    exclude=st.sets(st.integers(0, 8)),
)
def test_latest_returns_the_end_of_the_allowed_interactions(
    size: int, n: int | None, exclude: set[int]
) -> None:
    memory = EpisodicMemory("ann", [interaction(number) for number in range(size)])
    allowed = [f"i{number}" for number in range(size) if number not in exclude]
    expected = allowed if n is None else allowed[len(allowed) - min(max(n, 0), len(allowed)) :]
    assert ids(memory.latest(n, exclude={f"i{number}" for number in exclude})) == expected


def test_any_script_is_searched_and_a_word_beside_punctuation_is_found() -> None:
    queries = ["Sushi, please!", "緑茶を飲む", "горячий чай и МЁДОМ", "녹차를 마셔요", "ชาเขียวเย็น"]
    memory = EpisodicMemory("ann", [interaction(n, text) for n, text in enumerate(queries)])
    words = ("sushi", "緑茶", "мёдом", "녹차", "เขียว")
    assert [ids(memory.search(word, 1)) for word in words] == [[f"i{n}"] for n in range(5)]


def test_the_only_match_of_two_interactions_is_found_though_the_other_is_newer() -> None:
    memory = EpisodicMemory("ann", [interaction(1, "green tea"), interaction(2, "black coffee")])
    assert ids(memory.search("tea", 1)) == ["i1"]
