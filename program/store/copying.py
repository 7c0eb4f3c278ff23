"""Copies a whole store into another one, SQLite or PostgreSQL, and compares both afterwards."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any

from sqlalchemy import Column, Connection, Row, String, Table, func, insert, select

from program.errors import ConfigError, StoreError
from program.store.schema import StoredTotal, metadata, users
from program.store.user_store import UserStore
from program.text import counted
from program.text_safety import find_problem

_CHUNK = 1000
"""Rows in memory at once."""

_HASH_BITS = 256

Progress = Callable[[int, int], object]


@dataclass(frozen=True, kw_only=True)
class CopiedTable:
    """One table that is equal in both stores.

    Attributes:
        name: Without the prefix: "interactions".
        rows: Their number.
        sha256: The sum of the hashes of all rows, in hexadecimal: equal contents in any order have the
            same one.

    Example:
        >>> from program import UserStore, copy_store
        >>> with UserStore("users.db") as source, UserStore("copy.db") as target:
        ...     source.add_user("ana", task="free-text")
        ...     print(next(table for table in copy_store(source, target) if table.rows))
        users: 1 row
    """

    name: str
    rows: int
    sha256: str

    def __str__(self) -> str:
        return f"{self.name}: {counted(self.rows, 'row')}"


def copy_store(
    source: UserStore, target: UserStore, *, progress: Progress | None = None
) -> tuple[CopiedTable, ...]:
    """Copy every user with all that is stored about them into an empty store; return its tables.

    The source is read in one snapshot, and the target is written in one transaction, in which it is read
    again and compared. A copy that fails or is killed leaves the target empty. What is written to the
    source after the copy began is not copied: stop other writers first. Others cannot write to the
    target meanwhile. The traces of `open_tracer` are not part of a store.

    Args:
        source: The store to read; it stays as it is.
        target: A store without users.
        progress: Called with the rows that are done, and their number: each row is read from the source
            twice, and from the target once.

    Raises:
        ConfigError: Both are the same store.
        StoreError: The target has users, or the source has a value that the target cannot hold: the
            message names the user and the field, and nothing was written; or the copy differs.

    Example:
        >>> with UserStore("users.db") as source, UserStore("copy.db") as target:
        ...     source.add_user("ana", task="free-text")
        ...     _ = source.observe("ana", query="What shall I cook?", response="Lentils.")
        ...     tables = copy_store(source, target)
        ...     target.user("ana").interactions
        1
        >>> [(table.name, table.rows) for table in tables if table.rows]
        [('users', 1), ('interactions', 1)]
    """
    old, new = source._database, target._database
    if old.name == new.name:
        raise ConfigError(f"`{old.name}` is both the source and the target; name another target")
    with old.read() as reading:
        _check_empty(new.name, target)
        total = 3 * sum(_count(reading, table) for table in metadata.sorted_tables)
        steps = _Steps(total, progress)
        before = [
            _read(reading, table, steps, None if new.is_sqlite else partial(_check, table, old.name))
            for table in metadata.sorted_tables
        ]

        def fill(writing: Connection) -> None:
            if not new.is_sqlite:
                # Readers go on; every write of another process begins with its user's row.
                writing.exec_driver_sql(f"LOCK TABLE {users.name} IN EXCLUSIVE MODE")
            _refuse_users(new.name, _count(writing, users))
            for table in metadata.sorted_tables:
                for chunk in _chunks(reading, table):
                    writing.execute(insert(table), [dict(row._mapping) for row in chunk])
                    steps.add(len(chunk))
            for copied in before:
                _compare(copied, _read(writing, metadata.tables[f"pa_{copied.name}"], steps))

        # Its rows stream from a transaction of the source, so that it cannot run again.
        new.change(fill, again=False)
    return tuple(before)


class _Steps:
    """Counts rows for `Progress`."""

    def __init__(self, total: int, report: Progress | None) -> None:
        self._done, self._total, self._report = 0, total, report

    def add(self, rows: int) -> None:
        self._done += rows
        if self._report:
            self._report(self._done, self._total)


def _check_empty(name: str, target: UserStore) -> None:
    with target._database.read() as connection:
        _refuse_users(name, _count(connection, users))


def _refuse_users(name: str, number: int) -> None:
    if number:
        raise StoreError(
            f"store `{name}` already has {counted(number, 'user')}; nothing was copied: a copy needs an "
            "empty store, so name another file or database"
        )


def _count(connection: Connection, table: Table) -> int:
    return int(connection.scalar(select(func.count()).select_from(table)) or 0)


def _chunks(connection: Connection, table: Table) -> Iterator[list[Row[Any]]]:
    for chunk in connection.execute(select(table).execution_options(yield_per=_CHUNK)).partitions():
        yield list(chunk)


def _read(
    connection: Connection, table: Table, steps: _Steps, check: Callable[[Row[Any]], None] | None = None
) -> CopiedTable:
    rows = digest = 0
    for chunk in _chunks(connection, table):
        for row in chunk:
            if check is not None:
                check(row)
            digest += int.from_bytes(hashlib.sha256(_canonical(row)).digest(), "big")
        rows += len(chunk)
        steps.add(len(chunk))
    digest %= 2**_HASH_BITS
    return CopiedTable(name=table.name.removeprefix("pa_"), rows=rows, sha256=f"{digest:064x}")


def _canonical(row: Row[Any]) -> bytes:
    # As ASCII: half of a surrogate pair, which JSON data may hold, has no bytes in UTF-8.
    values = [value.isoformat() if isinstance(value, datetime) else value for value in row]
    return json.dumps(values, sort_keys=True).encode("ascii")


def _compare(expected: CopiedTable, copied: CopiedTable) -> None:
    if copied.rows != expected.rows:
        raise StoreError(
            f"the copy of `{expected.name}` has {counted(copied.rows, 'row')}, not {expected.rows:,}; "
            "nothing was stored"
        )
    if copied.sha256 != expected.sha256:
        raise StoreError(f"the copy of `{expected.name}` has other contents; nothing was stored")


def _check(table: Table, source: str, row: Row[Any]) -> None:
    """Raise `StoreError` if PostgreSQL cannot hold a value that SQLite does."""
    for column in table.columns:
        if problem := _problem(row._mapping[column], column):
            kind = table.name.removeprefix("pa_").removesuffix("s")
            keys = ", ".join(f"{key.name} {row._mapping[key]!r}" for key in table.primary_key.columns)
            raise StoreError(
                f"store `{source}`: PostgreSQL cannot store `{column.name}` of the {kind} with {keys}: it "
                f"{problem}; nothing was copied. Correct it with SQL in a copy of the file, or forget the "
                "user"
            )


def _problem(value: Any, column: Column[Any]) -> str:
    if isinstance(value, str):
        length = getattr(getattr(column.type, "impl", None), "length", None) if _is_string(column) else None
        if length is not None and len(value) > length:
            return f"has {len(value)} characters, more than {length}"
        return find_problem(value)
    bits = 64 if isinstance(column.type, StoredTotal) else 32
    if isinstance(value, int) and abs(value) >= 2 ** (bits - 1):
        return f"is the number {value}, which has more than {bits} bits"
    return "holds a number that is not finite" if _has_infinity(value) else ""


def _is_string(column: Column[Any]) -> bool:
    return isinstance(getattr(column.type, "impl", None), String)


def _has_infinity(value: Any) -> bool:
    if isinstance(value, Mapping):
        return any(map(_has_infinity, value.values()))
    if isinstance(value, list):
        return any(map(_has_infinity, value))
    return isinstance(value, float) and not math.isfinite(value)
