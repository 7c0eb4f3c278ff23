import copy
import json
import threading
from collections.abc import Sequence
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

LAMP_LIKE = Path(__file__).parents[2] / ".." / "shared" / "data" / "lamp_like"
DAY_ONE = datetime(2020, 1, 1, tzinfo=timezone.utc)


def did(number: int, query: str = "", *, day: int | None = None, user: str = "ann") -> Interaction:
    """Interaction ``i<number>``, on day ``number`` unless told; ``day=-1`` leaves the time out."""
    day = number if day is None else day
    when = None if day < 0 else DAY_ONE + timedelta(days=day)
    return Interaction(id=f"i{number}", user_id=user, query=query, response="r", timestamp=when)


def ids(found: Sequence[Interaction]) -> list[str]:
    return [interaction.id for interaction in found]


class CountingRetriever(Recency):
    def __init__(self) -> None:
        super().__init__()
        self.extensions: list[list[str]] = []

    def extend(self, texts: Sequence[str]) -> None:
        self.extensions.append(list(texts))
        super().extend(texts)


def test_empty_memory_finds_nothing() -> None:
    memory = EpisodicMemory("ann")
    assert memory.search("anything", 3) == []
    assert memory.latest(3) == []
    assert list(memory) == []
    assert len(memory) == 0


def test_best_match_comes_first() -> None:
    memory = EpisodicMemory("ann", [did(1, "red apple"), did(2, "blue sky"), did(3, "green leaf")])
    assert ids(memory.search("blue sky", 1)) == ["i2"]


def test_equal_scores_are_newest_first() -> None:
    memory = EpisodicMemory("ann", [did(n, "same words") for n in (1, 2, 3)])
    assert ids(memory.search("no overlap", 3)) == ["i3", "i2", "i1"]
    assert ids(memory.search("same words", 2)) == ["i3", "i2"]


def test_late_arrival_takes_its_place_in_time() -> None:
    memory = EpisodicMemory("ann", [did(1), did(3)])
    memory.search("x", 1)
    memory.append(did(2))
    assert ids(list(memory)) == ["i1", "i2", "i3"]
    assert ids(memory.search("x", 3)) == ["i3", "i2", "i1"]
    assert ids(memory.latest(before="i3")) == ["i1", "i2"]


def test_undated_interactions_come_first_in_order_of_arrival() -> None:
    memory = EpisodicMemory("ann", [did(1, day=5), did(2, day=-1), did(3, day=-1), did(4, day=5)])
    assert ids(list(memory)) == ["i2", "i3", "i1", "i4"]
    assert ids(memory.latest(before=DAY_ONE)) == ["i2", "i3"]


def test_before_an_interaction_hides_it_and_all_that_followed() -> None:
    memory = EpisodicMemory("ann", [did(n, "word") for n in range(5)])
    assert ids(memory.search("word", 9, before="i2")) == ["i1", "i0"]
    assert ids(memory.latest(1, before="i2")) == ["i1"]
    assert memory.search("word", 9, before="i0") == []


def test_before_a_time_is_strictly_older() -> None:
    memory = EpisodicMemory("ann", [did(n, "word") for n in range(5)])
    assert ids(memory.search("word", 9, before=DAY_ONE + timedelta(days=2))) == ["i1", "i0"]
    assert ids(memory.latest(before=DAY_ONE + timedelta(days=2, seconds=1))) == ["i0", "i1", "i2"]


def test_same_time_is_ordered_by_arrival() -> None:
    memory = EpisodicMemory("ann", [did(n, day=0) for n in range(3)])
    assert ids(memory.latest(before="i2")) == ["i0", "i1"]
    assert memory.latest(before=DAY_ONE) == []


def test_excluded_interactions_make_room_for_others() -> None:
    memory = EpisodicMemory("ann", [did(n, "word") for n in range(5)])
    assert ids(memory.search("word", 2, exclude={"i4", "i3"})) == ["i2", "i1"]
    assert ids(memory.latest(2, exclude=["i4", "unknown"])) == ["i2", "i3"]


@pytest.mark.parametrize("n", [0, -1])
def test_asking_for_none_gives_none(n: int) -> None:
    memory = EpisodicMemory("ann", [did(1, "word")])
    assert memory.search("word", n) == []
    assert memory.latest(n) == []


def test_unknown_before_is_refused_by_name() -> None:
    memory = EpisodicMemory("ann", [did(1)])
    for look in (memory.latest, lambda before: memory.search("x", 1, before=before)):
        with pytest.raises(ConfigError, match="this memory has no interaction 'i9'"):
            look(before="i9")
    with pytest.raises(ConfigError, match="'i9'"):
        memory.get("i9")


