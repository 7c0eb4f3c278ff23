"""Finds damage in the SQLite file of a store, and says what to do about it."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import Connection, func, or_, select

from program.store.schema import interactions, personas, users
from program.text import counted, one_line

if TYPE_CHECKING:
    from program.store.database import Database

FULL_CHECK_BYTES = 4 * 2**20
"""Files up to this size are checked completely when they are opened, which takes at most 20 ms."""

QUICK_CHECK_BYTES = 16 * 2**20
"""Files up to this size are checked without their indexes, which takes at most 40 ms."""

_MAX_REASON_CHARS = 120


def find_damage(database: Database) -> str:
    """Return what is damaged in a file that is being opened; empty if nothing is known.

    SQLite notices most damage of a larger file when it reads the damaged part.
    """
    size = Path(database.name).stat().st_size
    if size <= FULL_CHECK_BYTES:
        reason = _result(database, "integrity_check(1)")
        if not reason and database.pragma("foreign_key_check") is not None:
            reason = "a row belongs to no user"
        return reason
    if size <= QUICK_CHECK_BYTES:
        return _result(database, "quick_check(1)")
    pages = database.pragma("page_count") * database.pragma("page_size")
    # Pages that are not in the file yet may be in its write-ahead log.
    return "it is cut off" if pages > size and not _has_log(database.name) else ""


def find_wrong_counts(connection: Connection, size: int) -> str:
    """Return whether the numbers that a user's row keeps differ from the rows they count; empty if not.

    Args:
        connection: A transaction of a store with the current schema.
        size: Size of the file in bytes; larger ones than `FULL_CHECK_BYTES` are not counted.
    """
    if size > FULL_CHECK_BYTES:
        return ""
    count = select(func.count()).where(interactions.c.user_id == users.c.user_id).scalar_subquery()
    head = (
        select(func.coalesce(func.max(personas.c.version), 0))
        .where(personas.c.user_id == users.c.user_id)
        .scalar_subquery()
    )
    wrong = or_(
        users.c.interactions != count,
        users.c.head != head,
        users.c.settled < 0,
        users.c.settled > users.c.interactions,
        users.c.pinned > users.c.head,
    )
    found = connection.scalar(select(func.count()).select_from(users).where(wrong))
    return f"the counts of {counted(found, 'user')} are wrong" if found else ""


def advice(name: str, reason: str, *, is_sqlite: bool = True) -> str:
    """Return one line that says what is damaged and how to go on."""
    recover = f"`sqlite3 {shlex.quote(name)} .recover | sqlite3 NEW.db`"
    way = f"restore a backup, or save what can be read with {recover}" if is_sqlite else "restore a backup"
    return f"store `{name}` is damaged ({one_line(reason, _MAX_REASON_CHARS)}): {way}"


def _result(database: Database, check: str) -> str:
    result = str(database.pragma(check))
    return "" if result == "ok" else result.removeprefix("*** in database main ***\n")


def _has_log(name: str) -> bool:
    try:
        return Path(f"{name}-wal").stat().st_size > 0
    except OSError:
        return False
