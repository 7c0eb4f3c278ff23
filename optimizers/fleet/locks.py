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

    def take(self, number: int) -> bool: ...
    def free(self, number: int) -> None: ...


class _File:
    """Bytes of a file. The system gives them up when a process closes the file, so it stays open."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_CREAT | os.O_RDWR, 0o600)

    def take(self, number: int) -> bool:
        if fcntl is None:
            return True
        try:
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, number)
        except OSError:
            return False
        return True

    def free(self, number: int) -> None:
        if fcntl is not None:
            fcntl.lockf(self._file, fcntl.LOCK_UN, 1, number)


class _Server:
    """Advisory locks of one session of PostgreSQL."""

    def __init__(self, engine: Any) -> None:
        self._connection = engine.connect().execution_options(isolation_level="AUTOCOMMIT")
        self._lock = threading.Lock()

    def take(self, number: int) -> bool:
        return bool(self._ask(f"SELECT pg_try_advisory_lock({number})"))

    def free(self, number: int) -> None:
        self._ask(f"SELECT pg_advisory_unlock({number})")

    def _ask(self, statement: str) -> Any:
        with self._lock:
            return self._connection.exec_driver_sql(statement).scalar()

    def close(self) -> None:
        self._connection.close()


_files: dict[Path, _File] = {}
_held: set[tuple[str, int]] = set()
_guard = threading.Lock()


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
        self._numbers: _Numbers
        if is_sqlite(store):
            path = (home / FILE).resolve()
            with _guard:
                if path not in _files:
                    _files[path] = _File(path)
                self._numbers = _files[path]
        else:
            self._numbers = _Server(store._database.engine)

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
        if isinstance(self._numbers, _Server):
            self._numbers.close()
