"""Opening a store: new, existing and newer ones, and files that are not a store."""

from __future__ import annotations

import shutil
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine, inspect

from program.errors import ConfigError, StoreError
from program.persona import Persona
from program.store import UserStore
from program.store.schema import SCHEMA, VERSION_TABLE, metadata

ROOT = Path(__file__).parents[2]


def test_empty_database_becomes_a_store_and_opens_again(empty_location: str) -> None:
    for _ in range(2):
        with UserStore(empty_location) as store:
            store.add_user("ann", task="free-text")
            assert [user.user_id for user in store.users()] == ["ann"]


def test_migrations_create_the_declared_tables(empty_location: str) -> None:
    with UserStore(empty_location) as store, store._database.read() as connection:
        context = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE})
        assert compare_metadata(context, metadata) == []


def test_an_older_store_is_migrated_with_its_personas_and_takes_parts(tmp_path: Path) -> None:
    shutil.copy(ROOT / "tests/fixtures/v0_1/users.db", tmp_path / "users.db")
    with closing(sqlite3.connect(tmp_path / "users.db")) as old:
        texts = dict(old.execute("SELECT user_id || version, text FROM pa_personas"))
        user = old.execute("SELECT user_id FROM pa_personas").fetchone()[0]
        assert old.execute(f"SELECT version_num FROM {VERSION_TABLE}").fetchone() == ("v0001",)
    with UserStore(tmp_path / "users.db") as store:
        versions = [version for row in store.users() for version in store.persona_history(row.user_id)]
        assert {f"{v.user_id}{v.version}": v.text for v in versions} == texts
        assert {v.parts for v in versions} == {None}
        parts = Persona().with_line("Likes tea.", ["7"]).as_dict()
        added = store.add_persona(user, "Likes tea.", source="edit", why="a test", parts=parts)
        assert added.parts is not None
        assert added.parts["lines"][0]["since"] == added.version
        assert store.rollback(user, added.version).parts == added.parts


def test_damaged_parts_of_a_persona_are_named(tmp_path: Path) -> None:
    with UserStore(tmp_path / "users.db") as store:
        store.add_user("ann", task="free-text")
        store.add_persona("ann", "Be brief.", source="edit", why="a test", parts=Persona().as_dict())
    with closing(sqlite3.connect(tmp_path / "users.db")) as db, db:
        db.execute("UPDATE pa_personas SET parts = '[7]'")
    with UserStore(tmp_path / "users.db") as store, pytest.raises(StoreError, match="is damaged"):
        store.persona("ann")


def test_schema_constant_is_the_newest_migration() -> None:
    config = Config()
    config.set_main_option("script_location", "program.store:migrations")
    config.set_main_option("path_separator", "os")
    assert ScriptDirectory.from_config(config).get_heads() == [SCHEMA]


