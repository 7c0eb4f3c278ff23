"""`UserStore`: contents, order and validation."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import event
from sqlalchemy.engine import Engine

from program.errors import (
    ConfigError,
    DataError,
    StoreError,
    UnknownUserError,
    UnknownVersionError,
)
from program.memory.interaction import Interaction
from program.memory.semantic import Facts, Profile
from program.store import UserStore
from program.store.records import PersonaSource
from program.store.schema import metadata

NEW_STORE = [HealthCheck.function_scoped_fixture]
"""`new_location` may be shared by the examples of one test: each of them makes a store of its own."""

NOON = datetime(2024, 5, 1, 12, tzinfo=timezone.utc)


def interaction(
    name: str, user_id: str = "ann", *, response: str = "comedy", at: datetime | None = None
) -> Interaction:
    return Interaction(
        id=name, user_id=user_id, query=f"film {name}", response=response, timestamp=at, metadata={"k": "v"}
    )


def fill(store: UserStore, user_id: str, marker: str = "text") -> None:
    """Give a user rows with the text ``marker`` in every table."""
    new = [interaction(str(n), user_id, response=marker + user_id) for n in range(50)]
    store.append(user_id, new, task="free-text")
    store.add_persona(user_id, marker + user_id, source="initial", why=marker + user_id)
    run = store.start_alignment(user_id, {"x": marker + user_id})
    store.save_step(user_id, run, 1, {"x": marker + user_id})
    store.finish_alignment(user_id, run, {"x": marker + user_id}, trials=[(1, 0)], cohort="c")
    store.save_profile(user_id, Profile(facts=Facts(interactions=1), prose=marker + user_id))


@pytest.fixture
def store(location: str) -> Iterator[UserStore]:
    with UserStore(location) as store:
        yield store


def query_plan(store: UserStore, query: str, values: Any = None) -> str:
    """Return how the database would run a query, in lower case."""
    with store._database.read() as connection:
        if store._database.is_sqlite:
            return str(connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {query}", values).all()).lower()
        # The tables are so small that reading them whole is cheaper.
        connection.exec_driver_sql("SET LOCAL enable_seqscan = off")
        connection.exec_driver_sql("SET LOCAL enable_bitmapscan = off")
        connection.exec_driver_sql("SET LOCAL enable_sort = off")
        return str(connection.exec_driver_sql(f"EXPLAIN {query}", values).all()).lower()


@pytest.fixture
def ann(store: UserStore) -> UserStore:
    store.add_user("ann", task="free-text")
    return store


class TestUsers:
    def test_new_user_is_empty(self, ann: UserStore) -> None:
        user = ann.user("ann")
        assert (user.task, user.interactions, user.persona_version, user.stale) == (
            "free-text",
            0,
            None,
            False,
        )
        assert ann.interactions("ann") == []
        assert ann.persona("ann") is None
        assert ann.profile("ann") is None
        assert ann.alignments("ann") == []

    def test_adding_twice_changes_nothing(self, ann: UserStore) -> None:
        ann.append("ann", [interaction("1")])
        ann.add_user("ann", task="free-text")
        assert ann.user("ann").interactions == 1

    def test_rejects_a_second_task_and_names_both(self, ann: UserStore) -> None:
        with pytest.raises(StoreError, match=r"'free-text'.*'LaMP-3'"):
            ann.add_user("ann", task="LaMP-3")

    @pytest.mark.parametrize("user_id", ["", "x" * 257, "a\nb", "a\x7fb", "\ud800"])
    def test_rejects_an_invalid_user_id(self, store: UserStore, user_id: str) -> None:
        with pytest.raises(StoreError, match="`user_id`"):
            store.add_user(user_id, task="free-text")

    def test_users_are_in_id_order_across_pages(
        self, store: UserStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("program.store.user_store._PAGE", 2)
        for user_id in ("d", "b", "a", "c"):
            store.add_user(user_id, task="free-text")
        assert [user.user_id for user in store.users()] == ["a", "b", "c", "d"]

    def test_unknown_user_gets_a_suggestion(self, ann: UserStore) -> None:
        with pytest.raises(UnknownUserError, match=r"did you mean 'ann'.*personaagent users list"):
            ann.user("anne")

    @pytest.mark.parametrize(
        "call",
        [
            lambda store: store.interactions("bob"),
            lambda store: store.append("bob", [interaction("1", "bob")]),
            lambda store: store.persona("bob"),
            lambda store: store.persona("bob", 1),
            lambda store: store.persona_history("bob"),
            lambda store: store.rollback("bob", 1),
            lambda store: store.add_persona("bob", "p", source="initial", why="w"),
            lambda store: store.profile("bob"),
            lambda store: store.save_profile("bob", Profile(facts=Facts(interactions=0))),
            lambda store: store.alignments("bob"),
            lambda store: store.latest_alignment("bob"),
            lambda store: store.last_tries(["ann", "bob"]),
            lambda store: store.start_alignment("bob", {}),
            lambda store: store.forget("bob"),
        ],
    )
    def test_every_method_rejects_an_unknown_user(self, ann: UserStore, call: object) -> None:
        with pytest.raises(UnknownUserError, match="'bob'"):
            call(ann)  # type: ignore[operator]


class TestInteractions:
    def test_interactions_round_trip_with_times_in_utc(self, ann: UserStore) -> None:
        tokyo = timezone(timedelta(hours=9))
        ann.append("ann", [interaction("1", at=datetime(2024, 5, 1, 21, 0, 0, 7, tzinfo=tokyo))])
        [back] = ann.interactions("ann")
        assert back == interaction("1", at=NOON.replace(microsecond=7))
        assert back.timestamp is not None
        assert back.timestamp.tzinfo is timezone.utc

    def test_appending_again_adds_nothing(self, ann: UserStore) -> None:
        assert ann.append("ann", [interaction("1"), interaction("1"), interaction("2")]) == 2
        assert ann.append("ann", [interaction("2"), interaction("3")]) == 1
        assert [i.id for i in ann.interactions("ann")] == ["1", "2", "3"]

    def test_append_with_a_task_adds_a_missing_user(self, store: UserStore) -> None:
        store.append("ann", [interaction("1")], task="LaMP-2M")
        assert store.user("ann").task == "LaMP-2M"

    def test_conflicting_content_for_a_stored_id_stores_nothing(self, ann: UserStore) -> None:
        ann.append("ann", [interaction("1")])
        with pytest.raises(StoreError, match="interaction '1' with other content") as caught:
            ann.append("ann", [interaction("2"), interaction("1", response="secret")])
        assert [i.id for i in ann.interactions("ann")] == ["1"]
        assert "secret" not in str(caught.value)
        assert ann.user("ann").interactions == 1

    def test_append_is_atomic_across_chunks(self, ann: UserStore) -> None:
        many = [interaction(str(n)) for n in range(1200)]
        with pytest.raises(StoreError):
            ann.append("ann", [*many, interaction("3", response="action")])
        assert ann.interactions("ann") == []
        assert ann.append("ann", iter(many)) == 1200

    def test_rejects_an_interaction_of_another_user(self, ann: UserStore) -> None:
        with pytest.raises(StoreError, match="`user_id` 'bob'"):
            ann.append("ann", [interaction("1", "bob")])

    @pytest.mark.parametrize(
        ("bad", "field"),
        [
            (interaction(""), "`id`"),
            (interaction("1", response="\0"), "`response`"),
            (interaction("1", response="\ud800"), "`response`"),
            (interaction("1", at=datetime(2024, 1, 1)), "`timestamp`"),  # noqa: DTZ001
        ],
    )
    def test_rejects_values_that_a_database_cannot_store(
        self, ann: UserStore, bad: Interaction, field: str
    ) -> None:
        with pytest.raises(StoreError, match=field):
            ann.append("ann", [bad])

    @given(arrived=st.lists(st.none() | st.integers(0, 3), max_size=8), after=st.integers(0, 9))
    @settings(max_examples=30, suppress_health_check=NEW_STORE)
    def test_reader_that_has_some_gets_the_others_in_time_order(
        self, new_location: Callable[[], str], arrived: list[int | None], after: int
    ) -> None:
        items = [
            interaction(str(n), at=None if hour is None else NOON + timedelta(hours=hour))
            for n, hour in enumerate(arrived)
        ]
        with UserStore(new_location()) as store:
            store.append("ann", items, task="free-text")
            new = {item.id for item in items[after:]}
            expected = [item for item in store.interactions("ann") if item.id in new]
            assert store.interactions("ann", arrived_after=after) == expected
            assert store.interactions("ann", arrived_after=after, latest=1) == expected[-1:]

    def test_rejects_a_negative_latest(self, ann: UserStore) -> None:
        with pytest.raises(ConfigError, match="-1"):
            ann.interactions("ann", latest=-1)

    @given(hours=st.lists(st.none() | st.integers(0, 3), max_size=8), latest=st.integers(0, 9))
    @settings(max_examples=40, suppress_health_check=NEW_STORE)
    def test_order_is_undated_then_timestamp_then_arrival(
        self, new_location: Callable[[], str], hours: list[int | None], latest: int
    ) -> None:
        arrived = [
            interaction(str(n), at=None if hour is None else NOON + timedelta(hours=hour))
            for n, hour in enumerate(hours)
        ]
        expected = sorted(arrived, key=lambda i: NOON - timedelta(1) if i.timestamp is None else i.timestamp)
        with UserStore(new_location()) as store:
            store.append("ann", arrived, task="free-text")
            assert store.interactions("ann") == expected
            assert store.interactions("ann", latest=latest) == expected[max(0, len(expected) - latest) :]

    def test_latest_interactions_use_the_index(self, ann: UserStore) -> None:
        statements: list[tuple[str, tuple[object, ...]]] = []

        def record_statement(
            _c: object, _k: object, statement: str, values: tuple[object, ...], *_: object
        ) -> None:
            statements.append((statement, values))

        event.listen(Engine, "before_cursor_execute", record_statement)
        try:
            ann.interactions("ann", latest=3)
        finally:
            event.remove(Engine, "before_cursor_execute", record_statement)
        [(query, values)] = [(query, values) for query, values in statements if "ORDER BY" in query]
        plan = query_plan(ann, query, values)
        assert re.search(
            "index (scan backward )?using pa_interactions_time|using index pa_interactions_time", plan
        )
        assert "b-tree" not in plan
        assert "sort" not in plan

    def test_memory_has_only_interactions_of_its_user(self, ann: UserStore) -> None:
        ann.append("ann", [interaction("2", at=NOON), interaction("1")])
        ann.append("bob", [interaction("3", "bob")], task="free-text")
        memory = ann.memory("ann")
        assert memory.user_id == "ann"
        assert [i.id for i in memory.latest()] == ["1", "2"]


class TestObserve:
    def test_stores_the_response_with_a_new_id_and_the_current_time(self, ann: UserStore) -> None:
        before = datetime.now(timezone.utc)
        first = ann.observe("ann", query="dinner", response="Lentils.")
        second = ann.observe("ann", query="dinner", response="Lentils.")
        assert ann.interactions("ann") == [first, second]
        assert first.id != second.id
        assert first.timestamp is not None
        assert before <= first.timestamp <= datetime.now(timezone.utc)
        assert ann.user("ann").stale

    @pytest.mark.parametrize(
        "ahead", [timedelta(minutes=5), timedelta(hours=9), timedelta(hours=13, minutes=59)]
    )
    def test_is_the_latest_also_after_local_times_that_were_read_as_utc(
        self, ann: UserStore, ahead: timedelta
    ) -> None:
        future = datetime.now(timezone.utc) + ahead
        ann.append("ann", [interaction("tokyo", at=future), interaction("older", at=NOON)])
        first = ann.observe("ann", query="dinner", response="Lentils.")
        second = ann.observe("ann", query="dinner", response="Soup.")
        assert ann.interactions("ann")[-2:] == [first, second]
        assert first.timestamp == future + timedelta(microseconds=1)

    def test_time_is_the_current_one_if_a_stored_time_is_no_local_time(self, ann: UserStore) -> None:
        ann.append("ann", [interaction("typo", at=datetime(2999, 1, 1, tzinfo=timezone.utc))])
        observed = ann.observe("ann", query="dinner", response="Lentils.")
        assert observed.timestamp is not None
        assert observed.timestamp <= datetime.now(timezone.utc)

    def test_response_is_stored_in_the_format_of_the_task(self, store: UserStore) -> None:
        store.add_user("ann", task="LaMP-3")
        assert store.observe("ann", query="a review", response=" 4\n").response == "4"

    def test_label_outside_the_task_is_rejected_and_nothing_is_stored(self, store: UserStore) -> None:
        store.add_user("ann", task="LaMP-2M")
        with pytest.raises(
            DataError, match=r"`response`: 'horror' is not one of .*LaMP-2M needs exactly one of"
        ):
            store.observe("ann", query="a film", response="horror")
        assert store.interactions("ann") == []
        assert not store.user("ann").stale

    @pytest.mark.parametrize("query", ["a\0b", "\ud800"])
    def test_query_that_cannot_be_stored_is_rejected(self, ann: UserStore, query: str) -> None:
        with pytest.raises(StoreError, match="`query`"):
            ann.observe("ann", query=query, response="Lentils.")
        assert ann.interactions("ann") == []

    def test_unknown_user_is_rejected(self, store: UserStore) -> None:
        with pytest.raises(UnknownUserError, match="'ann'"):
            store.observe("ann", query="dinner", response="Lentils.")


class TestPersonas:
    def test_versions_count_from_one_for_each_user(self, ann: UserStore) -> None:
        ann.add_user("bob", task="free-text")
        first = ann.add_persona("ann", "one", source="initial", why="first")
        second = ann.add_persona("ann", "two", source="edit", why="better")
        assert ann.add_persona("bob", "his", source="initial", why="first").version == 1
        assert [(v.version, v.parent, v.text) for v in ann.persona_history("ann")] == [
            (1, None, "one"),
            (2, 1, "two"),
        ]
        assert ann.persona("ann") == second
        assert ann.persona("ann", 1) == first
        assert second.created_at.tzinfo is timezone.utc

    def test_parent_can_be_an_older_version(self, ann: UserStore) -> None:
        for text in ("one", "two"):
            ann.add_persona("ann", text, source="edit", why="w")
        assert ann.add_persona("ann", "three", source="edit", why="w", parent=1).parent == 1
        with pytest.raises(UnknownVersionError, match="version 9"):
            ann.add_persona("ann", "four", source="edit", why="w", parent=9)

    def test_unexpected_head_stores_nothing(self, ann: UserStore) -> None:
        ann.add_persona("ann", "one", source="initial", why="w", expect_head=0)
        with pytest.raises(StoreError, match="version 1, not 0"):
            ann.add_persona("ann", "mine", source="edit", why="w", expect_head=0)
        assert len(ann.persona_history("ann")) == 1

    def test_rollback_adds_a_version_with_the_old_text(self, ann: UserStore) -> None:
        for text in ("one", "two"):
            ann.add_persona("ann", text, source="edit", why="w")
        back = ann.rollback("ann", 1)
        assert (back.version, back.parent, back.text, back.source) == (3, 2, "one", "rollback")
        assert "version 1" in back.why
        assert len(ann.persona_history("ann")) == 3
        with pytest.raises(UnknownVersionError):
            ann.rollback("ann", 4)

    def test_parts_round_trip_and_a_version_without_any_has_none(self, ann: UserStore) -> None:
        parts = {"lines": [{"text": "🎬 ü", "since": 7}], "facts": {"n": 3, "mean": 0.5, "none": None}}
        first = ann.add_persona("ann", "one", source="initial", why="w", parts=parts)
        second = ann.add_persona("ann", "two", source="edit", why="w")
        third = ann.add_persona("ann", "three", source="alignment", why="w", parts={"lines": []})
        assert [first.parts, second.parts, third.parts] == [parts, None, {"lines": []}]
        assert ann.persona_history("ann") == [first, second, third]
        assert ann.persona("ann", 1) == first

    def test_version_without_parts_stores_no_value(self, ann: UserStore) -> None:
        ann.add_persona("ann", "one", source="edit", why="w")
        with ann._database.read() as connection:
            query = "SELECT count(*) FROM pa_personas WHERE parts IS NULL"
            assert connection.exec_driver_sql(query).scalar() == 1

    def test_rollback_has_the_parts_of_the_version_it_returns_to(self, ann: UserStore) -> None:
        ann.add_persona("ann", "one", source="initial", why="w", parts={"lines": [{"text": "a"}]})
        ann.add_persona("ann", "two", source="edit", why="w")
        assert ann.rollback("ann", 1).parts == {"lines": [{"text": "a", "since": 1}]}
        assert ann.rollback("ann", 2).parts is None

    def test_parts_that_are_not_json_store_nothing(self, ann: UserStore) -> None:
        with pytest.raises(StoreError, match="only JSON data"):
            ann.add_persona("ann", "one", source="initial", why="w", parts={"object": object()})
        assert ann.persona_history("ann") == []

    def test_version_with_parts_can_be_hashed(self, ann: UserStore) -> None:
        version = ann.add_persona("ann", "one", source="initial", why="w", parts={"rules": []})
        assert version in {version}

    def test_new_interaction_makes_the_user_stale(self, ann: UserStore) -> None:
        ann.append("ann", [interaction("1")])
        assert ann.user("ann").stale
        ann.add_persona("ann", "one", source="initial", why="w")
        assert not ann.user("ann").stale
        ann.append("ann", [interaction("1")])
        assert not ann.user("ann").stale
        ann.append("ann", [interaction("2")])
        assert ann.user("ann").stale

    @pytest.mark.parametrize(
        ("source", "settles"),
        [("initial", True), ("alignment", True), ("edit", False), ("rollback", False)],
    )
    def test_only_texts_from_the_data_settle(
        self, ann: UserStore, source: PersonaSource, settles: bool
    ) -> None:
        ann.append("ann", [interaction("1"), interaction("2")])
        ann.add_persona("ann", "one", source=source, why="w")
        assert ann.user("ann").stale is not settles

    def test_given_number_settles_that_many_and_never_fewer_than_before(self, ann: UserStore) -> None:
        ann.append("ann", [interaction("1"), interaction("2")])
        ann.add_persona("ann", "one", source="edit", why="w", settled=1)
        assert ann.user("ann").stale
        ann.add_persona("ann", "two", source="edit", why="w", settled=2)
        assert not ann.user("ann").stale
        ann.add_persona("ann", "three", source="initial", why="w", settled=0)
        assert not ann.user("ann").stale

    def test_rollback_leaves_new_data(self, ann: UserStore) -> None:
        ann.add_persona("ann", "one", source="initial", why="w")
        ann.add_persona("ann", "two", source="alignment", why="w")
        ann.rollback("ann", 1)
        assert not ann.user("ann").stale
        ann.append("ann", [interaction("1")])
        ann.rollback("ann", 1)
        assert ann.user("ann").stale

    def test_failed_run_leaves_new_data(self, ann: UserStore) -> None:
        ann.append("ann", [interaction("1")])
        ann.fail_alignment("ann", ann.start_alignment("ann", {}), "down")
        assert ann.user("ann").stale

    def test_profile_round_trips(self, ann: UserStore) -> None:
        facts = Facts(
            interactions=3,
            first=NOON,
            last=NOON,
            counts=(("comedy", 2), ("action", 1)),
            recent=("comedy",),
            mean=4.5,
        )
        profile = Profile(facts=facts, prose="Likes comedy.", interaction_ids=("2", "1"))
        ann.save_profile("ann", Profile(facts=Facts(interactions=0)))
        ann.save_profile("ann", profile)
        assert ann.profile("ann") == profile


class TestAlignments:
    def test_finished_run_stores_record_steps_and_persona(self, ann: UserStore) -> None:
        ann.add_persona("ann", "one", source="initial", why="w")
        run = ann.start_alignment("ann", {"steps": 1})
        ann.save_step("ann", run, 1, {"feedback": "draft"})
        ann.save_step("ann", run, 1, {"feedback": "be brief"})
        ann.save_step("ann", run, 2, {"feedback": "more"})
        version = ann.finish_alignment("ann", run, {"n": 3}, ("two", "accepted"))
        assert version is not None
        assert (version.version, version.parent, version.source, version.why) == (
            2,
            1,
            "alignment",
            "accepted",
        )
        assert version.alignment_id == run
        [row] = ann.alignments("ann")
        assert (row.status, dict(row.config), dict(row.record)) == ("done", {"steps": 1}, {"n": 3})
        assert row.ended_at is not None
        assert row.ended_at >= row.started_at
        assert ann.steps("ann", run) == [{"feedback": "be brief"}, {"feedback": "more"}]

    def test_run_without_a_persona_clears_stale_for_its_interactions(self, ann: UserStore) -> None:
        ann.append("ann", [interaction("1")])
        run = ann.start_alignment("ann", {})
        ann.append("ann", [interaction("2")])
        assert ann.finish_alignment("ann", run, {}) is None
        assert ann.user("ann").stale, "interaction 2 arrived during the run"
        run = ann.start_alignment("ann", {})
        ann.finish_alignment("ann", run, {})
        assert not ann.user("ann").stale

    def test_concurrent_runs_cannot_both_write_a_persona(self, ann: UserStore) -> None:
        ann.add_persona("ann", "one", source="initial", why="w")
        first, second = (ann.start_alignment("ann", {}) for _ in range(2))
        ann.finish_alignment("ann", first, {}, ("two", "w"))
        with pytest.raises(StoreError, match="version 2, not 1"):
            ann.finish_alignment("ann", second, {}, ("three", "w"))
        ann.fail_alignment("ann", second, "overtaken")
        assert [(row.status, row.error) for row in ann.alignments("ann")] == [
            ("done", ""),
            ("failed", "overtaken"),
        ]
        assert len(ann.persona_history("ann")) == 2

    def test_ended_run_rejects_changes(self, ann: UserStore) -> None:
        run = ann.start_alignment("ann", {})
        ann.fail_alignment("ann", run, "no key")
        calls: list[Callable[[], object]] = [
            lambda: ann.save_step("ann", run, 1, {}),
            lambda: ann.finish_alignment("ann", run, {}),
            lambda: ann.fail_alignment("ann", run, "again"),
        ]
        for call in calls:
            with pytest.raises(StoreError, match="has ended"):
                call()

    def test_run_of_another_user_is_unknown(self, ann: UserStore) -> None:
        ann.add_user("bob", task="free-text")
        run = ann.start_alignment("ann", {})
        with pytest.raises(StoreError, match="user 'bob' has no alignment"):
            ann.save_step("bob", run, 1, {})
        with pytest.raises(StoreError, match="user 'bob' has no alignment"):
            ann.steps("bob", run)

    def test_record_that_is_not_json_stores_nothing(self, ann: UserStore) -> None:
        run = ann.start_alignment("ann", {})
        with pytest.raises(StoreError, match="only JSON data"):
            ann.finish_alignment("ann", run, {"object": object()}, ("two", "w"))
        assert ann.persona("ann") is None
        assert ann.alignments("ann")[0].status == "running"

    def test_parts_come_with_the_new_persona_only(self, ann: UserStore) -> None:
        parts = {"rules": ["a"], "lines": []}
        run = ann.start_alignment("ann", {})
        assert ann.finish_alignment("ann", run, {}, parts=parts) is None
        assert ann.persona_history("ann") == []
        run = ann.start_alignment("ann", {})
        version = ann.finish_alignment("ann", run, {}, ("two", "w"), parts=parts)
        assert version is not None
        assert version.parts == parts

    def test_latest_is_the_newest_run_with_the_status(self, ann: UserStore) -> None:
        assert ann.latest_alignment("ann") is None
        for number in range(3):
            run = ann.start_alignment("ann", {})
            ann.finish_alignment("ann", run, {"number": number})
        ann.fail_alignment("ann", ann.start_alignment("ann", {}), "down")
        ann.start_alignment("ann", {})
        every = ann.alignments("ann")
        assert ann.latest_alignment("ann") == every[2]
        assert ann.latest_alignment("ann", "failed") == every[3]
        assert ann.latest_alignment("ann", "running") == every[4]
        assert ann.latest_alignment("ann", "interrupted") is None

    def test_last_tries_are_the_newest_that_ended_well_or_not(self, ann: UserStore) -> None:
        for user_id in ("cem", "dan", "eva"):
            ann.add_user(user_id, task="free-text")
        for user_id in ("ann", "cem"):
            ann.finish_alignment(user_id, ann.start_alignment(user_id, {}), {})
        ann.fail_alignment("cem", ann.start_alignment("cem", {}), "down")
        for user_id in ("cem", "dan"):
            ann.start_alignment(user_id, {})
        tries = ann.last_tries(["dan", "cem", "ann", "eva"])
        assert list(tries) == ["dan", "cem", "ann", "eva"]
        assert [user for user, _ in tries.values()] == [ann.user(user_id) for user_id in tries]
        assert {user_id: time for user_id, (_, time) in tries.items()} == {
            "dan": None,
            "cem": ann.alignments("cem")[1].started_at,
            "ann": ann.alignments("ann")[0].started_at,
            "eva": None,
        }

    def test_running_run_of_a_dead_process_is_interrupted_and_not_running(
        self, ann: UserStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        ann.start_alignment("ann", {})
        monkeypatch.setattr("program.store.alignments.is_dead", lambda owner: True)
        assert ann.latest_alignment("ann", "running") is None
        assert ann.latest_alignment("ann", "interrupted") == ann.alignments("ann")[0]


class TestTrials:
    @staticmethod
    def run(store: UserStore, user_id: str, trials: list[tuple[float, float]], cohort: str = "c") -> None:
        store.add_user(user_id, task="free-text")
        store.finish_alignment(user_id, store.start_alignment(user_id, {}), {}, trials=trials, cohort=cohort)

    def test_trials_of_other_users_are_newest_first(self, ann: UserStore) -> None:
        self.run(ann, "bob", [(3, 1), (2, 2)])
        self.run(ann, "cho", [(0, 0.5)])
        self.run(ann, "bob", [(7, 0)])
        assert ann.trials("c", excluding="ann") == [(7, 0), (0, 0.5), (2, 2), (3, 1)]
        assert ann.trials("c", excluding="ann", limit=2) == [(7, 0), (0, 0.5)]
        assert ann.trials("c", excluding="ann", limit=0) == []

    def test_own_trials_are_never_given(self, ann: UserStore) -> None:
        for number, user_id in enumerate(("ann", "bob", "ann", "cho", "ann")):
            self.run(ann, user_id, [(number, 0)])
        assert ann.trials("c", excluding="ann") == [(3, 0), (1, 0)]
        assert ann.trials("c", excluding="bob") == [(4, 0), (3, 0), (2, 0), (0, 0)]

    def test_only_trials_of_the_cohort_are_given(self, ann: UserStore) -> None:
        self.run(ann, "bob", [(1, 0)], "LaMP-2M|embedded|grounded")
        self.run(ann, "bob", [(2, 0)], "LaMP-2M|embedded|free")
        assert ann.trials("LaMP-2M|embedded|grounded", excluding="ann") == [(1, 0)]
        assert ann.trials("LaMP-2M", excluding="ann") == []

    def test_trials_are_two_floats_and_nothing_else(self, ann: UserStore) -> None:
        self.run(ann, "bob", [(1, 2)])
        [trial] = ann.trials("c", excluding="ann")
        assert type(trial) is tuple
        assert [type(number) for number in trial] == [float, float]

    def test_forgotten_user_has_no_trials(self, ann: UserStore) -> None:
        self.run(ann, "bob", [(1, 0)])
        self.run(ann, "cho", [(2, 0)])
        ann.forget("bob")
        assert ann.trials("c", excluding="ann") == [(2, 0)]
        with ann._database.read() as connection:
            users = connection.exec_driver_sql("SELECT user_id FROM pa_trials").scalars().all()
        assert users == ["cho"]

    @pytest.mark.parametrize(
        ("trials", "cohort", "line"),
        [
            ([(1, 0)], "", "`cohort` '' must be text of 1 to 512 characters"),
            ([(1, 0)], "a\0b", "`cohort` 'a.*b' "),
            ([(1, 0)], "c" * 513, "`cohort` 'c+' must be text of 1 to 512 characters"),
            ([(1, 0, 2)], "c", r"`trials\[0\]` must be two numbers"),
            ([(1, 0), (-1, 0)], "c", r"`trials\[1\]` must be two numbers of 0 or more, got \(-1, 0\)"),
            ([(1, float("nan"))], "c", r"`trials\[0\]` must be two numbers of 0 or more, got \(1, nan\)"),
            ([(float("inf"), 0)], "c", r"`trials\[0\]` must be two numbers"),
            ([("text", 0)], "c", r"`trials\[0\]` must be two numbers"),
        ],
    )
    def test_bad_trials_store_nothing_of_the_run(
        self, ann: UserStore, trials: Any, cohort: str, line: str
    ) -> None:
        run = ann.start_alignment("ann", {})
        with pytest.raises(ConfigError, match=line):
            ann.finish_alignment("ann", run, {}, ("two", "w"), trials=trials, cohort=cohort)
        assert ann.persona("ann") is None
        assert ann.alignments("ann")[0].status == "running"

    def test_persona_that_is_overtaken_stores_no_trials(self, ann: UserStore) -> None:
        run = ann.start_alignment("ann", {})
        ann.add_persona("ann", "mine", source="edit", why="w")
        with pytest.raises(StoreError, match="version 1, not 0"):
            ann.finish_alignment("ann", run, {}, ("two", "w"), trials=[(1, 0)], cohort="c")
        ann.add_user("bob", task="free-text")
        assert ann.trials("c", excluding="bob") == []

    def test_bad_limit_and_bad_cohort_are_rejected(self, ann: UserStore) -> None:
        with pytest.raises(ConfigError, match="`limit` must be 0 or more, got -1"):
            ann.trials("c", excluding="ann", limit=-1)
        with pytest.raises(ConfigError, match="`cohort`"):
            ann.trials("", excluding="ann")

    def test_trials_of_a_cohort_are_found_by_the_index(self, ann: UserStore) -> None:
        plan = query_plan(
            ann,
            "SELECT n_plus FROM pa_trials WHERE cohort = 'c' AND user_id != 'ann' "
            "ORDER BY created_at DESC LIMIT 5",
        )
        assert re.search("index scan backward using pa_trials_cohort|using index pa_trials_cohort", plan)


class TestForget:
    def test_forget_deletes_every_row_of_the_user_and_keeps_others(self, ann: UserStore) -> None:
        for user_id in ("ann", "bob"):
            fill(ann, user_id)
        ann.forget("ann")
        with pytest.raises(UnknownUserError):
            ann.user("ann")
        assert len(ann.interactions("bob")) == 50
        assert len(ann.steps("bob", ann.alignments("bob")[0].id)) == 1
        with ann._database.read() as connection:
            for table in (table for table in metadata.sorted_tables if "user_id" in table.c):
                owners = connection.exec_driver_sql(f"SELECT DISTINCT user_id FROM {table.name}").scalars()
                assert list(owners) == ["bob"], table.name

    def test_forgotten_id_can_be_added_again_if_it_is_readmitted(self, ann: UserStore) -> None:
        ann.append("ann", [interaction("1")])
        ann.forget("ann")
        ann.readmit("ann")
        ann.add_user("ann", task="LaMP-3")
        assert ann.interactions("ann") == []


class TestText:
    @pytest.mark.parametrize(
        ("changes", "line"),
        [
            ({}, "'ann' (free-text): 0 interactions, no persona yet"),
            (
                {"interactions": 2, "stale": True},
                "'ann' (free-text): 2 interactions, no persona yet, new data",
            ),
            ({"interactions": 2, "persona_version": 3}, "'ann' (free-text): 2 interactions, persona v3"),
        ],
    )
    def test_user_summary_is_one_line(self, ann: UserStore, changes: dict[str, Any], line: str) -> None:
        assert str(replace(ann.user("ann"), **changes)) == line

    def test_persona_version_names_source_and_parent(self, ann: UserStore) -> None:
        first = ann.add_persona("ann", "one", source="initial", why="first")
        ann.add_persona("ann", "two", source="edit", why="shorter")
        assert str(first) == "v1 of 'ann' (initial): first"
        assert str(ann.rollback("ann", 1)) == "v3 of 'ann' (rollback, from v2): back to version 1"


class TestFaults:
    def test_error_inside_a_write_rolls_back(self, ann: UserStore) -> None:
        def interrupted() -> Iterator[Interaction]:
            yield interaction("1")
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            ann.append("ann", interrupted())
        assert ann.interactions("ann") == []
        assert ann.append("ann", [interaction("1")]) == 1


class TestHandle:
    def test_a_deep_copy_is_the_same_store(self, store: UserStore) -> None:
        assert copy.deepcopy({"store": store})["store"] is store

    def test_closed_store_raises(self, store: UserStore) -> None:
        assert not store.closed
        store.close()
        assert store.closed
        store.close()
        with pytest.raises(StoreError, match="is closed"):
            store.user("ann")
