"""What the fleet keeps of users: list it, and forget it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from optimizers.fleet.batch_api import forget_answers
from optimizers.fleet.engines import is_durable, open_tables
from optimizers.fleet.locks import UserLocks
from optimizers.fleet.place import FILE, is_sqlite
from program.home import home as default_home
from program.store import UserStore

if TYPE_CHECKING:
    from optimizers.fleet.engine import Attempt


def fleet_attempts(store: UserStore, *, home: Path | None = None) -> list[Attempt]:
    """Return the latest attempt of each user, by user id.

    Args:
        store: The users' store.
        home: The data directory; ``None`` for `program.home.home`.

    Raises:
        ConfigError: dbos is not installed.
        StoreError: The tables cannot be opened.

    Example:
        >>> with UserStore("users.db") as store:
        ...     fleet_attempts(store)
        []
    """
    home = home or default_home()
    if _is_empty(store, home):
        return []
    locks = UserLocks(store, home)
    try:
        with open_tables(store, home) as engine:
            attempts: list[Attempt] = engine.attempts(locks)
            return attempts
    finally:
        locks.close()


def forget_user(store: UserStore, user_id: str, *, home: Path | None = None) -> int:
    """Delete all attempts at aligning a user, and answers to calls in batches; return how many there were.

    Args:
        store: The user's store; the user may be forgotten there already.
        user_id: The user.
        home: The data directory; ``None`` for `program.home.home`.

    Raises:
        ConfigError: There are tables, but dbos, which reads them, is not installed.
        StoreError: The tables cannot be opened.

    Example:
        >>> with UserStore("users.db") as store:
        ...     forget_user(store, "ana")
        0
    """
    home = home or default_home()
    n_calls = forget_answers(store, user_id, home)
    if _is_empty(store, home):
        return n_calls
    with open_tables(store, home) as engine:
        return n_calls + int(engine.forget(user_id))


def erase_attempts(store: UserStore, user_id: str, home: Path, *, whole: bool) -> int:
    """Delete a user's attempts: the `program.store.erasers.Eraser` of this package."""
    return forget_user(store, user_id, home=home)


def _is_empty(store: UserStore, home: Path) -> bool:
    return not (home / FILE).exists() if is_sqlite(store) else not is_durable()
