"""Opening a store of version 0.1: everything is still there, and a failure leaves it as it was."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from sqlalchemy import Connection, MetaData, create_engine, event
from sqlalchemy.engine import Engine

from program.errors import StoreError
from program.store import UserStore
from program.store.schema import SCHEMA, VERSION_TABLE, metadata

OLD = Path(__file__).parents[1] / "fixtures" / "v0_1" / "users.db"
TABLES = ("pa_users", "pa_interactions", "pa_profiles", "pa_personas", "pa_alignments", "pa_steps")


@pytest.fixture(params=["sqlite", "postgresql"])
def old(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A store of 0.1: a copy of the file, then a PostgreSQL database with the same rows."""
    copied = shutil.copy(OLD, tmp_path / "users.db")
    if request.param == "sqlite":
        return str(copied)
    location: str = request.getfixturevalue("empty_database")()
    with begin(str(copied)) as source, begin(location) as target:
        config = Config()
        config.set_main_option("script_location", "program.store:migrations")
        config.set_main_option("path_separator", "os")
        config.attributes["connection"] = target
        command.upgrade(config, "v0001")
        tables = MetaData()
        tables.reflect(target)
        for name in TABLES:
            table = tables.tables[name]
            target.execute(table.insert(), [dict(row) for row in source.execute(table.select()).mappings()])
    return location


@contextmanager
def begin(location: str) -> Iterator[Connection]:
    """Open a transaction without the store."""
    engine = create_engine(location if "://" in location else f"sqlite:///{location}")
    try:
        with engine.begin() as connection:
            yield connection
    finally:
        engine.dispose()


def rows(location: str) -> dict[str, list[dict[str, Any]]]:
    """Return every row of the tables of 0.1, as the database has it."""
    with begin(location) as raw:
        return {
            table: sorted(
                (dict(row) for row in raw.exec_driver_sql(f"SELECT * FROM {table}").mappings()), key=str
            )
            for table in TABLES
        }


def version(location: str) -> str:
    with begin(location) as raw:
        return str(raw.exec_driver_sql(f"SELECT version_num FROM {VERSION_TABLE}").scalar_one())


def test_every_value_of_0_1_is_unchanged(old: str) -> None:
    before = rows(old)
    assert version(old) == "v0001"
    assert all(before.values()), "the old store has rows in every table"
    UserStore(old).close()
    after = rows(old)
    assert version(old) == SCHEMA
    assert {row.pop("parts") for row in after["pa_personas"]} == {None}
    assert {row.pop("pinned") for row in after["pa_users"]} == {None}
    since = {row["user_id"]: row.pop("stale_since") for row in after["pa_users"]}
    assert after == before
    (ended,) = (row["ended_at"] for row in before["pa_alignments"] if row["status"] == "done")
    added = {row["user_id"]: row["created_at"] for row in before["pa_users"]}
    assert since == {"ana": ended, "bo": "", "chi": added["chi"]}


def test_migrated_store_has_the_declared_tables(old: str) -> None:
    with UserStore(old) as store, store._database.read() as connection:
        context = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE})
        assert compare_metadata(context, metadata) == []


def test_personas_of_0_1_have_no_parts_and_a_new_one_may_have_some(old: str) -> None:
    with UserStore(old) as store:
        assert [v.parts for v in store.persona_history("ana")] == [None, None, None]
        assert store.rollback("ana", 2).parts is None
        store.add_persona("ana", "Be brief.", source="alignment", why="w", parts={"lines": []})
    with UserStore(old) as store:
        assert [v.parts for v in store.persona_history("ana")] == [None, None, None, None, {"lines": []}]


def test_alignments_of_0_1_are_costs_of_their_month(old: str) -> None:
    with UserStore(old) as store:
        (ana,), (bo,) = store.costs("ana"), store.costs("bo")
        assert store.costs("chi") == []
    # Three stages of 12, 4 and 2 calls; three rollouts are wrong and one is right.
    assert (ana.month, ana.alignments, ana.failed, ana.calls, ana.unpriced) == ("2026-11", 1, 0, 18, 18)
    assert (ana.input_tokens, ana.output_tokens) == (8305 + 1104 + 678, 464 + 54 + 382)
    assert (ana.scored, ana.agreement) == (4, 0.25)
    assert (bo.alignments, bo.failed, bo.calls, bo.agreement) == (0, 1, 0, None)


def test_alignment_of_0_1_is_the_latest_and_has_no_trials(old: str) -> None:
    with UserStore(old) as store:
        assert store.latest_alignment("ana") == store.alignments("ana")[-1]
        assert store.trials("LaMP-2M", excluding="bo") == []


def test_migrated_store_takes_trials_and_forgets_a_user_of_0_1(old: str) -> None:
    with UserStore(old) as store:
        run = store.start_alignment("ana", {})
        store.finish_alignment("ana", run, {}, trials=[(1, 0)], cohort="c")
        assert store.trials("c", excluding="bo") == [(1.0, 0.0)]
        store.forget("ana")
        assert store.trials("c", excluding="bo") == []
    assert {row["user_id"] for found in rows(old).values() for row in found} == {"bo", "chi"}


def _fail_at(statement: int) -> Callable[..., None]:
    left = statement

    def step(*_: object) -> None:
        nonlocal left
        if left == 0:
            raise KeyboardInterrupt
        left -= 1

    return step


def test_migration_that_is_interrupted_changes_nothing(old: str) -> None:
    before = rows(old)
    interrupted = 0
    while version(old) == "v0001":
        fail = _fail_at(interrupted)
        event.listen(Engine, "before_cursor_execute", fail)
        try:
            UserStore(old).close()
        except KeyboardInterrupt:
            event.remove(Engine, "before_cursor_execute", fail)
            interrupted += 1
            assert version(old) == "v0001"
            assert rows(old) == before
        else:
            event.remove(Engine, "before_cursor_execute", fail)
    assert interrupted > 5, "some failures are between the statements of the migration"
    with UserStore(old) as store:
        assert [user.user_id for user in store.users()] == ["ana", "bo", "chi"]


def test_store_of_0_1_is_migrated_once_if_many_open_it_together(old: str) -> None:
    def use(number: int) -> list[str]:
        with UserStore(old) as store:
            store.observe("ana", query=f"q{number}", response="classic")
            return [user.user_id for user in store.users()]

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(use, range(8))) == [["ana", "bo", "chi"]] * 8
    with UserStore(old) as store:
        assert store.user("ana").interactions == 21


@pytest.mark.parametrize("old", ["sqlite"], indirect=True)
def test_old_file_with_wrong_counts_is_refused_and_not_migrated(old: str) -> None:
    with begin(old) as raw:
        raw.exec_driver_sql("UPDATE pa_users SET interactions = 3 WHERE user_id = 'bo'")
    before = rows(old)
    with pytest.raises(StoreError, match="the counts of 1 user are wrong"):
        UserStore(old)
    assert version(old) == "v0001"
    assert rows(old) == before


def test_program_without_a_migration_refuses_the_store_and_changes_nothing(
    old: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from alembic.script import ScriptDirectory

    UserStore(old).close()
    before = rows(old)
    walk = ScriptDirectory.walk_revisions
    monkeypatch.setattr(
        ScriptDirectory,
        "walk_revisions",
        lambda scripts: (script for script in walk(scripts) if script.revision == "v0001"),
    )
    monkeypatch.setattr("program.store.upgrade.SCHEMA", "v0001")
    with pytest.raises(StoreError, match=r"newer personaagent \(schema 'v0004', .*'v0001'\); update"):
        UserStore(old)
    assert version(old) == "v0004"
    assert rows(old) == before
