"""Whether anything of a user has changed: one statement, by primary keys and unique indexes alone."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection, String, and_, bindparam, func, select, type_coerce

from program.store.schema import audit, interactions, users


@dataclass(frozen=True, kw_only=True)
class UserHead:
    """What is newest of a user: if two are equal, no interaction and no persona changed in between.

    Attributes:
        task: Name of the user's task.
        added_at: When the user was added; a user who was forgotten and comes back has another one.
        interactions: How many are stored.
        last_id: The interaction that arrived last; ``None`` without one.
        newest: The newest persona version; 0 without one. It grows also if an older version is changed,
            which happens only when an interaction is forgotten.
        pinned: The version that is current instead; ``None`` without one.
        audited_at: When something was last forgotten or corrected, of any user; empty if nothing was.
    """

    user_id: str
    task: str
    added_at: str
    interactions: int
    last_id: str | None
    newest: int
    pinned: int | None
    audited_at: str


_HEAD = (
    select(
        users.c.user_id,
        users.c.task,
        # Only compared, so they stay as they are stored.
        type_coerce(users.c.created_at, String).label("added_at"),
        users.c.interactions,
        interactions.c.id.label("last_id"),
        users.c.head.label("newest"),
        users.c.pinned,
        select(func.coalesce(func.max(type_coerce(audit.c.at, String)), ""))
        .scalar_subquery()
        .label("audited_at"),
    )
    .outerjoin(
        interactions,
        and_(
            interactions.c.user_id == users.c.user_id,
            interactions.c.position == users.c.interactions,
        ),
    )
    .where(users.c.user_id == bindparam("user"))
)


def read(connection: Connection, user_id: str) -> UserHead | None:
    """Return what is newest of a user; ``None`` if there is no such user."""
    row = connection.execute(_HEAD, {"user": user_id}).one_or_none()
    return None if row is None else UserHead(**row._mapping)
