"""The `pa_interactions` table: append interactions once, read them in time order."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from typing import Any

from sqlalchemy import Connection, Row, insert, select

from program.errors import ConfigError, StoreError
from program.memory.interaction import Interaction
from program.store import users
from program.store.checks import check_interaction
from program.store.schema import interactions

_CHUNK = 500


def append(connection: Connection, user_id: str, new: Iterable[Interaction]) -> int:
    """Add interactions that are not stored yet and return their number (see `UserStore.append`)."""
    user = users.get(connection, user_id, lock=True)
    count = before = int(user.interactions)
    remaining = iter(new)
    while chunk := list(islice(remaining, _CHUNK)):
        rows = _new_rows(connection, user_id, chunk)
        for row in rows:
            count += 1
            row["position"] = count
        if rows:
            connection.execute(insert(interactions), rows)
    if count > before:
        users.change(connection, user_id, interactions=count, stale_since=user.stale_since or users.now())
    return count - before


def latest(connection: Connection, user_id: str, n: int | None, arrived_after: int = 0) -> list[Interaction]:
    """Return the latest ``n`` interactions (``None``: all) in time order, without the first that arrived."""
    if n is not None and n < 0:
        raise ConfigError(f"`latest` must be 0 or more, got {n!r}")
    users.get(connection, user_id)
    query = (
        select(interactions)
        .where(interactions.c.user_id == user_id)
        .order_by(interactions.c.timestamp.desc(), interactions.c.position.desc())
        .limit(n)
    )
    if arrived_after:
        query = query.where(interactions.c.position > arrived_after)
    return [_interaction(row) for row in connection.execute(query)][::-1]


def _new_rows(connection: Connection, user_id: str, chunk: list[Interaction]) -> list[dict[str, Any]]:
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
