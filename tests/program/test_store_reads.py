"""The reads of a chat find their rows by indexes alone, however many users there are."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone

import pytest
from sqlalchemy import event, text

from program.errors import UnknownUserError
from program.memory.interaction import Interaction
from program.store import UserStore

START = datetime(2026, 1, 1, tzinfo=timezone.utc)
USERS = 6


def interaction(user_id: str, number: int) -> Interaction:
    time = START + timedelta(hours=number)
    return Interaction(id=f"i{number}", user_id=user_id, query="Dinner?", response="Soup.", timestamp=time)


@pytest.fixture
def store(location: str) -> Iterator[UserStore]:
    with UserStore(location) as opened:
        names = [f"u{number}" for number in range(USERS)]
        new = {name: [interaction(name, number) for number in range(20)] for name in names}
        opened.append_many(new, task="free-text")
        opened.add_persona("u1", "Likes soup.", source="edit", why="a test")
        yield opened


@contextmanager
def statements(store: UserStore) -> Iterator[list[tuple[str, object]]]:
    seen: list[tuple[str, object]] = []

    def note(_c: object, _cursor: object, statement: str, parameters: object, *_: object) -> None:
        if statement.startswith("SELECT"):
            seen.append((statement, parameters))

    event.listen(store._database.engine, "before_cursor_execute", note)
    yield seen
    event.remove(store._database.engine, "before_cursor_execute", note)


def plan(store: UserStore, statement: str, parameters: object) -> str:
    """Return how the database would find the rows, if it had many."""
    with store._database.write() as connection:
        if store._database.is_sqlite:
            rows = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters)  # type: ignore[arg-type]
            return "\n".join(row[3] for row in rows)
        # With few rows reading and sorting them all is cheaper; with many it is not.
        for way in ("seqscan", "bitmapscan", "sort"):
            connection.execute(text(f"SET LOCAL enable_{way} = off"))
        rows = connection.exec_driver_sql(f"EXPLAIN {statement}", parameters)  # type: ignore[arg-type]
        return "\n".join(row[0] for row in rows)


def test_persona_latest_interactions_and_head_are_one_statement_each_by_index(store: UserStore) -> None:
    with statements(store) as seen:
        assert store.persona("u1") is not None
        assert [item.id for item in store.interactions("u1", latest=3)] == ["i17", "i18", "i19"]
        assert store.interactions("u1", arrived_after=19)[0].id == "i19"
        assert store.head("u1").last_id == "i19"
    assert len(seen) == 4
    for statement, parameters in seen:
        found = plan(store, statement, parameters)
        assert "Seq Scan" not in found, found
        for line in found.splitlines():
            assert not line.startswith("SCAN") or "INDEX" in line, found
        # Ordered by the index: rows are not sorted, however many a user has.
        assert "TEMP B-TREE" not in found or "arrived" in statement or ".position >" in statement, found
    latest = plan(store, *seen[1])
    assert "pa_interactions_time" in latest
    assert "Sort" not in latest


def test_a_head_changes_with_everything_that_a_prompt_shows(store: UserStore) -> None:
    heads, other = [store.head("u1")], store.head("u2")
    assert store.head("u1") == heads[0]
    store.observe("u1", query="Dinner?", response="Rice.")
    heads.append(store.head("u1"))
    store.add_persona("u1", "Likes rice.", source="edit", why="a test")
    heads.append(store.head("u1"))
    store.pin("u1", 1)
    heads.append(store.head("u1"))
    store.forget_interactions("u1", ["i3"])
    heads.append(store.head("u1"))
    store.observe("u1", query="Dinner?", response="Rice.")
    heads.append(store.head("u1"))
    assert len(set(heads)) == len(heads) == 6
    # That something was forgotten shows in the head of everyone.
    assert store.head("u2").audited_at > other.audited_at
    assert (heads[-1].interactions, heads[-1].newest, heads[2].pinned, heads[3].pinned) == (21, 3, None, 1)


def test_a_user_without_anything_has_a_head_and_an_unknown_one_has_none(store: UserStore) -> None:
    store.add_user("new", task="free-text")
    head = store.head("new")
    assert (head.task, head.interactions, head.last_id, head.newest) == ("free-text", 0, None, 0)
    assert store.interactions("new") == []
    assert store.persona("new") is None
    for read in (store.head, store.interactions, store.persona):
        with pytest.raises(UnknownUserError, match="unknown user 'u1000'"):
            read("u1000")
