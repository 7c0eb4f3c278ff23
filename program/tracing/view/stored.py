"""Reads what the store knows of a traced user, if the store is at hand."""

from __future__ import annotations

from program.errors import UnknownUserError
from program.home import home
from program.store import UserStore
from program.store.records import PersonaVersion


def stored_versions(location: str | None, user_id: str) -> list[PersonaVersion]:
    """Return a user's persona versions; empty if there is no store, or it does not know the user.

    Args:
        location: A file or an URL; ``None`` for ``users.db`` in the data directory. No file is made.
        user_id: The user, or a pseudonym, whom no store knows.

    Raises:
        StoreError: The store cannot be opened.
    """
    default = home() / "users.db"
    if location is None and not default.exists():
        return []
    with UserStore(location or default) as store:
        try:
            return store.persona_history(user_id)
        except UnknownUserError:
            return []