def test_times_without_timezone_are_refused() -> None:
    naive = datetime(2020, 1, 1)  # noqa: DTZ001
    with pytest.raises(ConfigError, match="`timestamp` '2020-01-01T00:00:00' has no timezone"):
        EpisodicMemory("ann", [Interaction(id="1", user_id="ann", query="", response="", timestamp=naive)])
    with pytest.raises(ConfigError, match="`before`"):
        EpisodicMemory("ann", [did(1)]).latest(before=naive)


def test_another_users_interaction_is_refused() -> None:
    memory = EpisodicMemory("ann")
    with pytest.raises(ConfigError, match="interaction 'i1' is of user 'bob', this is the memory of 'ann'"):
        memory.append(did(1, "bob's secret", user="bob"))
    assert len(memory) == 0


def test_append_is_idempotent_by_id() -> None:
    memory = EpisodicMemory("ann", [did(1, "first")])
    assert not memory.append(did(1, "again"))
    assert memory.append(did(2))
    assert len(memory) == 2
    assert memory.get("i1").query == "first"


def test_unknown_retrieval_is_refused_at_once() -> None:
    with pytest.raises(ConfigError, match="unknown `retrieval` 'bm52'"):
        EpisodicMemory("ann", retrieval="bm52")


def test_index_is_built_once_by_the_first_search_and_extended_only_with_what_is_new() -> None:
    retriever = CountingRetriever()
    memory = EpisodicMemory("ann", [did(1, "one"), did(2, "two")], retrieval=lambda: retriever)
    assert retriever.extensions == []
    memory.search("x", 1)
    memory.search("y", 1)
    memory.append(did(3, "three"))
    memory.append(did(4, "four"))
    assert ids(memory.search("x", 1)) == ["i4"]
    memory.search("y", 1)
    assert retriever.extensions == [["one", "two"], ["three", "four"]]


def test_a_deep_copy_is_the_same_memory() -> None:
    memory = EpisodicMemory("ann", [did(1)])
    assert copy.deepcopy({"memory": memory})["memory"] is memory


def test_search_and_append_from_many_threads_lose_nothing() -> None:
    memory = EpisodicMemory("ann", [did(n, f"word{n % 7}") for n in range(50)])
    wrong: list[object] = []

    def write(first: int) -> None:
        for number in range(first, first + 50):
            memory.append(did(number, f"word{number % 7}", day=5000 - number))

    def read() -> None:
        for number in range(100):
            found = memory.search(f"word{number % 7}", 5, before="i40")
            if len(found) != 5 or any(item.timestamp >= did(40).timestamp for item in found):
                wrong.append(found)

    workers = [threading.Thread(target=write, args=(1000 * n,)) for n in (1, 2, 3)]
    workers += [threading.Thread(target=read) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert wrong == []
    assert len(memory) == 200
    times = [item.timestamp for item in memory]
    assert times == sorted(times)


@given(
    days=st.lists(st.integers(-1, 4), min_size=1, max_size=12),
    cut=st.integers(0, 11),
    words=st.lists(st.sampled_from(["a", "b", "c", ""]), min_size=12, max_size=12),
)
def test_nothing_from_the_future_is_ever_found(days: list[int], cut: int, words: list[str]) -> None:
    items = [did(n, words[n], day=day) for n, day in enumerate(days)]
    memory = EpisodicMemory("ann", items)
    simulated = items[cut % len(items)]
    order = sorted(items, key=lambda item: item.timestamp or datetime.min.replace(tzinfo=timezone.utc))
    past = ids(order)[: ids(order).index(simulated.id)]
    assert sorted(ids(memory.search("a b", 99, before=simulated.id))) == sorted(past)
    assert ids(memory.latest(before=simulated.id)) == past


@pytest.mark.skipif(not LAMP_LIKE.exists(), reason="the LaMP-like histories are not beside this checkout")
def test_ranking_is_that_of_rank_bm25_on_real_histories() -> None:
    users = json.loads((LAMP_LIKE / "LaMP_2M_like" / "user_top_100_history.json").read_text(encoding="utf-8"))
    for user in users[:5]:
        texts = [item["description"] for item in user["profile"]]
        memory = EpisodicMemory("ann", [did(n, text) for n, text in enumerate(texts)])
        library = BM25Okapi([text.split() for text in texts])
        for query in user["query"][:5]:
            text = query["input"].partition("description:")[2]
            # LaMP's argsort()[::-1], made stable.
            expected = np.argsort(library.get_scores(text.split()), kind="stable")[::-1]
            assert ids(memory.search(text, 10)) == [f"i{n}" for n in expected[:10]]
