"""Bring a database to this version's schema when it is opened, or refuse to touch it."""

from __future__ import annotations

import threading

from sqlalchemy import Connection, column, inspect, select, table

from program.errors import StoreError
from program.store.database import BUSY_SECONDS, Database
from program.store.schema import SCHEMA, VERSION_TABLE

# Alembic keeps the running migration in a module global.
_ALEMBIC = threading.Lock()


def upgrade(database: Database) -> None:
    """Make the tables in an empty database, or run the migrations that an older one lacks.

    An up-to-date database costs two small reads. Migrations run in one transaction under the
    write lock, so a crash leaves the old schema and two processes cannot both run them.

    Raises:
        StoreError: The file is no database, another program's, or of a newer version. It is left
            as it was.
    """
    with database.read() as connection:
        found = _version(connection)
        if found is None and database.is_sqlite and inspect(connection).get_table_names():
            raise StoreError(
                f"store `{database.name}` is another program's database (it has no table "
                f"`{VERSION_TABLE}`); give another path"
            )
    if database.is_sqlite:
        _use_wal(database)
    if found == SCHEMA:
        return
    with _ALEMBIC, database.write() as connection:
        if not database.is_sqlite:
            connection.exec_driver_sql("SELECT pg_advisory_xact_lock(7270656)")
        _migrate(database.name, connection)


def _version(connection: Connection) -> str | None:
    if not inspect(connection).has_table(VERSION_TABLE):
        return None
    found: str | None = connection.scalar(select(column("version_num")).select_from(table(VERSION_TABLE)))
    return found


def _migrate(name: str, connection: Connection) -> None:
    from alembic import command
    from alembic.config import Config
    from alembic.script import ScriptDirectory

    config = Config()
    config.set_main_option("script_location", "program.store:migrations")
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
    # Read again: another process may have migrated while this one waited for the lock.
    found = _version(connection)
    if found not in known | {None}:
        raise StoreError(
            f"store `{name}` was made by a newer personaagent (schema {found!r}, this one knows "
            f"{SCHEMA!r}); update personaagent"
        )
    command.upgrade(config, "head")


def _use_wal(database: Database) -> None:
    if database.pragma("journal_mode") == "wal":
        return
    from tenacity import Retrying, retry_if_exception_message, stop_after_delay, wait_random

    # Switching to WAL does not wait for other processes by itself.
    for attempt in Retrying(
        stop=stop_after_delay(BUSY_SECONDS),
        wait=wait_random(0.01, 0.05),
        retry=retry_if_exception_message(match=".*locked"),
        reraise=True,
    ):
        with attempt:
            database.pragma("journal_mode=WAL")