def test_up_to_date_store_opens_without_alembic(location: str) -> None:
    UserStore(location).close()
    code = (
        "import sys; from program.store import UserStore; "
        "UserStore(sys.argv[1]).close(); sys.exit('alembic' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, location], cwd=ROOT, check=True)


def test_only_the_owner_can_read_the_files(tmp_path: Path) -> None:
    with UserStore(tmp_path / "store.db") as store:
        store.add_user("ann", task="free-text")
        names = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    assert names == {"store.db": 0o600, "store.db-wal": 0o600, "store.db-shm": 0o600}


def test_a_store_that_others_can_read_is_closed_to_them(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    UserStore(path).close()
    path.chmod(0o644)
    UserStore(path).close()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_commits_are_durable_and_deletions_overwrite(tmp_path: Path) -> None:
    expected = {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1, "secure_delete": 1}
    with UserStore(tmp_path / "store.db") as store:
        assert {name: store._database.pragma(name) for name in expected} == expected


def test_url_and_path_open_the_same_store(tmp_path: Path) -> None:
    with UserStore(f"sqlite:///{tmp_path}/store.db") as store:
        store.add_user("ann", task="free-text")
    with UserStore(str(tmp_path / "store.db")) as store:
        assert store.user("ann").task == "free-text"


@pytest.mark.parametrize("content", [b"hello", b"<html>" * 1000, bytes(range(256)) * 40])
def test_file_that_is_not_a_database_is_rejected_and_unchanged(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "notes.txt"
    path.write_bytes(content)
    with pytest.raises(StoreError, match=r"notes\.txt`: file is not a database"):
        UserStore(path)
    assert path.read_bytes() == content
    assert [p.name for p in tmp_path.iterdir()] == ["notes.txt"]


def test_database_of_another_program_is_rejected_and_unchanged(tmp_path: Path) -> None:
    path = tmp_path / "other.db"
    with closing(sqlite3.connect(path)) as other, other:
        other.execute("CREATE TABLE songs (title TEXT)")
    before = path.read_bytes()
    with pytest.raises(StoreError, match="another program's database"):
        UserStore(path)
    assert path.read_bytes() == before


def test_newer_schema_is_rejected_and_unchanged(location: str) -> None:
    with UserStore(location) as store:
        with store._database.write() as connection:
            connection.exec_driver_sql(f"UPDATE {VERSION_TABLE} SET version_num = 'v9999'")
        with pytest.raises(StoreError, match=r"newer personaagent.*'v9999'.*update personaagent"):
            UserStore(location)
        with store._database.read() as connection:
            stored = connection.exec_driver_sql(f"SELECT version_num FROM {VERSION_TABLE}").all()
        assert [tuple(row) for row in stored] == [("v9999",)]


def test_tables_of_other_programs_in_a_postgresql_database_are_left_alone(
    empty_database: Callable[[], str],
) -> None:
    url = empty_database()
    engine = create_engine(url)
    with engine.begin() as other:
        other.exec_driver_sql("CREATE TABLE songs (title TEXT)")
    with UserStore(url) as store:
        store.add_user("ann", task="free-text")
    with engine.begin() as other:
        assert "songs" in inspect(other).get_table_names()
    engine.dispose()


def test_folder_and_missing_folder_are_rejected(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="Is a directory"):
        UserStore(tmp_path)
    with pytest.raises(StoreError, match="folder does not exist"):
        UserStore(tmp_path / "missing" / "store.db")


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("mysql://host/db", "not 'mysql'"),
        ("sqlite://", "in-memory"),
        ("sqlite:///:memory:", "in-memory"),
        ("://", "cannot be parsed"),
    ],
)
def test_unsupported_url_is_rejected(url: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        UserStore(url)


def test_other_driver_is_rejected_without_the_password() -> None:
    with pytest.raises(ConfigError, match="not the driver of `postgresql\\+pg8000`; write") as caught:
        UserStore("postgresql+pg8000://ann:secret@localhost/db")
    assert "secret" not in str(caught.value)


def test_missing_driver_error_names_the_extra_and_no_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    for scheme in ("postgres", "postgresql", "postgresql+psycopg"):
        with pytest.raises(ConfigError, match=r"extra `postgres`.*'personaagent\[postgres\]'") as caught:
            UserStore(f"{scheme}://ann:secret@localhost/db")
        assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("setting", "line"),
    [
        ({"pool_size": 0}, "`pool_size` must be an integer from 1 to 10000, got 0"),
        ({"pool_size": 2.0}, "`pool_size` must be an integer"),
        ({"pool_size": True}, "`pool_size` must be an integer"),
        ({"max_overflow": -2}, "`max_overflow` must be an integer from -1 to 10000, got -2"),
        ({"pool_timeout": 0}, "`pool_timeout` must be seconds above 0 and at most 3600, got 0"),
        ({"pool_timeout": float("nan")}, "`pool_timeout` must be seconds"),
        ({"pool_timeout": "5"}, "`pool_timeout` must be seconds"),
    ],
)
def test_pool_setting_out_of_range_is_rejected_before_a_file_is_made(
    tmp_path: Path, setting: dict[str, Any], line: str
) -> None:
    with pytest.raises(ConfigError, match=line):
        UserStore(tmp_path / "store.db", **setting)
    assert list(tmp_path.iterdir()) == []
