"""What the routes and the MCP server share."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from program.serve.contracts import Actions
from program.serve.failures import ApiError
from program.serve.jobs import Jobs
from program.serve.keys import Keys
from program.serve.recall import Recall
from program.store import UserStore
from program.store.erasers import Receipt
from program.store.records import PersonaVersion
from program.why import explain

ACTOR = "server"
"""Who the audit log says it was."""


@dataclass(frozen=True, kw_only=True)
class Room:
    """What the routes share.

    Attributes:
        store: The users' store.
        home: The data directory.
        recall: What is known of the users.
        jobs: The alignments in progress.
        keys: The keys.
        actions: What the front door handed in.
        max_tokens: Default length of a context.
    """

    store: UserStore
    home: Path
    recall: Recall
    jobs: Jobs
    keys: Keys
    actions: Actions
    max_tokens: int


def forget_user(room: Room, user_id: str) -> dict[str, Any]:
    """Delete all that is kept of a user, and the user's keys; return the receipt. It can be repeated.

    Raises:
        UnknownUserError: Nothing is known of the user anywhere.
        ApiError: 409 while users are being aligned.
    """
    _refuse_while_aligning(room)
    receipt = room.store.forget(user_id, home=room.home, actor=ACTOR)
    room.recall.drop(user_id)
    room.jobs.drop_user(user_id)
    return _told(receipt)


def forget_interaction(room: Room, user_id: str, interaction_id: str) -> dict[str, Any]:
    """Delete an interaction and all that rests on it; return the receipt. It can be repeated.

    Raises:
        UnknownUserError: ``user_id`` is not in the store.
        UnknownInteractionError: The user has no such interaction.
        ApiError: 409 while users are being aligned.
    """
    _refuse_while_aligning(room)
    receipt = room.store.forget_interactions(user_id, [interaction_id], home=room.home, actor=ACTOR)
    room.recall.drop(user_id)
    return _told(receipt)


def _refuse_while_aligning(room: Room) -> None:
    if room.jobs.running:
        raise ApiError(
            409, "alignment_running", "users are being aligned now; try again", headers={"Retry-After": "10"}
        )


def _told(receipt: Receipt) -> dict[str, Any]:
    return {"forgotten": True, **vars(receipt), "at": receipt.at.isoformat()}


def explain_persona(store: UserStore, user_id: str, version: int | None = None) -> dict[str, Any]:
    """Return what each line of a persona rests on, as `/persona/why` gives it.

    Raises:
        UnknownUserError: ``user_id`` is not in the store.
        UnknownVersionError: There is no such version.
        ApiError: 404 if the user has no persona.
    """
    persona_of(store, user_id, version)
    return explain(store, user_id, version).as_dict()


def persona_of(store: UserStore, user_id: str, version: int | None = None) -> PersonaVersion:
    """Return a persona version, by default the current one.

    Raises:
        UnknownUserError: ``user_id`` is not in the store.
        UnknownVersionError: There is no such version.
        ApiError: 404 if the user has no persona.
    """
    persona = store.persona(user_id, version)
    if persona is None:
        raise ApiError(404, "no_persona", "the user has no persona yet: align the user first")
    return persona
