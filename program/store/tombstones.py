"""The `pa_forgotten` table: hashes of forgotten users and interactions, so that no import brings them back.

A hash says nothing to a reader who does not have the id already. Whoever guesses an id can check the guess;
the table holds nothing else about a user.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence, Set

from sqlalchemy import Connection, delete, select
from sqlalchemy.dialects import postgresql, sqlite

from program.errors import ForgottenUserError
from program.store.schema import forgotten

_CHUNK = 500


def user_digest(user_id: str) -> str:
    """Return the hash that stands for a user after the user is forgotten: 64 hexadecimal digits.

    Example:
        >>> len(user_digest("ana")), user_digest("ana") == user_digest("Ana")
        (64, False)
    """
    return _digest("user", user_id)


def interaction_digest(user_id: str, interaction_id: str) -> str:
    """Return the hash of one interaction of one user."""
    return _digest("interaction", user_id, interaction_id)


def _digest(*parts: str) -> str:
    # Neither a kind nor an id holds a NUL, so different parts never give the same text.
    return hashlib.sha256("\0".join(parts).encode("utf-8", "backslashreplace")).hexdigest()


def bury_user(connection: Connection, user_id: str) -> None:
    """Note that a user is forgotten. It may be noted already."""
    _bury(connection, [user_digest(user_id)], user_digest(user_id))


def bury_interactions(connection: Connection, user_id: str, interaction_ids: Iterable[str]) -> None:
    """Note that interactions of a user are forgotten. Some may be noted already."""
    digests = [interaction_digest(user_id, interaction_id) for interaction_id in interaction_ids]
    _bury(connection, digests, user_digest(user_id))


def _bury(connection: Connection, digests: list[str], owner: str) -> None:
    from program.store.users import now

    insert_new = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
    at = now()
    rows = [{"digest": digest, "owner": owner, "forgotten_at": at} for digest in digests]
    if rows:
        connection.execute(insert_new(forgotten).on_conflict_do_nothing(), rows)


def is_forgotten(connection: Connection, user_id: str) -> bool:
    """Return whether a user is forgotten."""
    query = select(forgotten.c.digest).where(forgotten.c.digest == user_digest(user_id))
    return connection.scalar(query) is not None


def refuse_forgotten(user_ids: Sequence[str], buried: Set[str]) -> None:
    """Raise `ForgottenUserError` if one of the users is in ``buried`` (see `digests_of`)."""
    for user_id in user_ids if buried else ():
        if user_digest(user_id) in buried:
            raise ForgottenUserError(
                f"user {user_id!r} was forgotten and does not come back by itself; if the user wants to, "
                "`personaagent users readmit USER` allows it"
            )


def digests_of(connection: Connection, user_ids: Sequence[str]) -> set[str]:
    """Return the hashes of what is forgotten of these users: of interactions, and of the users themselves."""
    found: set[str] = set()
    for start in range(0, len(user_ids), _CHUNK):
        owners = [user_digest(user_id) for user_id in user_ids[start : start + _CHUNK]]
        found.update(connection.scalars(select(forgotten.c.digest).where(forgotten.c.owner.in_(owners))))
    return found


def readmit(connection: Connection, user_id: str) -> bool:
    """Let a forgotten user come back; forgotten interactions stay so. Return whether there was one."""
    return (
        connection.execute(delete(forgotten).where(forgotten.c.digest == user_digest(user_id))).rowcount > 0
    )
