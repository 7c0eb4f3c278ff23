"""One alignment of a user at a time, over threads, processes and machines.

On a database server it is an advisory lock of a session, and on SQLite a locked byte of a file in the data
directory. Both end with the process that holds them, however it ends.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from optimizers.fleet.place import is_sqlite, lock_number
from program.store import UserStore

try:
    import fcntl
except ImportError:  # Windows: then it is one at a time within the process
    fcntl = None  # type: ignore[assignment]

FILE = "fleet.lock"


class _Numbers(Protocol):
    """Locks by number, for one process."""

    def take(self, number: int, *, shared: bool = False) -> bool: ...
    def free(self, number: int, *, shared: bool = False) -> None: ...
    def hold(self) -> bool: ...
    def close(self) -> None: ...


class _File:
    """Bytes of a file. The system gives them up when a process closes the file, so it stays open."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_CREAT | os.O_RDWR, 0o600)

    def take(self, number: int, *, shared: bool = False) -> bool:
        if fcntl is None:
            return True
        kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
        try:
            fcntl.lockf(self._file, kind | fcntl.LOCK_NB, 1, number)
        except OSError:
            return False
        return True

    def free(self, number: int, *, shared: bool = False) -> None:
        if fcntl is not None:
            fcntl.lockf(self._file, fcntl.LOCK_UN, 1, number)

    def hold(self) -> bool:
        return True

    def close(self) -> None:
        pass


class _Server:
    """Advisory locks of one session of PostgreSQL."""

    def __init__(self, engine: Any) -> None:
        self._connection = engine.connect().execution_options(isolation_level="AUTOCOMMIT")
        self._lock = threading.Lock()
        self._session = self._ask("SELECT pg_backend_pid()")
        # A host without power closes no connection: the server asks, and ends the session after 25 s.
        for setting, seconds in (("idle", 10), ("interval", 5), ("count", 3)):
            self._ask(f"SELECT set_config('tcp_keepalives_{setting}', '{seconds}', false)")

    def take(self, number: int, *, shared: bool = False) -> bool:
        return bool(self._ask(f"SELECT pg_try_advisory_lock{'_shared' if shared else ''}({number})"))

    def free(self, number: int, *, shared: bool = False) -> None:
        self._ask(f"SELECT pg_advisory_unlock{'_shared' if shared else ''}({number})")

    def hold(self) -> bool:
        try:
            return bool(self._ask("SELECT pg_backend_pid()") == self._session)
        except Exception:  # noqa: BLE001 - whatever is wrong with the session, its locks are gone
            return False

    def _ask(self, statement: str) -> Any:
        with self._lock:
            return self._connection.exec_driver_sql(statement).scalar()

    def close(self) -> None:
        self._connection.close()


_files: dict[Path, _File] = {}
_held: set[tuple[str, int]] = set()
_guard = threading.Lock()


def numbers_of(store: UserStore, home: Path) -> _Numbers:
    """Return the locks of the store: those of a file are one for the process."""
    if not is_sqlite(store):
        return _Server(store._database.engine)
    path = (home / FILE).resolve()
    with _guard:
        if path not in _files:
            _files[path] = _File(path)
        return _files[path]


class UserLocks:
    """Locks of a store's users.

    Args:
        store: The users' store.
        home: The data directory.

    Example:
        >>> from program import UserStore
        >>> with UserStore("users.db") as store:
        ...     locks = UserLocks(store, Path("."))
        ...     with locks.hold("ana") as first, locks.hold("ana") as second, locks.hold("ben") as other:
        ...         print(first, second, other)
        True False True
    """

    def __init__(self, store: UserStore, home: Path) -> None:
        self._store = store
        self._scope = str(home) if is_sqlite(store) else store._database.name
        self._numbers = numbers_of(store, home)

    @contextmanager
    def hold(self, user_id: str) -> Iterator[bool]:
        """Hold a user's lock inside the block; yield whether it was free."""
        number = lock_number(self._store, user_id)
        key = (self._scope, number)
        with _guard:
            free = key not in _held and self._numbers.take(number)
            if free:
                _held.add(key)
        try:
            yield free
        finally:
            if free:
                with _guard:
                    _held.discard(key)
                    self._numbers.free(number)

    def is_held(self, user_id: str) -> bool:
        """Return whether anybody aligns the user now."""
        with self.hold(user_id) as free:
            return not free

    def close(self) -> None:
        """Give up what this process holds on a server."""
        self._numbers.close()
