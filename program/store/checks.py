"""Validates ids and texts before any SQL is sent."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Sequence
from datetime import datetime

from program.errors import ConfigError, StoreError
from program.memory.interaction import Interaction
from program.text_safety import find_problem, find_unseen

MAX_ID_CHARS = 256
MAX_COHORT_CHARS = 512

_BYTE_ORDER_MARK = "\ufeff"
_CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f]")


class DamagedValueError(ValueError):
    """A stored value cannot be read; the message says which kind: "a stored time"."""


def id_problem(name: object) -> str:
    """Return why ``name`` is not a valid new id of a user or interaction; empty if it is."""
    if isinstance(name, str) and _is_plain(name):
        return ""
    problem = stored_id_problem(name)
    position = None if problem or not isinstance(name, str) else find_unseen(name)
    if position is None or not isinstance(name, str):
        return problem
    character = name[position]
    what = unicodedata.name(character, "no name").lower()
    return (
        f"contains U+{ord(character):04X} ({what}), which nobody can see, at character {position}; remove it"
    )


def stored_id_problem(name: object) -> str:
    """Return why no store holds the id ``name``; empty if one may.

    Earlier versions took all unseen characters but these.
    """
    if not isinstance(name, str):
        return f"must be text, not {type(name).__name__}"
    if _is_plain(name):
        return ""
    if not 1 <= len(name) <= MAX_ID_CHARS:
        return f"must have 1 to {MAX_ID_CHARS} characters, has {len(name)}"
    if _CONTROLS.search(name):
        return "contains a control character"
    if _BYTE_ORDER_MARK in name:
        return "contains a byte-order mark, which nobody can see or type; remove it"
    return find_problem(name)


def interaction_problem(interaction: Interaction, *, stored: bool = False) -> tuple[str, str] | None:
    """Return the first invalid field and its problem, or ``None``.

    Args:
        interaction: What to check.
        stored: Whether the store has an interaction with this id already.
    """
    if problem := (stored_id_problem if stored else id_problem)(interaction.id):
        return "id", problem
    time: object = interaction.timestamp
    if time is not None and not isinstance(time, datetime):
        return "timestamp", f"must be a datetime, not {type(time).__name__}"
    if time is not None and time.tzinfo is None:
        return "timestamp", "has no timezone; give it one, as in `.replace(tzinfo=timezone.utc)`"
    if problem := _text_problem(interaction.query):
        return "query", problem
    if problem := _text_problem(interaction.response):
        return "response", problem
    for key, value in interaction.metadata.items():
        if problem := _text_problem(key):
            return "metadata (a key)", problem
        if problem := _text_problem(value):
            return f"metadata.{str(key)[:40]!r}", problem
    return None


def _text_problem(text: object) -> str:
    return find_problem(text) if isinstance(text, str) else f"must be text, not {type(text).__name__}"


def _is_plain(name: str) -> bool:
    """Return whether a name is one of those, nearly all, that no other check can refuse."""
    return 1 <= len(name) <= MAX_ID_CHARS and name.isascii() and name.isprintable()


def check_user_id(user_id: str, *, stored: bool = False) -> None:
    """Raise `StoreError` if ``user_id`` is not a valid id; ``stored`` if a store may hold it already."""
    if problem := (stored_id_problem if stored else id_problem)(user_id):
        raise StoreError(f"`user_id` {str(user_id)[:40]!r} {problem}")


def check_interaction(user_id: str, interaction: Interaction, *, stored: bool = False) -> None:
    """Raise `StoreError` if ``interaction`` belongs to another user or cannot be stored."""
    if interaction.user_id != user_id:
        raise StoreError(
            f"interaction {str(interaction.id)[:40]!r} has `user_id` {str(interaction.user_id)[:40]!r} "
            f"and cannot be stored for user {user_id!r}"
        )
    if field_problem := interaction_problem(interaction, stored=stored):
        field, problem = field_problem
        raise StoreError(f"interaction {str(interaction.id)[:40]!r}: `{field}` {problem}")


def check_cohort(cohort: str) -> None:
    """Raise `ConfigError` if ``cohort`` is not the name of a cohort."""
    if not isinstance(cohort, str) or not 1 <= len(cohort) <= MAX_COHORT_CHARS:
        problem = f"must be text of 1 to {MAX_COHORT_CHARS} characters"
    else:
        problem = find_problem(cohort)
    if problem:
        raise ConfigError(f"`cohort` {str(cohort)[:40]!r} {problem}")


def check_trials(trials: Sequence[tuple[float, float]], cohort: str) -> None:
    """Raise `ConfigError` if a trial is not two numbers of 0 or more, or there are some without a cohort."""
    for position, pair in enumerate(trials):
        if len(pair) != 2 or not all(_is_count(number) for number in pair):
            raise ConfigError(f"`trials[{position}]` must be two numbers of 0 or more, got {pair!r}")
    if trials:
        check_cohort(cohort)


def _is_count(number: object) -> bool:
    return isinstance(number, int | float) and math.isfinite(number) and number >= 0
