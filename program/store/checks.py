"""Validates ids and texts before any SQL is sent."""

from __future__ import annotations

from program.errors import StoreError
from program.memory.interaction import Interaction

MAX_ID_CHARS = 256


def text_problem(text: str) -> str | None:
    """Return why a supported database cannot store ``text``, or ``None``."""
    if "\0" in text:
        return "contains a NUL character"
    try:
        text.encode()
    except UnicodeEncodeError:
        return "contains half of a surrogate pair, which is not a character"
    return None


def id_problem(name: str) -> str | None:
    """Return why ``name`` is not a valid id of a user or interaction, or ``None``."""
    if not 1 <= len(name) <= MAX_ID_CHARS:
        return f"must have 1 to {MAX_ID_CHARS} characters, has {len(name)}"
    if any(ord(char) < 32 or 127 <= ord(char) < 160 for char in name):
        return "contains a control character"
    return text_problem(name)


def interaction_problem(interaction: Interaction) -> tuple[str, str] | None:
    """Return the first invalid field and its problem, or ``None``."""
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
    """Raise `StoreError` if ``user_id`` is not a valid id."""
    if problem := id_problem(user_id):
        raise StoreError(f"`user_id` {user_id[:40]!r} {problem}")


def check_interaction(user_id: str, interaction: Interaction) -> None:
    """Raise `StoreError` if ``interaction`` belongs to another user or cannot be stored."""
    if interaction.user_id != user_id:
        raise StoreError(
            f"interaction {interaction.id[:40]!r} has `user_id` {interaction.user_id[:40]!r} "
            f"and cannot be stored for user {user_id!r}"
        )
    if field_problem := interaction_problem(interaction):
        field, problem = field_problem
        raise StoreError(f"interaction {interaction.id[:40]!r}: `{field}` {problem}")
