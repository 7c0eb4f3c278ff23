"""Which processes live: each holds a lock of its own, and workers one in common.

On a database server they are advisory locks of a session, and on SQLite locked bytes of the file beside the
store. Both end with the process, however it ends, so that nobody guesses by time.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from optimizers.fleet.locks import numbers_of
from optimizers.fleet.place import digest, store_name
from program.errors import StoreUnavailableError
from program.store import UserStore

_MOMENT = 0.001
"""Seconds between two tries to take a lock."""


class Processes:
    """The processes that share a store's work.

    Args:
        store: The users' store.
        home: The data directory.

    Example:
        >>> from program import UserStore
        >>> with UserStore("users.db") as store:
        ...     processes = Processes(store, Path("."))
        ...     with processes.declare_dead("an id") as dead:
        ...         print(dead)
        ...     processes.close()
        True
    """

    def __init__(self, store: UserStore, home: Path) -> None:
        self._name = store_name(store)
        self._numbers = numbers_of(store, home)
        self._mine: set[int] = set()

    @contextmanager
    def live(self, executor: str) -> Iterator[None]:
        """Count as a living worker with this id inside the block."""
        own, common = self._number(executor), self._number("any worker")
        self._take(own)
        self._take(common, shared=True)
        self._mine |= {own, common}
        try:
            yield
        finally:
            self._mine -= {own, common}
            self._numbers.free(own)
            self._numbers.free(common, shared=True)

    @contextmanager
    def declare_dead(self, executor: str) -> Iterator[bool]:
        """Yield whether the process with this id has ended; nobody else declares it dead inside the block."""
        number = self._number(executor)
        dead = number not in self._mine and self._numbers.take(number)
        try:
            yield dead
        finally:
            if dead:
                self._numbers.free(number)

    def any_worker(self) -> bool:
        """Return whether a worker lives. Of no use in a process that is one."""
        common, turn = self._number("any worker"), self._number("who asks for workers")
        self._take(turn)  # or two who ask at once would take each other for workers
        try:
            free = self._numbers.take(common)
            if free:
                self._numbers.free(common)
        finally:
            self._numbers.free(turn)
        return not free

    def check(self) -> None:
        """Raise if the locks of this process may be lost.

        Raises:
            StoreUnavailableError: The connection that held them is gone: others take this process for dead.
        """
        if not self._numbers.hold():
            raise StoreUnavailableError(
                "the connection that tells other workers that this one lives is gone; start it again"
            )

    def close(self) -> None:
        """Give up what this process holds on a server."""
        self._numbers.close()

    def _take(self, number: int, *, shared: bool = False) -> None:
        """Take a lock that others hold only for a moment, to see whether it is free."""
        while not self._numbers.take(number, shared=shared):
            time.sleep(_MOMENT)

    def _number(self, name: str) -> int:
        return int(digest(self._name, "process", name)[:16], 16) >> 2
