"""The `pa_interactions` table: append interactions once, read them in time order."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from functools import cache
from itertools import islice
from typing import Any

from sqlalchemy import Connection, Integer, Row, Select, bindparam, select

from program.errors import ConfigError, StoreError
from program.memory.interaction import Interaction
from program.store import bulk, tombstones, users
from program.store.checks import check_interaction
from program.store.schema import interactions
from program.store.tombstones import interaction_digest

_CHUNK = 500


def append(connection: Connection, user_id: str, new: Iterable[Interaction]) -> int:
    """Add interactions that are not stored yet and return their number (see `UserStore.append`)."""
    user = users.get(connection, user_id, lock=True)
    count = before = int(user.interactions)
    remaining = iter(new)
    buried = tombstones.digests_of(connection, [user_id])
    while chunk := list(islice(remaining, _CHUNK)):
        rows = _new_rows(connection, user_id, chunk, buried, is_empty=count == 0)
        for row in rows:
            count += 1
            row["position"] = count
        bulk.insert(connection, interactions, rows)
    if count > before:
        users.change(connection, user_id, interactions=count, stale_since=user.stale_since or users.now())
    return count - before


def append_many(connection: Connection, new: Mapping[str, Sequence[Interaction]], task: str) -> int:
    """Add interactions of several users, and the users, and return the number of new interactions.

    Args:
        connection: In a write transaction.
        new: Each user's interactions.
        task: The task of all of them.
    """
    buried = tombstones.digests_of(connection, list(new))
    found = users.add_many(connection, list(new), task, buried)
    rows: list[dict[str, Any]] = []
    changes: list[dict[str, Any]] = []
    now = users.now()
    for user_id, given in new.items():
        user = found[user_id]
        count = before = int(user.interactions)
        for start in range(0, len(given), _CHUNK):
            chunk = given[start : start + _CHUNK]
            for row in _new_rows(connection, user_id, chunk, buried, is_empty=before == 0):
                count += 1
                row["position"] = count
                rows.append(row)
        if count > before:
            since = user.stale_since or now
            changes.append({"of_user": user_id, "interactions": count, "stale_since": since})
    bulk.insert(connection, interactions, rows)
    users.change_many(connection, changes)
    return len(rows)


def latest(connection: Connection, user_id: str, n: int | None, arrived_after: int = 0) -> list[Interaction]:
    """Return the latest ``n`` interactions (``None``: all) in time order, without the first that arrived."""
    if n is not None and n < 0:
        raise ConfigError(f"`latest` must be 0 or more, got {n!r}")
    query = _newest_first(limited=n is not None, later=arrived_after > 0)
    rows = connection.execute(query, {"user": user_id, "n": n, "after": arrived_after})
    found = [_interaction(row) for row in rows][::-1]
    if not found:
        users.get(connection, user_id)  # without a row the user may be unknown
    return found


@cache
def _newest_first(*, limited: bool, later: bool) -> Select[Any]:
    """Return a statement of ``user``, ``n`` and ``after``: making it takes as long as running it."""
    query = (
        select(interactions)
        .where(interactions.c.user_id == bindparam("user"))
        .order_by(interactions.c.timestamp.desc(), interactions.c.position.desc())
    )
    if limited:
        query = query.limit(bindparam("n", type_=Integer))
    return query.where(interactions.c.position > bindparam("after")) if later else query


def _new_rows(
    connection: Connection, user_id: str, chunk: Sequence[Interaction], buried: Set[str], *, is_empty: bool
) -> list[dict[str, Any]]:
    """Return the rows of the interactions that are neither stored nor forgotten.

    Args:
        connection: In a write transaction that holds the user's lock.
        user_id: The user.
        chunk: The interactions.
        buried: The hashes of what is forgotten.
        is_empty: Whether the user has no interaction.
    """
    if buried:
        chunk = [item for item in chunk if interaction_digest(user_id, item.id) not in buried]
    stored: dict[str, Interaction] = {}
    if not is_empty:
        ids = [interaction.id for interaction in chunk]
        stored_rows = connection.execute(
            select(interactions).where(interactions.c.user_id == user_id, interactions.c.id.in_(ids))
        )
        stored = {row.id: _interaction(row) for row in stored_rows}
    rows = []
    for interaction in chunk:
        check_interaction(user_id, interaction, stored=interaction.id in stored)
        if interaction.id not in stored:
            stored[interaction.id] = interaction
            rows.append(_row(interaction))
        elif stored[interaction.id] != interaction:
            raise StoreError(
                f"user {user_id!r} already has an interaction {interaction.id!r} with other content; "
                "stored interactions cannot change, give the new one another id"
            )
    return rows


def _row(interaction: Interaction) -> dict[str, Any]:
    return {
        "user_id": interaction.user_id,
        "id": interaction.id,
        "timestamp": interaction.timestamp,
        "query": interaction.query,
        "response": interaction.response,
        "metadata": dict(interaction.metadata),
    }


def _interaction(row: Row[Any]) -> Interaction:
    return Interaction(
        id=row.id,
        user_id=row.user_id,
        query=row.query,
        response=row.response,
        timestamp=row.timestamp,
        metadata=row.metadata,
    )
