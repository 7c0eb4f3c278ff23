"""Opens SQLite or PostgreSQL: transactions, durability, and errors as `StoreError`."""

from __future__ import annotations

import json
import os
import re
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError, SQLAlchemyError
from sqlalchemy.pool import ConnectionPoolEntry

from program.errors import ConfigError, StoreError, StoreUnavailableError
from program.side_files import make_private
from program.store.checks import DamagedValueError
from program.store.damage import advice

BUSY_SECONDS = 30
"""Seconds that a writer waits for a writer in another process."""

# What SQLite or PostgreSQL says if every request would fail now, and what to do.
_HINTS = {
    "locked": f"another process has been writing for {BUSY_SECONDS} s, try again",
    "is full": "free some space on the disk",
    "disk I/O error": "check the space on the disk, and the disk",
    "readonly": "make the file and its folder writable",
    "connection": "is the database server running?",
}

_DAMAGE = re.compile(
    r"malformed|unsupported file format|no such (?:table|column|index)|has no column|decode", re.I
)
"""What SQLite says of a damaged file; the tables themselves never change."""


class Database:
    """An open SQLite file or PostgreSQL database.

    On SQLite a write takes the write lock when it begins, so it never fails halfway because of another
    writer. A commit returns after the data is on disk (``synchronous=FULL``). Within one process
    writers queue on a lock, because SQLite itself polls without fairness.

    Args:
        location: A file path, or an SQLAlchemy URL of SQLite or PostgreSQL.

    Raises:
        ConfigError: The URL is invalid, or names an unsupported database or a missing driver.
        StoreError: The file cannot be created or opened.
    """

    def __init__(self, location: str | Path) -> None:
        url = _url(location)
        self.is_sqlite = url.get_backend_name() == "sqlite"
        self.name = str(url.database) if self.is_sqlite else url.render_as_string(hide_password=True)
        self.closed = False
        self._write_lock = threading.Lock()
        if self.is_sqlite:
            _create_private(Path(self.name))
        self.engine = _engine(url, self.is_sqlite)
        self._writer = self.engine.execution_options(write=True)

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """Open a read transaction: a consistent snapshot of the database."""
        with self.errors(), self.engine.begin() as connection:
            yield connection

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """Open a write transaction: commit when the block ends, roll back if it raises."""
        with self._write_lock if self.is_sqlite else nullcontext():
            with self.errors(), self._writer.begin() as connection:
                yield connection

    @contextmanager
    def errors(self) -> Iterator[None]:
        """Convert database errors to `StoreError`, without any stored text in the message."""
        if self.closed:
            raise StoreError(f"the store `{self.name}` is closed; open it again")
        try:
            yield
        except (SQLAlchemyError, sqlite3.Error, DamagedValueError) as error:
            raise self._store_error(error) from error

    def _store_error(self, error: Exception) -> StoreError:
        cause = error.orig if isinstance(error, DBAPIError) and error.orig else error
        # SQLite quotes a text that it cannot decode.
        reason = str(cause).partition("\n")[0].partition(" with text ")[0].rstrip(" .;")
        if isinstance(cause, DamagedValueError):
            return StoreError(advice(self.name, f"{reason} cannot be read", is_sqlite=self.is_sqlite))
        if self.is_sqlite and _DAMAGE.search(reason):
            return StoreError(advice(self.name, reason))
        line = f"store `{self.name}`: {reason}"
        if "not a database" in reason:
            return StoreError(f"{line}; use another path, or restore a backup if it was a store")
        for sign, hint in _HINTS.items():
            if sign in reason:
                return StoreUnavailableError(f"{line}; {hint}")
        return StoreError(line)

    def close(self) -> None:
        """Close all connections; closing twice is harmless."""
        self.closed = True
        self.engine.dispose()

    def pragma(self, statement: str) -> Any:
        """Run one SQLite pragma outside a transaction and return its first value."""
        with self.errors():
            connection = self.engine.raw_connection()
            try:
                row = connection.cursor().execute(f"PRAGMA {statement}").fetchone()
            finally:
                connection.close()
        return row[0] if row else None


def _url(location: str | Path) -> URL:
    if not isinstance(location, str) or "://" not in location:
        return URL.create("sqlite", database=str(Path(location).expanduser()))
    try:
        url = make_url(location)
    except ArgumentError as error:
        raise ConfigError("the store URL cannot be parsed; use `sqlite:///PATH` or a file path") from error
    if url.get_backend_name() not in ("sqlite", "postgresql"):
        raise ConfigError(
            f"a store needs SQLite or PostgreSQL, not {url.get_backend_name()!r}; use a file path"
        )
    if url.get_backend_name() == "sqlite" and url.database in (None, "", ":memory:"):
        raise ConfigError("an in-memory store would be lost on exit; use a file path")
    return url


def _create_private(path: Path) -> None:
    # SQLite would create a file that every user can read; its side files copy the mode.
    try:
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
        make_private(path)  # earlier versions let others read it
    except FileNotFoundError as error:
        raise StoreError(f"store `{path}`: its folder does not exist; create it first") from error
    except OSError as error:
        raise StoreError(f"store `{path}` cannot be opened for writing: {error.strerror}") from error


def _engine(url: URL, is_sqlite: bool) -> Engine:
    # The parameters of a failed statement contain users' texts: keep them out of errors.
    options: dict[str, Any] = {
        "hide_parameters": True,
        "json_serializer": _to_json,
        "json_deserializer": _from_json,
    }
    if is_sqlite:
        options |= {"connect_args": {"timeout": BUSY_SECONDS}, "pool_size": 16, "max_overflow": -1}
    else:
        options |= {"pool_pre_ping": True}
    try:
        engine = create_engine(url, **options)
    except (NoSuchModuleError, ModuleNotFoundError) as error:
        raise ConfigError(
            f"the driver of `{url.drivername}` is missing ({error}); for PostgreSQL install `psycopg` "
            "and write `postgresql+psycopg://...`"
        ) from error
    if is_sqlite:
        event.listen(engine, "connect", _on_connect)
        event.listen(engine, "begin", _on_begin)
    return engine


def _to_json(data: Any) -> str:
    try:
        return json.dumps(data)
    except (TypeError, ValueError) as error:
        raise StoreError(f"only JSON data can be stored: {error}") from error


def _from_json(text: str) -> Any:
    """Return a stored JSON object, or ``None``."""
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DamagedValueError("a stored JSON text") from error
    if data is not None and not isinstance(data, dict):
        raise DamagedValueError("a stored JSON text")
    return data


def _on_connect(connection: Any, _: ConnectionPoolEntry) -> None:
    # Python's own transaction control begins too late and never IMMEDIATE: use `_on_begin` instead.
    connection.isolation_level = None
    try:
        for pragma in ("foreign_keys=ON", "synchronous=FULL", "secure_delete=ON"):
            connection.execute(f"PRAGMA {pragma}")
    except UnicodeDecodeError as error:
        # SQLite quotes a damaged schema in its message, and Python cannot decode that.
        raise DamagedValueError("the schema") from error


def _on_begin(connection: Connection) -> None:
    write = connection.get_execution_options().get("write", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")
