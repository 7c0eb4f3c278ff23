"""Reads what the store knows of a traced user, if the store is at hand."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from program.errors import UnknownUserError
from program.home import home
from program.store import UserStore
from program.store.records import PersonaVersion
from program.why import explain


@contextmanager
def users_at_hand(location: str | None) -> Iterator[UserStore | None]:
    """Open the store; yield ``None`` if none is named and there is none in the data directory.

    Args:
        location: A file or an URL; ``None`` for ``users.db`` in the data directory, which is not made.

    Raises:
        StoreError: The store cannot be opened.
    """
    default = home() / "users.db"
    if location is None and not default.exists():
        yield None
        return
    with UserStore(location or default) as store:
        yield store


def versions_of(users: UserStore | None, user_id: str) -> list[PersonaVersion]:
    """Return a user's persona versions; empty without a store, or if it does not know the user.

    Traces that hold no texts name users by a pseudonym, whom no store knows.
    """
    try:
        return [] if users is None else users.persona_history(user_id)
    except UnknownUserError:
        return []


def current_persona(users: UserStore | None, user_id: str) -> dict[str, Any] | None:
    """Return a user's current persona with what it rests on (`Why.as_dict`), ``text`` and ``pinned``.

    ``None`` without a store, if it does not know the user, or without a persona.
    """
    try:
        persona = None if users is None else users.persona(user_id)
        if persona is None or users is None:
            return None
        why = explain(users, user_id, persona.version).as_dict()
        return {**why, "text": persona.text, "pinned": users.user(user_id).pinned == persona.version}
    except UnknownUserError:
        return None
