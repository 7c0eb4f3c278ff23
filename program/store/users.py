"""The `pa_users` table: add, read, lock, list and delete users."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence, Set
from datetime import datetime, timezone
from typing import Any

from sqlalchemy import Connection, Row, Table, bindparam, insert, select
from sqlalchemy.dialects import postgresql, sqlite

from program.errors import StoreError, UnknownUserError
from program.store import tombstones
from program.store.checks import check_user_id
from program.store.records import UserSummary
from program.store.schema import users
from program.task import find_task, get_task

_NEIGHBOURS = 500

_ONE = select(users).where(users.c.user_id == bindparam("user"))
_LOCKED = _ONE.with_for_update()


def now() -> datetime:
    """Return the current time in UTC."""
    return datetime.now(timezone.utc)


def add(connection: Connection, user_id: str, task: str) -> None:
    """Add a user; do nothing if the id is stored with the same task."""
    check_user_id(user_id, stored=True)
    if not exists(connection, user_id):
        check_user_id(user_id)
        tombstones.refuse_forgotten([user_id], tombstones.digests_of(connection, [user_id]))
    insert_new = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
    connection.execute(insert_new(users).on_conflict_do_nothing(), _new_user(user_id, task))
    stored = connection.scalar(select(users.c.task).where(users.c.user_id == user_id)) or ""
    if stored == task:
        return
    found, wanted = find_task(stored), get_task(task)
    if found is wanted:
        return
    if found is None and stored == wanted.name:
        # Earlier versions stored the bare name of a task of one's own, which `get_task` cannot find.
        connection.execute(users.update().where(users.c.user_id == user_id).values(task=task))
        return
    raise StoreError(
        f"user {user_id!r} is already stored with task {stored!r}, not {task!r}; "
        "use another user id or another store"
    )


def add_many(
    connection: Connection, user_ids: Sequence[str], task: str, buried: Set[str]
) -> dict[str, Row[Any]]:
    """Add the users that are missing, lock all of them, and return their rows.

    Args:
        connection: In a write transaction.
        user_ids: The users.
        task: The task of all of them.
        buried: The hashes of what is forgotten of them.

    Raises:
        StoreError: An id is invalid, or is stored with another task.
        ForgottenUserError: A user was forgotten.
    """
    query = select(users).where(users.c.user_id.in_(user_ids)).order_by(users.c.user_id)
    known = {row.user_id: row.task for row in connection.execute(query)}
    for user_id in user_ids:
        # What is stored already, or with another name of the task, is looked at one by one.
        if user_id in known and known[user_id] != task:
            add(connection, user_id, task)
    missing = [user_id for user_id in user_ids if user_id not in known]
    for user_id in missing:
        check_user_id(user_id)
    tombstones.refuse_forgotten(missing, buried)
    if missing:
        insert_new = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
        rows = [_new_user(user_id, task) for user_id in sorted(missing)]
        connection.execute(insert_new(users).on_conflict_do_nothing(), rows)
    found = {row.user_id: row for row in connection.execute(query.with_for_update())}
    for user_id in missing:
        if found[user_id].task != task:  # another transaction was faster
            add(connection, user_id, task)
    return found


def change_many(connection: Connection, changes: Sequence[Mapping[str, Any]]) -> None:
    """Update columns of several users' rows: the same ones of each, whose id is ``of_user``."""
    if changes:
        row = users.update().where(users.c.user_id == bindparam("of_user"))
        columns: dict[str, Any] = {name: bindparam(name) for name in changes[0] if name != "of_user"}
        connection.execute(row.values(columns), [dict(change) for change in changes])


def exists(connection: Connection, user_id: str) -> bool:
    """Return whether the user is stored."""
    return connection.scalar(select(users.c.user_id).where(users.c.user_id == user_id)) is not None


def get(connection: Connection, user_id: str, *, lock: bool = False) -> Row[Any]:
    """Return the user's row. With ``lock`` no other transaction can change it until this one ends.

    Raises:
        UnknownUserError: ``user_id`` is not in the store.
    """
    row = connection.execute(_LOCKED if lock else _ONE, {"user": user_id}).one_or_none()
    if row is None:
        raise UnknownUserError(_unknown(connection, user_id))
    return row


def get_many(connection: Connection, user_ids: Sequence[str]) -> dict[str, Row[Any]]:
    """Return the rows of several users by id; raise as `get` if one is not in the store."""
    query = select(users).where(users.c.user_id.in_(user_ids))
    rows = {row.user_id: row for row in connection.execute(query)}
    return rows | {user_id: get(connection, user_id) for user_id in user_ids if user_id not in rows}


def change(connection: Connection, user_id: str, **values: int | datetime | None) -> None:
    """Update columns of the user's row."""
    connection.execute(users.update().where(users.c.user_id == user_id).values(values))


def settle(connection: Connection, user: Row[Any], settled: int, since: datetime, **values: int) -> None:
    """Note that the persona accounts for ``settled`` interactions; their number never gets smaller.

    Args:
        connection: In a write transaction that holds the user's lock.
        user: The user's row.
        settled: How many.
        since: If there are more by now, none of those arrived before this time.
        values: Other columns to change.
    """
    settled = max(user.settled, settled)
    stale_since = user.stale_since
    if settled >= user.interactions:
        stale_since = None
    elif settled > user.settled:
        stale_since = max(filter(None, (since, stale_since)))
    change(connection, user.user_id, settled=settled, stale_since=stale_since, **values)


def current(user: Row[Any]) -> int:
    """Return the version that agents read: the pinned one, or the newest; 0 if there is none."""
    return int(user.pinned or user.head)


def page(connection: Connection, after: str, size: int) -> list[UserSummary]:
    """Return at most ``size`` users after the id ``after``, in id order."""
    query = select(users).where(users.c.user_id > after).order_by(users.c.user_id).limit(size)
    return [summary(row) for row in connection.execute(query)]


def summary(row: Row[Any]) -> UserSummary:
    """Convert a row to a `UserSummary`."""
    return UserSummary(
        user_id=row.user_id,
        task=row.task,
        interactions=row.interactions,
        persona_version=current(row) or None,
        stale=row.interactions > row.settled,
        stale_since=row.stale_since,
        pinned=row.pinned,
    )


def put(connection: Connection, table: Table, keys: dict[str, Any], values: dict[str, Any]) -> None:
    """Update the row of ``table`` with these keys, or insert it. The caller holds the user's lock."""
    row = table.update().where(*(table.c[name] == value for name, value in keys.items()))
    if connection.execute(row.values(values)).rowcount == 0:
        connection.execute(insert(table), keys | values)


def _new_user(user_id: str, task: str) -> dict[str, Any]:
    return {
        "user_id": user_id,
        "task": task,
        "created_at": now(),
        "interactions": 0,
        "settled": 0,
        "head": 0,
        "pinned": None,
        "stale_since": None,
    }


def _unknown(connection: Connection, user_id: str) -> str:
    # Compare neighbours in id order only: this stays fast with a million users.
    neighbours: list[str] = []
    for side, order in (
        (users.c.user_id >= user_id, users.c.user_id.asc()),
        (users.c.user_id < user_id, users.c.user_id.desc()),
    ):
        neighbours += connection.scalars(
            select(users.c.user_id).where(side).order_by(order).limit(_NEIGHBOURS)
        )
    matches = difflib.get_close_matches(user_id, neighbours, n=1)
    hint = f"did you mean {matches[0]!r}? " if matches else ""
    return f"unknown user {user_id[:80]!r}; {hint}`personaagent users list` lists all users"
