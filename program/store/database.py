"""Opens SQLite or PostgreSQL: transactions, isolation, durability, and errors as `StoreError`."""

from __future__ import annotations

import json
import os
import re
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.pool import ConnectionPoolEntry

from program.errors import ConfigError, StoreError, StoreUnavailableError
from program.side_files import make_private
from program.store.checks import DamagedValueError
from program.store.damage import advice
from program.store.pool import PoolSettings
from program.store.retries import TRIES, conflict, run_again, when_free
from program.store.schema import metadata

T = TypeVar("T")

BUSY_SECONDS = 30
"""Seconds that a writer waits for a writer in another process."""

_COMPACT_PAUSE = 0.1

# What SQLite or PostgreSQL says if every request would fail now, and what to do; the first that fits.
_HINTS = {
    "locked": f"another process has been writing for {BUSY_SECONDS} s, try again",
    "is full": "free some space on the disk",
    "disk I/O error": "check the space on the disk, and the disk",
    "readonly": "make the file and its folder writable",
    "No space left": "free some space on the server's disk",
    "read-only transaction": "use the URL of the primary server, not of a copy of it",
    "authentication failed": "check the user and password of the URL",
    "does not exist": "create it first, as with `createdb`, or correct the URL",
    "too many": "let the server take more connections (`max_connections`), or give each store a smaller "
    "`pool_size`",
    "connection slots": "let the server take more connections (`max_connections`)",
    "connection": "is the database server running?",
}

_DRIVER = "postgresql+psycopg"
"""SQLAlchemy's name of the one driver that is tested, in the extra ``postgres``."""

_DAMAGE = re.compile(
    r"malformed|unsupported file format|no such (?:table|column|index)|has no column|decode", re.I
)
"""What SQLite says of a damaged file; the tables themselves never change."""


class Database:
    """An open SQLite file or PostgreSQL database.

    On SQLite a write takes the write lock when it begins, so it never fails halfway because of another
    writer. A commit returns after the data is on disk (``synchronous=FULL``). Within one process
    writers queue on a lock, because SQLite itself polls without fairness.

    On PostgreSQL, whatever the server's default is, a read sees one snapshot (``REPEATABLE READ``), and a
    write sees what others commit (``READ COMMITTED``), because it locks the user's row before it reads
    what it depends on.

    Args:
        location: A file path, or an SQLAlchemy URL of SQLite or PostgreSQL.
        pool: The number of connections.

    Raises:
        ConfigError: The URL is invalid, or names an unsupported database or a missing driver.
        StoreError: The file cannot be created or opened.
    """

    def __init__(self, location: str | Path, pool: PoolSettings | None = None) -> None:
        url = _url(location)
        self.is_sqlite = url.get_backend_name() == "sqlite"
        self.name = str(url.database) if self.is_sqlite else _server_name(url)
        self.pool = pool or PoolSettings()
        self.closed = False
        self._write_lock = threading.Lock()
        if self.is_sqlite:
            _create_private(Path(self.name))
        self.engine = _engine(url, self.pool, self.is_sqlite)
        if self.is_sqlite:
            self._reader, self._writer = self.engine, self.engine.execution_options(write=True)
            self._single = self.engine.execution_options(single=True)
        else:
            self._reader = self.engine.execution_options(
                isolation_level="REPEATABLE READ", postgresql_readonly=True
            )
            self._writer = self.engine.execution_options(isolation_level="READ COMMITTED")
            self._single = self.engine.execution_options(isolation_level="AUTOCOMMIT")

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """Open a read transaction: a consistent snapshot of the database."""
        with self.errors(), self._connect(self._reader) as connection, connection.begin():
            yield connection

    @contextmanager
    def read_once(self) -> Iterator[Connection]:
        """Open a connection for one SELECT, which sees one snapshot without a transaction around it.

        A second one sees what was stored since: use it only to tell why the first one gave nothing.
        """
        with self.errors(), self._connect(self._single) as connection:
            yield connection

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """Open a write transaction: commit when the block ends, roll back if it raises.

        It is not run again after a conflict with another transaction: see `change`.
        """
        with self._write_lock if self.is_sqlite else nullcontext():
            with self.errors(), self._connect(self._writer) as connection, connection.begin():
                yield connection

    def change(self, work: Callable[[Connection], T], *, again: bool = True) -> T:
        """Return what ``work`` returns in a write transaction.

        If PostgreSQL undoes the transaction because of another one (a serialization failure or a
        deadlock), it is run again, at most `TRIES` times in all.

        Args:
            work: It must change nothing but the database, because it may run several times.
            again: False if ``work`` cannot run twice, as when it consumes an iterator.

        Raises:
            StoreUnavailableError: Other transactions were in the way each time.
        """

        def once() -> T:
            with self.write() as connection:
                return work(connection)

        return run_again(once) if again and not self.is_sqlite else once()

    def _connect(self, engine: Engine) -> Connection:
        return engine.connect() if self.is_sqlite else when_free(engine.connect, self.pool.timeout)

    @contextmanager
    def errors(self) -> Iterator[None]:
        """Convert database errors to `StoreError`, without any stored text in the message."""
        if self.closed:
            raise StoreError(f"the store `{self.name}` is closed; open it again")
        try:
            yield
        except (SQLAlchemyError, sqlite3.Error, DamagedValueError) as error:
            raise self._store_error(error) from error
        except UnicodeEncodeError as error:  # raised by the drivers, and it holds the text
            raise StoreError(
                f"store `{self.name}`: a text holds half of a surrogate pair at character {error.start}, "
                "which no database can store"
            ) from None

    def _store_error(self, error: Exception) -> StoreError:
        cause = error.orig if isinstance(error, DBAPIError) and error.orig else error
        # SQLite quotes a text that it cannot decode.
        reason = str(cause).partition("\n")[0].partition(" with text ")[0].rstrip(" .;")
        if kind := conflict(error):
            return StoreUnavailableError(
                f"store `{self.name}`: other transactions were in the way ({kind}; run up to {TRIES} times); "
                "nothing was stored, try again"
            )
        if isinstance(error, PoolTimeoutError):
            return StoreUnavailableError(
                f"store `{self.name}`: all of its connections were in use for {self.pool.timeout:g} s; "
                "open it with a larger `pool_size`, or use fewer threads"
            )
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

    def compact(self, *, wait: float) -> str:
        """Rewrite the files without deleted data; return why some may remain, empty if none does.

        On SQLite the file is rewritten and its log is emptied; readers and writers of other connections are
        waited for. On PostgreSQL each table of the store is rewritten under a lock that keeps all others out
        (``VACUUM FULL``); the server's log and copies of the server are out of reach.

        Args:
            wait: Seconds to wait for other connections.
        """
        if not self.is_sqlite:
            with self.errors(), self.engine.connect() as connection:
                alone = connection.execution_options(isolation_level="AUTOCOMMIT")
                for table in metadata.sorted_tables:
                    alone.exec_driver_sql(f"VACUUM (FULL) {table.name}")
            return "PostgreSQL still has it in its write-ahead log until that is recycled"
        deadline = time.monotonic() + wait
        while True:
            # A writer is in the way, or there is no space for the new file.
            with suppress(StoreUnavailableError):
                if self._rewrite(max(0.0, deadline - time.monotonic())):
                    return ""
            if time.monotonic() > deadline:
                return "another connection still reads the file, or the disk is full"
            time.sleep(_COMPACT_PAUSE)

    def _rewrite(self, wait: float) -> bool:
        """Rewrite a SQLite file and empty its log; return whether no reader needs the log."""
        with self.errors(), self._write_lock:
            connection = self.engine.raw_connection()
            try:
                cursor = connection.cursor()
                cursor.execute(f"PRAGMA busy_timeout = {int(wait * 1000)}")
                cursor.execute("VACUUM")
                return bool(cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0] == 0)
            finally:
                connection.cursor().execute(f"PRAGMA busy_timeout = {BUSY_SECONDS * 1000}")
                connection.close()


