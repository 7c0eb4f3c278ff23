"""Migrates a database to the current schema when it is opened."""

from __future__ import annotations

import threading
from pathlib import Path

from sqlalchemy import Connection, column, inspect, select, table

from program.errors import StoreError
from program.store.damage import advice, find_damage, find_wrong_counts
from program.store.database import BUSY_SECONDS, Database
from program.store.schema import SCHEMA, VERSION_TABLE

# Alembic stores the running migration in a module global.
_ALEMBIC = threading.Lock()


def upgrade(database: Database) -> None:
    """Create the tables in an empty database, or run the missing migrations of an older one.

    A small SQLite file is checked for damage first (`program.store.damage`). Migrations run in one
    transaction under the write lock: a crash leaves the old schema, and two processes cannot both migrate.

    Raises:
        StoreError: The file is damaged or not a database, belongs to another program, or has a newer
            schema. It is not changed.
    """
    if database.is_sqlite and (reason := find_damage(database)):
        raise StoreError(advice(database.name, reason))
    with database.read() as connection:
        version = _version(connection)
        if version is None and database.is_sqlite and inspect(connection).get_table_names():
            raise StoreError(
                f"store `{database.name}` is another program's database (it has no table "
                f"`{VERSION_TABLE}`); use another path"
            )
    if database.is_sqlite:
        _use_wal(database)
    if version == SCHEMA:
        if database.is_sqlite:
            with database.read() as connection:
                _check_counts(database, connection)
        return
    with _ALEMBIC:
        database.change(lambda connection: _upgrade(database, connection, is_new=version is None))


def _upgrade(database: Database, connection: Connection, *, is_new: bool) -> None:
    if not database.is_sqlite:
        connection.exec_driver_sql("SELECT pg_advisory_xact_lock(7270656)")
    _migrate(database.name, connection)
    if database.is_sqlite and not is_new:
        _check_counts(database, connection)


def _check_counts(database: Database, connection: Connection) -> None:
    if reason := find_wrong_counts(connection, Path(database.name).stat().st_size):
        raise StoreError(advice(database.name, reason))


def _version(connection: Connection) -> str | None:
    if not inspect(connection).has_table(VERSION_TABLE):
        return None
    version: str | None = connection.scalar(select(column("version_num")).select_from(table(VERSION_TABLE)))
    return version


def _migrate(name: str, connection: Connection) -> None:
    from alembic import command
    from alembic.config import Config
    from alembic.script import ScriptDirectory

    config = Config()
    config.set_main_option("script_location", "program.store:migrations")
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    revisions = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
    # Read again: another process may have migrated while this one waited for the lock.
    version = _version(connection)
    if version not in revisions | {None}:
        raise StoreError(
            f"store `{name}` was created by a newer personaagent (schema {version!r}, this version supports "
            f"{SCHEMA!r}); update personaagent"
        )
    command.upgrade(config, "head")


def _use_wal(database: Database) -> None:
    if database.pragma("journal_mode") == "wal":
        return
    from tenacity import Retrying, retry_if_exception_message, stop_after_delay, wait_random

    # SQLite does not wait for other processes when it switches to WAL.
    for attempt in Retrying(
        stop=stop_after_delay(BUSY_SECONDS),
        wait=wait_random(0.01, 0.05),
        retry=retry_if_exception_message(match=".*locked"),
        reraise=True,
    ):
        with attempt:
            database.pragma("journal_mode=WAL")
