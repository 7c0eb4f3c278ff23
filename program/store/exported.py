"""What the store holds about a user, as JSON data: an export, which `import_users` reads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from datetime import datetime
from typing import TYPE_CHECKING, Any

from program.memory.interaction import Interaction
from program.memory.semantic import render
from program.store.records import PersonaVersion
from program.store.tombstones import user_digest

if TYPE_CHECKING:
    from program.store.user_store import UserStore

SCHEMA = "personaagent.export/1"
"""The layout of an export. New fields may come in; a changed one gets a new number."""


def interaction_data(item: Interaction) -> dict[str, Any]:
    """Return an interaction without its user.

    Example:
        >>> interaction_data(Interaction(id="1", user_id="ana", query="Which tea?", response="Mint."))
        {'id': '1', 'query': 'Which tea?', 'response': 'Mint.', 'timestamp': None, 'metadata': {}}
    """
    return {name: value for name, value in vars(item).items() if name != "user_id"}


def version_data(row: PersonaVersion) -> dict[str, Any]:
    """Return a persona version without its user."""
    # Without `asdict`, which cannot copy every mapping.
    return {name: value for name, value in vars(row).items() if name != "user_id"}


def stored_data(store: UserStore, user_id: str) -> dict[str, Any]:
    """Return everything that the store holds about a user.

    Raises:
        UnknownUserError: ``user_id`` is not in the store.
    """
    user, profile = store.user(user_id), store.profile(user_id)
    subject = user_digest(user_id)
    return {
        "user": asdict(user),
        "interactions": [interaction_data(item) for item in store.interactions(user_id)],
        "profile": None if profile is None else {"text": render(profile), "parts": asdict(profile)},
        "personas": [version_data(row) for row in store.persona_history(user_id)],
        "alignments": [
            {**asdict(row), "steps": store.steps(user_id, row.id)} for row in store.alignments(user_id)
        ],
        "costs": [cost.as_dict() for cost in store.costs(user_id)],
        "audit": [asdict(entry) for entry in store.audit() if entry.subject == subject],
    }


def plain(value: Any) -> Any:
    """Return a value as JSON data: times become ISO 8601 text.

    Example:
        >>> plain({"at": datetime(2026, 11, 26), "ids": ("1", "2")})
        {'at': '2026-11-26T00:00:00', 'ids': ['1', '2']}
    """
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, Mapping):
        return {str(name): plain(item) for name, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list | tuple) else value