def _url(location: str | Path) -> URL:
    if not isinstance(location, str) or "://" not in location:
        return URL.create("sqlite", database=str(Path(location).expanduser()))
    try:
        url = make_url(location)
    except ArgumentError as error:
        raise ConfigError("the store URL cannot be parsed; use `sqlite:///PATH` or a file path") from error
    if url.drivername in ("postgres", "postgresql"):
        return url.set(drivername=_DRIVER)
    if url.get_backend_name() not in ("sqlite", "postgresql"):
        raise ConfigError(
            f"a store needs SQLite or PostgreSQL, not {url.get_backend_name()!r}; use a file path"
        )
    if url.get_backend_name() == "postgresql" and url.drivername != _DRIVER:
        raise ConfigError(
            f"a PostgreSQL store uses psycopg, not the driver of `{url.drivername}`; write `postgresql://...`"
        )
    if url.get_backend_name() == "sqlite" and url.database in (None, "", ":memory:"):
        raise ConfigError("an in-memory store would be lost on exit; use a file path")
    return url


def _server_name(url: URL) -> str:
    """Return the URL without what may be secret: the password, also as a parameter, and other parameters."""
    return url.set(query={k: v for k, v in url.query.items() if k in ("host", "port")}).render_as_string()


def _create_private(path: Path) -> None:
    # SQLite would create a file that every user can read; its side files copy the mode.
    try:
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
        make_private(path)  # earlier versions let others read it
    except FileNotFoundError as error:
        raise StoreError(f"store `{path}`: its folder does not exist; create it first") from error
    except OSError as error:
        raise StoreError(f"store `{path}` cannot be opened for writing: {error.strerror}") from error


def _engine(url: URL, pool: PoolSettings, is_sqlite: bool) -> Engine:
    # The parameters of a failed statement contain users' texts: keep them out of errors.
    options: dict[str, Any] = {
        "hide_parameters": True,
        "json_serializer": _to_json,
        "json_deserializer": _from_json,
        **pool.options(is_sqlite=is_sqlite),
    }
    if is_sqlite:
        options |= {"connect_args": {"timeout": BUSY_SECONDS}}
    else:
        options |= {"pool_pre_ping": True}
    try:
        engine = create_engine(url, **options)
    except (NoSuchModuleError, ImportError) as error:  # psycopg without libpq is an `ImportError`
        if is_sqlite:
            raise ConfigError(f"the driver of `{url.drivername}` is missing ({error})") from error
        raise ConfigError(
            f"PostgreSQL needs the extra `postgres` ({error}): pip install 'personaagent[postgres]'"
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
    options = connection.get_execution_options()
    if not options.get("single", False):
        connection.exec_driver_sql("BEGIN IMMEDIATE" if options.get("write", False) else "BEGIN")
