"""Deletes a user, or some interactions with everything that rests on them, in one transaction."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from typing import Any
from uuid import uuid4

from sqlalchemy import Connection, Row, Table, delete, func, insert, select, update

from program.errors import DataError, UnknownInteractionError
from program.memory.interaction import Interaction
from program.store import interactions as stored_interactions
from program.store import tombstones, users
from program.store.records import AuditEntry
from program.store.schema import alignments, audit, interactions, personas, profiles
from program.store.schema import users as all_users
from program.task import Task, get_task
from program.text import counted

_CHUNK = 500
_CORRECTED = "corrected by the person"

Counts = dict[str, int]
"""How many rows were deleted, by what they were."""


def forget_user(connection: Connection, user_id: str) -> Counts:
    """Delete a user and note a hash. It can be repeated.

    Foreign keys delete the rows of every other table.
    """
    tombstones.bury_user(connection, user_id)
    tables = {
        "users": all_users,
        "interactions": interactions,
        "persona versions": personas,
        "alignments": alignments,
    }
    counts = {name: _count(connection, table, user_id) for name, table in tables.items()}
    connection.execute(delete(all_users).where(all_users.c.user_id == user_id))
    return counts


def forget_interactions(connection: Connection, user_id: str, interaction_ids: Collection[str]) -> Counts:
    """Delete interactions, everything that rests on them, and everything that may hold their texts.

    Persona versions of parts lose the learned lines that rest on a forgotten interaction, and their facts are
    counted again. A text that was written freely, also as the role of a version of parts, may rest on
    anything: such versions are deleted. So are the profile and the records of all alignments, which quote
    what the agent read. What remains gives a new persona version.

    Raises:
        UnknownUserError: The user is not stored.
        UnknownInteractionError: An interaction is neither stored nor forgotten.
    """
    user = users.get(connection, user_id, lock=True)
    wanted = list(dict.fromkeys(interaction_ids))
    positions = _positions(connection, user_id)
    buried = tombstones.digests_of(connection, [user_id])
    for interaction_id in wanted:
        if interaction_id not in positions and (
            tombstones.interaction_digest(user_id, interaction_id) not in buried
        ):
            raise UnknownInteractionError(
                f"user {user_id!r} has no interaction {interaction_id[:80]!r}; nothing was forgotten"
            )
    gone = {interaction_id for interaction_id in wanted if interaction_id in positions}
    tombstones.bury_interactions(connection, user_id, wanted)
    if not gone:
        return {"interactions": 0}
    _delete_interactions(connection, user_id, sorted(gone))
    settled = sum(position <= user.settled for name, position in positions.items() if name not in gone)
    _renumber(connection, user_id)
    connection.execute(delete(profiles).where(profiles.c.user_id == user_id))
    n_alignments = connection.execute(delete(alignments).where(alignments.c.user_id == user_id)).rowcount
    remaining = stored_interactions.latest(connection, user_id, None)
    _derive(connection, user, remaining, gone, get_task(user.task))
    count = len(remaining)
    stale = {} if settled < count else {"stale_since": None}
    users.change(connection, user_id, interactions=count, settled=min(settled, count), **stale)
    return {"interactions": len(gone), "alignments": n_alignments}


def _count(connection: Connection, table: Table, user_id: str) -> int:
    return int(
        connection.scalar(select(func.count()).select_from(table).where(table.c.user_id == user_id)) or 0
    )


def _positions(connection: Connection, user_id: str) -> dict[str, int]:
    query = select(interactions.c.id, interactions.c.position).where(interactions.c.user_id == user_id)
    return {row.id: row.position for row in connection.execute(query.order_by(interactions.c.position))}


def _delete_interactions(connection: Connection, user_id: str, ids: Sequence[str]) -> None:
    for start in range(0, len(ids), _CHUNK):
        chunk = ids[start : start + _CHUNK]
        connection.execute(
            delete(interactions).where(interactions.c.user_id == user_id, interactions.c.id.in_(chunk))
        )


def _renumber(connection: Connection, user_id: str) -> None:
    """Close the gaps in the order of arrival. In rising order no number is taken twice."""
    for new, (name, old) in enumerate(_positions(connection, user_id).items(), 1):
        if new != old:
            row = interactions.c.user_id == user_id, interactions.c.id == name
            connection.execute(update(interactions).where(*row).values(position=new))


def _derive(
    connection: Connection,
    user: Row[Any],
    remaining: Sequence[Interaction],
    gone: Collection[str],
    task: Task,
) -> None:
    """Take the forgotten interactions out of every persona version, and add one from what remains."""
    from program.corrections import keep_corrections
    from program.evidence import collect  # brings regex
    from program.persona import ROLE, RULES, Persona, first_persona

    evidence = collect(remaining, task)
    mine = personas.c.user_id == user.user_id
    kept: dict[int, Persona] = {}
    # What the person corrected stays corrected, also in a version that goes.
    corrected: Persona | None = None
    quoting: list[int] = []
    for row in connection.execute(select(personas.c.version, personas.c.parts).where(mine)):
        if row.parts is not None:
            with suppress(DataError):  # parts that cannot be read go like a text that was written freely
                persona = Persona.from_dict(row.parts)
                rest = persona.without_lines_on(gone)
                if row.version == user.head:
                    corrected = rest
                if (persona.role, persona.rules) == (ROLE, RULES):
                    kept[row.version] = rest
                    quoting += [row.version] * (rest != persona)
    connection.execute(delete(personas).where(mine, personas.c.version.not_in(list(kept))))
    connection.execute(update(personas).where(mine, personas.c.parent.not_in(list(kept))).values(parent=None))
    for version, persona in kept.items():
        values = {"text": persona.render(evidence), "parts": persona.as_dict(), "alignment_id": None}
        connection.execute(update(personas).where(mine, personas.c.version == version).values(values))
    # The reason for a correction may quote what was corrected.
    by_person = mine, personas.c.version.in_(quoting), personas.c.source == "correction"
    connection.execute(update(personas).where(*by_person).values(why=_CORRECTED))
    if not user.head:
        return
    parent = max((version for version in kept if version <= users.current(user)), default=None)
    persona = first_persona() if parent is None else kept[parent]
    derived = keep_corrections(persona, corrected)
    persona = derived if isinstance(derived, Persona) else persona
    new: dict[str, Any] = {
        "user_id": user.user_id,
        "version": user.head + 1,
        "text": persona.render(evidence),
        "parent": parent,
        "source": "forget",
        "why": f"{counted(len(gone), 'interaction')} forgotten",
        "created_at": users.now(),
        "alignment_id": None,
        "parts": persona.as_dict(),
    }
    connection.execute(insert(personas), new)
    pinned = user.pinned if user.pinned in kept else None
    users.change(connection, user.user_id, head=user.head + 1, pinned=pinned)


def log(
    connection: Connection, action: str, user_id: str, actor: str, details: Mapping[str, Any]
) -> AuditEntry:
    """Add an entry to the audit log: who did what to whom and when, and no content."""
    values = {
        "id": uuid4().hex,
        "at": users.now(),
        "action": action,
        "actor": actor,
        "subject": tombstones.user_digest(user_id),
        "details": dict(details),
    }
    connection.execute(insert(audit), values)
    return _entry(values)


def read_log(connection: Connection) -> list[AuditEntry]:
    """Return the audit log, oldest first."""
    query = select(audit).order_by(audit.c.at, audit.c.id)
    return [_entry(row._mapping) for row in connection.execute(query)]


def _entry(values: Mapping[Any, Any]) -> AuditEntry:
    names = ("at", "action", "actor", "subject", "details")
    return AuditEntry(**{name: values[name] for name in names})
