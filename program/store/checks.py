"""What may be stored: the rules for ids and texts, before any SQL is sent."""

from __future__ import annotations

from program.errors import StoreError
from program.memory.interaction import Interaction

MAX_ID_CHARS = 256


def text_problem(text: str) -> str | None:
    """Return why a text cannot be stored in every supported database, or ``None``."""
    if "\0" in text:
        return "holds a NUL character"
    try:
        text.encode()
    except UnicodeEncodeError:
        return "holds half of a surrogate pair, which is no character"
    return None


def id_problem(name: str) -> str | None:
    """Return why a text cannot be the id of a user or of an interaction, or ``None``."""
    if not 1 <= len(name) <= MAX_ID_CHARS:
        return f"must have 1 to {MAX_ID_CHARS} characters, has {len(name)}"
    if any(ord(char) < 32 or 127 <= ord(char) < 160 for char in name):
        return "holds a control character"
    return text_problem(name)


def interaction_problem(interaction: Interaction) -> tuple[str, str] | None:
    """Return the name of the first field that cannot be stored and why, or ``None``."""
    if problem := id_problem(interaction.id):
        return "id", problem
    if interaction.timestamp is not None and interaction.timestamp.tzinfo is None:
        return "timestamp", "has no timezone; give it one, as in `.replace(tzinfo=timezone.utc)`"
    texts = {"query": interaction.query, "response": interaction.response}
    for key, value in interaction.metadata.items():
        texts |= {"metadata (a key)": key, f"metadata.{key[:40]!r}": value}
    for field, text in texts.items():
        if problem := text_problem(text):
            return field, problem
    return None


def check_user_id(user_id: str) -> None:
    """Raise `StoreError` where ``user_id`` cannot be a user's id."""
    if problem := id_problem(user_id):
        raise StoreError(f"`user_id` {user_id[:40]!r} {problem}")


def check_interaction(user_id: str, interaction: Interaction) -> None:
    """Raise `StoreError` where ``interaction`` is another user's or cannot be stored."""
    if interaction.user_id != user_id:
        raise StoreError(
            f"interaction {interaction.id[:40]!r} has `user_id` {interaction.user_id[:40]!r} "
            f"and cannot go to user {user_id!r}"
        )
    if found := interaction_problem(interaction):
        field, problem = found
        raise StoreError(f"interaction {interaction.id[:40]!r}: `{field}` {problem}")
